"""Every training step again, slowly and obviously: one autograd call for each task gradient, and a
copy of the network that is moved to each perturbed point. The methods are in
``reference_methods.py``."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlbench import InputGroup, MultiTaskModel
from mtlbench.interfaces import Batch
from tests.models import assert_close, make_stepper, mse
from tests.reference_methods import METHODS
from tests.reference_methods import Gradients as Gradients
from tests.reference_methods import Method as Method
from tests.reference_methods import fair_by_root as fair_by_root
from tests.reference_methods import min_norm_by_enumeration as min_norm_by_enumeration


# -------------------------------------------------------------------------------------- gradients
def plain_forward(model: MultiTaskModel, batch: Batch) -> list[Tensor]:
    """The losses of all objectives, in the heads' order."""
    losses = {}
    for group in batch:
        features = model.features(group.inputs, list(group.targets))
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

    def __post_init__(self) -> None:
        self.copy = copy.deepcopy(self.model)

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

    def gradients_at(self, shared: Tensor | float, heads: Sequence[Tensor | float]) -> Gradients:
        there = self._displaced(shared, heads)
        return self.gradients(lambda k: there)

    def losses_at(self, shared: Tensor, heads: Sequence[Tensor]) -> Tensor:
        return torch.stack(self.losses(self._displaced(shared, heads))).detach()

    def _displaced(self, shared: Tensor | float, heads: Sequence[Tensor | float]) -> MultiTaskModel:
        model = self.copied()
        groups = [shared_params(model), *(head_params(model, k) for k in range(len(heads)))]
        for params, shift in zip(groups, [shared, *heads], strict=True):
            displace(params, shift + torch.zeros_like(flattened(params)))
        return model

    def copied(self) -> MultiTaskModel:
        """The copy of the network, as the network is now; there is only one."""
        self.copy.load_state_dict(self.model.state_dict())
        return self.copy.train()

    def moved(self, shared: Tensor, heads: dict[int, Tensor]) -> MultiTaskModel:
        """The copy of the network with displaced parameters."""
        model = self.copied()
        displace(shared_params(model), shared)
        for k, shift in heads.items():
            displace(head_params(model, k), shift)
        return model


def shared_params(model: MultiTaskModel) -> list[nn.Parameter]:
    return list(model.shared.parameters())


def head_params(model: MultiTaskModel, k: int) -> list[nn.Parameter]:
    return list(list(model.heads.values())[k].parameters())


def rolled(group: InputGroup, k: int) -> InputGroup:
    """What stands in for further batches: the same targets, for other rows of the inputs."""
    return InputGroup(group.inputs.roll(k, 0), group.targets)


def apart(start: Tensor, k: int) -> Tensor:
    """The state that forward passes of the k-th further batch start from."""
    return torch.Generator().manual_seed(zlib.crc32(start.numpy().tobytes()) + k).get_state()


@torch.no_grad()
def displace(params: Sequence[nn.Parameter], shift: Tensor) -> None:
    for p, piece in zip(params, shift.split([p.numel() for p in params]), strict=True):
        p.add_(piece.view_as(p))


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
        if self.name == "fmtl":
            return self._fmtl(step, losses, methods, noise)
        methods[0].draw(noise)
        if self.name == "none":
            J, heads = step.gradients()
        elif self.name == "sam":
            J, heads = self._sam(step)
        else:
            J, heads = self._samo(step, noise)
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
        parts = []
        for method, rows in zip(methods, (J, J_sam - J), strict=True):
            method.draw(noise)
            parts.append(method.aggregate(losses, rows, heads, noise)[0])
        return parts[0] + parts[1], heads_sam

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
        self.epoch = 0

    def step(self, batch: Batch) -> Gradients:
        """Train on an epoch of one batch; the global generator ends as after one plain forward."""
        start = torch.get_rng_state()
        step = Step(self.model, batch, start)
        further = [
            Step(self.model, [rolled(group, k) for group in batch], apart(start, k))
            for k in range(1, self.methods[0].n_further + 1)
        ]
        losses = torch.stack(plain_forward(self.model, batch)).detach()
        after_one_forward = torch.get_rng_state()
        for method in self.methods:
            method.look(step, further, self.lr)
        shared, heads = self.wrapper.update(step, losses, self.methods, self.noise)
        displace(shared_params(self.model), -self.lr * shared)
        for k, h in enumerate(heads):
            displace(head_params(self.model, k), -self.lr * h)
        after = torch.stack(step.losses(step.copied())).detach()
        for method in self.methods:
            method.after_step(losses, after)
            method.on_epoch_end(self.epoch, losses)
        self.epoch += 1
        torch.set_rng_state(after_one_forward)
        return shared, heads


def assert_follows_reference(
    model: MultiTaskModel, batches: Sequence[Batch], method: str, sharpness: str, wrapper: Wrapper
) -> None:
    """Train ``model`` with ``method`` and ``sharpness`` as named, and a copy by the reference.

    Every batch is an epoch.
    """
    reference = Trainer(copy.deepcopy(model), method, wrapper, seed=7, lr=0.1)
    spec = f"{method}:{METHODS[method].options}"
    stepper = make_stepper(model, spec, sharpness, seed=7, lr=0.1)
    torch.manual_seed(1)
    for epoch, batch in enumerate(batches):
        start = torch.get_rng_state()
        losses = stepper.step(batch, mse).losses
        assert losses is not None
        stepper.on_epoch_end(epoch, losses)
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
