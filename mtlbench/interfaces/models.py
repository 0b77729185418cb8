"""A multi-task network is a shared trunk and one head an objective; parameter roles follow from
that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mtlbench.errors import UsageError


class MultiTaskModel(nn.Module):
    """Trunk and heads. Any architecture is a way to build the two: the trunk may return any
    structure of tensors and each head picks what it needs.

    Args:
        shared: the trunk, called with an :class:`~mtlbench.interfaces.InputGroup`'s ``inputs``.
        heads: objective name to module, called with what the trunk returns.

    Raises:
        UsageError: a head's name is empty, has a dot, or is an attribute of ``nn.ModuleDict``.
    """

    def __init__(self, shared: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name in heads:
            if not name or "." in name or hasattr(nn.ModuleDict(), name):
                reason = "is what nn.ModuleDict calls something of its own"
                if not name or "." in name:
                    reason = "must neither be empty nor have a dot"
                raise UsageError(f"a head cannot be called {name!r}: the name {reason}")
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
