"""The solvers on the Gramian: optimality conditions, the reference, symmetries, limits."""

import warnings
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mtlbench.interfaces.gradients import inner_products
from mtlbench.methods._cosines import SolveError
from mtlbench.methods._solvers import (
    FAIR_RIDGE,
    cagrad_dual,
    fair,
    min_norm,
    project_dual_cone,
)

Array = NDArray[np.float64]
TOL = 1e-8


def _random(k: int, rng: np.random.Generator) -> Array:
    return rng.standard_normal((k, 3 * k + 5))


def _aligned(k: int, rng: np.random.Generator) -> Array:
    return _random(k, rng) + 2 * rng.standard_normal(3 * k + 5)


def _ill_conditioned(k: int, rng: np.random.Generator) -> Array:
    u, _, v = np.linalg.svd(_random(k, rng), full_matrices=False)
    return np.asarray(u * np.geomspace(1, 1e-5, k) @ v)


def _low_rank(k: int, rng: np.random.Generator) -> Array:
    return rng.standard_normal((k, max(1, k // 2)))


def _low_rank_aligned(k: int, rng: np.random.Generator) -> Array:
    return np.abs(_low_rank(k, rng)) + 0.1


def _duplicates(k: int, rng: np.random.Generator) -> Array:
    return _aligned(k, rng)[np.arange(k) // 2]


def _opposite_pair(k: int, rng: np.random.Generator) -> Array:
    j = _random(k, rng)
    j[-1] = -j[0] if k > 1 else j[0]
    return j


def _unequal_opposite_pair(k: int, rng: np.random.Generator) -> Array:
    j = _opposite_pair(k, rng)
    j[-1] *= 3
    return j


def _zero_row(k: int, rng: np.random.Generator) -> Array:
    j = _aligned(k, rng)
    j[k // 2] = 0
    return j


def _parallel(k: int, rng: np.random.Generator) -> Array:
    return np.outer(np.arange(1.0, k + 1), rng.standard_normal(7))


def _scaled_rows(k: int, rng: np.random.Generator) -> Array:
    j: Array = _aligned(k, rng) * rng.permutation(np.logspace(-6, 6, k))[:, None]
    return j


def _scaled_conflicting_rows(k: int, rng: np.random.Generator) -> Array:
    j: Array = _random(k, rng) * rng.permutation(np.logspace(-6, 6, k))[:, None]
    return j


MODERATE: list[Callable[[int, np.random.Generator], Array]] = [
    _random, _aligned, _ill_conditioned, _low_rank, _low_rank_aligned, _duplicates,
    _opposite_pair, _unequal_opposite_pair, _zero_row, _parallel,
]  # fmt: skip
FAMILIES = [*MODERATE, _scaled_rows, _scaled_conflicting_rows]
SIZES = [1, 2, 3, 11, 40, 100]
families = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__.strip("_"))
moderate = pytest.mark.parametrize("family", MODERATE, ids=lambda f: f.__name__.strip("_"))
sizes = pytest.mark.parametrize("k", SIZES)
Family = Callable[[int, np.random.Generator], Array]


def _jacobian(family: Family, k: int) -> Array:
    return family(k, np.random.default_rng(k))


def _assert_simplex(w: Array, k: int) -> None:
    assert w.shape == (k,)
    assert (w >= 0).all()
    assert w.sum() == pytest.approx(1, abs=1e-12)


def _cagrad_objective(j: Array, w: Array, c: float) -> float:
    g0, gw = j.mean(axis=0), j.T @ w
    return float(gw @ g0 + c * np.linalg.norm(g0) * np.linalg.norm(gw))


def _fair_gramian(j: Array) -> Array:
    """The Gramian that ``fair`` documents: zero rows replaced, a ridge where gradients cancel."""
    norms = np.linalg.norm(j, axis=1)
    units = j[norms > 0] / norms[norms > 0, None]
    q = float(np.sum((units.T @ min_norm(units @ units.T)) ** 2))
    squares = np.where(norms > 0, norms**2, np.mean(norms[norms > 0] ** 2))
    gramian = j @ j.T
    np.fill_diagonal(gramian, squares * (1 + max(0.0, FAIR_RIDGE - q)))
    return gramian


@sizes
@families
def test_min_norm_meets_its_optimality_conditions(family: Family, k: int) -> None:
    j = _jacobian(family, k)
    w = min_norm(j @ j.T)
    _assert_simplex(w, k)
    # x is the nearest point of the hull to 0 if and only if no row lies below x along x.
    norms, x = np.linalg.norm(j, axis=1), j.T @ w
    assert (j @ x - x @ x >= -TOL * norms * (w @ norms)).all()


@sizes
@families
def test_cagrad_meets_its_optimality_conditions(family: Family, k: int) -> None:
    j = _jacobian(family, k)
    norms, g0 = np.linalg.norm(j, axis=1), j.mean(axis=0)
    for c in (0.1, 0.4, 1.0, 2.0):
        w = cagrad_dual(j @ j.T, c)
        _assert_simplex(w, k)
        gw = j.T @ w
        length = float(np.linalg.norm(gw))
        if length > 1e-6 * (w @ norms):  # elsewhere the objective has a kink: see the cvxpy test
            gradient = j @ (g0 + c * np.linalg.norm(g0) * gw / length)
            scale = norms * float(np.linalg.norm(g0))
            assert (gradient - w @ gradient >= -TOL * scale * (w @ norms) / length).all()


@sizes
@families
def test_fair_meets_its_condition(family: Family, k: int) -> None:
    j = _jacobian(family, k)
    if not np.any(j):
        return
    gramian = _fair_gramian(j)
    for alpha in (0.5, 1.0, 2.0, 5.0):
        w = fair(j @ j.T, alpha)
        assert w.shape == (k,)
        assert np.isfinite(w).all()
        assert (w > 0).all()
        pull = w ** (-1 / alpha)
        rounding = 4 * k * np.finfo(np.float64).eps * (np.abs(gramian) @ w)
        assert (np.abs(gramian @ w - pull) <= TOL * pull + rounding).all()
        if family in (_random, _aligned, _low_rank_aligned, _duplicates, _parallel, _scaled_rows):
            # No ridge, and the residual of the original condition as promised.
            assert np.abs((j @ (j.T @ w)) / pull - 1).max() <= TOL


@sizes
@families
def test_projection_is_in_the_dual_cone_and_orthogonal(family: Family, k: int) -> None:
    j = _jacobian(family, k)
    reference = np.random.default_rng(k + 1).standard_normal(k)
    w = project_dual_cone(j @ j.T, reference)
    v, norms, x = w - reference, np.linalg.norm(j, axis=1), j.T @ w
    size = norms @ (np.abs(reference) + v)
    assert (v >= 0).all()
    assert (j @ x >= -TOL * norms * size).all()
    assert abs(v @ (j @ x)) <= TOL * size**2


def _some_cancel(k: int, seed: int) -> Array:
    """Strictly weakly stationary: positive weights of the first rows cancel them."""
    rng = np.random.default_rng(seed)
    j, m = rng.standard_normal((k, k + 4)), int(rng.integers(1, k - 1))
    j[m] = -rng.uniform(0.5, 1.5, m) @ j[:m]
    return j


def _onto_dual_cone(j: Array, g: Array) -> Array:
    """By duality, without a ridge: the cone itself has no interior that an interior point needs."""
    v = cp.Variable(len(j), nonneg=True)
    cp.Problem(cp.Minimize(cp.sum_squares(g + j.T @ v))).solve(solver=cp.CLARABEL)
    return np.asarray(g + j.T @ v.value)


def test_gradients_that_cancel_have_projections_by_moderate_weights() -> None:
    """Five of eleven cancel: weights of 1.8e13, along which a loss grew, were returned before."""
    rng = np.random.default_rng(48)
    j = rng.standard_normal((11, 15))
    j[4] = -rng.uniform(0.5, 1.5, 4) @ j[:4]
    w = project_dual_cone(j @ j.T, np.eye(11))
    assert np.abs(w).max() < 100
    for k in range(11):
        np.testing.assert_allclose(w[k] @ j, _onto_dual_cone(j, j[k]), atol=1e-4)


@pytest.mark.parametrize("k", [5, 8, 12, 20])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_projections_at_weakly_stationary_gradients(k: int, dtype: type) -> None:
    """Relative to what is projected; float32 is certified to the root of its rounding error."""
    eps = float(np.finfo(dtype).eps)
    for seed in range(20):
        exact = _some_cancel(k, seed)
        j = exact.astype(dtype).astype(np.float64)
        norms = np.linalg.norm(j, axis=1)
        gramian = inner_products(torch.from_numpy(exact.astype(dtype))).numpy()
        w = project_dual_cone(gramian, np.eye(k), resolution=eps)
        x, growth = w @ j, -(w @ j @ j.T) / norms / norms[:, None]
        assert np.abs(w).max() < 100
        assert growth.max() <= eps**0.5
        if seed < 2:
            for mine, g in zip(x, exact, strict=True):
                error = mine - _onto_dual_cone(exact, g)
                assert np.linalg.norm(error) <= 1e-3 * np.linalg.norm(g)


@pytest.mark.parametrize("k", [2, 3, 11])
@moderate
def test_nothing_beats_the_fast_solvers(family: Family, k: int) -> None:
    j = _jacobian(family, k)
    gramian, largest = j @ j.T, float(np.linalg.norm(j, axis=1).max())
    fast, certified = j.T @ min_norm(gramian), j.T @ min_norm(gramian, "cvxpy")
    optimum = float(certified @ certified)
    assert fast @ fast <= optimum + TOL * max(optimum, TOL * largest**2)
    np.testing.assert_allclose(fast, certified, atol=1e-4 * largest)

    for c in (0.4, 1.0):
        scale = largest * float(np.linalg.norm(j.mean(axis=0)))
        value = _cagrad_objective(j, cagrad_dual(gramian, c), c)
        bound = _cagrad_objective(j, cagrad_dual(gramian, c, "cvxpy"), c)
        assert value <= bound + TOL * scale
        assert value == pytest.approx(bound, abs=1e-6 * scale + 1e-15)

    r = np.random.default_rng(k).random(k)
    fast = j.T @ project_dual_cone(gramian, r)
    certified = j.T @ project_dual_cone(gramian, r, "cvxpy")
    np.testing.assert_allclose(fast, certified, atol=1e-4 * largest)


@pytest.mark.parametrize("k", [2, 11])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
@pytest.mark.parametrize("family", [_random, _aligned, _duplicates, _zero_row, _opposite_pair])
def test_fair_agrees_with_cvxpy(family: Family, k: int, alpha: float) -> None:
    gramian = _jacobian(family, k) @ _jacobian(family, k).T
    np.testing.assert_allclose(fair(gramian, alpha), fair(gramian, alpha, "cvxpy"), rtol=1e-3)


@pytest.mark.parametrize("family", [_aligned, _low_rank])
def test_forty_tasks_against_cvxpy(family: Family) -> None:
    j = _jacobian(family, 40)
    gramian = j @ j.T
    fast, certified = min_norm(gramian), min_norm(gramian, "cvxpy")
    np.testing.assert_allclose(j.T @ fast, j.T @ certified, atol=1e-5)
    value, bound = (_cagrad_objective(j, w, 0.4) for w in (
        cagrad_dual(gramian, 0.4), cagrad_dual(gramian, 0.4, "cvxpy")))  # fmt: skip
    assert value <= bound + TOL * abs(bound)


def test_pinned_values() -> None:
    # Two orthogonal gradients of squared norm 1 and 4, then a pair at 120 degrees.
    orthogonal, wide = np.diag([1.0, 4.0]), np.array([[1.0, -0.5], [-0.5, 1.0]])
    np.testing.assert_allclose(min_norm(orthogonal), [0.8, 0.2], atol=1e-12)
    np.testing.assert_allclose(cagrad_dual(wide, 0.4), [0.5, 0.5], atol=1e-9)
    np.testing.assert_allclose(fair(orthogonal, 1.0), [1.0, 0.5], rtol=1e-9)
    np.testing.assert_allclose(fair(orthogonal, 2.0), [1.0, 4 ** (-2 / 3)], rtol=1e-9)
    np.testing.assert_allclose(project_dual_cone(wide, [1.0, 0.0]), [1.0, 0.5], atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 11])
@families
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_the_gramian(family: Family, k: int, scale: float) -> None:
    j = _jacobian(family, k)
    gramian, norms, r = j @ j.T, np.linalg.norm(j, axis=1), np.ones(k)
    for solve in _SIMPLEX:
        # The weights of dependent rows are not unique, their combination is.
        one, other = solve(gramian), solve(scale * gramian)
        size = max(float(norms @ one), float(norms.max()) * 1e-12)
        np.testing.assert_allclose(j.T @ other, j.T @ one, atol=3e-7 * size)
    np.testing.assert_allclose(
        j.T @ project_dual_cone(scale * gramian, r), j.T @ project_dual_cone(gramian, r),
        atol=1e-7 * float(norms.sum()),
    )  # fmt: skip
    for alpha in (1.0, 2.0):
        expected = fair(gramian, alpha)
        if np.any(gramian):
            expected *= scale ** (-alpha / (alpha + 1))
        np.testing.assert_allclose(fair(scale * gramian, alpha), expected, rtol=1e-6)


_SIMPLEX: list[Callable[[Array], Array]] = [
    min_norm,
    lambda g: cagrad_dual(g, 0.0),
    lambda g: cagrad_dual(g, 0.4),
    lambda g: cagrad_dual(g, 1.0),
]
_ALL: list[Callable[[Array], Array]] = [
    *_SIMPLEX,
    lambda g: fair(g, 1.0),
    lambda g: fair(g, 2.0),
    lambda g: project_dual_cone(g, np.ones(len(g))),
]


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(2, 8))
@settings(max_examples=30, deadline=None)
def test_permuted_tasks_get_permuted_weights(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    gramian, order = (j := _random(k, rng)) @ j.T, rng.permutation(k)
    for solve in _ALL:
        permuted = solve(gramian[np.ix_(order, order)])
        np.testing.assert_allclose(permuted, solve(gramian)[order], atol=1e-7)


@given(
    bad=st.sampled_from([np.nan, np.inf, -np.inf]),
    k=st.integers(1, 5),
    where=st.tuples(st.integers(0, 4), st.integers(0, 4)),
)
@settings(max_examples=30, deadline=None)
def test_input_that_is_not_finite_raises(bad: float, k: int, where: tuple[int, int]) -> None:
    gramian = np.eye(k)
    gramian[where[0] % k, where[1] % k] = bad
    for solve in _ALL:
        with pytest.raises(SolveError, match="not finite"):
            solve(gramian)


@pytest.mark.parametrize(
    ("gramian", "message"),
    [
        (np.ones(3), "shape"),
        (np.ones((2, 3)), "shape"),
        (np.ones((0, 0)), "shape"),
        (-np.eye(2), "diagonal"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), "positive semi-definite"),
    ],
)
def test_what_is_no_gramian_raises(gramian: Array, message: str) -> None:
    with pytest.raises(SolveError, match=message):
        min_norm(gramian)


def test_wrong_arguments_name_the_bad_value() -> None:
    g: Any = np.eye(2)
    wrong: Any = "simplex"
    with pytest.raises(ValueError, match="'nnls' or 'cvxpy', not 'simplex'"):
        min_norm(g, wrong)
    with pytest.raises(ValueError, match=r"-0\.1"):
        cagrad_dual(g, -0.1)
    with pytest.raises(ValueError, match="alpha"):
        fair(g, 0.0)
    for reference in ([1.0], [1.0, np.nan]):
        with pytest.raises(SolveError, match="reference"):
            project_dual_cone(g, reference)


def test_limits_follow_the_stated_rules() -> None:
    zeros = np.zeros((3, 3))
    for solve in _SIMPLEX:
        np.testing.assert_array_equal(solve(zeros), np.full(3, 1 / 3))
    np.testing.assert_array_equal(fair(zeros, 2.0), np.ones(3))
    np.testing.assert_array_equal(project_dual_cone(zeros, [1, -2, 3]), [1, -2, 3])

    # A zero row: all the weight of MGDA; the mean squared norm and no coupling in FairGrad.
    gramian = np.diag([0.0, 1.0, 4.0])
    np.testing.assert_array_equal(min_norm(gramian), [1, 0, 0])
    np.testing.assert_allclose(fair(gramian, 1.0), [2.5**-0.5, 1, 0.5])
    assert project_dual_cone(gramian, [-1.0, 1.0, 1.0])[0] == -1

    # Exactly opposite gradients: no solution of FairGrad's condition without the ridge.
    w = fair(np.array([[1.0, -1.0], [-1.0, 1.0]]), 1.0)
    np.testing.assert_allclose(w, FAIR_RIDGE**-0.5, rtol=1e-6)
    np.testing.assert_array_equal(cagrad_dual(np.array([[1.0, -1.0], [-1.0, 1.0]]), 0.4), [0.5] * 2)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_the_ridge_of_fair_sets_in_steadily(alpha: float) -> None:
    # Two unit vectors at q = cos^2: from no ridge (q > 1e-6) to a full one (q = 0).
    def weight(q: float) -> float:
        cosine = 2 * q - 1
        return float(fair(np.array([[1.0, cosine], [cosine, 1.0]]), alpha)[0])

    for q in (2e-6, 1.001e-6, 0.999e-6, 0.5e-6, 0.0):
        level = 2 * q + max(0.0, FAIR_RIDGE - q)
        assert weight(q) == pytest.approx(level ** (-alpha / (1 + alpha)), rel=1e-6)


@pytest.mark.parametrize("k", [2, 11, 40])
@moderate
def test_float32_gramians_are_solved(family: Family, k: int) -> None:
    j: NDArray[np.float32] = _jacobian(family, k).astype(np.float32)
    gramian = (j @ j.T).astype(np.float64)  # no longer exactly semi-definite
    for solve in _ALL:
        assert np.isfinite(solve(gramian)).all()


def test_no_solver_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for solve in _ALL:
            solve(np.diag([1e-300, 1.0, 1e300]))
