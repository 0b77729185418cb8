"""How attributes are judged, from logits."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score


class F1(BinaryF1Score):
    """2 TP / (2 TP + FP + FN), from logits; 0 where there is nothing to find and nothing found."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch."""
        super().update((preds > 0).long(), target.long())


class Accuracy(BinaryAccuracy):
    """Share of right answers, from logits."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch."""
        super().update((preds > 0).long(), target.long())


METERS = {"f1": F1, "accuracy": Accuracy}
