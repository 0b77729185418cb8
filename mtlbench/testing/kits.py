"""From a name to the checks for what it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mtlbench.errors import UsageError
from mtlbench.registry import METHODS, SHARPNESS, TASKS, Registry, Spec
from mtlbench.testing.findings import Finding
from mtlbench.testing.methods import check_method
from mtlbench.testing.tasks import check_task
from mtlbench.testing.wrappers import check_wrapper


@dataclass(frozen=True)
class Kit:
    """How the objects of one registry are checked."""

    registry: Registry[Any]
    check: Callable[[Spec], list[Finding]]


KITS = (Kit(METHODS, check_method), Kit(SHARPNESS, check_wrapper), Kit(TASKS, check_task))
"""In the order in which a name is looked up."""


def check(spec: str | Spec) -> list[Finding]:
    """Hold whatever the name stands for to its contract.

    Args:
        spec: name and options, or ``my_pkg.mod:MyClass[:option=value,...]``.

    Raises:
        UsageError: nothing has this name, or it has no such option.
    """
    spec = Spec.parse(spec) if isinstance(spec, str) else spec
    return _kit(spec.name).check(spec)


def assert_conforms(spec: str | Spec) -> None:
    """For a test-suite: everything that is required and everything that is claimed holds.

    Args:
        spec: see :func:`check`.

    Raises:
        AssertionError: the message names each failed check and what went wrong.
        UsageError: see :func:`check`.
    """
    failed = [f"{f.check} ({f.held}): {f.detail}" for f in check(spec) if f.failed]
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
