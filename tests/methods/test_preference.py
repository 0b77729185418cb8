"""A preference: how much each task is to count, for the methods that know one."""

import numpy as np
import pytest
import torch

from mtlbench import UsageError
from mtlbench.engine.restrict import restricted
from mtlbench.interfaces import DenseView
from mtlbench.methods.dualproj import DualProj
from mtlbench.methods.upgrad import UPGrad
from mtlbench.registry import METHODS
from mtlbench.runs.spec import RunSpec, prepare
from tests.models import assert_close, dense_view
from tests.reference_methods import dual_cone_by_enumeration
from tests.toy_task import TOY

WITH_ONE = ("aligned_mtl", "config", "cosmos", "dualproj", "epo", "pbi", "upgrad")
P = torch.tensor([1.0, 2.0, 0.5]).double()
"""As TorchJD's ``pref_vector``; its updates are these to 1e-11, with a ridge of 1e-14 in place of
1e-4 where it solves a quadratic programme."""


def _update(text: str, seed: int = 0) -> torch.Tensor:
    return METHODS.build(text, 3).aggregate(dense_view(seed=seed)).shared


@pytest.mark.parametrize("seed", range(5))
def test_updates_are_those_of_the_formulas(seed: int) -> None:
    J = dense_view(seed=seed).jacobian()
    p = P / P.sum()
    each = torch.stack([dual_cone_by_enumeration(J, g) for g in J])
    assert_close(_update("upgrad:preference=1/2/0.5", seed), p @ each, 1e-6)
    whole = dual_cone_by_enumeration(J, p @ J)
    assert_close(_update("dualproj:preference=1/2/0.5", seed), whole, 1e-6)
    U, sizes, Vt = torch.linalg.svd(J, full_matrices=False)
    aligned = sizes.min() * (P / P.mean()) @ U @ Vt
    assert_close(_update("aligned_mtl:preference=1/2/0.5", seed), aligned)
    units = J / J.norm(dim=1, keepdim=True)
    x = torch.linalg.pinv(units) @ P
    length = sum(float(g @ x / x.norm()) for g in J)
    assert_close(_update("config:preference=1/2/0.5", seed), length * x / x.norm())


@pytest.mark.parametrize("method", WITH_ONE)
def test_ratios_count_and_uniform_is_the_default(method: str) -> None:
    assert torch.equal(_update(method), _update(f"{method}:preference=uniform"))
    assert_close(_update(f"{method}:preference=3/3/3"), _update(method), 1e-12)
    few, many = (_update(f"{method}:preference={text}") for text in ("1/2/0.5", "10/20/5"))
    assert_close(few, many, 1e-12)
    assert not torch.allclose(few, _update(method))


@pytest.mark.parametrize("method", WITH_ONE)
def test_there_is_one_number_a_task_and_it_is_positive(method: str) -> None:
    with pytest.raises(UsageError, match="preference=1/2: 2 numbers for 3 tasks"):
        METHODS.build(f"{method}:preference=1/2", 3)
    with pytest.raises(UsageError, match="'1/0/2' is no list of positive numbers"):
        METHODS.build(f"{method}:preference=1/0/2", 3)


@pytest.mark.parametrize("method", WITH_ONE)
def test_tasks_without_a_label_leave_the_ratios_of_the_others(method: str) -> None:
    whole = METHODS.build(f"{method}:preference=1/2/0.5", 3)
    few, view = METHODS.build(f"{method}:preference=1/0.5", 2), dense_view()
    tasks = [0, 2]
    part = DenseView(
        view.losses[tasks], view.jacobian()[tasks], view.head_grads()[:2], view.generator
    )
    with restricted(whole, tasks):
        found = whole.aggregate(part).shared
    assert_close(found, few.aggregate(part).shared, 1e-12)


@pytest.mark.parametrize("method", ["aligned_mtl", "config", "dualproj", "upgrad"])
def test_earlier_runs_keep_their_identity(method: str) -> None:
    plain, said, other = (
        prepare(RunSpec(TOY, method + text)).identity
        for text in ("", ":preference=uniform", ":preference=1/2")
    )
    assert "preference" not in plain.method_options
    assert plain.digest == said.digest != other.digest


def test_a_uniform_preference_changes_no_bit() -> None:
    for K in (3, 7):
        assert np.array_equal(UPGrad(K).references(), np.eye(K))
        assert np.array_equal(DualProj(K).references(), np.full((1, K), 1 / K))
