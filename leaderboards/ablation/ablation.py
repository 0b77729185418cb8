"""The ablation: the parts of SAMO and its cheap variants, with three methods, on two tasks.

    python leaderboards/ablation/ablation.py --jobs 2

Chooses rho for each wrapper from the protocol's grid of three, by LS on validation with seed 100
(``tuning/``), then runs every method with every wrapper and seeds 0 to 4 (``records/``). Runs that
have a record are not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mtlbench.registry import TASKS
from mtlbench.runs.record import RunRecord
from mtlbench.runs.spec import Run, RunSpec
from mtlbench.runs.store import Store
from mtlbench.runs.sweep import grid, sweep, unfinished

HERE = Path(__file__).parent
EPOCHS = {"multimnist": 5, "qm9": 20}
TUNING_EPOCHS = {"multimnist": 5, "qm9": 30}
METHODS = ("ls", "mgda", "fairgrad")
WRAPPERS = (
    "sam",
    "lsam",
    "fmtl",
    "samo",
    "samo:noise=shared",
    "samo:noise=shared,difference=forward",
    "samo:layers=ends",
)
SEEDS = range(5)
TUNING_SEED = 100


def with_rho(wrapper: str, rho: float) -> str:
    return f"{wrapper}{',' if ':' in wrapper else ':'}rho={rho}"


def finish(runs: list[Run], folder: Path, jobs: int) -> None:
    """Run what has no record yet."""
    todo = unfinished(runs, Store(folder))
    print(f"{folder.name}: {len(todo)} of {len(runs)} runs to do", flush=True)
    sweep(todo, folder, jobs=jobs, threads=1, on_record=lambda _, record: report(record))


def report(record: RunRecord) -> None:
    identity, seconds = record.identity, record.train_seconds or 0.0
    cell = f"{identity.task} {identity.method} x {identity.sharpness}, seed {identity.seed}"
    print(f"{record.status} {cell}: {seconds:.0f} s", flush=True)


def score(record: RunRecord) -> float:
    """Selection score on validation, at the selected epoch."""
    if record.status != "ok":
        return float("-inf")
    (phase,) = record.phases
    return phase.epochs[phase.selected_epoch].selection_score


def chosen(task: str, jobs: int) -> list[str]:
    """Every wrapper with the best of the grid's radii."""
    radii = TASKS.get(task).info.protocols[0].rho
    base = RunSpec(task, "", epochs=TUNING_EPOCHS[task], device="cpu")
    folder, best = HERE / "tuning", []
    candidates = [[with_rho(w, rho) for rho in radii] for w in WRAPPERS]
    flat = [text for texts in candidates for text in texts]
    finish(grid(base, ["ls"], flat, [TUNING_SEED]), folder, jobs)
    for texts in candidates:
        records = [
            Store(folder).read(run.identity)
            for text in texts
            for run in grid(base, ["ls"], [text], [TUNING_SEED])
        ]
        scores = [score(record) for record in records if record is not None]
        best.append(max(zip(scores, texts, strict=True))[1])
    print(task, *best, flush=True)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1)
    jobs = parser.parse_args().jobs
    wrappers = {task: ["none", *chosen(task, jobs)] for task in EPOCHS}
    for task, texts in wrappers.items():
        for seed in SEEDS:
            base = RunSpec(task, "", epochs=EPOCHS[task], device="cpu")
            finish(grid(base, ["stl", *METHODS], texts, [seed]), HERE / "records", jobs)


if __name__ == "__main__":
    main()
