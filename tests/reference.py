"""Every method and wrapper again, slowly and obviously: one autograd call for each task gradient, a
deep copy of the network for each perturbed point, textbook formulas for the weights."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import root
from torch import Tensor, nn

from mtlbench import MultiTaskModel
from mtlbench.interfaces import Batch
from mtlbench.methods._solvers import cagrad_dual
from tests.models import assert_close, make_stepper, mse

Array = NDArray[np.float64]
Gradients = tuple[Tensor, list[Tensor]]
"""Gradients of the shared parameters, (K, P) or (P,), and those of each head."""


# -------------------------------------------------------------------------------------- gradients
def plain_forward(model: MultiTaskModel, batch: Batch) -> list[Tensor]:
    """The losses of all objectives, in the heads' order."""
    losses = {}
    for group in batch:
        features = model.shared(group.inputs)
        for name, head in model.heads.items():
            if name in group.targets:
                losses[name] = mse(name, head(features), group.targets[name])
    return [losses[name] for name in model.heads]


def flattened(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors]) if tensors else torch.zeros(0).double()


def gradient(loss: Tensor, params: Sequence[Tensor]) -> Tensor:
    if not params:
        return flattened([])
    grads = torch.autograd.grad(
        loss, params, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return flattened(grads)


@dataclass
class Step:
    """A batch and the state of the global generator that every forward pass starts from."""

    model: MultiTaskModel
    batch: Batch
    start: Tensor

    def losses(self, model: MultiTaskModel) -> list[Tensor]:
        torch.set_rng_state(self.start)
        return plain_forward(model, self.batch)

    def task_gradient(self, model: MultiTaskModel, k: int) -> tuple[Tensor, Tensor]:
        """Of the shared parameters and of head k, by an autograd call of its own."""
        loss = self.losses(model)[k]
        return gradient(loss, shared_params(model)), gradient(loss, head_params(model, k))

    def gradients(self, at: Callable[[int], MultiTaskModel] | None = None) -> Gradients:
        """Row k is taken at the network ``at(k)``, by default where the parameters are."""
        if at is None:
            here = self.copied()
            return self.gradients(lambda k: here)
        rows = [self.task_gradient(at(k), k) for k in range(len(self.model.heads))]
        return torch.stack([g for g, _ in rows]), [h for _, h in rows]

    def copied(self) -> MultiTaskModel:
        return copy.deepcopy(self.model)

    def moved(self, shared: Tensor, heads: dict[int, Tensor]) -> MultiTaskModel:
        """A copy of the network with displaced parameters."""
        model = self.copied()
        displace(shared_params(model), shared)
        for k, shift in heads.items():
            displace(head_params(model, k), shift)
        return model


def shared_params(model: MultiTaskModel) -> list[nn.Parameter]:
    return list(model.shared.parameters())


def head_params(model: MultiTaskModel, k: int) -> list[nn.Parameter]:
    return list(list(model.heads.values())[k].parameters())


@torch.no_grad()
def displace(params: Sequence[nn.Parameter], shift: Tensor) -> None:
    for p, piece in zip(params, shift.split([p.numel() for p in params]), strict=True):
        p.add_(piece.view_as(p))


# ---------------------------------------------------------------------------------------- methods
class Method:
    """Weights, and what follows from them."""

    unit_heads: ClassVar[bool] = False

    def __init__(self, K: int) -> None:
        self.K = K

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        return torch.ones_like(losses)

    def aggregate(
        self, losses: Tensor, J: Tensor, heads: list[Tensor], generator: torch.Generator
    ) -> Gradients:
        w = self.weights(losses, J)
        shared = torch.stack([w[k] * J[k] for k in range(self.K)]).sum(0)
        return shared, heads if self.unit_heads else [w[k] * h for k, h in enumerate(heads)]

    def after_step(self, losses: Tensor, after: Tensor) -> None:
        pass


class UW(Method):
    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.s = torch.zeros(K, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.s], lr=1e-3)

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        return (0.5 * torch.exp(-self.s)).detach().to(losses)

    def after_step(self, losses: Tensor, after: Tensor) -> None:
        self.optimizer.zero_grad()
        (0.5 * (torch.exp(-self.s) * losses + self.s)).sum().backward()
        self.optimizer.step()


class FAMO(Method):
    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.xi = torch.zeros(K, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.xi], lr=0.025, weight_decay=0.01)

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        z = torch.softmax(self.xi, 0).detach()
        return (z / (losses + 1e-8)) / (z / (losses + 1e-8)).sum()

    def after_step(self, losses: Tensor, after: Tensor) -> None:
        delta = torch.log(losses + 1e-8) - torch.log(after + 1e-8)
        self.optimizer.zero_grad()
        (torch.softmax(self.xi, 0) * delta).sum().backward()
        self.optimizer.step()


class OnGramian(Method):
    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        G = torch.stack([torch.stack([a @ b for b in J]) for a in J])
        return torch.from_numpy(self.solve(G.double().numpy())).to(losses)

    def solve(self, G: Array) -> Array:
        raise NotImplementedError


class MGDA(OnGramian):
    def solve(self, G: Array) -> Array:
        return min_norm_by_enumeration(G)


class CAGrad(OnGramian):
    unit_heads = True

    def solve(self, G: Array) -> Array:
        v, c = cagrad_dual(G, 0.4, solver="cvxpy"), 0.4
        mean_norm, norm = np.sqrt(G.mean()), np.sqrt(v @ G @ v)
        return np.asarray((np.full(self.K, 1 / self.K) + c * mean_norm / norm * v) / (1 + c**2))


class FairGrad(OnGramian):
    unit_heads = True

    def solve(self, G: Array) -> Array:
        return fair_by_root(G, 2.0)


class GradDrop(Method):
    unit_heads = True

    def aggregate(
        self, losses: Tensor, J: Tensor, heads: list[Tensor], generator: torch.Generator
    ) -> Gradients:
        K, P = J.shape
        u = torch.rand(P, generator=generator, dtype=J.dtype)
        out = torch.zeros(P, dtype=J.dtype)
        for i in range(P):
            total = sum(abs(float(J[k, i])) for k in range(K))
            purity = 0.5 * (1 + sum(float(J[k, i]) for k in range(K)) / total) if total else 0.5
            for k in range(K):
                positive, negative = bool(J[k, i] > 0), bool(J[k, i] < 0)
                if (positive and purity > u[i]) or (negative and purity < u[i]):
                    out[i] += J[k, i]
        return out, heads


METHODS: dict[str, type[Method]] = {
    "ls": Method,
    "uw": UW,
    "famo": FAMO,
    "mgda": MGDA,
    "cagrad": CAGrad,
    "fairgrad": FairGrad,
    "graddrop": GradDrop,
}


def min_norm_by_enumeration(G: Array) -> Array:
    """The best of the stationary points on every face of the simplex."""
    K = len(G)
    candidates = []
    for size in range(1, K + 1):
        for face in map(list, itertools.combinations(range(K), size)):
            system = np.ones((size + 1, size + 1))
            system[:size, :size], system[size, size] = G[np.ix_(face, face)], 0
            solution = np.linalg.lstsq(system, np.eye(size + 1)[size], rcond=None)[0]
            w = np.zeros(K)
            w[face] = solution[:size]
            if w.min() >= -1e-12 and abs(w.sum() - 1) < 1e-9:
                candidates.append(w)
    return np.asarray(min(candidates, key=lambda w: float(w @ G @ w)))


def fair_by_root(G: Array, alpha: float) -> Array:
    """``G w = w^(-1 / alpha)`` as a system of equations in log w."""
    scale = float(np.trace(G)) / len(G)

    def residual(x: Array) -> Array:
        return np.asarray(G / scale @ np.exp(x) - np.exp(-x / alpha))

    found = root(residual, np.zeros(len(G)), tol=1e-13)
    w = np.exp(found.x)
    assert np.allclose((G / scale @ w) ** alpha * w, 1, rtol=1e-8)
    return np.asarray(w * scale ** (-alpha / (1 + alpha)))


# --------------------------------------------------------------------------------------- wrappers
@dataclass
class Wrapper:
    """Reference of a wrapper; the options of all of them, each uses its own."""

    name: str
    rho: float = 0.05
    rho_head: float = 0.05
    blocks: str = "joint"
    alpha: float = 0.5
    mu: float = 0.01
    probe: str = "train"

    @property
    def parts(self) -> int:
        return 2 if self.name == "fmtl" else 1

    def update(
        self, step: Step, losses: Tensor, methods: list[Method], noise: torch.Generator
    ) -> Gradients:
        if self.name == "none":
            J, heads = step.gradients()
        elif self.name == "sam":
            J, heads = self._sam(step)
        elif self.name == "samo":
            J, heads = self._samo(step, noise)
        else:
            return self._fmtl(step, losses, methods, noise)
        return methods[0].aggregate(losses, J, heads, noise)

    def _sam(self, step: Step) -> Gradients:
        J, heads = step.gradients()
        K = len(heads)
        g0, h0 = J.mean(0), [h / K for h in heads]
        if self.blocks == "joint":
            norm = torch.cat([g0, *h0]).norm()
            eps, eps_h = self.rho * g0 / norm, [self.rho * h / norm for h in h0]
        else:
            eps, eps_h = self.rho * g0 / g0.norm(), [self.rho * h / h.norm() for h in h0]
        there = step.moved(eps, dict(enumerate(eps_h)))
        return step.gradients(lambda k: there)

    def _fmtl(
        self, step: Step, losses: Tensor, methods: list[Method], noise: torch.Generator
    ) -> Gradients:
        J, heads = step.gradients()

        def there(k: int) -> MultiTaskModel:
            own = {k: self.rho_head * heads[k] / heads[k].norm()}
            return step.moved(self.rho * J[k] / J[k].norm(), own)

        J_sam, heads_sam = step.gradients(there)
        loss_part, _ = methods[0].aggregate(losses, J, heads, noise)
        flat_part, _ = methods[1].aggregate(losses, J_sam - J, heads, noise)
        return loss_part + flat_part, heads_sam

    def _samo(self, step: Step, noise: torch.Generator) -> Gradients:
        J, heads = step.gradients()
        g0 = J.mean(0)
        sizes = [p.numel() for p in shared_params(step.model)]

        def probe(k: int, shift: Tensor) -> Tensor:
            model = step.moved(shift, {})
            model.train(self.probe == "train")
            return step.losses(model)[k].detach()

        def there(k: int) -> MultiTaskModel:
            z = torch.randn(g0.shape, generator=noise, dtype=g0.dtype)
            difference = probe(k, self.mu * z) - probe(k, -self.mu * z)
            local = difference / (2 * self.mu) * z
            layers = [
                part * whole.norm() / part.norm() if part.norm() > 0 else torch.zeros_like(part)
                for part, whole in zip(local.split(sizes), g0.split(sizes), strict=True)
            ]
            v = self.alpha * g0 + (1 - self.alpha) * torch.cat(layers)
            return step.moved(self.rho * v / v.norm(), {k: self.rho * heads[k] / heads[k].norm()})

        return step.gradients(there)


class Trainer:
    """Plain gradient descent with the reference of a method and a wrapper."""

    def __init__(
        self, model: MultiTaskModel, method: str, wrapper: Wrapper, seed: int, lr: float
    ) -> None:
        K = len(model.heads)
        self.model, self.wrapper, self.lr = model, wrapper, lr
        self.methods = [METHODS[method](K) for _ in range(wrapper.parts)]
        self.noise = torch.Generator().manual_seed(seed)

    def step(self, batch: Batch) -> Gradients:
        """Train on one batch; leaves the global generator as one plain forward pass does."""
        start = torch.get_rng_state()
        step = Step(self.model, batch, start)
        losses = torch.stack(plain_forward(self.model, batch)).detach()
        after_one_forward = torch.get_rng_state()
        shared, heads = self.wrapper.update(step, losses, self.methods, self.noise)
        displace(shared_params(self.model), -self.lr * shared)
        for k, h in enumerate(heads):
            displace(head_params(self.model, k), -self.lr * h)
        after = torch.stack(step.losses(step.copied())).detach()
        for method in self.methods:
            method.after_step(losses, after)
        torch.set_rng_state(after_one_forward)
        return shared, heads


def assert_follows_reference(
    model: MultiTaskModel, batches: Sequence[Batch], method: str, sharpness: str, wrapper: Wrapper
) -> None:
    """Train ``model`` with ``method`` and ``sharpness`` as named, and a copy by the reference."""
    reference = Trainer(copy.deepcopy(model), method, wrapper, seed=7, lr=0.1)
    stepper = make_stepper(model, method, sharpness, seed=7, lr=0.1)
    torch.manual_seed(1)
    for batch in batches:
        start = torch.get_rng_state()
        stepper.step(batch, mse)
        after = torch.get_rng_state()
        torch.set_rng_state(start)
        shared, heads = reference.step(batch)
        assert torch.equal(after, torch.get_rng_state())
        assert_close(stepper.flat.grad.rows[0], shared, 1e-5)
        for own, expected in zip(stepper.flat.grad.heads, heads, strict=True):
            assert_close(own, expected, 1e-5)
    assert_close(stepper.flat.data, flattened(list(reference.model.parameters())), 1e-5)
    for name, buffer in reference.model.named_buffers():
        assert_close(model.get_buffer(name).double(), buffer.double(), 1e-5)
