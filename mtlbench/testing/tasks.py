"""What a benchmark is held to: data that are the same for every run, roles, losses and meters that
mean what the contract says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtlbench.data import SPLITS
from mtlbench.engine.labels import Labels
from mtlbench.engine.randomness import evaluation_mode
from mtlbench.engine.step import StepReport
from mtlbench.errors import UsageError
from mtlbench.interfaces import (
    Batch,
    Ignored,
    InputGroup,
    MultiTaskModel,
    Protocol,
    Task,
    TaskInfo,
)
from mtlbench.registry import SHARPNESS, TASKS, Spec, baseline
from mtlbench.runs.spec import build_task
from mtlbench.testing.findings import (
    Check,
    Finding,
    findings,
    global_seed,
    global_states,
    judged,
    require,
    same,
)
from mtlbench.training.optim import make_optimizer
from mtlbench.training.stepper import Stepper

STEPS = 30
FEW = 3
"""Batches that are looked at where all of them would take long."""
CLOSE = 1e-4
"""Of losses and metrics in single precision, summed in another order."""


@dataclass(frozen=True)
class TaskSubject:
    """A benchmark to be checked, with its first protocol and that one's architecture, or another
    one."""

    spec: Spec
    cls: type[Task]
    data: Path | None = None
    architecture: str | None = None

    @property
    def info(self) -> TaskInfo:
        return self.cls.info

    @property
    def objectives(self) -> Sequence[str]:
        return self.info.objectives

    @cached_property
    def task(self) -> Task:
        return self.build()

    def build(self) -> Task:
        return build_task(self.spec, None, self.data)[0]

    @property
    def arch(self) -> str:
        return self.architecture or self.task.protocol.arch

    def model(self, architecture: str | None = None) -> MultiTaskModel:
        with global_seed(0):
            return self.task.build_model(architecture or self.arch)

    def stepper(self, sharpness: str | None = None) -> Stepper:
        model, protocol = self.model(), self.task.protocol
        return Stepper(
            model,
            make_optimizer(protocol, model),
            baseline(),
            sharpness or SHARPNESS.default,
            objectives=self.objectives,
            clip_norm=protocol.clip_norm,
        )

    def first(self, split: str = "train") -> Batch:
        """A split's first batch, in the examples' own order."""
        return next(iter(self.task.batches(split, None)))


def check_task(
    spec: str | Spec, data: Path | None = None, architecture: str | None = None
) -> list[Finding]:
    """Hold a benchmark to its contract, with its first protocol.

    Args:
        spec: name and options, or ``my_pkg.mod:MyTask[:option=value,...]``.
        data: folder of the real data set.
        architecture: the network's, by default the protocol's.

    Returns:
        One finding for each check; the first ones alone if the task has no valid ``info``, cannot
        be built, or makes no valid batches.

    Raises:
        UsageError: unknown name, option or architecture.
    """
    spec = Spec.parse(spec) if isinstance(spec, str) else spec
    cls, _ = TASKS.resolve(spec)
    if architecture is not None and architecture not in cls.info.architectures:
        valid = ", ".join(cls.info.architectures)
        raise UsageError(f"task {spec} has no architecture {architecture!r}; valid: {valid}")
    subject = TaskSubject(spec, cls, data, architecture)
    return findings(subject, CHECKS, lambda check: "required")


# ------------------------------------------------------------------------------------ declaration
def _declaration(subject: TaskSubject) -> str:
    info = getattr(subject.cls, "info", None)
    require(isinstance(info, TaskInfo), f"info must be a TaskInfo, not {info!r}")
    info = subject.info
    for what, names in (
        ("objectives", info.objectives),
        ("metrics", [m.name for m in info.metrics]),
        ("protocols", [p.name for p in info.protocols]),
        ("architectures", info.architectures),
    ):
        require(names, f"no {what}")
        double = [name for name, count in Counter(names).items() if count > 1]
        require(not double, f"{what} named twice: {', '.join(double)}")
    judging = {metric.objective for metric in info.metrics}
    strange = judging - set(info.objectives)
    require(not strange, f"metrics of what is no objective: {', '.join(sorted(strange))}")
    idle = [name for name in info.objectives if name not in judging]
    require(not idle, f"objectives without a metric: {', '.join(idle)}")
    for metric in info.metrics:
        require(metric.scale > 0, f"scale of {metric.name} is {metric.scale}: must be above 0")
    for p in info.protocols:
        require(p.arch in info.architectures, f"protocol {p.name}: no architecture {p.arch!r}")
        require(hasattr(torch.optim, p.optimizer), f"torch.optim has no {p.optimizer!r}")
        scheduler = p.scheduler[0] if p.scheduler else "StepLR"
        known = hasattr(torch.optim.lr_scheduler, scheduler)
        require(known, f"torch.optim.lr_scheduler has no {scheduler!r}")
        require(p.rho, f"protocol {p.name}: an empty grid of rho")
        strange = p.alone.keys() - {f.name for f in fields(Protocol)}
        require(not strange, f"protocol {p.name}: alone has {', '.join(sorted(strange))}")
        own = p.of_reference().arch
        require(own in info.architectures, f"protocol {p.name}: alone: no architecture {own!r}")
        unknown = p.base.keys() - {m.name for m in info.metrics}
        require(not unknown, f"protocol {p.name}: a base of {', '.join(sorted(unknown))}")
    for name in ("title", "licence", "source", "instead"):
        require(getattr(info, name).strip(), f"{name} is empty")
    return f"{len(info.objectives)} objectives, {len(info.metrics)} metrics"


def _construction(subject: TaskSubject) -> str:
    source = getattr(subject.task, "data_source", "")
    require(isinstance(source, str) and source.strip(), "data_source is empty")
    says = "stand-in" in source.lower()
    require(says or not subject.task.stand_in, f"a stand-in that data_source hides: {source!r}")
    return source


# ------------------------------------------------------------------------------------ data
def _batches(subject: TaskSubject) -> str:
    """Every split has batches, of groups that hold each objective at most once."""
    sizes = []
    for split in SPLITS:
        batches = subject.task.batches(split, None)
        n = 0
        for n, batch in enumerate(batches, start=1):
            _check_batch(batch, subject.objectives, f"{split}, batch {n}")
        require(n, f"{split} has no batch")
        require(hasattr(batches, "__len__"), f"{split}: batches() has no len()")
        said = len(batches)  # type: ignore[arg-type]
        require(said == n, f"{split}: len() is {said}, there are {n} batches")
        sizes.append(f"{n} {split}")
    try:
        subject.task.batches("holdout", None)
    except UsageError:
        return f"batches: {', '.join(sizes)}"
    require(False, "an unknown split is no UsageError (mtlbench.data.check_split)")
    return ""


def _check_batch(batch: Batch, objectives: Sequence[str], where: str) -> None:
    valid = isinstance(batch, Sequence) and all(isinstance(g, InputGroup) for g in batch)
    require(valid, f"a batch must be a sequence of InputGroups: {where}")
    found = Counter(name for group in batch for name in group.targets)
    wrong = [name for name, n in found.items() if n > 1 or name not in objectives]
    require(not wrong, f"targets twice, or of no objective: {', '.join(wrong)}; {where}")
    for group in batch:
        require(hasattr(group.inputs, "to"), f"inputs without to(device): {where}")
        for name, target in group.targets.items():
            require(isinstance(target, Tensor), f"the target of {name} is no Tensor: {where}")
            require(target.dim() and len(target), f"the target of {name} has no rows: {where}")


def _determinism(subject: TaskSubject) -> str:
    """A seed names an order; nothing else decides what is in a batch."""
    states = global_states()
    first = _look(subject.task, 1)
    require(same(first, _look(subject.task, 1)), "one seed, two contents of train")
    require(same(global_states(), states), "batches draw from global generators")
    with global_seed(1):
        require(same(first, _look(subject.build(), 1)), "a task built anew has another train")
        for split in SPLITS:
            there = _look(subject.build(), None, split)
            require(same(_look(subject.task, None, split), there), f"{split} differs when built")
    n = len(subject.task.batches("train", 1))  # type: ignore[arg-type]
    require(n == 1 or not same(first, _look(subject.task, 2)), "the seed does not decide the order")
    return f"the first {FEW} batches of every split, twice"


def _look(task: Task, seed: int | None, split: str = "train") -> Any:
    batches = islice(task.batches(split, seed), FEW)
    return [[(group.inputs, dict(group.targets)) for group in batch] for batch in batches]


# ------------------------------------------------------------------------------------ network
def _networks(subject: TaskSubject) -> str:
    """Every architecture, or the one that was asked for, has a head an objective and no idle shared
    parameter; with the one that is checked, each loss reaches the trunk and its own head alone."""
    every = subject.info.architectures
    every = every if subject.architecture is None else (subject.architecture,)
    for architecture in every:
        model = subject.model(architecture)
        heads = list(model.heads)
        require(set(heads) == set(subject.objectives), f"{architecture} has heads {heads}")
        shared, _ = model.parameter_roles(subject.objectives)
        losses = dict(_losses(subject.task, model, subject.first()))
        for name, loss in losses.items():
            where = f"{name}, {architecture}"
            require(isinstance(loss, Tensor) and not loss.shape, f"loss is no scalar: {where}")
            require(bool(torch.isfinite(loss)), f"loss is {loss.item()}: {where}")
        if architecture == subject.arch:
            _check_roles(model, losses)
        grads = _gradients(torch.stack(list(losses.values())).sum(), shared)
        idle = sum(g is None for g in grads)
        require(not idle, f"{idle} shared parameters that no loss reaches: {architecture}")
    return ", ".join(every)


def _check_roles(model: MultiTaskModel, losses: Mapping[str, Tensor]) -> None:
    shared, heads = model.parameter_roles(list(losses))
    for name, loss in losses.items():
        grads = iter(_gradients(loss, [*shared, *(p for head in heads for p in head)]))
        in_trunk = [_is_felt(next(grads)) for _ in shared]
        require(any(in_trunk), f"the loss does not reach the trunk: {name}")
        for other, head in zip(losses, heads, strict=True):
            felt = [_is_felt(next(grads)) for _ in head]
            if other != name:
                require(not any(felt), f"the loss reaches the head of {other}: {name}")
            else:
                require(not head or any(felt), f"the loss does not reach its head: {name}")


def _gradients(loss: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
    return torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)


def _is_felt(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.any())


def _losses(task: Task, model: MultiTaskModel, batch: Batch) -> Iterator[tuple[str, Tensor]]:
    for name, prediction, target in _labelled_predictions(task.ignore, model, batch):
        yield name, task.loss(name, prediction, target)


def _labelled_predictions(
    ignore: Ignored, model: MultiTaskModel, batch: Batch
) -> Iterator[tuple[str, Any, Tensor]]:
    """Of each objective that has a label in the batch, those of the labelled examples."""
    for group in batch:
        labels = Labels(group.targets, ignore)
        predictions = model(group.inputs, list(group.targets))
        for name, target in group.targets.items():
            if labels.counts[name]:
                yield name, *labels.pick(name, predictions[name], target)


def _predicted(subject: TaskSubject, batches: Iterable[Batch]) -> dict[str, tuple[Any, Tensor]]:
    """Predictions of a fresh network in evaluation mode, with their targets; of the first batch
    alone where predictions are no tensors."""
    model = subject.model()
    found: dict[str, list[tuple[Any, Tensor]]] = {}
    with torch.no_grad(), evaluation_mode(model):
        for batch in batches:
            for name, prediction, target in _labelled_predictions(subject.cls.ignore, model, batch):
                found.setdefault(name, []).append((prediction, target))
    return {name: _joined(pairs) for name, pairs in found.items()}


def _joined(pairs: Sequence[tuple[Any, Tensor]]) -> tuple[Any, Tensor]:
    predictions, targets = zip(*pairs, strict=True)
    if not isinstance(predictions[0], Tensor):
        return pairs[0]
    return torch.cat(predictions), torch.cat(targets)


def _means(subject: TaskSubject) -> str:
    """A loss is a mean over examples: of a batch twice it is that of the batch."""

    def measured() -> Iterator[tuple[float, str]]:
        for name, (prediction, target) in _predicted(subject, [subject.first()]).items():
            if isinstance(prediction, Tensor):
                once = subject.task.loss(name, prediction, target)
                twice = subject.task.loss(name, _twice(prediction), _twice(target))
                yield float((twice - once).abs() / once.abs().clamp_min(1e-12)), name

    return judged(measured(), CLOSE)


def _twice(values: Tensor) -> Tensor:
    return torch.cat([values, values])


# ------------------------------------------------------------------------------------ meters
def _meters(subject: TaskSubject) -> str:
    """Every metric has a meter, fresh on every call, and pools: batches do not matter."""
    task, names = subject.task, [metric.name for metric in subject.info.metrics]
    of = {metric.name: metric.objective for metric in subject.info.metrics}
    found = list(task.meters())
    require(set(found) == set(names), f"meters() has {found}, info.metrics has {names}")
    pairs = _predicted(subject, islice(task.batches("val", None), FEW))
    batchwise, whole = task.meters(), task.meters()
    fresh = all(batchwise[name] is not whole[name] for name in names)
    require(fresh, "meters() returns the same meters again")

    def measured() -> Iterator[tuple[float, str]]:
        for name in names:
            prediction, target = pairs[of[name]]
            whole[name].update(prediction, target)
            value = float(whole[name].compute())
            require(not math.isnan(value), f"{name} is NaN on the first batches of val")
            if isinstance(prediction, Tensor) and len(prediction) > 1:
                part = max(1, len(target) // 3)
                for piece in (slice(None, part), slice(part, None)):
                    batchwise[name].update(prediction[piece], target[piece])
                apart = float(batchwise[name].compute())
                yield abs(apart - value) / max(abs(value), 1.0), name

    return judged(measured(), CLOSE)


# ------------------------------------------------------------------------------------ training
def _learning(subject: TaskSubject) -> str:
    """Plain descent on one batch lowers every loss."""
    stepper, batch = subject.stepper(), subject.first()
    with global_seed(0):
        before = _stepped(stepper, batch, subject.task)
        for _ in range(STEPS - 1):
            after = _stepped(stepper, batch, subject.task)
    assert before.losses is not None
    assert after.losses is not None
    mean = float((after.losses / before.losses).nanmean())
    require(mean < 1, f"{STEPS} steps on one batch, and losses are {mean:.2f} times as large")
    return f"{STEPS} steps on one batch: losses at {mean:.0%} of the first ones on average"


def _wrappers(subject: TaskSubject) -> str:
    """A step with every wrapper."""
    names = SHARPNESS.names()
    for name in names:
        with global_seed(0):
            _stepped(subject.stepper(name), subject.first(), subject.task)
    return ", ".join(names)


def _stepped(stepper: Stepper, batch: Batch, task: Task) -> StepReport:
    report = stepper.step(batch, task.loss)
    require(not report.skipped, f"the step was skipped: {report.skipped}")
    return report


def _partial_labels(subject: TaskSubject) -> str:
    """A step on a batch that lacks half the labels of one objective, then all of another's."""
    some, none = subject.objectives[0], subject.objectives[-1]
    batch = [
        replace(g, targets={n: _without(n, t, some, none) for n, t in g.targets.items()})
        for g in subject.first()
    ]
    stepper = subject.stepper()
    head = stepper.flat.data[stepper.flat.all_heads[-1]].clone()
    with global_seed(0):
        report = _stepped(stepper, batch, subject.task)
    assert report.losses is not None
    finite = dict(zip(subject.objectives, torch.isfinite(report.losses).tolist(), strict=True))
    absent = [name for name in finite if finite[name] == (name == none)]
    require(not absent, f"losses of {', '.join(absent)} are not what was labelled")
    there = stepper.flat.data[stepper.flat.all_heads[-1]]
    require(torch.equal(there, head), f"the head of {none} moved without a label")
    require(bool(torch.isfinite(stepper.flat.data).all()), "parameters are not finite")
    return f"half of {some}, nothing of {none}" if some != none else f"nothing of {none}"


def _without(name: str, target: Tensor, some: str, none: str) -> Tensor:
    """Half a target without labels, or all of it."""
    missing = {some: slice(None, None, 2), none: slice(None)}.get(name)
    if missing is None:
        return target
    known = target.clone()
    known[missing] = math.nan if target.is_floating_point() else -1
    return known


def _selection(subject: TaskSubject) -> str:
    """Better metrics are a better score."""
    base = {m.name: m.scale for m in subject.info.metrics}
    score = subject.task.selection_score(base)
    for metric in subject.info.metrics:
        sign = 1 if metric.higher_is_better else -1
        better: Mapping[str, float] = {**base, metric.name: metric.scale * (1 + 0.1 * sign)}
        higher = subject.task.selection_score(better)
        require(higher > score, f"a better {metric.name} is no better selection score")
    return f"{len(base)} metrics"


CHECKS = [
    Check("declaration", _declaration, essential=True),
    Check("construction", _construction, essential=True),
    Check("batches", _batches, essential=True),
    Check("determinism", _determinism),
    Check("networks", _networks, essential=True),
    Check("mean-loss", _means),
    Check("meters", _meters),
    Check("selection", _selection),
    Check("learning", _learning),
    Check("wrappers", _wrappers),
    Check("partial-labels", _partial_labels),
]
