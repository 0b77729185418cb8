"""The networks of the tasks and their sizes, for ``mtlbench list architectures``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from rich import box
from rich.table import Table
from torch import nn

from mtlbench.cli.terminal import aside
from mtlbench.errors import UsageError
from mtlbench.interfaces import Task
from mtlbench.registry import Spec
from mtlbench.runs.spec import build_task


def table(tasks: Iterable[str]) -> Table:
    """A row an architecture of each task: parameters of its first protocol's network."""
    shown = Table("task", "architecture", box=box.SIMPLE_HEAD)
    for column in ("shared", "of all heads"):
        shown.add_column(column, justify="right")
    for name in tasks:
        try:
            task, _ = build_task(Spec(name), None, None)
        except UsageError as error:
            aside(f"{name}: {error}", style="yellow")
            continue
        shown.add_section()
        for architecture, shared, own in sizes(task):
            shown.add_row(name, architecture, f"{shared:,}", f"{own:,}")
    return shown


def sizes(task: Task) -> Iterator[tuple[str, int, int]]:
    """Of every architecture the number of shared parameters, and of those of all heads; nothing is
    initialised."""
    for architecture in task.info.architectures:
        with torch.device("meta"):
            model = task.build_model(architecture)
        shared, heads = model.parameter_roles(task.info.objectives)
        yield architecture, _count(shared), sum(map(_count, heads))


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)
