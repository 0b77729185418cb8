"""Panels to look at: an image, and target, prediction and error of each objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from mtlbench.interfaces import Picture
from mtlbench.tasks._dense.losses import IGNORED
from mtlbench.tasks._dense.meters import angles

Array = NDArray[Any]
WIDEST_ANGLE = 90.0


def panels(
    image: Tensor, targets: Mapping[str, Tensor], predictions: Mapping[str, Tensor], classes: int
) -> list[Picture]:
    """One sample's.

    Args:
        image: (3, H, W).
        targets: of the sample, by objective.
        predictions: likewise; of none, some or all objectives.
        classes: of the segmentation.
    """
    row = [Picture("image", _rgb(image), "rgb")]
    for name, target in targets.items():
        prediction = predictions.get(name)
        if prediction is not None:
            prediction = prediction.detach().cpu().float()
        row += _PANELS[name](target.cpu().nan_to_num(0), prediction, classes)
    return row


def _rgb(image: Tensor) -> Array:
    return np.asarray(image.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy())


def _masked(values: Tensor, valid: Tensor) -> Array:
    return np.asarray(torch.where(valid, values.double(), torch.nan).numpy())


def _segmentation(target: Tensor, logits: Tensor | None, classes: int) -> list[Picture]:
    limits = (0.0, float(classes))
    found = [Picture("segmentation", np.asarray(target.numpy()), "labels", limits)]
    if logits is not None:
        label = logits.argmax(0)
        wrong = _masked(label != target, target != IGNORED)
        found.append(Picture("predicted", np.asarray(label.numpy()), "labels", limits))
        found.append(Picture("wrong", wrong, "error", (0.0, 1.0)))
    return found


def _depth(target: Tensor, prediction: Tensor | None, classes: int) -> list[Picture]:
    target = target[0]
    valid = target != 0
    known = target[valid]
    limits = (float(known.min()), float(known.max())) if len(known) else None
    found = [Picture("depth", _masked(target, valid), "heat", limits)]
    if prediction is not None:
        error = _masked((prediction[0] - target).abs(), valid)
        found.append(Picture("predicted", np.asarray(prediction[0].numpy()), "heat", limits))
        found.append(Picture("absolute error", error, "error"))
    return found


def _normal(target: Tensor, prediction: Tensor | None, classes: int) -> list[Picture]:
    valid = (target != 0).any(0)
    colours = np.where(valid.numpy()[..., None], _rgb((target + 1) / 2), np.nan)
    found = [Picture("normal", colours, "rgb")]
    if prediction is not None:
        found.append(Picture("predicted", _rgb((normalize(prediction, dim=0) + 1) / 2), "rgb"))
        error = _masked(angles(prediction[None], target[None])[0], valid)
        found.append(Picture("angle, degrees", error, "error", (0.0, WIDEST_ANGLE)))
    return found


_PANELS = {"segmentation": _segmentation, "depth": _depth, "normal": _normal}
