"""What a weighting method is held to: the contract, and the properties that it claims."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mtlbench.errors import UsageError
from mtlbench.interfaces import Claim, MethodInfo, Passes, WeightingMethod, check_update
from mtlbench.registry import METHODS, Spec
from mtlbench.testing.claims import PROPERTIES
from mtlbench.testing.families import (
    EXTREMES,
    FAMILIES,
    Case,
    run_on,
    run_on_equal_tasks,
    runs,
)
from mtlbench.testing.findings import (
    Check,
    Finding,
    Held,
    findings,
    global_seed,
    global_states,
    judged,
    require,
    same,
)
from mtlbench.testing.known import looked
from mtlbench.testing.networks import TRUNK, batch, infinite, squared, without_gradient
from mtlbench.testing.partial import partial_labels
from mtlbench.testing.steps import DTYPES, EPOCH, devices, difference, resumed, snapshot, traversed
from mtlbench.testing.trials import MethodSubject, copied, relative, step, updates, vectors
from mtlbench.testing.ulp import ONE_ULP, one_ulp
from mtlbench.training.stepper import Stepper

CLAIMS: tuple[Claim, ...] = typing.get_args(Claim)
KS, MANY = (2, 3, 11), 40
EVERY = [*FAMILIES, *EXTREMES]
CHEAPER = {"refresh": 3, "at": "representation"}
"""Options known to the kit, with a value that saves backward passes."""


def check_method(spec: str | Spec) -> list[Finding]:
    """Hold a weighting method to its contract and to what it claims.

    What ``info`` declares (claims, passes, whether the update jumps) is about the default options:
    given others, these findings are still made and nothing is held to them.

    Args:
        spec: name and options, or ``my_pkg.mod:MyMethod[:option=value,...]``.

    Returns:
        One finding for each check; the first ones alone if the method has no valid ``info``, or
        returns no valid update.

    Raises:
        UsageError: unknown name or option, or the method cannot be built for every K.
    """
    spec = Spec.parse(spec) if isinstance(spec, str) else spec
    cls, options = METHODS.resolve(spec)
    subject = MethodSubject(spec, cls, options)
    for K in (1, *KS):
        METHODS.build(spec, K)
    declared = options == _defaults(spec, options)

    def held(check: str) -> Held:
        if check in CLAIMS:
            return "claimed" if declared and check in subject.info.claims else "not claimed"
        if check == ONE_ULP and subject.info.discontinuous:
            return "not claimed"
        return "required" if declared or check not in ("passes", ONE_ULP) else "not claimed"

    return findings(subject, CHECKS, held)


def _defaults(spec: Spec, given: dict[str, Any]) -> dict[str, Any]:
    try:
        return METHODS.resolve(Spec(spec.name))[1]
    except UsageError:  # an option without a default
        return given


# ------------------------------------------------------------------------------------ the contract
def _declaration(subject: MethodSubject) -> str:
    info = getattr(subject.cls, "info", None)
    require(isinstance(info, MethodInfo), f"info must be a MethodInfo, not {info!r}")
    unknown = [claim for claim in subject.info.claims if claim not in CLAIMS]
    require(not unknown, f"unknown claims {', '.join(unknown)}; valid: {', '.join(CLAIMS)}")
    return f"{subject.info.title}, {subject.info.year}"


def _structure(subject: MethodSubject) -> str:
    for K in (1, *KS, MANY):
        method = subject.build(K)
        for case in run_on("ordinary", K):
            view = looked(method, case.view())
            sizes = [case.jacobian.shape[1], *(len(head) for head in case.heads)]
            check_update(subject.info.name, method.aggregate(view), view, sizes)
            method.after_step(lambda losses=view.losses: losses)  # type: ignore[misc]
    return f"K = 1, {', '.join(map(str, KS))} and {MANY}"


def _finite(subject: MethodSubject) -> str:
    for dtype, Ks in ((torch.float64, (1, *KS)), (torch.float32, (3,))):
        for run in runs(Ks, EVERY, steps=2):
            method, view = subject.build(run[0].n_tasks), partial(Case.view, dtype=dtype)
            for case, update in zip(run, updates(method, run, view), strict=True):
                finite = all(bool(torch.isfinite(v).all()) for v in vectors(update))
                require(finite, f"not finite: {case.name}, {dtype}")
    return f"{len(EVERY)} families of Jacobians, K = 1, {', '.join(map(str, KS))}"


def _one_task(subject: MethodSubject) -> str:
    """One task alone: the update is the gradient itself."""

    def measured() -> Iterator[tuple[float, str]]:
        for run in runs([1], EVERY):
            for case, update in zip(run, updates(subject.build(1), run), strict=True):
                for found, expected in (
                    (update.shared, case.jacobian[0]),
                    (update.heads[0], case.heads[0]),
                ):
                    yield relative((found - expected).norm(), float(expected.norm())), case.name

    return judged(measured(), 1e-12)


def _equal_tasks(subject: MethodSubject) -> str:
    """K times the same task: the update is parallel to its gradient."""

    def measured() -> Iterator[tuple[float, str]]:
        for K in KS:
            run = run_on_equal_tasks(K)
            for case, update in zip(run, updates(subject.build(K), run), strict=True):
                g = case.jacobian[0]
                unit = update.shared / update.shared.norm()
                yield float((unit - g / g.norm()).norm()), case.name

    return judged(measured())


def _passes(subject: MethodSubject) -> str:
    """``info.passes`` against what a step costs; options that save passes save them."""
    for K in (3, 5):
        running = subject.stepper(K)
        declared, (found, *_) = running.coming_passes, _costs(running, steps=1)
        _compare(found, declared, f"K = {K}")
        for name, value in CHEAPER.items():
            if name in subject.options:
                options = {**subject.spec.options, name: value}
                try:
                    cheaper = replace(subject, spec=Spec(subject.spec.name, options)).stepper(K)
                except UsageError:  # the options do not go together
                    continue
                *_, last = _costs(cheaper, steps=2)
                _compare(last, replace(declared, backward=1), f"K = {K}, {name}={value}")
    further = running.further
    most = 1 + (further.backwards + further.backwards_per_task if further else 0)
    for where, noted in traversed(subject.stepper, 3, 1):
        ran = {name: n for name, n in noted.items() if name != TRUNK}
        require(max(ran.values(), default=0) <= most, f"passes through the heads: {ran}: {where}")
    alone, looks = subject.info.passes(5), subject.info.looks(5)
    text = f"forward {alone.forward}, backward {subject.info.backwards}"
    if not subject.info.further:
        return text
    return f"{text}; a look at K = 5: forward {looks.forward}, backward {looks.backward}"


def _compare(found: Passes, expected: Passes, where: str) -> None:
    """Passes through the trunk are what ``info`` can declare."""
    for kind in ("forward", "backward"):
        passes, declared = getattr(found, kind), getattr(expected, kind)
        require(passes == declared, f"{passes} {kind} passes, declared {declared}: {where}")


def _costs(running: Stepper, steps: int) -> list[Passes]:
    """Passes of each step."""
    totals = [Passes()]
    K = len(running.objectives)
    for seed in range(steps):
        running.step(batch(K, seed=seed), squared)
        totals.append(replace(running.passes))
    return [difference(now, then) for then, now in pairwise(totals)]


def _state(subject: MethodSubject) -> str:
    """State moves in ``after_step`` and ``on_epoch_end`` and nowhere else."""
    K = 3
    *before, now, then = run_on("ordinary", K, steps=4)
    spoilt = Case("", now.losses, now.jacobian * torch.nan, now.heads * torch.nan)

    def trained() -> WeightingMethod:
        method = subject.build(K)
        with global_seed(1):
            updates(method, before)
        return method

    def asked(method: WeightingMethod, case: Case) -> list[Tensor]:
        with global_seed(1):
            return vectors(copied(method.aggregate(looked(method, case.view()))))

    def following(method: WeightingMethod) -> tuple[Any, list[Tensor]]:
        """State after the step, and the next step's update."""
        with global_seed(1):
            method.after_step(lambda: 0.9 * now.losses)
            method.on_epoch_end(EPOCH * len(before), now.losses.clone())
            return snapshot(method), vectors(step(method, then, len(before) + 1))

    method = trained()
    saved = snapshot(method)
    require(same(asked(method, now), asked(method, now)), "aggregate() twice gave two updates")
    found = []
    for earlier in (None, now, then, spoilt):
        method = trained()
        if earlier is not None:
            with suppress(Exception):  # an error is another check's matter
                asked(method, earlier)
        require(same(snapshot(method), saved), "aggregate() changed the state")
        asked(method, now)
        found.append(following(method))
        require(same(found[-1], found[0]), "a second aggregate() in a step changed what is learnt")
    _, after_none = following(trained())
    require(
        all(bool(torch.isfinite(v).all()) for v in after_none),
        "a step without aggregate() leads to an update that is not finite",
    )
    return "0, 1, 2 aggregations a step, and a skipped one"


def _inputs(subject: MethodSubject) -> str:
    """The view's losses and gradients are as they were."""
    for run in runs([3]):
        method = subject.build(3)
        for index, case in enumerate(run):
            view = case.view()
            step(method, case, index, view)
            for name, found, before in (
                ("losses", view.losses, case.losses),
                ("jacobian()", view.jacobian(), case.jacobian),
                ("head_grads()", torch.stack([*view.head_grads()]), case.heads),
            ):
                require(
                    torch.equal(found, before), f"view.{name} was changed in place: {case.name}"
                )
    return f"{len(FAMILIES)} families of Jacobians"


def _randomness(subject: MethodSubject) -> str:
    """Noise comes from ``view.generator``, which is alike on all processes that train together."""
    for K in (1, 3):
        found = []
        for seed in (0, 1):
            with global_seed(seed):
                before = global_states()
                made = updates(subject.build(K), run_on("ordinary", K))
                found.append([vectors(update) for update in made])
                untouched = same(global_states(), before)
            require(
                untouched,
                "a global generator of torch, numpy or Python was used: draw from view.generator",
            )
        require(
            same(*found),
            "two methods alike make two updates of one view, as two processes would: draw from "
            "view.generator alone",
        )
    return "from view.generator alone"


def _resume(subject: MethodSubject) -> str:
    return resumed(subject.stepper)


def _dtype(subject: MethodSubject) -> str:
    """Updates have the gradients' dtype and device."""
    for device in devices():
        for dtype in DTYPES:
            method = subject.build(3).to(device)
            view = partial(Case.view, dtype=dtype, device=device)
            for update in updates(method, run_on("ordinary", 3), view):
                for v in (update.shared, *update.heads):
                    kept = v.dtype is dtype and v.device.type == device
                    require(kept, f"{dtype} on {device} became {v.dtype} on {v.device.type}")
            running = subject.stepper(3, dtype=dtype, device=device)
            running.step(batch(3, like=running.flat.data), squared)
    return f"float32 and float64 on {' and '.join(devices())}"


def _non_finite(subject: MethodSubject) -> str:
    """A step with a non-finite loss or gradient is skipped, whatever the method makes of it."""
    for loss in (infinite, without_gradient):
        running = subject.stepper(3)
        running.step(batch(3), squared)
        before = running.flat.data.clone()
        report = running.step(batch(3), loss)
        require(report.skipped, f"the step was not skipped: {loss.__name__}")
        require(torch.equal(running.flat.data, before), f"parameters moved: {loss.__name__}")
        require(not running.step(batch(3), squared).skipped, "the next step was skipped too")
    return "infinite losses and NaN gradients are skipped"


CHECKS: tuple[Check[MethodSubject], ...] = (
    Check("declaration", _declaration, essential=True),
    Check("structure", _structure, essential=True),
    Check("finite", _finite),
    Check("one task", _one_task),
    Check("equal tasks", _equal_tasks),
    Check("passes", _passes),
    Check("state", _state),
    Check("inputs", _inputs),
    Check("randomness", _randomness),
    Check("resume", _resume),
    Check("dtype", _dtype),
    Check("non-finite", _non_finite),
    Check("partial labels", partial_labels),
    Check(ONE_ULP, one_ulp),
    *PROPERTIES,
)
