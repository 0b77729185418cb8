"""What this library uses of torch that torch calls private, checked when it is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

try:
    from torch.nn.modules.batchnorm import _NormBase as NormBase

    if torch.distributed.is_available():
        from torch.distributed.distributed_c10d import _abort_process_group as abort_process_group
    from torch.utils._pytree import tree_leaves, tree_map

    copy_all = torch._foreach_copy_
    _set_version_counter = torch._C._autograd._unsafe_set_version_counter
except (ImportError, AttributeError) as error:
    raise ImportError(f"torch {torch.__version__} lacks what mtlbench uses: {error}") from error

__all__ = [
    "NormBase",
    "abort_process_group",
    "copy_all",
    "set_versions",
    "tree_leaves",
    "tree_map",
]

SetVersions = Callable[[Sequence[Tensor], Sequence[int]], None]


def version_setter(set_counter: Any) -> SetVersions:
    """What sets autograd's version counters of tensors, which tell a graph that they were changed.

    Args:
        set_counter: torch's own: of many tensors at once or, as in older releases, of one tensor.

    Raises:
        ImportError: it does neither.
    """

    def at_once(tensors: Sequence[Tensor], versions: Sequence[int]) -> None:
        set_counter(tuple(tensors), tuple(versions))

    def one_by_one(tensors: Sequence[Tensor], versions: Sequence[int]) -> None:
        for tensor, version in zip(tensors, versions, strict=True):
            set_counter(tensor, version)

    for setter in at_once, one_by_one:
        tried = torch.zeros(1)
        try:
            setter([tried], [2])
        except TypeError:
            continue
        if tried._version == 2:
            return setter
    raise ImportError(f"torch {torch.__version__} sets version counters in no way that is known")


set_versions = version_setter(_set_version_counter)
