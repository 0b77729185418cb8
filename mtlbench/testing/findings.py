"""What a check found, and how checks are run."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

Held = Literal["required", "claimed", "not claimed"]
Subject = TypeVar("Subject")

TOLERANCE = 1e-6
"""Of a property that is measured, relative to the sizes of what is summed, in double precision."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        check: its name.
        held: ``"required"`` by the contract, ``"claimed"`` by the ``info``, or neither.
        passed: whether the property holds.
        detail: what was tried, or what went wrong where.
    """

    check: str
    held: Held
    passed: bool
    detail: str

    @property
    def failed(self) -> bool:
        """Whether something that is required or claimed does not hold."""
        return not self.passed and self.held != "not claimed"

    @property
    def verdict(self) -> str:
        """``"ok"`` or ``"FAILED"``; where nothing is claimed, whether it holds all the same."""
        words = ("does not hold", "holds") if self.held == "not claimed" else ("FAILED", "ok")
        return words[self.passed]


class ViolationError(AssertionError):
    """A property does not hold; the message is the finding's detail."""


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """A property to look for.

    Args:
        name: as printed.
        run: returns what was tried.
        essential: whether the other checks mean nothing without it.

    ``run`` raises :class:`ViolationError`, or anything else, where the property does not hold.
    """

    name: str
    run: Callable[[Subject], str]
    essential: bool = False


def findings(
    subject: Subject, checks: Iterable[Check[Subject]], held: Callable[[str], Held]
) -> list[Finding]:
    """Run the checks in order; none after an essential one that failed.

    Args:
        subject: what is checked.
        checks: what to look for.
        held: what the subject is held to, by the check's name.
    """
    found: list[Finding] = []
    for check in checks:
        passed, detail = _outcome(subject, check)
        found.append(Finding(check.name, held(check.name), passed, detail))
        if check.essential and not passed:
            break
    return found


def _outcome(subject: Subject, check: Check[Subject]) -> tuple[bool, str]:
    try:
        with global_seed(0), _quiet():
            return True, check.run(subject)
    except ViolationError as violation:
        return False, str(violation)
    except Exception as error:  # whatever other people's code dies of is what was found
        return False, f"{type(error).__name__}: {error}"


def require(condition: object, violation: str) -> None:
    """Raise a :class:`ViolationError` unless the condition holds."""
    if not condition:
        raise ViolationError(violation)


def judged(measured: Iterable[tuple[float, str]], limit: float = TOLERANCE) -> str:
    """The worst of ``(error, where)``, if it is within the limit.

    Raises:
        ViolationError: it is not, or it is NaN.
    """
    errors = [(math.inf if math.isnan(error) else error, where) for error, where in measured]
    worst, where = max(errors, key=lambda each: each[0])
    require(worst <= limit, f"{worst:.1e} off, more than {limit:.0e}: {where}")
    return f"at most {max(worst, 0.0):.1e} off in {len(errors)} cases"


def same(a: Any, b: Any) -> bool:
    """Equality of nested states, and of objects with such attributes; NaN equals NaN."""
    if isinstance(a, Tensor):
        alike = isinstance(b, Tensor) and (a.dtype, a.shape) == (b.dtype, b.shape)
        return alike and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, Sequence) and not isinstance(a, str):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "__dict__"):
        return type(a) is type(b) and same(vars(a), vars(b))
    return bool(a == b)


# -------------------------------------------------------------------------------- global generators
def global_states() -> list[Any]:
    """States of the generators that belong to nobody: torch's, numpy's and Python's."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    legacy = np.random.get_bit_generator()  # type: ignore[attr-defined]
    return [torch.get_rng_state(), *cuda, legacy.state, random.getstate()]


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Global generators seeded within, and as they were afterwards."""
    legacy, python = np.random.get_bit_generator(), random.getstate()  # type: ignore[attr-defined]
    numpy = legacy.state
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed takes a stack's traceback
            if torch.cuda.is_available():
                torch.cuda.manual_seed_all(seed)
            legacy.state = np.random.MT19937(seed).state
            random.seed(seed)
            yield
    finally:
        legacy.state = numpy
        random.setstate(python)


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings in the log: what provokes them is the kit's own doing."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
