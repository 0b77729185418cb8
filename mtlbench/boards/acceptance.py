"""What a row has to be that somebody hands in: of the specification, and possible."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from mtlbench.boards.build import build
from mtlbench.boards.places import GROUP, cell, place_of
from mtlbench.boards.seeds import listed
from mtlbench.errors import UsageError
from mtlbench.interfaces import TaskInfo
from mtlbench.interfaces.tasks import Protocol
from mtlbench.registry import METHODS, SHARPNESS, TASKS, Registry, Spec
from mtlbench.runs.identity import Code
from mtlbench.runs.plan import SweepSpec, Tune
from mtlbench.runs.record import Metric, RunRecord
from mtlbench.runs.tune import score_of


def unacceptable(
    records: Mapping[Path, RunRecord], trials: Mapping[str, RunRecord], specs: Path
) -> list[str]:
    """What is wrong with records, a line each, whether they are packed or not.

    Args:
        records: by file.
        trials: runs that chose options, by the SHA-256 of their file.
        specs: folder of the specifications that rows are held to.
    """
    complaints = [f"{p.name}: {fault}" for p, r in records.items() for fault in _of_one(p, r)]
    if not records:
        complaints.append("there are no records of rows that the leaderboard lacks")
    by_task: dict[str, list[RunRecord]] = {}
    for record in records.values():
        by_task.setdefault(record.identity.task, []).append(record)
    for task, mine in by_task.items():
        complaints += [
            f"{task}: {fault}" for fault in _of_task(task, mine, trials, specs, set(by_task))
        ]
    return complaints


def is_base(record: RunRecord) -> bool:
    """Whether other rows are compared with it on its machine, so that it is handed in with them."""
    return record.role != "method" and record.plain


# ------------------------------------------------------------------------------------ a record
def _of_one(path: Path, record: RunRecord) -> Iterator[str]:
    """What is wrong with a record by itself."""
    identity = record.identity
    if path.stem != identity.stem:
        yield f"its identity is that of {identity.stem}.json: it was renamed or edited"
    yield from _of_code(record)
    if record.status == "failed":
        yield f"failed: {record.reason}"
    if record.status != "ok":
        return
    for phase in record.phases:
        if len(phase.epochs) != identity.epochs or not 0 <= phase.selected_epoch < identity.epochs:
            yield f"has {len(phase.epochs)} of {identity.epochs} epochs, or selects none of them"
        elif phase.epochs[phase.selected_epoch].val.metrics != phase.selected["val"].metrics:
            yield "its validation scores are not those of the epoch that it selects"
    if record.step_ms is None or not record.step_ms > 0:
        yield f"step_ms is {record.step_ms}, and has to be greater than 0"
    scores = record.scores()
    for metric in record.metrics:
        value = scores.get(metric.name, math.nan)
        share = metric.unit == "%" and metric.higher_is_better
        top = 100.0 if share else math.inf
        if not math.isfinite(value) or not 0 <= value <= top:
            yield f"{metric.name} is {value:g}, and has to be from 0 to {top:g}"


def _of_code(record: RunRecord) -> Iterator[str]:
    """Where it is not known which code made a record."""
    identity, origin = record.identity, record.provenance
    if origin.dirty:
        yield "was made from changed files: commit them and run again"
    if not origin.commit and not origin.source:
        yield "names neither a commit nor the hash of an installed mtlbench: run again with this"
    for code in (identity.task_code, identity.method_code, identity.sharpness_code):
        if code is None or not code.origin or code.sha256 or code.origin in origin.code:
            continue
        yield f"does not say which source {code} is: run again with this mtlbench"


# ------------------------------------------------------------------------------------ a task
def _of_task(
    task: str,
    records: list[RunRecord],
    trials: Mapping[str, RunRecord],
    specs: Path,
    present: set[str],
) -> Iterator[str]:
    """What is wrong with the records of a task together; ``present`` are all tasks with records."""
    path = specs / f"{task}.yaml"
    if not path.is_file():
        yield (
            f"there is no specification {path} that its rows could be held to; "
            "give the folder of the leaderboard, as a clone of the repository has it (--folder)"
        )
        return
    spec = SweepSpec.read(path)
    absent = {TASKS.get(Spec.parse(each).name).info.name for each in spec.tasks} - present
    if absent:
        yield f"its specification is of {', '.join(sorted(absent))}, too, and there are no records"
    info = TASKS.get(Spec.parse(spec.tasks[0]).name).info
    protocol = info.protocol(spec.protocol)
    epochs = spec.epochs or protocol.epochs
    longer = [factor * epochs for factor in spec.equal_time]
    # But for the baseline at the time that others take:
    equally_long = [r for r in records if not (is_base(r) and r.identity.epochs in longer)]
    yield from _of_protocol(protocol, epochs, spec.arch or protocol.arch, equally_long)
    yield from _of_classes(info, protocol, records)
    try:
        board = build({cell(record): record for record in equally_long}.values())[task]
    except UsageError as error:
        yield str(error)
        return
    groups = list(board.groups())
    if len(groups) > 1:
        differing = [name for name in GROUP if board.rows[name].nunique() > 1]
        yield f"the records are of {len(groups)} tables: they differ in {', '.join(differing)}"
    seeds = set(spec.seeds)
    rows = board.seeds.groupby(["method_title", "method_options", "sharpness_title", "role"])
    roles = {role for (*_, role), _ in rows}
    for role in ("reference", "baseline"):
        if role not in roles:
            yield f"there is no {role}, which rows are compared with on one machine"
    for (method, options, sharpness, _), own in rows:
        missing = seeds - set(own["seed"])
        if missing:
            name = " ".join(filter(None, (str(method), str(options), f"with {sharpness}")))
            yield f"{name} lacks the seeds {listed(missing)}"
    for record in records:
        if fault := _of_tuning(record, spec.tune, epochs, trials):
            yield f"{record.identity.stem}: {fault}"


def _of_protocol(
    protocol: Protocol, epochs: int, arch: str, records: Iterable[RunRecord]
) -> Iterator[str]:
    """Where records were made under another protocol than the specification's."""
    expected: Mapping[str, object] = {
        "protocol": protocol.name,
        "protocol_version": protocol.version,
        "epochs": epochs,
        "architecture": arch,
    }
    for name, value in expected.items():
        others = {str(v) for r in records if (v := _of_group(r, name)) != value}
        if others:
            yield f"{name} is {', '.join(sorted(others))}; the specification's is {value}"


def _of_group(record: RunRecord, name: str) -> object:
    """What a record's rows have: of a reference what its protocol has for the others."""
    return getattr(record.identity.among, name, getattr(record.identity, name))


def _of_classes(info: TaskInfo, protocol: Protocol, records: Iterable[RunRecord]) -> Iterator[str]:
    """Where records say of metrics, roles and epochs what is not so."""
    metrics = [
        Metric(name=m.name, objective=m.objective, unit=m.unit, higher_is_better=m.higher_is_better)
        for m in info.metrics
    ]
    for record in records:
        stem, identity = record.identity.stem, record.identity
        if record.metrics != metrics:
            yield f"{stem}: its metrics are not those that the task declares"
        method = _declared(METHODS, identity.method, identity.method_code)
        wrapper = _declared(SHARPNESS, identity.sharpness, identity.sharpness_code)
        role, plain = getattr(method, "role", "method"), getattr(wrapper, "identity", False)
        if (record.role, record.plain) != (role, plain):
            yield f"{stem}: is no {record.role}: the specification's rows are compared with others"
        for phase in record.phases if not protocol.average_last else []:
            scores = [e.selection_score for e in phase.epochs if not math.isnan(e.selection_score)]
            chosen = phase.epochs[phase.selected_epoch : phase.selected_epoch + 1]
            if scores and chosen and chosen[0].selection_score < max(scores):
                yield f"{stem}: selects another epoch than the best one on validation"


def _declared(registry: Registry[Any], name: str, code: Code | None) -> Any:
    """The info of a class that is built in; None for one that is not."""
    if code is not None and code.origin:
        return None
    try:
        return registry.get(name).info
    except UsageError:
        return None


# ------------------------------------------------------------------------------------ tuning
def _of_tuning(
    record: RunRecord, tune: Tune | None, epochs: int, trials: Mapping[str, RunRecord]
) -> str:
    """How a record was chosen otherwise than the specification lets every row be; empty if not."""
    tuning = record.provenance.tuning
    if tune is None:
        return (
            ""
            if tuning is None
            else (
                f"was chosen by {tuning.trials} trials, and the specification tunes nothing: "
                "run it with the options that it is published with"
            )
        )
    budget = f"{tune.trials} trials on each of the seeds {listed(tune.seeds)}"
    if tuning is None:
        return f"does not say how it was tuned; every row has {budget}: run it by mtlbench sweep"
    if (tuning.trials, sorted(tuning.seeds)) != (tune.trials, sorted(tune.seeds)):
        had = f"{tuning.trials} trials on each of the seeds {listed(tuning.seeds)}"
        return f"had {had}; every row has {budget}"
    mine = [t for sha in tuning.records if (t := trials.get(sha)) and t.identity.epochs == epochs]
    if len(mine) != tune.trials * len(tune.seeds):
        return (
            f"{len(mine)} of the records of its {tune.trials * len(tune.seeds)} trials are there: "
            "hand in the folder of the sweep that made them"
        )
    return _of_choice(record, mine, tune)


def _of_choice(record: RunRecord, trials: Iterable[RunRecord], tune: Tune) -> str:
    """Whether trials are of a record's cell, and it is the best of them."""
    here = place_of(record)
    scores: dict[tuple[str, ...], dict[int, float]] = {}
    for trial in trials:
        there = place_of(trial) | {"epochs": here["epochs"]}
        fixed = [*GROUP, "method", "sharpness"]
        if any(here[name] != there[name] for name in fixed):
            return f"{trial.identity.stem} is no trial of it"
        choice = tuple(map(str, there.values()))
        scores.setdefault(choice, {})[trial.identity.seed] = score_of(trial)
    if any(set(of_one) != set(tune.seeds) for of_one in scores.values()):
        return f"its trials are not {tune.trials} choices with every seed of the specification"
    means = {choice: fmean(of_one.values()) for choice, of_one in scores.items()}
    if means.get(tuple(map(str, here.values())), -math.inf) < max(means.values()):
        return "other options were better in its trials, on validation"
    return ""
