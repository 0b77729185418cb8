"""MultiMNIST: two overlaid digits, one task each; also with garments of Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mtlbench.data import ArrayBatches, check_split, load_npz, split_indices
from mtlbench.errors import DataError
from mtlbench.interfaces import (
    Batch,
    InputGroup,
    MetricInfo,
    MultiTaskModel,
    Protocol,
    Task,
    TaskInfo,
)
from mtlbench.tasks._nets import lenet
from mtlbench.tasks._nets.sharing import SHARING

if TYPE_CHECKING:
    from torchmetrics import Metric

Images = Literal["mnist", "fashion", "mnist+fashion"]

CLASSES = 10
CANVAS, SIZE = 36, 28
EMBEDDED = Path(__file__).parent / "_data"
SOURCE = (
    "torchvision.datasets.MNIST(PATH, download=True) and FashionMNIST(PATH, download=True) write "
    "PATH/MNIST/raw and PATH/FashionMNIST/raw"
)


MINI = Protocol(
    name="mini",
    version=2,
    arch="lenet",
    epochs=12,
    batch_size=64,
    lr=1e-3,
    average_last=5,
    options={"overlays": {"train": 4000, "val": 1000, "test": 10_000}, "features": 50},
)
QUICK = replace(
    MINI,
    name="quick",
    version=1,
    epochs=3,
    average_last=0,
    options={**MINI.options, "overlays": {"train": 4000, "val": 1000, "test": 1000}},
)
"""To see something within a minute."""
PAPER = Protocol(
    name="paper",
    version=1,
    arch="lenet",
    epochs=200,
    batch_size=256,
    lr=1e-3,
    rho=(0.01, 0.05, 0.1, 2.0),
    average_last=1,
    published=True,
    options={
        "overlays": {"train": 120_000, "val": 20_000, "test": 20_000},
        "features": 50,
        "side": CANVAS,
        "parts": {"train": ("train", "val"), "val": ("test",), "test": ("test",)},
    },
)


@dataclass(frozen=True)
class _Set:
    """Where one source of images is found."""

    title: str
    embedded: str
    folder: str


_SETS = {
    "mnist": _Set("MNIST", "mnist_5k.npz", "MNIST"),
    "fashion": _Set("Fashion-MNIST", "fashion_mnist_5k.npz", "FashionMNIST"),
}


class MultiMNIST(Task):
    """Two images in one, from `"Multi-Task Learning as Multi-Objective Optimization"
    <https://arxiv.org/abs/1810.04650>`_; with garments from `"Pareto Multi-Task Learning"
    <https://arxiv.org/abs/1912.12854>`_.

    One image lies at the top left of a 36 x 36 canvas and one at the bottom right; their
    pixelwise maximum is resized to 28 x 28. Train, val and test overlay disjoint images.

    ``paper`` is the protocol of `"F-MTL" <https://arxiv.org/abs/2211.13723>`_: the canvas as it is,
    120,000 overlays of all training images and 20,000 of the test images, and no validation: what
    counts is the test score after the last epoch.

    Departs from the authors' code: a head is one linear layer, and there is no dropout. Which
    images are overlaid is drawn here, not read from the released file.

    Args:
        images: source of both images; ``"mnist+fashion"`` has a digit on the left and a garment
            on the right.
    """

    info = TaskInfo(
        name="multimnist",
        title="MultiMNIST",
        objectives=("left", "right"),
        metrics=tuple(
            MetricInfo(f"{side}_accuracy", side, "%", higher_is_better=True)
            for side in ("left", "right")
        ),
        protocols=(MINI, QUICK, PAPER),
        architectures=("lenet", *SHARING),
        references=(
            "https://arxiv.org/abs/1810.04650",
            "https://arxiv.org/abs/1912.12854",
            "https://arxiv.org/abs/2211.13723",
        ),
        licence="MNIST: CC BY-SA 3.0; Fashion-MNIST: MIT",
        source=SOURCE,
        instead="5,000 images each of MNIST and Fashion-MNIST, embedded",
    )

    def __init__(
        self, protocol: Protocol, data: Path | None = None, *, images: Images = "mnist"
    ) -> None:
        super().__init__(protocol, data)
        names = images.split("+")
        self.sides = (names[0], names[-1])
        self.side: int = protocol.options.get("side", SIZE)
        sets = {name: _source_images(name, data) for name in names}
        count = sum(len(y) for _, y in sets[names[0]].values())
        titles = " and ".join(_SETS[name].title for name in names)
        embedded = "" if data else "embedded "
        self.data_source = f"{titles}, {count:,} {embedded}images" + " each" * (len(names) - 1)

    def build_model(self, arch: str) -> MultiTaskModel:
        sizes = CLASSES, self.protocol.options["features"], self.side
        if arch == "lenet":
            return lenet.lenet(self.info.objectives, *sizes)
        return SHARING[arch](lenet.trunk(self.info.objectives, *sizes))

    def batches(self, split: str, seed: int | None) -> Iterable[Batch]:
        check_split(split)
        options = self.protocol.options
        count, parts = options["overlays"][split], options.get("parts", {}).get(split, (split,))
        x, y = _overlays(self.sides, self.data, parts, count, self.side)

        def group(index: Tensor) -> InputGroup:
            targets = y[index].unbind(1)
            images = x[index] if x.is_floating_point() else x[index] / 255
            return InputGroup(images, dict(zip(self.info.objectives, targets, strict=True)))

        return ArrayBatches(group, count, self.protocol.batch_size, seed)

    def loss(self, objective: str, prediction: Any, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(prediction, target)

    def meters(self) -> Mapping[str, Metric]:
        from torchmetrics.classification import (
            MulticlassAccuracy,  # slow, and needed by no training step
        )

        return {
            m.name: MulticlassAccuracy(CLASSES, average="micro", validate_args=False) * 100.0
            for m in self.info.metrics
        }


# ------------------------------------------------------------------------------------ data
Labelled = tuple[Tensor, Tensor]
"""Images (n, 28, 28) and labels (n,), both uint8."""


@lru_cache(maxsize=4)
def _source_images(name: str, data: Path | None) -> dict[str, Labelled]:
    """Images of each split: 3/5, 1/5 and 1/5 of the embedded ones; of a folder's, 5/6 and 1/6 of
    the training files, and the test files."""
    if data is None:
        path = EMBEDDED / _SETS[name].embedded
        arrays = load_npz(path, ("x", "y"), "It comes with mtlbench: install it again.")
        x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
        fifth = len(x) // 5
        parts = split_indices(len(x), (len(x) - 2 * fifth, fifth, fifth))
        return {split: (x[index], y[index]) for split, index in parts.items()}
    folder = data / _SETS[name].folder / "raw"
    x, y = _read_idx(folder, "train")
    sixth = len(x) // 6
    parts = split_indices(len(x), (len(x) - sixth, sixth, 0))
    train, val = ((x[parts[split]], y[parts[split]]) for split in ("train", "val"))
    return {"train": train, "val": val, "test": _read_idx(folder, "t10k")}


def _read_idx(folder: Path, prefix: str) -> Labelled:
    """One pair of files in the layout of torchvision's MNIST."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    read = []
    for kind, reader in (("images-idx3", read_image_file), ("labels-idx1", read_label_file)):
        path = folder / f"{prefix}-{kind}-ubyte"
        if not path.is_file():
            raise DataError(f"{path} is missing: expected an unpacked IDX file. {SOURCE}")
        try:
            read.append(reader(str(path)))
        except (AssertionError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise DataError(f"{path} is corrupt: expected an IDX file. {SOURCE}") from error
    x, y = read
    if x.shape[1:] != (SIZE, SIZE) or len(x) != len(y) or not len(y) or y.max() >= CLASSES:
        raise DataError(
            f"{folder}/{prefix}-*: expected 28 x 28 images and as many labels below {CLASSES}, "
            f"got images {tuple(x.shape)} and labels {tuple(y.shape)}. {SOURCE}"
        )
    return x, y.to(torch.uint8)


@lru_cache(maxsize=12)
def _overlays(
    sides: tuple[str, str], data: Path | None, parts: tuple[str, ...], count: int, side: int
) -> tuple[Tensor, Tensor]:
    """Images (count, 1, side, side), in [0, 1], or bytes where they are as large as the canvas, and
    labels (count, 2), the same for every run."""
    canvas = torch.zeros(2, count, CANVAS, CANVAS, dtype=torch.uint8)
    labels = torch.empty(count, 2, dtype=torch.int64)
    corners = (slice(0, SIZE), slice(CANVAS - SIZE, CANVAS))
    rng = np.random.default_rng(0)
    for place, (name, corner) in enumerate(zip(sides, corners, strict=True)):
        found = [_source_images(name, data)[part] for part in parts]
        x, y = (torch.cat(tensors) for tensors in zip(*found, strict=True))
        index = torch.from_numpy(rng.integers(len(x), size=count))
        canvas[place, :, corner, corner] = x[index]
        labels[:, place] = y[index]
    overlaid = canvas.amax(0).unsqueeze(1)
    if side == CANVAS:
        return overlaid, labels
    resized = nn.functional.interpolate(
        overlaid / 255, (side, side), mode="bilinear", antialias=True
    )
    return resized, labels
