"""``mtlbench list``: what there is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from mtlbench.cli.terminal import console
from mtlbench.errors import UsageError
from mtlbench.registry import METHODS, SHARPNESS, TASKS, Registry

if TYPE_CHECKING:
    from mtlbench.interfaces import TaskInfo


Kind = Literal["tasks", "methods", "sharpness"]
REGISTRIES: dict[str, Registry[Any]] = {
    "tasks": TASKS,
    "methods": METHODS,
    "sharpness": SHARPNESS,
}


def list_(
    kind: Annotated[Kind | None, typer.Argument(help="What to list; all by default.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="One name a line.")] = False,
    long: Annotated[
        bool, typer.Option("--long", help="Of each task all that it declares.")
    ] = False,
) -> None:
    """List tasks, methods and sharpness wrappers."""
    for name in REGISTRIES if kind is None else [kind]:
        names = REGISTRIES[name].names()
        if plain:
            typer.echo("\n".join(names))
            continue
        if long and name == "tasks":
            for entry in names:
                console.print(_declared(entry))
            continue
        table = Table("name", "title", "what it is", title=name, title_justify="left")
        for entry in names:
            try:
                cls = REGISTRIES[name].get(entry)
            except UsageError as error:
                table.add_row(entry, "", escape(str(error)))
                continue
            module = sys.modules[cls.__module__].__doc__ or ""
            table.add_row(entry, cls.info.title, module.partition("\n")[0].partition(": ")[2])
        console.print(table)


def _declared(name: str) -> Table:
    """What a task's ``info`` says."""
    try:
        info: TaskInfo = TASKS.get(name).info
    except UsageError as error:
        return Table(escape(str(error)), title=name, title_justify="left")
    table = Table(
        title=escape(f"{name}: {info.title}"),
        title_justify="left",
        title_style="bold",
        show_header=False,
        box=box.SIMPLE_HEAD,
    )
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    metrics = [
        f"{m.name} {'↑' if m.higher_is_better else '↓'} ({m.unit or 'no unit'})"
        for m in info.metrics
    ]
    protocols = [
        f"{p.name} v{p.version}: {p.arch}, {p.epochs} epochs, batches of {p.batch_size}, "
        f"{p.optimizer} {p.lr:g}"
        for p in info.protocols
    ]
    rows = {
        f"{len(info.objectives)} objectives": ", ".join(info.objectives),
        "metrics": ", ".join(metrics),
        "protocols": "\n".join(protocols),
        "architectures": ", ".join(info.architectures),
        "data": info.instead,
        "the real data": info.source,
        "licence": info.licence,
        "papers": "\n".join(info.references),
    }
    for row in rows.items():
        table.add_row(*map(escape, row))
    return table
