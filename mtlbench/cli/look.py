"""``mtlbench show | toy``: pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mtlbench.cli.options import Out
from mtlbench.cli.terminal import console, say
from mtlbench.errors import UsageError


def show(
    task: Annotated[str, typer.Argument(help="NAME or NAME:option=value,...")],
    data: Annotated[Path | None, typer.Option(help="Folder of the real data set.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Record of a run with --keep-model: its predictions.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    n: Annotated[int, typer.Option(min=1, help="Samples.")] = 4,
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("show.png"),
) -> None:
    """Draw inputs and targets, and with a run its predictions and their errors."""
    from mtlbench.data import check_split
    from mtlbench.diagnose import show as pictures
    from mtlbench.files import check_writable

    check_split(split)
    if out.suffix.lower() != ".png":
        raise UsageError(f"the picture's file must end in .png, not be {out}")
    check_writable(out.parent)
    benchmark, model, title = pictures.opened(task, data, run)
    pictures.draw(pictures.rows(benchmark, model, split, n), f"{title}, {split}", out)
    say(f"wrote {out}")


def toy(out: Out = Path("toy")) -> None:
    """Draw where methods and wrappers lead on two quadratic losses in the plane."""
    from mtlbench.diagnose import toy as two_losses
    from mtlbench.drawing import write_png, write_svg
    from mtlbench.files import check_writable, write_csv

    check_writable(out)
    plan = two_losses.Plan.read()
    ways = two_losses.trajectories(plan)
    write_csv(ways, out / "toy.csv")
    figure = two_losses.plot(ways, plan)
    write_png(figure, out / "toy.png")
    write_svg(figure, out / "toy.svg", "ways of methods and wrappers on two losses")
    ends = two_losses.summary(ways)
    table = Table(*ends.columns, title="means over the last 50 steps")
    for row in ends.itertuples(index=False):
        table.add_row(*(value if isinstance(value, str) else f"{value:.4f}" for value in row))
    console.print(table)
    for name in ("toy.csv", "toy.png", "toy.svg"):
        say(f"wrote {out / name}")
