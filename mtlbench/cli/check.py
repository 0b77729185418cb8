"""``mtlbench check``: the conformance kit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from mtlbench.cli.terminal import console, say

VERDICT_STYLES = {"ok": "green", "FAILED": "red", "holds": "default", "does not hold": "dim"}


def check(
    name: Annotated[
        str, typer.Argument(help="NAME or my_pkg.mod:MyClass, and :option=value,... after it.")
    ],
    data: Annotated[Path | None, typer.Option(help="Folder that a task reads.")] = None,
    arch: Annotated[
        str | None, typer.Option(help="A task's network, instead of its first protocol's.")
    ] = None,
) -> None:
    """Hold a method, wrapper or task to its contract and to what it claims."""
    from mtlbench import testing  # half a second to import, and needed only here

    found = testing.check(name, data, arch)
    table = Table("check", "held to it", "verdict", "detail", title=escape(name))
    for finding in found:
        verdict = f"[{VERDICT_STYLES[finding.verdict]}]{finding.verdict}"
        table.add_row(finding.check, finding.held, verdict, escape(finding.detail))
    console.print(table)
    failed = [finding.check for finding in found if finding.failed]
    if failed:
        say(f"{name} does not conform: {', '.join(failed)}", style="red")
        raise typer.Exit(1)
