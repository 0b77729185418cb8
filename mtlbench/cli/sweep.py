"""``mtlbench sweep``: a specification's runs, here, on local workers or on a Ray cluster."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from mtlbench.cli.live import View
from mtlbench.cli.options import Device, Jobs, Out
from mtlbench.cli.pace import duration
from mtlbench.cli.terminal import console, say
from mtlbench.errors import UsageError
from mtlbench.processes import LIMIT
from mtlbench.registry import METHODS, SHARPNESS, TASKS, Spec
from mtlbench.runs.workers import start_server

if TYPE_CHECKING:  # torch is imported while the server of the runs imports it, too
    from mtlbench.runs.backends import Backend
    from mtlbench.runs.plan import SweepSpec
    from mtlbench.runs.record import RunRecord
    from mtlbench.runs.spec import Run, RunSpec
    from mtlbench.runs.store import Store
    from mtlbench.runs.together import Together

_PLACE = {True: "GPU", False: "core"}
Engine = Literal["here", "local", "ray"]
Threads = Annotated[int, typer.Option(min=1, help="Torch threads of each run.")]
Retry = Annotated[
    str | None, typer.Option(help="'failed': try runs again that failed or diverged.")
]
Log = Annotated[
    list[str] | None,
    typer.Option(help="tensorboard: learning curves; gradients:every=N: how tasks conflict."),
]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that fetch each run's batches ahead; as many as pay."),
]
Limit = Annotated[
    float, typer.Option(min=1, help="Seconds that the processes of a run wait for each other.")
]
Checkpoint = Annotated[
    float, typer.Option(min=0, help="Least seconds between two checkpoints of a run.")
]


def sweep(
    spec: Annotated[Path, typer.Argument(help="YAML file: tasks, methods, sharpness, seeds, ...")],
    out: Out,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the real data set, instead of the file's.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="State dict that trunks begin with, instead of the file's.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the file's.")] = None,
    ranks: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that train each run together; instead of the file's."),
    ] = None,
    device: Device = None,
    jobs: Jobs = None,
    engine: Annotated[
        Engine, typer.Option(help="Where: this process, local workers, a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster, host:port; one of this machine if none.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be run, and how long it may take.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Say what is done, stale, failed, missing or claimed.")
    ] = False,
    retry: Retry = None,
    shard: Annotated[str | None, typer.Option(help="Part i of n: 1/4.")] = None,
    threads: Threads = 1,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="Share of a GPU of each run: 0.5 puts two on one.")
    ] = None,
    checkpoint: Checkpoint = 60.0,
    log: Log = None,
    workers: Workers = None,
    limit: Limit = LIMIT,
) -> None:
    """Run all of a specification that is not done; resumes what was interrupted."""
    from mtlbench.runs.plan import SweepSpec
    from mtlbench.runs.plan import shard as part
    from mtlbench.runs.store import Store
    from mtlbench.runs.sweep import checked
    from mtlbench.runs.tune import trials

    given = {"data": data, "weights": weights, "epochs": epochs, "device": device, "ranks": ranks}
    read = SweepSpec.read(spec).model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )
    store, look = Store(out), status or dry_run
    begin_all(read.requests(), look=look)
    tried = checked(trials(read))
    execute = partial(
        execute_all,
        jobs=jobs,
        threads=threads,
        engine=engine,
        address=address,
        retry=retry,
        gpus=gpus,
        checkpoint=checkpoint,
        logs=log or (),
        workers=workers,
        limit=limit,
    )
    if not look:
        execute_trials(tried, store, execute)
    requests = to_report(read, store)
    runs = checked(requests if shard is None else part(requests, shard))
    if look:
        for title, some, place in (("trials", tried, store.trials), ("runs", runs, store)):
            if some and status:
                _print_status(title, some, place)
            elif some:
                _print_plan(title, some, place, jobs)
        return
    end(execute(runs, out))


def execute_trials(
    tried: Sequence[Run], store: Store, execute: Callable[[Sequence[Run], Path], object]
) -> None:
    """Run what is tried before anything is reported, if anything is."""
    if tried:
        say("trials, on seeds that are not reported:")
        execute(tried, store.trials.folder)


def to_report(spec: SweepSpec, store: Store) -> list[RunSpec]:
    """Requests of what is reported, and what was chosen for it, where that is tuned."""
    from mtlbench.runs.tune import reported, tuned

    if spec.tune is None:
        return spec.requests()
    cells = tuned(spec, store.trials)
    table = Table("task", "method", "sharpness", "chosen", "lr", "score", title="tuned")
    for cell in cells:
        lr = "the protocol's" if cell.choice.lr is None else f"{cell.choice.lr:g}"
        words = f"{cell.choice.method} x {cell.choice.sharpness}"
        score = "no choice has all its trials" if math.isinf(cell.score) else f"{cell.score:.4g}"
        table.add_row(*map(escape, (cell.task, cell.method, cell.wrapper, words, lr, score)))
    console.print(table)
    if len(spec.tune.seeds) == 1:
        say("Chosen by one seed each: between choices whose scores are near, another may differ.")
    return reported(spec, cells)


def begin_all(requests: Sequence[RunSpec], *, look: bool) -> None:
    """:func:`begin` for requests; where one only looks at them, no process is started."""
    ready = check_names if look else begin
    ready(
        [r.task for r in requests],
        [r.method for r in requests],
        [r.sharpness for r in requests if r.sharpness],
    )


def begin(tasks: Sequence[str], methods: Sequence[str], wrappers: Sequence[str]) -> None:
    """Refuse unknown names before anything takes time, and let the processes of the coming runs
    import what they need, while this one does."""
    start_server(check_names(tasks, methods, wrappers))


def check_names(tasks: Sequence[str], methods: Sequence[str], wrappers: Sequence[str]) -> list[str]:
    """Refuse unknown names.

    Returns:
        The modules that define what the names are of.
    """
    kinds = ((TASKS, tasks), (METHODS, methods), (SHARPNESS, wrappers))
    names = dict.fromkeys((r, Spec.parse(text).name) for r, texts in kinds for text in texts)
    for registry, name in names:
        registry.check_name(name)
    return list(filter(None, (registry.module(name) for registry, name in names)))


def execute_all(
    runs: Sequence[Run],
    folder: Path,
    *,
    jobs: int | None = None,
    threads: int = 1,
    engine: Engine = "local",
    address: str | None = None,
    retry: str | None = None,
    gpus: float | None = None,
    checkpoint: float = 60.0,
    logs: Sequence[str] = (),
    workers: int | None = None,
    limit: float = LIMIT,
    together: Together | None = None,
) -> list[RunRecord]:
    """Run what is not done yet, and show how it goes; with the other processes of torchrun, if this
    is one of several.

    Returns:
        Records of the runs that failed now.
    """
    from mtlbench.data.loader import check_workers
    from mtlbench.files import check_writable
    from mtlbench.runs.crew import check_device
    from mtlbench.runs.curves import check_logs
    from mtlbench.runs.store import Store
    from mtlbench.runs.sweep import sweep as go
    from mtlbench.runs.sweep import tidy, unfinished

    if retry not in (None, "failed"):
        raise UsageError(f"--retry takes 'failed', not {retry!r}")
    check_logs(logs)
    check_workers(workers)
    ranks = runs[0].identity.ranks if runs else 1
    if ranks > 1 and any(log.startswith("gradients") for log in logs):
        raise UsageError("--log gradients looks at one process: leave it out")
    if ranks > 1 and together is None:
        check_device(runs[0].device.type, 1 if engine == "ray" else ranks, gpus)
    check_writable(folder)
    store = Store(folder)
    tidy(runs, store)
    todo = unfinished(runs, store, retry=retry is not None)
    say(f"{len(runs)} runs, {len(runs) - len(todo)} of them done before; records in {folder}")
    if not todo:
        if together is not None:
            together.end()
        return []
    epochs = sum(run.total_epochs for run in todo)
    backend: Backend | None = together
    parallel = 1
    if backend is None:
        backend, parallel = _backend(todo, engine, address, jobs, threads, gpus)
    at_a_time = min(parallel, len(todo))
    say(f"{len(todo)} runs to do, {epochs} epochs in all, {at_a_time} at a time")
    failed: list[RunRecord] = []
    with View(todo, len(runs) - len(todo)) as view:

        def finished(run: Run, record: RunRecord) -> None:
            if record.status != "ok":
                failed.append(record)
            view.ended(run, record)

        go(
            todo,
            store,
            backend,
            threads=threads,
            checkpoint_seconds=checkpoint,
            logs=logs,
            workers=workers,
            limit=limit,
            watch=view.watch,
            on_record=finished,
        )
    if together is not None:
        together.end()
    return [record for record in failed if record.status == "failed"]


def end(failed: Sequence[RunRecord]) -> None:
    """Exit with 1 if a run failed."""
    if failed:
        say(f"{len(failed)} runs failed; with --retry failed the same command tries them again")
        raise typer.Exit(1)


def _backend(
    runs: Sequence[Run],
    engine: Engine,
    address: str | None,
    jobs: int | None,
    threads: int,
    gpus: float | None,
) -> tuple[Backend, int]:
    """Where runs are executed, and how many at a time."""
    from mtlbench.hardware import cores, visible_gpus
    from mtlbench.runs.backends.local import Local, groups

    on_gpu, ranks = runs[0].device.type == "cuda", runs[0].identity.ranks
    devices = groups(visible_gpus(), ranks) if on_gpu else []
    per_gpu = max(1, int(1 / gpus)) if gpus else 1
    room = len(devices) * per_gpu if on_gpu else cores() // (threads * ranks)
    parallel = jobs or max(1, room)
    if engine == "here":
        from mtlbench.runs.backends.here import Here

        return Here(), 1
    if engine == "ray":
        from mtlbench.runs.backends.ray import OnRay

        share = (gpus or 1.0) if on_gpu else 0.0
        return OnRay(address, jobs, threads * ranks, share * ranks), parallel

    modules = {module for run in runs for module in run.modules}
    return Local(min(parallel, len(runs)), modules, devices), parallel


# ------------------------------------------------------------------------------------ saying it
def _print_status(what: str, runs: Sequence[Run], store: Store) -> None:
    from mtlbench.runs.sweep import state

    states = [state(run, store) for run in runs]
    counts = Counter(each.kind for each in states)
    table = Table("state", "task", "method", "sharpness", "seed", "why")
    for each in states:
        if each.kind != "done":
            spec = each.run.spec
            words = (each.kind, spec.task, spec.method, spec.sharpness or "", str(spec.seed))
            table.add_row(*map(escape, (*words, each.detail)))
    if len(states) > counts["done"]:
        console.print(table)
    say(f"{len(runs)} {what}: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))


def _print_plan(what: str, runs: Sequence[Run], store: Store, jobs: int | None) -> None:
    from mtlbench.hardware import cores, visible_gpus
    from mtlbench.runs import estimate
    from mtlbench.runs.sweep import unfinished

    todo = unfinished(runs, store)
    took = estimate.seconds(todo, store)
    table = Table("task", "method", "sharpness", "seeds", "passes", "estimated", title="to run")
    cells: dict[tuple[str, str, str], list[int]] = {}
    for i, run in enumerate(todo):
        cells.setdefault((run.spec.task, run.spec.method, run.spec.sharpness or ""), []).append(i)
    for words, found in cells.items():
        total = sum(took[i] for i in found)
        table.add_row(
            *map(escape, words),
            " ".join(str(todo[i].spec.seed) for i in found),
            f"{sum(estimate.passes(todo[i]) for i in found):.3g}",
            "unknown" if math.isnan(total) else duration(total),
        )
    if todo:
        console.print(table)
    on_gpu = bool(todo) and todo[0].device.type == "cuda"
    places = len(visible_gpus()) if on_gpu else cores()
    ranks = todo[0].identity.ranks if todo else 1
    parallel, total = jobs or max(1, places // ranks), math.fsum(took)
    hours = total * ranks / 3600
    time = f"about {duration(total / parallel)}, {hours:.3g} hours of a {_PLACE[on_gpu]}"
    if math.isnan(total):
        time = (
            f"how long is unknown until {store.folder} has a run of this task, protocol, network, "
            "data, machine and number of processes, of one epoch or more"
        )
    say(f"{len(runs)} {what}, {len(runs) - len(todo)} done; {len(todo)} to run: {time}")
