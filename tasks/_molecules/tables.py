"""Tables of numbers and texts in CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mtlbench.interfaces import Fault

if TYPE_CHECKING:
    import pandas as pd


def read_table(
    file: Path, texts: Sequence[str], numbers: Sequence[str]
) -> tuple[pd.DataFrame, list[Fault]]:
    """Columns of a file, and what is wrong with it; its rows with a fault are left out.

    Args:
        texts: columns that must not be empty.
        numbers: columns that may be: NaN.
    """
    import pandas as pd  # takes longer than to load the embedded molecules

    columns = [*texts, *numbers]
    nothing = pd.DataFrame(columns=columns)
    try:
        table = pd.read_csv(file, usecols=lambda name: name in columns)
    except (OSError, ValueError) as error:
        return nothing, [Fault(file, f"cannot be read ({error}): expected a CSV file")]
    missing = [name for name in columns if name not in table]
    if missing:
        return nothing, [Fault(file, f"lacks the columns {', '.join(missing)}")]
    faults, bad = [], np.zeros(len(table), dtype=bool)
    for name in columns:
        found = table[name]
        wrong = found.isna()
        if name in numbers:
            table[name] = pd.to_numeric(found, errors="coerce")
            wrong = table[name].isna() & ~wrong
        for row in np.flatnonzero(wrong):
            kind = "a number" if name in numbers else "a text"
            what = f"row {row + 1}: column {name!r} has {found[row]!r}, expected {kind}"
            faults.append(Fault(file, what))
        bad |= wrong.to_numpy()
    return table[~bad], faults
