"""How much each task is to count, as an option that several methods have."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import AfterValidator
from torch import Tensor

from mtlbench.engine.gramian import Array, GramianMethod
from mtlbench.interfaces import Later


def _checked(text: str) -> str:
    if text != "uniform":
        _numbers(text)
    return text


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split("/")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < x < math.inf for x in numbers):
        raise ValueError(
            f"{text!r} is no list of positive numbers such as '1/2/0.5', nor 'uniform'"
        )
    return numbers


Preference = Annotated[str, AfterValidator(_checked)]
"""One positive number a task, in the order of the objectives and separated by slashes, or
"uniform". Their ratios count."""


def preference_vector(text: str, n_tasks: int) -> Tensor:
    """The numbers of a :data:`Preference`, (K,); ones if it is uniform.

    Raises:
        ValueError: there is not one for each task.
    """
    if text == "uniform":
        return torch.ones(n_tasks, dtype=torch.float64)
    numbers = _numbers(text)
    if len(numbers) != n_tasks:
        raise ValueError(f"preference={text}: {len(numbers)} numbers for {n_tasks} tasks")
    return torch.tensor(numbers, dtype=torch.float64)


class PreferredMethod(GramianMethod):
    """Weights from a solve on G that knows how much each task is to count.

    Where some tasks have no label, the numbers of the others are in the same ratios.

    Args:
        n_tasks: K.
        preference: see :data:`Preference`.
        common: see :class:`GramianMethod`.
    """

    on_host = (*GramianMethod.on_host, "preference")
    preference: Tensor

    def __init__(
        self,
        n_tasks: int,
        *,
        preference: Annotated[Preference, Later()] = "uniform",
        **common: Any,
    ) -> None:
        super().__init__(n_tasks, **common)
        vector = preference_vector(preference, n_tasks)
        self.register_buffer("preference", vector, persistent=False)

    def preferred(self) -> Array:
        """The preference of the tasks at hand, (K,), scaled to a mean of 1."""
        numbers = self.preference.numpy()
        return numbers / float(numbers.mean())
