"""The conformance kit: all that is registered conforms, and each fault is caught by the check that
is meant for it."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtlbench import (
    GradientView,
    MethodInfo,
    Passes,
    SharpnessInfo,
    SharpnessWrapper,
    StepProblem,
    Update,
    UsageError,
    WeightingMethod,
)
from mtlbench.cli import entry, main
from mtlbench.registry import METHODS, SHARPNESS, Spec
from mtlbench.testing import Finding, assert_conforms, check, check_method, check_wrapper
from mtlbench.testing.findings import global_states, same
from mtlbench.testing.trials import MethodSubject, length

Aggregate = Callable[[GradientView], Update]


def failed(found: list[Finding]) -> list[str]:
    return [finding.check for finding in found if finding.failed]


def spec_of(cls: type) -> str:
    return f"{cls.__module__}:{cls.__name__}"


def by_check(found: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in found}


# -------------------------------------------------------------------------------- all conform
LONG = {"epo", "forum"}
"""Methods that solve programmes by the thousand to be checked: seconds each."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in METHODS.names()],
)
def test_a_registered_method_conforms(name: str) -> None:
    assert_conforms(name)


@pytest.mark.parametrize("name", [*SHARPNESS.names(), "samo:noise=shared,points=by-sign"])
def test_a_registered_wrapper_conforms(name: str) -> None:
    assert_conforms(name)


def test_every_method_claims_what_holds_for_any_positive_weights() -> None:
    """An empty ``claims`` is nobody's."""
    assert all(METHODS.get(name).info.claims for name in METHODS.names())


# ---------------------------------------------------------------------------- faulty methods
def info(**declared: Any) -> MethodInfo:
    return MethodInfo(name="faulty", title="Faulty", year=2026, **declared)


class Ones(WeightingMethod):
    info = info(scale="sum")

    def weights(self, view: GradientView) -> Tensor:
        return torch.ones_like(view.losses)


class StateInWeights(Ones):
    calls: Tensor

    def __init__(self, n_tasks: int) -> None:
        super().__init__(n_tasks)
        self.register_buffer("calls", torch.zeros(()))

    def weights(self, view: GradientView) -> Tensor:
        self.calls += 1
        return super().weights(view)


class LearnsFromEveryCall(Ones):
    """Twice as much from two calls in a step."""

    factor: Tensor

    def __init__(self, n_tasks: int) -> None:
        super().__init__(n_tasks)
        self.register_buffer("factor", torch.ones(()))
        self._calls = 0

    def weights(self, view: GradientView) -> Tensor:
        self._calls += 1
        return self.factor.to(view.losses) * super().weights(view)

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        self.factor += 0.01 * self._calls
        self._calls = 0


class NeedsAggregate(Ones):
    """Cannot do a step in which it was not asked."""

    def __init__(self, n_tasks: int) -> None:
        super().__init__(n_tasks)
        self._seen: list[Tensor] = []

    def aggregate(self, view: GradientView) -> Update:
        self._seen = [view.losses]
        return super().aggregate(view)

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        self._seen.pop()


class ClaimsNonConflict(Ones):
    info = info(scale="sum", claims=("non-conflict",))


class Longest(Ones):
    """The longest gradient alone: which of two equal ones, their last bits decide."""

    info = info(backwards="per-task", scale="own")

    def weights(self, view: GradientView) -> Tensor:
        norms = view.gramian().diagonal()
        longest: Tensor = norms == norms.max()
        return longest.to(view.losses)


class LongestByDefinition(Longest):
    info = info(backwards="per-task", discontinuous="where two gradients are equally long")


class ClaimsIdentical(Ones):
    info = info(scale="mean", claims=("identical",))


class ClaimsSimplex(Ones):
    info = info(scale="sum", claims=("simplex",))


class ClaimsPermutation(Ones):
    info = info(claims=("permutation",))

    def weights(self, view: GradientView) -> Tensor:
        return torch.arange(1, self.n_tasks + 1).to(view.losses)


class ClaimsStationarity(Ones):
    """The median of three gradients can be zero where all agree on a direction."""

    info = info(backwards="per-task", claims=("stationarity",))

    def aggregate(self, view: GradientView) -> Update:
        return Update(view.jacobian().median(0).values, view.head_grads())


class UnitGradients(Ones):
    info = info(backwards="per-task")

    def weights(self, view: GradientView) -> Tensor:
        norms = view.gramian().diagonal().sqrt()
        return torch.where(norms > 0, 1 / norms, 0.0)


class ClaimsScaling(UnitGradients):
    info = info(backwards="per-task", claims=("row-scaling", "scaling"))


class ClaimsRowScaling(Ones):
    info = info(claims=("scaling", "row-scaling"))


class UnknownClaim(Ones):
    info = info(claims=("nonconflict",))


class NoInfo(WeightingMethod):
    def weights(self, view: GradientView) -> Tensor:
        return torch.ones_like(view.losses)


class NanOnZeroRows(Ones):
    info = info(backwards="per-task")

    def weights(self, view: GradientView) -> Tensor:
        return 1 / view.gramian().diagonal().sqrt()


class MorePassesThanDeclared(UnitGradients):
    info = info()


class AttachedGraph(Ones):
    def __init__(self, n_tasks: int) -> None:
        super().__init__(n_tasks)
        self.learnt = nn.Parameter(torch.ones(n_tasks))

    def weights(self, view: GradientView) -> Tensor:
        return self.learnt.to(view.losses)


class WrongShape(Ones):
    def weights(self, view: GradientView) -> Tensor:
        return view.losses[1:]


class StateLost(Ones):
    """Learns in an attribute that no checkpoint sees."""

    def __init__(self, n_tasks: int) -> None:
        super().__init__(n_tasks)
        self._factor = 1.0

    def weights(self, view: GradientView) -> Tensor:
        return self._factor * super().weights(view)

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        self._factor /= 2


class KeepsTheViewsBuffer(Ones):
    """Adds the last step's gradients: a view of memory that the next step overwrites."""

    info = info(backwards="per-task")

    last: Tensor

    def __init__(self, n_tasks: int) -> None:
        super().__init__(n_tasks)
        self.register_buffer("last", torch.zeros(n_tasks, 0))
        self._seen = self.last

    def aggregate(self, view: GradientView) -> Update:
        J = self._seen = view.jacobian()
        last = torch.where(self.last.any(1, keepdim=True), self.last, J) if self.last.any() else J
        factor = 1.0 if self.n_tasks == 1 else 0.5
        mixed = factor * J + (1 - factor) * last
        return Update(mixed.sum(0), view.head_grads())

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        self.last = self._seen


class ChangesTheJacobian(Ones):
    info = info(backwards="per-task")

    def weights(self, view: GradientView) -> Tensor:
        view.jacobian().mul_(0.5)
        return super().weights(view)


class ChangesTheLosses(Ones):
    def weights(self, view: GradientView) -> Tensor:
        view.losses.add_(1)
        return super().weights(view)


class GlobalTorchNoise(Ones):
    def weights(self, view: GradientView) -> Tensor:
        return torch.rand_like(view.losses)


class GlobalPythonNoise(Ones):
    def weights(self, view: GradientView) -> Tensor:
        return random.random() * super().weights(view)


class NoiseOfItsOwn(Ones):
    """Of two processes each would draw its own."""

    def __init__(self, n_tasks: int) -> None:
        super().__init__(n_tasks)
        self.noise = random.SystemRandom().random()

    def weights(self, view: GradientView) -> Tensor:
        return self.noise * super().weights(view)


class OneTaskIsDoubled(Ones):
    def aggregate(self, view: GradientView) -> Update:
        return view.combine(2 * super().weights(view))


class Ascends(Ones):
    def weights(self, view: GradientView) -> Tensor:
        return -super().weights(view)


class AlwaysDouble(Ones):
    def aggregate(self, view: GradientView) -> Update:
        update = super().aggregate(view)
        return Update(update.shared.double(), update.heads, update.weights)


class RaisesOnNan(Ones):
    info = info(backwards="per-task")

    def weights(self, view: GradientView) -> Tensor:
        if not torch.isfinite(view.gramian()).all():
            raise ValueError("I wanted numbers")
        return super().weights(view)


class BeginsWithZero(Ones):
    """Losses relative to the first ones, which are 0 for a task that was absent then."""

    first: Tensor
    steps: Tensor

    def __init__(self, n_tasks: int) -> None:
        super().__init__(n_tasks)
        self.register_buffer("first", torch.zeros(n_tasks, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._losses = torch.zeros(n_tasks)

    def weights(self, view: GradientView) -> Tensor:
        self._losses = view.losses
        first = view.losses if self.steps == 0 else self.first.to(view.losses)
        return 1 / (first + 1e-8)

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        if self.steps == 0:
            self.first.copy_(self._losses)
        self.steps += 1


class RemembersInAnAttribute(Ones):
    """What it knows of each task is where a restriction to some of them does not reach."""

    def __init__(self, n_tasks: int) -> None:
        super().__init__(n_tasks)
        self.factors = [1.0] * n_tasks

    def weights(self, view: GradientView) -> Tensor:
        return torch.tensor(self.factors).to(view.losses)


FAULTY_METHODS: dict[type[WeightingMethod], str] = {
    StateInWeights: "state",
    LearnsFromEveryCall: "state",
    NeedsAggregate: "state",
    ClaimsNonConflict: "non-conflict",
    Longest: "one ulp",
    ClaimsIdentical: "identical",
    ClaimsSimplex: "simplex",
    ClaimsPermutation: "permutation",
    ClaimsStationarity: "stationarity",
    ClaimsScaling: "scaling",
    ClaimsRowScaling: "row-scaling",
    UnknownClaim: "declaration",
    NoInfo: "declaration",
    NanOnZeroRows: "finite",
    MorePassesThanDeclared: "passes",
    AttachedGraph: "structure",
    WrongShape: "structure",
    StateLost: "resume",
    KeepsTheViewsBuffer: "resume",
    ChangesTheJacobian: "inputs",
    ChangesTheLosses: "inputs",
    GlobalTorchNoise: "randomness",
    GlobalPythonNoise: "randomness",
    OneTaskIsDoubled: "one task",
    Ascends: "equal tasks",
    AlwaysDouble: "dtype",
    RaisesOnNan: "non-finite",
    BeginsWithZero: "partial labels",
    RemembersInAnAttribute: "partial labels",
}


@pytest.mark.parametrize("cls", FAULTY_METHODS, ids=lambda cls: cls.__name__)
def test_a_faulty_method_is_caught_by_one_check(cls: type[WeightingMethod]) -> None:
    assert failed(check_method(spec_of(cls))) == [FAULTY_METHODS[cls]]


def test_noise_that_no_other_process_has_is_caught() -> None:
    found = by_check(check_method(spec_of(NoiseOfItsOwn)))["randomness"]
    assert found.failed
    assert "as two processes would" in found.detail


@pytest.mark.parametrize("cls", [Ones, UnitGradients])
def test_what_the_faulty_ones_are_made_of_is_without_fault(cls: type[WeightingMethod]) -> None:
    assert_conforms(spec_of(cls))


# --------------------------------------------------------------------------- faulty wrappers
class Around(SharpnessWrapper):
    """Gradients where a step along the mean gradient leads; faults are put into its parts."""

    info = SharpnessInfo(name="faulty", title="Faulty")

    def passes(self, n_tasks: int, method: Passes) -> Passes:
        return Passes(method.forward + 1, method.backward + 1, method.head_backward)

    def update(self, problem: StepProblem, *aggregate: Aggregate) -> Update:
        here = problem.view()
        mean = here.combine(torch.full_like(here.losses, 1 / problem.n_tasks)).shared
        direction = self.direction(problem, mean)
        with problem.flat.shifted((problem.flat.shared, direction, 0.01)):
            return aggregate[0](problem.view(losses=here.losses))

    def direction(self, problem: StepProblem, mean: Tensor) -> Tensor:
        return mean


class AddsAndSubtracts(Around):
    def update(self, problem: StepProblem, *aggregate: Aggregate) -> Update:
        here, shared = problem.view(), problem.flat.data[problem.flat.shared]
        mean = here.combine(torch.full_like(here.losses, 1 / problem.n_tasks)).shared.clone()
        shared.add_(mean, alpha=0.01)
        try:
            return aggregate[0](problem.view(losses=here.losses))
        finally:
            shared.sub_(mean, alpha=0.01)


class ForgetsToComeBack(Around):
    """Restores exactly, but not where a loss raises."""

    def update(self, problem: StepProblem, *aggregate: Aggregate) -> Update:
        here, shared = problem.view(), problem.flat.data[problem.flat.shared]
        mean = here.combine(torch.full_like(here.losses, 1 / problem.n_tasks)).shared.clone()
        before = shared.clone()
        shared.add_(mean, alpha=0.01)
        update = aggregate[0](problem.view(losses=here.losses))
        shared.copy_(before)
        return update


class GlobalNoise(Around):
    def direction(self, problem: StepProblem, mean: Tensor) -> Tensor:
        return torch.randn_like(mean)


class OwnNoise(Around):
    """A generator that no checkpoint sees and no repetition resets."""

    def __init__(self) -> None:
        super().__init__()
        self._generator = torch.Generator()

    def direction(self, problem: StepProblem, mean: Tensor) -> Tensor:
        return torch.randn(mean.shape, generator=self._generator).to(mean)


class CountsInUpdate(Around):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def direction(self, problem: StepProblem, mean: Tensor) -> Tensor:
        self.calls += 1
        return mean


class LosesItsState(Around):
    def __init__(self) -> None:
        super().__init__()
        self._steps = 0

    def direction(self, problem: StepProblem, mean: Tensor) -> Tensor:
        return mean / (1 + self._steps)

    def after_step(self) -> None:
        self._steps += 1


class AsksForTwoParts(Around):
    parts = 2


class CostsMore(Around):
    def passes(self, n_tasks: int, method: Passes) -> Passes:
        return method


class CostsMoreThanAtMost(CostsMore):
    at_most = True


class CostsLess(Around):
    def passes(self, n_tasks: int, method: Passes) -> Passes:
        return Passes(method.forward + 2, method.backward + 1, method.head_backward)


class CostsLessThanAtMost(CostsLess):
    at_most = True


class MovesTheStatistics(Around):
    def update(self, problem: StepProblem, *aggregate: Aggregate) -> Update:
        update = super().update(problem, *aggregate)
        for name, buffer in problem.model.named_buffers():
            if name.endswith("running_mean"):
                buffer.mul_(0.9)
        return update


class NanForNoGradient(Around):
    def direction(self, problem: StepProblem, mean: Tensor) -> Tensor:
        return mean.div(mean.norm())


class ForgetsTheHeads(Around):
    def update(self, problem: StepProblem, *aggregate: Aggregate) -> Update:
        return Update(super().update(problem, *aggregate).shared, [])


class AlwaysSingle(Around):
    def update(self, problem: StepProblem, *aggregate: Aggregate) -> Update:
        update = super().update(problem, *aggregate)
        return Update(update.shared.float(), update.heads)


class SwallowsErrors(Around):
    def update(self, problem: StepProblem, *aggregate: Aggregate) -> Update:
        try:
            return super().update(problem, *aggregate)
        except ArithmeticError:
            nothing = torch.zeros_like(problem.flat.data)
            return Update(nothing[problem.flat.shared], [nothing[s] for s in problem.flat.heads])


class NoPart(Around):
    parts = 0


FAULTY_WRAPPERS: dict[type[SharpnessWrapper], str] = {
    AddsAndSubtracts: "parameters",
    ForgetsToComeBack: "parameters",
    GlobalNoise: "randomness",
    CountsInUpdate: "state",
    LosesItsState: "resume",
    AsksForTwoParts: "parts",
    CostsMore: "passes",
    CostsMoreThanAtMost: "passes",
    CostsLess: "passes",
    MovesTheStatistics: "statistics",
    NanForNoGradient: "finite",
    ForgetsTheHeads: "structure",
    AlwaysSingle: "dtype",
    SwallowsErrors: "non-finite",
    NoPart: "declaration",
}


@pytest.mark.parametrize("cls", FAULTY_WRAPPERS, ids=lambda cls: cls.__name__)
def test_a_faulty_wrapper_is_caught_by_one_check(cls: type[SharpnessWrapper]) -> None:
    assert failed(check_wrapper(spec_of(cls))) == [FAULTY_WRAPPERS[cls]]


@pytest.mark.parametrize("cls", [Around, CostsLessThanAtMost])
def test_what_the_faulty_wrappers_are_made_of_is_without_fault(
    cls: type[SharpnessWrapper],
) -> None:
    assert_conforms(spec_of(cls))


def test_noise_from_elsewhere_breaks_two_rules() -> None:
    assert failed(check_wrapper(spec_of(OwnNoise))) == ["state", "resume"]


# ----------------------------------------------------------------------------------- findings
def test_a_finding_says_what_was_expected_and_what_was_found() -> None:
    found = by_check(check("ls"))
    assert (found["state"].held, found["state"].verdict) == ("required", "ok")
    assert (found["permutation"].held, found["permutation"].verdict) == ("claimed", "ok")
    assert (found["simplex"].held, found["simplex"].verdict) == ("not claimed", "does not hold")
    assert by_check(check("config"))["stationarity"].verdict == "holds"
    wrong = by_check(check(spec_of(ClaimsNonConflict)))["non-conflict"]
    assert (wrong.held, wrong.verdict) == ("claimed", "FAILED")
    assert "rank-deficient" in wrong.detail
    assert "off, more than 1e-06" in wrong.detail


def test_an_update_is_measured_by_itself_not_by_weights_that_cancel() -> None:
    subject = MethodSubject(Spec("upgrad"), *METHODS.resolve(Spec("upgrad")))
    J = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    update = Update(J[2], [], torch.tensor([1e13, 1e13, 1.0]))
    assert length(subject, update, J) == 1
    assert length(subject, Update(0 * J[2], [], update.weights), J) == pytest.approx(1e-3)


def test_a_jump_that_is_declared_is_no_fault() -> None:
    found = by_check(check(spec_of(LongestByDefinition)))["one ulp"]
    assert (found.held, found.passed, found.failed) == ("not claimed", False, False)
    assert "of its length: " in found.detail


def test_an_error_of_the_method_is_its_finding() -> None:
    assert by_check(check(spec_of(RaisesOnNan)))["non-finite"].detail == (
        "ValueError: I wanted numbers"
    )


def test_without_a_valid_update_nothing_else_is_checked() -> None:
    assert list(by_check(check(spec_of(WrongShape)))) == ["declaration", "structure"]


@pytest.mark.parametrize("spec", ["mgda:at=representation", "fairgrad:refresh=3", "cagrad:c=0"])
def test_what_is_declared_is_about_the_default_options(spec: str) -> None:
    found = check(spec)
    assert failed(found) == []
    assert {f.held for f in found if f.check in ("passes", "permutation")} == {"not claimed"}


def test_what_is_given_as_it_is_anyway_is_held() -> None:
    assert by_check(check("cagrad:c=0.4"))["scaling"].held == "claimed"


def test_a_failure_is_an_assertion_that_says_why() -> None:
    with pytest.raises(AssertionError, match=r"NanOnZeroRows does not conform:\n") as caught:
        assert_conforms(spec_of(NanOnZeroRows))
    assert "\nfinite (required): not finite: " in str(caught.value)


def test_the_kit_leaves_the_global_generators_alone() -> None:
    before = global_states()
    check(spec_of(GlobalTorchNoise))
    check(spec_of(GlobalPythonNoise))
    check(spec_of(GlobalNoise))
    assert same(global_states(), before)


def test_an_unknown_option_and_what_is_none_of_them_are_refused() -> None:
    with pytest.raises(UsageError, match="no option 'x'"):
        check("ls:x=1")
    kinds = r"is no WeightingMethod(.|\n)*is no SharpnessWrapper(.|\n)*is no Task"
    with pytest.raises(UsageError, match=kinds):
        check("tests.toy_task:RECIPE")


# ------------------------------------------------------------------------------ command line
@pytest.mark.parametrize("name", ["ls", "none", "static:weights=2"])
def test_the_command_prints_a_table(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", name]) == 0
    out = capsys.readouterr().out
    assert "resume" in out
    assert "required" in out
    assert "FAILED" not in out


def test_the_command_fails_where_a_check_does(capsys: pytest.CaptureFixture[str]) -> None:
    spec = spec_of(StateInWeights)
    assert main(["check", spec]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert f"{spec} does not conform: state\n" in out


def test_an_unknown_name_is_refused_with_the_valid_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["check", "nosuch"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    for said in ("unknown method 'nosuch'", "unknown sharpness wrapper 'nosuch'"):
        assert said in err
    assert all(name in err for name in [*METHODS.names(), *SHARPNESS.names()])


MINE = """
import torch
from mtlbench import MethodInfo, WeightingMethod

class Mine(WeightingMethod):
    info = MethodInfo(name="mine", title="Mine", year=2026)

    def weights(self, view):
        return torch.ones_like(view.losses)
"""


def test_a_file_in_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "found_here.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["mtlbench", "check", "found_here:Mine"])
    with pytest.raises(SystemExit) as ended:
        entry()
    assert ended.value.code == 0
    assert "found_here:Mine" in capsys.readouterr().out
