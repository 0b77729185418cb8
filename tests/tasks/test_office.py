"""Office-Home and Office-31: folders, lists, drawings, epochs of uneven domains, protocols."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18
from torchvision.transforms.functional import resize

from mtlbench import InputGroup, MultiTaskModel, Stepper
from mtlbench.data import SPLITS
from mtlbench.engine.randomness import seeded
from mtlbench.errors import DataError, UsageError
from mtlbench.interfaces import Batch, Protocol
from mtlbench.registry import Spec
from mtlbench.tasks._nets.office import cnn
from mtlbench.tasks._office.batches import DomainBatches
from mtlbench.tasks._office.folder import decode, decoded
from mtlbench.tasks._office.icons import (
    ARRAYS,
    DROPPED,
    DROPPED_CLASSES,
    EMBEDDED,
    HELD_OUT,
    Icons,
)
from mtlbench.tasks._office.task import MEAN, STD, OfficeTask
from mtlbench.tasks.office31 import Office31
from mtlbench.tasks.office_home import OfficeHome
from mtlbench.training.evaluate import evaluate
from mtlbench.training.trainer import Trainer
from mtlbench.training.weights import load_trunk

TASK_CLASSES = (OfficeHome, Office31)
CLASSES = ("Bike", "Desk_Lamp", "Mug")
COUNTS = (20, 10, 8, 5)
"""Images of each class in the first, second, ... domain."""
SIDE = 8

both = pytest.mark.parametrize("cls", TASK_CLASSES, ids=lambda c: c.info.name)


# ------------------------------------------------------------------------------------ folders
def folder_of(cls: type[OfficeTask], domain: str) -> str:
    """Where the classes of a domain are, as published."""
    return domain.replace("-", " ") + ("/images" if cls is Office31 else "")


def colour(k: int, c: int, i: int) -> tuple[int, int, int]:
    """Of image i of class c in domain k: no other has it."""
    return 40 + 40 * k, 30 + 60 * c, 5 + 12 * i


def write(cls: type[OfficeTask], root: Path, places: Mapping[str, str] | None = None) -> None:
    """A tiny data set in the published layout, or with each domain's classes in another place."""
    for k, domain in enumerate(cls.info.objectives):
        place = folder_of(cls, domain) if places is None else places[domain]
        for c, name in enumerate(CLASSES):
            (root / place / name).mkdir(parents=True)
            for i in range(COUNTS[k]):
                image = Image.new("RGB", (20 + i, 30), colour(k, c, i))
                image.save(root / place / name / f"{i:05}.jpg", quality=95)


def write_lists(cls: type[OfficeTask], root: Path) -> dict[tuple[str, str], list[str]]:
    """LibMTL's lists: 3 images of each class to train, 1 for val, 1 for test."""
    lists = {}
    for domain in cls.info.objectives:
        name = domain.replace("-", "_")
        place = folder_of(cls, name)
        for split, chosen in (("train", (4, 0, 2)), ("val", (1,)), ("test", (3,))):
            lines = [
                f"{place}/{c}/{i:05}.jpg {9 - n}" for n, c in enumerate(CLASSES) for i in chosen
            ]
            (root / f"{name}_{split}.txt").write_text("\n".join(lines) + "\n")
            lists[domain, split] = lines
    return lists


def protocol(name: str = "mini", **options: Any) -> Protocol:
    """A protocol with batches of 4, small images and other options."""
    (found,) = [p for p in OfficeHome.info.protocols if p.name == name]
    options = {**found.options, "side": SIDE, "width": 8, **options}
    return dataclasses.replace(found, batch_size=4, options=options)


def groups(batches: Iterable[Batch]) -> dict[str, list[InputGroup]]:
    """The groups of each objective."""
    found: dict[str, list[InputGroup]] = {}
    for batch in batches:
        for group in batch:
            (name,) = group.targets
            found.setdefault(name, []).append(group)
    return found


def collect(batches: Iterable[Batch]) -> dict[str, tuple[Tensor, Tensor]]:
    """Images and labels of each objective."""
    return {
        name: (torch.cat([g.inputs for g in own]), torch.cat([g.targets[name] for g in own]))
        for name, own in groups(batches).items()
    }


def seen(images: Tensor) -> list[tuple[int, int, int]]:
    """Domain, class and number of images of one colour, by that colour."""
    bytes_ = ((images * STD + MEAN) * 255).mean((2, 3))
    steps = torch.tensor([40.0, 60, 12]), torch.tensor([40.0, 30, 5])
    index = (bytes_ - steps[1]) / steps[0]
    assert (index - index.round()).abs().max() < 0.35
    return [(int(k), int(c), int(i)) for k, c, i in index.round().tolist()]


def ids(cls: type[OfficeTask], task: OfficeTask) -> dict[str, dict[str, list[Any]]]:
    """Split to domain to what is in it, as (class, number)."""
    found: dict[str, dict[str, list[Any]]] = {}
    for split in SPLITS:
        found[split] = {}
        for name, (x, y) in collect(task.batches(split, None)).items():
            those = seen(x)
            k = cls.info.objectives.index(name)
            assert [(kk, c) for kk, c, _ in those] == [(k, int(label)) for label in y]
            found[split][name] = [(c, i) for _, c, i in those]
    return found


@both
def test_a_folder_is_read_as_it_is(cls: type[OfficeTask], tmp_path: Path) -> None:
    write(cls, tmp_path)
    (tmp_path / "readme.txt").touch()
    (tmp_path / folder_of(cls, cls.info.objectives[0]) / "Mug" / "Thumbs.db").touch()
    task = cls(protocol(), tmp_path)
    assert not task.stand_in
    assert list(task.classes) == list(CLASSES)
    assert list(cls.verify(tmp_path)) == []
    found = ids(cls, task)
    for k, name in enumerate(cls.info.objectives):
        n, fifth = COUNTS[k], round(COUNTS[k] / 5)
        everything = [pair for split in SPLITS for pair in found[split][name]]
        assert sorted(everything) == [(c, i) for c in range(len(CLASSES)) for i in range(n)]
        for split, count in (("train", n - 2 * fifth), ("val", fifth), ("test", fifth)):
            assert Counter(c for c, _ in found[split][name]) == dict.fromkeys(range(3), count)
    total = 3 * sum(COUNTS[: len(cls.info.objectives)])
    assert task.data_source.startswith(f"{cls.info.title}, {total} images of 3 classes, split ")
    assert task.data_source.endswith(" by file name")


LAYOUTS = {
    "underscore": {d: d.replace("-", "_") for d in OfficeHome.info.objectives},
    "lower case": {d: d.replace("-", " ").lower() for d in OfficeHome.info.objectives},
    "images": {d: f"{d}/images" for d in OfficeHome.info.objectives},
}


@pytest.mark.parametrize("places", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_split_depends_on_names_alone(places: Mapping[str, str], tmp_path: Path) -> None:
    write(OfficeHome, tmp_path / "a")
    write(OfficeHome, tmp_path / "b", places)
    first, second = (OfficeHome(protocol(), tmp_path / name) for name in "ab")
    assert ids(OfficeHome, first) == ids(OfficeHome, second)
    assert first.data_source == second.data_source


def test_office31_without_the_level_above_the_classes(tmp_path: Path) -> None:
    write(Office31, tmp_path / "a")
    write(Office31, tmp_path / "b", {d: d for d in Office31.info.objectives})
    first, second = (ids(Office31, Office31(protocol(), tmp_path / name)) for name in "ab")
    assert first == second


def test_the_split_rule_is_pinned(tmp_path: Path) -> None:
    # A change of these numbers changes every published one: raise the protocol's version.
    write(OfficeHome, tmp_path)
    found = ids(OfficeHome, OfficeHome(protocol(), tmp_path))
    assert found["val"]["Real-World"] == [(0, 4), (1, 2), (2, 1)]
    assert found["test"]["Real-World"] == [(0, 0), (1, 1), (2, 4)]


@both
def test_lists_in_the_folder_decide(cls: type[OfficeTask], tmp_path: Path) -> None:
    write(cls, tmp_path)
    write_lists(cls, tmp_path)
    assert list(cls.verify(tmp_path)) == []
    task = cls(protocol(), tmp_path)
    assert re.search(r"split \d+/\d+/\d+ by the folder's lists \([0-9a-f]{8}\)$", task.data_source)
    found = ids(cls, task)
    for name in cls.info.objectives:
        for split, chosen in (("train", (4, 0, 2)), ("val", (1,)), ("test", (3,))):
            assert found[split][name] == [(c, i) for c in range(3) for i in chosen]
    path = tmp_path / f"{cls.info.objectives[0]}_val.txt"
    path.write_text(path.read_text().replace("00001", "00003", 1))
    test = tmp_path / f"{cls.info.objectives[0]}_test.txt"
    test.write_text(test.read_text().replace("00003", "00001", 1))
    assert cls(protocol(), tmp_path).data_source != task.data_source


# ------------------------------------------------------------------------------------ bad input
def corrupt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def changed(old: str, new: str) -> Any:
    return lambda path: path.write_text(path.read_text().replace(old, new, 1))


def remove(path: Path) -> None:
    for child in path.glob("*"):
        remove(child)
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()


def empty(path: Path) -> None:
    for child in path.iterdir():
        child.unlink()


BAD_NAMES = {
    "domain": ("Product", remove, "is missing: expected a folder for each class"),
    "class": ("Art/Mug", remove, r"is missing: expected .jpg, .jpeg, .png in every class"),
    "empty class": ("Clipart/Bike", empty, "has no image: expected .jpg"),
    "second": ("Real_World", Path.mkdir, "is the domain Real-World a second time"),
}
BAD_LISTS = {
    "list": ("Clipart_val.txt", Path.unlink, "is missing: there are lists of other domains"),
    "file": (
        "Art_train.txt",
        changed("00002", "00077"),
        "line 3 names Art/Bike/00077.jpg, which is not there",
    ),
    "twice": (
        "Art_test.txt",
        changed("00003", "00001"),
        "line 1 names Art/Bike/00001.jpg, which is in a list already",
    ),
    "other domain": (
        "Product_val.txt",
        changed("Product", "Art"),
        "line 1 is 'Art/Bike/00001.jpg 9': expected Product/class/file and a label",
    ),
    "no path": (
        "Clipart_train.txt",
        changed("Clipart/Bike/", ""),
        "line 1 is '00004.jpg 9': expected Clipart/class/file",
    ),
    "nothing": ("Real_World_val.txt", lambda p: p.write_text(""), "names no image of the folder"),
}
PICTURES = {
    "truncated": ("Art/Bike/00001.jpg", corrupt),
    "a page": ("Clipart/Mug/00003.jpg", lambda p: p.write_text("<html>404</html>")),
    "empty": ("Product/Mug/00000.jpg", lambda p: p.write_bytes(b"")),
}


@pytest.mark.parametrize(
    ("file", "harm", "message"),
    (BAD_NAMES | BAD_LISTS).values(),
    ids=(BAD_NAMES | BAD_LISTS).keys(),
)
def test_bad_folders_are_refused(tmp_path: Path, file: str, harm: Any, message: str) -> None:
    write(OfficeHome, tmp_path)
    if file.endswith(".txt"):
        write_lists(OfficeHome, tmp_path)
    harm(tmp_path / file)
    with pytest.raises(DataError, match=rf"{re.escape(file)} {message}.*hemanthdv"):
        OfficeHome(protocol(), tmp_path)
    (fault,) = OfficeHome.verify(tmp_path)
    assert fault.file == tmp_path / file
    assert re.match(message, fault.what)


@pytest.mark.parametrize(("file", "harm"), PICTURES.values(), ids=PICTURES.keys())
def test_a_file_that_is_no_image_is_named(tmp_path: Path, file: str, harm: Any) -> None:
    write(OfficeHome, tmp_path)
    harm(tmp_path / file)
    task = OfficeHome(protocol(), tmp_path)
    batches = chain.from_iterable(task.batches(split, None) for split in SPLITS)
    with pytest.raises(DataError, match=rf"{re.escape(file)} cannot be read .*expected an image"):
        list(batches)
    (fault,) = OfficeHome.verify(tmp_path)
    assert fault.file == tmp_path / file
    assert "expected an image" in fault.what


def test_verify_names_all_faults_at_once(tmp_path: Path) -> None:
    write(OfficeHome, tmp_path)
    write_lists(OfficeHome, tmp_path)
    harms = {file: harm for file, harm, _ in BAD_LISTS.values()}
    harms |= {"Real World/Bike/00002.jpg": corrupt, "Clipart/Mug/00007.jpg": corrupt}
    (tmp_path / "Real World/Pen").mkdir()
    for file, harm in harms.items():
        harm(tmp_path / file)
    found = {fault.file for fault in OfficeHome.verify(tmp_path)}
    pens = {tmp_path / folder_of(OfficeHome, d) / "Pen" for d in OfficeHome.info.objectives}
    assert found == {tmp_path / file for file in harms} | pens


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"amazon is missing: expected a folder .*domainadapt"):
        Office31(protocol(), tmp_path)
    assert len(list(Office31.verify(tmp_path))) == 3
    for name in Office31.info.objectives:
        (tmp_path / name).mkdir()
    assert {f.what for f in Office31.verify(tmp_path)} == {
        "is empty: expected a folder for each class"
    }


# ------------------------------------------------------------------------------------ images
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "1", "P"])
def test_images_are_resized_as_by_torchvision(tmp_path: Path, mode: str) -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(256, size=(37, 51, 3), dtype=np.uint8))
    path = tmp_path / ("x.jpg" if mode in ("RGB", "L", "CMYK") else "x.png")
    noise.convert(mode).save(path)
    with Image.open(path) as image:
        expected = np.asarray(resize(image.convert("RGB"), [16, 16]))
    assert np.array_equal(decode(path, 16).transpose(1, 2, 0), expected)


def test_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(OfficeHome, tmp_path)
    files = sorted(tmp_path.rglob("*.jpg"))[:6]
    opened: list[Any] = []
    own = Image.open

    def noted(path: Any) -> Any:
        opened.append(path)
        return own(path)

    monkeypatch.setattr(Image, "open", noted)
    images = decoded(tmp_path, files, SIDE)
    assert opened == []
    first = images(torch.tensor([4, 1, 4]))
    assert first.shape == (3, 3, SIDE, SIDE)
    assert first.dtype == torch.uint8
    assert torch.equal(first[0], first[2])
    assert torch.equal(images(torch.tensor([1, 4])), first[[1, 0]])
    images(torch.tensor([0]))
    assert sorted(opened) == files


# ------------------------------------------------------------------------------------ epochs
def indices(
    sizes: tuple[int, ...], batch_size: int, seed: int | None
) -> list[dict[int, list[int]]]:
    """Of each batch: domain to indices."""

    def group(k: int, index: Tensor, draw: int | None) -> InputGroup:
        assert (draw is None) == (seed is None)
        return InputGroup(index, {str(k): index})

    batches = DomainBatches(group, sizes, batch_size, seed)
    found = [{int(next(iter(g.targets))): g.inputs.tolist() for g in batch} for batch in batches]
    again = [{int(next(iter(g.targets))): g.inputs.tolist() for g in batch} for batch in batches]
    assert found == again
    assert len(found) == len(batches)
    return found


@pytest.mark.parametrize("sizes", [(7, 23, 5), (9, 9), (1, 64, 2), (5,)])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_longest_domain_sets_the_epoch(sizes: tuple[int, ...], batch_size: int) -> None:
    batches = indices(sizes, batch_size, 3)
    longest = max(sizes)
    assert len(batches) == -(-longest // batch_size)
    lengths = [{len(own) for own in batch.values()} for batch in batches]
    assert all(len(each) == 1 for each in lengths)
    flat = [n for each in lengths for n in each]
    assert max(flat) - min(flat) <= 1
    assert max(flat) <= batch_size
    for k, n in enumerate(sizes):
        order = [i for batch in batches for i in batch[k]]
        rounds = [order[i : i + n] for i in range(0, longest, n)]
        assert all(len(set(each)) == len(each) for each in rounds)
        assert all(sorted(each) == list(range(n)) for each in rounds[:-1])
        if n == longest:
            assert sorted(order) == list(range(n))
        if n == 7:
            assert rounds[0] != rounds[1]  # shuffled anew


def test_the_seed_decides_the_order() -> None:
    state = torch.get_rng_state()
    assert indices((20, 9), 4, 1) == indices((20, 9), 4, 1) != indices((20, 9), 4, 2)
    assert torch.equal(state, torch.get_rng_state())


def test_without_a_seed_each_example_is_seen_once_in_order() -> None:
    batches = indices((3, 10, 0, 4), 4, None)
    assert [sorted(batch) for batch in batches] == [[0, 1, 3], [1], [1]]
    for k, n in enumerate((3, 10, 0, 4)):
        assert [i for batch in batches for i in batch.get(k, [])] == list(range(n))


@both
def test_evaluation_counts_each_image_once(cls: type[OfficeTask], tmp_path: Path) -> None:
    write(cls, tmp_path)
    task = cls(protocol(), tmp_path)
    torch.manual_seed(0)
    model = task.build_model("cnn")
    for split in SPLITS:
        scores = evaluate(model, task, split, task.info.objectives, torch.device("cpu"))
        for name, examples in task.examples[split].items():
            images = (examples.read(torch.arange(len(examples.labels))) / 255 - MEAN) / STD
            with torch.no_grad():
                out = model(images, [name])[name]
            hits = (out.argmax(1) == examples.labels).double().mean().item()
            assert scores.metrics[name] == pytest.approx(100 * hits)
            loss = cross_entropy(out, examples.labels).item()
            assert scores.losses[name] == pytest.approx(loss, rel=1e-5)


def test_an_epoch_of_a_task(tmp_path: Path) -> None:
    write(OfficeHome, tmp_path)
    task = OfficeHome(protocol(scales=(1.0,)), tmp_path)
    batches = task.batches("train", 0)
    found = collect(batches)
    assert len(list(batches)) == len(batches) == 9  # type: ignore[arg-type]  # 3 x 12 of Art
    assert Counter(seen(found["Art"][0])).most_common(1)[0][1] == 1
    times = Counter(seen(found["Real-World"][0]))
    assert len(times) == 9
    assert set(times.values()) == {4}
    for x, y in found.values():
        assert len(x) == len(y) == 36
        assert [c for _, c, _ in seen(x)] == y.tolist()


def test_only_training_images_are_augmented() -> None:
    task = OfficeHome(dataclasses.replace(protocol(side=32), batch_size=64))
    plain, again, first, other = (
        collect(task.batches("train", seed))["Product"] for seed in (None, 5, 5, 6)
    )
    assert torch.equal(again[0], first[0])
    assert not torch.equal(first[1], other[1])
    known = {image.numpy().tobytes() for image in plain[0]}
    assert sum(image.numpy().tobytes() in known for image in first[0]) < len(first[0]) / 2
    for split in ("val", "test"):
        x = collect(task.batches(split, None))["Product"][0]
        shuffled = collect(task.batches(split, 5))["Product"][0]
        assert {i.numpy().tobytes() for i in x} >= {i.numpy().tobytes() for i in shuffled}


def test_unknown_split() -> None:
    with pytest.raises(UsageError, match="'holdout'; valid: train, val, test"):
        OfficeHome(protocol()).batches("holdout", None)


# ------------------------------------------------------------------------------------ drawings
@pytest.fixture(scope="module")
def drawn() -> Icons:
    return Icons()


def test_sources_of_drawings(drawn: Icons) -> None:
    assert OfficeHome(protocol()).data_source == (
        "1,137 drawings of 39 classes (stand-in: line for Art, flat for Clipart, solid for "
        "Product, shaded for Real-World), split 675/159/303 by designer"
    )
    assert Office31(protocol()).data_source == (
        "755 drawings of 39 classes (stand-in: solid for amazon, flat for dslr, shaded for "
        "webcam), split 410/121/224 by designer"
    )
    assert OfficeHome(protocol()).stand_in
    assert len(drawn.label) == 1137


def test_what_was_dropped_is_gone(drawn: Icons) -> None:
    with np.load(EMBEDDED) as found:
        assert set(ARRAYS) == set(found)
        assert set(DROPPED_CLASSES) <= set(found["classes"])
        names, sources = found["classes"][found["label"]], found["source"]
    dropped = [source for group in DROPPED.values() for source in group]
    assert len(set(dropped)) == len(dropped)
    assert set(dropped) <= set(sources[~np.isin(names, list(DROPPED_CLASSES))])
    kept = ~np.isin(names, list(DROPPED_CLASSES)) & ~np.isin(sources, dropped)
    assert list(drawn.source) == list(sources[kept])
    assert list(drawn.classes[drawn.label]) == list(names[kept])


def test_a_designer_is_in_one_split(drawn: Icons) -> None:
    studios = [re.sub(r"^(fluent-emoji|emojione).*", r"\1", family) for family in drawn.family]
    of: dict[str, set[str]] = {}
    for studio, split in zip(studios, drawn.split, strict=True):
        of.setdefault(studio, set()).add(split)
    assert all(len(splits) == 1 for splits in of.values())
    assert {f for families in HELD_OUT.values() for f in families} <= set(drawn.family)
    assert [sum(s == {split} for s in of.values()) for split in SPLITS] == [6, 3, 5]


def test_every_class_is_learnt_in_every_style(drawn: Icons) -> None:
    n = {
        split: [
            len(drawn.label[drawn.of(style, split)].unique())
            for style in ("shaded", "flat", "line", "solid")
        ]
        for split in SPLITS
    }
    assert n == {"train": [39] * 4, "val": [33, 22, 26, 26], "test": [39, 39, 35, 39]}
    line = drawn.label[drawn.of("line", "test")].tolist()
    missing = set(range(39)) - set(line)
    assert {drawn.classes[i] for i in missing} == {"Knives", "Radio", "Screwdriver", "Sneakers"}


def test_drawings_are_on_white(drawn: Icons) -> None:
    assert drawn.pixels.shape == (1137, 3, 64, 64)
    solid = drawn.pixels[drawn.of("solid", "train")]
    assert torch.equal(solid[:, 0], solid[:, 1])  # black
    corners = drawn.pixels[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 255).double().mean() > 0.97
    assert 100 < drawn.pixels.float().mean() < 250
    with np.load(EMBEDDED) as found:
        i = int(np.flatnonzero(found["source"] == "noto:bicycle")[0])
        alpha = found["alpha"][i][..., None] / 255
        own = found["rgb"][int(np.flatnonzero(found["rgb_index"] == i)[0])]
    expected = (alpha * own + 255 * (1 - alpha)).round()
    (j,) = np.flatnonzero(drawn.source == "noto:bicycle")
    assert np.abs(drawn.pixels[j].permute(1, 2, 0).numpy() - expected).max() <= 1


@both
def test_the_split_is_the_same_for_every_seed(cls: type[OfficeTask]) -> None:
    one, other = cls(protocol()), cls(protocol())
    for split in SPLITS:
        found = [collect(task.batches(split, None)) for task in (one, other)]
        for name in cls.info.objectives:
            for a, b in zip(found[0][name], found[1][name], strict=True):
                assert torch.equal(a, b)


# ------------------------------------------------------------------------------------ network
def step(
    task: OfficeTask, batch: Batch, method: str, sharpness: str, model: MultiTaskModel
) -> Tensor:
    """Losses of a step that took place."""
    stepper = Stepper(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        method,
        sharpness,
        objectives=task.info.objectives,
    )
    before = stepper.flat.data.clone()
    report = stepper.step(batch, task.loss)
    assert not report.skipped
    assert report.losses is not None
    assert stepper.flat.data.isfinite().all()
    assert not torch.equal(stepper.flat.data, before)
    return report.losses


@both
@pytest.mark.parametrize("sharpness", ["none", "sam", "samo", "fmtl"])
@pytest.mark.parametrize("method", ["ls", "mgda", "fairgrad"])
def test_a_step(cls: type[OfficeTask], method: str, sharpness: str) -> None:
    task = cls(protocol(side=32))
    batch = next(iter(task.batches("train", 0)))
    assert [list(group.targets) for group in batch] == [[o] for o in cls.info.objectives]
    with seeded(0):
        losses = step(task, batch, method, sharpness, task.build_model("cnn"))
    assert losses.isfinite().all()


@pytest.mark.parametrize("sharpness", ["none", "samo"])
def test_partial_labels(sharpness: str) -> None:
    task = OfficeHome(protocol(side=32))
    batch = list(next(iter(task.batches("train", 0))))
    for group in batch[:2]:
        (target,) = group.targets.values()
        target[1:3] = -1
    (nothing,) = batch[2].targets.values()
    nothing.fill_(-1)
    with seeded(0):
        model = task.build_model("cnn")
        with torch.no_grad():
            known = batch[0].targets["Art"] >= 0
            own = model(batch[0].inputs[known], ["Art"])["Art"]
            expected = cross_entropy(own, batch[0].targets["Art"][known])
        head = model.heads.get_parameter("Product.weight")
        before = head.detach().clone()
        losses = step(task, batch[:3], "fairgrad", sharpness, model)  # nothing of Real-World
    assert losses.isnan().tolist() == [False, False, True, True]
    torch.testing.assert_close(losses[0], expected)
    assert torch.equal(head, before)


def test_the_published_network(tmp_path: Path) -> None:
    write(OfficeHome, tmp_path)
    task = OfficeHome(dataclasses.replace(OfficeHome.info.protocols[1], batch_size=2), tmp_path)
    batch = next(iter(task.batches("train", 0)))[:1]
    assert batch[0].inputs.shape == (2, 3, 224, 224)
    with seeded(0):
        model = task.build_model("resnet18")
        step(task, batch, "ls", "none", model)
        features = model.shared(batch[0].inputs[..., :64, :64])
    assert features.shape == (2, 512)
    assert features.min() == 0  # of the ReLU, and of dropout
    hidden = model.shared.get_submodule("hidden")
    kinds = [type(layer) for layer in hidden.children()]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout]
    with seeded(0):
        weight = task.build_model("resnet18").shared.get_parameter("hidden.0.weight")
        assert weight.std().item() == pytest.approx(0.005, rel=0.02)


def test_weights_of_torchvision(tmp_path: Path) -> None:
    with seeded(1):
        network = resnet18(weights=None)
    for buffer in network.buffers():
        buffer.add_(1)
    path = tmp_path / "resnet18.pth"
    torch.save(network.state_dict(), path)
    task = OfficeHome(dataclasses.replace(OfficeHome.info.protocols[1], options={"side": 32}))
    model = task.build_model("resnet18")
    hidden = model.shared.get_parameter("hidden.0.weight").clone()
    load_trunk(model, path)
    own, given = model.shared.state_dict(), network.state_dict()
    assert {name for name in given if name not in own} == {"fc.weight", "fc.bias"}
    assert all(torch.equal(own[name], value) for name, value in given.items() if name in own)
    assert torch.equal(own["hidden.0.weight"], hidden)
    network.fc = nn.Identity()
    network.eval(), model.shared.eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model.shared.get_submodule("hidden")(network(x))
        torch.testing.assert_close(model.shared(x), expected)
    with pytest.raises(UsageError, match="no name is one of the trunk's"):
        load_trunk(task.build_model("cnn"), path)


def test_a_domain_sees_its_own_head_alone() -> None:
    model = cnn(("a", "b"), 5, width=8)
    shared, heads = model.parameter_roles(("a", "b"))
    assert [p.shape for p in heads[0]] == [p.shape for p in heads[1]] == [(5, 128), (5,)]
    assert len(shared) == 12
    x = torch.randn(3, 3, 32, 32)
    together = model(x)["a"]
    torch.testing.assert_close(model(x[1:2])["a"], together[1:2])  # no batch statistics


# ------------------------------------------------------------------------------------ the rest
def test_meters_and_selection() -> None:
    task = Office31(protocol())
    meters = task.meters()
    assert list(meters) == ["amazon", "dslr", "webcam"]
    scores = torch.eye(39)[torch.tensor([3, 5, 5, 38])]
    for part in (slice(0, 3), slice(3, 4)):
        meters["dslr"].update(scores[part], torch.tensor([3, 5, 7, 38])[part])
    assert float(meters["dslr"].compute()) == 75.0
    assert task.selection_score({"amazon": 30.0, "dslr": 50.0, "webcam": 70.0}) == 50.0


def test_metrics_are_those_of_the_published_tables() -> None:
    path = Path(__file__).parents[2] / "leaderboards/published/office-home.csv"
    rows = [line.split(",")[:4] for line in path.read_text().splitlines()[1:]]
    published = {row[2] for row in rows if row[1] == "STL"}
    assert {m.name for m in OfficeHome.info.metrics} == published - {"Avg", "Delta_p_pct"}


def test_pictures() -> None:
    task = Office31(protocol(side=32))
    group = next(iter(task.batches("test", None)))[1]
    plain = task.pictures(group, None)
    assert len(plain) == 4
    first = task.classes[int(group.targets["dslr"][0])]
    assert [p.title for p in plain[0]] == [f"dslr: {first}"]
    pixels = task.examples["test"]["dslr"].read(torch.tensor([0]))[0].permute(1, 2, 0)
    np.testing.assert_allclose(plain[0][0].values, pixels / 255, atol=1e-5)
    group.targets["dslr"][1] = -1
    logits = torch.eye(39)[torch.tensor([7, 8, 9, 10])]
    titles = [row[0].title for row in task.pictures(group, {"dslr": logits})]
    assert titles[0] == f"dslr: {first}, predicted {task.classes[7]}"
    assert titles[1] == f"dslr: unlabelled, predicted {task.classes[8]}"


@both
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_protocol_leaves_the_underfitting_regime(cls: type[OfficeTask]) -> None:
    task = cls(cls.info.protocols[0])

    def trained(objectives: tuple[str, ...], method: str) -> Any:
        with seeded(0):
            return Trainer(
                task,
                objectives,
                architecture=task.protocol.arch,
                method=Spec(method),
                sharpness=Spec("none"),
                seed=0,
                device=torch.device("cpu"),
            ).fit()

    last = trained(cls.info.objectives, "ls").last
    for name in cls.info.objectives:
        assert last["train"].losses[name] < 0.6 * last["val"].losses[name]
        assert last["test"].metrics[name] < 90
        labels = {split: task.examples[split][name].labels for split in SPLITS}
        commonest = labels["train"].bincount().argmax()
        majority = 100 * (labels["test"] == commonest).double().mean().item()
        assert trained((name,), "stl").selected["test"].metrics[name] > 3 * majority + 10
