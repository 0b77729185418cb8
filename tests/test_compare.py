"""Two rows in plain words, and tables as text to paste."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mtlbench.boards.build import build
from mtlbench.boards.compare import compare
from mtlbench.boards.formats import FORMATS
from mtlbench.cli import main
from mtlbench.errors import UsageError
from mtlbench.runs.record import RunRecord
from mtlbench.runs.store import Store
from tests.factories import record
from tests.test_comparisons import WOBBLE, sweep


def said(records: list[RunRecord], first: str, second: str) -> str:
    return "\n".join(compare(build(records), first, second))


# ------------------------------------------------------------------------------------ compare
def test_worse_and_better_are_two_sides() -> None:
    worse, better = said(sweep(), "tilt", "sum"), said(sweep(), "sum", "tilt")
    assert "WORSE. TILT is worse than SUM by 5.0" in worse
    assert "BETTER. SUM is better than TILT by 5.0" in better
    assert "As one of all 6 pairs of its table it is worse" in worse
    assert "As one of all 6 pairs of its table it is better" in better
    assert "On 0 of 5 seeds TILT is the better one." in worse


def test_equal_is_not_open() -> None:
    assert "EQUAL within 1 point" in said(sweep(), "sum+flat", "sum")
    wide = [
        *[r for r in sweep() if r.identity.method != "tilt"],
        *[record(90 + 20 * WOBBLE[s], 2.0, method="tilt", seed=s) for s in range(5)],
    ]
    found = said(wide, "tilt", "sum")
    assert "OPEN." in found
    assert "Nor are the two shown to be equal" in found
    assert "one of 1 takes" in found


def test_what_stands_beside_the_verdict() -> None:
    found = said(sweep(), "tilt", "sum")
    assert found.startswith("digits · mini v1, 5 epochs · made-up digits · tiny · cpu\n")
    assert "on the 5 seeds, 0 1 2 3 4, that both have" in found
    assert "Against the reference: TILT +10.0" in found
    assert "its worst metric accuracy, 20.0 % worse" in found
    assert "A step of TILT takes 1.00 times as long as one of SUM." in found


def test_one_seed_shows_nothing() -> None:
    found = said(sweep(seeds=[3]), "tilt", "sum")
    assert "one seed gives no interval: nothing is shown" in found
    assert "Resolution" not in found
    assert "95 %" not in found


def test_ten_seeds_are_resampled_too() -> None:
    many = [
        record(base + WOBBLE[s % 5] + 0.1 * (s % 3), 2.0, method=method, seed=s)
        for s in range(10)
        for method, base in (("single", 100.0), ("sum", 90.0), ("tilt", 80.0))
    ]
    assert "Seeds resampled together with the reference's give +4.9" in said(many, "tilt", "sum")
    assert "resampled" not in said(many[:27], "tilt", "sum")


def test_seeds_that_only_one_has() -> None:
    kept = [r for r in sweep() if (r.identity.method, r.identity.seed) != ("tilt", 4)]
    found = said(kept, "tilt", "sum")
    assert "on the 4 seeds, 0 1 2 3, that both have" in found
    assert "Left out, as the other lacks them: one seed, 4 of SUM." in found
    assert "TILT +10.04 (+9.91 to +10.18), its worst metric accuracy, 20.1 % worse" in found
    assert "20.1 % worse (4/5 seeds: seed 4 missing)" in found


def test_a_run_that_diverged_is_a_hole() -> None:
    kept = [r for r in sweep() if (r.identity.method, r.identity.seed) != ("tilt", 4)]
    kept.append(record(80.0, 2.0, method="tilt", seed=4, status="diverged"))
    assert "TILT has no Δm%, 4/5 seeds: seed 4 diverged" in said(kept, "tilt", "sum")


def test_a_nan_metric_is_a_seed_left_out() -> None:
    records = [r for r in sweep() if (r.identity.method, r.identity.seed) != ("tilt", 2)]
    records.append(record(math.nan, 2.0, method="tilt", seed=2))
    assert "on the 4 seeds, 0 1 3 4, that both have" in said(records, "tilt", "sum")


def test_machines_of_two_kinds_are_pointed_at() -> None:
    records = [r for r in sweep() if (r.identity.method, r.identity.seed) != ("tilt", 2)]
    records.append(record(80.0, 2.0, method="tilt", seed=2, device="another CPU"))
    assert "Beware: on 1 of these seeds" in said(records, "tilt", "sum")


def test_several_benchmarks_are_not_averaged() -> None:
    found = said([*sweep(), *sweep(task="letters")], "tilt", "sum")
    assert "On these 2 together, weighted equally: the first is within 1 point" in found
    assert "on 0% of the seeds, the second on 100%" in found


def test_options_choose_a_row() -> None:
    records = sweep()
    for c in (0.5, 2):
        records += [
            record(85.0, 2.0, method="bend", method_options={"c": c}, seed=s) for s in range(5)
        ]
    assert "BEND c=0.5 against SUM" in said(records, "bend:c=0.50", "sum")
    with pytest.raises(UsageError, match=r"'bend' fits 2 rows, say which: bend:c=0.5; bend:c=2"):
        said(records, "bend", "sum")


BAD: list[tuple[list[RunRecord], str, str, str]] = [
    (sweep(), "tlit", "sum", "there is no row 'tlit'; nearest: tilt"),
    (sweep(), "tilt+round", "sum", "there is no row 'tilt\\+round'; nearest: tilt, tilt\\+flat"),
    (sweep(), "sum", "sum", "'sum' and 'sum' are the same row, SUM"),
    (sweep(), "single", "sum", "SINGLE is the reference: Δm% is already measured against it"),
    ([r for r in sweep() if r.role != "reference"], "tilt", "sum", "without a reference row"),
    (
        [r for r in sweep() if (r.identity.method == "tilt") == (r.identity.seed > 2)]
        + [r for r in sweep() if r.role == "reference" and r.identity.seed > 2],
        "tilt",
        "sum",
        "no seed in common: 3 4 and 0 1 2",
    ),
    (
        [r for r in sweep() if r.identity.method != "tilt"]
        + [record(80.0, 2.0, method="tilt", seed=s, epochs=9) for s in range(5)],
        "tilt",
        "sum",
        "rows of different protocols are not compared: 'tilt' under digits · mini v1, 9 epochs",
    ),
]


@pytest.mark.parametrize(("records", "first", "second", "message"), BAD)
def test_what_cannot_be_compared(
    records: list[RunRecord], first: str, second: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        said(records, first, second)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for made in sweep():
        Store(tmp_path).write(made)
    words = ["compare", "tilt", "sum", "--records", str(tmp_path)]
    assert main([*words, "--task", "digits"]) == 0
    assert "WORSE. TILT is worse than SUM" in capsys.readouterr().out
    assert main([*words, "--task", "letters"]) == 2
    assert f"no records of 'letters' in {tmp_path}; there are: digits" in capsys.readouterr().err
    assert main([*words[:-1], str(tmp_path / "none")]) == 2


# ------------------------------------------------------------------------------------ formats
def lopsided() -> list[RunRecord]:
    """One row best by far, its wrapped twin equal to it, the others behind."""
    return [r for r in sweep() if (r.identity.method, r.identity.sharpness) != ("tilt", "flat")]


def test_latex_marks_what_tests_show_and_ties_alike() -> None:
    found = FORMATS["latex"](build(lopsided()))
    assert found.count(r"\textbf{SUM}") == found.count(r"\textbf{SUM x flat}") == 1
    assert r"\textbf{TILT}" not in found
    assert r"accuracy $\uparrow$ & error $\downarrow$ & $\Delta$m\% $\downarrow$" in found
    assert found.count(r"\midrule") == 2
    assert "% Bold: shown to be better than every other row, or equal to such a row." in found


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_nothing_is_marked_without_a_test(seeds: list[int]) -> None:
    wide = [
        r if r.role == "reference" else record(80 + 9 * WOBBLE[(n // 2 + n) % 5], 2.0, **own)
        for n, r in enumerate(sweep(seeds=seeds))
        for own in [r.identity.model_dump(include={"method", "sharpness", "seed"})]
    ]
    found = FORMATS["latex"](build(wide))
    assert r"\textbf" not in found
    assert "No row is marked" in found
    assert (r"$\pm$" in found) == (len(seeds) > 1)


def test_markdown_has_a_cell_for_every_header() -> None:
    lines = [x for x in FORMATS["markdown"](build(lopsided())).splitlines() if x.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert any(line.startswith("| **SUM** | **90") for line in lines)


def test_json_has_rows_standings_and_pairs() -> None:
    found = json.loads(FORMATS["json"](build(sweep())))["digits"]
    assert {name: len(part) for name, part in found.items()} == {
        "metrics": 2,
        "rows": 5,
        "standings": 4,
        "pairs": 6,
    }
    assert found["pairs"][0]["verdict"] in {"better", "worse", "equal", "open"}
    one_seed = json.loads(FORMATS["json"](build(sweep(seeds=[0]))))["digits"]
    assert one_seed["pairs"][0]["low"] is None


def test_csv_is_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for made in sweep():
        Store(tmp_path / "records").write(made)
    words = ["leaderboard", str(tmp_path / "records"), "--out", str(tmp_path / "out")]
    assert main([*words, "--format", "csv"]) == 0
    printed = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert main(words) == 0
    assert printed == (tmp_path / "out" / "digits.csv").read_text()
    assert "Of 6 pairs, paired by seed (5 seeds)" in capsys.readouterr().out
    assert main([*words, "--format", "word"]) == 2
    message = "unknown format 'word'; there are: csv, markdown, latex, json"
    assert message in capsys.readouterr().err
