"""Other ways to do the same, which ours are timed against.

They are registered beside what they are of: a module ``_yardsticks`` in the package of a method,
wrapper or task has ``YARDSTICKS``, which maps its name to a function of an instance. That returns

- for a method that solves on the Gramian an object with ``ways``, other solves by name, and
  ``gap``, which says how far weights are from what is to be found (:class:`SolverYardsticks`);
- for a wrapper other implementations of its step, by name;
- for a task pairs of callables that do the same work, ours and another one, by name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from mtlbench.engine.gramian import Array


class SolverYardsticks(Protocol):
    """What a method's solve is held against."""

    @property
    def ways(self) -> Mapping[str, Callable[[Array, Array], Array]]:
        """Functions of the Gramian (K, K) and the losses (K,) that return weights (K,)."""

    @property
    def gap(self) -> Callable[[Array, Array, Array], float]:
        """How far weights are from optimal, from the Gramian, the losses and them."""


def yardsticks(of: Any) -> Any:
    """What is registered for an instance of a method, wrapper or task; None if nothing is."""
    package = type(of).__module__.rpartition(".")[0]
    name = f"{package}._yardsticks"
    if not package or (name not in sys.modules and find_spec(name) is None):
        return None
    make = import_module(name).YARDSTICKS.get(of.info.name)
    return None if make is None else make(of)
