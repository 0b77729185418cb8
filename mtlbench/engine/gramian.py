"""The base of methods that solve a small problem on the Gramian for their weights."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from mtlbench.interfaces import GradientView, GramianPoint, WeightingMethod

logger = logging.getLogger(__name__)
Array = NDArray[np.float64]

DOUBLE, SINGLE = (float(torch.finfo(dtype).eps) for dtype in (torch.float64, torch.float32))


class GramianMethod(WeightingMethod):
    """Weights from a solve on ``G`` in double precision.

    A solve that fails or returns anything but K finite numbers falls back to the last good weights,
    or to equal weights of the method's scale before there are any; it is logged once and counted.

    Args:
        n_tasks: K.
        refresh: solve on every ``refresh``-th step only; the steps between reuse the weights and
            cost one backward. Weights are those of the tasks that they were solved for: where other
            tasks have a label than did then, it is solved again.
        at: where the gradients are taken, see :meth:`GradientView.gramian`.
    """

    last_weights: Tensor
    solved_at: Tensor
    solved_for: Tensor
    steps: Tensor
    fallbacks: Tensor

    def __init__(
        self, n_tasks: int, *, refresh: PositiveInt = 1, at: GramianPoint = "shared"
    ) -> None:
        super().__init__(n_tasks)
        self.refresh, self.at = refresh, at
        self.register_buffer("last_weights", self._equal())
        # Step of the solve that a task's weight is from, and how many tasks it was for.
        self.register_buffer("solved_at", torch.zeros(n_tasks, dtype=torch.int64))
        self.register_buffer("solved_for", torch.zeros(n_tasks, dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._proposed: Tensor | None = None
        self.register_buffer("fallbacks", torch.zeros((), dtype=torch.int64))
        self._failed = self._logged = False

    @abstractmethod
    def solve(self, gramian: Array, losses: Array) -> Array:
        """Weights (K,) from the Gramian (K, K) and the losses (K,).

        Raises:
            ArithmeticError: there is no solution, or it was not found.
        """

    resolution = DOUBLE
    """Rounding error of what :meth:`solve` is given, relative to the lengths of the gradients: what
    is below it is to count as zero."""

    def weights(self, view: GradientView) -> Tensor:
        if self.refresh > 1 and self._known() and self.steps - self.solved_at[0] < self.refresh:
            return self.last_weights.to(view.losses, copy=True)
        gramian = view.gramian(self.at).detach().double().cpu().numpy()
        self.resolution = DOUBLE if view.losses.dtype == torch.float64 else SINGLE
        solution = self._solved(gramian, view.losses.detach().double().cpu().numpy())
        self._proposed = torch.from_numpy(solution)
        return self._proposed.to(view.losses)

    def _solved(self, gramian: Array, losses: Array) -> Array:
        self._failed = False
        try:
            weights = self.solve(gramian, losses)
        except (ArithmeticError, np.linalg.LinAlgError) as error:
            reason = str(error)
        else:
            if weights.shape == (self.n_tasks,) and np.isfinite(weights).all():
                return weights
            reason = f"the solver returned {weights}"
        if not self._logged:
            logger.warning("%s: last good weights kept, %s", self.info.name, reason)
        self._failed = self._logged = True
        return (self.last_weights.cpu() if self._known() else self._equal()).numpy().copy()

    def _known(self) -> bool:
        """Whether the last weights are those of the tasks at hand, all and only."""
        for_these = bool((self.solved_for == self.n_tasks).all())
        return for_these and bool((self.solved_at == self.solved_at[0]).all())

    def _equal(self) -> Tensor:
        weight = 1.0 / self.n_tasks if self.info.scale == "mean" else 1.0
        return torch.full((self.n_tasks,), weight, dtype=torch.float64)

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        if self._proposed is not None:
            self.last_weights.copy_(self._proposed)
            self.solved_at.copy_(self.steps)
            self.solved_for.fill_(self.n_tasks)
            self._proposed = None
        self.steps += 1
        self.fallbacks += self._failed
        self._failed = False

    def diagnostics(self) -> dict[str, float]:
        return {"solver_fallbacks": int(self.fallbacks)}
