"""Tables from made-up records: what is compared with what, and what stays empty."""

from __future__ import annotations

import io
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from mtlbench.boards import tables, terminal
from mtlbench.boards.build import Board, build
from mtlbench.boards.folder import read_folder
from mtlbench.boards.plot import plot
from mtlbench.boards.seeds import common_seeds
from mtlbench.errors import UsageError
from mtlbench.files import to_csv, write_csv
from mtlbench.runs.record import Metric, RunRecord
from mtlbench.runs.store import Store
from tests.factories import METRICS, record


def board(*records: RunRecord) -> Board:
    (made,) = build(records).values()
    return made


def row(made: Board, method: str, sharpness: str = "plain") -> pd.Series[Any]:
    found = made.rows[(made.rows["method"] == method) & (made.rows["sharpness"] == sharpness)]
    assert len(found) == 1
    return found.iloc[0]


def sweep(seeds: int = 3) -> list[RunRecord]:
    """Reference, baseline and two methods, one of them wrapped as well."""
    records = []
    tilt: dict[str, Any] = {"method": "tilt", "method_options": {"c": 0.4}}
    for seed in range(seeds):
        records += [
            record(100.0 + seed, 2.0, method="single", seed=seed, step_ms=18.0),
            record(90.0, 2.2 + 0.1 * seed, method="sum", seed=seed, step_ms=10.0 + seed),
            record(95.0, 2.0, seed=seed, step_ms=20.0, **tilt),
            record(95.0, 1.9, sharpness="flat", seed=seed, step_ms=44.0, **tilt),
        ]
    return records


def text(made: Board, width: int = 110) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(*terminal.render(made))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# ------------------------------------------------------------------------------------ numbers
def test_numbers_of_a_full_sweep() -> None:
    made = board(*sweep())
    assert list(made.rows["method"]) == ["single", "sum", "tilt", "tilt"]
    base = row(made, "sum")
    assert (base["status"], base["n_seeds"], base["seeds"]) == ("ok", 3, "0 1 2")
    assert base["accuracy"] == 90
    assert base["error"] == pytest.approx(2.3)
    assert base["error_std"] == pytest.approx(0.1)
    # Against the mean reference, 101 and 2: 11/101 worse, and 10, 15, 20 % worse.
    assert base["delta_m"] == pytest.approx((100 * 11 / 101 + 15) / 2)
    assert base["delta_m_std"] == pytest.approx(2.5)
    assert base["step_ms"] == 10  # the least of 10, 11 and 12
    assert base["step_ratio"] == 1
    assert row(made, "single")["delta_m"] == 0
    assert row(made, "tilt", "flat")["step_ratio"] == pytest.approx(44 / 10)
    assert row(made, "tilt", "flat")["device"] == "some CPU"


def test_ranks_leave_the_reference_out_and_share_ties() -> None:
    rows = board(*sweep()).rows
    assert math.isnan(rows["mean_rank"][0])
    # accuracy 90, 95, 95 and error 2.3, 2.0, 1.9
    assert list(rows["mean_rank"][1:]) == [3, (1.5 + 2) / 2, (1.5 + 1) / 2]


def test_last_epoch_is_compared_with_the_last_epoch() -> None:
    made = board(
        record(100.0, 2.0, last=(80.0, 4.0), method="single"),
        record(90.0, 2.0, last=(80.0, 5.0)),
    )
    assert row(made, "sum")["delta_m"] == pytest.approx(5)
    assert row(made, "sum")["delta_m_last"] == pytest.approx(12.5)


def test_delta_per_task_and_per_metric() -> None:
    metrics = [METRICS[0], Metric(name="error", objective="left", unit="", higher_is_better=False)]
    one = board(record(100.0, 2.0, method="single"), record(90.0, 2.0))
    assert row(one, "sum")["delta_m_per_task"] == row(one, "sum")["delta_m"]
    same = board(
        record(100.0, 2.0, method="single", metrics=metrics), record(90.0, 2.0, metrics=metrics)
    )
    assert row(same, "sum")["delta_m_per_task"] == pytest.approx(5)


def test_one_seed_has_no_interval() -> None:
    made = board(*sweep(seeds=1))
    assert made.rows[["accuracy_std", "error_std", "delta_m_std"]].isna().all(axis=None)
    assert "±" not in text(made)
    assert "±" in text(board(*sweep(seeds=2)))


def test_step_ratio_pairs_runs_of_one_machine() -> None:
    made = board(record(step_ms=10.0), record(method="tilt", step_ms=20.0, device="another CPU"))
    assert math.isnan(row(made, "tilt")["step_ratio"])
    assert row(made, "tilt")["step_ms"] == 20


def test_step_times_are_of_the_seed_that_was_least_disturbed() -> None:
    quiet, disturbed = {0: 10.0, 1: 30.0}, {0: 90.0, 1: 20.0}
    made = board(
        *(record(step_ms=ms, seed=seed) for seed, ms in quiet.items()),
        *(record(method="tilt", step_ms=ms, seed=seed) for seed, ms in disturbed.items()),
    )
    assert (row(made, "sum")["step_ms"], row(made, "sum")["step_ratio"]) == (10, 1)
    assert (row(made, "tilt")["step_ms"], row(made, "tilt")["step_ratio"]) == (20, 2)
    assert list(made.seeds["step_ratio"]) == [1, 3, 9, 2]


# ------------------------------------------------------------------------------------ holes
@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_lost_seed_empties_its_row_and_no_other(status: str) -> None:
    full = sweep()
    (identity,) = [
        r.identity for r in full if (r.identity.sharpness, r.identity.seed) == ("flat", 1)
    ]
    lost = record(status=status, reason="NaN\n at 3", **identity.model_dump())
    kept = [r for r in full if (r.identity.sharpness, r.identity.seed) != ("flat", 1)]
    made, whole = board(*kept, lost), board(*full)
    hurt = row(made, "tilt", "flat")
    assert hurt["status"] == f"2/3 seeds: seed 1 {status}"
    assert (hurt["n_seeds"], hurt["seeds"]) == (2, "0 2")
    cells = ["accuracy", "accuracy_std", "error", "delta_m", "delta_m_std", "delta_m_last"]
    assert hurt[[*cells, "mean_rank", "step_ms", "step_ratio"]].isna().all()
    others = ["accuracy", "delta_m", "step_ratio"]
    assert made.rows[others][:3].equals(whole.rows[others][:3])
    assert list(made.rows["mean_rank"][1:3]) == [2, 1]
    assert "tilt" in text(made).lower()
    assert f"seed 1 {status}" in text(made)
    run = made.seeds[made.seeds["status"] == status].iloc[0]
    assert run["reason"] == "NaN at 3"


def test_a_seed_that_was_never_run_is_missing() -> None:
    made = board(*[r for r in sweep() if (r.identity.method, r.identity.seed) != ("sum", 2)])
    assert row(made, "sum")["status"] == "2/3 seeds: seed 2 missing"
    assert (row(made, "sum")["n_seeds"], row(made, "sum")["seeds"]) == (2, "0 1")
    # Against the mean of the reference's seeds 0 and 1; the mean of its errors, 2.2 and 2.3.
    assert row(made, "sum")["delta_m"] == pytest.approx((100 * 10.5 / 100.5 + 12.5) / 2)
    assert math.isnan(row(made, "sum")["mean_rank"])
    assert row(made, "tilt")["step_ratio"] == 2  # 20 over the least of 10 and 11
    whole = board(*sweep())
    assert row(made, "tilt")["delta_m"] == row(whole, "tilt")["delta_m"]
    assert "A row that lacks seeds is compared on those that it has" in text(made)


@pytest.mark.parametrize(("method", "sharpness"), [("tilt", "flat"), ("sum", "plain")])
def test_one_seed_more_of_one_row_changes_no_other(method: str, sharpness: str) -> None:
    more = [
        r.model_copy(update={"identity": r.identity.model_copy(update={"seed": 3})})
        for r in sweep(1)
        if (r.identity.method, r.identity.sharpness) == (method, sharpness)
    ]
    made, whole = board(*sweep(), *more), board(*sweep())
    pd.testing.assert_frame_equal(made.rows, whole.rows)
    assert len(made.seeds) == 13
    left_out = made.seeds[made.seeds["seed"] == 3].iloc[0]
    assert (left_out["accuracy"] > 0, math.isnan(left_out["delta_m"])) == (True, True)
    note = f"Compared on the seeds in common: 0 1 2; left out: {method.upper()} with {sharpness} 3."
    assert note in text(made)


def test_more_seeds_of_the_reference_are_left_out() -> None:
    made = board(*sweep(), record(50.0, 9.0, method="single", seed=7))
    pd.testing.assert_frame_equal(made.rows, board(*sweep()).rows)


@pytest.mark.parametrize(
    ("rows", "reference", "common"),
    [
        ({"r": {0, 1}, "a": {0, 1, 2}}, "r", {0, 1}),
        ({"r": {0, 1, 2}, "a": {0, 1, 2}, "b": {0}}, "r", {0, 1, 2}),
        ({"r": {0, 1, 2}, "a": {0}}, "r", {0}),
        ({"r": {0, 1, 2, 3}, "a": {0, 1, 2, 3}, "b": {0, 1, 2}}, "r", {0, 1, 2, 3}),
        ({"r": {0, 1, 2, 3}, "a": {0, 1, 2}}, "r", {0, 1, 2}),
        ({"a": {0, 1}, "b": {0, 1, 2}}, None, {0, 1}),
        ({"a": {0}, "b": {1}}, None, {1}),
        ({"r": {0}, "a": {1}}, "r", {0}),
        ({"r": {0, 1}}, "r", {0, 1}),
    ],
)
def test_the_seeds_that_rows_have_in_common(
    rows: dict[str, set[int]], reference: str | None, common: set[int]
) -> None:
    assert common_seeds({k: frozenset(v) for k, v in rows.items()}, reference) == common


def test_a_zero_reference_voids_delta_and_says_why() -> None:
    made = board(record(100.0, 0.0, method="single"), record(90.0, 2.0), record(method="tilt"))
    assert made.rows[["delta_m", "delta_m_last", "delta_m_per_task"]].isna().all(axis=None)
    assert set(made.rows["status"]) == {"ok"}
    assert list(made.rows["mean_rank"][1:]) == [1.25, 1.75]
    assert list(made.rows["step_ratio"]) == [1, 1, 1]
    assert "No Δm%: the reference's error is 0, and no change is relative to that." in text(made)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinite_metric_is_shown(value: float, tmp_path: Path) -> None:
    runs = [record(100.0, 2.0, method="single", seed=s) for s in (0, 1)]
    runs += [record(90.0, 2.0, seed=0), record(90.0, value, seed=1)]
    made = board(*runs)
    assert row(made, "sum")["error"] == value
    assert math.isnan(row(made, "sum")["error_std"])
    assert f"{value:g}" in text(made)
    assert "100.0" in text(made)
    tables.write(build(runs), tmp_path)
    assert f"{value:g}" in (tmp_path / "digits.csv").read_text()
    plot(made, tmp_path / "plot.svg")


def test_a_diverged_row_says_of_what() -> None:
    made = board(record(), record(method="tilt", status="diverged", reason="loss of a is nan"))
    assert "TILT with plain: 0/1 seeds: seed 0 diverged (loss of a is nan)" in text(made)


def test_an_incomplete_reference_leaves_no_delta() -> None:
    lost = record(method="single", seed=1, status="diverged")
    kept = [r for r in sweep() if (r.identity.method, r.identity.seed) != ("single", 1)]
    made = board(*kept, lost)
    assert made.rows[["delta_m", "delta_m_last", "delta_m_per_task"]].isna().all(axis=None)
    assert row(made, "single")["status"] == "2/3 seeds: seed 1 diverged"
    assert row(made, "sum")["status"] == "ok"
    assert "the reference is incomplete (2/3 seeds: seed 1 diverged)" in text(made, 150)


def test_no_reference_and_two_references() -> None:
    none = board(record(), record(method="tilt"))
    two = board(
        record(), record(method="single"), record(method="single", method_options={"lr": 2})
    )
    for made, count in ((none, 0), (two, 2)):
        assert made.rows["delta_m"].isna().all()
        assert f"the group has {count} reference rows" in text(made)


def test_a_nan_metric_is_a_hole() -> None:
    made = board(
        record(method="single"),
        record(method="single", seed=1),
        record(),
        record(seed=1, error=math.nan),
    )
    hurt = row(made, "sum")
    assert hurt["status"] == "1/2 seeds: seed 1 without error"
    assert hurt["accuracy"] == 80
    assert hurt[["error", "delta_m", "mean_rank"]].isna().all()


def test_only_failures_still_make_a_table(tmp_path: Path) -> None:
    made = board(record(status="failed", reason="boom"))
    assert made.rows["status"][0] == "0/1 seeds: seed 0 failed"
    assert "—" in text(made)
    plot(made, tmp_path / "plot.svg")


# ------------------------------------------------------------------------------------ groups
@pytest.mark.parametrize(
    "other",
    [
        {"protocol": "paper"},
        {"protocol_version": 2},
        {"epochs": 6},
        {"data_source": "other digits"},
        {"stand_in": True},
        {"architecture": "large"},
        {"device_class": "cuda"},
        {"task_options": {"overlap": 2}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_groups_never_meet(other: dict[str, Any]) -> None:
    """The reference and the second seed of one group say nothing about another."""
    made = board(
        *sweep(2), record(90.0, method="sum", **other), record(85.0, method="tilt", **other)
    )
    first, second = sorted(made.groups(), key=len, reverse=True)
    alone = board(*sweep(2)).rows
    pd.testing.assert_frame_equal(first.reset_index(drop=True), alone)
    assert list(second["status"]) == ["ok", "ok"]
    assert second["delta_m"].isna().all()
    assert list(second["mean_rank"]) == [1.25, 1.75]
    assert len(terminal.render(made)) == 2


def test_tasks_get_boards_of_their_own() -> None:
    made = build([record(), record(task="letters")])
    assert list(made) == ["digits", "letters"]
    assert [len(b.rows) for b in made.values()] == [1, 1]


def test_options_tell_rows_apart() -> None:
    made = board(*(record(method="tilt", method_options={"c": c}) for c in (0.4, 0.2)))
    assert list(made.rows["method_options"]) == ["c=0.2", "c=0.4"]
    assert "TILT c=0.2" in text(made)
    common = text(board(record(method="tilt", method_options={"c": 0.2})))
    assert "TILT c=0.2" in common.strip().splitlines()[-1]


def test_options_at_their_defaults_are_not_repeated() -> None:
    """Those of what is registered here; of other things the defaults are not known."""
    usual = {"alpha": 2.0, "solver": "newton", "refresh": 1, "at": "shared"}
    plain = text(board(record(method="fairgrad", method_options=usual)))
    assert "Options" not in plain
    other = text(board(record(method="fairgrad", method_options=usual | {"alpha": 1.0})))
    assert "Options: FAIRGRAD alpha=1.0\n" in other


def test_a_run_may_not_occur_twice() -> None:
    with pytest.raises(UsageError, match=r"two records of digits with sum plain, seed 0"):
        build([record(), record(accuracy=90.0)])


def test_records_that_disagree_on_a_metric() -> None:
    other = [METRICS[0], METRICS[1].model_copy(update={"higher_is_better": True})]
    with pytest.raises(UsageError, match="disagree on the metric 'error'"):
        build([record(), record(method="tilt", metrics=other)])


def test_the_order_of_records_does_not_matter() -> None:
    records = sweep()
    for made, again in zip(
        tables.files(build(records)).values(),
        tables.files(build(reversed(records))).values(),
        strict=True,
    ):
        assert to_csv(made) == to_csv(again)


# ------------------------------------------------------------------------------------ folders
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cut.json", None, "is not a run record: cut off, or no JSON (EOF while parsing"),
        ("empty.json", b"", "is empty"),
        ("config.json", b'{"lr": 0.1}', "is not a run record"),
        ("list.json", b"[]", "is not a run record"),
        ("mac.json", b"\xff\xfe\x00", "is not a run record: cut off, or no JSON"),
        ("._mac.json", b"\xff\xfe\x00", "is hidden"),
    ],
)
def test_a_file_that_is_no_record_is_named_and_left_out(
    name: str, content: bytes | None, said: str, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    for run in sweep(1):
        whole = store.write(run).read_bytes()
    (tmp_path / name).write_bytes(whole[:700] if content is None else content)
    records, (fault,) = read_folder(tmp_path)
    assert len(records) == 4
    assert fault.startswith(f"{tmp_path / name} {said}")
    assert "\n" not in fault
    assert "pydantic" not in fault


def test_of_two_records_of_a_run_both_files_are_named(tmp_path: Path) -> None:
    run = record()
    path = Store(tmp_path).write(run)
    copy = tmp_path / "a copy.json"
    copy.write_bytes(path.read_bytes())
    said = f"{copy} is another record of the run in {path}; delete one of them"
    assert read_folder(tmp_path) == ([run], [said])

    later = run.provenance.model_copy(update={"started": "2026-02-01T00:00:00+00:00"})
    newer = record(accuracy=90.0).model_copy(update={"provenance": later})
    copy.write_text(newer.model_dump_json())
    said = f"{path} is another record of the run in {copy}; delete one of them"
    assert read_folder(tmp_path) == ([newer], [said])


# ------------------------------------------------------------------------------------ files
def test_csv_bytes(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    frame = pd.DataFrame(
        {"a": [1 / 3, math.nan], "n": [1, 2], "t": ["x,y", "é"], "b": [True, False]}
    )
    write_csv(frame, path)
    assert path.read_bytes() == 'a,n,t,b\n0.333333,1,"x,y",True\n,2,é,False\n'.encode()


def test_seed_level_rows_are_behind_the_table(tmp_path: Path) -> None:
    tables.write(build(sweep()), tmp_path)
    rows = pd.read_csv(tmp_path / "digits.csv")
    seeds = pd.read_csv(tmp_path / "digits_seeds.csv")
    assert (len(rows), len(seeds)) == (4, 12)
    by_row = seeds.groupby(["method", "sharpness"])
    means = by_row[["accuracy", "delta_m"]].mean().join(by_row[["step_ms", "step_ratio"]].min())
    again = rows.set_index(["method", "sharpness"])[means.columns].sort_index()
    pd.testing.assert_frame_equal(again, means, rtol=1e-4, atol=1e-4, check_dtype=False)
    expected = {"seed", "selected_epoch", "error_last", "commit", "command", "threads", "reason"}
    assert expected <= set(seeds)


def test_check_accepts_what_write_wrote(tmp_path: Path) -> None:
    tables.write(build(sweep()), tmp_path)
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "digits.csv").write_text("not ours")
    assert tables.check(build(sweep()), tmp_path) == []


def test_check_finds_tampering_gaps_and_leftovers(tmp_path: Path) -> None:
    tables.write(build(sweep()), tmp_path)
    table = tmp_path / "digits.csv"
    table.write_bytes(table.read_bytes().replace(b",12.9455,", b",12.9454,"))
    (tmp_path / "digits_seeds.csv").unlink()
    (tmp_path / "letters.csv").write_text("a\n1\n")
    complaints = tables.check(build(sweep()), tmp_path)
    assert [c.partition(":")[0] for c in complaints] == [
        "digits.csv",
        "digits_seeds.csv",
        "letters.csv",
    ]
    assert complaints[0].startswith("digits.csv: line 3 has")
    assert "12.9454" in complaints[0]
    assert "12.9455" in complaints[0]
    assert complaints[1].endswith("missing")


@pytest.mark.parametrize(
    "spoil", [lambda b: b.replace(b"\n", b"\r\n"), lambda b: b[:-1], bytes.upper]
)
def test_check_is_byte_for_byte(spoil: Callable[[bytes], bytes], tmp_path: Path) -> None:
    tables.write(build(sweep()), tmp_path)
    table = tmp_path / "digits.csv"
    table.write_bytes(spoil(table.read_bytes()))
    assert len(tables.check(build(sweep()), tmp_path)) == 1


# ------------------------------------------------------------------------------------ display
def test_the_title_says_where_numbers_come_from() -> None:
    made = board(record(stand_in=True, data_source="drawn digits", protocol_version=3))
    title = terminal.heading(made.rows)
    assert title == "digits · mini v3, 5 epochs · STAND-IN DATA: drawn digits · tiny · cpu"
    assert "STAND-IN DATA" in text(made)
    assert "STAND-IN" not in text(board(record()))


def test_the_terminal_table_fits_and_shows_directions() -> None:
    shown = text(board(*sweep()), width=100)
    assert max(map(len, shown.splitlines())) <= 100
    assert "…" not in shown
    for header in ("accuracy ↑", "error ↓", "Δm% ↓", "rank ↓"):
        assert header in shown


WIDTHS = (40, 60, 80, 100)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_vanishes_without_a_sign(width: int) -> None:
    """Every column is there, or named as one that is not."""
    shown = text(board(*sweep()), width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    words = " ".join(shown.split())
    for title in ("accuracy", "error", "Δm%", "rank", "ms", "base", "bwd", "seeds"):
        assert title in words
    for name in ("SINGLE", "SUM", "TILT", "flat"):
        assert name in words
    assert ("Not shown in" in words) == (40 < width < 100)


def test_whole_columns_go_and_the_last_are_those_that_matter() -> None:
    shown = text(board(*sweep()), 70)
    (said,) = [line for line in shown.splitlines() if line.startswith("Not shown")]
    assert said.startswith("Not shown in 70 columns: mean rank ↓, step ↓ ms, fwd/bwd.")
    assert "accuracy ↑" in shown
    assert "+0.00 ± " in shown
    assert re.search(r"seeds\s+─", shown)


def test_a_block_a_row_where_no_table_has_room() -> None:
    shown = text(board(*sweep()), 30)
    assert "TILT x flat\n  accuracy ↑ %: 95.0\n" in shown
    assert shown.count("  seeds: 3") == 4


def test_long_names_break_before_columns_go() -> None:
    options = [{"noise": "shared", "points": p} for p in ("by-sign", "per-task")]
    runs = [record(method="tilt", method_options=o) for o in options]
    assert "TILT points=by-sign   plain" in text(board(*runs), 110)
    narrow = text(board(*runs), 94)
    assert re.search(r"^ TILT .*\n points=by-sign ", narrow, re.MULTILINE)
    assert "Not shown" not in narrow


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("width", [40, 110])
def test_other_encodings_have_other_arrows(encoding: str, width: int) -> None:
    raw = io.BytesIO()
    console = Console(width=width, file=io.TextIOWrapper(raw, encoding, write_through=True))
    console.print(*terminal.render(board(*sweep(), record(protocol="größer"))))
    shown = raw.getvalue().decode(encoding)
    assert max(map(len, shown.splitlines())) <= width
    for said in ("dm% v", "accuracy ^"):
        assert said in shown
    assert ("größer" in shown) == (encoding != "ascii")


def test_many_metrics_are_left_to_the_csv() -> None:
    metrics = [
        Metric(name=f"m{i}", objective=f"o{i}", unit="", higher_is_better=True) for i in range(5)
    ]
    run = record(metrics=metrics)
    scores = {"metrics": {m.name: 1.0 for m in metrics}, "losses": {}}
    phase = {**run.phases[0].model_dump(), "selected": {"test": scores}, "last": {"test": scores}}
    made = board(RunRecord.model_validate({**run.model_dump(), "phases": [phase]}))
    assert "m0" not in text(made)
    assert "5 of 5 metrics are in the CSV file only." in text(made)
    assert "m0" in made.rows


def test_of_many_metrics_the_first_of_each_objective_is_shown() -> None:
    names = ["a1", "a2", "a3", "b1", "b2"]
    metrics = [Metric(name=n, objective=n[0], unit="", higher_is_better=True) for n in names]
    assert [m.name for m in terminal._shown(metrics)] == ["a1", "b1"]
    assert terminal._shown(metrics[:4]) == metrics[:4]


def test_names_are_not_markup() -> None:
    assert "[red]digits" in text(board(record(data_source="[red]digits")))


def test_plot(tmp_path: Path) -> None:
    path = tmp_path / "plot.svg"
    plot(board(*sweep(), record(protocol="paper")), path)
    assert "<svg" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_a_plot_has_room_for_many_methods(tmp_path: Path) -> None:
    many = [record(method=f"m{i}") for i in range(60)]
    plot(board(record(), *many), tmp_path / "plot.svg")
    found = re.search(r'viewBox="0 0 \S+ ([\d.]+)"', (tmp_path / "plot.svg").read_text())
    assert found
    assert float(found[1]) > 60 * 15  # points: a line of the legend each


def test_plotting_libraries_are_loaded_on_use_only() -> None:
    code = "import sys, mtlbench.boards.build; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
