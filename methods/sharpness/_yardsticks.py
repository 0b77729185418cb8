"""SAMO's step as it was released, which ``mtlbench bench step`` times ours against.

Nothing trains with it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from mtlbench.interfaces import Batch, DenseView, Loss, MultiTaskModel, PlainStep, WeightingMethod

if TYPE_CHECKING:
    from mtlbench.methods.sharpness.samo import SAMO

Named = dict[str, Tensor]
"""Parameter name to a tensor of its shape."""


class ReleasedSAMO:
    """The way of the code released with `"SAMO: A Lightweight Sharpness-Aware Approach for
    Multi-Task Optimization with Joint Global-Local Perturbation"
    <https://arxiv.org/abs/2507.07883>`_.

    For every task a copy of the network, noise drawn four times from one seed, dictionaries of
    clones, a norm at a time, all heads in every forward pass; no buffer is used twice. The
    products and clones are those of the released expressions, in their order.

    Args:
        model: the network.
        optimizer: of its parameters.
        method: turns the K gradients into one.
        batch: to train on.
        loss: see :data:`~mtlbench.interfaces.Loss`.
        rho: length of the perturbations.
        alpha: share of the global part.
        mu: length unit of the probe.
        adaptive: lengths relative to the parameters.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        optimizer: Optimizer,
        method: WeightingMethod,
        batch: Batch,
        loss: Loss,
        *,
        rho: float,
        alpha: float,
        mu: float,
        adaptive: bool = False,
    ) -> None:
        self.model, self.optimizer, self.method = model, optimizer, method
        self.batch, self.loss = batch, loss
        self.rho, self.alpha, self.mu, self.adaptive = rho, alpha, mu, adaptive
        self.names = list(model.heads)
        self.device = next(model.parameters()).device
        self.seeds = torch.Generator().manual_seed(0)

    def __call__(self) -> None:
        """One step."""
        self.optimizer.zero_grad()
        losses = self._losses(self.model)
        losses.mean().backward()
        local = {name: self._estimated(name) for name in self.names}
        shared = _clones(self.model.shared)
        heads = {name: _clones(self.model.heads[name]) for name in self.names}
        shared_moves, head_moves = {}, {}
        for name in self.names:
            head = self.model.heads[name]
            head_moves[name] = self._to_length(head, _gradients(head))
            shared_moves[name] = self._to_length(self.model.shared, self._mixed(local[name]))
        self.model.zero_grad()
        rows = {}
        with _momentum_of_zero(self.model):
            for k, name in enumerate(self.names):
                head = self.model.heads[name]
                _assign(head, {n: heads[name][n] + head_moves[name][n] for n in heads[name]})
                _assign(self.model.shared, {n: shared[n] + shared_moves[name][n] for n in shared})
                self._losses(self.model)[k].backward()
                _assign(head, heads[name])
                rows[name] = _gradients(self.model.shared)
                for p in self.model.shared.parameters():
                    if p.grad is not None:
                        p.grad.zero_()
        _assign(self.model.shared, shared)
        self._descend(rows, losses.detach())

    def _losses(self, model: MultiTaskModel) -> Tensor:
        found = {}
        for group in self.batch:
            outputs = model(group.inputs)
            for name, target in group.targets.items():
                found[name] = self.loss(name, outputs[name], target)
        return torch.stack([found[name] for name in self.names])

    def _estimated(self, name: str) -> Named:
        """The gradient that two forward passes of a copy of the network tell of."""
        model, k = copy.deepcopy(self.model), self.names.index(name)
        seed = int(torch.randint(2**31, (), generator=self.seeds))
        model.eval()
        with torch.no_grad():
            self._move(model, seed, 1)
            ahead = self._losses(model)[k]
            self._move(model, seed, -2)
            behind = self._losses(model)[k]
        self._move(model, seed, 1)
        slope = (ahead - behind) / (2 * self.mu)
        return {n: slope * z for n, z in self._noise(model, seed)}

    def _move(self, model: MultiTaskModel, seed: int, factor: float) -> None:
        parameters = dict(model.shared.named_parameters())
        for n, z in self._noise(model, seed):
            parameters[n].data = parameters[n].data + factor * z * self.mu

    def _noise(self, model: MultiTaskModel, seed: int) -> Iterator[tuple[str, Tensor]]:
        """The same noise whenever the seed is the same."""
        generator = torch.Generator(self.device).manual_seed(seed)
        for n, p in model.shared.named_parameters():
            yield n, torch.randn(p.shape, generator=generator, device=p.device, dtype=p.dtype)

    def _mixed(self, local: Named) -> Named:
        mixed = {}
        for n, p in self.model.shared.named_parameters():
            if p.grad is not None:
                own, other = p.grad.norm().item(), local[n].norm().item()
                share = 1 - self.alpha
                mixed[n] = self.alpha * p.grad.clone() + share * own * (local[n] / other)
        return mixed

    def _to_length(self, module: nn.Module, direction: Named) -> Named:
        moves, norms = {}, []
        for n, p in module.named_parameters():
            moves[n] = torch.zeros_like(p).data.clone()
            if n in direction:
                norms.append(((p.abs() if self.adaptive else 1.0) * direction[n]).norm().clone())
                moves[n] = ((p**2 if self.adaptive else 1.0) * direction[n]).data.clone()
        scale = (self.rho / (torch.stack(norms).norm() + 1e-12)).item()
        return {n: move * scale for n, move in moves.items()}

    def _descend(self, rows: dict[str, Named], losses: Tensor) -> None:
        columns = torch.stack(
            [torch.cat([g.clone().view(-1) for g in rows[name].values()]) for name in self.names], 1
        )
        own = [list(self.model.heads[name].parameters()) for name in self.names]
        heads = [torch.cat([_gradient(p).flatten() for p in params]) for params in own]
        view = DenseView(losses, columns.T, heads, torch.Generator(self.device))
        update = self.method.aggregate(view)
        groups = [list(self.model.shared.parameters()), *own]
        for params, vector in zip(groups, [update.shared, *update.heads], strict=True):
            pieces = vector.split([p.numel() for p in params])
            for p, piece in zip(params, pieces, strict=True):
                p.grad = piece.view_as(p).clone()
        self.optimizer.step()
        self.method.after_step(lambda: torch.no_grad()(self._losses)(self.model))


def _clones(module: nn.Module) -> Named:
    return {n: p.data.clone() for n, p in module.named_parameters()}


def _gradient(p: nn.Parameter) -> Tensor:
    return torch.zeros_like(p) if p.grad is None else p.grad


def _gradients(module: nn.Module) -> Named:
    return {n: _gradient(p).clone() for n, p in module.named_parameters()}


def _assign(module: nn.Module, values: Named) -> None:
    for n, p in module.named_parameters():
        p.data = values[n].clone()


@contextmanager
def _momentum_of_zero(model: nn.Module) -> Iterator[None]:
    """Leaves running statistics as they are."""
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    before = [m.momentum for m in layers]
    for m in layers:
        m.momentum = 0.0
    try:
        yield
    finally:
        for m, momentum in zip(layers, before, strict=True):
            m.momentum = momentum


def of_samo(wrapper: SAMO) -> Mapping[str, PlainStep]:
    """The released step with the same options."""
    ball = wrapper.ball
    released = partial(
        ReleasedSAMO, rho=ball.rho, alpha=wrapper.alpha, mu=wrapper.mu, adaptive=ball.adaptive
    )
    return {"released": released}


YARDSTICKS: Final[Mapping[str, Callable[[Any], Mapping[str, PlainStep]]]] = {"samo": of_samo}
"""Other implementations of a wrapper's step, by the name of the wrapper."""
