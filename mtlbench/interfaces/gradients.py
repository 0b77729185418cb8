r"""The gradients of a step as a method sees them, and the update that it makes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlbench.errors import ContractError, UsageError
from mtlbench.hardware import home_of_doubles, on_host

HeadPolicy = Literal["unit", "weighted"]
GramianPoint = Literal["shared", "representation"]


@dataclass
class Passes:
    """Passes through the trunk, and backward passes through heads alone."""

    forward: int = 0
    backward: int = 0
    head_backward: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(**{kind: n + getattr(other, kind) for kind, n in vars(self).items()})

    def __mul__(self, times: int) -> Passes:
        return Passes(**{kind: n * times for kind, n in vars(self).items()})


@dataclass
class Update:
    """A descent direction's negative: what goes into the parameters' ``grad``.

    Args:
        shared: gradient of the shared parameters, (P,).
        heads: gradient of each head's parameters, one vector a task.
        weights: the (K,) task weights that made ``shared``, where there are such.
    """

    shared: Tensor
    heads: Sequence[Tensor]
    weights: Tensor | None = None

    def __add__(self, other: Update) -> Update:
        heads = [mine + theirs for mine, theirs in zip(self.heads, other.heads, strict=True)]
        return Update(self.shared + other.shared, heads)


class GradientView(ABC):
    """What a weighting method may ask about the current step. Lazy: the cost follows from the
    questions.

    What it returns lives in buffers that the next training step reuses: clone what is to be kept.
    """

    losses: Tensor
    """Detached losses at the unperturbed point, (K,)."""

    generator: torch.Generator
    """The run's own source of randomness, on the device of ``losses``."""

    @property
    def n_tasks(self) -> int:
        """K."""
        return self.losses.numel()

    @abstractmethod
    def jacobian(self) -> Tensor:
        """Gradients of the shared parameters, (K, P): K backward passes, once."""

    @abstractmethod
    def head_grads(self) -> Sequence[Tensor]:
        """Each task's gradient of its own head, K vectors."""

    @abstractmethod
    def combine(self, weights: Tensor, heads: HeadPolicy = "weighted") -> Update:
        r""":math:`J^\top w`: ONE backward pass if J was never asked for, a matrix product if it
        was.

        Args:
            weights: (K,); detached here.
            heads: whether head k gets ``weights[k]`` times its own gradient or the gradient as it
                is.
        """

    def gramian(self, at: GramianPoint = "shared") -> Tensor:
        r""":math:`G = J J^\top`, (K, K), in double precision: see :func:`inner_products`.

        Args:
            at: ``"shared"`` for gradients of the shared parameters, ``"representation"`` for
                gradients at the trunk's output (K backward passes through the heads, none through
                the trunk).
        """
        return inner_products(self.jacobian() if at == "shared" else self.representation_jacobian())

    def fetch(self, *tensors: Tensor) -> list[NDArray[np.float64]]:
        """Numbers on the host, in double precision: all that a method wants to know by one wait for
        the device.

        Raises:
            NonFiniteError: a loss of the step is NaN or infinite; on a device this comes to light
                here, or at the step's end.
        """
        return on_host(*tensors)

    @abstractmethod
    def representation_jacobian(self) -> Tensor:
        """Gradients at the trunk's output, flattened, (K, R)."""


class DenseView(GradientView):
    """A view whose gradients are known.

    Args:
        losses: (K,).
        jacobian: (K, P).
        heads: K vectors.
        generator: source of randomness.
    """

    def __init__(
        self, losses: Tensor, jacobian: Tensor, heads: Sequence[Tensor], generator: torch.Generator
    ) -> None:
        self.losses, self.generator = losses, generator
        self._jacobian, self._heads = jacobian, heads

    def jacobian(self) -> Tensor:
        return self._jacobian

    def head_grads(self) -> Sequence[Tensor]:
        return self._heads

    def representation_jacobian(self) -> Tensor:
        raise UsageError("this view knows no gradients at the trunk's output; use at='shared'")

    def combine(self, weights: Tensor, heads: HeadPolicy = "weighted") -> Update:
        return product(weights.detach(), self.jacobian(), self.head_grads(), heads)


BLOCK, BLOCKS = 4096, 256
"""Columns that are summed in the rows' own precision, and how many such sums are held at a time."""


def inner_products(rows: Tensor) -> Tensor:
    r""":math:`J J^\top` in double precision, (K, K), of rows (K, P) of any precision.

    One product of float32 rows is off by 1e-6 (P = 1e4) to 3e-3 (P = 25e6) of the rows' lengths:
    its sums are as long as the rows. Here blocks of columns are multiplied in the rows' precision
    and their products are added up in double: the error is below 1e-6 for any P, the time that of
    one product and 0.05 ms. A device that has no doubles (MPS) leaves the adding up to the host,
    where G then is.
    """
    home = home_of_doubles(rows.device)
    whole = rows.shape[1] // BLOCK * BLOCK
    rest = rows[:, whole:]
    total = (rest @ rest.T).to(home).double()
    for chunk in rows[:, :whole].split(BLOCK * BLOCKS, dim=1) if whole else ():
        blocks = chunk.unflatten(1, (-1, BLOCK)).transpose(0, 1)
        products = torch.bmm(blocks, blocks.transpose(1, 2)).to(home)
        total += products.sum(0, dtype=torch.float64)
    return total


def in_double(t: Tensor) -> Tensor:
    """A tensor in double precision where its device has it (MPS has not), else in single."""
    return t.double() if home_of_doubles(t.device) == t.device else t.float()


def product(w: Tensor, jacobian: Tensor, grads: Sequence[Tensor], heads: HeadPolicy) -> Update:
    return Update(w.to(jacobian) @ jacobian, scaled(grads, w, heads), w)


def scaled(grads: Sequence[Tensor], w: Tensor, heads: HeadPolicy) -> list[Tensor]:
    """Head gradients as the policy has them."""
    return list(grads) if heads == "unit" else [w_k * h for w_k, h in zip(w, grads, strict=True)]


def check_vector(what: str, found: Any, shape: Sequence[int]) -> None:
    fault = _vector_fault(found, tuple(shape))
    if fault:
        wanted = f"a detached floating-point Tensor of shape {tuple(shape)}"
        raise ContractError(f"{what} {wanted}, not {fault}")


def _vector_fault(found: Any, shape: tuple[int, ...]) -> str:
    """What a gradient, or a vector of weights, is instead; empty if all is well."""
    if not isinstance(found, Tensor):
        return type(found).__name__
    if found.shape != shape:
        return f"one of shape {tuple(found.shape)}"
    if not found.is_floating_point():
        return f"one of {found.dtype}"
    return "one with a graph" if found.requires_grad else ""


def check_update(name: str, update: Any, view: GradientView, sizes: Sequence[int]) -> None:
    """Hold a method's update to the contract.

    Args:
        name: the method's.
        update: what ``aggregate`` returned.
        view: what it was given.
        sizes: number of shared parameters, then of each head's.

    Raises:
        ContractError: the update is anything but one gradient for each of ``sizes``.
    """
    if not isinstance(update, Update):
        kind = type(update).__name__
        raise ContractError(f"{name}: aggregate() must return an Update, not {kind}")
    found: object = update.heads
    count = len(found) if isinstance(found, Sequence) else type(found).__name__
    if count != len(sizes) - 1:
        heads = f"{len(sizes) - 1} head gradients, not {count}"
        raise ContractError(f"{name}: aggregate() must return {heads}")
    check_vector(f"{name}: aggregate() must return as shared", update.shared, sizes[:1])
    for k, (own, size) in enumerate(zip(update.heads, sizes[1:], strict=True)):
        check_vector(f"{name}: aggregate() must return as heads[{k}]", own, (size,))
    if update.weights is not None:
        what = f"{name}: aggregate() must return as weights"
        check_vector(what, update.weights, view.losses.shape)
