"""From records to tables and CSV files.

Rows are compared within their group only: same task and options, protocol and version, epochs,
data, architecture and class of device (of the single-task reference those that its protocol has for
the others); and on the seeds that they have in common
(:mod:`~mtlbench.boards.seeds`). A row that lacks some of these is compared on those that it has,
and says so in ``status``; one whose run diverged or failed keeps empty cells: nothing is averaged
over holes.

Runs of the baseline alone, for n times the epochs of a group that is the same otherwise, are a row
of that group: the baseline at the time that another row takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mtlbench.boards.handed_in import NOTHING, HandedIn, least
from mtlbench.boards.metrics import delta_m, delta_m_per_task, mean_rank
from mtlbench.boards.places import GROUP, ROW, epochs_of, group_of, place_of
from mtlbench.boards.seeds import Seeds, common_seeds, listed
from mtlbench.boards.times import MACHINE, StepTimes, machine_of, step_ratios
from mtlbench.errors import UsageError
from mtlbench.runs.record import Metric, RunRecord

_TITLES = ["method_title", "sharpness_title"]
_ROLES = ["reference", "baseline", "method"]
_DELTAS = ["delta_m", "delta_m_per_task", "delta_m_last", "delta_m_beside"]
_TIMES = ["step_ms", "step_ratio"]
_COSTS = [*_TIMES, "peak_memory_mb", "forwards", "backwards", "head_backwards"]
_ORIGIN = ["train_seconds", *MACHINE, "commit", "dirty", "started", "command"]


@dataclass(frozen=True)
class Board:
    """The tables of one task.

    Args:
        task: its name.
        metrics: by name, in the order of their columns.
        rows: one row per group x method x wrapper x options, means over the seeds that the group's
            rows have in common; of step times, which other work makes longer and nothing makes
            shorter, the least.
        seeds: the runs behind them, and those left out, one row each.
    """

    task: str
    metrics: Mapping[str, Metric]
    rows: pd.DataFrame
    seeds: pd.DataFrame

    def groups(self) -> Iterator[pd.DataFrame]:
        """The rows, group by group."""
        for _, rows in self.rows.groupby(GROUP, sort=False):
            yield rows

    def runs(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The runs of a group."""
        return self.seeds[(self.seeds[GROUP] == rows.iloc[0][GROUP]).all(axis=1)]


def build(records: Iterable[RunRecord], handed_in: HandedIn = NOTHING) -> dict[str, Board]:
    """Boards by task.

    Args:
        records: of a folder.
        handed_in: what submissions add to them.

    Raises:
        UsageError: a run occurs twice, or records disagree on what a metric is.
    """
    by_task: dict[str, list[RunRecord]] = {}
    for record in [*records, *handed_in.records]:
        by_task.setdefault(record.identity.task, []).append(record)
    return {task: _board(task, by_task[task], handed_in) for task in sorted(by_task)}


def _board(task: str, records: Sequence[RunRecord], handed_in: HandedIn) -> Board:
    groups: dict[tuple[Any, ...], list[RunRecord]] = {}
    for record in records:
        groups.setdefault(_key(record), []).append(record)
    groups = _with_longer(groups)
    metrics = _metrics(records)
    rows, seeds = [], []
    for key in sorted(groups):
        metrics_here = _metrics(groups[key])
        runs = _runs(groups[key], metrics_here, key[_EPOCHS], handed_in)
        compared = _compared_on(runs)
        others = [(machine_of(r), r.step_ms) for r in handed_in.bases if _key(r) == key]
        seeds.append(_compare(runs, metrics_here, compared, others))
        rows.append(_reduce(seeds[-1], metrics_here, compared))

    means = [column for name in metrics for column in (name, f"{name}_std")]
    means += ["delta_m", "delta_m_std", "delta_m_per_task", "delta_m_last", "mean_rank"]
    said = ["role", "plain", "origin", "status", "n_seeds", "seeds"]
    columns = [*GROUP, *ROW, *_TITLES, *said, *means, *_COSTS, "device"]

    values = _values(metrics)
    said = ["role", "plain", "origin", "seed", "status", "reason"]
    said += ["selected_epoch", "beside", "last_n"]
    seed_columns = [*GROUP, *ROW, *_TITLES, *said, *values, *_DELTAS, *_COSTS, *_ORIGIN]
    return Board(task, metrics, _stack(rows, columns), _stack(seeds, seed_columns))


_EPOCHS = GROUP.index("epochs")


def _key(record: RunRecord) -> tuple[Any, ...]:
    return tuple(group_of(record).values())


def _with_longer(
    groups: Mapping[tuple[Any, ...], list[RunRecord]],
) -> dict[tuple[Any, ...], list[RunRecord]]:
    """Groups, in which longer runs of the baseline have joined the one that they belong to."""
    joined = {key: list(records) for key, records in groups.items()}
    for key, records in groups.items():
        if all(record.role == "baseline" and record.plain for record in records):
            hosts = [
                other
                for other, found in groups.items()
                if other != key
                and _but_epochs(other) == _but_epochs(key)
                and key[_EPOCHS] % other[_EPOCHS] == 0
                and any(record.role == "reference" for record in found)
            ]
            if len(hosts) == 1:
                joined[hosts[0]] += joined.pop(key)
    return joined


def _but_epochs(key: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*key[:_EPOCHS], *key[_EPOCHS + 1 :])


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


def histories(records: Iterable[RunRecord]) -> pd.DataFrame:
    """Learning curves of the runs that trained one network and reached their end.

    Returns:
        One row an epoch: what tells a board's rows apart, "seed", "epoch" and "score", which epochs
        are selected by, on validation.
    """
    found = [
        place_of(record) | {"seed": record.identity.seed, "epoch": n, "score": e.selection_score}
        for record in records
        if record.status == "ok" and len(record.phases) == 1
        for n, e in enumerate(record.phases[0].epochs)
    ]
    return pd.DataFrame(found, columns=[*GROUP, *ROW, "seed", "epoch", "score"])


def _run(record: RunRecord, epochs: int, handed_in: HandedIn) -> dict[str, Any]:
    """A run as a row of the seed-level table, without comparisons.

    Args:
        record: of the run.
        epochs: of its group; a longer run has its own as an option, and is not what others are
            measured against.
        handed_in: which runs are not the folder's own.
    """
    identity, provenance = record.identity, record.provenance
    method_title, sharpness_title = record.titles
    run = place_of(record) | {
        "method_title": method_title,
        "sharpness_title": sharpness_title,
        "role": record.role,
        "plain": record.plain,
        "origin": handed_in.origin(record),
        "seed": identity.seed,
        "status": record.status,
        "reason": " ".join(record.reason.split()),
        "device": provenance.device,
        "threads": provenance.threads,
        "jobs": provenance.jobs,
        "commit": provenance.commit,
        "dirty": provenance.dirty,
        "started": provenance.started,
        "command": provenance.command,
    }
    if epochs_of(identity) != epochs:
        options = ",".join(filter(None, [run["method_options"], f"epochs={identity.epochs}"]))
        run |= {"epochs": epochs, "method_options": options, "role": "method"}
    run["times"] = epochs_of(identity) / epochs
    return run | (_results(record) if record.status == "ok" else {})


def _results(record: RunRecord) -> dict[str, Any]:
    """What only a run that reached its end has."""
    last = {f"{name}_last": value for name, value in record.scores(at="last").items()}
    kind, values = record.beside()
    beside = {f"{name}_beside": value for name, value in values.items()}
    return {
        **record.scores(),
        **last,
        **beside,
        "beside": kind or "",
        "last_n": record.phases[0].last_n or None,
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


def _runs(
    records: Sequence[RunRecord],
    metrics: Mapping[str, Metric],
    epochs: int,
    handed_in: HandedIn,
) -> pd.DataFrame:
    """The runs of a group in order."""
    in_order = sorted((_run(r, epochs, handed_in) for r in records), key=_place)
    runs = pd.DataFrame(in_order).astype({"jobs": "Int64"})
    numbers = [*_values(metrics), *_COSTS, "train_seconds"]
    runs = runs.reindex(columns=list(dict.fromkeys([*runs.columns, *numbers])))
    runs[numbers] = runs[numbers].astype(float)
    _check_unique(runs)
    return runs


def _values(metrics: Iterable[str]) -> list[str]:
    """Columns of scores: those that count, those of the last epoch, and those that might count."""
    names = list(metrics)
    return [f"{name}{end}" for end in ("", "_last", "_beside") for name in names]


def _compared_on(runs: pd.DataFrame) -> Seeds:
    """The seeds that the group's rows are compared on."""
    rows: dict[Any, Seeds] = {row: frozenset(own["seed"]) for row, own in runs.groupby(ROW)}
    references = [row for row, _ in _sole(runs, "reference").groupby(ROW)]
    return common_seeds(rows, references[0] if references else None)


def _compare(
    runs: pd.DataFrame,
    metrics: Mapping[str, Metric],
    compared: Seeds,
    others: StepTimes,
) -> pd.DataFrame:
    """The runs of a group, with their delta-m and run time ratios. Those with a seed that is left
    out have no delta-m."""
    runs = runs.copy()
    reference = _sole(runs, "reference").set_index("seed")
    deltas: dict[Any, list[float]] = {}
    for _, row in runs.groupby(ROW, sort=False):
        taking_part = row[row["seed"].isin(compared)]
        bases = reference.reindex(taking_part["seed"])
        whole = bool((bases["status"] == "ok").all())
        base = bases[_values(metrics)].mean(skipna=False) * (1.0 if whole else math.nan)
        for index, run in taking_part.iterrows():
            deltas[index] = [
                _delta(run, base, metrics),
                _delta(run, base, metrics, per_task=True),
                _delta(run, base, metrics, "_last"),
                _delta(run, base, metrics, "_beside"),
            ]
    found = pd.DataFrame.from_dict(deltas, orient="index", columns=_DELTAS, dtype=float)
    runs[_DELTAS] = found.reindex(runs.index)
    runs["step_ratio"] = step_ratios(runs, _sole(runs, "baseline"), others)
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


def _reduce(runs: pd.DataFrame, metrics: Mapping[str, Metric], compared: Seeds) -> pd.DataFrame:
    """The rows of a group: means over the seeds that they are compared on, of step times the
    least."""
    grouped = runs.groupby(ROW, sort=False)
    rows = pd.DataFrame([_row(row, compared, list(metrics)) for _, row in grouped])
    directions = {name: metric.higher_is_better for name, metric in metrics.items()}
    whole = rows["n_seeds"] == len(compared)
    ranked = rows[(rows["role"] != "reference") & whole]
    rows["mean_rank"] = mean_rank(ranked, directions).reindex(rows.index)
    return rows


def _row(runs: pd.DataFrame, compared: Seeds, metrics: Sequence[str]) -> dict[str, Any]:
    by_seed = runs.set_index("seed").reindex(sorted(compared))
    own = by_seed[by_seed["status"].notna()]
    numbers = own[[*metrics, *_DELTAS, *_COSTS]]
    means = numbers.mean(skipna=False)
    done = own.index[own["status"] == "ok"]
    if len(done) == len(own):
        means[_TIMES] = numbers[_TIMES].min()
    means[_DELTAS] = means[_DELTAS].map(_clean)
    row: dict[Any, Any] = {
        "status": _status(by_seed, metrics),
        "n_seeds": len(done),
        "seeds": listed(done),
        "origin": least(runs["origin"]),
        "device": "; ".join(sorted(set(runs["device"]))),
    }
    shared = runs.iloc[0][[*GROUP, *ROW, *_TITLES, "role", "plain"]]
    return row | shared.to_dict() | means.to_dict() | _spreads(numbers[[*metrics, "delta_m"]])


def _spreads(numbers: pd.DataFrame) -> dict[Any, float]:
    """Standard deviations; NaN for one number, and where one is infinite."""
    finite = numbers.where(numbers.abs() < math.inf)
    return finite.std(ddof=1, skipna=False).add_suffix("_std").to_dict()


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
