"""Gradients of trainable parameters that are a loss's own (a temperature) and not the model's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtlbench.engine.reduce import Ranks

Row = tuple[Tensor | None, ...]
"""A task's gradient, a tensor a parameter; None for one that its loss does not use."""


class LossParameters:
    """Their gradients of one step, taken at the unperturbed point, with the first losses.

    Args:
        parameters: the loss's own.
        ranks: the processes whose gradients are summed.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], ranks: Ranks) -> None:
        self._parameters, self._ranks = list(parameters), ranks
        self._rows: list[Row] | None = None

    @property
    def is_due(self) -> bool:
        """Whether there are any, and no gradients of theirs yet."""
        return bool(self._parameters) and self._rows is None

    def keep(self, rows: Sequence[Row]) -> None:
        """Take gradients that were computed elsewhere, a row a task."""
        self._rows = list(rows)

    def differentiate(self, losses: Tensor) -> None:
        """Take the gradients of losses (K,), whose graph is left as it is."""
        self.keep(
            [
                torch.autograd.grad(loss, self._parameters, retain_graph=True, allow_unused=True)
                for loss in losses
            ]
        )

    def row(self, task: int) -> Row:
        """A task's gradient; nothing before there is one."""
        return self._rows[task] if self._rows else (None,) * len(self._parameters)

    def write(self, weights: Tensor | None) -> list[Tensor]:
        """Give the parameters their gradient.

        Args:
            weights: (K,), of the tasks; None for a sum.

        Returns:
            The gradients.
        """
        rows = self._rows or [(None,) * len(self._parameters)]
        factors = [1.0] * len(rows) if weights is None else weights.unbind()
        written = []
        for p, own in zip(self._parameters, zip(*rows, strict=True), strict=True):
            parts = [w * g for w, g in zip(factors, own, strict=True) if g is not None]
            p.grad = torch.stack(parts).sum(0) if parts else None
        for p, used in zip(self._parameters, self._used(), strict=True):
            if used:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                self._ranks.sum_(p.grad)
                written.append(p.grad)
        return written

    def _used(self) -> list[bool]:
        """Which of them have a gradient, here or on another process."""
        if not self._parameters:
            return []
        found = self._ranks.total([p.grad is not None for p in self._parameters])
        return [n > 0 for n in found]
