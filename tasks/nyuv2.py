"""NYUv2: what is seen in a room, how far away it is, and which way it faces."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mtlbench.interfaces import MetricInfo, Recipe, TaskInfo
from mtlbench.tasks._dense.folder import Kind
from mtlbench.tasks._dense.task import (
    ARCHITECTURES,
    DenseTask,
    array_files,
    protocols,
    write_arrays,
)

CLASSES = 13
KINDS = {
    "image": Kind("image", 3, 0, 1),
    "segmentation": Kind("label", 0, -1, CLASSES - 1),
    "depth": Kind("depth", 1, 0, 20),
    "normal": Kind("normal", 3, -1, 1, unit=True),
}
VAL_SEEDS = 1_000_000


_files = partial(array_files, KINDS)


def _write(folder: Path, split: str, index: int, size: tuple[int, int]) -> None:
    from mtlbench.tasks._scenes.rooms import room

    scene = room(index + (VAL_SEEDS if split == "val" else 0), *size)
    arrays = scene.image, scene.label, scene.depth[..., None], scene.normal
    write_arrays(dict(zip(_files(folder, split, index), arrays, strict=True)))


class NYUv2(DenseTask):
    """Segmentation into thirteen classes, depth and surface normals, as in `"End-to-End Multi-Task
    Learning with Attention" <https://arxiv.org/abs/1803.10704>`_, with the augmentation of its
    successors.

    Without a folder, generated rooms stand in. ``mini`` trains on 32 images and mirrors them only,
    as that of Cityscapes does.

    ``paper`` has MTAN, and SegNet for single tasks; its depth and normal errors are means over
    batches, as published, and records have those that are pooled over all valid pixels of the
    split, too. Elsewhere errors are pooled.

    Departs from the authors' code: the normals of an enlarged part are brought back to unit length;
    a normal counts as invalid if it is zero, not if its components add up to zero.

    Args:
        legacy: average depth and normal errors over batches, medians too, as published trainers do.
    """

    info = TaskInfo(
        name="nyuv2",
        title="NYUv2",
        objectives=("segmentation", "depth", "normal"),
        metrics=(
            MetricInfo("mIoU", "segmentation", "%", higher_is_better=True, scale=30),
            MetricInfo("PixAcc", "segmentation", "%", higher_is_better=True, scale=60),
            MetricInfo("AbsErr", "depth", "m", higher_is_better=False, scale=0.7),
            MetricInfo("RelErr", "depth", "ratio", higher_is_better=False, scale=0.3),
            MetricInfo("AngleMean", "normal", "deg", higher_is_better=False, scale=25),
            MetricInfo("AngleMedian", "normal", "deg", higher_is_better=False, scale=20),
            MetricInfo("Within_11.25", "normal", "%", higher_is_better=True, scale=30),
            MetricInfo("Within_22.5", "normal", "%", higher_is_better=True, scale=55),
            MetricInfo("Within_30", "normal", "%", higher_is_better=True, scale=70),
        ),
        protocols=protocols(
            images=(32, 24, 60),
            epochs=26,
            step=20,
            batch_size=2,
            published={"scales": (1.0, 1.2, 1.5)},
        ),
        architectures=ARCHITECTURES,
        references=(
            "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
            "https://arxiv.org/abs/1803.10704",
            "https://arxiv.org/abs/2202.01017",
        ),
        licence="NYU Depth V2: see https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html; "
        "generated rooms: MIT",
        source="https://github.com/lorenmt/mtan links the folder (288x384): "
        "PATH/train and PATH/val with image, label, depth, normal/0.npy, 1.npy, ...",
        instead="generated rooms, a stand-in",
    )
    recipe = Recipe(
        version=1, counts={"train": 70, "val": 60}, size=(72, 96), files=_files, write=_write
    )
    kinds = KINDS
    classes = CLASSES
    scenery = "rooms"
