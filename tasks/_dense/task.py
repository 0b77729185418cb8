"""What benchmarks of dense prediction have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from mtlbench.data import SPLITS, ArrayBatches, check_split, refuse, split_indices, standin
from mtlbench.interfaces import Batch, Fault, InputGroup, MultiTaskModel, Picture, Protocol, Task
from mtlbench.tasks._dense.augment import Crops
from mtlbench.tasks._dense.folder import Kind, Samples, open_samples, scan
from mtlbench.tasks._dense.losses import DenseLoss, as_labels
from mtlbench.tasks._dense.pictures import panels
from mtlbench.tasks._nets.deeplab import deeplab, deeplab_trunk, mtan_deeplab
from mtlbench.tasks._nets.mtan import mtan
from mtlbench.tasks._nets.segnet import UnitLength, segnet, segnet_trunk
from mtlbench.tasks._nets.sharing import SHARING
from mtlbench.tasks._nets.trunk import Trunk
from mtlbench.tasks._nets.unet import WIDTH, unet, unet_trunk

if TYPE_CHECKING:
    from torchmetrics import Metric

ARCHITECTURES = ("unet", "segnet", "mtan", "deeplab", "mtan_deeplab", *SHARING)


class DenseTask(Task):
    """Objectives for every pixel, on a folder in MTAN's layout: ``train|val/<kind>/<i>.npy``.

    The folder's ``val`` is the data set's published test set. A protocol's options:

    - ``images``: how many samples of the folder are used, by split; ``val`` is carved out of the
      folder's ``train`` by a fixed rule, ``test`` is the folder's ``val``. Without it all are used,
      and the test set is what epochs are judged on.
    - ``scales``: of the enlarged parts of training images, half of which are mirrored.
    - ``width``: of the network ``unet``.
    - ``legacy``: as the option.

    Args:
        legacy: average depth and normal errors over batches, medians too, as published trainers do.
    """

    kinds: ClassVar[Mapping[str, Kind]]
    """Arrays of a sample: "image", and one an objective."""
    classes: ClassVar[int]
    """Of the segmentation."""
    scenery: ClassVar[str]
    """What the stand-in shows."""

    def __init__(
        self, protocol: Protocol, data: Path | None = None, *, legacy: bool = False
    ) -> None:
        super().__init__(protocol, data)
        self.legacy = legacy or protocol.options.get("legacy", False)
        folder = standin.cached(self.info.name, self._recipe()) if data is None else data
        if data is not None:
            refuse(standin.check_manifest(self.info.name, self._recipe(), data), self.info.source)
        manifest = standin.read_manifest(folder)
        self.stand_in = manifest is not None
        train, held_out = (
            open_samples(folder / part, self.kinds, self.info.source) for part in ("train", "val")
        )
        self.samples = _split(train, held_out, protocol.options.get("images"))
        for samples in self.samples.values():
            refuse(samples.faults(odd=False), self.info.source)
        self.data_source = self._describe(len(train) + len(held_out))

    @classmethod
    def _recipe(cls) -> standin.Recipe:
        assert cls.recipe is not None
        return cls.recipe

    def _describe(self, total: int) -> str:
        what = f"{self.info.title} as preprocessed for MTAN"
        if self.stand_in:
            what = f"generated {self.scenery} v{self._recipe().version} (stand-in)"
        height, width = self.samples["train"].size
        if "images" in self.protocol.options:
            split = f"split {'/'.join(f'{len(s):,}' for s in self.samples.values())}"
        else:
            split = "published split"
        if self.protocol.average_last:
            split += f", mean of the last {self.protocol.average_last} epochs on test"
        return f"{what}, {total:,} images {height}x{width}, {split}"

    def build_model(self, arch: str) -> MultiTaskModel:
        outputs = {o: self.kinds[o].channels or self.classes for o in self.info.objectives}
        finals = {o: UnitLength() for o in outputs if self.kinds[o].unit}
        width: int = self.protocol.options.get("width", WIDTH)
        builders: Mapping[str, Callable[..., MultiTaskModel]] = {
            "unet": partial(unet, width=width),
            "segnet": segnet,
            "mtan": mtan,
            "deeplab": deeplab,
            "mtan_deeplab": mtan_deeplab,
        }
        if arch in builders:
            return builders[arch](outputs, finals)
        trunks: Mapping[str, Callable[..., Trunk]] = {
            "unet": partial(unet_trunk, width=width),
            "segnet": segnet_trunk,
            "mtan": segnet_trunk,
            "deeplab": deeplab_trunk,
            "mtan_deeplab": deeplab_trunk,
        }
        return SHARING[arch](trunks[self.protocol.arch](outputs, finals))

    def batches(self, split: str, seed: int | None) -> Iterable[Batch]:
        """As in :class:`Task`; shuffled training images are augmented, each in its own way."""
        check_split(split)
        samples, crops = self.samples[split], None
        if split == "train" and seed is not None and "scales" in self.protocol.options:
            scales = self.protocol.options["scales"]
            crops = Crops.draw(len(samples), samples.size, scales, seed)

        def group(index: Tensor) -> InputGroup:
            arrays = {name: samples.read(name, index.tolist()) for name in self.kinds}
            if crops is not None:
                arrays = crops[index](arrays)
            image = arrays.pop("image")
            targets = {n: as_labels(t) if self.kinds[n].channels else t for n, t in arrays.items()}
            return InputGroup(image, targets)

        return ArrayBatches(group, len(samples), self.protocol.batch_size, seed)

    loss = DenseLoss()

    def meters(self) -> Mapping[str, Metric]:
        from mtlbench.tasks._dense.meters import meter  # slow, and needed by no training step

        return {m.name: meter(m.name, self.classes, legacy=self.legacy) for m in self.info.metrics}

    def meters_otherwise(self) -> Mapping[str, Metric]:
        """Pooled over all valid pixels, where what counts is averaged over batches."""
        from mtlbench.tasks._dense.meters import LEGACY, meter

        of_batches = [m.name for m in self.info.metrics if m.name in LEGACY] if self.legacy else []
        return {name: meter(name, self.classes, legacy=False) for name in of_batches}

    @classmethod
    def verify(cls, data: Path) -> Iterator[Fault]:
        for part in ("train", "val"):
            samples, faults = scan(data / part, cls.kinds)
            yield from faults
            yield from samples.faults(odd=True)

    def pictures(
        self, group: InputGroup, predictions: Mapping[str, Any] | None
    ) -> Sequence[Sequence[Picture]]:
        return [
            panels(
                group.inputs[i],
                {name: target[i] for name, target in group.targets.items()},
                {name: p[i] for name, p in (predictions or {}).items()},
                self.classes,
            )
            for i in range(len(group.inputs))
        ]


def _split(
    train: Samples, held_out: Samples, images: Mapping[str, int] | None
) -> dict[str, Samples]:
    """The samples of train, val and test."""
    if images is None:
        return {"train": train, "val": held_out, "test": held_out}
    parts = split_indices(len(train), (images["train"], images["val"], 0))
    test = split_indices(len(held_out), (0, 0, images["test"]))["test"]
    return {
        "train": train.subset(parts["train"]),
        "val": train.subset(parts["val"]),
        "test": held_out.subset(test),
    }


def protocols(
    *,
    images: tuple[int, int, int],
    epochs: int,
    step: int,
    batch_size: int,
    published: Mapping[str, Any],
) -> tuple[Protocol, Protocol]:
    """The two protocols of a benchmark.

    Args:
        images: of ``mini``, by split.
        epochs: of ``mini``.
        step: epochs of ``mini`` after which its learning rate falls.
        batch_size: of ``paper``.
        published: options of ``paper``.
    """
    mini = Protocol(
        name="mini",
        version=2,
        arch="unet",
        epochs=epochs,
        batch_size=4,
        lr=2e-3,
        scheduler=("StepLR", {"step_size": step, "gamma": 0.2}),
        average_last=5,
        options={
            "images": dict(zip(SPLITS, images, strict=True)),
            "scales": (1.0,),
            "width": 16,
        },
    )
    paper = Protocol(
        name="paper",
        version=2,
        arch="mtan",
        epochs=200,
        batch_size=batch_size,
        lr=1e-4,
        scheduler=("StepLR", {"step_size": 100, "gamma": 0.5}),
        rho=(0.001, 0.0025, 0.01, 0.05, 0.1),
        average_last=10,
        alone={"arch": "segnet"},
        published=True,
        options={"legacy": True, **published},
    )
    return mini, paper


def array_files(kinds: Mapping[str, Kind], folder: Path, split: str, index: int) -> Sequence[Path]:
    """The files of one sample."""
    return [folder / split / kind.folder / f"{index}.npy" for kind in kinds.values()]


def write_arrays(files: Mapping[Path, Any]) -> None:
    """Save arrays in single precision."""
    for path, array in files.items():
        np.save(path, np.asarray(array, dtype=np.float32))
