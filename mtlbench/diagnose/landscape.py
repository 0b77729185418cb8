"""Losses around a network, and between two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mtlbench.diagnose.surface import Surface
from mtlbench.errors import UsageError
from mtlbench.interfaces import MultiTaskModel


@dataclass(frozen=True)
class Sharpness:
    r"""How the loss rises within a distance :math:`\rho`.

    Args:
        highest: :math:`\max_{\lVert \delta \rVert \le \rho} L(\theta + \delta) - L(\theta)`, as far
            as ascent finds it: a lower bound.
        average: :math:`\mathbb E\, L(\theta + \rho u) - L(\theta)` over random unit vectors u.
        error: the average's standard error.
    """

    highest: float
    average: float
    error: float


def sharpness(
    surface: Surface,
    coefficients: Tensor,
    rho: float,
    *,
    steps: int = 5,
    samples: int = 10,
    seed: int = 0,
) -> Sharpness:
    r"""Sharpness of :math:`c^\top L` in a ball.

    An ascent step goes to the boundary along the gradient where it is,
    :math:`\delta_{i+1} = \rho \, g(\delta_i) / \lVert g(\delta_i) \rVert`; the first one is SAM's.

    Args:
        surface: at its present point.
        coefficients: c, (K,).
        rho: radius.
        steps: of ascent; the highest loss on the way counts.
        samples: random directions.
        seed: of them.
    """
    here = float(coefficients @ surface.losses())
    highest = 0.0
    gradient = surface.gradient(coefficients)
    generator = torch.Generator().manual_seed(seed)
    rises = []
    with surface.moved() as move:
        for _ in range(steps):
            norm = gradient.norm()
            if not norm > 0:
                break
            move(gradient * (rho / norm))
            highest = max(highest, float(coefficients @ surface.losses()) - here)
            gradient = surface.gradient(coefficients)
        for _ in range(samples):
            u = torch.randn(surface.size, generator=generator).to(gradient)
            move(u * (rho / u.norm()))
            rises.append(float(coefficients @ surface.losses()) - here)
    error = np.std(rises, ddof=1) / np.sqrt(samples) if samples > 1 else np.nan
    return Sharpness(highest, float(np.mean(rises)), float(error))


def filter_normalised(surface: Surface, seed: int) -> Tensor:
    """A random direction (n,) in which each filter (a row of a weight) is as long as the network's
    own, and biases and other vectors do not move: `"Visualizing the Loss Landscape of Neural Nets"
    <https://arxiv.org/abs/1712.09913>`_."""
    generator = torch.Generator().manual_seed(seed)
    pieces = []
    for p in surface.params:
        own = p.detach()
        d = torch.randn(p.shape, generator=generator).to(own)
        if own.dim() < 2:
            pieces.append(torch.zeros_like(own).flatten())
            continue
        rows, own_rows = d.flatten(1), own.flatten(1)
        lengths = own_rows.norm(dim=1, keepdim=True) / rows.norm(dim=1, keepdim=True)
        pieces.append((rows * lengths).flatten())
    return torch.cat(pieces)


def around(
    surface: Surface, *, points: int = 21, dimensions: int = 1, radius: float = 1.0, seed: int = 0
) -> pd.DataFrame:
    """Losses along one or two random filter-normalised directions: columns ``x`` (and ``y``), in
    units of the network's own size, and one an objective.

    Raises:
        UsageError: fewer than three points.
    """
    if points < 3:
        raise UsageError(f"a landscape takes at least 3 points a side, not {points}")
    axes = [filter_normalised(surface, seed + i) for i in range(dimensions)]
    side = np.linspace(-radius, radius, points)
    grid = np.stack(np.meshgrid(*[side] * dimensions, indexing="ij"), -1).reshape(-1, dimensions)
    rows = []
    with surface.moved() as move:
        for place in grid.tolist():
            move(torch.stack([x * axis for x, axis in zip(place, axes, strict=True)]).sum(0))
            rows.append([*place, *surface.losses().tolist()])
    return pd.DataFrame(rows, columns=[*"xy"[:dimensions], *surface.objectives])


def between(
    surface: Surface, model: MultiTaskModel, other: MultiTaskModel, points: int = 21
) -> pd.DataFrame:
    """Losses along the line from a network (x = 0) to another one (x = 1), and a quarter beyond
    either: parameters of trunk and heads, and running statistics, are all between theirs.

    Args:
        surface: of ``model``, which is as it was afterwards.
        model: the first network.
        other: of the same architecture.
        points: on the line.

    Raises:
        UsageError: the two are not of one architecture.
    """
    start = {name: value.clone() for name, value in model.state_dict().items()}
    end = other.state_dict()
    shapes = [{name: tuple(v.shape) for name, v in state.items()} for state in (start, end)]
    if shapes[0] != shapes[1]:
        differing = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))
        raise UsageError(f"there is no line between two architectures: {differing[0][0]} differs")
    rows = []
    try:
        for x in np.linspace(-0.25, 1.25, points).tolist():
            model.load_state_dict({n: _lerp(v, end[n], x) for n, v in start.items()})
            rows.append([x, *surface.losses().tolist()])
    finally:
        model.load_state_dict(start)
    return pd.DataFrame(rows, columns=["x", *surface.objectives])


def _lerp(start: Tensor, end: Tensor, x: float) -> Tensor:
    """Between two tensors; the first one's where they are no numbers with a fraction."""
    return torch.lerp(start, end.to(start), x) if start.is_floating_point() else start
