"""The yardsticks of the solvers: other ways to the same weights, and the gaps that judge them."""

from __future__ import annotations

import numpy as np
import pytest

from mtlbench.bench.solvers import gramian
from mtlbench.bench.yardsticks import yardsticks
from mtlbench.engine.gramian import Array, GramianMethod
from mtlbench.methods._yardsticks import Yardsticks, released_min_norm
from mtlbench.registry import METHODS

METHODS_WITH = ["cagrad", "dualproj", "fairgrad", "mgda", "nashmtl", "sdmgrad", "upgrad"]
methods = pytest.mark.parametrize("name", METHODS_WITH)
sizes = pytest.mark.parametrize("K", [2, 3, 5])


def _method(name: str, K: int) -> GramianMethod:
    method = METHODS.build(name, K)
    assert isinstance(method, GramianMethod)
    return method


def _with(name: str, K: int) -> tuple[GramianMethod, Yardsticks]:
    method = _method(name, K)
    found = yardsticks(method)
    assert isinstance(found, Yardsticks)
    return method, found


def _conflicting(K: int) -> tuple[Array, Array]:
    return gramian("conflicting", K, 50, 0), np.linspace(0.5, 1.5, K)


def test_who_has_yardsticks() -> None:
    every = [METHODS.build(name, 2) for name in METHODS.names()]
    having = [m.info.name for m in every if isinstance(m, GramianMethod) and yardsticks(m)]
    assert having == METHODS_WITH


@sizes
@methods
def test_every_way_leads_to_the_same_weights(name: str, K: int) -> None:
    (method, other), (G, losses) = _with(name, K), _conflicting(K)
    weights = method.solve(G, losses)
    assert 0 <= other.gap(G, losses, weights) <= 1e-8
    for way in other.ways.values():
        found = way(G, losses)
        assert found.shape == (K,)
        assert other.gap(G, losses, found) <= 1e-3
        np.testing.assert_allclose(found, weights, atol=2e-2 * np.abs(weights).max())


@sizes
@methods
def test_a_gap_grows_with_the_distance(name: str, K: int) -> None:
    (method, other), (G, losses) = _with(name, K), _conflicting(K)
    weights = method.solve(G, losses)
    away = weights * np.linspace(1.0, 2.0, K)
    gaps = [other.gap(G, losses, weights + t * (away - weights)) for t in (0.0, 0.1, 0.5, 1.0)]
    assert gaps == sorted(gaps)
    assert gaps[1] > 1e-6


@pytest.mark.parametrize("normalize", ["l2", "loss", "loss+"])
def test_yardsticks_see_normalised_gradients(normalize: str) -> None:
    (method, other), (G, losses) = _with(f"mgda:normalize={normalize}", 3), _conflicting(3)
    weights = method.solve(G, losses)
    assert other.gap(G, losses, weights) <= 1e-8
    for way in other.ways.values():
        np.testing.assert_allclose(way(G, losses), weights, atol=1e-3)


def test_cagrad_without_a_ball_is_exact() -> None:
    (method, other), (G, losses) = _with("cagrad:c=0", 3), _conflicting(3)
    assert other.gap(G, losses, method.solve(G, losses)) == 0


def test_a_method_without_any() -> None:
    assert yardsticks(_method("imtl_g", 2)) is None


def test_the_released_loop_stops_where_little_changes() -> None:
    G = gramian("independent", 11, 50, 0)
    early, full = released_min_norm(G), released_min_norm(G, change=0.0)
    assert 0 < np.abs(early - full).max() < 1e-3
    np.testing.assert_allclose(released_min_norm(np.diag([1.0, 4.0])), [0.8, 0.2])
