"""From records to tables and CSV files.

Rows are compared within their group only: same task and options, protocol and version, epochs,
data, architecture and class of device. The seeds that a group expects are all that occur in its
records. A row that lacks one of them keeps empty cells and says so in ``status``; nothing is
averaged over holes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mtlbench.boards.metrics import delta_m, delta_m_per_task, mean_rank
from mtlbench.errors import UsageError
from mtlbench.runs.record import Metric, RunRecord

GROUP = [
    "task",
    "task_options",
    "protocol",
    "protocol_version",
    "epochs",
    "data_source",
    "stand_in",
    "architecture",
    "device_class",
]
"""What two rows have to share to be compared."""
ROW = ["method", "method_options", "sharpness", "sharpness_options"]
"""What tells the rows of a group apart."""
_TITLES = ["method_title", "sharpness_title"]
_ROLES = ["reference", "baseline", "method"]
_DELTAS = ["delta_m", "delta_m_per_task", "delta_m_last"]
_COSTS = ["step_ms", "step_ratio", "peak_memory_mb", "forwards", "backwards", "head_backwards"]
_MACHINE = ["device", "threads"]
_ORIGIN = ["train_seconds", *_MACHINE, "commit", "dirty", "started", "command"]


@dataclass(frozen=True)
class Board:
    """The tables of one task.

    Args:
        task: its name.
        metrics: by name, in the order of their columns.
        rows: one row per group x method x wrapper x options, means over seeds.
        seeds: the runs behind them, one row each.
    """

    task: str
    metrics: Mapping[str, Metric]
    rows: pd.DataFrame
    seeds: pd.DataFrame

    def groups(self) -> Iterator[pd.DataFrame]:
        """The rows, group by group."""
        for _, rows in self.rows.groupby(GROUP, sort=False):
            yield rows


def build(records: Iterable[RunRecord]) -> dict[str, Board]:
    """Boards by task.

    Raises:
        UsageError: a run occurs twice, or records disagree on what a metric is.
    """
    by_task: dict[str, list[RunRecord]] = {}
    for record in records:
        by_task.setdefault(record.identity.task, []).append(record)
    return {task: _board(task, by_task[task]) for task in sorted(by_task)}


def _board(task: str, records: Sequence[RunRecord]) -> Board:
    groups: dict[tuple[Any, ...], list[RunRecord]] = {}
    for record in records:
        groups.setdefault(tuple(_group(record).values()), []).append(record)
    metrics = _metrics(records)
    seeds = [_compare(groups[key]) for key in sorted(groups)]
    rows = [
        _reduce(runs, _metrics(groups[key]))
        for key, runs in zip(sorted(groups), seeds, strict=True)
    ]

    means = [column for name in metrics for column in (name, f"{name}_std")]
    means += ["delta_m", "delta_m_std", "delta_m_per_task", "delta_m_last", "mean_rank"]
    said = ["role", "plain", "status", "n_seeds", "seeds"]
    columns = [*GROUP, *ROW, *_TITLES, *said, *means, *_COSTS, "device"]

    values = [*metrics, *(f"{name}_last" for name in metrics)]
    said = ["role", "plain", "seed", "status", "reason", "selected_epoch"]
    seed_columns = [*GROUP, *ROW, *_TITLES, *said, *values, *_DELTAS, *_COSTS, *_ORIGIN]
    return Board(task, metrics, _stack(rows, columns), _stack(seeds, seed_columns))


def _stack(frames: Sequence[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat([f.reindex(columns=columns) for f in frames], ignore_index=True)


def _metrics(records: Iterable[RunRecord]) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for record in records:
        for metric in record.metrics:
            if metrics.setdefault(metric.name, metric) != metric:
                raise UsageError(
                    f"records of {record.identity.task} disagree on the metric {metric.name!r}: "
                    f"{metrics[metric.name]!r} and {metric!r}"
                )
    return metrics


def _group(record: RunRecord) -> dict[str, Any]:
    identity = record.identity
    group = {
        name: _text(value) if isinstance(value := getattr(identity, name), dict) else value
        for name in GROUP
    }
    if identity.weights is not None:
        group["architecture"] += f" from {identity.weights.file} {identity.weights.sha256[:12]}"
    return group


def _text(options: Mapping[str, Any]) -> str:
    """Options as on the command line: ``c=0.4,solver=nnls``."""
    values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in sorted(options.items())}
    return ",".join(f"{name}={value}" for name, value in values.items())


def _run(record: RunRecord) -> dict[str, Any]:
    """A run as a row of the seed-level table, without comparisons."""
    identity, provenance = record.identity, record.provenance
    method_title, sharpness_title = record.titles
    run = _group(record) | {
        "method": identity.method,
        "method_options": _text(identity.method_options),
        "sharpness": identity.sharpness,
        "sharpness_options": _text(identity.sharpness_options),
        "method_title": method_title,
        "sharpness_title": sharpness_title,
        "role": record.role,
        "plain": record.plain,
        "seed": identity.seed,
        "status": record.status,
        "reason": " ".join(record.reason.split()),
        "device": provenance.device,
        "threads": provenance.threads,
        "commit": provenance.commit,
        "dirty": provenance.dirty,
        "started": provenance.started,
        "command": provenance.command,
    }
    return run | (_results(record) if record.status == "ok" else {})


def _results(record: RunRecord) -> dict[str, Any]:
    """What only a run that reached its end has."""
    last = {f"{name}_last": value for name, value in record.scores(at="last").items()}
    return {
        **record.scores(),
        **last,
        "selected_epoch": " ".join(str(phase.selected_epoch) for phase in record.phases),
        "step_ms": record.step_ms,
        "peak_memory_mb": record.peak_memory_mb,
        "train_seconds": record.train_seconds,
        "forwards": sum(phase.forwards_per_step for phase in record.phases),
        "backwards": sum(phase.backwards_per_step for phase in record.phases),
        "head_backwards": sum(phase.head_backwards_per_step for phase in record.phases),
    }


def _place(run: dict[str, Any]) -> tuple[Any, ...]:
    """Sort key: the reference first, the bare wrapper before the others."""
    method = (run["method"], run["method_options"])
    wrapper = (not run["plain"], run["sharpness"], run["sharpness_options"])
    return (_ROLES.index(run["role"]), *method, *wrapper, run["seed"])


def _compare(records: Sequence[RunRecord]) -> pd.DataFrame:
    """The runs of a group in order, with their delta-m and run time ratios."""
    metrics = _metrics(records)
    values = [*metrics, *(f"{name}_last" for name in metrics)]
    numbers = [*values, *_COSTS, "train_seconds"]
    in_order: list[dict[str, Any]] = sorted((_run(record) for record in records), key=_place)
    runs = pd.DataFrame(in_order)
    runs = runs.reindex(columns=list(dict.fromkeys([*runs.columns, *numbers])))
    runs[numbers] = runs[numbers].astype(float)
    _check_unique(runs)

    reference = _reference(runs)[values].mean(skipna=False)
    for at, suffix in (("delta_m", ""), ("delta_m_last", "_last")):
        runs[at] = [_delta(row, reference, metrics, suffix) for _, row in runs.iterrows()]
    runs["delta_m_per_task"] = [
        _delta(row, reference, metrics, per_task=True) for _, row in runs.iterrows()
    ]
    runs["step_ratio"] = _step_ratios(runs)
    return runs


def _check_unique(runs: pd.DataFrame) -> None:
    doubles = runs[runs.duplicated([*ROW, "seed"])]
    for _, run in doubles.iterrows():
        name = " ".join(str(run[column]) for column in ROW if run[column])
        raise UsageError(f"two records of {run['task']} with {name}, seed {run['seed']}: keep one")


def _sole(runs: pd.DataFrame, role: str) -> pd.DataFrame:
    """Runs of the one unwrapped row of this role; none where there are several such rows."""
    found = runs[(runs["role"] == role) & runs["plain"]]
    return found if len(found.drop_duplicates(ROW)) == 1 else found.iloc[:0]


def _reference(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that delta-m is measured against; none unless all seeds are there."""
    found = _sole(runs, "reference")
    done = set(found.loc[found["status"] == "ok", "seed"])
    return found if done == set(runs["seed"]) else found.iloc[:0]


def _delta(
    run: pd.Series[Any],
    reference: pd.Series[float],
    metrics: Mapping[str, Metric],
    suffix: str = "",
    per_task: bool = False,
) -> float:
    values = {name: float(run[name + suffix]) for name in metrics}
    base = {name: float(reference[name + suffix]) for name in metrics}
    directions = {name: metric.higher_is_better for name, metric in metrics.items()}
    if not per_task:
        return _clean(delta_m(values, base, directions))
    objectives = {name: metric.objective for name, metric in metrics.items()}
    return _clean(delta_m_per_task(values, base, directions, objectives))


def _clean(number: float) -> float:
    """Without the last bits, which a mean that is zero on paper would print."""
    return round(number, 9) + 0.0


def _step_ratios(runs: pd.DataFrame) -> list[float]:
    """Step times over that of the baseline's run with the same seed on the same machine."""
    keys = ["seed", *_MACHINE]
    times = _sole(runs, "baseline").set_index(keys)["step_ms"].to_dict()
    found = [times.get(key, math.nan) for key in runs[keys].itertuples(index=False, name=None)]
    return list(runs["step_ms"] / pd.Series(found, index=runs.index))


def _reduce(runs: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """The rows of a group: means over its seeds."""
    expected = sorted(set(runs["seed"]))
    grouped = runs.groupby(ROW, sort=False)
    rows = pd.DataFrame([_row(row, expected, list(metrics)) for _, row in grouped])
    directions = {name: metric.higher_is_better for name, metric in metrics.items()}
    ranked = rows[rows["role"] != "reference"]
    rows["mean_rank"] = mean_rank(ranked, directions).reindex(rows.index)
    return rows


def _row(runs: pd.DataFrame, expected: list[int], metrics: Sequence[str]) -> dict[str, Any]:
    by_seed = runs.set_index("seed").reindex(expected)
    done = by_seed.index[by_seed["status"] == "ok"]
    numbers = by_seed[[*metrics, *_DELTAS, *_COSTS]]
    means = numbers.mean(skipna=False)
    means[_DELTAS] = means[_DELTAS].map(_clean)
    spreads = numbers[[*metrics, "delta_m"]].std(ddof=1, skipna=False).add_suffix("_std")
    row: dict[Any, Any] = {
        "status": _status(by_seed, metrics),
        "n_seeds": len(done),
        "seeds": " ".join(str(seed) for seed in done),
        "device": "; ".join(sorted(set(runs["device"]))),
    }
    shared = runs.iloc[0][[*GROUP, *ROW, *_TITLES, "role", "plain"]]
    return row | shared.to_dict() | means.to_dict() | spreads.to_dict()


def _status(by_seed: pd.DataFrame, metrics: Sequence[str]) -> str:
    """``"ok"``, or which seeds are amiss and why."""
    faults = {seed: _fault(run, metrics) for seed, run in by_seed.iterrows()}
    amiss = [f"seed {seed} {fault}" for seed, fault in faults.items() if fault]
    return f"{len(faults) - len(amiss)}/{len(faults)} seeds: {', '.join(amiss)}" if amiss else "ok"


def _fault(run: pd.Series[Any], metrics: Sequence[str]) -> str:
    if pd.isna(run["status"]):
        return "missing"
    if run["status"] != "ok":
        return str(run["status"])
    absent = [name for name in metrics if pd.isna(run[name])]
    return f"without {' '.join(absent)}" if absent else ""
