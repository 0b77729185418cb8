"""Meters of several processes as one's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mtlbench.engine.reduce import Ranks
from mtlbench.errors import UsageError
from mtlbench.torch_private import tree_map


def merge_meters(meters: Sequence[Metric], ranks: Ranks) -> None:
    """Let each meter have seen what those of all processes have seen.

    torchmetrics' own way stops where a process has seen nothing; here states travel as objects, so
    that one may have none.

    Args:
        meters: the same ones on all processes, in the same order.
        ranks: the processes.

    Raises:
        UsageError: a meter does not say how its states are put together.
    """
    parts = [m for meter in meters for m in meter.modules() if isinstance(m, Metric)]
    own = [(part.update_count, tree_map(_on_host, part.metric_state)) for part in parts]
    for part, *found in zip(parts, *ranks.gather(own), strict=True):
        seen = [states for count, states in found if count]
        part.reset()
        part.sync_on_compute = False
        part._update_count = sum(count for count, _ in found)
        for name, reduction in part._reductions.items():
            if seen:
                whole = _together(part, name, reduction, [states[name] for states in seen])
                setattr(part, name, tree_map(lambda t, d=part.device: t.to(d), whole))


def _on_host(leaf: Any) -> Any:
    return leaf.cpu() if isinstance(leaf, Tensor) else leaf


def _together(meter: Metric, name: str, reduction: Any, states: Sequence[Any]) -> Any:
    if isinstance(states[0], list):
        return [each for state in states for each in state]
    if reduction is None:
        raise UsageError(
            f"{type(meter).__name__} has a state {name!r} without dist_reduce_fx: it cannot be "
            "put together from several processes"
        )
    return reduction(torch.stack(list(states)))
