"""Tuning of a sweep's cells: trials on seeds that are not reported, and what did best in them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean

from mtlbench.errors import UsageError
from mtlbench.registry import Spec
from mtlbench.runs.plan import SweepSpec, Tune, untuned
from mtlbench.runs.provenance import Tuning
from mtlbench.runs.record import RunRecord
from mtlbench.runs.spec import RunSpec, prepare
from mtlbench.runs.store import Store


@dataclass(frozen=True)
class Tuned:
    """A cell of a task with what is reported of it.

    Args:
        choice: its request, of no particular seed, with how it was chosen.
        score: mean selection score of the choice's trials; -inf if none of the cell's came through.
    """

    task: str
    method: str
    wrapper: str
    choice: RunSpec
    score: float


def trials(spec: SweepSpec) -> list[RunSpec]:
    """Every trial, seed by seed; none where nothing is tuned.

    Raises:
        UsageError: cells would not have as many trials as each other, or words are of no cell.
    """
    if spec.tune is None:
        return []
    _check_words(spec, spec.tune)
    choices = [choice for *_, found in _cells(spec, spec.tune) for choice in found]
    return [
        replace(choice, seed=seed, keep_model=False)
        for seed, choice in product(spec.tune.seeds, choices)
    ]


def tuned(spec: SweepSpec, store: Store) -> list[Tuned]:
    """Every cell with the choice whose trials have the best mean selection score, on the
    validation split at the selected epoch; the first of those as good, and where no trial came
    through. One whose trials are not all there, or did not all come through, is not chosen.

    Args:
        spec: of the sweep.
        store: of the trials.
    """
    if spec.tune is None:
        return []
    found = []
    for task, method, wrapper, choices in _cells(spec, spec.tune):
        scores = [_score(choice, spec.tune, store) for choice in choices]
        best = scores.index(max(scores))
        choice = replace(choices[best], tuning=_tuning(choices, spec.tune, store))
        found.append(Tuned(task, method, wrapper, choice, scores[best]))
    return found


def reported(spec: SweepSpec, cells: list[Tuned]) -> list[RunSpec]:
    """The sweep's runs, of tuned cells, in the order of :meth:`SweepSpec.requests`."""
    return [
        request
        for task, seed in product(spec.tasks, spec.seeds)
        for request in spec.with_longer(
            [
                replace(cell.choice, seed=seed)
                for cell in cells
                if cell.task == task and (cell.method, cell.wrapper) in spec.cells_of[seed]
            ]
        )
    ]


def score_of(record: RunRecord) -> float:
    """Selection score at the selected epoch, the mean over the phases; -inf of a run that did not
    come through."""
    scores = [phase.epochs[phase.selected_epoch].selection_score for phase in record.phases]
    return -math.inf if not scores or math.isnan(sum(scores)) else fmean(scores)


def _cells(spec: SweepSpec, tune: Tune) -> Iterator[tuple[str, str, str, list[RunSpec]]]:
    """Cells of tasks, with a request for each choice."""
    for task, (method, wrapper) in product(spec.tasks, spec.cells()):
        choices = [
            _at(spec.request(task, *words, tune.seeds[0], (method, wrapper)), factor)
            for words, factor in tune.choices(method, wrapper)
        ]
        yield task, method, wrapper, choices


def _at(request: RunSpec, factor: float) -> RunSpec:
    """A request at a multiple of its learning rate."""
    if factor == 1:
        return request
    lr = request.lr or prepare(request).task.protocol.lr
    return replace(request, lr=float(f"{lr * factor:.6g}"))


def _tuning(choices: list[RunSpec], tune: Tune, store: Store) -> Tuning:
    """What the record of a cell says of its trials."""
    made = [replace(choice, seed=seed) for choice in choices for seed in tune.seeds]
    paths = [store.path(prepare(request).identity) for request in made]
    digests = (hashlib.sha256(p.read_bytes()).hexdigest() for p in paths if p.exists())
    return Tuning(trials=len(choices), seeds=tuple(tune.seeds), records=tuple(sorted(digests)))


def _score(choice: RunSpec, tune: Tune, store: Store) -> float:
    records = [store.read(prepare(replace(choice, seed=seed)).identity) for seed in tune.seeds]
    return fmean(-math.inf if record is None else score_of(record) for record in records)


def _check_words(spec: SweepSpec, tune: Tune) -> None:
    """Refuse words to be tuned that are of no cell."""
    methods, wrappers = zip(*spec.cells(), strict=True)
    for kind, words, cells in (
        ("methods", tune.methods, methods),
        ("sharpness", tune.sharpness, wrappers),
    ):
        for word in words:
            alone = untuned(word)
            if alone not in map(Spec.parse, cells):
                raise UsageError(f"tune.{kind}: {word!r} is of no cell: none has {str(alone)!r}")
