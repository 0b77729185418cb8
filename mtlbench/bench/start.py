"""How soon a command line trains: from its start to the first step of its first run."""

from __future__ import annotations

import subprocess
import sys
from tempfile import TemporaryDirectory

from mtlbench.registry import baseline


def first_step(task: str) -> None:
    """Start ``mtlbench run`` as a user does, and wait for the first step; the rest is given up.

    Raises:
        RuntimeError: it ended without one.
    """
    with TemporaryDirectory() as folder:
        words = ["--debug", "run", task, "--method", baseline(), "--device", "cpu"]
        command = [sys.executable, "-m", "mtlbench", *words, "--out", folder]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            said = next((line for line in process.stderr if "first step" in line), None)
            process.terminate()
            process.communicate()
    if said is None:
        raise RuntimeError(f"{' '.join(command)} made no step")


def import_torch() -> None:
    """What none of it can do without, in a process of its own."""
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
