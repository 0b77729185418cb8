"""The baseline at the time of another row: how many epochs, and a row of its own."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from mtlbench.boards.build import build
from mtlbench.boards.compare import compare
from mtlbench.boards.comparisons import pairs, standings
from mtlbench.boards.equal_time import equal_time_epochs
from mtlbench.boards.page import page
from mtlbench.errors import UsageError
from mtlbench.runs.record import RunRecord
from tests.factories import record
from tests.test_comparisons import WOBBLE, sweep

LONGER = [record(95.0 + WOBBLE[s], 2.0, seed=s, epochs=15) for s in range(5)]


def timed() -> list[RunRecord]:
    """The wrapper takes 2.8 times the baseline's step, the other method 1.2 times."""
    times = {("sum", "flat"): 28.0, ("tilt", "plain"): 12.0}
    return [
        r.model_copy(update={"step_ms": times.get((r.identity.method, r.identity.sharpness), 10.0)})
        for r in sweep()
    ]


def test_the_epochs_of_equal_time() -> None:
    board = build(timed())["digits"]
    assert equal_time_epochs(board, "flat") == 15
    assert equal_time_epochs(build([*timed(), *LONGER])["digits"], "flat") == 15
    with pytest.raises(UsageError, match=r"tilt takes 1\.20 times the baseline's time"):
        equal_time_epochs(board, "tilt")
    with pytest.raises(
        UsageError, match=r"0 rows of digits are 'bend', .* flat, single, sum, tilt"
    ):
        equal_time_epochs(board, "bend")
    untimed = replace(board, rows=board.rows.assign(step_ratio=float("nan")))
    with pytest.raises(UsageError, match="flat: no step time over the baseline's"):
        equal_time_epochs(untimed, "flat")


def test_longer_runs_of_the_baseline_are_a_row_of_their_own() -> None:
    short, both = build(timed())["digits"], build([*timed(), *LONGER])["digits"]
    assert len(list(both.groups())) == 1
    others = both.rows[both.rows["method_options"] != "epochs=15"].reset_index(drop=True)
    columns = [name for name in others if name != "mean_rank"]
    pd.testing.assert_frame_equal(others[columns], short.rows[columns])

    (longer,) = (r for _, r in both.rows.iterrows() if r["method_options"] == "epochs=15")
    assert (longer["role"], longer["epochs"], longer["step_ratio"]) == ("method", 5, 3.0)
    found = pairs(both).set_index(["first", "second"])
    assert found["question"]["SUM epochs=15", "SUM"] == "method"
    assert "SUM epochs=15" in set(standings(both, pairs(both))["row"])
    assert "SUM epochs=15" in page({"digits": both})
    (said,) = compare({"digits": both}, "sum+flat", "sum:epochs=15")
    assert "SUM x flat is worse than SUM epochs=15" in said
    (said,) = compare({"digits": both}, "tilt", "sum")
    assert "TILT against SUM, on" in said


def test_other_runs_of_other_epochs_stay_apart() -> None:
    odd = [record(95.0, 2.0, seed=s, epochs=9) for s in range(5)]
    methods = [record(95.0, 2.0, method="tilt", seed=s, epochs=15) for s in range(5)]
    for apart in (odd, methods, sweep(epochs=15)):
        assert len(list(build([*sweep(), *apart])["digits"].groups())) == 2
