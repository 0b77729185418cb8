"""A record's run made again: whether the same comes out, within what seeds leave open."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from mtlbench.boards.statistics import MARGIN, Estimate, prediction
from mtlbench.errors import UsageError
from mtlbench.runs.identity import RunIdentity
from mtlbench.runs.record import RunRecord
from mtlbench.runs.spec import Run, RunSpec, prepare

ENOUGH = 3
"""Seeds that say how far apart draws lie."""
Outcome = Literal["bit-equal", "within noise", "different"]


@dataclass(frozen=True)
class Verification:
    """What came out.

    Args:
        outcome: every number of training and test is the same; or the mean change of the metrics is
            within ``tolerance``; or it is not.
        change: how much worse the record's metrics are than those made here: a mean, in percent.
        tolerance: the change that is no surprise, in the same unit.
    """

    outcome: Outcome
    change: float
    tolerance: float


def request(record: RunRecord, data: Path | None = None) -> Run:
    """The run that a record is of, as this machine would make it.

    The record's command is read, and no shell sees it; but methods and tasks of other packages that
    it names are imported.

    Args:
        record: of the run.
        data: folder of the real data set, if it lies elsewhere here.

    Raises:
        UsageError: the command is none of ``mtlbench run``, or means another run here.
    """
    if record.identity.ranks > 1:
        raise UsageError(
            f"{record.identity.ranks} processes made the record: give its command yourself"
        )
    _, _, task, *words = [*shlex.split(record.provenance.command), *[""] * 3]
    options = _options(words)
    if "--method" not in options:
        raise UsageError(f"{record.provenance.command!r} is no command that makes one run")
    epochs, folder, weights = (options.get(f"--{name}") for name in ("epochs", "data", "weights"))
    run = prepare(
        RunSpec(
            task,
            options["--method"],
            options.get("--sharpness"),
            record.identity.seed,
            options.get("--protocol"),
            data or (None if folder is None else Path(folder)),
            None if epochs is None else int(epochs),
            options.get("--arch"),
            options.get("--device"),
            None if weights is None else Path(weights),
            lr=record.identity.lr,
            gradient_scale=record.identity.gradient_scale,
            clip_norm=record.identity.clip_norm,
            numerics=record.identity.numerics,
        )
    )
    differing = _differing(record.identity, run.identity)
    if differing:
        raise UsageError(f"the record's command is another run here: {'; '.join(differing)}")
    return run


def _options(words: Sequence[str]) -> dict[str, str]:
    """Options of a command line with what follows each; nothing follows a flag."""
    return {
        word: "" if after.startswith("--") else after
        for word, after in zip(words, [*words[1:], ""], strict=True)
        if word.startswith("--")
    }


def _differing(theirs: RunIdentity, ours: RunIdentity) -> list[str]:
    return [
        f"{name} is {mine!r} here, {value!r} in the record"
        for name, value in theirs
        if (mine := getattr(ours, name)) != value
    ]


def compare(record: RunRecord, again: RunRecord, siblings: Iterable[RunRecord]) -> Verification:
    r"""A record and its run again.

    With :math:`v_m` the record's test scores, :math:`v'_m` those of the run made again, which are
    to be trusted, and :math:`\bar v_m` their mean over that run and the siblings (of one run, an F1
    score may be 0), the record's change is

    .. math:: d = \frac{100}{M} \sum_m \sigma_m \frac{v_m - v'_m}{\bar v_m}

    Another machine rounds otherwise, which draws the rest of a training anew. So tolerated is what
    two draws differ by, :math:`t_{0.975, n-1} \sqrt 2 s`: s is the standard deviation of d over n
    seeds of the row, of this one as it was made here. It is one point where n is less than three.

    Args:
        record: handed in.
        again: made here.
        siblings: the row's records; the one of this seed does not count.
    """
    others = [other for other in siblings if other.identity != record.identity]
    scale = _means([again, *others])
    change = _change(again, record, scale)
    deviations = Estimate.of([0.0, *(_change(again, other, scale) for other in others)])
    tolerance = MARGIN if deviations.n < ENOUGH else prediction(deviations)
    if is_same(record, again):
        return Verification("bit-equal", 0.0, tolerance)
    return Verification(
        "within noise" if abs(change) <= tolerance else "different", change, tolerance
    )


def is_same(record: RunRecord, other: RunRecord) -> bool:
    """Whether every number of training and test is the same."""
    return _numbers(record) == _numbers(other)


def _means(runs: Sequence[RunRecord]) -> dict[str, float]:
    """Of each metric, over the runs that ended with numbers."""
    scores = [_scores(run) for run in runs if run.status == "ok"]
    return {name: fmean(run[name] for run in scores) for name in scores[0]} if scores else {}


def _change(base: RunRecord, record: RunRecord, scale: Mapping[str, float]) -> float:
    """How much worse a record's metrics are, on average, in percent of ``scale``."""
    if base.status != "ok" or record.status != "ok":
        return math.nan
    ours, theirs = _scores(base), _scores(record)
    signs = {metric.name: -1 if metric.higher_is_better else 1 for metric in base.metrics}
    return fmean(
        _percent(sign * (theirs[name] - ours[name]), scale[name]) for name, sign in signs.items()
    )


def _scores(run: RunRecord) -> dict[str, float]:
    """Of every metric; NaN where the record has none."""
    found = run.scores()
    return {metric.name: found.get(metric.name, math.nan) for metric in run.metrics}


def _percent(difference: float, scale: float) -> float:
    """Infinite where all else is 0."""
    if difference == 0:
        return 0.0
    return 100 * difference / scale if scale else math.copysign(math.inf, difference)


def _numbers(record: RunRecord) -> object:
    """All that has to be the same: no times."""
    timeless = {"phases": {"__all__": {"epochs": {"__all__": {"step_ms"}}}}}
    left = record.model_dump(include={"status", "phases"}, exclude=timeless)
    return repr(left)  # NaN is what it is
