"""From a name to the checks for what it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlbench.errors import UsageError
from mtlbench.registry import METHODS, SHARPNESS, TASKS, Registry, Spec
from mtlbench.testing.findings import Finding
from mtlbench.testing.methods import check_method
from mtlbench.testing.tasks import check_task
from mtlbench.testing.wrappers import check_wrapper


@dataclass(frozen=True)
class Kit:
    """How the objects of one registry are checked; ``on_data`` where they can read a folder."""

    registry: Registry[Any]
    check: Callable[[Spec], list[Finding]]
    on_data: Callable[[Spec, Path], list[Finding]] | None = None


KITS = (
    Kit(METHODS, check_method),
    Kit(SHARPNESS, check_wrapper),
    Kit(TASKS, check_task, on_data=check_task),
)
"""In the order in which a name is looked up."""


def check(spec: str | Spec, data: Path | None = None) -> list[Finding]:
    """Hold whatever the name stands for to its contract.

    Args:
        spec: name and options, or ``my_pkg.mod:MyClass[:option=value,...]``.
        data: folder that a task reads.

    Raises:
        UsageError: nothing has this name, it has no such option, or it reads no folder.
    """
    spec = Spec.parse(spec) if isinstance(spec, str) else spec
    kit = _kit(spec.name)
    if data is None:
        return kit.check(spec)
    if kit.on_data is None:
        raise UsageError(f"{kit.registry.kind} {spec.name!r} reads no data folder")
    return kit.on_data(spec, data)


def assert_conforms(spec: str | Spec, data: Path | None = None) -> None:
    """For a test-suite: everything that is required and everything that is claimed holds.

    Args:
        spec, data: see :func:`check`.

    Raises:
        AssertionError: the message names each failed check and what went wrong.
        UsageError: see :func:`check`.
    """
    failed = [f"{f.check} ({f.held}): {f.detail}" for f in check(spec, data) if f.failed]
    if failed:
        raise AssertionError("\n".join([f"{spec} does not conform:", *failed]))


def _kit(name: str) -> Kit:
    complaints = []
    for kit in KITS:
        if name in kit.registry.names():
            return kit
        try:
            kit.registry.get(name)
        except UsageError as error:
            complaints.append(str(error))
        else:
            return kit
    raise UsageError("\n".join(complaints))
