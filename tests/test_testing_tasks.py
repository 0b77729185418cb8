"""The conformance kit for tasks: the toy passes, and each broken toy fails one check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from mtlbench import Batch, MultiTaskModel, Protocol
from mtlbench.data import split_indices
from mtlbench.registry import TASKS
from mtlbench.testing import check, check_task
from tests.toy_task import TOY, ToyTask

QUICK = ["flights", "multimnist", "qm9"]


def failed(cls: type[ToyTask]) -> dict[str, str]:
    globals()[cls.__name__] = cls  # where the registry looks
    return {f.check: f.detail for f in check(f"{__name__}:{cls.__name__}") if f.failed}


def test_the_toy_conforms() -> None:
    findings = check_task(TOY)
    assert {finding.verdict for finding in findings} == {"ok"}
    assert len(findings) == 11


@pytest.mark.parametrize("name", QUICK)
def test_registered_tasks_conform(name: str) -> None:
    assert [f for f in check(name) if f.failed] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TASKS.names() if name not in QUICK])
def test_slower_registered_tasks_conform(name: str) -> None:
    assert [f for f in check(name) if f.failed] == []


# ------------------------------------------------------------------------------------ broken toys
class NoMetric(ToyTask):
    info = replace(ToyTask.info, metrics=ToyTask.info.metrics[:2])


class SameMetricTwice(ToyTask):
    info = replace(ToyTask.info, metrics=(*ToyTask.info.metrics, ToyTask.info.metrics[0]))


class NoSuchArchitecture(ToyTask):
    info = replace(
        ToyTask.info, protocols=(replace(ToyTask.info.protocols[0], arch="transformer"),)
    )


class CannotBeBuilt(ToyTask):
    def __init__(self, protocol: Protocol, data: Path | None = None) -> None:
        super().__init__(protocol, data)
        raise OSError("no disk")


class SecretStandIn(ToyTask):
    stand_in = True


class OneTargetTwice(ToyTask):
    def batches(self, split: str, seed: int | None) -> Iterable[Batch]:
        return [[group, group] for (group,) in super().batches(split, seed)]


class AnySplit(ToyTask):
    def batches(self, split: str, seed: int | None) -> Iterable[Batch]:
        return super().batches("val" if split == "holdout" else split, seed)


class GlobalOrder(ToyTask):
    """Shuffles by torch's global generator."""

    def batches(self, split: str, seed: int | None) -> Iterable[Batch]:
        return super().batches(split, None if seed is None else int(torch.randint(99, ())))


class SeedlessOrder(ToyTask):
    def batches(self, split: str, seed: int | None) -> Iterable[Batch]:
        return super().batches(split, None if seed is None else 0)


class AnotherSplitEachTime(ToyTask):
    built = 0

    def __init__(self, protocol: Protocol, data: Path | None = None) -> None:
        super().__init__(protocol, data)
        type(self).built += 1
        order = split_indices(len(self._x), (len(self._x), 0, 0), seed=self.built)["train"]
        self._x = self._x[order]


class IdleLayer(ToyTask):
    def build_model(self, arch: str) -> MultiTaskModel:
        model = super().build_model(arch)
        model.shared.register_module("idle", _Bypassed())
        return model


class _Bypassed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return x


class SummedLoss(ToyTask):
    def loss(self, objective: str, prediction: Any, target: Tensor) -> Tensor:
        return super().loss(objective, prediction, target) * len(target)


class AveragedMeter(ToyTask):
    """A mean over batches."""

    def meters(self) -> Mapping[str, Metric]:
        return {**super().meters(), "kind_accuracy": _BatchMean()}


class _BatchMean(Metric):
    total: Tensor
    batches: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()))
        self.add_state("batches", torch.zeros(()))
        self.inner = MulticlassAccuracy(3, average="micro", validate_args=False)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        self.total += (prediction.argmax(1) == target).float().mean().square()
        self.batches += 1

    def compute(self) -> Tensor:
        return self.total / self.batches


class MissingMeter(ToyTask):
    def meters(self) -> Mapping[str, Metric]:
        return {name: m for name, m in super().meters().items() if name != "slope_mse"}


class WorseIsBetter(ToyTask):
    def selection_score(self, metrics: Mapping[str, float]) -> float:
        return -super().selection_score(metrics)


class WrongSign(ToyTask):
    """Climbs."""

    def loss(self, objective: str, prediction: Any, target: Tensor) -> Tensor:
        loss = super().loss(objective, prediction, target)
        return 2 * loss.detach() - loss


@pytest.mark.parametrize(
    ("cls", "caught", "words"),
    [
        (NoMetric, "declaration", "without a metric: kind"),
        (SameMetricTwice, "declaration", "level_mse"),
        (NoSuchArchitecture, "declaration", "transformer"),
        (CannotBeBuilt, "construction", "no disk"),
        (SecretStandIn, "construction", "hides"),
        (OneTargetTwice, "batches", "targets twice"),
        (AnySplit, "batches", "unknown split"),
        (GlobalOrder, "determinism", ""),
        (SeedlessOrder, "determinism", "does not decide"),
        (AnotherSplitEachTime, "determinism", "built"),
        (IdleLayer, "networks", "no loss reaches"),
        (SummedLoss, "mean-loss", "level"),
        (AveragedMeter, "meters", "kind_accuracy"),
        (MissingMeter, "meters", "info.metrics has"),
        (WorseIsBetter, "selection", "level_mse"),
        (WrongSign, "learning", "times as large"),
    ],
)
def test_a_broken_task_fails_one_check(cls: type[ToyTask], caught: str, words: str) -> None:
    found = failed(cls)
    assert list(found) == [caught]
    assert words in found[caught]


class BlindHead(ToyTask):
    """Another architecture than the protocol's has a head that sees nothing of the trunk."""

    def build_model(self, arch: str) -> MultiTaskModel:
        model = super().build_model(arch)
        if arch == "wide":
            nn.init.zeros_(model.heads["level"].get_parameter("weight"))
        return model


def test_another_architecture_is_held_to_it_when_asked() -> None:
    spec = f"{__name__}:BlindHead"
    assert [f for f in check_task(spec) if f.failed] == []
    (fault,) = [f for f in check_task(spec, architecture="wide") if f.failed]
    assert fault.check == "networks"
    assert "does not reach the trunk: level" in fault.detail
