"""Static weights: a weighted sum of the losses, chosen by hand."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import AfterValidator
from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, WeightingMethod


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split("/")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 <= x < math.inf for x in numbers) or not any(numbers):
        raise ValueError(
            f"{text!r} is no list of weights such as '1/2/0.5', not negative nor all 0"
        )
    return numbers


def _checked(text: str) -> str:
    _numbers(text)
    return text


class Static(WeightingMethod):
    r"""Linear scalarisation with fixed weights.

    .. math:: w = (w_1, \dots, w_K)

    Args:
        n_tasks: K.
        weights: one number a task, in the order of the objectives and separated by slashes
            (``static:weights=1/2/0.5``), or one for all. They are used as they are.
    """

    info = MethodInfo(
        name="static",
        title="Static weights",
        year=1997,
        head_policy="weighted",
        claims=("permutation", "scaling", "stationarity"),
    )
    fixed: Tensor

    def __init__(
        self, n_tasks: int, *, weights: Annotated[str, AfterValidator(_checked)] = "1"
    ) -> None:
        super().__init__(n_tasks)
        numbers = _numbers(weights)
        if len(numbers) not in (1, n_tasks):
            raise ValueError(f"weights={weights}: {len(numbers)} weights for {n_tasks} tasks")
        fixed = torch.tensor(numbers, dtype=torch.float64).expand(n_tasks).clone()
        self.register_buffer("fixed", fixed)

    def weights(self, view: GradientView) -> Tensor:
        return self.fixed.to(view.losses, copy=True)
