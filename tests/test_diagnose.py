"""``mtlbench diagnose``: eigenvalues against dense Hessians, landscapes against the losses
themselves, and what is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mtlbench import MultiTaskModel, UsageError
from mtlbench.boards.mechanism import RUNS, Study, answers, runs_of, section, spearman, text
from mtlbench.boards.outputs import check, why, write_study
from mtlbench.boards.page import page
from mtlbench.cli import main
from mtlbench.diagnose.conflict import suggestion, summary
from mtlbench.diagnose.landscape import around, between, filter_normalised, sharpness
from mtlbench.diagnose.spectrum import Hessian, top_eigenvalues, trace
from mtlbench.diagnose.surface import Mode, Surface
from mtlbench.files import write_csv
from mtlbench.runs.execute import Watching, execute
from mtlbench.runs.spec import RunSpec, prepare
from mtlbench.runs.store import Store
from tests.toy_task import TOY, ToyTask

N_BATCHES = 3


class Exact(ToyTask):
    """The toy in double precision, without dropout."""

    def __init__(self) -> None:
        super().__init__(self.info.protocols[1])
        self._x = self._x.double()
        self._y = {n: y.double() if y.is_floating_point() else y for n, y in self._y.items()}

    def build_model(self, arch: str) -> MultiTaskModel:
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 5))
        heads = {"level": nn.Linear(5, 1), "slope": nn.Linear(5, 1), "kind": nn.Linear(5, 3)}
        model = MultiTaskModel(trunk, heads).double()
        model(self._x)  # running statistics of their own
        return model


def total(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors).sum(0)


def exact(mode: Mode = "eval", layers: str | None = None) -> tuple[Surface, Exact]:
    task = Exact()
    model = task.build_model("linear")
    return Surface(model, task, n_batches=N_BATCHES, mode=mode, layers=layers), task


def plainly(surface: Surface, task: Exact, of: str, vector: Tensor | None = None) -> Tensor:
    """A task's loss over the same batches as a plain function of all of the trunk's parameters."""
    model, total, count = surface.model, torch.zeros((), dtype=torch.float64), 0
    names = [name for name, _ in model.named_parameters() if name.startswith("shared")]
    own = torch.cat([model.get_parameter(name).detach().flatten() for name in names])
    vector = own if vector is None else vector
    sizes = [model.get_parameter(name).numel() for name in names]
    pieces = dict(zip(names, vector.split(sizes), strict=True))
    values = {n: piece.view_as(model.get_parameter(n)) for n, piece in pieces.items()}
    values |= {n: p.detach() for n, p in model.named_parameters() if n not in values}
    values |= {n: b.clone() for n, b in model.named_buffers()}
    for n, (group,) in enumerate(task.batches("train", None)):
        if n < N_BATCHES:
            out = functional_call(model, values, (group.inputs,))
            size = len(group.inputs)
            total, count = total + size * task.loss(of, out[of], group.targets[of]), count + size
    return total / count


def dense(surface: Surface, task: Exact, of: str) -> Tensor:
    own = torch.cat([p.detach().flatten() for p in surface.flat.shared_params])
    found = torch.autograd.functional.hessian(lambda v: plainly(surface, task, of, v), own)
    assert isinstance(found, Tensor)
    return found


# ------------------------------------------------------------------------------------ the Hessian
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_eigenvalues_are_those_of_the_dense_hessian(mode: Mode) -> None:
    surface, task = exact(mode)
    wholes = [dense(surface, task, of) for of in surface.objectives]
    for coefficients, H in [(surface.one(2), wholes[2]), (surface.mean, total(wholes) / 3)]:
        hessian = Hessian(surface, coefficients)
        found = top_eigenvalues(hessian, 5, tolerance=1e-8)
        expected = torch.linalg.eigvalsh(H).flip(0)[:5].tolist()
        assert [e.value for e in found] == pytest.approx(expected, rel=1e-4, abs=1e-9)
        assert all(e.converged for e in found)
        mean, error = trace(hessian, samples=40)
        assert abs(mean - float(H.trace())) < 4 * error


def test_chosen_layers_are_a_block_of_the_hessian() -> None:
    surface, task = exact(layers="shared.0.*+shared.3.bias")
    H = dense(surface, task, "level")
    P = H.shape[0]
    block = [*range(30), *range(P - 5, P)]
    assert surface.size == len(block)
    expected = torch.linalg.eigvalsh(H[block][:, block])[-1]
    (found,) = top_eigenvalues(Hessian(surface, surface.one(0)), 1, tolerance=1e-8)
    assert found.value == pytest.approx(float(expected), rel=1e-4)


def test_what_did_not_converge_says_so_and_has_its_residual() -> None:
    surface, task = exact()
    hessian = Hessian(surface, surface.one(2))
    found = top_eigenvalues(hessian, 8, tolerance=1e-14, restarts=1)
    doubtful = [e for e in found if not e.converged]
    assert doubtful
    every = torch.linalg.eigvalsh(dense(surface, task, "kind"))
    for each in found:
        assert float((every - each.value).abs().min()) <= each.residual + 1e-12
    size = hessian.shape[0]
    with pytest.raises(UsageError, match=f"{size} eigenvalues were asked for, of a Hessian of"):
        top_eigenvalues(hessian, size)


# ------------------------------------------------------------------------------------ the losses
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_losses_are_those_of_the_mode_and_statistics_stay(mode: Mode) -> None:
    surface, task = exact(mode)
    before = {n: b.clone() for n, b in surface.model.named_buffers()}
    expected = [float(plainly(surface, task, of).detach()) for of in surface.objectives]
    assert surface.losses().tolist() == pytest.approx(expected)
    assert sharpness(surface, surface.mean, 0.1).highest > 0
    assert all(torch.equal(before[n], b) for n, b in surface.model.named_buffers())
    assert {"eval": "running statistics", "train": "each batch's own statistics"}[
        mode
    ] in surface.said
    other, _ = exact("eval" if mode == "train" else "train")
    assert surface.losses().tolist() != pytest.approx(other.losses().tolist(), rel=1e-3)


def test_sharpness_is_no_less_than_sams_and_no_more_than_the_hessian_allows() -> None:
    surface, task = exact()
    rho, before = 0.05, surface.flat.data.clone()
    g, here = surface.gradient(surface.one(0)), plainly(surface, task, "level").detach()
    own = torch.cat([p.detach().flatten() for p in surface.flat.shared_params])
    found = sharpness(surface, surface.one(0), rho, samples=40)
    sam = plainly(surface, task, "level", own + rho * g / g.norm()) - here
    assert found.highest >= float(sam) - 1e-12
    top = float(torch.linalg.eigvalsh(dense(surface, task, "level"))[-1])
    assert found.highest <= 1.05 * (rho * float(g.norm()) + rho**2 * top / 2)
    assert abs(found.average) < found.highest
    assert torch.equal(surface.flat.data, before)


def test_directions_are_as_long_as_the_filters() -> None:
    surface, _ = exact()
    pieces = filter_normalised(surface, 0).split([p.numel() for p in surface.params])
    for p, piece in zip(surface.params, pieces, strict=True):
        if p.dim() == 1:
            assert not piece.any()
        else:
            torch.testing.assert_close(piece.view_as(p).norm(dim=1), p.norm(dim=1))


def test_a_landscape_is_the_losses_where_it_says() -> None:
    surface, task = exact()
    before = surface.flat.data.clone()
    frame = around(surface, points=5, dimensions=2)
    d, e = (filter_normalised(surface, seed) for seed in (0, 1))
    own = torch.cat([p.detach().flatten() for p in surface.flat.shared_params])
    for _, row in frame.iloc[[0, 7, 12, 24]].iterrows():
        there = plainly(surface, task, "slope", own + row["x"] * d + row["y"] * e)
        assert row["slope"] == pytest.approx(float(there))
    assert torch.equal(surface.flat.data, before)
    with pytest.raises(UsageError, match="at least 3 points"):
        around(surface, points=2)


def test_a_line_leads_from_one_network_to_the_other() -> None:
    surface, task = exact()
    other = task.build_model("linear")
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.3)
    frame = between(surface, surface.model, other, points=7).set_index("x")
    end = Surface(other, task, n_batches=N_BATCHES)
    assert frame[frame.index == 0.0].iloc[0].tolist() == pytest.approx(surface.losses().tolist())
    assert frame[frame.index == 1.0].iloc[0].tolist() == pytest.approx(end.losses().tolist())
    narrow = MultiTaskModel(nn.Linear(4, 5).double(), dict(other.heads.items()))
    with pytest.raises(UsageError, match="no line between two architectures"):
        between(surface, surface.model, narrow)


# ------------------------------------------------------------------------------------ layers
def logged(cosines: dict[str, float]) -> pd.DataFrame:
    rows = []
    for step in range(4):
        whole = {"cosine/a|b": 0.1, "norm/a": 1.0, "norm/b": 1.0, "size": 100}
        rows.append({"step": step, "epoch": 0, "layer": "", "cosine": 0.1, "conflict": 0} | whole)
        for layer, cosine in cosines.items():
            at = cosine if step >= 2 else 0.9
            row = {"cosine/a|b": at, "cosine": at, "conflict": float(at < 0), "size": 10}
            rows.append({"step": step, "epoch": 0, "layer": layer} | whole | row)
    return pd.DataFrame(rows)


def test_the_layers_in_conflict_are_suggested() -> None:
    frame = logged({"shared.0": -0.6, "shared.2": 0.5, "shared.4": -0.2, "shared.6": -0.4})
    found = suggestion(frame)
    assert found.pattern == "shared.0.*"
    assert "1 of 4 layers has 50% of the conflict" in found.why
    shares = summary(frame).set_index("layer")["share"]
    assert shares[["shared.0", "shared.4", "shared.6"]].tolist() == pytest.approx(
        [1 / 2, 1 / 6, 1 / 3]
    )
    both = suggestion(logged({"shared.0": -0.4, "shared.2": -0.3, "shared.4": -0.4}))
    assert both.pattern == "shared.0.*+shared.4.*"
    assert both.why.endswith("layers=ends")
    assert suggestion(logged({"shared.0": 0.1})).pattern == ""


# ------------------------------------------------------------------------------------ the command
class Runs(NamedTuple):
    plain: Path
    sam: Path
    wide: Path
    forgotten: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    store = Store(tmp_path_factory.mktemp("why"))

    def run(sharpness: str, keep_model: bool = True, arch: str | None = None) -> Path:
        spec = RunSpec(TOY, "ls", sharpness, device="cpu", architecture=arch, keep_model=keep_model)
        watching = Watching(logs=("gradients:every=2",) if arch is None else ())
        return store.path(execute(prepare(spec), store, watching).identity)

    return Runs(run("none"), run("sam"), run("none", arch="wide"), run("esam", keep_model=False))


def diagnosed(*words: object) -> int:
    return main(["diagnose", *map(str, words), "--samples", "2", "--top", "2"])


@pytest.mark.slow
def test_the_command(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diagnosed(runs.plain, "--out", tmp_path, "--against", runs.sam, "--points", 5) == 0
    said = capsys.readouterr().out
    assert "evaluation mode: running statistics of normalisation" in " ".join(said.split())
    assert "layers=" in said or "no layers are suggested" in said
    for kind in ("cosines", "training", "layers", "landscape", "line", "spectrum"):
        drawn = (tmp_path / f"{runs.plain.stem}-{kind}.svg").read_text()
        assert drawn.startswith("<svg")
        assert "prefers-color-scheme: dark" in drawn
    frame = pd.read_csv(tmp_path / f"{runs.plain.stem}.csv")
    assert set(frame["of"]) >= {"mean", "level", "slope", "kind", "trunk", "test"}
    assert frame.loc[frame["quantity"] == "lambda_1", "error"].notna().all()


@pytest.mark.slow
def test_a_study_of_a_folder(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (runs.plain, runs.sam, "--out", tmp_path, "--landscape", 2, "--points", 5)
    study = tmp_path / "diagnose"
    assert diagnosed(*words, "--study", study) == 0
    effects = pd.read_csv(study / "effects.csv")
    assert set(effects["quantity"]) >= {"cosine", "lambda_1", "score"}
    assert "Seeing why" in (study / "README.md").read_text()
    assert "<svg" in why(study.parent)
    assert (tmp_path / "spectra.svg").is_file()
    capsys.readouterr()
    assert diagnosed(*words) == 0
    assert capsys.readouterr().out.count("was done before") == 2
    assert diagnosed(runs.plain.parent, "--out", tmp_path, "--landscape", 0) == 0
    assert "1 of 4 records have no model: left out" in capsys.readouterr().out
    assert diagnosed(*words[:-4], "--landscape", 0, "--of", "mean", "--study", study) == 0
    frame = pd.read_csv(tmp_path / f"{runs.sam.stem}.csv")
    assert set(frame.loc[frame["quantity"] == "lambda_1", "of"]) == {"mean"}
    assert set(frame.loc[frame["quantity"] == "loss", "of"]) >= {"mean", "level"}
    assert len(pd.read_csv(study / "effects.csv")) == len(effects)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("{forgotten}",), "has no model at .* --keep-model"),
        (
            ("{plain}", "--layers", "shared.9.*"),
            "no layer is like 'shared.9.*'; layers: shared.0.w",
        ),
        (
            ("{plain}", "--batches", "11"),
            "11 batches were asked for, the split 'train' has 10 of 2",
        ),
        (("{plain}", "--split", "all"), "unknown split 'all'; valid: train, val, test"),
        (("{plain}", "--against", "{wide}"), "architecture 'linear' and 'wide'"),
        (("{folder}/none.json",), "there is no record at"),
        (("{folder}/models",), "has no record of a run with --keep-model"),
        (("{plain}", "--top", "99"), "99 eigenvalues were asked for"),
    ],
)
def test_bad_input_is_named(
    runs: Runs,
    words: tuple[str, ...],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = runs._asdict() | {"folder": runs.plain.parent}
    given = [word.format(**places) for word in words]
    assert main(["diagnose", *given, "--samples", "2", "--out", str(tmp_path)]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert re.search(said, message), message


def test_a_model_of_another_architecture_is_named(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / runs.plain.name
    shutil.copy(runs.plain, copy)
    (tmp_path / "models").mkdir()
    models = runs.plain.parent / "models"
    shutil.copy(models / f"{runs.wide.stem}.pt", tmp_path / "models" / f"{copy.stem}.pt")
    assert diagnosed(copy) == 2
    assert "does not fit 'linear'" in " ".join(capsys.readouterr().err.split())


# ------------------------------------------------------------------------------------ the study
def numbers(wrapper: str, seed: int, sharp: float, score: float, note: str = "") -> pd.DataFrame:
    rows = [
        ("trunk", "late cosine", sharp / 10, ""),
        ("trunk", "late conflict", 0.5, ""),
        ("mean", "lambda_1", sharp, note),
        ("mean", "sharpness", sharp, ""),
        ("mean", "trace", sharp, ""),
        ("test", "score", score, ""),
    ]
    frame = pd.DataFrame(rows, columns=["of", "quantity", "value", "note"])
    return frame.assign(
        run=f"{wrapper}{seed}",
        task="toy",
        method="SUM",
        wrapper=wrapper,
        options='[{}, {"rho": 0.1}]',
        plain=wrapper == "plain",
        seed=seed,
    )


def test_a_study_pairs_seeds_and_says_what_is_open(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = []
    for seed in range(5):
        base = 10 + rng.uniform()
        parts.append(numbers("plain", seed, base, 80 - base))
        parts.append(numbers("flat", seed, 0.5 * base * (1 + 0.01 * rng.uniform()), 80 - base / 2))
    parts.append(numbers("flat", 9, 1e9, 0, "not converged"))  # no plain run has its seed
    study = Study.of(runs_of(pd.concat(parts)))
    row = study.effects.set_index("quantity").loc["lambda_1"]
    assert row["seeds"] == 5
    assert row["effect"] == pytest.approx(0.5, rel=0.02)
    assert row["low"] < row["effect"] < row["high"] < 0.52
    said = list(answers(study))
    assert "the largest eigenvalue is higher in 0 and lower in 1 of 1 comparisons" in said[1]
    assert "a flatter end is better" in said[2]
    assert "1 of 11 runs have an eigenvalue that did not converge" in said[3]
    assert "| toy: SUM x flat | 5 |" in text(study)
    part = section(study)
    assert part.count("<svg") == 2
    assert part in page({}, why=part)
    folder = tmp_path / "diagnose"
    write_csv(study.runs, folder / RUNS)
    assert [path.name for path in write_study(folder)] == list(study.files())
    assert why(tmp_path).count("<svg") == 2
    found = check({}, [], tmp_path)
    assert found.complaints == []
    assert "the study" in found.checked
    (folder / "effects.csv").write_text("moved\n")
    assert len(check({}, [], tmp_path).complaints) == 1


def test_rank_correlation_is_spearmans() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(1)
    x = pd.Series(rng.normal(size=30)).round(1)
    y = 0.5 * x + pd.Series(rng.normal(size=30)).round(1)
    r, low, high = spearman(x, y)
    assert r == pytest.approx(spearmanr(x, y).statistic)
    assert low < r < high
    assert all(np.isnan(v) for v in spearman(x[:2], y[:2]))
