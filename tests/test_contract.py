"""What is refused, and how: a method that breaks its contract, and an option out of range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mtlbench import MethodInfo, Stepper, UsageError, WeightingMethod
from mtlbench.errors import ContractError
from mtlbench.interfaces import GradientView, Update
from mtlbench.registry import METHODS as REGISTERED
from mtlbench.registry import Spec
from tests.models import (
    METHODS,
    WRAPPERS,
    make_stepper,
    mse,
    params_of,
    same,
    single_batch,
    snapshot,
    tiny_model,
)

EVERY_WRAPPER = pytest.mark.parametrize("sharpness", WRAPPERS)
Answer = Callable[[GradientView], Any]


class Weighing(WeightingMethod):
    """Returns from ``weights`` whatever it is told to."""

    info = MethodInfo(name="weighing", title="Weighing", year=2026)

    def __init__(self, n_tasks: int, answer: Answer) -> None:
        super().__init__(n_tasks)
        self.answer = answer

    def weights(self, view: GradientView) -> Any:
        return self.answer(view)


class Aggregating(Weighing):
    """Returns from ``aggregate`` whatever it is told to."""

    info = MethodInfo(name="aggregating", title="Aggregating", year=2026)

    def aggregate(self, view: GradientView) -> Any:
        return self.answer(view)


def _good(view: GradientView) -> Update:
    return Update(view.jacobian()[0].clone(), [h.clone() for h in view.head_grads()])


def _but(**changes: Callable[[Update], Any]) -> Answer:
    """A good update with other attributes."""

    def answer(view: GradientView) -> Update:
        update = _good(view)
        for name, change in changes.items():
            setattr(update, name, change(update))
        return update

    return answer


K, P = 3, 77
TENSOR = "a detached floating-point Tensor of shape"
WEIGHTS: dict[str, tuple[Answer, str]] = {
    "too few": (lambda view: torch.ones(2), "not one of shape (2,)"),
    "a column": (lambda view: torch.ones(3, 1), "not one of shape (3, 1)"),
    "a list": (lambda view: [1.0, 1.0, 1.0], "not list"),
    "nothing": (lambda view: None, "not NoneType"),
    "integers": (lambda view: torch.ones(3, dtype=torch.int64), "not one of torch.int64"),
    "a graph": (lambda view: 2 * torch.ones(3, requires_grad=True), "not one with a graph"),
}
UPDATES: dict[str, tuple[Answer, str]] = {
    "a tensor": (lambda view: view.jacobian()[0], "an Update, not Tensor"),
    "nothing": (lambda view: None, "an Update, not NoneType"),
    "a pair": (lambda view: (view.jacobian()[0], view.head_grads()), "an Update, not tuple"),
    "other P": (
        _but(shared=lambda u: torch.zeros(P + 1)),
        f"as shared {TENSOR} ({P},), not one of shape ({P + 1},)",
    ),
    "a row": (
        _but(shared=lambda u: u.shared[None]),
        f"as shared {TENSOR} ({P},), not one of shape (1, {P})",
    ),
    "shared graph": (
        _but(shared=lambda u: u.shared.requires_grad_() * 1),
        f"as shared {TENSOR} ({P},), not one with a graph",
    ),
    "shared integers": (
        _but(shared=lambda u: u.shared.long()),
        f"as shared {TENSOR} ({P},), not one of torch.int64",
    ),
    "a head too few": (_but(heads=lambda u: u.heads[1:]), "3 head gradients, not 2"),
    "a head too many": (_but(heads=lambda u: [*u.heads, u.heads[0]]), "3 head gradients, not 4"),
    "head size": (
        _but(heads=lambda u: [*u.heads[:2], u.heads[2][1:]]),
        f"as heads[2] {TENSOR} (12,), not one of shape (11,)",
    ),
    "no head": (
        _but(heads=lambda u: [u.heads[0], None, u.heads[2]]),
        f"as heads[1] {TENSOR} (12,), not NoneType",
    ),
    "weights": (
        _but(weights=lambda u: torch.ones(4)),
        f"as weights {TENSOR} (3,), not one of shape (4,)",
    ),
}


def _refused(stepper: Stepper, copy: int, method: WeightingMethod) -> str:
    """The message; asserts that nothing has moved, and that a method in its place goes on."""
    good = stepper.methods[copy]
    stepper.step(single_batch(), mse)
    before = snapshot(params_of(stepper.model), stepper.state_dict()["optimizer"])
    stepper.methods[copy] = method
    with pytest.raises(ContractError) as caught:
        stepper.step(single_batch(), mse)
    after = [params_of(stepper.model), stepper.state_dict()["optimizer"]]
    assert same(after, before)
    stepper.methods[copy] = good
    assert not stepper.step(single_batch(), mse).skipped
    assert not same(params_of(stepper.model), before[0])
    return str(caught.value)


def _steppers(sharpness: str) -> list[tuple[Stepper, int]]:
    """One for each copy of the method that may break."""
    parts = make_stepper(tiny_model(), "ls", sharpness).wrapper.parts
    return [
        (make_stepper(tiny_model(), "ls", sharpness, optimizer=torch.optim.Adam), copy)
        for copy in range(parts)
    ]


@EVERY_WRAPPER
@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_are_held_to_the_contract(kind: str, sharpness: str) -> None:
    answer, said = WEIGHTS[kind]
    for stepper, copy in _steppers(sharpness):
        message = _refused(stepper, copy, Weighing(K, answer))
        assert message == f"weighing: weights() must return {TENSOR} (3,), {said}"


@EVERY_WRAPPER
@pytest.mark.parametrize("kind", UPDATES)
def test_an_update_is_held_to_the_contract(kind: str, sharpness: str) -> None:
    answer, said = UPDATES[kind]
    for stepper, copy in _steppers(sharpness):
        assert stepper.flat.shared.stop == P
        message = _refused(stepper, copy, Aggregating(K, answer))
        assert message == f"aggregating: aggregate() must return {said}"


@EVERY_WRAPPER
@pytest.mark.parametrize("n_tasks", [1, 2, 4])
def test_a_method_of_another_number_of_tasks_is_refused(n_tasks: int, sharpness: str) -> None:
    for stepper, copy in _steppers(sharpness):
        message = _refused(stepper, copy, REGISTERED.build("mgda", n_tasks))
        assert message == f"mgda was built for {n_tasks} tasks, the step has 3"


@EVERY_WRAPPER
def test_a_good_update_passes(sharpness: str) -> None:
    stepper = make_stepper(tiny_model(), "ls", sharpness)
    for answer in (_good, _but(weights=lambda u: torch.ones(3))):
        stepper.methods = [Aggregating(K, answer) for _ in stepper.methods]
        assert not stepper.step(single_batch(), mse).skipped


# ---------------------------------------------------------------------------------------- options
SOLVER = ("magic scipy", "cvxpy")
BOUNDS = {
    "at": ("elsewhere heads", "shared representation"),
    "heads": ("none both", "unit weighted"),
    "held_out": ("0 1 -0.1 nan", "0.01 0.5"),
    "refresh": ("0 -1 1.5 often", "1 7"),
    "preference": ("1/-1/1 0/1/1 one 1//2 nan", "uniform 1/2/3"),
    "autolambda.lr": ("0 -1 nan", "0.1"),
    "autolambda.primary": ("", "left left/right"),
    "autolambda.variant": ("free", "paper libmtl"),
    "cagrad.c": ("-0.1 nan wide", "0 1"),
    "cagrad.solver": SOLVER,
    "cosmos.lam": ("-0.1 nan", "0 8"),
    "crmogm.alpha": ("-0.1 1.1 nan", "0 1"),
    "crmogm.method": ("nosuch cagrad:d=1 cagrad:c=wide", "ls cagrad:c=0.2:refresh=2"),
    "db_mtl.beta": ("-0.1 1 nan", "0 0.99"),
    "db_mtl.decay": ("-0.1 nan", "0 2"),
    "dualproj.solver": SOLVER,
    "dwa.temperature": ("0 -1 nan", "0.1 10"),
    "dwa.window": ("-1 0.5 wide", "0 25"),
    "epo.eps": ("0 -1 nan", "0.1"),
    "excessmtl.lr": ("0 -1 nan", "0.01"),
    "fairgrad.alpha": ("0 -1 nan", "0.1 10"),
    "fairgrad.solver": SOLVER,
    "famo.gamma": ("-0.1 nan", "0 1"),
    "famo.lr": ("0 -1 nan fast", "0.1"),
    "famo.min_loss": ("low", "-1 0"),
    "go4align.groups": ("0 -1 1.5", "1 9"),
    "go4align.lr": ("0 -1 nan", "0.1"),
    "forum.eta": ("0 -1 nan", "0.1"),
    "forum.inner": ("0 -1 1.5", "1 7"),
    "forum.lr": ("0 -1 nan", "0.1"),
    "forum.rho": ("0 -1 nan", "0.1"),
    "graddrop.leak": ("-0.1 1.1 nan", "0 1"),
    "gradnorm.alpha": ("-0.1 nan", "0 3"),
    "gradnorm.lr": ("0 -1 nan", "0.1"),
    "gradvac.beta": ("0 1.1 nan", "0.5 1"),
    "imtl.lr": ("0 -1 nan", "0.1"),
    "imtl_l.lr": ("0 -1 nan", "0.1"),
    "ldc_mtl.lam": ("-0.1 nan", "0 1"),
    "ldc_mtl.lr": ("0 -1 nan", "0.1"),
    "ldc_mtl.normalize": ("first", "none initial"),
    "ldc_mtl.tau": ("two", "one weights"),
    "mgda.normalize": ("l1 loss++", "none l2 loss loss+"),
    "mgda.solver": SOLVER,
    "moco.beta": ("0 1.1 nan", "0.1 1"),
    "moco.decay": ("-0.1 nan", "0 1"),
    "moco.gamma": ("0 -1 nan", "0.1"),
    "moco.rho": ("-0.1 nan", "0 1"),
    "modo.gamma": ("0 -1 nan", "0.1"),
    "modo.rho": ("-0.1 nan", "0 1"),
    "moml.eta": ("0 -1 nan", "0.1"),
    "moml.lr": ("0 -1 nan", "0.1"),
    "nashmtl.max_norm": ("-1 nan", "0 2"),
    "nashmtl.solver": SOLVER,
    "pbi.theta": ("-0.1 nan", "0 9"),
    "rlw.distribution": ("uniform", "normal dirichlet"),
    "sam_gs.beta1": ("-0.1 1 nan", "0 0.99"),
    "sam_gs.beta2": ("-0.1 1 nan", "0 0.99"),
    "sam_gs.gamma": ("-0.1 1.1 nan", "0 1"),
    "sam_gs.momentum": ("both", "norm entries"),
    "sdmgrad.draws": ("0 2 two", "1 3"),
    "sdmgrad.lam": ("-0.1 nan", "0 3"),
    "sdmgrad.solver": SOLVER,
    "slaw.beta": ("-0.1 1 nan", "0 0.9"),
    "static.weights": ("one 1/-1/1 0 nan inf 1//2", "1 1/0/2"),
    "stch.mu": ("0 -1 nan", "0.1"),
    "stch.warmup": ("-1 0.5", "0 9"),
    "trimmed_mean.trim": ("-1 0.5", "0 9"),
    "upgrad.solver": SOLVER,
    "uw.lr": ("0 -1 nan", "0.1"),
    "uw_so.temperature": ("0 -1 nan", "0.1 10"),
}
"""Values that are refused, and values that are not; of a method's option, or of all with its
name."""
OPTIONS = [(name, option) for name in METHODS for option in REGISTERED.resolve(Spec(name))[1]]


@pytest.mark.parametrize(("method", "option"), OPTIONS)
def test_an_option_has_its_range(method: str, option: str) -> None:
    own = f"{method}.{option}"
    refused, accepted = BOUNDS[own if own in BOUNDS else option]
    for value in refused.split():
        with pytest.raises(UsageError) as caught:
            REGISTERED.build(f"{method}:{option}={value}", 3)
        assert str(caught.value).startswith(f"method {method!r}: option {option}={value}: ")
    for value in accepted.split():
        assert REGISTERED.build(f"{method}:{option}={value}", 3).n_tasks == 3


def test_every_range_is_of_an_option() -> None:
    assert set(BOUNDS) <= {f"{m}.{o}" for m, o in OPTIONS} | {o for _, o in OPTIONS}
