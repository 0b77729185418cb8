"""A weighting method for some of its tasks, while the others have no label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from mtlbench.hardware import to_device
from mtlbench.interfaces import WeightingMethod

Place = tuple[str, ...]
"""Where a method keeps a tensor: the kind and its name there."""


class Index:
    """Indices of tasks, copied once to each device that they are asked for on.

    Args:
        tasks: the indices.
    """

    def __init__(self, tasks: Sequence[int]) -> None:
        self._there = {torch.device("cpu"): torch.as_tensor(tasks)}

    def __len__(self) -> int:
        return len(self.on(torch.device("cpu")))

    def on(self, device: torch.device) -> Tensor:
        """The indices there."""
        if device not in self._there:
            self._there[device] = to_device(self.on(torch.device("cpu")), device)
        return self._there[device]


@contextmanager
def restricted(method: WeightingMethod, tasks: Sequence[int]) -> Iterator[None]:
    """A method of these tasks only within, of all again afterwards.

    What a method knows of each task it keeps in parameters and buffers whose first dimension is K
    (or the first two, see ``pairs`` of :class:`~mtlbench.interfaces.WeightingMethod`). Within,
    these and the states of its optimizers have the entries of ``tasks``; those of the others stay
    as they were. The same holds for methods that it is made of.

    Args:
        method: of K tasks.
        tasks: indices, ascending.
    """
    with ExitStack() as parts:
        for part in method.modules():
            if isinstance(part, WeightingMethod):
                parts.enter_context(_restricted(part, tasks))
        yield


@contextmanager
def _restricted(method: WeightingMethod, tasks: Sequence[int]) -> Iterator[None]:
    K = method.n_tasks
    if len(tasks) == K:
        yield
        return
    index = Index(tasks)
    before = {place: t for place, t in _tensors(method).items() if t.dim() and len(t) == K}
    for place, t in before.items():
        _put(method, place, _entries(t, index, pairs=_of_pairs(method, place)))
    method.n_tasks = len(index)
    try:
        yield
    finally:
        method.n_tasks = K
        for place, t in _tensors(method).items():
            made = place not in before and place[0] == "optimizer" and len(t.shape) > 0
            if place in before or made:
                pairs = _of_pairs(method, place)
                _put(method, place, _merged(before.get(place), t, index, K, pairs=pairs))


def _tensors(method: WeightingMethod) -> dict[Place, Tensor]:
    found: dict[Place, Tensor] = {}
    for name, p in method.named_parameters(recurse=False):
        found["parameter", name] = p.data
    for name, b in method.named_buffers(recurse=False):
        found["buffer", name] = b
    for attribute, optimizer in _optimizers(method).items():
        for number, state in enumerate(optimizer.state.values()):
            for name, value in state.items():
                found["optimizer", attribute, str(number), name] = value
    return found


def _optimizers(method: WeightingMethod) -> dict[str, Optimizer]:
    return {name: v for name, v in vars(method).items() if isinstance(v, Optimizer)}


def _put(method: WeightingMethod, place: Place, value: Tensor) -> None:
    kind, name, *rest = place
    if kind == "parameter":
        p = method.get_parameter(name)
        p.grad, p.data = None, value
    elif kind == "buffer":
        setattr(method, name, value)
    else:
        states = list(_optimizers(method)[name].state.values())
        states[int(rest[0])][rest[1]] = value


def _of_pairs(method: WeightingMethod, place: Place) -> bool:
    """Whether the first two dimensions are tasks."""
    kind, name, *rest = place
    if kind != "optimizer":
        return name in method.pairs
    if not rest[1:] or not method.pairs:
        return False
    parameter = list(_optimizers(method)[name].state)[int(rest[0])]
    return any(method.get_parameter(pair) is parameter for pair in method.pairs)


def _entries(t: Tensor, index: Index, *, pairs: bool) -> Tensor:
    chosen = t[index.on(t.device)]
    return chosen[:, index.on(t.device)] if pairs else chosen


def _merged(before: Tensor | None, now: Tensor, tasks: Index, K: int, *, pairs: bool) -> Tensor:
    """``before`` with the entries of ``now``; zeros elsewhere if it was made, or shaped, since."""
    index, trailing = tasks.on(now.device), now.shape[1 + pairs :]
    leading = (K, K) if pairs else (K,)
    if before is None or before.shape[len(leading) :] != trailing:
        whole = now.new_zeros(*leading, *trailing)
    else:
        whole = before.clone()
    if pairs:
        whole[index[:, None], index] = now
    else:
        whole[index] = now
    return whole
