r"""Two quadratic losses in the plane: where methods and wrappers lead, to look at.

.. math:: f_1 = (x_1 - 2)^2 + \tfrac12 (x_2 + 1)^2, \qquad f_2 = \tfrac12 (x_1 + 2)^2 + (x_2 - 1)^2
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from torch import Tensor, nn

from mtlbench.files import write_atomically
from mtlbench.interfaces import InputGroup, MultiTaskModel
from mtlbench.registry import SHARPNESS
from mtlbench.training.stepper import Stepper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CENTRES = {"f1": (2.0, -1.0), "f2": (-2.0, 1.0)}
CURVATURES = {"f1": (2.0, 1.0), "f2": (1.0, 2.0)}
DOMAIN = (-5.0, 5.0), (-3.0, 3.0)


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


def summary(ways: pd.DataFrame, last: int = 50) -> pd.DataFrame:
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
def plot(ways: pd.DataFrame, plan: Plan, path: Path) -> None:
    """One panel a group of cells; the ending of ``path`` names the format."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * len(plan.panels), 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(plan.panels), squeeze=False)
    for ax, panel in zip(axes.flat, plan.panels, strict=True):
        _contours(ax)
        _paths(ax, ways, panel.cells)
        ax.set_title(f"{panel.title}: {plan.steps} steps of {plan.lr:g}", loc="left")
    ending = path.suffix.removeprefix(".")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=ending, dpi=150))


def _contours(ax: Axes) -> None:
    sides = [torch.linspace(*limits, 201, dtype=torch.float64) for limits in DOMAIN]
    x = torch.stack(torch.meshgrid(*sides, indexing="xy"), dim=-1)
    for objective, colour in zip(CENTRES, ("tab:blue", "tab:orange"), strict=True):
        values = loss(objective, x, x).numpy()
        levels = [0.25, 1, 2, 4, 8, 14]
        ax.contour(*(s.numpy() for s in sides), values, levels, colors=colour, alpha=0.35)
        ax.plot(*CENTRES[objective], "*", color=colour, markersize=10)
        ax.annotate(objective, CENTRES[objective], xytext=(6, -12), textcoords="offset points")
    ax.plot(*pareto_set().T, color="0.6", linewidth=4, alpha=0.6, label="Pareto set")
    ax.set_xlabel("$x_1$")
    ax.set_ylabel("$x_2$")


def _paths(ax: Axes, ways: pd.DataFrame, cells: Sequence[Cell]) -> None:
    drawn = [ways[ways["cell"] == str(cell)] for cell in cells]
    for way in drawn:
        (line,) = ax.plot(way["x1"], way["x2"], linewidth=1.2, label=way["cell"].iloc[0])
        ax.plot(way["x1"].iloc[-1], way["x2"].iloc[-1], "o", color=line.get_color(), markersize=5)
    points = pd.concat(drawn)[["x1", "x2"]]
    low, high = points.min(), points.max()
    pad = 0.15 * (high - low).max()
    ax.set_xlim(low["x1"] - pad, high["x1"] + pad)
    ax.set_ylim(low["x2"] - pad, high["x2"] + pad)
    ax.legend(frameon=False, fontsize=8)
