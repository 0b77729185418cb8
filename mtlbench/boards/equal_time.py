"""The baseline at the time that another row takes."""

from __future__ import annotations

import math

import pandas as pd

from mtlbench.boards.build import Board
from mtlbench.errors import UsageError


def equal_time_epochs(board: Board, name: str) -> int:
    """How many epochs the baseline is trained for in the time of another row.

    It is a training of its own, with learning rates that fall over all of it, and a row of its own
    beside the others (see :mod:`.build`); none that is cut off.

    Args:
        board: with both rows, of one machine.
        name: of a wrapper, around the baseline; or of a method, without one.

    Returns:
        The epochs of the row, times its step time over the baseline's, rounded to a whole factor.

    Raises:
        UsageError: there is no such row, or several, or its step time cannot be compared; or it
            takes no more time than the baseline.
    """
    rows = board.rows
    wrapped = rows[(rows["role"] == "baseline") & ~rows["plain"] & (rows["sharpness"] == name)]
    alone = rows[(rows["role"] == "method") & rows["plain"] & (rows["method"] == name)]
    found = pd.concat([wrapped, alone])
    found = found[~found["method_options"].str.contains(r"(?:^|,)epochs=\d+$")]
    if len(found) != 1:
        known = sorted({*rows.loc[~rows["plain"], "sharpness"], *rows.loc[rows["plain"], "method"]})
        raise UsageError(
            f"{len(found)} rows of {board.task} are {name!r}, and it takes one; "
            f"there are: {', '.join(known)}"
        )
    row = found.iloc[0]
    ratio = float(row["step_ratio"])
    if math.isnan(ratio):
        raise UsageError(f"{name}: no step time over the baseline's on one machine; run both there")
    if round(ratio) < 2:
        raise UsageError(f"{name} takes {ratio:.2f} times the baseline's time: nothing to even out")
    return round(ratio) * int(row["epochs"])
