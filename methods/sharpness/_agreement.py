"""How far a task's gradient agrees with the others', as SAMO's probes tell of it. Ours, from no
paper."""

from __future__ import annotations

import torch
from torch import Tensor

MEMORY = 0.99
"""What is kept of the averages from step to step."""


def blended(moments: Tensor, own: Tensor, mean: Tensor, n_tasks: int) -> Tensor:
    r"""The averages of a task after a step.

    A probe along z yields the task's slope :math:`c_k = z^\top g_k`, and :math:`c_0 = z^\top g_0`
    is known; the mean gradient of the other tasks has the slope :math:`c_{-k} = (K c_0 - c_k) / (K
    - 1)`. For :math:`z \sim N(0, I)` the expectation of :math:`c_k c_{-k}` is :math:`g_k^\top
    g_{-k}`, and that of a square is a squared length.

    Args:
        moments: averages of :math:`c_k c_{-k}`, :math:`c_k^2`, :math:`c_{-k}^2` and 1, (4,).
        own: :math:`c_k` along each sample, (n,).
        mean: :math:`c_0` along each sample, (n,).
        n_tasks: K, at least 2.
    """
    own, mean = own.double(), mean.double()
    others = (n_tasks * mean - own) / (n_tasks - 1)
    seen = torch.stack([own * others, own**2, others**2, torch.ones_like(own)], 1).mean(0)
    mixed: Tensor = moments.lerp(seen, 1 - MEMORY)
    return mixed


def share(moments: Tensor, alpha: float) -> Tensor:
    r""":math:`\alpha_k`: alpha where the gradients are orthogonal, 1 where they agree, 0 where they
    are opposite, and on straight lines between; nearer to alpha while little has been seen."""
    product, own, others, seen = moments
    size = (own * others).sqrt()
    cosine = torch.where(size > 0, product / size, 0.0) * seen
    found: Tensor = alpha + cosine * torch.where(cosine > 0, 1 - alpha, alpha)
    return found
