"""Other implementations of tasks' networks, which ``mtlbench bench engine`` times ours against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mtlbench.tasks.qm9 import QM9

Pair = tuple[Callable[[], object], Callable[[], object]]
"""Two that do the same work: ours, the yardstick's."""


def of_qm9(task: QM9) -> Mapping[str, Pair]:
    """The trunk made of torch_geometric's layers, forward and backward."""
    from mtlbench.tasks._nets.nnconv import MPNN, ReferenceMPNN

    d, width = task.protocol.options["d"], task.protocol.options["edge_width"]
    (group,) = next(iter(task.batches("train", 0)))
    sparse, ours, reference = group.inputs.sparse(), MPNN(d, width), ReferenceMPNN(d, width)
    return {
        "NNConv": (
            lambda: ours(group.inputs).sum().backward(),
            lambda: reference(sparse).sum().backward(),
        )
    }


YARDSTICKS: Final[Mapping[str, Callable[[Any], Mapping[str, Pair]]]] = {"qm9": of_qm9}
"""By the name of the task."""
