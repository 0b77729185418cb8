"""``mtlbench show``: what is drawn, of which run, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from matplotlib import image

from mtlbench import InputGroup
from mtlbench.cli import main
from mtlbench.diagnose.show import draw, opened, rows
from mtlbench.errors import UsageError
from mtlbench.interfaces import Picture
from mtlbench.runs.execute import execute
from mtlbench.runs.record import read_record
from mtlbench.runs.spec import RunSpec, prepare
from mtlbench.runs.store import Store
from mtlbench.training.evaluate import evaluate
from tests.toy_task import SIZES, TOY, ToyTask

OTHER = "multimnist"
WHITE = (1.0, 1.0, 1.0)


class Domains(ToyTask):
    """Two groups of inputs in a batch, of different sizes."""

    def batches(self, split: str, seed: int | None) -> Any:
        for (group,) in super().batches(split, seed):
            targets = {"level": group.targets["level"], "kind": group.targets["kind"]}
            one = {name: target[:1] for name, target in targets.items()}
            yield [InputGroup(group.inputs, targets), InputGroup(group.inputs[:1], one)]


class Kept(NamedTuple):
    records: Path
    ls: Path
    paper: Path
    forgotten: Path
    stl: Path
    diverged: Path


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Records of runs, all but one of which were asked to keep their model."""
    store = Store(tmp_path_factory.mktemp("kept") / "records")

    def run(method: str, task: str = TOY, **more: Any) -> Path:
        spec = RunSpec(task, method, device="cpu", **{"keep_model": True, **more})
        return store.path(execute(prepare(spec), store).identity)

    return Kept(
        store.folder,
        run("ls"),
        run("uw", f"{TOY}:at=2", protocol="paper", architecture="linear", epochs=2),
        run("ls", seed=1, keep_model=False),
        run("stl"),
        run("mgda", f"{TOY}:fault=nan"),
    )


def shown(*words: object) -> int:
    return main(["show", *map(str, words)])


# ------------------------------------------------------------------------------------ the model
def test_the_kept_model_is_that_of_the_selected_epoch(kept: Kept) -> None:
    for path in (kept.ls, kept.paper):
        task, model, title = opened(TOY, None, path)
        assert model is not None
        (phase,) = read_record(path).phases
        for split, scores in phase.selected.items():
            found = evaluate(model, task, split, phase.objectives, torch.device("cpu"))
            assert found == scores
        assert f"epoch {phase.selected_epoch}" in title


def test_options_protocol_and_architecture_come_from_the_record(kept: Kept) -> None:
    task, model, title = opened(TOY, None, kept.paper)
    assert isinstance(task, ToyTask)
    assert (task.at, task.protocol.name) == (2, "paper")
    assert model is not None
    assert model.state_dict()["shared.0.weight"].shape == (8, 4)
    assert "UW x none, seed 0" in title
    again, _, _ = opened(f"{TOY}:at=2", None, kept.paper)
    assert isinstance(again, ToyTask)


def test_data_of_another_source_is_named(kept: Kept, tmp_path: Path) -> None:
    record = read_record(kept.ls)
    identity = record.identity.model_copy(update={"data_source": "40 measured samples"})
    store = Store(tmp_path)
    path = store.write(record.model_copy(update={"identity": identity}))
    model = store.model_path(identity)
    model.parent.mkdir()
    model.write_bytes(Store(kept.records).model_path(record.identity).read_bytes())
    assert opened(TOY, None, path)[2].endswith("(40 measured samples)")
    assert opened(TOY, None, kept.ls)[2].endswith("epoch 2")


def test_predictions_and_their_errors_are_those_of_the_model(kept: Kept) -> None:
    task, model, _ = opened(TOY, None, kept.ls)
    assert model is not None
    found = rows(task, model, "val", 3)
    assert [[p.title for p in row] for row in found] == [
        ["input", "kind", "level", "error of level"]
    ] * 3
    groups = [group for batch in task.batches("val", None) for group in batch]
    with torch.no_grad():
        level = torch.cat([model.eval()(group.inputs)["level"] for group in groups])
    target = torch.cat([group.targets["level"] for group in groups])
    errors = [float(row[3].values[1, 1]) for row in found]
    assert errors == pytest.approx((level - target).abs()[:3, 0].tolist(), rel=1e-5)


def test_a_model_is_left_in_its_mode(kept: Kept) -> None:
    task, model, _ = opened(TOY, None, kept.ls)
    assert model is not None
    rows(task, model, "val", 1)
    assert model.training


# ------------------------------------------------------------------------------------ rows
def test_as_many_rows_as_there_are() -> None:
    task, model, _ = opened(TOY, None, None)
    assert model is None
    assert len(rows(task, None, "val", 5)) == 5
    assert len(rows(task, None, "test", 100)) == SIZES[2]
    assert {len(row) for row in rows(task, None, "train", 2)} == {3}


def test_groups_take_turns() -> None:
    task = Domains(ToyTask.info.protocols[0])
    first, second, third = rows(task, None, "val", 3)
    np.testing.assert_equal(first[0].values, second[0].values)
    assert not np.array_equal(first[0].values, third[0].values)


# ------------------------------------------------------------------------------------ pictures
PANELS = [
    Picture("photo", np.full((4, 8, 3), (0.25, 0.5, 0.75)), "rgb"),
    Picture("classes", np.repeat([[-1, 0, 1, 2]], 4, axis=0), "labels", (0, 3)),
    Picture("depth", np.where(np.eye(4) > 0, np.nan, 2.5), "heat", (0, 5)),
    Picture("error", np.where(np.eye(4) > 0, np.nan, 0.5), "error"),
    Picture("nothing", np.full((4, 4), np.nan), "heat"),
    Picture("no class", np.full((4, 4), -1), "labels"),
]


def colours(path: Path) -> set[tuple[float, ...]]:
    pixels = image.imread(path)[..., :3].reshape(-1, 3)
    return {tuple(pixel.tolist()) for pixel in np.unique(pixels.round(2), axis=0)}


@pytest.mark.parametrize("picture", PANELS, ids=lambda picture: picture.title)
def test_every_kind_is_drawn(picture: Picture, tmp_path: Path) -> None:
    draw([[picture]], "a title", tmp_path / "one.png")
    found = colours(tmp_path / "one.png")
    assert WHITE in found
    from matplotlib import colormaps

    expected: dict[str, Sequence[Any]] = {
        "photo": [(0.25, 0.5, 0.75)],
        "classes": [colormaps["tab10"].resampled(3)(k)[:3] for k in range(3)],
        "depth": [colormaps["viridis"](0.5)[:3]],
        "error": [colormaps["inferno"](1.0)[:3]],
    }
    for colour in expected.get(picture.title, []):
        distances = np.abs(np.array(sorted(found)) - colour).max(1)
        assert distances.min() <= 0.011, colour


def test_what_is_missing_is_white(tmp_path: Path) -> None:
    photo = Picture("", np.full((4, 4, 3), np.nan), "rgb")
    classes = Picture("", np.full((4, 4), -1), "labels", (0, 3))
    draw([[photo, classes], [classes]], "", tmp_path / "white.png")
    assert colours(tmp_path / "white.png") == {WHITE}


def test_more_classes_than_named_colours(tmp_path: Path) -> None:
    labels = Picture("", np.arange(40).reshape(5, 8), "labels")
    draw([[labels]], "", tmp_path / "many.png")
    assert len(colours(tmp_path / "many.png")) > 40


# ------------------------------------------------------------------------------------ the command
def test_a_picture_of_a_run(kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "run.png"
    assert shown(TOY, "--run", kept.ls, "--out", out, "--n", 2) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    bare = tmp_path / "bare.png"
    assert shown(TOY, "--out", bare, "--n", 2, "--split", "train") == 0
    assert image.imread(out).shape[1] > image.imread(bare).shape[1]
    assert [path.name for path in out.parent.iterdir()] == ["run.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([TOY, "--split", "tset"], "unknown split 'tset'; valid: train, val, test"),
        ([TOY, "--out", "show.jpg"], "the picture's file must end in .png, not be show.jpg"),
        ([TOY, "--n", "0"], "'--n'"),
        ([TOY, "--run", "nowhere.json"], "there is no record at nowhere.json"),
        ([TOY, "--run", __file__], "is not a run record"),
        ([OTHER], f"task {OTHER!r} has no pictures"),
        ([OTHER, "--run", "ls"], f"is of task 'toy', not {OTHER!r}"),
        ([f"{TOY}:at=2", "--run", "ls"], "is of options {'fault': None, 'at': 1, 'once': ''}, not"),
        ([TOY, "--run", "forgotten"], "give the run's command again with --keep-model: mtlbench"),
        ([TOY, "--run", "stl"], "has no model: it trained 3"),
        ([TOY, "--run", "diverged"], "has no model: the run diverged"),
    ],
)
def test_bad_requests(
    words: Sequence[str],
    said: str,
    kept: Kept,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(*(getattr(kept, word, word) for word in words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_another_protocol_version(kept: Kept, tmp_path: Path) -> None:
    record = read_record(kept.ls)
    older = record.identity.model_copy(update={"protocol_version": 0})
    path = Store(tmp_path).write(record.model_copy(update={"identity": older}))
    with pytest.raises(UsageError, match="of version 0 of protocol 'mini', which now is version 1"):
        opened(TOY, None, path)


def test_a_corrupt_model_is_named(kept: Kept, tmp_path: Path) -> None:
    record, store = read_record(kept.ls), Store(tmp_path)
    path = store.write(record)
    model = store.model_path(record.identity)
    model.parent.mkdir()
    model.write_bytes(b"half a model")
    with pytest.raises(UsageError, match=f"weights {model} cannot be read"):
        opened(TOY, None, path)
    torch.save({"shared.0.weight": torch.zeros(8, 4)}, model)
    with pytest.raises(UsageError, match=f"{model} does not fit 'linear'"):
        opened(TOY, None, path)
