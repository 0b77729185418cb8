r"""Two quadratic losses in the plane: where methods and wrappers lead, to look at.

.. math:: f_1 = (x_1 - 2)^2 + \tfrac12 (x_2 + 1)^2, \qquad f_2 = \tfrac12 (x_1 + 2)^2 + (x_2 - 1)^2
"""

from __future__ import annotations

from importlib.resources import files
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from torch import Tensor, nn

from mtlbench.drawing import COLOURS, INK, MARKERS, figure_of, legend, title
from mtlbench.interfaces import InputGroup, MultiTaskModel
from mtlbench.registry import SHARPNESS
from mtlbench.training.stepper import Stepper

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CENTRES = {"f1": (2.0, -1.0), "f2": (-2.0, 1.0)}
CURVATURES = {"f1": (2.0, 1.0), "f2": (1.0, 2.0)}
DOMAIN = (-5.0, 5.0), (-3.0, 3.0)
_LAST = 50
"""Steps that count as the end of a way."""
_ARROWS = (0.15, 0.45, 0.75)
"""Shares of a way's length where an arrow points ahead."""
_SMOOTH = 12
_STILL = 1e-3
"""Length of a way that leads nowhere."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cell(_Part):
    """A method with a wrapper; None is the wrapper that changes nothing."""

    method: str
    sharpness: str | None = None

    def __str__(self) -> str:
        wrapper = self.sharpness or SHARPNESS.default
        return self.method if wrapper == SHARPNESS.default else f"{self.method} x {wrapper}"


class Panel(_Part):
    """Cells that are drawn together."""

    title: str
    cells: list[Cell]


class Plan(_Part):
    """What is run: the contents of ``toy.yaml``."""

    start: tuple[float, float]
    lr: PositiveFloat
    steps: PositiveInt
    seed: int
    panels: list[Panel]

    @classmethod
    def read(cls) -> Plan:
        """The plan that comes with mtlbench."""
        return cls.model_validate(
            yaml.safe_load(files("mtlbench.diagnose").joinpath("toy.yaml").read_text())
        )


class Point(nn.Module):
    """A trunk whose only parameter is its output."""

    def __init__(self, start: tuple[float, float]) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, _: Tensor) -> Tensor:
        return self.x + 0


def loss(objective: str, x: Any, _: Tensor) -> Tensor:
    """f1 or f2 at x, (..., 2)."""
    centre, curvature = x.new_tensor(CENTRES[objective]), x.new_tensor(CURVATURES[objective])
    value: Tensor = (curvature * (x - centre) ** 2).sum(-1) / 2
    return value


def pareto_set(count: int = 200) -> NDArray[np.float64]:
    """Minima of :math:`\\lambda f_1 + (1 - \\lambda) f_2` for lambda from 0 to 1, (count, 2)."""
    share = np.linspace(0, 1, count)[:, None]
    first = share * np.array(CURVATURES["f1"])
    second = (1 - share) * np.array(CURVATURES["f2"])
    both = first * np.array(CENTRES["f1"]) + second * np.array(CENTRES["f2"])
    return np.asarray(both / (first + second))


def trajectory(cell: Cell, plan: Plan) -> pd.DataFrame:
    """The way of one cell: a row for each step, with x1, x2, f1 and f2 before it."""
    model = MultiTaskModel(Point(plan.start), {name: nn.Identity() for name in CENTRES})
    optimizer = torch.optim.SGD(model.parameters(), lr=plan.lr)
    stepper = Stepper(model, optimizer, cell.method, cell.sharpness, seed=plan.seed)
    nothing = torch.zeros(())
    group = InputGroup(nothing, dict.fromkeys(CENTRES, nothing))
    rows = []
    for step in range(plan.steps + 1):
        x = stepper.flat.data[stepper.flat.shared].tolist()
        losses = stepper.step(group, loss, [group] * stepper.n_further).losses
        values = [float("nan")] * 2 if losses is None else losses.tolist()
        rows.append((str(cell), step, *x, *values))
    return pd.DataFrame(rows, columns=["cell", "step", "x1", "x2", *CENTRES])


def trajectories(plan: Plan) -> pd.DataFrame:
    """The ways of all cells, one below the other."""
    cells = dict.fromkeys(chain.from_iterable(panel.cells for panel in plan.panels))
    return pd.concat([trajectory(cell, plan) for cell in cells], ignore_index=True)


def summary(ways: pd.DataFrame, last: int = _LAST) -> pd.DataFrame:
    """Where each cell ends: means over its last steps, how far they scatter, and the distance from
    the Pareto set."""
    front = pareto_set(2001)
    rows = []
    for cell, way in ways.groupby("cell", sort=False):
        end = way.tail(last)
        x = end[["x1", "x2"]].to_numpy()
        distance = np.linalg.norm(x[:, None] - front, axis=2).min(1).mean()
        scatter = float(np.linalg.norm(x - x.mean(0), axis=1).mean())
        means = end[["x1", "x2", *CENTRES]].mean()
        rows.append({"cell": cell, **means, "scatter": scatter, "to_pareto": distance})
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------ plot
def plot(ways: pd.DataFrame, plan: Plan) -> Figure:
    """A row a group of cells: all of the way there, and what is around its ends.

    A way begins at the square and ends at a mark of its own. Its steps are thin, a running mean of
    them is bold, and arrows on that point ahead, at shares of its length that differ from way to
    way: ways that scatter, or lie on top of each other, can be told.
    """
    figure, every = figure_of(13, 5 * len(plan.panels), len(plan.panels), 2, share=False)
    for i, panel in enumerate(plan.panels):
        whole, ends = every[2 * i : 2 * i + 2]
        drawn = [ways[ways["cell"] == str(cell)] for cell in panel.cells]
        for axes in (whole, ends):
            _contours(axes)
        marks = [_way(whole, way, n, len(drawn)) for n, way in enumerate(drawn)]
        for n, way in enumerate(drawn):
            _way(ends, way.tail(_LAST), n, len(drawn))
        _frame(whole, pd.concat(drawn))
        _frame(ends, pd.concat([way.tail(_LAST) for way in drawn]), 0.35)
        title(whole, f"{panel.title}: {plan.steps} steps of {plan.lr:g}", 60)
        title(ends, f"where they end: the last {_LAST} steps", 60)
        start = whole.plot(*plan.start, "s", color=INK, markersize=9, label="start")
        legend(ends, [*start, *marks, ends.get_lines()[0]], "best")
    return figure


def _contours(axes: Axes) -> None:
    sides = [torch.linspace(*limits, 201, dtype=torch.float64) for limits in DOMAIN]
    x = torch.stack(torch.meshgrid(*sides, indexing="xy"), dim=-1)
    axes.plot(*pareto_set().T, color=COLOURS[-1], linewidth=5, alpha=0.5, label="Pareto set")
    for objective, colour in zip(CENTRES, (COLOURS[0], COLOURS[1]), strict=True):
        values = loss(objective, x, x).numpy()
        levels = [0.25, 1, 2, 4, 8, 14]
        axes.contour(*(s.numpy() for s in sides), values, levels, colors=colour, alpha=0.35)
        axes.plot(*CENTRES[objective], "*", color=colour, markersize=10)
        axes.annotate(
            objective, CENTRES[objective], xytext=(6, -12), textcoords="offset points", color=INK
        )
    axes.set_xlabel("$x_1$")
    axes.set_ylabel("$x_2$")


def _way(axes: Axes, way: pd.DataFrame, n: int, count: int) -> Any:
    """A way with its arrows and its end; returns what stands for it in the legend."""
    colour, mark = COLOURS[n + 2 if n + 2 < len(COLOURS) else n - 5], MARKERS[n % len(MARKERS)]
    points = way[["x1", "x2"]].to_numpy()
    axes.plot(*points.T, color=colour, linewidth=0.6, alpha=0.3)
    mean = _running_mean(points)
    axes.plot(*mean.T, color=colour, linewidth=2.8 - 1.4 * n / count)
    lengths = np.linalg.norm(np.diff(mean, axis=0), axis=1).cumsum()
    for share in _ARROWS if lengths[-1] > _STILL else ():
        at = int(np.searchsorted(lengths, (share + 0.2 * n / count) * lengths[-1]))
        arrow = {"arrowstyle": "-|>", "color": colour, "mutation_scale": 18, "linewidth": 0}
        axes.annotate("", mean[at + 1], mean[at], arrowprops=arrow, zorder=4)
    (end,) = axes.plot(
        *points[-1:].T,
        mark,
        color=colour,
        markeredgecolor=INK,
        markeredgewidth=0.7,
        markersize=9,
        linestyle="",
        label=f"{way['cell'].iloc[0]}: end",
        zorder=5,
    )
    return end


def _running_mean(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over up to so many steps on either side, as many before as after: both ends stay."""
    n = len(points)
    halves = [min(_SMOOTH, i, n - 1 - i) for i in range(n)]
    return np.stack([points[i - h : i + h + 1].mean(0) for i, h in enumerate(halves)])


def _frame(axes: Axes, points: pd.DataFrame, share: float = 0.15) -> None:
    """Show some points, and a margin around them."""
    low, high = points[["x1", "x2"]].min(), points[["x1", "x2"]].max()
    pad = share * max((high - low).max(), 0.05)
    axes.set_xlim(low["x1"] - pad, high["x1"] + pad)
    axes.set_ylim(low["x2"] - pad, high["x2"] + pad)
