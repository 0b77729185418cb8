"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", help="Folder to write to; made if it is not there.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, ...; the fastest there is by default.")
]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Runs at a time; one a core on the CPU, one on other devices."),
]
