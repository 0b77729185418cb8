"""``mtlbench run | quickstart``: training."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from mtlbench.cli.leaderboard import print_boards, warn
from mtlbench.cli.options import Device, Jobs, Out
from mtlbench.cli.sweep import (
    Checkpoint,
    Limit,
    Log,
    Retry,
    Threads,
    Workers,
    begin,
    check_names,
    end,
    execute_all,
)
from mtlbench.cli.terminal import say
from mtlbench.errors import UsageError
from mtlbench.processes import LIMIT, rank_and_size
from mtlbench.registry import SHARPNESS, baseline


def run(
    task: Annotated[str, typer.Argument(help="NAME or NAME:option=value,...")],
    method: Annotated[list[str], typer.Option(help="One or more: ls fairgrad:alpha=2 ...")],
    out: Out,
    sharpness: Annotated[
        list[str] | None, typer.Option(help="One or more: none samo:rho=0.05 ...")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="One or more; 0 by default.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="The task's first by default.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the real data set.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the protocol's.")] = None,
    arch: Annotated[str | None, typer.Option(help="Instead of the protocol's.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="State dict that the trunk begins with.")
    ] = None,
    keep_model: Annotated[
        bool, typer.Option("--keep-model", help="Keep the selected epoch's weights, for show.")
    ] = False,
    lr: Annotated[float | None, typer.Option(help="Instead of the protocol's.")] = None,
    gradient_scale: Annotated[
        str | None, typer.Option(help="Instead of the protocol's: paper, or sum.")
    ] = None,
    clip_norm: Annotated[
        float | None, typer.Option(help="Bound of the shared gradient; instead of the protocol's.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32; tf32 on NVIDIA's GPUs; bf16: the network under autocast.")
    ] = "fp32",
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Images with their channels innermost.")
    ] = False,
    compile_: Annotated[bool, typer.Option("--compile", help="Compile trunk and heads.")] = False,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Parts that a batch goes through the network in.")
    ] = 1,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same bits every time; slower on a GPU.")
    ] = False,
    rows: Annotated[
        str, typer.Option(help="auto, whole, streamed, sharded: how a large Jacobian is held.")
    ] = "auto",
    device: Device = None,
    jobs: Jobs = None,
    threads: Threads = 1,
    workers: Workers = None,
    retry: Retry = None,
    log: Log = None,
    checkpoint: Checkpoint = 60.0,
    equal_time: Annotated[
        str | None,
        typer.Option(help="A wrapper or method: also the baseline for as long as it takes."),
    ] = None,
    limit: Limit = LIMIT,
) -> None:
    """Train every method with every wrapper and seed, but for the runs that are done.

    Started by torchrun (--nproc_per_node N -m mtlbench run ...), N processes train each run.
    """
    wanted = sharpness or [SHARPNESS.default]
    ready = begin if rank_and_size()[1] == 1 else check_names
    ready([task], method, wanted)
    from mtlbench.boards.build import build
    from mtlbench.boards.folder import read_folder
    from mtlbench.engine.numerics import Numerics
    from mtlbench.runs.execute import Load
    from mtlbench.runs.spec import RunSpec
    from mtlbench.runs.sweep import grid
    from mtlbench.runs.together import Together, keep_up, meet

    ranks, device = meet(device, limit)
    if ranks.size > 1 and equal_time is not None:
        raise UsageError("--equal-time needs times of a run on one process: leave it out")
    how: Any = {"jobs": jobs, "threads": threads, "retry": retry, "checkpoint": checkpoint}
    how |= {"logs": log or (), "workers": workers}
    numerics = Numerics.of(
        precision=precision,
        channels_last=channels_last,
        compile=compile_,
        accumulate=accumulate,
        deterministic=deterministic,
    )
    common = (protocol, data, epochs, arch, device, weights, keep_model, lr)
    steps: Any = {"rows": rows, "gradient_scale": gradient_scale, "clip_norm": clip_norm}
    base = RunSpec(task, "", None, 0, *common, numerics=numerics, ranks=ranks.size, **steps)
    runs = grid(base, method, wanted, seed or [0])
    if ranks.rank:
        keep_up(runs, out, Load(threads, 1, workers), ranks)
        return
    how["together"] = Together(ranks) if ranks.size > 1 else None
    failed = execute_all(runs, out, **how)
    records, faults = read_folder(out)
    if equal_time is not None:
        from mtlbench.boards.equal_time import equal_time_epochs

        longer = equal_time_epochs(build(records)[runs[0].identity.task], equal_time)
        base = replace(base, epochs=longer)
        failed += execute_all(
            grid(base, [baseline()], [SHARPNESS.default], seed or [0]), out, **how
        )
        records, faults = read_folder(out)
    warn(faults)
    print_boards(build(records))
    end(failed)


def quickstart(
    out: Out = Path("quickstart"),
    device: Device = None,
    jobs: Jobs = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the quickstart's.")] = None,
) -> None:
    """Train a small leaderboard from embedded data in under three minutes."""
    import yaml

    content = yaml.safe_load(files("mtlbench.cli").joinpath("quickstart.yaml").read_text())
    begin(content["tasks"], content["methods"], content["sharpness"])
    from mtlbench.boards import tables
    from mtlbench.boards.build import build
    from mtlbench.boards.folder import read_folder
    from mtlbench.boards.plot import plot
    from mtlbench.runs.plan import SweepSpec
    from mtlbench.runs.sweep import checked

    changes = {"epochs": epochs, "device": device}
    runs = checked(SweepSpec.parse(content | changes, "quickstart.yaml").requests())
    records = out / "records"
    failed = execute_all(runs, records, jobs=jobs)
    read, faults = read_folder(records)
    warn(faults)
    built = build(read)
    written = tables.write(built, out)
    for board in built.values():
        written.append(out / f"{board.task}.svg")
        plot(board, written[-1])
    print_boards(built)
    for path in written:
        say(f"wrote {path}")
    end(failed)
