"""The pilot: what seeds differ by under each way to choose an epoch, before rows are computed.

    python leaderboards/pilot/pilot.py run multimnist qm9     # -> epochs/TASK.csv
    python leaderboards/pilot/pilot.py report                 # epochs/ -> pilot.csv

STL, LS and MGDA under each task's first protocol, with seeds that no leaderboard reports, tested
after every epoch; STL, which only says what delta-m is measured in, with the first of them. What is
in a file already is not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mtlbench.boards.statistics import Estimate, seeds_to_resolve
from mtlbench.engine.randomness import seeded
from mtlbench.interfaces import Protocol, Task
from mtlbench.registry import TASKS, Spec
from mtlbench.training.trainer import Trainer

HERE = Path(__file__).parent
SEEDS = range(1000, 1008)
METHODS: Mapping[str, Sequence[int]] = {"stl": SEEDS[:2], "ls": SEEDS, "mgda": SEEDS}
KEY = ["variant", "method", "seed", "epoch"]

VARIANTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "qm9": {
        "1,500 molecules": {"epochs": 10, "batch_size": 50, "split": (1500, 500, 1500)},
        "3,000 molecules": {"epochs": 6, "batch_size": 60, "split": (3000, 500, 1500)},
        "1,500 molecules, lr falls": {
            "epochs": 10,
            "batch_size": 50,
            "split": (1500, 500, 1500),
            "scheduler": ("StepLR", {"step_size": 4, "gamma": 0.3}),
        },
    }
}
"""Task to protocols that are tried against one another: fields of the protocol, or its options."""


def variants(task: str) -> dict[str, Protocol]:
    """The protocols to be tried, tested after every epoch."""
    (protocol, *_), fields = TASKS.get(task).info.protocols, {f.name for f in PROTOCOL_FIELDS}
    found = {}
    for name, changes in VARIANTS.get(task, {"": {}}).items():
        own = {key: value for key, value in changes.items() if key in fields}
        options = {key: value for key, value in changes.items() if key not in fields}
        tried = dataclasses.replace(protocol, **own, options={**protocol.options, **options})
        found[name] = dataclasses.replace(tried, average_last=tried.epochs)
    return found


PROTOCOL_FIELDS = dataclasses.fields(Protocol)


# ------------------------------------------------------------------------------------ runs
def train(task: Task, method: str, seed: int) -> Iterator[dict[str, Any]]:
    """A row an epoch: losses and selection score of each objective's network, test metrics."""
    alone = method == "stl"
    names = task.info.objectives
    rows: list[dict[str, Any]] = [{} for _ in range(task.protocol.epochs)]
    for objectives in [[name] for name in names] if alone else [list(names)]:
        with seeded(seed):
            trainer = Trainer(
                task,
                objectives,
                architecture=task.protocol.arch,
                method=Spec.parse(method),
                sharpness=Spec.parse("none"),
                seed=seed,
                device=torch.device("cpu"),
            )
            phase = trainer.fit()
        for row, epoch, test in zip(rows, phase.epochs, trainer.tests, strict=True):
            row |= test.metrics
            row |= {f"train:{name}": loss for name, loss in epoch.train_losses.items()}
            row |= {f"val:{name}": loss for name, loss in epoch.val.losses.items()}
            row |= {f"score:{name}": epoch.selection_score for name in objectives}
    yield from rows


def run(task: str, seeds: Sequence[int]) -> None:
    """Train what is not in the task's file."""
    path = HERE / "epochs" / f"{task}.csv"
    path.parent.mkdir(exist_ok=True)
    done = set()
    if path.exists():
        done = set(read(path).groupby(KEY[:3]).groups)
    made = {name: TASKS.get(task)(protocol) for name, protocol in variants(task).items()}
    for seed in seeds:
        for variant, built in made.items():
            for method in METHODS:
                if seed not in METHODS[method] or (variant, method, seed) in done:
                    continue
                rows = [
                    {"variant": variant, "method": method, "seed": seed, "epoch": epoch, **row}
                    for epoch, row in enumerate(train(built, method, seed))
                ]
                table = pd.DataFrame(rows).map(_rounded).sort_index(axis=1)
                table.to_csv(path, mode="a", header=not path.exists(), index=False)
                print(task, variant, method, seed, flush=True)


def read(path: Path) -> pd.DataFrame:
    """A file of :func:`run`."""
    return pd.read_csv(path, dtype={"variant": str}).fillna({"variant": ""})


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


# ------------------------------------------------------------------------------------ report
def chosen(epochs: pd.DataFrame, rule: str) -> pd.DataFrame:
    """Test metrics of each run (variant, method, seed) under a rule: "selected", "last" or a number
    of last epochs that are averaged."""
    runs = epochs.groupby(KEY[:3])
    if rule == "last":
        return runs.last()
    if rule != "selected":
        return runs.tail(int(rule)).groupby(KEY[:3]).mean()
    objective_of = {m.name: m.objective for m in TASKS.get(epochs.attrs["task"]).info.metrics}
    found = {}
    for key, own in runs:
        best = {o: own[f"score:{o}"].idxmax() for o in set(objective_of.values())}
        found[key] = {m: own.loc[best[o], m] for m, o in objective_of.items()}
    table = pd.DataFrame(found).T
    return table.rename_axis(KEY[:3])


def delta_m(task: str, table: pd.DataFrame, method: str) -> pd.Series:
    """Percent of change for the worse, by variant and seed, against the mean of STL over seeds."""
    changes = []
    reference = table.xs("stl", level="method").groupby("variant").mean()
    own = table.xs(method, level="method")
    for metric in TASKS.get(task).info.metrics:
        base = reference[metric.name].reindex(own.index.get_level_values("variant")).to_numpy()
        sign = -1 if metric.higher_is_better else 1
        changes.append(100 * sign * (own[metric.name] - base) / base)
    return pd.concat(changes, axis=1).mean(axis=1)


def report() -> None:
    """What the pilot says, a line a task, variant and rule."""
    lines = []
    for path in sorted((HERE / "epochs").glob("*.csv")):
        task = path.stem
        epochs = read(path)
        epochs.attrs["task"] = task
        for rule in ("selected", "last", "3", "5", "8"):
            table = chosen(epochs, rule)
            first, second = (delta_m(task, table, method) for method in ("ls", "mgda"))
            for variant in dict.fromkeys(epochs["variant"]):
                difference = Estimate.of(first.loc[variant] - second.loc[variant])
                lines.append(
                    {
                        "task": task,
                        "variant": variant,
                        "epoch": rule if not rule.isdigit() else f"mean of last {rule}",
                        "seeds": difference.n,
                        "ls_delta_m": first.loc[variant].mean(),
                        "mgda_delta_m": second.loc[variant].mean(),
                        "sd_of_difference": difference.sd,
                        "seeds_for_one_point": seeds_to_resolve(difference.sd),
                        **overfitting(epochs[epochs["variant"] == variant], task),
                    }
                )
    table = pd.DataFrame(lines).round(3)
    table.to_csv(HERE / "pilot.csv", index=False)
    print(table.to_string(index=False))


def overfitting(epochs: pd.DataFrame, task: str) -> dict[str, float]:
    """Validation over training loss of LS after the last epoch, the geometric mean."""
    last = epochs[(epochs["method"] == "ls") & (epochs["epoch"] == epochs["epoch"].max())]
    ratios = [last[f"val:{o}"] / last[f"train:{o}"] for o in TASKS.get(task).info.objectives]
    return {"val_over_train_loss": float(np.exp(np.log(pd.concat(ratios)).mean()))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("tasks", nargs="+")
    runs.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    commands.add_parser("report")
    given = parser.parse_args()
    if given.command == "report":
        report()
        return
    torch.set_num_threads(1)
    for task in given.tasks:
        run(task, given.seeds)


if __name__ == "__main__":
    main()
