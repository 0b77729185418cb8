"""Steps by `TorchJD <https://torchjd.org>`_, where it is installed beside: by its Jacobian
(autojac) and by its Gramian without one (autogram)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from mtlbench.bench.workloads import Workload
from mtlbench.torch_private import tree_leaves

MakeStep = Callable[[Workload], Callable[[], object]]
"""Makes a step of a workload."""


def installed() -> bool:
    """Whether TorchJD is there."""
    return find_spec("torchjd") is not None


class _Losses:
    """The losses of a step, and the trunk's outputs."""

    def __init__(self, work: Workload) -> None:
        self.work, self.model = work, work.build()
        self.names = list(self.model.heads)
        self.shared, self.heads = self.model.parameter_roles(self.names)
        self.optimizer = work.optimize(self.model)

    def __call__(self) -> tuple[list[Tensor], list[Tensor]]:
        losses, features = {}, []
        for group in self.work.batch:
            trunk = self.model.shared(group.inputs)
            features += [leaf for leaf in tree_leaves(trunk) if isinstance(leaf, Tensor)]
            outputs = self.model.predict(trunk, list(group.targets))
            for name, target in group.targets.items():
                losses[name] = self.work.loss(name, outputs[name], target)
        return [losses[name] for name in self.names], features


def jacobian(work: Workload) -> Callable[[], object]:
    """UPGrad on TorchJD's Jacobian."""
    autojac, upgrad = import_module("torchjd.autojac"), _aggregation().UPGrad()
    forward = _Losses(work)

    def step() -> None:
        losses, features = forward()
        autojac.mtl_backward(
            losses,
            features=features,
            tasks_params=forward.heads,
            shared_params=forward.shared,
            parallel_chunk_size=1,  # as batch normalisation cannot be vectorised
        )
        autojac.jac_to_grad(forward.shared, upgrad)
        forward.optimizer.step()
        forward.optimizer.zero_grad()

    return step


def gramian(work: Workload) -> Callable[[], object]:
    """UPGrad's weights by TorchJD's Gramian, and a backward pass of the weighted losses."""
    weighting, forward = _aggregation().UPGradWeighting(), _Losses(work)
    engine = import_module("torchjd.autogram").Engine(forward.model.shared, batch_dim=None)

    def step() -> None:
        losses = torch.stack(forward()[0])
        losses.backward(weighting(engine.compute_gramian(losses)))
        forward.optimizer.step()
        forward.optimizer.zero_grad()

    return step


def _aggregation() -> Any:
    return import_module("torchjd.aggregation")


PEERS: Mapping[str, MakeStep] = {"autojac": jacobian, "autogram": gramian}
