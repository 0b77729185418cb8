"""Meters of dense prediction, over all valid pixels of a split.

What they hold is a sum, so their values depend neither on the batch size nor on the number of
processes; published trainers averaged the batches' values instead.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from mtlbench.tasks._dense.losses import IGNORED, cosine, valid_pixels

BIN = 0.01
"""Degrees."""

Values = Callable[[Tensor, Tensor], Tensor]
"""From prediction and target (n, channels, H, W) to a number a pixel (n, H, W), any where the
target is invalid."""


# ------------------------------------------------------------------------------------ pixels
def absolute_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Distances from the target."""
    return (prediction - target).abs().squeeze(1)


def relative_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Distances from the target, as shares of it."""
    return absolute_errors(prediction, target) / target.squeeze(1)


def angles(prediction: Tensor, target: Tensor) -> Tensor:
    """Angles between vectors of any length, in degrees."""
    return torch.rad2deg(cosine(prediction, target).clamp(-1, 1).acos())


def within(limit: float) -> Values:
    """100 where the angle is less than ``limit``, else 0."""
    return lambda prediction, target: 100.0 * (angles(prediction, target) < limit)


# ------------------------------------------------------------------------------------ meters
class PixelMean(Metric):
    """Mean of a number over all valid pixels; NaN if there are none.

    Args:
        values: the numbers of a batch.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.values = values
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch."""
        valid = valid_pixels(target)
        values = torch.where(valid, self.values(prediction, target), 0)
        self.total += values.sum(dtype=torch.float64)
        self.count += valid.sum()

    def compute(self) -> Tensor:
        """The mean."""
        return self.total / self.count


class BatchMean(PixelMean):
    """Mean over the batches of a number's mean or median over their valid pixels; batches without
    any are left out.

    Args:
        values: the numbers of a batch.
        median: whether to take the median.
    """

    def __init__(self, values: Values, *, median: bool = False) -> None:
        super().__init__(values)
        self.median = median

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch."""
        values = self.values(prediction, target)[valid_pixels(target)].double()
        if len(values):
            self.total += values.quantile(0.5) if self.median else values.mean()
            self.count += 1


class MedianAngle(Metric):
    """Median angle in degrees over all valid pixels; NaN if there are none.

    It holds a histogram with bins of 0.01 degrees, so that it is off by at most half of that.
    """

    full_state_update = False
    histogram: Tensor

    def __init__(self) -> None:
        super().__init__()
        bins = torch.zeros(round(180 / BIN), dtype=torch.int64)
        self.add_state("histogram", bins, dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch."""
        bins = len(self.histogram)
        found = angles(prediction, target)[valid_pixels(target)]
        self.histogram += (found / BIN).long().clamp(max=bins - 1).bincount(minlength=bins)

    def compute(self) -> Tensor:
        """The median, halfway between the two in the middle of an even number."""
        below = self.histogram.cumsum(0)
        n = below[-1]
        middle = torch.stack([(n - 1) // 2, n // 2])
        median = BIN * (torch.searchsorted(below, middle, right=True) + 0.5).mean()
        return torch.where(n > 0, median, torch.nan)


_POOLED = {
    "AbsErr": absolute_errors,
    "RelErr": relative_errors,
    "AngleMean": angles,
    "Within_11.25": within(11.25),
    "Within_22.5": within(22.5),
    "Within_30": within(30),
}
LEGACY = (*_POOLED, "AngleMedian")
"""Metrics that published trainers average over batches."""


def meter(name: str, classes: int, *, legacy: bool) -> Metric:
    """The meter of a metric, by its name in published tables.

    Args:
        classes: of the segmentation; those that neither occur nor are predicted are left out.
        legacy: average the batches' depth and normal errors, medians too, as the trainers of
            Nash-MTL and its successors do. Segmentation is pooled there as well.
    """
    if name in _POOLED:
        return BatchMean(_POOLED[name]) if legacy else PixelMean(_POOLED[name])
    if name == "AngleMedian":
        return BatchMean(angles, median=True) if legacy else MedianAngle()
    shares = {
        "mIoU": MulticlassJaccardIndex(classes, ignore_index=IGNORED, validate_args=False),
        "PixAcc": MulticlassAccuracy(
            classes, average="micro", ignore_index=IGNORED, validate_args=False
        ),
    }
    return shares[name] * 100.0
