r"""The contracts: a task says what is learnt, a wrapper where each gradient is taken, a method how
the K become one.

Notation: K tasks (objectives), P shared parameters, ``losses`` (K,), ``jacobian`` J of shape (K, P)
with the gradient of loss k with respect to the shared parameters in row k, ``gramian`` :math:`G = J
J^\top` (K, K).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, validate_call
from torch import Tensor, nn
from torch.optim import Optimizer

from mtlbench.errors import ContractError, UsageError

if TYPE_CHECKING:
    from torchmetrics import Metric

    from mtlbench.model import MultiTaskModel
    from mtlbench.problem import StepProblem
    from mtlbench.standin import Recipe

HeadPolicy = Literal["unit", "weighted"]
GramianPoint = Literal["shared", "representation"]
Claim = Literal[
    "permutation", "scaling", "row-scaling", "identical", "simplex", "non-conflict", "stationarity"
]
"""A property that a method may claim, and is then held to by ``mtlbench check``:

- ``permutation``: the order of the tasks does not matter,
- ``scaling``: c J yields c times the update of J,
- ``row-scaling``: the lengths of the rows of J do not change the update's direction,
- ``identical``: K identical tasks yield what ``MethodInfo.scale`` says, to the length,
- ``simplex``: weights are at least 0 and sum to 1,
- ``non-conflict``: no task's loss grows, to first order,
- ``stationarity``: the update is not zero where a direction lowers all losses.
"""


@dataclass
class Passes:
    """Passes through the trunk, and backward passes through heads alone."""

    forward: int = 0
    backward: int = 0
    head_backward: int = 0


@dataclass(frozen=True)
class InputGroup:
    """Inputs shared by the objectives in ``targets``.

    Args:
        inputs: a Tensor, or any object with a ``to(device)`` method (a ``torch_geometric`` batch).
        targets: objective name to target.
    """

    inputs: Any
    targets: Mapping[str, Tensor]

    def to(self, device: torch.device) -> InputGroup:
        """The same group on ``device``."""
        targets = {name: target.to(device) for name, target in self.targets.items()}
        return InputGroup(self.inputs.to(device), targets)


Batch = Sequence[InputGroup]
"""One training batch: one group with K targets (single input), or K groups with one each
(multi-input)."""

Loss = Callable[[str, Any, Tensor], Tensor]
"""``loss(objective, prediction, target)`` returns a scalar."""


class JointLoss(ABC):
    """A :data:`Loss` that is computed for several objectives at once: the engine asks for all that
    a forward pass predicts."""

    @abstractmethod
    def together(self, predictions: Mapping[str, Any], targets: Mapping[str, Tensor]) -> Tensor:
        """Losses (K',), in the order of ``predictions``; each is what the loss of one objective
        would be.

        Args:
            predictions: of one or more objectives.
            targets: of the same ones, of the examples that have a label.
        """

    def __call__(self, objective: str, prediction: Any, target: Tensor) -> Tensor:
        """The loss of one objective, a scalar."""
        return self.together({objective: prediction}, {objective: target})[0]


# ------------------------------------------------------------------------------------ gradients
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
        r""":math:`G = J J^\top`, (K, K).

        Args:
            at: ``"shared"`` for gradients of the shared parameters, ``"representation"`` for
                gradients at the trunk's output (K backward passes through the heads, none through
                the trunk).
        """
        rows = self.jacobian() if at == "shared" else self.representation_jacobian()
        return rows @ rows.T

    @abstractmethod
    def representation_jacobian(self) -> Tensor:
        """Gradients at the trunk's output, flattened, (K, R)."""


# ------------------------------------------------------------------------------------ methods
@dataclass(frozen=True)
class MethodInfo:
    """What a weighting method declares about itself.

    Args:
        name: registry name, the file's name.
        title: name in tables, as in the paper.
        year: of the first publication.
        arxiv: arXiv identifier, empty if there is none.
        head_policy: ``"weighted"`` if head k gets ``w_k`` times its gradient, ``"unit"`` if the
            gradient itself.
        scale: what K identical tasks with gradient g yield: ``"sum"`` K g, ``"mean"`` g, ``"own"``
            neither.
        role: ``"reference"`` trains each task alone (delta-m is measured against it),
            ``"baseline"`` is the method that run times are compared with, everything else is a
            ``"method"``.
        backwards: backward passes a step, without a wrapper.
        extra_forwards: forward passes a step beyond the first.
        claims: what ``mtlbench check`` holds the method to, with its default options.
    """

    name: str
    title: str
    year: int
    arxiv: str = ""
    head_policy: HeadPolicy = "weighted"
    scale: Literal["sum", "mean", "own"] = "own"
    role: Literal["method", "baseline", "reference"] = "method"
    backwards: Literal["one", "per-task"] = "one"
    extra_forwards: int = 0
    claims: tuple[Claim, ...] = ()

    def passes(self, n_tasks: int) -> Passes:
        """What a step costs without a wrapper, on inputs that all tasks share."""
        return Passes(1 + self.extra_forwards, 1 if self.backwards == "one" else n_tasks)


class _Checked:
    """Constructors check their arguments against their annotations (``PositiveFloat``, ...)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            check = validate_call(
                config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
            )
            cls.__init__ = check(cls.__init__)  # type: ignore[method-assign]


@dataclass(frozen=True)
class Later:
    """Marks an option that came when there were runs already, as ``Annotated[bool, Later()]``.

    At its default, which has to be what was done before, it is no part of a run's identity: runs
    without it and with it are the same.
    """


class _Stateful(_Checked, nn.Module):
    """A module whose optimizers travel with its ``state_dict``."""

    def get_extra_state(self) -> dict[str, Any]:
        """States of the optimizers that a method holds as attributes."""
        return {k: v.state_dict() for k, v in vars(self).items() if isinstance(v, Optimizer)}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`get_extra_state`."""
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """A buffer that is empty until the first step takes the shape of what is loaded."""
        for name, buffer in self.named_buffers(recurse=False):
            if not buffer.numel() and prefix + name in state_dict:
                saved = state_dict[prefix + name]
                setattr(self, name, buffer.new_empty(saved.shape, dtype=saved.dtype))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class WeightingMethod(_Stateful, ABC):
    """Turns the K task gradients of a step into one update.

    Most methods override :meth:`weights` only. ``aggregate`` may run any number of times a step
    (not at all, or once for each gradient family of a wrapper); state advances in
    :meth:`after_step` and nowhere else.

    What it knows of each task it keeps in parameters or buffers whose first dimension is K, or the
    first two. On a step in which some tasks have no label it is a method of the others, with their
    entries alone, see :func:`~mtlbench.restrict.restricted`: ``n_tasks`` may differ from step to
    step.

    Args:
        n_tasks: K.
    """

    info: ClassVar[MethodInfo]
    at: GramianPoint = "shared"
    """Where the gradients are taken that the weights are solved from."""

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.n_tasks = n_tasks

    def weights(self, view: GradientView) -> Tensor:
        """Task weights (K,), detached."""
        raise NotImplementedError(
            f"{type(self).__name__} defines neither weights() nor aggregate()"
        )

    def aggregate(self, view: GradientView) -> Update:
        """The update; one task alone needs no weighting and is plain descent.

        Raises:
            ContractError: the weights are not K numbers without a graph.
        """
        weights = torch.ones_like(view.losses) if view.n_tasks == 1 else self.weights(view)
        _check_vector(f"{self.info.name}: weights() must return", weights, view.losses.shape)
        return view.combine(weights, self.info.head_policy)

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        """Advance the state. ``evaluate()`` returns the same batch's losses (K,) after the step."""

    def on_epoch_end(self, epoch: int, mean_losses: Tensor) -> None:
        """See the epoch's mean training losses (K,); NaN for a task that had no label in it."""

    def diagnostics(self) -> dict[str, float]:
        """Numbers worth a place in a run's record (fallbacks of a solver, ...)."""
        return {}


def _check_vector(what: str, found: Any, shape: Sequence[int]) -> None:
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
    _check_vector(f"{name}: aggregate() must return as shared", update.shared, sizes[:1])
    for k, (own, size) in enumerate(zip(update.heads, sizes[1:], strict=True)):
        _check_vector(f"{name}: aggregate() must return as heads[{k}]", own, (size,))
    if update.weights is not None:
        what = f"{name}: aggregate() must return as weights"
        _check_vector(what, update.weights, view.losses.shape)


# ------------------------------------------------------------------------------------ wrappers
@dataclass(frozen=True)
class SharpnessInfo:
    """What a wrapper declares about itself; ``identity`` marks the one that changes nothing."""

    name: str
    title: str
    year: int = 0
    arxiv: str = ""
    identity: bool = False


PlainStep = Callable[
    ["MultiTaskModel", Optimizer, WeightingMethod, Batch, Loss], Callable[[], object]
]
"""Makes a training step of its own from a network, its optimizer, a method, a batch and a loss."""


class SharpnessWrapper(_Stateful, ABC):
    """Changes where each task's gradient is taken, for any weighting method."""

    info: ClassVar[SharpnessInfo]
    parts: int = 1
    """Gradient families that are aggregated apart, each with its own copy of the method."""
    expects: tuple[Claim, ...] = ()
    """What a method should claim for this wrapper to do what it is meant to."""
    common_point: bool = True
    """Whether all gradients are taken at one point, and so have a common trunk output."""
    at_most: bool = False
    """Whether a step may cost less than :meth:`passes` says, as its gradients have it."""

    @abstractmethod
    def update(self, problem: StepProblem, *aggregate: Callable[[GradientView], Update]) -> Update:
        """The update of one step; ``aggregate`` has ``parts`` entries."""

    @abstractmethod
    def passes(self, n_tasks: int, method: Passes) -> Passes:
        """What the coming step costs, on inputs that all tasks share; with ``at_most``, a bound.

        Args:
            n_tasks: K.
            method: what a step of the method costs by itself.
        """

    def after_step(self) -> None:
        """Advance the state; called once a step, after the optimizer has moved."""

    def yardsticks(self) -> Mapping[str, PlainStep]:
        """Other implementations of this wrapper's step, for ``mtlbench bench step``, by name."""
        return {}


# ------------------------------------------------------------------------------------ tasks
@dataclass(frozen=True)
class MetricInfo:
    """One reported number.

    Args:
        name: its key, unique in the task.
        objective: whose prediction it judges.
        unit: as printed ("%", "meV", "Debye", ...).
        higher_is_better: its direction.
        scale: a typical magnitude; model selection adds up ``metric / scale``.
    """

    name: str
    objective: str
    unit: str
    higher_is_better: bool
    scale: float = 1.0


@dataclass(frozen=True)
class Protocol:
    """How a benchmark is trained; part of every row's identity. Raise ``version`` with any change
    of a number.

    Args:
        optimizer: name of a ``torch.optim`` class.
        optimizer_options: of its constructor, beside the learning rate and the weight decay.
        scheduler: ``(name, options)`` of a ``torch.optim.lr_scheduler`` class stepped once an
            epoch; ``ReduceLROnPlateau`` sees the validation's selection score (``mode="max"``).
        gradient_scale: ``"paper"`` takes every method's update as its paper has it; ``"sum"``
            multiplies updates of ``scale="mean"`` methods by K, to the size of a sum of gradients.
        clip_norm: bound of the norm of the shared gradient, after aggregation.
        rho: the grid of perturbation radii that this protocol's wrappers are tuned on.
        average_last: if positive, no epoch is selected: a run's result is the mean of the test
            scores of so many last epochs.
        options: anything else that the task needs (split sizes, widths), part of the record.
    """

    name: str
    version: int
    arch: str
    epochs: int
    batch_size: int
    lr: float
    optimizer: str = "Adam"
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    weight_decay: float = 0.0
    scheduler: tuple[str, Mapping[str, Any]] | None = None
    gradient_scale: Literal["paper", "sum"] = "paper"
    clip_norm: float | None = None
    rho: tuple[float, ...] = (0.01, 0.05, 0.1)
    average_last: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskInfo:
    """What a benchmark declares about itself.

    Args:
        objectives: the K task names: keys of targets and heads.
        protocols: the first is the default.
        references: papers, as URLs.
        licence: of the data.
        source: how to get the real data.
        instead: what is read without a data folder; a stand-in is called one.
    """

    name: str
    title: str
    objectives: tuple[str, ...]
    metrics: tuple[MetricInfo, ...]
    protocols: tuple[Protocol, ...]
    architectures: tuple[str, ...]
    references: tuple[str, ...]
    licence: str
    source: str
    instead: str = ""


@dataclass(frozen=True)
class Fault:
    """Something wrong with a data set on disk.

    Args:
        file: the file or folder.
        what: what is wrong with it, and what was expected.
    """

    file: Path
    what: str


@dataclass(frozen=True)
class Picture:
    """One panel of ``mtlbench show``.

    Args:
        title: above the panel.
        values: (H, W, 3) from 0 to 1 for "rgb", (H, W) for the others; NaN (or a negative label) is
            left white.
        kind: how it is coloured: "labels" by class, "heat" by size, "error" by size from 0.
        limits: of the colours of "heat" and "error", number of classes of "labels" as ``(0, n)``;
            the values' own if None.
    """

    title: str
    values: NDArray[Any]
    kind: Literal["rgb", "labels", "heat", "error"]
    limits: tuple[float, float] | None = None


class Task(_Checked, ABC):
    """A benchmark: data, networks, losses and meters. Nothing in it knows how it is optimised.

    Args:
        protocol: one of ``info.protocols``, possibly with other epochs.
        data: folder of the real data set; None for the embedded data.

    Raises:
        DataError: a file of the data set is missing or corrupt.
    """

    info: ClassVar[TaskInfo]
    data_source: str
    """Names the data in every row, e.g. ``"MNIST, 5,000 embedded images"``."""
    stand_in: bool = False
    """Whether the data only stands in for the data set that the task is named after."""
    recipe: ClassVar[Recipe | None] = None
    """How stand-in data is generated, for ``mtlbench data make``; None if none is."""

    def __init__(self, protocol: Protocol, data: Path | None = None) -> None:
        self.protocol = protocol
        self.data = data

    @abstractmethod
    def build_model(self, arch: str) -> MultiTaskModel:
        """A freshly initialised network with one head an objective."""

    @abstractmethod
    def batches(self, split: str, seed: int | None) -> Iterable[Batch]:
        """One pass over ``"train"``, ``"val"`` or ``"test"``; shuffled by ``seed``, in order if it
        is None.

        Sized: ``len()`` of what is returned is the number of batches.
        """

    @abstractmethod
    def loss(self, objective: str, prediction: Any, target: Tensor) -> Tensor:
        """The training loss, a scalar: the mean over the batch. A :class:`JointLoss` as a class
        attribute will do, too."""

    @abstractmethod
    def meters(self) -> Mapping[str, Metric]:
        """Fresh meters, keyed by metric name; each is updated with ``(prediction, target)``."""

    def yardsticks(self) -> Mapping[str, tuple[Callable[[], object], Callable[[], object]]]:
        """Other implementations that this task's network is timed against by ``mtlbench bench``.

        Returns:
            Name to two callables without arguments that do the same work: ours, the yardstick's.
        """
        return {}

    @classmethod
    def verify(cls, data: Path) -> Iterator[Fault]:
        """Check a folder of the data set completely: what is wrong where, all of it.

        Raises:
            UsageError: the task reads no folder.
        """
        raise UsageError(f"task {cls.info.name!r} reads no folder")

    def pictures(
        self, group: InputGroup, predictions: Mapping[str, Any] | None
    ) -> Sequence[Sequence[Picture]]:
        """Inputs and targets of a batch to look at, a row a sample; with predictions and their
        errors where there are any.

        Raises:
            UsageError: there is nothing to look at.
        """
        raise UsageError(f"task {self.info.name!r} has no pictures")

    def selection_score(self, metrics: Mapping[str, float]) -> float:
        """Higher is better: the mean over the metrics of ``+-metric / scale``."""
        signed = [
            (1 if m.higher_is_better else -1) * metrics[m.name] / m.scale
            for m in self.info.metrics
            if m.name in metrics
        ]
        return sum(signed) / len(signed)
