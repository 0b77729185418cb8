"""CAGrad: the ball around the mean gradient."""

import cvxpy as cp
import numpy as np
import pytest
import torch

from mtlbench.engine.gramian import Array
from mtlbench.interfaces import DenseView
from mtlbench.methods.cagrad import CAGrad
from tests.models import assert_close, dense_view

CASES = pytest.mark.parametrize(("K", "P"), [(2, 5), (3, 7), (6, 20), (5, 3)])


def _gramian(K: int, P: int) -> Array:
    return dense_view(K, P, seed=K).gramian().numpy()


@CASES
@pytest.mark.parametrize("c", [0.2, 0.4, 1.5])
def test_the_update_is_that_of_cvxpy(K: int, P: int, c: float) -> None:
    G, ones = _gramian(K, P), np.ones(K)
    w = CAGrad(K, c=c).solve(G, ones)
    difference = w - CAGrad(K, c=c, solver="cvxpy").solve(G, ones)
    assert difference @ G @ difference <= 1e-9 * np.trace(G)


@CASES
def test_the_update_is_on_the_ball_and_the_worst_task_gains(K: int, P: int) -> None:
    c, view = 0.4, dense_view(K, P, seed=K)
    J = view.jacobian()
    mean, d = J.mean(0), CAGrad(K, c=c).aggregate(view).shared * (1 + c**2)
    assert (d - mean).norm() == pytest.approx(float(c * mean.norm()), rel=1e-6)
    assert (J @ d).min() >= (J @ mean).min()
    for _ in range(50):  # no other point of the ball does better by its worst task
        other = torch.randn(J.shape[1], generator=view.generator).double()
        other = mean + c * mean.norm() * other / other.norm()
        assert (J @ other).min() <= (J @ d).min() + 1e-9


def test_without_a_radius_it_is_the_mean_gradient() -> None:
    view = dense_view()
    assert_close(CAGrad(3, c=0.0).aggregate(view).shared, view.jacobian().mean(0))


def test_heads_have_their_own_gradients() -> None:
    view = dense_view()
    assert all(map(torch.equal, CAGrad(3).aggregate(view).heads, view.head_grads()))


def test_cancelling_and_zero_gradients_give_finite_weights() -> None:
    opposite = dense_view(2)
    opposite.jacobian()[1] = -opposite.jacobian()[0]
    nothing = dense_view(2)
    nothing.jacobian().zero_()
    for view in (opposite, nothing):
        method = CAGrad(2)
        update = method.aggregate(view)
        assert update.shared.norm() < 1e-6
        assert method.diagnostics() == {"solver_fallbacks": 0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cancelling_gradients_do_not_blow_up_the_update(dtype: torch.dtype) -> None:
    """A direction that is rounding error has no weight: the update stays in the ball."""
    view = dense_view()
    J = view.jacobian().to(dtype)
    J[1] = -J[0]
    update = CAGrad(3).aggregate(DenseView(view.losses.to(dtype), J, list(J), view.generator))
    assert update.shared.norm() <= 1.4 / 1.16 * J.mean(0).norm() * (1 + 1e-6)


def _best_worst_case(J: Array, c: float) -> float:
    """Of all points of the ball, by how much the task that gains least gains."""
    mean, d, least = J.mean(axis=0), cp.Variable(J.shape[1]), cp.Variable()
    ball = cp.norm(d - mean) <= c * np.linalg.norm(mean)
    problem = cp.Problem(cp.Maximize(least), [J @ d >= least, ball])
    return float(problem.solve(solver=cp.CLARABEL))


def _point(J: Array, c: float) -> Array:
    """Of the ball."""
    return np.asarray((1 + c**2) * CAGrad(len(J), c=c).solve(J @ J.T, np.ones(len(J))) @ J)


CANCELLING = np.array([[1.0, 0.0], [-1.0, 0.0], [0.3, 1.0]])


@pytest.mark.parametrize("c", [0.4, 1.0])
def test_where_gradients_cancel_it_is_the_projected_mean(c: float) -> None:
    """The mean gradient, which conflicts with the second, was returned before."""
    d = _point(CANCELLING, c)
    np.testing.assert_allclose(d, [0, 1 / 3], atol=1e-9)
    assert (CANCELLING @ d).min() >= -1e-9
    assert _best_worst_case(CANCELLING, c) == pytest.approx(0, abs=1e-6)


def test_it_is_best_in_its_ball_and_steady_where_the_ball_meets_the_cone() -> None:
    """The projected mean is 0.1 away, as far as a ball with c = 0.287 reaches."""
    edge, points = 0.1 / float(np.linalg.norm(CANCELLING.mean(axis=0))), []
    for c in (0.1, 0.2, edge - 1e-4, edge, edge + 1e-4, 0.5):
        d, mean = _point(CANCELLING, c), CANCELLING.mean(axis=0)
        assert np.linalg.norm(d - mean) <= c * np.linalg.norm(mean) * (1 + 1e-6)
        assert (CANCELLING @ d).min() == pytest.approx(_best_worst_case(CANCELLING, c), abs=1e-6)
        points.append(d)
    np.testing.assert_allclose(points[2], points[4], atol=2e-2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("c", [0.2, 0.6, 1.0])
def test_no_point_of_the_ball_is_better_where_some_gradients_cancel(seed: int, c: float) -> None:
    rng = np.random.default_rng(seed)
    J = rng.standard_normal((6, 9))
    J[3] = -rng.uniform(0.5, 1.5, 3) @ J[:3]
    assert (J @ _point(J, c)).min() == pytest.approx(_best_worst_case(J, c), abs=1e-5)
