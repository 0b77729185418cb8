"""What is trained by the benchmarks: a network on one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.optim import Optimizer

from mtlbench.bench.plan import Part
from mtlbench.engine.randomness import seeded
from mtlbench.engine.reduce import ALONE, Ranks
from mtlbench.engine.stream import RowsMode
from mtlbench.interfaces import Batch, InputGroup, Loss, MultiTaskModel, Task
from mtlbench.registry import TASKS, Spec
from mtlbench.training.stepper import Stepper

LEARNING_RATE = 1e-5  # the last round meets the same gradients as the first
DEFAULT_OPTIMIZER = "Adam"
CLASSES = 2


class CNN(Part):
    """A made-up network: 3 x 3 convolutions, two a width or as ``depths`` says, and a maximum over
    2 x 2 after each width."""

    name: str
    widths: list[PositiveInt]
    features: PositiveInt
    image: PositiveInt
    batch: PositiveInt
    tasks: PositiveInt
    depths: list[PositiveInt] | None = None


class Vision(Part):
    """A network of torchvision without its classifier, on random images.

    Args:
        network: what makes it, in ``torchvision.models``.
        options: of the network.
        classifier: name of the module that is left out.
        features: outputs of the one before.
    """

    name: str
    network: str
    options: dict[str, Any]
    classifier: str
    features: PositiveInt
    image: PositiveInt
    batch: PositiveInt
    tasks: PositiveInt


@dataclass(frozen=True)
class Workload:
    """What is trained: a network on one batch.

    Args:
        build: makes the network, each time with the same weights.
        batch: to train on.
        loss: see :data:`~mtlbench.interfaces.Loss`.
        optimizer: name of a ``torch.optim`` class.
        options: of the optimizer.
        device: where all of it is.
    """

    build: Callable[[], MultiTaskModel]
    batch: Batch
    loss: Loss
    optimizer: str
    device: torch.device
    options: Mapping[str, Any] = field(default_factory=dict)

    def optimize(self, model: nn.Module) -> Optimizer:
        """A fresh optimizer."""
        kind = getattr(torch.optim, self.optimizer)
        made: Optimizer = kind(model.parameters(), lr=LEARNING_RATE, **self.options)
        return made

    def stepper(
        self,
        method: str,
        sharpness: str,
        objectives: Sequence[str] | None = None,
        rows: RowsMode = "auto",
        ranks: Ranks = ALONE,
    ) -> Stepper:
        """The library's way to train it, on all objectives by default."""
        model = self.build()
        optimizer = self.optimize(model)
        return Stepper(
            model, optimizer, method, sharpness, objectives=objectives, rows=rows, ranks=ranks
        )


def cnn(size: CNN, seed: int, device: torch.device) -> Workload:
    """A made-up network and batch of this size."""
    names = [f"task{k}" for k in range(size.tasks)]
    depths = size.depths or [2] * len(size.widths)

    def build() -> MultiTaskModel:
        layers: list[nn.Module] = []
        before = 3
        with seeded(seed):
            for width, depth in zip(size.widths, depths, strict=True):
                for _ in range(depth):
                    layers += [
                        nn.Conv2d(before, width, 3, padding=1, bias=False),
                        nn.BatchNorm2d(width),
                        nn.ReLU(),
                    ]
                    before = width
                layers.append(nn.MaxPool2d(2))
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            layers += [nn.Linear(before, size.features), nn.ReLU()]
            heads = {name: nn.Linear(size.features, CLASSES) for name in names}
            return MultiTaskModel(nn.Sequential(*layers), heads).to(device)

    return _on_noise(build, size, names, seed, device)


def _on_noise(
    build: Callable[[], MultiTaskModel],
    size: CNN | Vision,
    names: Sequence[str],
    seed: int,
    device: torch.device,
) -> Workload:
    noise = torch.Generator().manual_seed(seed)
    images = torch.randn(size.batch, 3, size.image, size.image, generator=noise)
    targets = torch.randint(CLASSES, (size.tasks, size.batch), generator=noise)
    group = InputGroup(images, dict(zip(names, targets, strict=True))).to(device)
    return Workload(build, [group], _cross_entropy, DEFAULT_OPTIMIZER, device)


def vision(size: Vision, seed: int, device: torch.device) -> Workload:
    """A network of torchvision and a batch of this size."""
    import torchvision.models

    names = [f"task{k}" for k in range(size.tasks)]

    def build() -> MultiTaskModel:
        with seeded(seed):
            trunk: nn.Module = getattr(torchvision.models, size.network)(**size.options)
            setattr(trunk, size.classifier, nn.Identity())
            heads = {name: nn.Linear(size.features, CLASSES) for name in names}
            return MultiTaskModel(trunk, heads).to(device)

    return _on_noise(build, size, names, seed, device)


def _cross_entropy(objective: str, prediction: Any, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(prediction, target)


def benchmark(name: str, seed: int, device: torch.device, protocol: str | None = None) -> Workload:
    """A registered task's network with a protocol, by default the task's first, on its first
    training batch."""
    task = find_task(name, protocol)

    def build() -> MultiTaskModel:
        with seeded(seed):
            return task.build_model(task.protocol.arch).to(device)

    batch = [group.to(device) for group in next(iter(task.batches("train", seed)))]
    used = task.protocol
    return Workload(build, batch, task.loss, used.optimizer, device, used.optimizer_options)


def find_task(name: str, protocol: str | None = None) -> Task:
    """A registered task with this protocol of its own, by default its first.

    Raises:
        UsageError: it has no such protocol.
    """
    return TASKS.build(name, TASKS.get(Spec.parse(name).name).info.protocol(protocol), None)
