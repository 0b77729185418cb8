"""What a sharpness wrapper is held to: the contract, with methods of the kit's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from mtlbench.engine.problem import BatchProblem
from mtlbench.interfaces import GradientView, Passes, SharpnessInfo, SharpnessWrapper, Update
from mtlbench.registry import SHARPNESS, Spec
from mtlbench.testing.findings import (
    Check,
    Finding,
    findings,
    global_seed,
    global_states,
    require,
    same,
)
from mtlbench.testing.networks import (
    NETWORKS,
    OWN_METHODS,
    PLAIN,
    TRUNK,
    WITHOUT_DROPOUT,
    LossError,
    Raising,
    batch,
    constant,
    infinite,
    squared,
    vanishing,
    without_gradient,
)
from mtlbench.testing.steps import (
    DTYPES,
    devices,
    difference,
    problem,
    resumed,
    snapshot,
    stepper,
    traversed,
)
from mtlbench.training.stepper import Stepper

KS = (1, 3)
STEPS = 6
"""Length of the runs: long enough for a wrapper that does its work now and then."""


@dataclass(frozen=True)
class WrapperSubject:
    """A wrapper to be checked."""

    spec: Spec
    cls: type[SharpnessWrapper]

    def stepper(self, K: int, *, method: Spec = OWN_METHODS[-1], **how: Any) -> Stepper:
        return stepper(method, self.spec, K, **how)

    def steppers(self, **how: Any) -> Iterator[tuple[str, bool, Stepper]]:
        """One for every K and kind of batch, with the name of the case and the kind."""
        for K, single in product(KS, (True, False)):
            kind = "shared inputs" if single else "inputs of their own"
            yield f"K = {K}, {kind}", single, self.stepper(K, **how)


def check_wrapper(spec: str | Spec) -> list[Finding]:
    """Hold a sharpness wrapper to its contract.

    Args:
        spec: name and options, or ``my_pkg.mod:MyWrapper[:option=value,...]``.

    Returns:
        One finding for each check; the first ones alone if the wrapper has no valid ``info``, or
        returns no valid update.

    Raises:
        UsageError: unknown name or option.
    """
    spec = Spec.parse(spec) if isinstance(spec, str) else spec
    SHARPNESS.build(spec)
    subject = WrapperSubject(spec, SHARPNESS.get(spec.name))
    return findings(subject, CHECKS, lambda check: "required")


def update(running: Stepper, of: BatchProblem | None = None) -> Update:
    """What the wrapper makes of the stepper's next problem, or another."""
    aggregates = (method.aggregate for method in running.methods)
    return running.wrapper.update(problem(running) if of is None else of, *aggregates)


def vectors(found: Update) -> list[Tensor]:
    """Copies of the gradients."""
    return [found.shared.clone(), *(head.clone() for head in found.heads)]


# ------------------------------------------------------------------------------------ the contract
def _declaration(subject: WrapperSubject) -> str:
    info = getattr(subject.cls, "info", None)
    require(isinstance(info, SharpnessInfo), f"info must be a SharpnessInfo, not {info!r}")
    parts = SHARPNESS.build(subject.spec).parts
    require(isinstance(parts, int) and parts >= 1, f"parts must be at least 1, not {parts!r}")
    return f"{subject.cls.info.title}, {subject.cls.info.year or 'no year'}"


def _structure(subject: WrapperSubject) -> str:
    """An update of the right shapes and without a graph, for every kind of batch."""
    for where, single, running in subject.steppers():
        found = update(running, problem(running, single=single))
        require(isinstance(found, Update), f"update() must return an Update, not {found!r}")
        flat = running.flat
        sizes = [(s.stop - s.start,) for s in (flat.shared, *flat.heads)]
        shapes = [tuple(v.shape) for v in (found.shared, *found.heads)]
        require(shapes == sizes, f"gradients of shapes {shapes}, parameters of {sizes}: {where}")
        attached = any(v.requires_grad for v in (found.shared, *found.heads))
        require(not attached, f"the update has a graph: {where}")
    return f"K = {', '.join(map(str, KS))}, shared inputs and inputs of their own"


def _finite(subject: WrapperSubject) -> str:
    """Zero gradients, layers without one, frozen and tied parameters."""
    cases = [(PLAIN, vanishing), (PLAIN, constant), *((name, squared) for name in NETWORKS)]
    for index, (network, loss) in enumerate(cases):
        running = subject.stepper(3, network=network, method=OWN_METHODS[index % len(OWN_METHODS)])
        for seed in range(2):
            report = running.step(batch(3, seed=seed), loss)
            where = f"{network}, {loss.__name__} losses"
            require(not report.skipped, f"{report.skipped}: {where}")
            finite = bool(torch.isfinite(running.flat.data).all())
            require(finite, f"parameters are not finite: {where}")
    return "; ".join(NETWORKS)


def _parameters(subject: WrapperSubject) -> str:
    """Bit-equal after an update, one that a loss interrupts, and a step that is skipped."""
    raised = 0
    for where, single, running in subject.steppers():
        flat, counting = running.flat, Raising()
        before = flat.data.clone()

        def unchanged(after: str, before: Tensor = before, flat: Any = flat) -> None:
            require(torch.equal(flat.data, before), f"the parameters moved: {after}")
            require(flat.point == 0, f"the parameters were left at another point: {after}")

        update(running, problem(running, single=single, loss=counting))
        unchanged(where)
        for at in range(counting.calls):
            try:
                update(running, problem(running, single=single, loss=Raising(at)))
            except LossError:
                raised += 1
            unchanged(f"{where}, loss call {at + 1} raised")
        K = len(running.objectives)
        for loss in (infinite, without_gradient):
            running.step(batch(K, single=single), loss)
            unchanged(f"{where}, a skipped step")
    return f"bit-equal, also after {raised} interruptions"


def _statistics(subject: WrapperSubject) -> str:
    """Running statistics move once a step, by the first forward pass."""
    for where, single, running in subject.steppers(lr=0.0):
        plain = stepper(OWN_METHODS[0], None, len(running.objectives), lr=0.0)
        for seed in range(2):
            for each in (running, plain):
                each.step(batch(len(each.objectives), seed=seed, single=single), squared)
        pairs = zip(running.model.named_buffers(), plain.model.buffers(), strict=True)
        for (name, buffer), expected in pairs:
            require(
                torch.allclose(buffer, expected, rtol=1e-9),
                f"{name} is not what one forward pass a step makes of it: {where}",
            )
    return "as by one forward pass a step"


def _randomness(subject: WrapperSubject) -> str:
    """Noise comes from ``problem.generator``; dropout moves the global generators as one pass."""
    for where, single, running in subject.steppers():
        plain = stepper(OWN_METHODS[0], None, len(running.objectives))
        with global_seed(1):
            problem(plain, single=single).losses()
            expected = global_states()
        with global_seed(1):
            update(running, problem(running, single=single))
            moved = not same(global_states(), expected)
        require(not moved, f"global generators did not move as by one forward pass: {where}")
    found = []
    for seed in (1, 2):
        running = subject.stepper(3, network=WITHOUT_DROPOUT)
        with global_seed(seed):
            before = global_states()
            found.append(vectors(update(running)))
            untouched = same(global_states(), before)
        require(untouched, "a global generator was used: draw from problem.generator")
    require(same(*found), "the update depends on the global generators")
    return "noise from problem.generator alone"


def _state(subject: WrapperSubject) -> str:
    """State moves in ``after_step``: an update can be repeated."""
    running = subject.stepper(3)
    for steps in range(STEPS):
        flat, saved, noise = running.flat, snapshot(running.wrapper), running.generator.get_state()
        before, found = flat.data.clone(), []
        for _ in range(2):
            flat.data.copy_(before)
            running.generator.set_state(noise)
            with global_seed(1):
                found.append(vectors(update(running)))
            unchanged = same(snapshot(running.wrapper), saved)
            require(unchanged, f"update() changed the state, after {steps} steps")
        require(same(*found), f"the same update() twice gave two updates, after {steps} steps")
        running.step(batch(3), (infinite, without_gradient)[steps % 2])
        unchanged = same(snapshot(running.wrapper), saved)
        require(unchanged, f"a skipped step changed the state, after {steps} steps")
        flat.data.copy_(before)
        running.step(batch(3, seed=steps), squared)
    return f"update() repeated in each of {STEPS} steps"


def _resume(subject: WrapperSubject) -> str:
    return resumed(subject.stepper)


def _parts(subject: WrapperSubject) -> str:
    """As many ``aggregate`` as ``parts`` says are enough, and all of them are called."""
    running = subject.stepper(3)
    parts, called = running.wrapper.parts, set[int]()

    def counted(part: int, view: GradientView) -> Update:
        called.add(part)
        return running.methods[part].aggregate(view)

    for seed in range(STEPS):
        running.wrapper.update(
            problem(running, seed=seed), *(partial(counted, part) for part in range(parts))
        )
        running.wrapper.after_step()
    idle = sorted(set(range(parts)) - called)
    require(not idle, f"parts is {parts}; never called in {STEPS} steps: aggregate{idle}")
    return f"{parts} called in {STEPS} steps"


def _passes(subject: WrapperSubject) -> str:
    """``passes()`` of the coming step against what it costs, which ``at_most`` lets be less."""
    for (K, steps), method in product(((2, STEPS), (5, 2)), OWN_METHODS):
        running = subject.stepper(K, method=method)
        for seed in range(steps):
            declared = running.coming_passes
            before = replace(running.passes)
            running.step(batch(K, seed=seed), squared)
            found = difference(running.passes, before)
            where = f"step {seed + 1}, K = {K}, {running.methods[0].info.title}"
            pairs = zip(astuple(found), astuple(declared), strict=True)
            within = running.wrapper.at_most and all(spent <= bound for spent, bound in pairs)
            require(
                found == declared or within,
                f"{_written(found)}, declared {_written(declared)}: {where}",
            )
    for method in OWN_METHODS:
        for where, noted in traversed(partial(subject.stepper, method=method), 3, 2):
            heads = sum(noted.values()) - noted[TRUNK]
            # With inputs of its own a task has a graph of its own: a pass runs through one head.
            require(
                "inputs of their own" not in where or heads == noted[TRUNK],
                f"{heads} passes through heads, {noted[TRUNK]} through the trunk: {where}",
            )
    return "K = 2 and 5, methods of one and of K backward passes, as autograd runs them"


def _written(passes: Passes) -> str:
    return f"{passes.forward} forward, {passes.backward} backward, {passes.head_backward} head"


def _dtype(subject: WrapperSubject) -> str:
    for device, dtype in product(devices(), DTYPES):
        running = subject.stepper(3, dtype=dtype, device=device)
        for seed in range(2):
            for v in vectors(update(running, problem(running, seed=seed))):
                kept = v.dtype is dtype and v.device.type == device
                require(kept, f"{dtype} on {device} became {v.dtype} on {v.device.type}")
            running.step(batch(3, seed=seed, like=running.flat.data), squared)
    return f"float32 and float64 on {' and '.join(devices())}"


def _non_finite(subject: WrapperSubject) -> str:
    """A step with a non-finite loss or gradient is skipped, whatever the wrapper makes of it."""
    running = subject.stepper(3)
    for seed in range(STEPS):
        loss = (infinite, without_gradient)[seed % 2]
        report = running.step(batch(3, seed=seed), loss)
        require(report.skipped, f"step {seed + 1} was not skipped: {loss.__name__} losses")
        running.step(batch(3, seed=seed), squared)
    return "infinite losses and NaN gradients are skipped"


CHECKS: tuple[Check[WrapperSubject], ...] = (
    Check("declaration", _declaration, essential=True),
    Check("structure", _structure, essential=True),
    Check("finite", _finite),
    Check("parameters", _parameters),
    Check("statistics", _statistics),
    Check("randomness", _randomness),
    Check("state", _state),
    Check("resume", _resume),
    Check("parts", _parts),
    Check("passes", _passes),
    Check("dtype", _dtype),
    Check("non-finite", _non_finite),
)
