"""Tasks: what is learnt, on which data, judged by what."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from numpy.typing import NDArray
from torch import Tensor

from mtlbench.errors import UsageError
from mtlbench.interfaces.batch import Batch, Ignored, InputGroup
from mtlbench.interfaces.models import MultiTaskModel
from mtlbench.interfaces.options import Checked
from mtlbench.interfaces.recipes import Recipe

if TYPE_CHECKING:
    from torchmetrics import Metric

GradientScale = Literal["paper", "sum"]


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
            epoch; ``ReduceLROnPlateau`` sees the validation's selection score, or its negative
            where its ``mode`` is "min".
        gradient_scale: ``"paper"`` takes every method's update as its paper has it; ``"sum"``
            multiplies updates of ``scale="mean"`` methods by K, to the size of a sum of gradients.
        clip_norm: bound of the norm of the shared gradient, after aggregation.
        rho: the grid of perturbation radii that this protocol's wrappers are tuned on.
        average_last: if positive, no epoch is selected: a run's result is the mean of the test
            scores of so many last epochs.
        base: published single-task values of the metrics, in their units: epochs are then judged,
            and learning rates moved, by delta-m against them, see :meth:`Task.selection_score`.
        weights: where the trunk's initial weights come from, if they belong to the protocol; a run
            that is given none says so in its row.
        alone: fields of this protocol that are others where a task is trained alone, for the
            single-task reference: its network, epochs, learning rate, ... Rows are compared all the
            same: it is the protocol that makes them a group.
        published: whether it is that of published tables, beside which its rows may stand.
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
    gradient_scale: GradientScale = "paper"
    clip_norm: float | None = None
    rho: tuple[float, ...] = (0.01, 0.05, 0.1)
    average_last: int = 0
    base: Mapping[str, float] = field(default_factory=dict)
    weights: str = ""
    alone: Mapping[str, Any] = field(default_factory=dict)
    published: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def of_reference(self) -> Protocol:
        """The protocol of a task that is trained alone."""
        return replace(self, **self.alone, alone={}) if self.alone else self


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
        version: as a method's, of what the protocols' versions do not tell apart.
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
    version: int | None = None

    def protocol(self, name: str | None = None) -> Protocol:
        """One of the protocols, by default the first.

        Raises:
            UsageError: there is none of this name.
        """
        known = {protocol.name: protocol for protocol in self.protocols}
        wanted = self.protocols[0].name if name is None else name
        if wanted not in known:
            raise UsageError(
                f"task {self.name!r} has no protocol {wanted!r}; valid: {', '.join(known)}"
            )
        return known[wanted]


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


class Task(Checked, ABC):
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
    ignore: ClassVar[Ignored] = None
    """Which integers of the targets are no labels, for all objectives or by objective."""
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

        Sized: ``len()`` of what is returned is the number of batches. A method that holds some of
        the training data out needs it to be :class:`~mtlbench.interfaces.Divisible`, as
        :class:`~mtlbench.data.ArrayBatches` is.
        """

    @abstractmethod
    def loss(self, objective: str, prediction: Any, target: Tensor) -> Tensor:
        """The training loss, a scalar: the mean over the batch's examples. A :class:`JointLoss` as
        a class attribute will do, too, and so will a :class:`SizedLoss`, a mean over something
        else."""

    @abstractmethod
    def meters(self) -> Mapping[str, Metric]:
        """Fresh meters, keyed by metric name; each is updated with ``(prediction, target)``."""

    @classmethod
    def verify(cls, data: Path) -> Iterator[Fault]:
        """Check a folder of the data set completely: what is wrong where, all of it.

        Raises:
            UsageError: the task reads no folder.
        """
        raise UsageError(f"task {cls.info.name!r} reads no folder")

    def meters_otherwise(self) -> Mapping[str, Metric]:
        """Fresh meters of metrics that are measured in another way, too, by metric name; what they
        say is kept in records, and judges nothing."""
        return {}

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
        """Higher is better: the mean over the metrics of ``+-metric / scale``.

        Where the protocol has a ``base``, it is the mean of ``+-metric / base`` of a task alone,
        and minus delta-m (as a fraction) where all metrics are there.
        """
        base = self.protocol.base
        found = [m for m in self.info.metrics if m.name in metrics]
        signs = [1 if m.higher_is_better else -1 for m in found]
        scales = [base.get(m.name, m.scale) for m in found]
        shares = [metrics[m.name] / scale for m, scale in zip(found, scales, strict=True)]
        signed = [sign * share for sign, share in zip(signs, shares, strict=True)]
        score = sum(signed) / len(signed)
        whole = bool(base) and len(found) == len(self.info.metrics)
        return score - sum(signs) / len(signs) if whole else score
