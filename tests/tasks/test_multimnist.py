from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mtlbench.errors import DataError, UsageError
from mtlbench.interfaces import Batch
from mtlbench.tasks.multimnist import EMBEDDED, MultiMNIST, _source_images

MINI = MultiMNIST.info.protocols[0]
FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


@pytest.fixture(scope="module")
def task() -> MultiMNIST:
    return MultiMNIST(MINI)


def collect(batches: Any) -> tuple[torch.Tensor, torch.Tensor]:
    groups = [group for (group,) in batches]
    x = torch.cat([group.inputs for group in groups])
    y = torch.cat(
        [torch.stack([group.targets[s] for s in ("left", "right")], 1) for group in groups]
    )
    return x, y


# ------------------------------------------------------------------------------------ batches
def test_shapes_and_sizes(task: MultiMNIST) -> None:
    for split, count in MINI.options["overlays"].items():
        batches = task.batches(split, 0)
        x, y = collect(batches)
        assert len(list(batches)) == len(batches) == -(-count // MINI.batch_size)  # type: ignore[arg-type]
        assert x.shape == (count, 1, 28, 28)
        assert y.shape == (count, 2)
        assert x.dtype == torch.float32
        assert 0 <= x.min() < 0.01 < 0.9 < x.max() <= 1
        assert set(y.flatten().tolist()) == set(range(10))


def test_seed_decides_the_order(task: MultiMNIST) -> None:
    random_state = torch.get_rng_state()
    (x0, y0), (x1, _), (x2, y2), (xn, yn) = (
        collect(task.batches("train", seed)) for seed in (0, 0, 1, None)
    )
    assert torch.equal(x0, x1)
    assert not torch.equal(y0, y2)
    assert torch.equal(x0.sum((1, 2, 3)).sort().values, x2.sum((1, 2, 3)).sort().values)
    again = collect(MultiMNIST(MINI).batches("train", None))
    assert torch.equal(xn, again[0])
    assert torch.equal(yn, again[1])
    assert torch.equal(random_state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_splits_are_of_disjoint_images(name: str) -> None:
    embedded = np.load(EMBEDDED / f"{name.replace('fashion', 'fashion_mnist')}_5k.npz")["x"]
    parts = [x.numpy() for x, _ in _source_images(name, None).values()]
    assert [len(x) for x in parts] == [3000, 1000, 1000]
    rows = sorted(x.tobytes() for part in parts for x in part)
    assert rows == sorted(x.tobytes() for x in embedded)


def test_split_rule_is_pinned() -> None:
    # A change of these numbers changes every published one: raise the protocol's version.
    labels = [y[:8].tolist() for _, y in _source_images("mnist", None).values()]
    assert labels == [[4, 2, 0, 9, 6, 6, 2, 1], [2, 6, 9, 4, 8, 4, 8, 7], [3, 0, 6, 7, 8, 2, 7, 1]]


def test_overlay_is_the_resized_maximum(task: MultiMNIST) -> None:
    (group,) = next(iter(task.batches("val", None)))
    x, y = _source_images("mnist", None)["val"]
    rng = np.random.default_rng(0)
    left, right = (rng.integers(len(x), size=1000) for _ in range(2))
    for i in (0, 7):
        canvas = np.zeros((36, 36), np.float32)
        canvas[:28, :28] = x[left[i]] / 255
        canvas[8:, 8:] = np.maximum(canvas[8:, 8:], x[right[i]].numpy() / 255)
        small = torch.nn.functional.interpolate(
            torch.from_numpy(canvas)[None, None], (28, 28), mode="bilinear", antialias=True
        )
        torch.testing.assert_close(group.inputs[i], small[0])
        assert group.targets["left"][i] == y[left[i]]
        assert group.targets["right"][i] == y[right[i]]


def test_sources() -> None:
    both = MultiMNIST(MINI, images="mnist+fashion")
    assert both.data_source == "MNIST and Fashion-MNIST, 5,000 embedded images each"
    assert MultiMNIST(MINI).data_source == "MNIST, 5,000 embedded images"
    fashion = MultiMNIST(MINI, images="fashion")
    assert fashion.data_source == "Fashion-MNIST, 5,000 embedded images"
    (digits, left), (garments, right), (mixed, labels) = (
        collect(t.batches("val", None)) for t in (MultiMNIST(MINI), fashion, both)
    )
    assert torch.equal(labels, torch.stack([left[:, 0], right[:, 1]], 1))
    assert digits.mean() < mixed.mean() < garments.mean()


def test_unknown_options() -> None:
    with pytest.raises(ValidationError, match="fashion"):
        MultiMNIST(MINI, images="letters")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'holdout'; valid: train, val, test"):
        MultiMNIST(MINI).batches("holdout", None)


# ------------------------------------------------------------------------------------ network
def test_network_roles_and_losses(task: MultiMNIST) -> None:
    model = task.build_model("lenet")
    shared, heads = model.parameter_roles(task.info.objectives)
    assert [p.numel() for p in heads[0]] == [p.numel() for p in heads[1]] == [500, 10]
    assert sum(p.numel() for p in shared) == 260 + 5020 + 16050
    (group,) = next(iter(task.batches("train", 0)))
    out = model(group.inputs)
    for name, target in group.targets.items():
        log_p = out[name].log_softmax(1)
        manual = -torch.stack([row[t] for row, t in zip(log_p, target, strict=True)]).mean()
        torch.testing.assert_close(task.loss(name, out[name], target), manual)


def test_meters(task: MultiMNIST) -> None:
    rng = np.random.default_rng(0)
    meters = task.meters()
    assert set(meters) == {m.name for m in task.info.metrics}
    scores, labels = rng.normal(size=(90, 10)).astype(np.float32), rng.integers(10, size=90)
    for part in (slice(0, 64), slice(64, 90)):
        meters["left_accuracy"].update(torch.tensor(scores[part]), torch.tensor(labels[part]))
    expected = 100 * (scores.argmax(1) == labels).mean()
    assert float(meters["left_accuracy"].compute()) == pytest.approx(expected)
    assert task.selection_score({"left_accuracy": 90.0, "right_accuracy": 80.0}) == 85.0


def _accuracy(task: MultiMNIST, epochs: int) -> tuple[float, float, float]:
    """Mean val accuracy, and train and val loss, of plain training."""
    torch.manual_seed(0)
    model = task.build_model("lenet")
    optimizer = torch.optim.Adam(model.parameters(), lr=task.protocol.lr)

    def total(batch: Batch) -> torch.Tensor:
        (group,) = batch
        out = model(group.inputs)
        return torch.stack([task.loss(k, out[k], t) for k, t in group.targets.items()]).sum()

    for epoch in range(epochs):
        for batch in task.batches("train", epoch):
            optimizer.zero_grad()
            torch.autograd.backward(total(batch))
            optimizer.step()
    with torch.no_grad():
        x, y = collect(task.batches("val", None))
        out = model(x)
        hits = torch.stack([out["left"].argmax(1) == y[:, 0], out["right"].argmax(1) == y[:, 1]])
        train, val = (
            torch.stack([total(batch) for batch in task.batches(split, None)]).mean().item()
            for split in ("train", "val")
        )
    return 100 * hits.double().mean().item(), train, val


def test_learns(task: MultiMNIST) -> None:
    assert _accuracy(task, 2)[0] > 55


@pytest.mark.slow
def test_protocol_leaves_the_underfitting_regime(task: MultiMNIST) -> None:
    accuracy, train, val = _accuracy(task, MINI.epochs)
    assert accuracy > 90
    assert train < 0.6 * val


# ------------------------------------------------------------------------------------ folders
def write_idx(path: Path, array: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def write_folder(root: Path) -> None:
    rng = np.random.default_rng(0)
    for name in FILES:
        n = 60 if name.startswith("train") else 20
        shape = (n, 28, 28) if "images" in name else (n,)
        high = 256 if "images" in name else 10
        write_idx(root / f"MNIST/raw/{name}-ubyte", rng.integers(high, size=shape).astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path)
    return tmp_path


def test_folder(folder: Path) -> None:
    small = dataclasses.replace(
        MINI, options={**MINI.options, "overlays": {"train": 30, "val": 10, "test": 10}}
    )
    task = MultiMNIST(small, folder)
    assert task.data_source == "MNIST, 80 images"
    assert [len(y) for _, y in _source_images("mnist", folder).values()] == [50, 10, 20]
    assert collect(task.batches("test", None))[0].shape == (10, 1, 28, 28)


@pytest.mark.parametrize("name", FILES)
def test_missing_file(folder: Path, name: str) -> None:
    (folder / f"MNIST/raw/{name}-ubyte").unlink()
    with pytest.raises(DataError, match=f"{name}-ubyte is missing: expected .* download=True"):
        MultiMNIST(MINI, folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 3, 30])
def test_truncated_file(folder: Path, name: str, keep: int) -> None:
    path = folder / f"MNIST/raw/{name}-ubyte"
    path.write_bytes(path.read_bytes()[:keep] if keep < 30 else path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{name}-ubyte is corrupt: expected .* download=True"):
        MultiMNIST(MINI, folder)


def test_files_that_do_not_fit_together(folder: Path) -> None:
    write_idx(folder / "MNIST/raw/t10k-labels-idx1-ubyte", np.zeros(19, np.uint8))
    with pytest.raises(DataError, match=r"t10k.*as many labels"):
        MultiMNIST(MINI, folder)


def test_another_missing_set(folder: Path) -> None:
    with pytest.raises(DataError, match="FashionMNIST/raw/train-images-idx3-ubyte is missing"):
        MultiMNIST(MINI, folder, images="mnist+fashion")
