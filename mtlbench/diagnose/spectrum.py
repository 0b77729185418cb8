"""The Hessian of a network's losses: its largest eigenvalues, each with its residual, and trace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from mtlbench.diagnose.surface import Surface
from mtlbench.errors import UsageError

Array = NDArray[np.float64]
BASIS = 20
"""Lanczos vectors that are kept, at least."""
_ANY = 1e12
"""A tolerance that whatever was found meets."""


class Hessian(LinearOperator):
    r"""Second derivatives of :math:`c^\top L` in the surface's parameters, (n, n), by products.

    A product costs a backward pass through the gradient's graph of every batch; these graphs are
    kept.

    Args:
        surface: at its present point.
        coefficients: c, (K,).
    """

    def __init__(self, surface: Surface, coefficients: Tensor) -> None:
        self._surface = surface
        self._like = surface.flat.data
        self.products = 0
        with torch.backends.cudnn.flags(enabled=False):  # whose recurrences have one derivative
            self._gradients = list(surface.gradients(coefficients, graph=True))
        shape = surface.size, surface.size
        super().__init__(dtype=np.float64, shape=shape)  # type: ignore[call-arg]

    def product(self, vector: Tensor) -> Tensor:
        """H v, (n,)."""
        self.products += 1
        total = torch.zeros_like(vector)
        for gradient in self._gradients:
            if gradient.requires_grad:
                pieces = torch.autograd.grad(
                    gradient,
                    self._surface.params,
                    vector,
                    retain_graph=True,
                    materialize_grads=True,
                )
                total += torch.cat([piece.reshape(-1) for piece in pieces])
        return total

    def _matvec(self, x: Array) -> Array:
        v = torch.as_tensor(x.reshape(-1)).to(self._like)
        return self.product(v).double().cpu().numpy()

    def _adjoint(self) -> Hessian:
        return self


@dataclass(frozen=True)
class Eigenvalue:
    r"""An eigenvalue, and how well it is known.

    Args:
        value: :math:`\lambda`, of a unit vector v.
        residual: :math:`\lVert H v - \lambda v \rVert`: there is an eigenvalue no further away.
        converged: whether that is within the tolerance, relative to the largest one.
    """

    value: float
    residual: float
    converged: bool


def top_eigenvalues(
    hessian: Hessian, n: int = 5, *, tolerance: float = 1e-3, restarts: int = 20, seed: int = 0
) -> list[Eigenvalue]:
    """The n algebraically largest eigenvalues, the largest first, by Lanczos (``scipy``'s
    ``eigsh``).

    What did not converge within so many restarts is returned as what it is by then.

    Raises:
        UsageError: there are not more than n parameters.
    """
    size = hessian.shape[0]
    if n >= size:
        raise UsageError(f"{n} eigenvalues were asked for, of a Hessian of {size} x {size}")
    start = np.random.default_rng(seed).standard_normal(size)
    basis = min(size, max(BASIS, 2 * n + 1))
    try:
        _, vectors = eigsh(
            hessian, n, which="LA", v0=start, ncv=basis, tol=tolerance, maxiter=restarts
        )
    except ArpackNoConvergence:
        _, vectors = eigsh(hessian, n, which="LA", v0=start, ncv=basis, tol=_ANY, maxiter=restarts)
    found = []
    for v in vectors.T:
        image = hessian.matvec(v)
        value = float(v @ image)
        found.append((value, float(np.linalg.norm(image - value * v))))
    largest = max(abs(value) for value, _ in found)
    return [
        Eigenvalue(value, residual, residual <= tolerance * largest)
        for value, residual in sorted(found, reverse=True)
    ]


def trace(hessian: Hessian, samples: int = 10, seed: int = 0) -> tuple[float, float]:
    r"""The trace by Hutchinson's :math:`\mathbb E[z^\top H z]` with z of signs, and its standard
    error; NaN for one sample."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(samples):
        z = rng.choice([-1.0, 1.0], size=hessian.shape[0])
        found.append(float(z @ hessian.matvec(z)))
    error = np.std(found, ddof=1) / np.sqrt(samples) if samples > 1 else np.nan
    return float(np.mean(found)), float(error)
