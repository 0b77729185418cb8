"""``mtlbench list``: what there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from mtlbench.cli.terminal import aside, console
from mtlbench.errors import UsageError, did_you_mean
from mtlbench.registry import METHODS, SHARPNESS, TASKS, Registry

REGISTRIES: dict[str, Registry[Any]] = {
    "tasks": TASKS,
    "methods": METHODS,
    "sharpness": SHARPNESS,
}
ARCHITECTURES = "architectures"


def list_(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[tasks|methods|sharpness|architectures|NAME]",
            help="What to list; all but the architectures by default, which takes the tasks' data.",
        ),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="One name a line.")] = False,
    long: Annotated[
        bool, typer.Option("--long", help="Of each all that it declares, with its options.")
    ] = False,
) -> None:
    """List tasks, methods and sharpness wrappers, or all that one of them declares."""
    if what == ARCHITECTURES:
        _architectures(plain=plain)
        return
    if what is not None and what not in REGISTRIES:
        _one(what)
        return
    for kind in REGISTRIES if what is None else [what]:
        names = REGISTRIES[kind].names()
        if plain:
            typer.echo("\n".join(names))
        elif long:
            _long(kind, names)
        else:
            console.print(_short(kind, names))


def _one(name: str) -> None:
    """All that the things of this name declare."""
    from mtlbench.cli.details import details

    kinds = [kind for kind, registry in REGISTRIES.items() if _has(registry, name)]
    if not kinds:
        known = [
            *REGISTRIES,
            ARCHITECTURES,
            *(n for registry in REGISTRIES.values() for n in registry.names()),
        ]
        kinds_said = ", ".join(map(repr, REGISTRIES))
        raise UsageError(
            f"{name!r} is not one of {kinds_said}, nor the name of one of these"
            f"{did_you_mean(name, known)}"
        )
    for kind in kinds:
        console.print(details(kind, name))


def _architectures(*, plain: bool) -> None:
    """Every task's networks, with their sizes."""
    if plain:
        named = dict.fromkeys(a for name in TASKS.names() for a in _architectures_of(name))
        typer.echo("\n".join(named))
        return
    from mtlbench.cli.architectures import table

    console.print(table(TASKS.names()))


def _architectures_of(task: str) -> Sequence[str]:
    try:
        found: Sequence[str] = TASKS.get(task).info.architectures
    except UsageError as error:
        aside(f"{task}: {error}", style="yellow")
        return ()
    return found


def _has(registry: Registry[Any], name: str) -> bool:
    """Whether a registry has this name; of a class outside its kind tells."""
    if ":" not in name:
        return name in registry.names()
    try:
        registry.get(name)
    except UsageError:
        return False
    return True


def _long(kind: str, names: list[str]) -> None:
    from mtlbench.cli.details import details

    for name in names:
        try:
            console.print(details(kind, name))
        except UsageError as error:
            aside(f"{name}: {error}", style="yellow")


def _short(kind: str, names: list[str]) -> Table:
    from mtlbench.cli.details import summary

    table = Table("name", "title", "what it is", title=kind, title_justify="left")
    for name in names:
        try:
            cls = REGISTRIES[kind].get(name)
        except UsageError as error:
            table.add_row(name, "", escape(str(error)))
            continue
        table.add_row(name, escape(cls.info.title), escape(summary(cls)))
    return table
