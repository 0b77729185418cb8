"""The papers' tables as specifications: what is in them, and a rehearsal on tiny folders in the
real layouts."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from mtlbench.boards.beside import beside, of_base, published_groups
from mtlbench.boards.build import build
from mtlbench.boards.folder import read_folder
from mtlbench.boards.published import Literature, datasets, names
from mtlbench.cli import main
from mtlbench.interfaces import Protocol
from mtlbench.registry import METHODS, SHARPNESS, TASKS, Spec
from mtlbench.runs import estimate
from mtlbench.runs.execute import execute
from mtlbench.runs.plan import SweepSpec
from mtlbench.runs.spec import RunSpec, prepare
from mtlbench.runs.store import Store
from mtlbench.runs.sweep import checked
from mtlbench.tasks._nets.lenet import lenet
from mtlbench.tasks.multimnist import MultiMNIST
from mtlbench.tasks.qm9 import EMBEDDED
from tests.tasks import test_celeba, test_dense, test_molecules, test_multimnist, test_office

ROOT = Path(__file__).parents[1] / "leaderboards"
RECIPES = sorted((ROOT / "specs" / "published").rglob("*.yaml"))
QUICK = {"samo/qm9", "fmtl/multimnist"}
"""Rehearsed in every run of the tests; the others take seconds each."""
LESS: dict[str, dict[str, Any]] = {
    "multimnist": {"overlays": {"train": 300, "val": 20, "test": 20}},
    "qm9": {"d": 8, "edge_width": 8},
    "office_home": {"side": 32},
    "office31": {"side": 32},
}
"""Options of protocols for a rehearsal within seconds."""
MULTIMNIST = next(p for p in MultiMNIST.info.protocols if p.name == "paper")

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


every = pytest.mark.parametrize("recipe", RECIPES, ids=_name)


# ------------------------------------------------------------------------------------ folders
def _dense(name: str) -> Callable[[Path], object]:
    return lambda folder: test_dense.write(TASKS.get(name), folder, (32, 32))  # type: ignore[arg-type]


def _office(name: str) -> Callable[[Path], object]:
    return lambda folder: test_office.write(TASKS.get(name), folder)  # type: ignore[arg-type]


def _qm9(folder: Path) -> None:
    with np.load(EMBEDDED) as archive:
        arrays = {key: archive[key] for key in archive}
    test_molecules.write_own(folder, test_molecules.taken(arrays, range(20)))


FOLDERS: dict[str, Callable[[Path], object]] = {
    "cityscapes": _dense("cityscapes"),
    "nyuv2": _dense("nyuv2"),
    "office_home": _office("office_home"),
    "office31": _office("office31"),
    "celeba": lambda folder: test_celeba.write(test_celeba.original(folder)),
    "qm9": _qm9,
    "multimnist": test_multimnist.write_folder,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """A tiny folder of a task, written once."""
    root, made = tmp_path_factory.mktemp("folders"), set[str]()

    def folder(task: str) -> Path:
        if task not in made:
            (root / task).mkdir()
            FOLDERS[task](root / task)
            made.add(task)
        return root / task

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTLBENCH_CACHE", str(root / "cache"))
        for task, less in LESS.items():
            cls = TASKS.get(task)
            made_less = [replace(p, options={**p.options, **less}) for p in cls.info.protocols]
            patch.setattr(cls, "info", replace(cls.info, protocols=tuple(made_less)))
        yield folder


def requests(recipe: Path, data: Path, **changes: Any) -> list[RunSpec]:
    """The first seed's runs of a recipe, for one epoch on the CPU."""
    given = {"data": data, "device": "cpu", "epochs": 1, "seeds": [0], **changes}
    return SweepSpec.read(recipe).model_copy(update=given).requests()


# ------------------------------------------------------------------------------------ rehearsal
@every
def test_every_cell_is_a_run(recipe: Path, folders: Callable[[str], Path]) -> None:
    """All names and options exist, protocols are published ones, and passes can be counted."""
    runs = checked(requests(recipe, folders(recipe.stem)))
    assert len(runs) == len(SweepSpec.read(recipe).cells())
    for run in runs:
        assert run.task.protocol.published
        assert not run.identity.stand_in
        assert estimate.passes(run) > 0
    assert [run.method_info.role for run in runs].count("reference") == 1


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(p, id=_name(p), marks=[] if _name(p) in QUICK else pytest.mark.slow)
     for p in RECIPES],
)  # fmt: skip
def test_rehearsal(recipe: Path, folders: Callable[[str], Path], tmp_path: Path) -> None:
    """The first and the last cell of a table, one epoch, beside what is printed of them."""
    task, data = recipe.stem, folders(recipe.stem)
    _, first, *_, last = requests(recipe, data)
    for request in (first, last):
        record = execute(prepare(request), Store(tmp_path))
        assert (record.status, record.reason) == ("ok", "")
    records, faults = read_folder(tmp_path)
    assert not faults
    board = build(records)[task]
    (rows,) = published_groups(TASKS.get(task).info, board)
    assert set(rows["method"]) == {Spec.parse(r.method).name for r in (first, last)}
    if task.replace("_", "-") in datasets():
        console = Console(width=400, file=io.StringIO())
        console.print(beside(Literature.read(task), rows, "title"))
        assert "ours: " in console.file.getvalue()  # type: ignore[attr-defined]


def test_ours_stand_below_theirs() -> None:
    """With what ours have more, and delta-m against the base of the released code."""
    literature = Literature.read("cityscapes")
    printed = {"mIoU": 68.84, "PixAcc": 91.54, "AbsErr": 0.0309, "RelErr": 33.50}
    ours = {m: value + 1 for m, value in printed.items()}
    own = {"method": "mgda", "method_title": "MGDA", "sharpness": "none", "sharpness_title": ""}
    row = {**own, "method_options": "", "sharpness_options": "", "delta_m": 40.0, **ours}
    console = Console(width=400, file=io.StringIO())
    console.print(beside(literature, pd.DataFrame([row]), "title"))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    (first, theirs, difference) = [line.split() for line in lines[-4:-1]]
    assert first[-6:-2] == ["69.84", "92.54", "1.031", "34.5"]
    assert theirs[:2] == ["MGDA", "[1"]
    assert theirs[-6:] == ["68.84", "91.54", "0.0309", "33.50", "44.14", "44.14"]
    assert difference[-6:-2] == ["+1"] * 4
    assert of_base(literature, printed) == pytest.approx(44.14, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["cityscapes", "office_home", "qm9"])
def test_the_reference_stands_in_the_group_of_the_others(
    task: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    """With a network, or a length, of its own by its protocol: delta-m is against it, and the
    baseline's twice the epochs is no other group."""
    common: dict[str, Any] = {"protocol": "paper", "data": folders(task), "device": "cpu"}
    for method in ("stl", "ls"):
        run = prepare(RunSpec(task, method, epochs=1, **common))
        assert execute(run, Store(tmp_path)).status == "ok"
    records, _ = read_folder(tmp_path)
    (rows,) = build(records)[task].groups()
    assert rows["delta_m"].notna().all()


# ------------------------------------------------------------------------------------ protocols
def protocol(task: str, name: str = "paper") -> Protocol:
    (found,) = [p for p in TASKS.get(task).info.protocols if p.name == name]
    return found


def test_every_task_of_a_table_has_a_published_protocol() -> None:
    tasks = {path.stem for path in RECIPES}
    assert tasks == {name.replace("-", "_") for name in datasets()} | {"multimnist", "office31"}
    for name in TASKS.names():
        for p in TASKS.get(name).info.protocols:
            assert p.published == (p.name in ("paper", "libmtl"))
            assert p.of_reference().alone == {}


DENSE = ("mtan", 200, 1e-4, 100), ("segnet", 200, 1e-4, 100)
LIBMTL = ("resnet18", 100, 1e-4, None), ("resnet18", 100, 1e-4, None)
SAMO = ("resnet18", 50, 1e-4, 25), ("resnet18", 100, 1e-3, 50)


@pytest.mark.parametrize(
    ("task", "name", "expected"),
    [
        ("cityscapes", "paper", DENSE),
        ("nyuv2", "paper", DENSE),
        ("office_home", "paper", SAMO),
        ("office_home", "libmtl", LIBMTL),
        ("office31", "paper", LIBMTL),
    ],
)
def test_single_tasks_have_a_protocol_of_their_own(task: str, name: str, expected: Any) -> None:
    """Network, epochs, learning rate, and after how many epochs it is halved."""
    together = protocol(task, name)
    for p, values in zip((together, together.of_reference()), expected, strict=True):
        step = p.scheduler and p.scheduler[1]["step_size"]
        assert (p.arch, p.epochs, p.lr, step) == values
    assert bool(together.weights) == task.startswith("office")


def test_a_run_has_the_protocol_of_its_role(folders: Callable[[str], Path]) -> None:
    data = folders("office_home")
    common: dict[str, Any] = {"protocol": "paper", "data": data, "device": "cpu"}
    stl, ls = (prepare(RunSpec("office_home", m, **common)) for m in ("stl", "ls"))
    assert (stl.identity.epochs, ls.identity.epochs) == (100, 50)
    assert (stl.task.protocol.lr, ls.task.protocol.lr) == (1e-3, 1e-4)
    assert stl.identity.among is not None
    assert (stl.identity.among.epochs, ls.identity.among) == (50, None)
    assert stl.task.batches("val", None) is not None
    shorter = prepare(RunSpec("office_home", "stl", epochs=3, **common)).identity
    assert (shorter.epochs, shorter.among) == (3, None)
    assert prepare(RunSpec("office_home", "stl", **common)).task is stl.task


def test_the_base_of_qm9_is_that_of_the_released_code() -> None:
    code = Literature.read("qm9")
    assert protocol("qm9").base == {code.ours[m]: number.value for m, number in code.base.items()}


def test_epochs_are_judged_by_delta_m_against_the_published_base(
    folders: Callable[[str], Path],
) -> None:
    task = prepare(RunSpec("qm9", "ls", protocol="paper", data=folders("qm9"), device="cpu")).task
    base = dict(task.protocol.base)
    assert task.selection_score(base) == pytest.approx(0)
    assert task.selection_score(base | {"mu_mae": 2 * base["mu_mae"]}) == pytest.approx(-1 / 11)
    assert task.selection_score({"r2_mae": 0.7}) == pytest.approx(-0.7 / 0.5027)


def test_the_network_of_multimnist() -> None:
    model = lenet(("left", "right"), 10, 50, 36)
    sizes = [tuple(p.shape) for p in model.shared.parameters() if p.dim() > 1]
    assert sizes == [(10, 1, 9, 9), (20, 10, 5, 5), (50, 500)]
    paper = MULTIMNIST
    assert (paper.epochs, paper.batch_size, paper.lr) == (200, 256, 1e-3)
    assert paper.options["overlays"] == {"train": 120_000, "val": 20_000, "test": 20_000}


def test_overlays_of_the_whole_canvas(folders: Callable[[str], Path]) -> None:
    task = prepare(
        RunSpec("multimnist", "ls", protocol="paper", data=folders("multimnist"), device="cpu")
    ).task
    (batch,) = list(task.batches("val", None))
    assert batch[0].inputs.shape == (20, 1, 36, 36)
    assert 0 <= float(batch[0].inputs.min()) <= float(batch[0].inputs.max()) == 1


# ------------------------------------------------------------------------------------ words
def test_papers_names_are_those_of_methods_and_wrappers() -> None:
    for method, wrapper in names().values():
        METHODS.check_name(method)
        SHARPNESS.check_name(wrapper)
    printed = set()
    for dataset in datasets():
        with (ROOT / "published" / f"{dataset}.csv").open() as file:
            printed |= {row["method"] for row in csv.DictReader(file)}
    assert names().keys() - printed == set()


def test_a_recipe_from_the_command_line(
    folders: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = ROOT / "specs" / "published" / "samo" / "qm9.yaml"
    words = ["sweep", recipe, "--data", folders("qm9"), "--out", tmp_path / "runs", "--dry-run"]
    assert main([*map(str, words), "--device", "cpu"]) == 0
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "66 runs, 0 done; 66 to run: how long is unknown until" in said
