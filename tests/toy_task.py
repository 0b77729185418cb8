"""A benchmark as another package would write it: tiny, registered nowhere, and failing on
request."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt
from torch import Tensor, nn
from torchmetrics import MeanSquaredError, Metric
from torchmetrics.classification import MulticlassAccuracy

from mtlbench import Batch, InputGroup, MetricInfo, MultiTaskModel, Protocol, Task, TaskInfo
from mtlbench.data import ArrayBatches, check_split, split_indices
from mtlbench.interfaces import Fault, Picture, Recipe
from tests.toy_recipe import KINDS, RECIPE

TOY = "tests.toy_task:ToyTask"
"""How the registry finds it."""

EPOCHS = 3
EXIT_CODE = 7
BROKEN = "the toy is broken: a [torch.FloatTensor [2]] of [/toy]"
"""What it raises; brackets as in torch's own messages."""
SIZES = (20, 8, 8)
WIDTHS = {"linear": 8, "wide": 16}

End = Literal["nan", "raise", "exit", "kill", "interrupt", "hang"]


class ToyTask(Task):
    """Two regressions and a classification on 36 made-up samples.

    Args:
        fault: what happens: losses become NaN, or training raises, ends its process, kills it, is
            interrupted, or hangs.
        at: the epoch from whose start on it does, in each phase; after a resume counted anew.
        once: a file that keeps it from happening again.
    """

    info = TaskInfo(
        name="toy",
        title="Toy",
        objectives=("level", "slope", "kind"),
        metrics=(
            MetricInfo("level_mse", "level", "m2", higher_is_better=False),
            MetricInfo("slope_mse", "slope", "", higher_is_better=False),
            MetricInfo("kind_accuracy", "kind", "%", higher_is_better=True, scale=100.0),
        ),
        protocols=(
            Protocol(
                name="mini",
                version=1,
                arch="linear",
                epochs=EPOCHS,
                batch_size=2,
                lr=0.01,
                scheduler=("StepLR", {"step_size": 1, "gamma": 0.9}),
            ),
            Protocol(name="paper", version=2, arch="wide", epochs=4, batch_size=4, lr=0.01),
        ),
        architectures=tuple(WIDTHS),
        references=(),
        licence="MIT",
        source="it is made up",
        instead="36 made-up samples",
    )
    data_source = "36 made-up samples"
    recipe: ClassVar[Recipe | None] = RECIPE

    def __init__(
        self,
        protocol: Protocol,
        data: Path | None = None,
        *,
        fault: End | None = None,
        at: NonNegativeInt = 1,
        once: str = "",
    ) -> None:
        super().__init__(protocol, data)
        self.fault, self.at, self.once = fault, at, once
        self._epoch = -1
        generator = torch.Generator().manual_seed(0)
        self._x = torch.randn(sum(SIZES), 4, generator=generator)
        noise = torch.randn(sum(SIZES), 2, generator=generator)
        regressions = self._x @ torch.tensor([[1.0, 0.5, 0.0, -1.0], [0.0, 1.0, -1.0, 0.5]]).T
        level, slope = (regressions + 0.1 * noise).split(1, dim=1)
        self._y = {"level": level, "slope": slope, "kind": self._x[:, :KINDS].argmax(1)}

    def build_model(self, arch: str) -> MultiTaskModel:
        self._epoch = -1
        width = WIDTHS[arch]
        trunk = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(0.2))
        sizes = {"level": 1, "slope": 1, "kind": KINDS}
        return MultiTaskModel(trunk, {name: nn.Linear(width, n) for name, n in sizes.items()})

    def batches(self, split: str, seed: int | None) -> Iterable[Batch]:
        check_split(split)
        index = torch.from_numpy(split_indices(len(self._x), SIZES)[split])
        if seed is not None:
            self._epoch += 1
            self._fail()

        def group(chosen: Tensor) -> InputGroup:
            rows = index[chosen]
            return InputGroup(self._x[rows], {name: y[rows] for name, y in self._y.items()})

        return ArrayBatches(group, len(index), self.protocol.batch_size, seed)

    def loss(self, objective: str, prediction: Any, target: Tensor) -> Tensor:
        if self.fault == "nan" and self._epoch >= self.at:
            return torch.as_tensor(prediction).sum() * torch.nan
        if objective == "kind":
            return nn.functional.cross_entropy(prediction, target)
        return nn.functional.mse_loss(prediction, target)

    def meters(self) -> Mapping[str, Metric]:
        return {
            "level_mse": MeanSquaredError(),
            "slope_mse": MeanSquaredError(),
            "kind_accuracy": MulticlassAccuracy(KINDS, average="micro", validate_args=False)
            * 100.0,
        }

    @classmethod
    def verify(cls, data: Path) -> Iterator[Fault]:
        for image in sorted(data.glob("*/image/*.npy")):
            label = image.parent.with_name("label") / image.name
            for path, n_axes in ((image, 3), (label, 2)):
                try:
                    shape = np.load(path).shape
                except (OSError, ValueError) as error:
                    yield Fault(path, f"cannot be read: {error}")
                else:
                    if len(shape) != n_axes:
                        yield Fault(path, f"has shape {shape}, expected {n_axes} axes")

    def pictures(
        self, group: InputGroup, predictions: Mapping[str, Any] | None
    ) -> Sequence[Sequence[Picture]]:
        rows = []
        for i, (x, level) in enumerate(zip(group.inputs, group.targets["level"], strict=True)):
            side = x.sigmoid().view(2, 2).numpy()
            kind = np.full((2, 2), int(group.targets["kind"][i]))
            kind[0, 0] = -1
            row = [
                Picture("input", np.stack([side, side.T, 1 - side], axis=-1), "rgb"),
                Picture("kind", kind, "labels", (0, KINDS)),
                Picture("level", np.where(kind < 0, np.nan, float(level)), "heat", (-2, 2)),
            ]
            if predictions is not None:
                error = abs(float(predictions["level"][i] - level))
                row.append(Picture("error of level", np.where(kind < 0, np.nan, error), "error"))
            rows.append(row)
        return rows

    def _fail(self) -> None:
        if self._epoch != self.at or (self.once and Path(self.once).exists()):
            return
        if self.once:
            Path(self.once).touch()
        match self.fault:
            case "raise":
                raise RuntimeError(BROKEN)
            case "interrupt":
                raise KeyboardInterrupt
            case "exit":
                os._exit(EXIT_CODE)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(3600)
