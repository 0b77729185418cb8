"""Rows of made-up boards against one another: families, names, holes, machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest

from mtlbench.boards.build import Board, build
from mtlbench.boards.comparisons import (
    PAIR_COLUMNS,
    SELECTIONS,
    STANDING_COLUMNS,
    pairs,
    standings,
    summary,
)
from mtlbench.boards.times import time_ratio
from mtlbench.runs.record import RunRecord
from mtlbench.training.history import Selection
from tests.factories import record

WOBBLE = (0.0, 0.4, -0.3, 0.1, -0.2)
CELLS: dict[tuple[str, str], float] = {
    ("sum", "plain"): 90.0,
    ("sum", "flat"): 90.2,
    ("tilt", "plain"): 80.0,
    ("tilt", "flat"): 80.1,
}


def sweep(seeds: Sequence[int] = range(5), **changes: Any) -> list[RunRecord]:
    """A reference at accuracy 100 and four rows: ``tilt`` is ten points worse, the wrapper does
    nothing that could be told."""
    records = [record(100.0 + WOBBLE[s], 2.0, method="single", seed=s, **changes) for s in seeds]
    for number, ((method, sharpness), accuracy) in enumerate(CELLS.items()):
        own = [WOBBLE[(s + number) % 5] / 2 for s in seeds]
        records += [
            record(accuracy + w, 2.0, method=method, sharpness=sharpness, seed=s, **changes)
            for s, w in zip(seeds, own, strict=True)
        ]
    return records


def board(records: Sequence[RunRecord]) -> Board:
    (made,) = build(records).values()
    return made


def pair(found: pd.DataFrame, first: str, second: str) -> pd.Series[Any]:
    (row,) = (r for _, r in found.iterrows() if (r["first"], r["second"]) == (first, second))
    return row


def test_all_pairs_and_their_questions() -> None:
    found = pairs(board(sweep()))
    assert list(found.columns) == PAIR_COLUMNS
    assert len(found) == 6
    questions = found.set_index(["first", "second"])["question"].to_dict()
    assert {k: q for k, q in questions.items() if q} == {
        ("SUM x flat", "SUM"): "wrapper",
        ("TILT x flat", "TILT"): "wrapper",
        ("TILT", "SUM"): "method",
    }


@pytest.mark.parametrize(
    ("times", "machines", "ratio"),
    [
        (([2, 9, 3], [1, 1.5, 4]), ("aaa", "aaa"), 2),  # the least of each
        (([2, 9, 8, 7], [1.5, 1, 4, 5]), ("aabb", "aabb"), (2 / 1 + 7 / 4) / 2),
        (([2, 9, 8], [4, 5, 2]), ("aab", "acc"), 2 / 4),  # of the one machine that ran both
        (([2, 3], [1, 1.2]), ("bb", "aa"), 2),  # the baseline, by which times are divided
        (([2, 3], [4, 5]), ("bb", "aa"), None),
    ],
)
def test_how_long_a_step_takes_over_another(
    times: Any, machines: tuple[str, str], ratio: float | None
) -> None:
    found = time_ratio(times, [list(each) for each in machines])
    assert math.isnan(found) if ratio is None else found == pytest.approx(ratio)


def test_the_numbers_of_a_pair() -> None:
    made = board(sweep())
    found = pair(pairs(made), "TILT", "SUM")
    deltas = made.seeds.pivot(index="seed", columns=["method", "sharpness"], values="delta_m")
    by_hand = deltas["tilt"]["plain"] - deltas["sum"]["plain"]
    assert found["difference"] == pytest.approx(by_hand.mean())
    assert found["sd"] == pytest.approx(by_hand.std())
    assert found["low"] < found["low_90"] < found["difference"] < found["high_90"] < found["high"]
    assert (found["n_seeds"], found["seeds"], found["p_improvement"]) == (5, "0 1 2 3 4", 0)
    assert found["time_ratio"] == 1
    assert found["verdict"] == found["question_verdict"] == "worse"
    # Five points apart by 0.15: two seeds would do for one point.
    assert found["resolution"] < 1
    assert found["seeds_for_a_point"] <= 5


def test_each_family_has_its_own_correction() -> None:
    found = pairs(board(sweep()))
    asked = found[found["question"] != ""]
    assert asked["question_p_holm"].max() <= 1
    assert asked["question_p_holm"].min() == pytest.approx(3 * asked["p"].min())
    assert found["p_holm"].min() == pytest.approx(6 * found["p"].min())
    assert (
        found.loc[found["question"] == "", ["question_p_holm", "question_verdict"]]
        .isna()
        .all(axis=None)
    )


def test_what_changes_nothing_is_equal_and_ranks_say_so() -> None:
    made = board(sweep())
    found = pairs(made)
    assert pair(found, "SUM x flat", "SUM")["verdict"] == "equal"
    placed = standings(made, found).set_index("row")
    assert list(placed.reset_index().columns[:3]) == ["row", "task", "group"]
    assert set(placed.reset_index().columns) == set(STANDING_COLUMNS)
    assert list(placed.loc["SUM", ["rank_low", "rank_high"]]) == [1, 2]
    assert list(placed.loc["TILT", ["rank_low", "rank_high"]]) == [3, 4]
    assert list(placed.loc["TILT", ["better_than", "worse_than"]]) == [0, 2]
    assert placed.loc["TILT", "worst_metric"] == "accuracy"
    assert placed.loc["TILT", "worst"] == pytest.approx(20, abs=0.5)
    assert placed.loc["TILT", "delta_m"] == pytest.approx(10, abs=0.3)


def test_the_interval_against_the_reference_has_its_noise() -> None:
    made = board(sweep())
    placed = standings(made, pairs(made)).set_index("row")["sd"]
    alone = made.rows.set_index(["method", "sharpness"])["delta_m_std"]
    assert placed["TILT x flat"] > 1.5 * alone["tilt", "flat"]


def test_one_seed_leaves_everything_open() -> None:
    made = board(sweep(seeds=[0]))
    found = pairs(made)
    assert (found["verdict"] == "open").all()
    assert found[["sd", "low", "high", "p", "p_holm", "resolution"]].isna().all(axis=None)
    assert found["seeds_for_a_point"].isna().all()
    (said,) = summary(made, found)
    assert said.startswith("Nothing is compared: that takes two rows with two seeds in common; run")


def test_unequal_seeds_are_paired_where_both_are() -> None:
    kept = [
        r for r in sweep() if (r.identity.method, r.identity.seed) not in {("tilt", 1), ("tilt", 4)}
    ]
    found = pairs(board(kept))
    assert pair(found, "TILT", "SUM")["seeds"] == "0 2 3"
    assert pair(found, "SUM x flat", "SUM")["n_seeds"] == 5
    (said,) = summary(board(kept), found)
    assert "(3 to 5 seeds)" in said


def test_a_reference_that_lacks_seeds_is_compared_on_those_that_it_has() -> None:
    """As a sweep leaves it that was interrupted, or whose reference failed."""
    few = [r for r in sweep() if r.identity.method != "single" or r.identity.seed < 2]
    found = standings(board(few), pairs(board(few))).set_index("row")
    whole = standings(board(sweep((0, 1))), pairs(board(sweep((0, 1))))).set_index("row")
    assert set(found["n_seeds"]) == {2}
    assert found["delta_m"].tolist() == pytest.approx(whole["delta_m"].tolist())
    apart = [r for r in sweep() if (r.identity.method == "single") == (r.identity.seed < 2)]
    assert standings(board(apart), pairs(board(apart)))["delta_m"].isna().all()


def test_a_nan_metric_is_no_seed_of_a_pair() -> None:
    records = [r for r in sweep() if (r.identity.method, r.identity.seed) != ("tilt", 2)]
    records.append(record(math.nan, 2.0, method="tilt", seed=2))
    assert pair(pairs(board(records)), "TILT", "SUM")["seeds"] == "0 1 3 4"


def test_without_a_reference_nothing_is_compared() -> None:
    made = board([r for r in sweep() if r.role != "reference"])
    found = pairs(made)
    assert (found["n_seeds"] == 0).all()
    assert (found["verdict"] == "open").all()
    assert standings(made, found)[["delta_m", "low", "rank_low", "worst"]].isna().all(axis=None)
    (said,) = summary(made, found)
    assert said.startswith("Nothing is compared: there is no Δm% without a complete reference row")
    assert said.endswith("run --method stl with the seeds of the others.")


def test_groups_never_meet() -> None:
    made = board([*sweep(), *sweep(epochs=9)])
    found = pairs(made)
    assert found["group"].nunique() == 2
    assert len(found) == 12
    assert len(summary(made, found)) == 2


def test_pairs_of_two_machines_are_counted() -> None:
    records = [
        record(80.0, 2.0, method="tilt", seed=1, device="another CPU")
        if (r.identity.method, r.identity.sharpness, r.identity.seed) == ("tilt", "plain", 1)
        else r
        for r in sweep()
    ]
    made = board(records)
    found = pairs(made)
    assert pair(found, "TILT", "SUM")["two_machines"] == 1
    assert pair(found, "SUM x flat", "SUM")["two_machines"] == 0
    (said,) = summary(made, found)
    assert "Machines: another CPU; some CPU. 3 of 6 pairs compare runs of one seed that" in said
    assert "from two of them, 3 pairs of runs in all" in said


def test_a_summary_says_what_was_seen_and_what_could_be() -> None:
    made = board(sweep())
    (said,) = summary(made, pairs(made))
    assert said.startswith(
        "Of 6 pairs, paired by seed (5 seeds), 0 better, 4 worse, 2 equal, 0 open"
    )
    assert "Of the 3 that ask what a wrapper or a method does, 0 better, 1 worse, 2 equal" in said
    assert "to show one of 1 takes it" in said


def test_rows_of_one_title_are_told_apart() -> None:
    records = sweep()
    records += [
        record(85.0 + WOBBLE[s], 2.0, method="tilt", method_options={"c": c}, seed=s)
        for s in range(5)
        for c in (1, 2)
    ]
    names = standings(board(records), pairs(board(records)))["row"]
    assert names.is_unique
    assert {"TILT c=1", "TILT c=2"} <= set(names)


def test_other_methods_of_the_same_title() -> None:
    records = [*sweep()]
    for s in range(5):
        twin = record(85.0, 2.0, method="twin", seed=s)
        records.append(twin.model_copy(update={"titles": ("TILT", "plain")}))
    names = list(standings(board(records), pairs(board(records)))["row"])
    assert {"TILT (tilt x plain)", "TILT (twin x plain)"} <= set(names)


def test_selections_side_by_side() -> None:
    def with_last(record: RunRecord, epoch: int) -> RunRecord:
        (phase,) = record.phases
        test = phase.last["test"].model_copy(update={"metrics": {"accuracy": 99.0, "error": 2.0}})
        update = {"last": phase.last | {"test": test}, "selected_epoch": epoch}
        return record.model_copy(update={"phases": [phase.model_copy(update=update)]})

    made = board([with_last(r, 3) for r in sweep()])
    placed = standings(made, pairs(made)).set_index("row").loc["TILT"]
    assert placed["headline"] == "selected"
    assert placed["delta_m_selected"] == placed["delta_m"] == pytest.approx(10, abs=0.1)
    assert placed["delta_m_last"] == placed["sd_last"] == 0
    assert placed.isna()["delta_m_mean_of_last"]

    made = board([with_last(r, 4) for r in sweep()])  # the last of five, with other scores
    placed = standings(made, pairs(made)).set_index("row").loc["TILT"]
    assert placed["headline"] == "mean_of_last"
    assert placed["delta_m_mean_of_last"] == placed["delta_m"]
    assert placed.isna()["delta_m_selected"]


def test_what_is_kept_beside_stands_beside() -> None:
    def with_beside(record: RunRecord, kind: Selection) -> RunRecord:
        (phase,) = record.phases
        values = {"accuracy": phase.selected["test"].metrics["accuracy"] / 2, "error": 2.0}
        beside = {kind: phase.selected["test"].model_copy(update={"metrics": values})}
        update = {"phases": [phase.model_copy(update={"beside": beside, "last_n": 4})]}
        return record.model_copy(update=update)

    for kind, other in (SELECTIONS[:2], SELECTIONS[1::-1]):
        made = board([with_beside(r, kind) for r in sweep()])
        placed = standings(made, pairs(made)).set_index("row").loc["TILT"]
        assert (placed["headline"], placed["last_n"]) == (other, 4)
        assert placed[f"delta_m_{other}"] == placed["delta_m"] == placed["delta_m_last"]
        assert placed[f"delta_m_{kind}"] == pytest.approx(placed["delta_m"])
        assert placed[f"sd_{kind}"] > 0

    newer = [with_beside(r, "mean_of_last") for r in sweep(seeds=range(1, 5))]
    old = board([*newer, *sweep(seeds=[0])])
    placed = standings(old, pairs(old)).set_index("row").loc["TILT"]
    assert placed.isna()["delta_m_mean_of_last"], "one record lacks it"
