"""Two quadratic losses in the plane."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mtlbench.cli import main
from mtlbench.diagnose import toy

SOLUTION = (2 / 3, 1 / 3)
"""Where the gradients of f1 and f2 cancel: 2 (x1 - 2) + x1 + 2 = 0, x2 + 1 + 2 (x2 - 1) = 0."""


Ends = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command wrote."""
    folder = tmp_path_factory.mktemp("toy") / "new"
    assert main(["toy", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def ends(out: Path) -> Ends:
    rows = toy.summary(pd.read_csv(out / "toy.csv")).to_dict("records")
    return {str(row.pop("cell")): {str(k): float(v) for k, v in row.items()} for row in rows}


def test_the_losses_are_the_reports() -> None:
    for x1, x2 in [(0.0, 0.0), (1.5, -0.5), (-5.0, 3.0)]:
        x = torch.tensor([x1, x2])
        assert float(toy.loss("f1", x, x)) == pytest.approx((x1 - 2) ** 2 + 0.5 * (x2 + 1) ** 2)
        assert float(toy.loss("f2", x, x)) == pytest.approx(0.5 * (x1 + 2) ** 2 + (x2 - 1) ** 2)


def test_gradients_are_opposite_on_the_pareto_set() -> None:
    for point in toy.pareto_set(5)[1:-1]:
        x = torch.tensor(point, requires_grad=True)
        first, second = (torch.autograd.grad(toy.loss(f, x, x), x)[0] for f in ("f1", "f2"))
        cosine = torch.nn.functional.cosine_similarity(first, second, dim=0)
        assert float(cosine) == pytest.approx(-1)


def test_the_sum_of_the_losses_is_minimised(ends: Ends) -> None:
    assert (ends["ls"]["x1"], ends["ls"]["x2"]) == pytest.approx(SOLUTION, abs=1e-6)


def test_one_perturbation_for_all_circles_the_solution_and_one_a_task_moves_it(ends: Ends) -> None:
    away = {c: np.hypot(e["x1"] - SOLUTION[0], e["x2"] - SOLUTION[1]) for c, e in ends.items()}
    assert away["ls x sam:rho=0.5"] < 0.01
    assert ends["ls x sam:rho=0.5"]["scatter"] > 0.01
    assert away["ls x lsam:rho=0.5"] > 0.1
    assert ends["ls x lsam:rho=0.5"]["scatter"] < 1e-6
    assert away["ls x fmtl:rho=0.5"] == pytest.approx(away["ls x lsam:rho=0.5"])


def test_the_command(out: Path) -> None:
    plan, written = toy.Plan.read(), pd.read_csv(out / "toy.csv")
    cells = {str(cell) for panel in plan.panels for cell in panel.cells}
    assert set(written["cell"]) == cells
    assert len(written) == len(cells) * (plan.steps + 1)
    assert (out / "toy.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_prints_where_each_cell_ends(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ways = pd.read_csv(out / "toy.csv")
    monkeypatch.setattr(toy, "trajectories", lambda plan: ways)
    assert main(["toy", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert all(cell in printed for cell in ways["cell"].unique())
