"""Trainings that several processes make together, and one that fails on one of them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import NonNegativeInt
from torch import Tensor, nn
from torchmetrics import Metric

from mtlbench import Batch, InputGroup, MultiTaskModel, Protocol, Task
from mtlbench.data import ArrayBatches
from mtlbench.engine.randomness import seeded
from mtlbench.engine.reduce import Ranks
from mtlbench.registry import Spec
from mtlbench.runs.spec import build_task
from mtlbench.training.trainer import Trainer
from tests.toy_recipe import KINDS
from tests.toy_task import End, ToyTask


class InDouble(Task):
    """Another task in double precision, and a share of its training data.

    Args:
        task: the other one.
        share: one in so many batches.
    """

    def __init__(self, task: Task, share: int) -> None:
        self._task, self._share = task, share
        self.info, self.protocol, self.ignore = task.info, task.protocol, task.ignore  # type: ignore[misc]

    def build_model(self, arch: str) -> MultiTaskModel:
        return self._task.build_model(arch).double()

    def batches(self, split: str, seed: int | None) -> Iterable[Batch]:
        every = self._task.batches(split, seed)
        assert isinstance(every, ArrayBatches)

        def group(index: Tensor) -> InputGroup:
            made = every.group(index)
            return InputGroup(made.inputs.double(), made.targets)

        return ArrayBatches(group, every.n // self._share, every.batch_size, every.seed)

    def loss(self, objective: str, prediction: Any, target: Tensor) -> Tensor:
        return self._task.loss(objective, prediction, target)

    def meters(self) -> Mapping[str, Metric]:
        return self._task.meters()


def trained(name: str, method: str, wrapper: str, share: int, ranks: Ranks) -> dict[str, Any]:
    """An epoch, and what it is told to have come to."""
    whole, _ = build_task(Spec.parse(name), None, None, 1)
    task = InDouble(whole, share)
    with seeded(0):
        trainer = Trainer(
            task,
            task.info.objectives,
            architecture=task.protocol.arch,
            method=Spec.parse(method),
            sharpness=Spec.parse(wrapper),
            seed=0,
            device=torch.device("cpu"),
            ranks=ranks,
        )
        phase = trainer.fit()
    (epoch,) = phase.epochs
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    return {
        "steps": trainer.stepper.steps,
        "train": list(epoch.train_losses.values()),
        "test": list(phase.selected["test"].losses.values()),
        "metrics": list(phase.selected["test"].metrics.values()),
        "weights": weights.tolist(),
    }


class OneFails(ToyTask):
    """The toy, where one process alone fails.

    Args:
        protocol: as the toy's.
        data: likewise.
        fault: likewise.
        at: likewise.
        once: likewise.
        rank: which process.
    """

    def __init__(
        self,
        protocol: Protocol,
        data: Path | None = None,
        *,
        fault: End | None = None,
        at: NonNegativeInt = 1,
        once: str = "",
        rank: int = 1,
    ) -> None:
        super().__init__(protocol, data, fault=fault, at=at, once=once)
        self.rank = rank

    def _fail(self) -> None:
        if (dist.get_rank() if dist.is_initialized() else 0) == self.rank:
            super()._fail()


class Plain(ToyTask):
    """The toy with a network that draws nothing and normalises nothing: the same on any number of
    processes."""

    def build_model(self, arch: str) -> MultiTaskModel:
        sizes = {"level": 1, "slope": 1, "kind": KINDS}
        trunk = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        return MultiTaskModel(trunk, {name: nn.Linear(8, n) for name, n in sizes.items()})


class NotReady(ToyTask):
    """The toy, which fails before it trains in a process that another one has started.

    Args:
        protocol: as the toy's.
        data: likewise.
        fault: likewise.
    """

    def __init__(
        self, protocol: Protocol, data: Path | None = None, *, fault: End | None = None
    ) -> None:
        super().__init__(protocol, data, fault=fault)
        if multiprocessing.parent_process() is not None:
            self._epoch = self.at
            self._fail()
