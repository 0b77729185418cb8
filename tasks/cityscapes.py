"""Cityscapes: what is seen in a street, and how near it is."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from mtlbench.interfaces import MetricInfo, Recipe, TaskInfo
from mtlbench.tasks._dense.folder import Kind
from mtlbench.tasks._dense.task import (
    ARCHITECTURES,
    DenseTask,
    array_files,
    protocols,
    write_arrays,
)

CLASSES = 7
KINDS = {
    "image": Kind("image", 3, 0, 1),
    "segmentation": Kind("label_7", 0, -1, CLASSES - 1),
    "depth": Kind("depth", 1, 0, 1),
}

# The 16-bit disparity images as shares of 65535: 256 steps a pixel of disparity, a baseline of
# 0.209313 m, a focal length of 2262.52 pixels, and no disparity of more than 126 pixels.
INVERSE_METRES = 256 * 0.209313 * 2262.52 / 65535
NEAREST = (126 * 256 + 1) / 65535
VAL_SEEDS = 1_000_000


_files = partial(array_files, KINDS)


def _write(folder: Path, split: str, index: int, size: tuple[int, int]) -> None:
    from mtlbench.tasks._scenes.streets import street

    scene = street(index + (VAL_SEEDS if split == "val" else 0), *size)
    known = scene.depth > 0
    inverse = np.where(known, INVERSE_METRES / np.where(known, scene.depth, 1), 0)
    arrays = scene.image, scene.label, np.where(inverse > NEAREST, 0, inverse)[..., None]
    write_arrays(dict(zip(_files(folder, split, index), arrays, strict=True)))


class Cityscapes(DenseTask):
    """Segmentation into seven classes and inverse depth, as in `"End-to-End Multi-Task Learning
    with Attention" <https://arxiv.org/abs/1803.10704>`_, with the augmentation of its successors.

    Inverse depth is the disparity image as a share of its 16-bit range, 1.85 / metres; 0 is
    invalid. As released, the inverse depth of an enlarged part is divided by its scale, as a
    depth would be.

    Without a folder, streets stand in: inverse depth on the same scale, invalid in the sky and
    nearer than 3.8 m, which is all the disparity that the real data can hold.

    ``mini`` trains on 24 images and mirrors them only, so that plain descent leaves the
    underfitting regime within a minute; with enlarged parts as published, twice the epochs do not
    get it there.

    ``paper`` has MTAN, and SegNet for single tasks; its depth errors are means over batches, as
    published, and records have those that are pooled over all valid pixels of the split, too.
    Elsewhere errors are pooled.

    Not copied, as released with SAMO: the gradient of the mean loss has what the update before left
    in it, as nothing sets it to zero.

    Args:
        legacy: average depth errors over batches, as published trainers do.
    """

    info = TaskInfo(
        name="cityscapes",
        title="Cityscapes",
        objectives=("segmentation", "depth"),
        metrics=(
            MetricInfo("mIoU", "segmentation", "%", higher_is_better=True, scale=60),
            MetricInfo("PixAcc", "segmentation", "%", higher_is_better=True, scale=90),
            MetricInfo("AbsErr", "depth", "inverse depth", higher_is_better=False, scale=0.03),
            MetricInfo("RelErr", "depth", "ratio", higher_is_better=False, scale=0.3),
        ),
        protocols=protocols(
            images=(24, 24, 300),
            epochs=30,
            step=23,
            batch_size=8,
            published={"scales": (1.0, 1.2, 1.5)},
        ),
        architectures=ARCHITECTURES,
        references=(
            "https://arxiv.org/abs/1604.01685",
            "https://arxiv.org/abs/1803.10704",
            "https://arxiv.org/abs/2202.01017",
        ),
        licence="Cityscapes: https://www.cityscapes-dataset.com/license (no commercial use); "
        "generated streets: MIT",
        source="https://github.com/lorenmt/mtan links the folder (128x256): "
        "PATH/train and PATH/val with image, label_7, depth/0.npy, 1.npy, ...",
        instead="generated streets, a stand-in",
    )
    recipe = Recipe(
        version=1, counts={"train": 70, "val": 300}, size=(64, 128), files=_files, write=_write
    )
    kinds = KINDS
    classes = CLASSES
    scenery = "streets"
