"""What Office-Home and Office-31 have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from mtlbench.data import SPLITS, Normalize, check_split
from mtlbench.interfaces import Batch, Fault, InputGroup, MultiTaskModel, Picture, Protocol, Task
from mtlbench.tasks._dense.augment import Crops
from mtlbench.tasks._nets.office import (
    cnn,
    cnn_trunk,
    mtan_resnet18,
    resnet18,
    resnet18_trunk,
)
from mtlbench.tasks._nets.sharing import SHARING
from mtlbench.tasks._nets.trunk import Trunk
from mtlbench.tasks._office.batches import DomainBatches
from mtlbench.tasks._office.folder import decoded, open_folder, scan, unreadable
from mtlbench.tasks._office.icons import icons

if TYPE_CHECKING:
    from torchmetrics import Metric

ARCHITECTURES = ("cnn", "resnet18", "mtan", *SHARING)
MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
NORMALIZE = Normalize(MEAN, STD)

MINI = Protocol(
    name="mini",
    version=2,
    arch="cnn",
    epochs=15,
    batch_size=32,
    lr=3e-3,
    scheduler=("StepLR", {"step_size": 12, "gamma": 0.2}),
    average_last=5,
    options={"side": 32, "width": 24, "scales": (1.0, 1.1, 1.25)},
)
LIBMTL = Protocol(
    name="libmtl",
    version=1,
    arch="resnet18",
    epochs=100,
    batch_size=64,
    lr=1e-4,
    weight_decay=1e-5,
    rho=(0.001, 0.01, 0.05, 0.1),
    weights="ImageNet: torchvision's resnet18, IMAGENET1K_V1",
    published=True,
    options={"side": 224},
)
"""Of LibMTL's example: one learning rate, for single tasks too."""


@dataclass(frozen=True)
class Examples:
    """Images of a domain and split.

    Args:
        labels: classes, (n,) int64.
        read: the images with these indices, (m, 3, side, side) uint8.
    """

    labels: Tensor
    read: Callable[[Tensor], Tensor]


class OfficeTask(Task):
    """Which object is seen, in K domains with images of their own: one objective a domain.

    A protocol's options:

    - ``side``: of the images, in pixels; colours are normalised as for ImageNet.
    - ``scales``: of the enlarged parts of training images, half of which are mirrored.
    - ``width``: of the network ``cnn``.

    Images are decoded once for all runs, and normalised where they are used.
    """

    styles: ClassVar[Mapping[str, str]]
    """Objective to the style of the drawings that stand in for it."""

    def __init__(self, protocol: Protocol, data: Path | None = None) -> None:
        super().__init__(protocol, data)
        self.stand_in = data is None
        self.side: int = protocol.options["side"]
        self.examples: dict[str, dict[str, Examples]] = {split: {} for split in SPLITS}
        """Split to objective to images."""
        if data is None:
            self._draw()
        else:
            self._open(data)

    def _draw(self) -> None:
        drawn = icons()
        self.classes: Sequence[str] = [str(name) for name in drawn.classes]
        self.data_source = drawn.describe(self.styles)
        pixels = _resized(drawn.pixels, self.side)
        for split, examples in self.examples.items():
            for name, style in self.styles.items():
                own = drawn.of(style, split)
                examples[name] = _part(drawn.label, pixels.__getitem__, own)

    def _open(self, data: Path) -> None:
        folder = open_folder(data, self.info.objectives, self.info.source)
        self.classes = folder.classes
        total = sum(map(len, folder.files.values()))
        for name, files in folder.files.items():
            images, labels = decoded(folder.root, files, self.side), folder.labels(name)
            for split, examples in self.examples.items():
                own = torch.tensor(folder.splits[name][split], dtype=torch.int64)
                examples[name] = _part(labels, images, own)
        counts = [sum(len(e.labels) for e in self.examples[s].values()) for s in SPLITS]
        self.data_source = (
            f"{self.info.title}, {total:,} images of {len(self.classes)} classes, "
            f"split {'/'.join(f'{n:,}' for n in counts)} {folder.rule}"
        )

    def build_model(self, arch: str) -> MultiTaskModel:
        width: int = self.protocol.options.get("width", 24)
        builders: Mapping[str, Callable[..., MultiTaskModel]] = {
            "cnn": partial(cnn, width=width),
            "resnet18": resnet18,
            "mtan": mtan_resnet18,
        }
        if arch in builders:
            return builders[arch](self.info.objectives, len(self.classes))
        trunks: Mapping[str, Callable[..., Trunk]] = {
            "cnn": partial(cnn_trunk, width=width),
            "resnet18": resnet18_trunk,
            "mtan": resnet18_trunk,
        }
        trunk = trunks[self.protocol.arch](self.info.objectives, len(self.classes))
        return SHARING[arch](trunk)

    def batches(self, split: str, seed: int | None) -> Iterable[Batch]:
        """As in :class:`Task`; see :class:`DomainBatches` for what an epoch is."""
        check_split(split)
        examples = self.examples[split]
        scales = self.protocol.options.get("scales") if split == "train" else None

        augmented = scales is not None and seed is not None

        def group(k: int, index: Tensor, draw: int | None) -> InputGroup:
            name = self.info.objectives[k]
            images = examples[name].read(index)
            if scales is not None and draw is not None:
                crops = Crops.draw(len(index), (self.side,) * 2, scales, draw)
                images = crops.bilinear(NORMALIZE(images))
            return InputGroup(images, {name: examples[name].labels[index]})

        sizes = [len(examples[name].labels) for name in self.info.objectives]
        finish = None if augmented else NORMALIZE
        return DomainBatches(group, sizes, self.protocol.batch_size, seed, finish)

    def loss(self, objective: str, prediction: Any, target: Tensor) -> Tensor:
        return cross_entropy(prediction, target)

    def meters(self) -> Mapping[str, Metric]:
        from torchmetrics.classification import (
            MulticlassAccuracy,  # slow, and needed by no training step
        )

        return {
            m.name: MulticlassAccuracy(len(self.classes), average="micro", validate_args=False)
            * 100.0
            for m in self.info.metrics
        }

    @classmethod
    def verify(cls, data: Path) -> Iterator[Fault]:
        folder, faults = scan(data, cls.info.objectives)
        yield from faults
        yield from unreadable(list(chain.from_iterable(folder.files.values())))

    def pictures(
        self, group: InputGroup, predictions: Mapping[str, Any] | None
    ) -> Sequence[Sequence[Picture]]:
        """An image a row: the domain, its class, and what is predicted."""
        ((name, target),) = group.targets.items()
        titles = [f"{name}: {self._named(label)}" for label in target.tolist()]
        if predictions is not None:
            found = predictions[name].argmax(1).tolist()
            titles = [
                f"{t}, predicted {self._named(p)}" for t, p in zip(titles, found, strict=True)
            ]
        images = (group.inputs.detach().cpu() * STD + MEAN).clamp(0, 1).permute(0, 2, 3, 1)
        return [
            [Picture(title, np.asarray(image.numpy()), "rgb")]
            for title, image in zip(titles, images, strict=True)
        ]

    def _named(self, label: int) -> str:
        return self.classes[label] if label >= 0 else "unlabelled"


def _part(labels: Tensor, read: Callable[[Tensor], Tensor], own: Tensor) -> Examples:
    """The examples with these indices."""
    return Examples(labels[own], lambda index: read(own[index]))


def _resized(pixels: Tensor, side: int) -> Tensor:
    if pixels.shape[-1] == side:
        return pixels
    return interpolate(pixels, (side, side), mode="bilinear", antialias=True)
