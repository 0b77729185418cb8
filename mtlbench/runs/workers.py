"""Where processes of runs come from: a server that has imported what they need."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterable
from multiprocessing.context import BaseContext

NEEDED = ("__main__", "mtlbench.runs.crew", "torchmetrics")
"""What every run imports."""


def context(modules: Iterable[str]) -> BaseContext:
    """Processes forked from a server that has imported these modules; spawned on Windows.

    The first call decides what the server imports.
    """
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload([*NEEDED, *sorted(set(modules))])
    return forked


def start_server(modules: Iterable[str]) -> None:
    """Start the server before it is needed, so that it imports while this process does."""
    if sys.platform != "win32":
        context(modules)
        from multiprocessing.forkserver import ensure_running

        ensure_running()
