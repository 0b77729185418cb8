"""``mtlbench bench``: what the library's own work costs, as ratios measured in one process."""

from __future__ import annotations

import typer

from mtlbench.bench.engine import engine
from mtlbench.bench.solvers import solvers
from mtlbench.bench.steps import step

bench_app = typer.Typer(help="Measure what the library's own work costs.", no_args_is_help=True)
for command in (engine, solvers, step):
    bench_app.command()(command)
