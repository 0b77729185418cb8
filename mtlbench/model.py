"""A multi-task network is a shared trunk and one head an objective; parameter roles follow from
that."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtlbench.errors import UsageError

logger = logging.getLogger(__name__)


class MultiTaskModel(nn.Module):
    """Trunk and heads. Any architecture is a way to build the two: the trunk may return any
    structure of tensors and each head picks what it needs.

    Args:
        shared: the trunk, called with an :class:`~mtlbench.interfaces.InputGroup`'s ``inputs``.
        heads: objective name to module, called with what the trunk returns.
    """

    def __init__(self, shared: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.shared = shared
        self.heads = nn.ModuleDict(heads)

    def forward(self, inputs: Any, objectives: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Predictions of ``objectives`` (all of them by default); only their heads run."""
        names = list(self.heads) if objectives is None else objectives
        return self.predict(self.shared(inputs), names)

    def predict(
        self,
        features: Any,
        objectives: Sequence[str],
        before_head: Callable[[str], object] = lambda name: None,
    ) -> dict[str, Tensor]:
        """Heads applied to the trunk's output. Override it to compute several heads at once.

        Args:
            features: what the trunk returned.
            objectives: whose heads to run.
            before_head: called with each name before its head runs (keeps random numbers in step).
        """
        outputs = {}
        for name in objectives:
            before_head(name)
            outputs[name] = self.heads[name](features)
        return outputs

    def parameter_roles(
        self, objectives: Sequence[str]
    ) -> tuple[list[nn.Parameter], list[list[nn.Parameter]]]:
        """Trainable parameters as ``(shared, [head_1 .. head_K])``.

        A parameter that exactly one head owns, and the trunk does not, is that head's; every other
        one (of the trunk, tied between heads, or held beside both) is shared. Heads of other
        objectives are left out.
        """
        owners: dict[int, set[str]] = {}
        for name, head in self.heads.items():
            for p in head.parameters():
                owners.setdefault(id(p), set()).add(name)
        in_trunk = {id(p) for p in self.shared.parameters()}
        head_of = {
            i: next(iter(names))
            for i, names in owners.items()
            if len(names) == 1 and i not in in_trunk
        }
        trainable = [p for p in self.parameters() if p.requires_grad]
        shared = [p for p in trainable if id(p) not in head_of]
        heads = [[p for p in trainable if head_of.get(id(p)) == name] for name in objectives]
        return shared, heads


# ------------------------------------------------------------------------------------ weights
def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict in a file.

    Raises:
        UsageError: the file is missing, or holds no state dict.
    """
    if not path.is_file():
        raise UsageError(f"there is no file of weights at {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error type of its own for a broken file
        reason = str(error).partition("\n")[0]
        raise UsageError(f"weights {path} cannot be read: {reason}") from error
    tensors = {}
    if isinstance(state, Mapping):
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UsageError(f"weights {path}: expected a state dict, names to tensors")
    return tensors


def load_trunk(model: MultiTaskModel, path: Path) -> None:
    """Load into the trunk what a file has of its tensors, by name; the others stay as they are.

    Args:
        model: whose ``shared`` gets them.
        path: a state dict written by ``torch.save``.

    Raises:
        UsageError: the file is no state dict, has nothing of the trunk, or another shape of it.
    """
    found, own = read_state(path), model.shared.state_dict()
    common = {name: value for name, value in found.items() if name in own}
    if not common:
        raise UsageError(
            f"weights {path}: no name is one of the trunk's; "
            f"the file has {_some(found)}, the trunk {_some(own)}"
        )
    misfits = [
        f"{name} {tuple(value.shape)}, expected {tuple(own[name].shape)}"
        for name, value in common.items()
        if value.shape != own[name].shape
    ]
    if misfits:
        raise UsageError(f"weights {path} have other shapes than the trunk: {'; '.join(misfits)}")
    model.shared.load_state_dict(common, strict=False)
    left = [name for name in own if name not in common]
    unused = [name for name in found if name not in common]
    logger.info("%s: not loaded %s; not in the file %s", path, _some(unused), _some(left))


def _some(names: Iterable[str]) -> str:
    """The first names, and how many there are."""
    first, *rest = [*names] or ["nothing"]
    shown = ", ".join([first, *rest[:4]])
    return f"{shown}, ... ({1 + len(rest)} in all)" if len(rest) > 4 else shown
