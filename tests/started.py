"""The command line in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

IGNORING = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")
"""Begins a command with interrupts ignored, as one in the background of a script is."""


@contextmanager
def started(words: Sequence[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """``mtlbench`` with interrupts ignored, in a process group of its own; what is left of that is
    killed in the end."""
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(
        [*IGNORING, sys.executable, "-m", "mtlbench", *words],
        env={**os.environ, **environment},
        start_new_session=True,
        **streams,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
