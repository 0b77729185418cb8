"""What TorchJD holds its aggregators to, on families of matrices like its own, in both precisions.

Its families: matrices of any rank and scale, strongly stationary ones (positive weights of all rows
cancel them), strictly weakly stationary ones (of some rows), and others.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mtlbench.interfaces import DenseView
from mtlbench.registry import METHODS

SHAPES = [(2, 5), (5, 9), (9, 5), (20, 30)]
SCALES = [1e-8, 1.0, 1e4]


def _low_rank(g: torch.Generator, K: int, P: int) -> Tensor:
    rank = max(1, min(K, P) - 1)
    return _normal(g, K, rank) @ _normal(g, rank, P)


def _normal(g: torch.Generator, K: int, P: int) -> Tensor:
    return torch.randn(K, P, generator=g, dtype=torch.float64)


def _strongly_stationary(g: torch.Generator, K: int, P: int) -> Tensor:
    J, shares = _normal(g, K, P), 0.5 + torch.rand(K, generator=g, dtype=torch.float64)
    J[-1] = -(shares[:-1] @ J[:-1]) / shares[-1]
    return J


def _weakly_stationary(g: torch.Generator, K: int, P: int) -> Tensor:
    """All but one of the rows cancel; none of three or fewer columns would be left."""
    J = _normal(g, K, P)
    J[:-1] = _strongly_stationary(g, K - 1, P) if K > 2 else 0
    return J


def _agreeing(g: torch.Generator, K: int, P: int) -> Tensor:
    return _normal(g, K, P) + 3 * _normal(g, 1, P)


Family = Callable[[torch.Generator, int, int], Tensor]
FAMILIES: list[Family] = [_normal, _low_rank, _strongly_stationary, _weakly_stationary, _agreeing]
MATRICES = [
    pytest.param(family, shape, scale, id=f"{family.__name__.strip('_')}-{shape}-{scale:g}")
    for family in FAMILIES
    for shape in SHAPES
    for scale in (SCALES if shape == SHAPES[1] else [1.0])
]
matrices = pytest.mark.parametrize(("family", "shape", "scale"), MATRICES)
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])


def _matrix(family: Family, shape: tuple[int, int], scale: float, dtype: torch.dtype) -> Tensor:
    return (scale * family(torch.Generator().manual_seed(sum(shape)), *shape)).to(dtype)


def _update(spec: str, J: Tensor) -> Tensor:
    """In double, as a rounding error of the sum is not what is looked for."""
    method, losses = METHODS.build(spec, len(J)), J.new_ones(len(J))
    view = DenseView(losses, J, list(J[:, :1]), torch.Generator().manual_seed(0))
    update = method.aggregate(view)
    assert method.diagnostics().get("solver_fallbacks", 0) == 0
    return (
        update.shared.double() if update.weights is None else update.weights.double() @ J.double()
    )


def _tolerance(dtype: torch.dtype) -> float:
    """Of a length whose square has the precision of the gradients."""
    return 2 * float(torch.finfo(dtype).eps ** 0.5)


@matrices
@precisions
@pytest.mark.parametrize("spec", ["upgrad", "dualproj", "mgda", "cagrad:c=1", "cagrad:c=2"])
def test_no_loss_grows(
    spec: str, family: Family, shape: tuple[int, int], scale: float, dtype: torch.dtype
) -> None:
    J = _matrix(family, shape, scale, dtype)
    norms = J.double().norm(dim=1)
    rates = J.double() @ _update(spec, J) / norms.clamp_min(1e-300)
    assert float(rates.min()) >= -_tolerance(dtype) * float(norms.mean())


@matrices
@precisions
@pytest.mark.parametrize(
    "spec", ["upgrad", "dualproj", "mgda", "cagrad", "aligned_mtl", "config", "trimmed_mean", "ls"]
)
def test_the_order_of_the_tasks_does_not_matter(
    spec: str, family: Family, shape: tuple[int, int], scale: float, dtype: torch.dtype
) -> None:
    J = _matrix(family, shape, scale, dtype)
    d, bound = _update(spec, J), _tolerance(dtype) * float(J.double().norm(dim=1).mean())
    for seed in range(3):
        order = torch.randperm(len(J), generator=torch.Generator().manual_seed(seed))
        assert float((_update(spec, J[order]) - d).norm()) <= bound


@matrices
@precisions
@pytest.mark.parametrize("spec", ["upgrad", "ls", "config"])
def test_it_is_linear_in_the_lengths_of_the_rows(
    spec: str, family: Family, shape: tuple[int, int], scale: float, dtype: torch.dtype
) -> None:
    """The update of diag(a) J + diag(b) J is the sum of theirs."""
    J = _matrix(family, shape, scale, dtype)
    g = torch.Generator().manual_seed(0)
    a, b = (0.1 + torch.rand(len(J), 1, generator=g).to(dtype) for _ in range(2))
    error = _update(spec, a * J) + _update(spec, b * J) - _update(spec, (a + b) * J)
    assert float(error.norm()) <= 4 * _tolerance(dtype) * float(J.double().norm(dim=1).mean())


@pytest.mark.parametrize("shape", SHAPES[1:])
@precisions
@pytest.mark.parametrize("spec", ["upgrad", "dualproj", "ls"])
def test_it_rests_at_strongly_stationary_points_only(
    spec: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    for family in (_normal, _agreeing, _weakly_stationary):
        if shape[0] <= shape[1]:  # else the rows that are left may be cancelled, too
            J = _matrix(family, shape, 1.0, dtype)
            assert float(_update(spec, J).norm()) >= 1e-3 * float(J.norm(dim=1).mean())
    J = _matrix(_strongly_stationary, shape, 1.0, dtype)
    if spec != "ls":
        assert float(_update(spec, J).norm()) <= _tolerance(dtype) * float(J.norm(dim=1).mean())
