"""CelebA: forty yes-or-no questions about a face."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mtlbench.data import (
    SPLITS,
    ArrayBatches,
    Normalize,
    check_split,
    refuse,
    split_indices,
    standin,
)
from mtlbench.errors import UsageError
from mtlbench.interfaces import (
    Batch,
    Fault,
    InputGroup,
    JointLoss,
    MetricInfo,
    MultiTaskModel,
    Picture,
    Protocol,
    Task,
    TaskInfo,
)
from mtlbench.tasks._faces import ATTRIBUTES, attributes_of, face
from mtlbench.tasks._faces.folder import Layout, image_faults, image_size, open_faces, photos, scan
from mtlbench.tasks._nets.attributes import (
    Rows,
    deep,
    deep_trunk,
    strided,
    strided_trunk,
)
from mtlbench.tasks._nets.sharing import SHARING

if TYPE_CHECKING:
    from torchmetrics import Metric

SOURCE = (
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html; PATH has Img/img_align_celeba/*.jpg, "
    "Anno/list_attr_celeba.txt and Eval/list_eval_partition.txt, or the folder celeba of "
    "torchvision.datasets.CelebA"
)
FIRST = {"train": 1, "val": 162_771, "test": 182_638}
"""Number of each split's first image in CelebA."""
LAST = 202_599
JUDGED = 512
"""Images in a batch of an evaluation."""
QUALITY = 95
TITLE, COLUMNS = 45, 8
"""Letters above a picture; columns of the panel of answers."""


class BinaryCrossEntropy(JointLoss):
    """Mean binary cross-entropy of logits (batch,) with targets that are 0 or 1."""

    def together(self, predictions: Mapping[str, Any], targets: Mapping[str, Tensor]) -> Tensor:
        if len({targets[name].shape for name in predictions}) > 1:
            pairs = [(prediction, targets[name]) for name, prediction in predictions.items()]
            return torch.stack([binary_cross_entropy_with_logits(*pair) for pair in pairs])
        if isinstance(predictions, Rows):
            logits = predictions.matrix
        else:
            logits = torch.stack(list(predictions.values()))
        labels = torch.stack([targets[name] for name in predictions])
        return binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)


# ------------------------------------------------------------------------------------ stand-in
def _files(folder: Path, split: str, index: int) -> Sequence[Path]:
    return [Layout.original(folder).images / f"{_number(split, index):06d}.jpg"]


def _write(folder: Path, split: str, index: int, size: tuple[int, int]) -> None:
    from PIL import Image

    pixels, _ = face(_number(split, index), *size)
    (path,) = _files(folder, split, index)
    Image.fromarray(pixels).save(path, quality=QUALITY)


def _number(split: str, index: int) -> int:
    number = FIRST[split] + index
    if number >= min((first for first in FIRST.values() if first > FIRST[split]), default=LAST + 1):
        raise UsageError(f"CelebA has no {split} image {index:,}, and no more are generated")
    return number


def _lists(folder: Path) -> Sequence[Path]:
    layout = Layout.original(folder)
    return [layout.attributes, layout.partition]


def _write_lists(folder: Path, samples: Sequence[tuple[str, int]]) -> None:
    names = [_files(folder, *sample)[0].name for sample in samples]
    lines = [str(len(names)), " ".join(ATTRIBUTES)]
    for name, sample in zip(names, samples, strict=True):
        has = attributes_of(_number(*sample))
        lines.append(" ".join([name, *("1" if a in has else "-1" for a in ATTRIBUTES)]))
    attributes, partition = _lists(folder)
    attributes.write_text("\n".join(lines) + "\n")
    parts = [SPLITS.index(split) for split, _ in samples]
    listed = zip(names, parts, strict=True)
    partition.write_text("".join(f"{name} {part}\n" for name, part in listed))


class CelebA(Task):
    """Forty attributes of faces from `"Deep Learning Face Attributes in the Wild"
    <https://arxiv.org/abs/1411.7766>`_, trained as in `"FAMO" <https://arxiv.org/abs/2306.03792>`_:
    binary cross-entropy of each, judged by F1. Delta-m and selection are over the forty F1.

    An attribute is unlabelled for an image where its list has 0.

    Without a folder, generated faces stand in: all forty attributes are visible, at about CelebA's
    rates, except that "Attractive" has to be told from the others, as a person might.

    ``mini`` trains a small network for 96 steps on 640 faces: each attribute alone is learnt well
    beyond its rate, and the forty together are not, so that methods have something to gain. As a
    step of some methods with some wrappers takes 121 forward and 41 backward passes, more steps
    would be more than a small machine can do.

    Departs from the authors' code: the loss is computed from logits, not from probabilities; all
    heads are one matrix product; Adam is torch's fused one. A single task is evaluated in
    evaluation mode, where the released trainer leaves batch normalisation in training mode.

    Args:
        metric: what judges an attribute: "f1", as published, or the "accuracy".
    """

    info = TaskInfo(
        name="celeba",
        title="CelebA",
        objectives=ATTRIBUTES,
        metrics=tuple(
            MetricInfo(name, name, "%", higher_is_better=True, scale=100) for name in ATTRIBUTES
        ),
        protocols=(
            Protocol(
                name="mini",
                version=2,
                arch="strided",
                epochs=12,
                batch_size=80,
                lr=1e-2,
                scheduler=("StepLR", {"step_size": 9, "gamma": 0.3}),
                optimizer_options={"fused": True},
                average_last=5,
                options={
                    "image": 64,
                    "faces": {"train": 640, "val": 256, "test": 2048},
                    "width": 16,
                    "features": 64,
                },
            ),
            Protocol(
                name="paper",
                version=1,
                arch="deep",
                epochs=15,
                batch_size=256,
                lr=3e-4,
                optimizer_options={"fused": True},
                rho=(0.001, 0.01, 0.05, 0.1),
                published=True,
                options={"image": 64},
            ),
        ),
        architectures=("strided", "deep", *SHARING),
        references=(
            "https://arxiv.org/abs/1411.7766",
            "https://arxiv.org/abs/2306.03792",
            "https://arxiv.org/abs/2402.15638",
        ),
        licence="CelebA: https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (no commercial use); "
        "generated faces: MIT",
        source=SOURCE,
        instead="generated faces, a stand-in",
    )
    recipe = standin.Recipe(
        version=1,
        counts={"train": 640, "val": 256, "test": 2048},
        size=(64, 64),
        files=_files,
        write=_write,
        common=standin.Common(_lists, _write_lists),
    )

    loss = BinaryCrossEntropy()
    normalize = Normalize()

    def __init__(
        self,
        protocol: Protocol,
        data: Path | None = None,
        *,
        metric: Literal["f1", "accuracy"] = "f1",
    ) -> None:
        super().__init__(protocol, data)
        self.metric = metric
        folder = standin.cached(self.info.name, self.recipe) if data is None else data
        if data is not None:
            refuse(standin.check_manifest(self.info.name, self.recipe, data), SOURCE)
        self.stand_in = standin.read_manifest(folder) is not None
        faces = open_faces(folder, SOURCE)
        wanted = protocol.options.get("faces", {})
        split = {
            part: _some_of(index, wanted[part]) if part in wanted else index
            for part, index in faces.split.items()
        }
        side = protocol.options["image"]
        self.photos, self.labels = {}, {}
        for part, index in split.items():
            names = [faces.names[i] for i in index]
            self.photos[part] = photos(faces.layout.images, names, side)
            labels = torch.from_numpy(faces.labels[index]).float()
            self.labels[part] = torch.where(labels == 0, torch.nan, (labels + 1) / 2)
        height, width = image_size(faces.layout.images / faces.names[0])
        what = f"generated faces v{self.recipe.version} (stand-in)" if self.stand_in else "CelebA"
        sizes = "/".join(f"{len(index):,}" for index in split.values())
        self.data_source = f"{what}, {len(faces.names):,} images {height}x{width}, split {sizes}"

    def build_model(self, arch: str) -> MultiTaskModel:
        options = self.protocol.options
        sizes = options["image"], options.get("width", 16), options.get("features", 64)
        if arch == "deep":
            return deep(self.info.objectives)
        if arch == "strided":
            return strided(self.info.objectives, *sizes)
        if self.protocol.arch == "deep":
            return SHARING[arch](deep_trunk(self.info.objectives))
        return SHARING[arch](strided_trunk(self.info.objectives, *sizes))

    def batches(self, split: str, seed: int | None) -> Iterable[Batch]:
        check_split(split)
        photos, labels = self.photos[split], self.labels[split]
        size = self.protocol.batch_size if seed is not None else JUDGED

        def group(index: Tensor) -> InputGroup:
            targets = labels[index].T.contiguous().unbind()
            return InputGroup(photos(index), dict(zip(self.info.objectives, targets, strict=True)))

        return ArrayBatches(group, len(photos), size, seed, self.normalize)

    def meters(self) -> Mapping[str, Metric]:
        from mtlbench.tasks._faces.meters import METERS  # slow, and needed by no training step

        return {m.name: METERS[self.metric](validate_args=False) * 100.0 for m in self.info.metrics}

    @classmethod
    def verify(cls, data: Path) -> Iterator[Fault]:
        faces, faults = scan(data)
        yield from faults
        yield from image_faults(faces)

    def pictures(
        self, group: InputGroup, predictions: Mapping[str, Any] | None
    ) -> Sequence[Sequence[Picture]]:
        known = torch.stack([group.targets[name].cpu() for name in self.info.objectives], 1)
        rarest = self.labels["train"].nanmean(0).argsort().tolist()
        rows = []
        for i, image in enumerate(group.inputs.cpu()):
            has = [ATTRIBUTES[k] for k in rarest if known[i, k] == 1]
            title = shorten(", ".join(has) or "none", TITLE, placeholder=" ...")
            row = [Picture(title, np.asarray(image.permute(1, 2, 0).numpy()), "rgb")]
            if predictions:
                guesses = {k: float(p[i]) > 0 for k, p in predictions.items()}
                row.append(_answers(dict(zip(ATTRIBUTES, known[i].tolist(), strict=True)), guesses))
            rows.append(row)
        return rows


def _answers(known: Mapping[str, float], guesses: Mapping[str, bool]) -> Picture:
    """Attributes in the order of the list, row by row: 0 rightly none, 1 rightly there, 2 missed,
    3 made up; white where there is no label or no guess."""
    answers = np.full(len(known), -1)
    for i, (name, value) in enumerate(known.items()):
        if name in guesses and value == value:
            answers[i] = {(0, 0): 0, (1, 1): 1, (1, 0): 2, (0, 1): 3}[int(value), guesses[name]]
    wrong = {"missed": np.flatnonzero(answers == 2), "made up": np.flatnonzero(answers == 3)}
    said = [f"{how} {', '.join(ATTRIBUTES[i] for i in at)}" for how, at in wrong.items() if len(at)]
    title = shorten("; ".join(said) or "all right", TITLE, placeholder=" ...")
    return Picture(title, answers.reshape(-1, COLUMNS), "labels", (0, 4))


def _some_of(index: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """``n`` of these positions; a fixed rule, the same for every run."""
    return index[np.sort(split_indices(len(index), (n, 0, 0))["train"])]
