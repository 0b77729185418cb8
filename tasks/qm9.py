"""QM9: eleven properties of small organic molecules, from their geometry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtlbench.data import ArrayBatches, check_split
from mtlbench.interfaces import (
    Batch,
    Fault,
    InputGroup,
    MetricInfo,
    MultiTaskModel,
    Protocol,
    Task,
    TaskInfo,
)
from mtlbench.tasks._molecules import sources
from mtlbench.tasks._molecules.split import split
from mtlbench.tasks._nets.nnconv import MPNN, mpnn_trunk
from mtlbench.tasks._nets.sharing import SHARING

if TYPE_CHECKING:
    from torchmetrics import Metric

EMBEDDED = Path(__file__).parent / "_data" / "qm9_5k.npz"
SOURCE = (
    "`pip install 'mtlbench[qm9]'` brings all of QM9; PATH is the folder site-packages/qm9pack, or "
    "the root of a torch_geometric.datasets.QM9, or has a qm9.npz in the format of "
    "tasks/_data/qm9_5k.npz"
)

# name: (unit, standard deviation over the embedded molecules, factor from the file's unit)
TARGETS = {
    "mu": ("D", 1.47769, 1.0),
    "alpha": ("a0^3", 8.30537, 1.0),
    "homo": ("meV", 603.353, 1000.0),
    "lumo": ("meV", 1286.68, 1000.0),
    "r2": ("a0^2", 279.336, 1.0),
    "zpve": ("meV", 924.033, 1000.0),
    "u0": ("meV", 10617.7, 1000.0),
    "u": ("meV", 10711.3, 1000.0),
    "h": ("meV", 10787.4, 1000.0),
    "g": ("meV", 9769.10, 1000.0),
    "cv": ("cal/(mol K)", 4.16234, 1.0),
}
SINGLE_TASKS = {
    "mu": 0.0671,
    "alpha": 0.1814,
    "homo": 60.576,
    "lumo": 53.915,
    "r2": 0.5027,
    "zpve": 4.539,
    "u0": 58.838,
    "u": 64.244,
    "h": 63.852,
    "g": 66.223,
    "cv": 0.07212,
}
"""Errors that delta-m is against in the released trainers."""


class QM9(Task):
    """QM9 as eleven regression tasks, as in `"Multi-Task Learning as a Bargaining Game"
    <https://arxiv.org/abs/2202.01017>`_: :class:`~mtlbench.tasks._nets.nnconv.MPNN`, one head a
    target, squared error of z-scored targets. U0, U, H and G are atomisation energies.

    ``paper`` chooses epochs, and lowers the learning rate, by delta-m on validation against the
    published single tasks, and for a single task by its own error.

    Departs from the authors' code: the split is the same for every seed; positions are rounded to
    0.001 angstrom; z-scores are of the training molecules. Bonds, aromaticity and hybridisation of
    the embedded molecules and of qm9pack come from sanitised SMILES; torch_geometric reads an SDF
    as it is, in which no atom is aromatic or hybridised. A row's data source says which.

    Not copied, as released: for a single task, an epoch's own error is compared with the mean over
    all heads of an earlier one; and with SAMO what is done to head 1 is done to head 10, too, whose
    name begins alike.

    All of QM9 is read from a folder in one of the layouts in
    :mod:`mtlbench.tasks._molecules.sources`, parsed once and kept in the cache.

    ``mini`` trains 300 steps on 3,000 molecules: too few to overfit, so that what a wrapper may
    gain there is speed, not generalisation. Of what so many steps can be made of, it is what the
    seeds vary least under (``leaderboards/pilot``).
    """

    info = TaskInfo(
        name="qm9",
        title="QM9",
        objectives=tuple(TARGETS),
        metrics=tuple(
            MetricInfo(f"{name}_mae", name, unit, higher_is_better=False, scale=std)
            for name, (unit, std, _) in TARGETS.items()
        ),
        protocols=(
            Protocol(
                name="mini",
                version=2,
                arch="mpnn",
                epochs=6,
                batch_size=60,
                lr=1e-2,
                rho=(0.001, 0.01, 0.05),
                average_last=3,
                options={"split": (3000, 500, 1500), "d": 16, "edge_width": 16},
            ),
            Protocol(
                name="paper",
                version=2,
                arch="mpnn",
                epochs=300,
                batch_size=120,
                lr=1e-3,
                scheduler=(
                    "ReduceLROnPlateau",
                    {"mode": "min", "factor": 0.7, "patience": 5, "min_lr": 1e-5},
                ),
                rho=(1e-5, 1e-4, 0.001, 0.01),
                base={f"{name}_mae": error for name, error in SINGLE_TASKS.items()},
                published=True,
                options={"split": (110_831, 10_000, 10_000), "d": 64, "edge_width": 128},
            ),
        ),
        architectures=("mpnn", *SHARING),
        references=("https://arxiv.org/abs/1704.01212", "https://arxiv.org/abs/2202.01017"),
        licence="CC0",
        source=SOURCE,
        instead="5,000 molecules of QM9, embedded",
    )

    def __init__(self, protocol: Protocol, data: Path | None = None) -> None:
        super().__init__(protocol, data)
        path = EMBEDDED if data is None else sources.archive(data, SOURCE)
        self.molecules = sources.molecules(path, SOURCE)
        y = self.molecules.y
        self.split = split(self.molecules.index, protocol.options["split"])
        self.mean, self.std = _moments(y[self.split["train"]])
        sizes = "/".join(f"{len(index):,}" for index in self.split.values())
        what = "embedded molecules"
        if data is not None:
            what = f"molecules of {self.molecules.chemistry}"
        self.data_source = f"QM9, {len(y):,} {what}, split {sizes}"

    def build_model(self, arch: str) -> MultiTaskModel:
        d, width = self.protocol.options["d"], self.protocol.options["edge_width"]
        heads: dict[str, nn.Module] = {
            name: nn.Sequential(nn.Linear(d, 1), nn.Flatten(0)) for name in self.info.objectives
        }
        if arch == "mpnn":
            return MultiTaskModel(MPNN(d, width), heads)
        return SHARING[arch](mpnn_trunk(d, width, heads))

    def batches(self, split: str, seed: int | None) -> Iterable[Batch]:
        """As in :class:`Task`; the molecules of a batch are sorted by size."""
        check_split(split)
        index = torch.from_numpy(self.split[split])
        z_scores = torch.from_numpy((self.molecules.y - self.mean) / self.std).float()

        def group(chunk: Tensor) -> InputGroup:
            molecules = self.molecules.by_size(index[chunk])
            targets = z_scores[molecules].unbind(1)
            inputs = self.molecules.batch(molecules)
            return InputGroup(inputs, dict(zip(self.info.objectives, targets, strict=True)))

        return ArrayBatches(group, len(index), self.protocol.batch_size, seed)

    def loss(self, objective: str, prediction: Any, target: Tensor) -> Tensor:
        return nn.functional.mse_loss(prediction, target)

    def meters(self) -> Mapping[str, Metric]:
        from torchmetrics import MeanAbsoluteError  # slow, and needed by no training step

        return {
            m.name: MeanAbsoluteError() * float(std * TARGETS[m.objective][2])
            for m, std in zip(self.info.metrics, self.std, strict=True)
        }

    @classmethod
    def verify(cls, data: Path) -> Iterator[Fault]:
        return sources.verify(data, SOURCE)


def _moments(y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each target where it is known; NaN where it never is."""
    known = ~np.isnan(y)
    with np.errstate(invalid="ignore"):
        count = known.sum(0)
        mean = np.where(known, y, 0).sum(0) / count
        return mean, np.sqrt(np.where(known, (y - mean) ** 2, 0).sum(0) / count)
