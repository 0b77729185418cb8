"""The README's table of results, made of the committed leaderboards.

python -m tests.front_table    # write it into README.md again
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from mtlbench.boards.prose import Facts

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TASKS = ("flights", "multimnist", "cityscapes", "nyuv2", "office_home", "celeba", "qm9")
ROWS = {
    "LS": "LS",
    "LS, twice the epochs": r"LS epochs=\d+",
    **{name: name for name in ("UW", "FAMO", "MGDA", "CAGrad", "Nash-MTL", "FairGrad")},
    "DB-MTL, decay=0.5": "DB-MTL decay=0.5",
    **{f"LS x {name}": f"LS x {name}" for name in ("SAM", "L-SAM")},
    "LS x F-MTL": r"LS x F-MTL( flatness=own)?",
    "LS x SAMO": r"LS x SAMO (layers=all,)?noise=per-task",
}
BLOCK = re.compile(r"(?<=<!-- python -m tests.front_table -->\n).*?(?=\n\n)", re.DOTALL)


def front_table(folder: Path) -> str:
    """Delta-m and half its 95 % interval, and what a test says against LS.

    Of rows that differ in their epochs alone, the one with the fewest stands in the table.
    """
    facts = Facts(folder)
    lines = [f"| Δm%, less is better | {' | '.join(TASKS)} |", f"|---|{'---|' * len(TASKS)}"]
    for title, pattern in ROWS.items():
        cells = (_cell(facts, task, pattern) for task in TASKS)
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(facts: Facts, task: str, pattern: str) -> str:
    standings = facts.table(f"{task}_standings")
    found = standings[standings["row"].str.fullmatch(pattern)].to_dict("records")
    row = min(found, key=lambda row: [int(n) for n in re.findall(r"epochs=(\d+)", row["row"])])
    said = f"{round(row['delta_m'], 1) + 0.0:+.1f} ± {row['half']:.1f}"
    pairs: pd.DataFrame = facts.against(task, "LS")
    for pair in pairs[pairs["first"] == row["row"]].to_dict("records"):
        verdict = pair["question_verdict"]
        return said if verdict == "open" else f"{said}, {verdict}"
    return said


if __name__ == "__main__":
    table = front_table(ROOT / "leaderboards")
    README.write_text(BLOCK.sub(table, README.read_text()))
