"""Where a run's numbers come from."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pydantic import Field

import mtlbench
from mtlbench.training.history import Record, Text

PACKAGES = ("torch", "torchvision", "torch-geometric", "torchmetrics", "numpy", "scipy", "cvxpy")


class Tuning(Record):
    """How a run's options were chosen: by trials on seeds that are not reported."""

    trials: int
    """Choices that its cell had, each tried with every seed."""
    seeds: tuple[int, ...]
    records: tuple[str, ...]
    """SHA-256 of the record of each trial, in the order of the alphabet."""


class Provenance(Record):
    """Where a run's numbers come from."""

    command: Text
    started: str
    device: str
    threads: int
    versions: dict[str, str]
    commit: str
    dirty: bool
    source: str = ""
    """SHA-256 of the installed mtlbench, where it is of no commit."""
    code: dict[str, str] = Field(default={})
    """Of each class that is not built in: its package and version, and the SHA-256 of its source.
    """
    jobs: int | None = None
    """Runs that were made at a time; None where that is not known."""
    tuning: Tuning | None = None
    """None where options are as they were asked for."""


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


@cache
def source() -> str:
    """SHA-256 of the files of this mtlbench; empty in a checkout, whose commit says more."""
    if commit()[0]:
        return ""
    root, total = Path(mtlbench.__file__).parent, hashlib.sha256()
    places = [Path(place) / name for place, _, names in os.walk(root) for name in names]
    for path in sorted(path for path in places if path.suffix == ".py"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(root).as_posix()} {digest}\n".encode())
    return total.hexdigest()
