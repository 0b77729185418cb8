"""Losses of dense prediction: means over the batch's valid pixels, 0 if there are none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

IGNORED = -1
SHORTEST = 1e-12


def valid_pixels(target: Tensor) -> Tensor:
    """Where a depth or normal (n, channels, H, W) is known: it is not zero; (n, H, W)."""
    return (target != 0).any(1)


def as_labels(target: Tensor) -> Tensor:
    """A depth or normal without a valid pixel is no label: NaN, see
    :mod:`mtlbench.engine.labels`."""
    empty = ~valid_pixels(target).flatten(1).any(1)
    return target.masked_fill(empty.reshape(-1, 1, 1, 1), torch.nan) if empty.any() else target


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between vectors (n, channels, H, W) of any length; 0 where one is zero.

    As PyTorch's ``cosine_similarity``, which takes several times as long across channels.
    """
    squares = (a * a).sum(1) * (b * b).sum(1)
    return (a * b).sum(1) * squares.clamp(min=SHORTEST).rsqrt()


def segmentation_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy.

    Args:
        prediction: logits (n, classes, H, W).
        target: class ids (n, H, W), -1 to be ignored.
    """
    total = cross_entropy(prediction, target, ignore_index=IGNORED, reduction="sum")
    return total / (target != IGNORED).sum().clamp(min=1)


def depth_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Absolute error; both (n, 1, H, W), a target 0 is to be ignored."""
    return _mean((prediction - target).abs().squeeze(1), valid_pixels(target))


def normal_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """One minus the angle's cosine; both (n, 3, H, W), a target 0 is to be ignored."""
    return _mean(1 - cosine(prediction, target), valid_pixels(target))


def _mean(errors: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, errors, 0).sum() / valid.sum().clamp(min=1)


LOSSES = {"segmentation": segmentation_loss, "depth": depth_loss, "normal": normal_loss}


class DenseLoss:
    """The loss of each objective; a batch in parts has as many means, each of its valid pixels."""

    def __call__(self, objective: str, prediction: Any, target: Tensor) -> Tensor:
        return LOSSES[objective](prediction, target)

    def size(self, objective: str, target: Tensor) -> float:
        """See :class:`~mtlbench.interfaces.SizedLoss`."""
        classes = not target.is_floating_point()
        valid = target != IGNORED if classes else valid_pixels(target.nan_to_num())
        return int(valid.sum())
