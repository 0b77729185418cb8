"""Errors that a user can mend; the command line prints them without a traceback."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(ValueError):
    """A request that cannot be carried out; the message names the bad value and the valid ones."""


class DataError(UsageError):
    """Data that is missing, incomplete or corrupt; the message names the file and what it lacks."""


class DivergedError(ArithmeticError):
    """Training met too many non-finite losses or gradients in a row."""


class ContractError(TypeError):
    """A method or wrapper broke its contract; the message names both."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """For the end of a message: ``"; did you mean 'ls'?"`` where a valid name is near.

    Case and punctuation count for nothing: ``F-MTL`` is near ``fmtl``.
    """
    folded: dict[str, str] = {}
    for known in valid:
        folded.setdefault(_folded(known), known)
    near = get_close_matches(_folded(name), folded, n=1, cutoff=0.65)
    starting = [key for key in folded if _folded(name) and key.startswith(_folded(name))]
    found = near or starting[:1]
    return f"; did you mean {folded[found[0]]!r}?" if found else ""


def _folded(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))
