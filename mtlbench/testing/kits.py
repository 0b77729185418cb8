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
    """How the objects of one registry are checked; ``of_tasks`` where they can read a folder and
    have architectures."""

    registry: Registry[Any]
    check: Callable[..., list[Finding]]
    of_tasks: bool = False


KITS = (
    Kit(METHODS, check_method),
    Kit(SHARPNESS, check_wrapper),
    Kit(TASKS, check_task, of_tasks=True),
)
"""In the order in which a name is looked up."""


def check(
    spec: str | Spec, data: Path | None = None, architecture: str | None = None
) -> list[Finding]:
    """Hold whatever the name stands for to its contract.

    Args:
        spec: name and options, or ``my_pkg.mod:MyClass[:option=value,...]``.
        data: folder that a task reads.
        architecture: a task's network, by default that of its first protocol.

    Raises:
        UsageError: nothing has this name, it has no such option or architecture, or it reads no
            folder.
    """
    spec = Spec.parse(spec) if isinstance(spec, str) else spec
    kit = _kit(spec.name)
    if kit.of_tasks:
        return kit.check(spec, data, architecture)
    for given, what in ((data, "reads no data folder"), (architecture, "has no architectures")):
        if given is not None:
            raise UsageError(f"{kit.registry.kind} {spec.name!r} {what}")
    return kit.check(spec)


def assert_conforms(
    spec: str | Spec, data: Path | None = None, architecture: str | None = None
) -> None:
    """For a test-suite: everything that is required and everything that is claimed holds.

    Args:
        spec, data, architecture: see :func:`check`.

    Raises:
        AssertionError: the message names each failed check and what went wrong.
        UsageError: see :func:`check`.
    """
    found = check(spec, data, architecture)
    failed = [f"{f.check} ({f.held}): {f.detail}" for f in found if f.failed]
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
