"""Where a run's numbers come from."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import mtlbench
from mtlbench.training.history import Record

PACKAGES = ("torch", "torchvision", "torch-geometric", "torchmetrics", "numpy", "scipy", "cvxpy")


class Provenance(Record):
    """Where a run's numbers come from."""

    command: str
    started: str
    device: str
    threads: int
    versions: dict[str, str]
    commit: str
    dirty: bool


@cache
def versions() -> dict[str, str]:
    own = {"python": platform.python_version(), "mtlbench": mtlbench.__version__}
    return own | {package: version(package) for package in PACKAGES}


@cache
def commit() -> tuple[str, bool]:
    """Commit of the checkout that this code runs from, and whether its code differs from it; ("",
    False) outside."""
    root = Path(mtlbench.__file__).resolve().parent.parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", root, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return "", False
        changed = git(
            "status", "--porcelain", "--", "mtlbench", "tasks", "methods", "pyproject.toml"
        )
        return git("rev-parse", "HEAD"), bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "", False
