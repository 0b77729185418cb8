"""Processes that end when they are told to, and when whoever started them is gone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import NoReturn

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes of what a signal ended, as shells have them."""

HINTS = {
    "SIGKILL": "killed: out of memory?",
    "SIGBUS": "bus error: a file that became shorter, or /dev/shm is full?",
}
GRACE = 10.0
"""Seconds that a process has between being told to end and being made to."""
LIMIT = 600.0
"""Seconds that processes which train together wait for each other."""


def rank_and_size() -> tuple[int, int]:
    """Which of how many processes this is that torchrun has started; (0, 1) if it has not."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    return (int(os.environ.get("RANK", "0")), size) if size > 1 else (0, 1)


def end_on_signals() -> None:
    """From now on SIGINT and SIGTERM end this process in good order: as ``KeyboardInterrupt`` and
    as ``SystemExit``. Also where it began with them ignored: under ``nohup``, or in the background
    of a script."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _end)


def end_with_parent() -> None:
    """From now on this process of :mod:`multiprocessing` ends in good order when its parent tells
    it to or is gone, and leaves interrupts to it: Ctrl-C reaches both."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_once)
    watch_parent()


def watch_parent() -> None:
    """Send this process of :mod:`multiprocessing` SIGTERM when its parent is gone, however that
    ended; what does not end then is made to."""
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("this process was not started by multiprocessing")

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(TERMINATED)

    threading.Thread(target=watch, name="watch parent", daemon=True).start()


def stop(processes: Iterable[BaseProcess]) -> None:
    """End processes and wait for them."""
    asked = list(processes)
    for process in asked:
        process.terminate()
    latest = time.monotonic() + GRACE
    for process in asked:
        process.join(max(latest - time.monotonic(), 0))
        if process.exitcode is None:
            process.kill()
            process.join()


def ending(process: BaseProcess) -> str:
    """How a process ended, in words."""
    code = process.exitcode
    name = signal.Signals(-code).name if code is not None and code < 0 else ""
    return f"exit code {code}" + (f" ({HINTS[name]})" if name in HINTS else "")


def _end(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _end_once(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # what tidies up is not to be interrupted in its turn
    _end(number, frame)
