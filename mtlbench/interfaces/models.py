"""A multi-task network is a shared trunk and one head an objective; parameter roles follow from
that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from torch import Tensor, nn

from mtlbench.errors import UsageError


class MultiTaskModel(nn.Module):
    """Trunk and heads. Any architecture is a way to build the two: the trunk may return any
    structure of tensors and each head picks what it needs.

    A trunk with a part for each task overrides :meth:`features`, so that a pass for some tasks runs
    their parts alone; what is to be a task's own of such a part is named by ``own``. An
    architecture that anneals overrides :meth:`begin_epoch`, a regularised one :meth:`penalty`.

    Args:
        shared: the trunk, called with an :class:`~mtlbench.interfaces.InputGroup`'s ``inputs``.
        heads: objective name to module, called with what the trunk returns.
        own: objective name to what acts within the trunk on this objective's loss alone, and counts
            as a part of its head.

    Raises:
        UsageError: a head's name is empty, has a dot, or is an attribute of ``nn.ModuleDict``;
            or ``own`` has something for no head.
    """

    def __init__(
        self,
        shared: nn.Module,
        heads: Mapping[str, nn.Module],
        own: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        for name in heads:
            if not name or "." in name or hasattr(nn.ModuleDict(), name):
                reason = "is what nn.ModuleDict calls something of its own"
                if not name or "." in name:
                    reason = "must neither be empty nor have a dot"
                raise UsageError(f"a head cannot be called {name!r}: the name {reason}")
        self.shared = shared
        self.heads = nn.ModuleDict(heads)
        self._own = dict({} if own is None else own.items())
        strange = [name for name in self._own if name not in heads]
        if strange:
            raise UsageError(f"a part of the trunk for {strange[0]!r}, which is no head")

    def forward(self, inputs: Any, objectives: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Predictions of ``objectives`` (all of them by default); only their heads run."""
        names = list(self.heads) if objectives is None else objectives
        return self.predict(self.features(inputs, names), names)

    def features(
        self,
        inputs: Any,
        objectives: Sequence[str],
        before_part: Callable[[str], object] = lambda name: None,
    ) -> Any:
        """The trunk's output. Override it where the trunk has parts that only some objectives need:
        those of others must not run.

        Args:
            inputs: an input group's.
            objectives: whose heads will see it.
            before_part: called with each name before a part of the trunk runs that is for this
                objective alone, and after everything that is common to all (keeps random numbers in
                step).
        """
        return self.shared(inputs)

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

    def penalty(self, features: Any, objective: str) -> Tensor | None:
        """What is added to an objective's loss in training to regularise it, a scalar; None for
        nothing. It is called once in each of the objective's passes, after its head has run.

        A step's losses are those with it: methods and wrappers see one function of the parameters,
        and a pass of one objective computes its own penalty alone, in the same backward pass. One
        of shared parameters belongs to every loss equally. Evaluation leaves it out.

        Args:
            features: what the trunk returned.
            objective: whose loss it is added to.
        """
        return None

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called by the trainer before each epoch, and for a loop of one's own to call; for what
        anneals. What it sets must be buffers, so that a selected or resumed model has it.

        Args:
            epoch: from 0.
            epochs: how many there will be.
        """

    def parameter_roles(
        self, objectives: Sequence[str]
    ) -> tuple[list[nn.Parameter], list[list[nn.Parameter]]]:
        """Trainable parameters as ``(shared, [head_1 .. head_K])``.

        A parameter that exactly one head owns, with its part of the trunk, and the rest of the
        trunk does not, is that head's; every other one (of the trunk, tied between heads, or held
        beside both) is shared. Heads of other objectives are left out.
        """
        owners: dict[int, set[str]] = {}
        for name, module in chain(self.heads.items(), self._own.items()):
            for p in module.parameters():
                owners.setdefault(id(p), set()).add(name)
        in_parts = {id(m) for part in self._own.values() for m in part.modules()}
        common = (m for m in self.shared.modules() if id(m) not in in_parts)
        in_trunk = {id(p) for m in common for p in m.parameters(recurse=False)}
        head_of = {
            i: next(iter(names))
            for i, names in owners.items()
            if len(names) == 1 and i not in in_trunk
        }
        trainable = [p for p in self.parameters() if p.requires_grad]
        shared = [p for p in trainable if id(p) not in head_of]
        heads = [[p for p in trainable if head_of.get(id(p)) == name] for name in objectives]
        return shared, heads
