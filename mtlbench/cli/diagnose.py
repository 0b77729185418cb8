"""``mtlbench diagnose``: why a run ended where it did."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from mtlbench.cli.terminal import console, say
from mtlbench.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from mtlbench.diagnose.report import Settings

_MOST_SPECTRA = 12
"""Runs whose spectra are told apart in one picture."""


def diagnose(
    runs: Annotated[
        list[Path], typer.Argument(help="Records of runs with --keep-model, or folders of them.")
    ],
    data: Annotated[Path | None, typer.Option(help="Folder of the real data set.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; 'diagnose' beside the first record.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test: whose first batches.")] = "train",
    batches: Annotated[
        int | None, typer.Option(min=1, help="How many; 4, or all of fewer, by default.")
    ] = None,
    mode: Annotated[
        Literal["eval", "train"],
        typer.Option(help="Of the network: as it is judged, or batch statistics and dropout."),
    ] = "eval",
    layers: Annotated[
        str | None, typer.Option(help="Of the trunk, parameter names: 'shared.0.*+shared.4.*'.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Eigenvalues.")] = 5,
    tolerance: Annotated[
        float, typer.Option(min=1e-9, help="Of their residuals, relative to the largest.")
    ] = 1e-3,
    restarts: Annotated[int, typer.Option(min=1, help="Of Lanczos, at most.")] = 20,
    samples: Annotated[
        int, typer.Option(min=2, help="Random vectors: of the trace, of the average rise.")
    ] = 10,
    rho: Annotated[float, typer.Option(min=1e-9, help="Radius of sharpness.")] = 0.05,
    landscape: Annotated[int, typer.Option(min=0, max=2, help="Dimensions; 0: none.")] = 1,
    points: Annotated[int, typer.Option(min=3, help="Of a landscape's side, of a line.")] = 21,
    against: Annotated[
        Path | None, typer.Option(help="Record of another run: losses on the line to it.")
    ] = None,
    of: Annotated[
        Literal["each", "mean"],
        typer.Option(help="Whose curvature: each task's and the mean loss's, or the mean's alone."),
    ] = "each",
    seed: Annotated[int, typer.Option(min=0, help="Of all that is random.")] = 0,
    study: Annotated[
        Path | None,
        typer.Option(
            help="Folder: all of it in tables and text; LEADERBOARDS/diagnose for the page."
        ),
    ] = None,
) -> None:
    """Conflict of the task gradients, sharpness and landscapes of trained networks."""
    import pandas as pd

    from mtlbench.diagnose import pictures
    from mtlbench.diagnose.report import Settings, is_done, read_numbers
    from mtlbench.drawing import write_svg
    from mtlbench.files import check_writable

    settings = Settings(
        split=split,
        batches=batches,
        mode=mode,
        layers=layers,
        top=top,
        tolerance=tolerance,
        restarts=restarts,
        samples=samples,
        rho=rho,
        seed=seed,
        of=of,
    )
    records = list(_records(runs))
    folder = out or records[0].parent / "diagnose"
    check_writable(folder)
    frames: dict[str, pd.DataFrame] = {}
    for record in records:
        path = folder / f"{record.stem}.csv"
        if len(records) > 1 and is_done(path, settings):
            say(f"{record.stem} was done before")
        else:
            _diagnose(record, data, folder, settings, landscape, points, against)
        frames[record.stem] = read_numbers(path)
    if 1 < len(frames) <= _MOST_SPECTRA:
        write_svg(pictures.spectra(frames), folder / "spectra.svg", "spectra of the Hessians")
        say(f"wrote {folder / 'spectra.svg'}")
    if study is not None:
        _write_study(pd.concat(frames.values(), ignore_index=True), study)


def _records(places: Sequence[Path]) -> Iterator[Path]:
    """The records that are named, and those in folders whose runs kept a model.

    Raises:
        UsageError: a folder has none.
    """
    from mtlbench.runs.store import Store

    for place in places:
        if not place.is_dir():
            yield place
            continue
        store = Store(place)
        known, _ = store.found()
        found = [path for path, r in known.items() if store.model_path(r.identity).is_file()]
        if not found:
            raise UsageError(f"{place} has no record of a run with --keep-model")
        if len(found) < len(known):
            say(f"{len(known) - len(found)} of {len(known)} records have no model: left out")
        yield from found


def _diagnose(
    record: Path,
    data: Path | None,
    folder: Path,
    settings: Settings,
    dimensions: int,
    points: int,
    against: Path | None,
) -> None:
    """One run: its tables and pictures."""
    from mtlbench.diagnose import pictures, report
    from mtlbench.diagnose.conflict import only, suggestion
    from mtlbench.diagnose.landscape import around, between
    from mtlbench.diagnose.opened import kept
    from mtlbench.drawing import write_svg
    from mtlbench.files import write_csv

    run = kept(record, data)
    end = None if against is None else report.other_end(run, against, data)
    surface = settings.surface(run)
    say(f"{run.task.info.title}: {run.name}")
    if run.data_differ:
        say(f"trained on {run.record.identity.data_source}, looked at on {run.task.data_source}")
    say(f"{surface.size} parameters, {surface.n_batches} batches of {settings.split}")
    say(surface.said)
    gradients = report.gradients_of(run)
    if gradients is not None and settings.layers is not None:
        gradients = only(gradients, [surface.flat.layer_names[i] for i in surface.chosen])
    frame = report.numbers(run, surface, settings, gradients)
    drawn = {"spectrum": pictures.spectra({run.name: frame})}
    if gradients is not None:
        drawn["cosines"] = pictures.cosines(gradients)
        drawn["training"] = pictures.over_time(gradients)
        drawn["layers"] = pictures.by_layer(gradients)
    if dimensions:
        found = around(surface, points=points, dimensions=dimensions, seed=settings.seed)
        write_csv(found, folder / f"{record.stem}-landscape.csv")
        label = "random filter-normalised directions, in sizes of the network's filters"
        plot = pictures.along if dimensions == 1 else pictures.plane
        drawn["landscape"] = plot(found, label)
    if end is not None:
        found = between(surface, run.model, end.model, points)
        write_csv(found, folder / f"{record.stem}-line.csv")
        label = f"from {record.stem} to {end.path.stem}"
        drawn["line"] = pictures.along(found, label, ("this run", "the other one"))
    for kind, figure in drawn.items():
        write_svg(figure, folder / f"{record.stem}-{kind}.svg", f"{run.name}: {kind}")
    write_csv(frame, folder / f"{record.stem}.csv")
    _print(frame)
    if gradients is None:
        say("no gradients were logged: run again with --log gradients:every=10")
    else:
        say(suggestion(gradients).why)
    say(f"wrote {folder / record.stem}*")


def _print(frame: pd.DataFrame) -> None:
    """The numbers of one run, with what is not sure of them."""
    losses = frame.loc[frame["quantity"] == "loss", "of"]
    quantities = [
        q for q in dict.fromkeys(frame["quantity"]) if not q.startswith(("late ", "score"))
    ]
    table = Table("of", *map(escape, quantities), title="value (residual or standard error)")
    doubts = []
    for of in losses:
        mine = frame[frame["of"] == of].set_index("quantity")
        table.add_row(of, *(_cell(mine.loc[q]) if q in mine.index else "" for q in quantities))
        doubts += [
            f"{of}: {q} = {row['value']:.4g} {row['note']}, residual {row['error']:.2g}"
            for q, row in mine.iterrows()
            if row["note"] and not math.isnan(row["error"])
        ]
    console.print(table)
    for doubt in doubts:
        say(doubt)


def _cell(row: Any) -> str:
    error = "" if math.isnan(row["error"]) else f" ({row['error']:.1g})"
    return f"{row['value']:.4g}{error}" + (" ?" if row["note"] else "")


def _write_study(numbers: pd.DataFrame, folder: Path) -> None:
    """Tables and text of a study, which the page has, too, if it is the ``diagnose`` beside it."""
    from mtlbench.boards.mechanism import RUNS, runs_of
    from mtlbench.boards.outputs import write_study
    from mtlbench.files import check_writable, write_csv

    check_writable(folder)
    write_csv(runs_of(numbers), folder / RUNS)
    for path in [folder / RUNS, *write_study(folder)]:
        say(f"wrote {path}")
