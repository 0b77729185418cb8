"""IMTL-G: equal projections."""

import pytest
import torch

from mtlbench.methods.imtl_g import IMTLG
from tests.models import assert_close, dense_view, make_stepper, mse, single_batch, tiny_model


@pytest.mark.parametrize(("K", "P"), [(2, 5), (3, 7), (6, 20)])
def test_the_weights_are_those_of_the_papers_closed_form(K: int, P: int) -> None:
    view = dense_view(K, P)
    J = view.jacobian()
    unit = J / J.norm(dim=1, keepdim=True)
    D, U = J[:1] - J[1:], unit[:1] - unit[1:]
    rest = J[0] @ U.T @ torch.linalg.inv(D @ U.T)
    w = IMTLG(K).weights(view)
    assert_close(w, torch.cat([1 - rest.sum().reshape(1), rest]), 1e-8)
    projections = unit @ (w @ J)
    assert_close(projections, projections.mean().expand(K), 1e-8)


def test_copies_of_a_task_share_its_weight() -> None:
    view = dense_view(3)
    view.jacobian()[1] = view.jacobian()[0]
    w = IMTLG(3).weights(view)
    pair = dense_view(2)
    pair.jacobian().copy_(view.jacobian()[[0, 2]])
    assert float(w[0]) == pytest.approx(float(w[1]))
    assert_close(w @ view.jacobian(), IMTLG(2).aggregate(pair).shared)


def test_one_task_zero_rows_and_opposite_rows() -> None:
    view = dense_view(1)
    assert_close(IMTLG(1).aggregate(view).shared, view.jacobian()[0])
    view = dense_view()
    view.jacobian()[1] = 0
    assert float(IMTLG(3).weights(view)[1]) == 0
    view.jacobian().zero_()
    assert_close(IMTLG(3).weights(view), torch.full((3,), 1 / 3, dtype=torch.float64))
    view, method = dense_view(2), IMTLG(2)
    view.jacobian()[1] = -2 * view.jacobian()[0]
    assert_close(method.weights(view), torch.full((2,), 0.5).double())
    method.after_step(lambda: view.losses)
    assert method.diagnostics() == {"solver_fallbacks": 1}


def test_at_the_representation_the_trunk_is_passed_once() -> None:
    stepper = make_stepper(tiny_model(), "imtl_g:at=representation")
    stepper.step(single_batch(), mse)
    assert (stepper.passes.backward, stepper.passes.head_backward) == (1, 3)
