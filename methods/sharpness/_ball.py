"""What the wrappers share: steps of a given length, and the mean gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from mtlbench.interfaces import GradientView, Update


def length(direction: Tensor, rho: float) -> Tensor:
    r"""The factor :math:`\rho / \lVert d \rVert` that brings ``direction`` to length ``rho``; 0 if
    it is zero."""
    norm = direction.norm()
    return torch.where(norm > 0, rho / norm, 0.0)


def mean_gradient(view: GradientView) -> Update:
    """Gradient of the mean loss, by one backward pass."""
    return view.combine(torch.full_like(view.losses, 1 / view.n_tasks))
