"""``mtlbench show``: inputs, targets, predictions and errors as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtlbench.diagnose.opened import kept, record_at
from mtlbench.engine.randomness import evaluation_mode
from mtlbench.errors import UsageError
from mtlbench.files import write_atomically
from mtlbench.interfaces import InputGroup, MultiTaskModel, Picture, Task
from mtlbench.registry import TASKS, Spec, identifying
from mtlbench.runs.record import RunRecord
from mtlbench.runs.spec import build_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

PANEL = (2.6, 3.4)
"""Largest height and width of a panel in inches."""
_ABREAST = 4
"""Panels in a line, where samples have few."""
_BAR, _TITLE = 0.7, 0.3
_COLOURS = {"heat": "viridis", "error": "inferno"}

Row = Sequence[Picture]


# ------------------------------------------------------------------------------------ a run's model
def opened(
    text: str, data: Path | None, run: Path | None
) -> tuple[Task, MultiTaskModel | None, str]:
    """A benchmark, and the model of one of its runs.

    Args:
        text: name and options of the task.
        data: folder of the real data set.
        run: file of a record, whose run kept its model.

    Returns:
        The task, the model if ``run`` was given, and a line about both.

    Raises:
        UsageError: the record is of another task, protocol or options, or has no model.
    """
    spec = Spec.parse(text)
    if run is None:
        task, _ = build_task(spec, None, data)
        return task, None, f"{task.info.title}: {task.data_source}"
    _check(spec, record_at(run), run)
    found = kept(run, data)
    identity = found.record.identity
    trained = f" ({identity.data_source})" if found.data_differ else ""
    return (
        found.task,
        found.model,
        f"{found.task.info.title}: {found.task.data_source}\n{found.name}{trained}",
    )


def _check(spec: Spec, record: RunRecord, run: Path) -> None:
    """Refuse a record of another task."""
    cls, options = TASKS.resolve(spec)
    identity = record.identity
    if identity.task != cls.info.name:
        raise UsageError(f"{run} is of task {identity.task!r}, not {cls.info.name!r}")
    wanted = identifying(cls, options)
    if spec.options and wanted != identity.task_options:
        raise UsageError(f"{run} is of options {identity.task_options}, not {wanted}")


# ------------------------------------------------------------------------------------ rows
def rows(task: Task, model: MultiTaskModel | None, split: str, n: int) -> list[Row]:
    """Pictures of the first samples, a row each; in turn from groups with inputs of their own.

    Args:
        task: the benchmark.
        model: whose predictions to show, if any.
        split: "train", "val" or "test".
        n: how many samples.

    Raises:
        UsageError: the task has no pictures, or the split no samples.
    """
    found = list(islice(_samples(task, model, split), n))
    if not found:
        raise UsageError(f"task {task.info.name!r} has no samples in split {split!r}")
    return found


def _samples(task: Task, model: MultiTaskModel | None, split: str) -> Iterator[Row]:
    for batch in task.batches(split, None):
        groups = [task.pictures(group, _predictions(model, group)) for group in batch]
        for row in chain.from_iterable(zip_longest(*groups)):
            if row is not None:
                yield row


@torch.no_grad()
def _predictions(model: MultiTaskModel | None, group: InputGroup) -> Mapping[str, Any] | None:
    if model is None:
        return None
    with evaluation_mode(model):
        predictions: Mapping[str, Any] = model(group.inputs, list(group.targets))
    return predictions


# ------------------------------------------------------------------------------------ drawing
def draw(found: Sequence[Row], title: str, path: Path) -> None:
    """Draw rows of pictures as a PNG file; short ones beside each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    beside = max(1, _ABREAST // max(map(len, found)))
    found = [list(chain(*found[i : i + beside])) for i in range(0, len(found), beside)]
    pixels = found[0][0].values.shape
    scale = min(inches / n for inches, n in zip(PANEL, pixels, strict=False))
    n_columns = max(map(len, found))
    size = (
        (scale * pixels[1] + _BAR) * n_columns,
        (scale * pixels[0] + _TITLE) * len(found) + 2 * _TITLE,
    )
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(found), n_columns, squeeze=False)
    for axes, row in zip(grid, found, strict=True):
        for ax, picture in zip_longest(axes, row):
            ax.axis("off")
            if picture is not None:
                _panel(ax, picture)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    style: dict[str, Any] = {"format": "png", "dpi": 100, "bbox_inches": "tight"}
    write_atomically(path, lambda temporary: figure.savefig(temporary, **style))


def _panel(ax: Axes, picture: Picture) -> None:
    ax.set_title(picture.title, fontsize=9)
    values = np.asarray(picture.values, dtype=np.float64)
    if picture.kind == "rgb":
        ax.imshow(np.where(np.isnan(values), 1, values).clip(0, 1), interpolation="nearest")
        return
    if picture.kind == "labels":
        values = np.where(values < 0, np.nan, values)
        n = int(picture.limits[1] if picture.limits else _largest(values) + 1)
        limits, colours = (-0.5, n - 0.5), _of_classes(n)
    else:
        low = float(np.nanmin(values)) if np.isfinite(values).any() else 0.0
        own = (0.0 if picture.kind == "error" else low, _largest(values))
        limits, colours = picture.limits or own, _map(_COLOURS[picture.kind])
    shown = np.ma.masked_invalid(values)
    image = ax.imshow(shown, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    if picture.kind != "labels":
        bar = ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02)
        bar.ax.tick_params(labelsize=7)


def _largest(values: NDArray[np.float64]) -> float:
    return float(np.nanmax(values)) if np.isfinite(values).any() else 0.0


def _of_classes(n: int) -> Colormap:
    """Colours that can be told apart, as far as there are any."""
    return _map("tab10" if n <= 10 else "tab20" if n <= 20 else "turbo").resampled(n)


def _map(name: str) -> Colormap:
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad="white")
