"""How well logits rank; apart from the tasks, as torchmetrics is slow to import."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.classification import BinaryAUROC


class LogitAUROC(BinaryAUROC):
    """The area under the ROC curve, of logits.

    :class:`BinaryAUROC` would take a batch whose logits all lie between 0 and 1 for probabilities,
    and rank it among others' as such.
    """

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds.sigmoid(), target)
