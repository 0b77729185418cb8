"""The simplex of task weights."""

from __future__ import annotations

import torch
from torch import Tensor


def project_simplex(v: Tensor) -> Tensor:
    """The nearest point to ``v`` of the simplex."""
    v = v - v.max()  # changes nothing but the rounding: entries far below the largest become 0
    u = v.sort(descending=True).values
    excess = u.cumsum(0) - 1
    count = torch.arange(1, len(v) + 1, device=v.device)
    size = (u * count > excess).sum()
    last = (size - 1).clamp_min(0)  # below 0 where v is NaN
    return (v - excess.gather(0, last.view(1)) / size).clamp_min(0)
