"""Cityscapes and NYUv2: folders, augmentation, losses, meters, protocols."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Conv2d
from torch.nn import functional as F
from torchmetrics import Metric

from mtlbench.data import standin
from mtlbench.engine.randomness import seeded
from mtlbench.errors import DataError, UsageError
from mtlbench.interfaces import Batch, InputGroup, Protocol
from mtlbench.registry import TASKS, Spec
from mtlbench.tasks._dense.augment import Crops
from mtlbench.tasks._dense.losses import (
    LOSSES,
    DenseLoss,
    as_labels,
    depth_loss,
    normal_loss,
    segmentation_loss,
)
from mtlbench.tasks._dense.meters import BIN, MedianAngle, PixelMean, angles, meter
from mtlbench.tasks._dense.task import DenseTask
from mtlbench.tasks.cityscapes import INVERSE_METRES, NEAREST, Cityscapes
from mtlbench.tasks.nyuv2 import NYUv2
from mtlbench.training.evaluate import evaluate
from mtlbench.training.stepper import Stepper
from mtlbench.training.trainer import Trainer

Array = NDArray[Any]
TASK_CLASSES = (Cityscapes, NYUv2)
SIZE = (12, 18)
AVERAGED = "mean of the last 5 epochs on test"
COUNTS = {"train": 5, "val": 3}

both = pytest.mark.parametrize("cls", TASK_CLASSES, ids=lambda c: c.info.name)


# ------------------------------------------------------------------------------------ folders
def sample(
    cls: type[DenseTask], rng: np.random.Generator, size: tuple[int, int] = SIZE
) -> dict[str, Array]:
    """Random arrays of one sample, as MTAN stores them."""
    depth = rng.uniform(0.02, 0.4, (*size, 1)) * (rng.random((*size, 1)) > 0.2)
    normal = rng.normal(size=(*size, 3))
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    arrays = {
        "image": rng.random((*size, 3)),
        "segmentation": rng.integers(-1, cls.classes, size),
        "depth": depth,
        "normal": normal * (rng.random((*size, 1)) > 0.2),
    }
    return {name: arrays[name].astype(np.float32) for name in cls.kinds}


def write(
    cls: type[DenseTask], folder: Path, size: tuple[int, int] = SIZE
) -> dict[str, list[dict[str, Array]]]:
    """A hand-made MTAN folder, and what is in it."""
    rng = np.random.default_rng(0)
    content: dict[str, list[dict[str, Array]]] = {}
    for split, count in COUNTS.items():
        content[split] = [sample(cls, rng, size) for _ in range(count)]
        for i, arrays in enumerate(content[split]):
            for name, array in arrays.items():
                path = folder / split / cls.kinds[name].folder / f"{i}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, array)
    return content


def protocol(cls: type[DenseTask], name: str = "paper", **options: Any) -> Protocol:
    """A protocol with batches of 2 and other options."""
    (found,) = [p for p in cls.info.protocols if p.name == name]
    return dataclasses.replace(found, batch_size=2, options={**found.options, **options})


def collect(batches: Iterable[Batch]) -> dict[str, Tensor]:
    groups = [group for (group,) in batches]
    names = groups[0].targets
    targets = {name: torch.cat([g.targets[name] for g in groups]) for name in names}
    return {"image": torch.cat([g.inputs for g in groups]), **targets}


def planes(arrays: list[dict[str, Array]], name: str) -> Tensor:
    """The arrays of a kind, channels first."""
    stacked = torch.from_numpy(np.stack([a[name] for a in arrays]))
    return stacked.long() if name == "segmentation" else stacked.movedim(3, 1)


@both
def test_a_folder_is_read_as_it_is(cls: type[DenseTask], tmp_path: Path) -> None:
    content = write(cls, tmp_path)
    task = cls(protocol(cls), tmp_path)
    assert not task.stand_in
    assert task.data_source == (
        f"{cls.info.title} as preprocessed for MTAN, 8 images 12x18, "
        "published split, mean of the last 10 epochs on test"
    )
    for split, part in (("train", "train"), ("val", "val"), ("test", "val")):
        batches = task.batches(split, None)
        found = collect(batches)
        assert len(list(batches)) == len(batches) == -(-COUNTS[part] // 2)  # type: ignore[arg-type]
        assert list(found) == ["image", *cls.info.objectives]
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, planes(content[part], name), rtol=0, atol=0)
            assert tensor.is_contiguous()


@both
def test_mini_carves_val_out_of_train(cls: type[DenseTask], tmp_path: Path) -> None:
    content = write(cls, tmp_path)
    images = {"train": 3, "val": 2, "test": 2}
    task = cls(protocol(cls, "mini", images=images), tmp_path)
    assert task.data_source.endswith(f", 8 images 12x18, split 3/2/2, {AVERAGED}")
    found = {split: collect(task.batches(split, None))["image"] for split in images}
    assert {split: len(x) for split, x in found.items()} == images

    def first(images: Tensor) -> list[float]:
        return sorted(images[:, 0, 0, 0].tolist())

    carved = torch.cat([found["train"], found["val"]])
    assert first(carved) == first(planes(content["train"], "image"))
    assert set(first(found["test"])) < set(first(planes(content["val"], "image")))


def test_the_split_rule_is_pinned(tmp_path: Path) -> None:
    # A change of these numbers changes every published one: raise the protocol's version.
    write(Cityscapes, tmp_path)
    images = {"train": 3, "val": 2, "test": 2}
    samples = Cityscapes(protocol(Cityscapes, "mini", images=images), tmp_path).samples
    assert {k: list(s.ids) for k, s in samples.items()} == {
        "train": [2, 4, 3],
        "val": [0, 1],
        "test": [2, 0],
    }


def test_other_forms_of_the_arrays(tmp_path: Path) -> None:
    """Without a channel axis, in double precision, with whole numbers for labels."""
    content = write(Cityscapes, tmp_path)
    for i, arrays in enumerate(content["train"]):
        np.save(tmp_path / f"train/depth/{i}.npy", arrays["depth"][..., 0].astype(np.float64))
        np.save(tmp_path / f"train/label_7/{i}.npy", arrays["segmentation"].astype(np.int8))
    assert list(Cityscapes.verify(tmp_path)) == []
    found = collect(Cityscapes(protocol(Cityscapes), tmp_path).batches("train", None))
    for name in ("segmentation", "depth"):
        torch.testing.assert_close(found[name], planes(content["train"], name))


@both
def test_an_objective_without_a_valid_pixel_sits_the_step_out(
    cls: type[DenseTask], tmp_path: Path
) -> None:
    write(cls, tmp_path)
    for name, void in (("segmentation", -1.0), ("depth", 0.0)):
        for i, fully in ((0, True), (1, name == "depth")):
            path = tmp_path / "train" / cls.kinds[name].folder / f"{i}.npy"
            array = np.load(path)
            array[: None if fully else 4] = void
            np.save(path, array)
    task = cls(protocol(cls, width=4), tmp_path)
    batch = next(iter(task.batches("train", None)))
    model = task.build_model("unet")
    stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1), "mgda", "none")
    depth = stepper.flat.all_heads[cls.info.objectives.index("depth")]
    before = stepper.flat.data.clone()
    report = stepper.step(batch, task.loss)
    assert report.losses is not None
    assert report.weights is not None
    known = {n: bool(w > 0) for n, w in zip(cls.info.objectives, report.weights, strict=True)}
    assert not known["depth"]
    assert known["segmentation"] or known.get("normal")
    assert torch.isfinite(report.losses).tolist() == [n != "depth" for n in cls.info.objectives]
    assert torch.equal(stepper.flat.data[depth], before[depth])
    assert not torch.equal(stepper.flat.data, before)
    scores = evaluate(model, task, "train", cls.info.objectives, torch.device("cpu"))
    assert all(map(math.isfinite, [*scores.metrics.values(), *scores.losses.values()]))


@both
def test_seed_decides_order_and_augmentation(cls: type[DenseTask], tmp_path: Path) -> None:
    write(cls, tmp_path)
    task = cls(protocol(cls), tmp_path)
    state = torch.get_rng_state()
    batches = task.batches("train", 7)
    first, again, same, other = (
        collect(b) for b in (batches, batches, task.batches("train", 7), task.batches("train", 8))
    )
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor, same[name])
        assert not torch.equal(tensor, other[name])
    assert torch.equal(state, torch.get_rng_state())
    task = cls(dataclasses.replace(protocol(cls), batch_size=3), tmp_path)
    plain = collect(task.batches("val", None))["image"].sum((1, 2, 3)).sort().values
    shuffled = collect(task.batches("val", 7))["image"].sum((1, 2, 3)).sort().values
    assert torch.equal(plain, shuffled)


def test_unknown_options(tmp_path: Path) -> None:
    write(Cityscapes, tmp_path)
    with pytest.raises(UsageError, match="'holdout'; valid: train, val, test"):
        Cityscapes(protocol(Cityscapes), tmp_path).batches("holdout", None)
    with pytest.raises(UsageError, match="option legacy=maybe"):
        TASKS.build("cityscapes:legacy=maybe", protocol(Cityscapes), tmp_path)
    task = TASKS.build("cityscapes:legacy=true", protocol(Cityscapes), tmp_path)
    assert isinstance(task, Cityscapes)
    assert task.legacy


# ------------------------------------------------------------------------------------ augmentation
def released(
    arrays: Mapping[str, Tensor], scale: float, top: int, left: int, mirror: bool
) -> dict[str, Tensor]:
    """RandomScaleCrop and flip of the published trainers, for one sample."""
    height, width = SIZE
    part = (slice(top, top + int(height / scale)), slice(left, left + int(width / scale)))

    def enlarged(name: str, mode: str) -> Tensor:
        x = arrays[name] if arrays[name].dim() == 3 else arrays[name][None].double()
        corners = {"align_corners": True} if mode == "bilinear" else {}
        x = F.interpolate(x[None, :, *part], SIZE, mode=mode, **corners)[0]
        return x.flip(2) if mirror else x

    normal, known = enlarged("normal", "bilinear"), enlarged("known", "bilinear")
    normal = F.normalize(normal, dim=0) * (known > 0.5)
    if mirror:
        normal[0] *= -1
    return {
        "image": enlarged("image", "bilinear"),
        "segmentation": enlarged("segmentation", "nearest")[0].long(),
        "depth": enlarged("depth", "nearest") / scale,
        "normal": normal,
    }


def test_augmentation_is_the_published_one() -> None:
    rng = np.random.default_rng(0)
    samples = [sample(NYUv2, rng) for _ in range(24)]
    arrays = {name: planes(samples, name) for name in NYUv2.kinds}
    crops = Crops.draw(24, SIZE, (1.0, 1.2, 1.5), seed=3)
    found = crops(arrays)
    for i in range(24):
        own = {name: array[i] for name, array in arrays.items()}
        own["known"] = (own["normal"] != 0).any(0, keepdim=True).float()
        top, left = crops.corner[i].tolist()
        expected = released(own, crops.scale[i].item(), top, left, bool(crops.mirror[i]))
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name][i], tensor, atol=1e-4, rtol=1e-4)
    for name, tensor in crops[torch.tensor([5, 2])](
        {name: array[[5, 2]] for name, array in arrays.items()}
    ).items():
        torch.testing.assert_close(tensor, found[name][[5, 2]])


def test_augmentation_draws_all_there_is() -> None:
    crops = Crops.draw(6000, SIZE, (1.0, 1.2, 1.5), seed=0)
    assert 0.48 < crops.mirror.double().mean() < 0.52
    for scale, room in ((1.0, (1, 1)), (1.2, (3, 4)), (1.5, (5, 7))):
        those = crops.scale == scale
        assert 0.31 < those.double().mean() < 0.36
        for axis in (0, 1):
            counts = crops.corner[those, axis].bincount()
            assert len(counts) == room[axis]
            assert counts.min() > 0.75 * counts.max()


def test_a_mirrored_sample_stays_aligned() -> None:
    rng = np.random.default_rng(0)
    arrays = {name: planes([sample(NYUv2, rng)], name) for name in NYUv2.kinds}
    mirrored = Crops(torch.ones(1), torch.zeros(1, 2).long(), torch.ones(1).bool(), SIZE)(arrays)
    for name, tensor in arrays.items():
        sign = torch.tensor([-1.0, 1, 1])[:, None, None] if name == "normal" else 1
        expected = tensor.flip(-1) * sign
        torch.testing.assert_close(mirrored[name], expected, atol=1e-5, rtol=0)


def test_augmented_pixels_stay_together() -> None:
    """An image that spells label and depth still does after any crop."""
    label = torch.arange(int(np.prod(SIZE))).reshape(1, *SIZE).repeat(50, 1, 1)
    crops = Crops.draw(50, SIZE, (1.0, 1.2, 1.5), seed=1)
    found = crops({"segmentation": label, "depth": 1.0 + label[:, None]})
    scale = crops.scale.float().reshape(-1, 1, 1)
    torch.testing.assert_close(found["depth"][:, 0] * scale, 1.0 + found["segmentation"])


# ------------------------------------------------------------------------------------ losses
def predictions(cls: type[DenseTask], n: int, seed: int = 0) -> tuple[dict[str, Any], ...]:
    """Random predictions and targets of n samples."""
    rng = np.random.default_rng(seed)
    samples = [sample(cls, rng) for _ in range(n)]
    targets = {name: planes(samples, name) for name in cls.info.objectives}
    generator = torch.Generator().manual_seed(seed)
    channels = {"segmentation": cls.classes, "depth": 1, "normal": 3}
    shapes = {name: (n, channels[name], *SIZE) for name in targets}
    return {k: torch.randn(s, generator=generator) for k, s in shapes.items()}, targets


def test_losses() -> None:
    guess, target = predictions(NYUv2, 3)
    label = target["segmentation"].numpy()
    log_p = guess["segmentation"].log_softmax(1).numpy()
    entropy = -np.take_along_axis(log_p, np.maximum(label, 0)[:, None], 1)[:, 0]
    expected = entropy[label >= 0].mean()
    assert segmentation_loss(guess["segmentation"], target["segmentation"]).item() == (
        pytest.approx(expected, rel=1e-5)
    )
    depth, known = target["depth"].numpy(), target["depth"].numpy() != 0
    expected = np.abs(guess["depth"].numpy() - depth)[known].mean()
    assert depth_loss(guess["depth"], target["depth"]).item() == pytest.approx(expected, rel=1e-5)
    normal, known = target["normal"].numpy(), (target["normal"] != 0).any(1).numpy()
    own = guess["normal"].numpy()
    expected = (
        1 - ((own / np.linalg.norm(own, axis=1, keepdims=True)) * normal).sum(1)[known].mean()
    )
    assert normal_loss(guess["normal"], target["normal"]).item() == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("name", NYUv2.info.objectives)
@pytest.mark.parametrize("zero", [False, True])
def test_an_image_without_a_valid_pixel_costs_nothing(name: str, zero: bool) -> None:
    guess, target = predictions(NYUv2, 1)
    prediction = (0 if zero else 1) * guess[name]
    prediction.requires_grad_()
    nothing = torch.full_like(target[name], -1 if name == "segmentation" else 0)
    loss = {"segmentation": segmentation_loss, "depth": depth_loss, "normal": normal_loss}[name]
    value = loss(prediction, nothing)
    value.backward()
    assert value.item() == 0
    assert prediction.grad is not None
    assert not prediction.grad.any()
    mixed = torch.cat([target[name], nothing])
    together = loss(torch.cat([prediction.detach()] * 2), mixed)
    torch.testing.assert_close(together, loss(prediction.detach(), target[name]))


@pytest.mark.parametrize("objective", LOSSES)
def test_losses_of_parts_add_up_by_their_valid_pixels(objective: str) -> None:
    """Examples without a valid pixel have no label, and count for nothing."""
    channels = {"segmentation": 4, "depth": 1, "normal": 3}[objective]
    prediction = torch.randn(5, channels, 6, 7, dtype=torch.float64)
    target = torch.randn_like(prediction) * (torch.rand(5, 1, 6, 7) > torch.rand(5, 1, 1, 1))
    target[2] = 0
    if objective == "segmentation":
        target = torch.where(target[:, 0] != 0, 2, -1)
    known = torch.tensor([0, 1, 3, 4])
    loss, size = DenseLoss(), DenseLoss().size
    labels = target if objective == "segmentation" else as_labels(target)
    whole = loss(objective, prediction[known], target[known])
    first = size(objective, labels[:2]) * loss(objective, prediction[:2], target[:2])
    second = size(objective, labels[2:]) * loss(objective, prediction[3:], target[3:])
    torch.testing.assert_close((first + second) / size(objective, labels), whole)


# ------------------------------------------------------------------------------------ meters
def by_hand(guess: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, float]:
    """All metrics by independent formulas."""
    label, picked = target["segmentation"].numpy(), guess["segmentation"].argmax(1).numpy()
    known = label >= 0
    shares = []
    for k in range(guess["segmentation"].shape[1]):
        union = ((label == k) | (picked == k)) & known
        if union.any():
            shares.append(((label == k) & (picked == k)).sum() / union.sum())
    depth = target["depth"].numpy().astype(np.float64)
    error = np.abs(guess["depth"].numpy() - depth)[depth != 0]
    values = {
        "mIoU": 100 * np.mean(shares),
        "PixAcc": 100 * (picked == label)[known].mean(),
        "AbsErr": error.mean(),
        "RelErr": (error / depth[depth != 0]).mean(),
    }
    if "normal" in target:
        a, b = (np.moveaxis(t["normal"].numpy().astype(np.float64), 1, 3) for t in (guess, target))
        a, b = (x[(target["normal"] != 0).any(1).numpy()] for x in (a, b))
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        angle = np.degrees(np.arccos(np.clip((a * b).sum(1) / lengths, -1, 1)))
        values |= {"AngleMean": angle.mean(), "AngleMedian": np.median(angle)}
        values |= {f"Within_{t:g}": 100 * (angle < t).mean() for t in (11.25, 22.5, 30)}
    return {name: float(value) for name, value in values.items()}


def measured(
    cls: type[DenseTask],
    guess: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    parts: Iterable[Any] = (slice(None),),
    legacy: bool = False,
) -> dict[str, float]:
    """All metrics by the meters, updated with these parts one after the other."""
    found = {}
    parts = list(parts)
    for info in cls.info.metrics:
        own = meter(info.name, cls.classes, legacy=legacy)
        for part in parts:
            own.update(guess[info.objective][part], target[info.objective][part])
        found[info.name] = float(own.compute())
    return found


def near(cls: type[DenseTask], n: int, noise: float) -> tuple[dict[str, Any], ...]:
    """Predictions that are better than chance."""
    guess, target = predictions(cls, n)
    one_hot = F.one_hot(target["segmentation"].clamp(min=0), cls.classes).movedim(3, 1)
    signal = {"segmentation": one_hot.float(), **{k: v for k, v in target.items() if v.dim() == 4}}
    return {k: signal[k] + noise * v for k, v in guess.items()}, target


@both
@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_meters_equal_independent_formulas(cls: type[DenseTask], noise: float) -> None:
    guess, target = near(cls, 7, noise)
    expected = by_hand(guess, target)
    assert list(expected) == [m.name for m in cls.info.metrics]
    for parts in (
        [slice(None)],
        [slice(i, i + 1) for i in range(7)],
        [[6, 0], [3, 1, 2], [4], [5]],
        [slice(0, 6), slice(6, 7)],
    ):
        found = measured(cls, guess, target, parts)
        for name, value in expected.items():
            tolerance = BIN if name == "AngleMedian" else 0
            assert found[name] == pytest.approx(value, rel=1e-5, abs=tolerance), name


def test_classes_that_never_occur_are_left_out() -> None:
    target = torch.tensor([[[0, 1, 1, -1]]])
    guess = F.one_hot(torch.tensor([[[0, 1, 0, 6]]]), 7).movedim(3, 1).float()
    own = meter("mIoU", 7, legacy=False)
    own.update(guess, target)
    assert float(own.compute()) == pytest.approx(50.0)  # 6 is predicted on an ignored pixel only
    own.update(F.one_hot(torch.tensor([[[6]]]), 7).movedim(3, 1).float(), torch.tensor([[[0]]]))
    assert float(own.compute()) == pytest.approx(100 * (1 / 3 + 1 / 2 + 0) / 3)


@pytest.mark.parametrize("n", [1, 2, 999, 1000])
def test_median_of_odd_and_even_numbers(n: int) -> None:
    angle = np.random.default_rng(0).uniform(0, 180, n)
    radians = torch.from_numpy(np.radians(angle)).float()
    vectors = torch.stack([radians.cos(), radians.sin(), torch.zeros(n)]).reshape(1, 3, n, 1)
    axis = torch.tensor([1.0, 0, 0]).reshape(1, 3, 1, 1).expand(1, 3, n, 1)
    median = MedianAngle()
    median.update(vectors, axis)
    assert float(median.compute()) == pytest.approx(np.median(angle), abs=BIN)


def test_extreme_angles() -> None:
    axis = torch.tensor([0.0, 0, 2.0]).reshape(1, 3, 1, 1)
    for sign, expected in ((1, 0), (-1, 180)):
        median, mean = MedianAngle(), PixelMean(angles)
        for each in (median, mean):
            each.update(sign * axis, axis / 2)
            assert float(each.compute()) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("name", [m.name for m in NYUv2.info.metrics])
def test_states_of_processes_are_merged(name: str) -> None:
    (info,) = [m for m in NYUv2.info.metrics if m.name == name]
    guess, target = (x[info.objective] for x in near(NYUv2, 5, 0.5))
    parts = [slice(0, 2), slice(2, 5)]

    def inner(of: Metric) -> Metric:
        found = getattr(of, "metric_a", of)  # of a product with 100
        assert isinstance(found, Metric)
        return found

    whole, *halves = (meter(name, NYUv2.classes, legacy=False) for _ in range(3))
    whole.update(guess, target)
    for half, part in zip(halves, parts, strict=True):
        half.update(guess[part], target[part])
    inner(halves[0]).merge_state(inner(halves[1]))
    assert float(halves[0].compute()) == pytest.approx(float(whole.compute()), rel=1e-12)


def test_legacy_averages_the_batches() -> None:
    guess, target = near(NYUv2, 5, 0.3)
    target["depth"][2:3] = 0  # a batch without a valid pixel is left out
    target["normal"][2:3] = 0
    parts = [slice(0, 2), slice(2, 3), slice(3, 5)]
    found = measured(NYUv2, guess, target, parts, legacy=True)
    batches = [
        by_hand({k: v[p] for k, v in guess.items()}, {k: v[p] for k, v in target.items()})
        for p in (parts[0], parts[2])
    ]
    pooled = by_hand(guess, target)
    for name, value in found.items():
        segmentation = name in ("mIoU", "PixAcc")
        expected = pooled[name] if segmentation else np.mean([b[name] for b in batches])
        assert value == pytest.approx(expected, rel=1e-5), name
    assert found["AngleMedian"] != pytest.approx(pooled["AngleMedian"], abs=BIN)


@both
def test_meters_of_nothing_are_no_numbers(cls: type[DenseTask]) -> None:
    guess, target = predictions(cls, 1)
    target = {k: v * 0 - (1 if k == "segmentation" else 0) for k, v in target.items()}
    found = measured(cls, guess, target)
    assert all(np.isnan(v) for name, v in found.items() if name != "PixAcc")
    assert all(
        np.isnan(v)
        for name, v in measured(cls, guess, target, legacy=True).items()
        if name != "PixAcc"
    )


@both
def test_metrics_are_those_of_the_published_tables(cls: type[DenseTask]) -> None:
    path = Path(__file__).parents[2] / "leaderboards/published" / f"{cls.info.name}.csv"
    rows = [line.split(",")[:4] for line in path.read_text().splitlines()[1:]]
    published = {row[2] for row in rows if row[1] == "STL"}
    assert {m.name for m in cls.info.metrics} == published - {"Delta_m_pct", "MR"}


# ------------------------------------------------------------------------------------ bad input
def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def edit(change: Any) -> Any:
    def apply(path: Path) -> None:
        np.save(path, change(np.load(path)))

    return apply


def put(value: float) -> Any:
    def change(array: Array) -> Array:
        array[3, 4] = value
        return array

    return edit(change)


BAD = {
    "missing": ("train/depth/2.npy", Path.unlink, "is missing"),
    "truncated": ("train/image/1.npy", truncate, "cannot be read .*: expected a NumPy array"),
    "empty": ("val/label/0.npy", lambda p: p.write_bytes(b""), "cannot be read"),
    "a page": ("val/label/0.npy", lambda p: p.write_text("<html>404</html>"), "cannot be read"),
    "pickled": (
        "val/depth/1.npy",
        lambda p: np.save(p, np.array([{}]), allow_pickle=True),
        "cannot be read",
    ),
    "small": (
        "train/image/4.npy",
        edit(lambda a: a[:, :-1]),
        r"has the shape \(12, 17, 3\): expected \(12, 18, 3\)",
    ),
    "channels first": (
        "train/normal/0.npy",
        edit(lambda a: a.transpose(2, 0, 1)),
        r"has the shape \(3, 12, 18\): expected \(12, 18, 3\)",
    ),
    "no depth": (
        "train/depth/0.npy",
        edit(lambda a: a.repeat(2, 2)),
        r"has the shape \(12, 18, 2\): expected \(12, 18\) or \(12, 18, 1\)",
    ),
    "label": ("train/label/0.npy", put(13), "has 1 values from 13 to 13: expected -1 to 12"),
    "void": ("val/label/2.npy", put(255), "has 1 values from 255 to 255: expected -1 to 12"),
    "half": ("val/label/2.npy", put(1.5), "no class ids: expected whole numbers"),
    "nan": ("val/depth/2.npy", put(np.nan), "has 1 values that are not finite"),
    "inf": ("train/image/2.npy", put(np.inf), "has 3 values that are not finite"),
    "negative": ("train/depth/3.npy", put(-1), "has 1 values from -1 to -1: expected 0 to 20"),
    "bytes": (
        "train/image/3.npy",
        edit(lambda a: (255 * a).astype(np.uint8)),
        "has the dtype uint8: expected floating-point numbers",
    ),
    "bright": ("train/image/3.npy", edit(lambda a: a * 255), "values from .*: expected 0 to 1"),
    "stray": (
        "train/depth/5 (copy).npy",
        lambda p: np.save(p, np.zeros(1)),
        "has no number for a name",
    ),
}


@pytest.mark.parametrize(("file", "harm", "message"), BAD.values(), ids=BAD.keys())
def test_bad_files_are_named(tmp_path: Path, file: str, harm: Any, message: str) -> None:
    write(NYUv2, tmp_path)
    harm(tmp_path / file)
    with pytest.raises(DataError, match=rf"{re.escape(file)} .*{message}"):
        NYUv2(protocol(NYUv2), tmp_path)
    (fault,) = NYUv2.verify(tmp_path)
    assert fault.file == tmp_path / file
    assert re.search(message, fault.what)


def test_verify_names_all_faults_at_once(tmp_path: Path) -> None:
    write(NYUv2, tmp_path)
    assert list(NYUv2.verify(tmp_path)) == []
    one_per_file = {file: (harm, message) for file, harm, message in BAD.values()}
    for file, (harm, _) in one_per_file.items():
        harm(tmp_path / file)
    found = list(NYUv2.verify(tmp_path))
    assert sorted(fault.file for fault in found) == sorted(tmp_path / f for f in one_per_file)


def test_several_faults_of_a_file(tmp_path: Path) -> None:
    write(NYUv2, tmp_path)
    path = tmp_path / "val/image/0.npy"
    put(np.nan)(path)
    edit(lambda a: 2 * a[1:])(path)
    assert [fault.what.partition(" values")[0] for fault in NYUv2.verify(tmp_path)] == [
        "has the shape (11, 18, 3): expected (12, 18, 3)",
        "has 3",
        next(f.what.partition(" values")[0] for f in [*NYUv2.verify(tmp_path)][2:]),
    ]


def test_lengths_of_normals(tmp_path: Path) -> None:
    """Odd ones are told, but do no harm."""
    content = write(NYUv2, tmp_path)
    path = tmp_path / "train/normal/1.npy"
    edit(lambda a: a * 0.9)(path)
    valid = np.count_nonzero(content["train"][1]["normal"].any(2))
    (fault,) = NYUv2.verify(tmp_path)
    assert fault.file == path
    assert fault.what == f"has {valid} vectors whose length is neither 1 nor 0"
    NYUv2(protocol(NYUv2), tmp_path)


@both
def test_missing_folders(cls: type[DenseTask], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train/image is missing or empty: expected .*mtan"):
        cls(protocol(cls), tmp_path)
    assert len(list(cls.verify(tmp_path))) == 2 * len(cls.kinds)
    write(cls, tmp_path)
    for path in (tmp_path / "val/depth").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="val/depth is missing or empty"):
        cls(protocol(cls), tmp_path)


def test_a_sample_that_is_left_out(tmp_path: Path) -> None:
    write(Cityscapes, tmp_path)
    for kind in ("image", "label_7", "depth"):
        (tmp_path / f"train/{kind}/2.npy").unlink()
    with pytest.raises(DataError, match="train has no sample 2 but a sample 4"):
        Cityscapes(protocol(Cityscapes), tmp_path)
    (fault,) = Cityscapes.verify(tmp_path)
    assert fault.file == tmp_path / "train"


# ------------------------------------------------------------------------------------ pictures
@both
def test_pictures(cls: type[DenseTask], tmp_path: Path) -> None:
    write(cls, tmp_path)
    task = cls(protocol(cls), tmp_path)
    (group,) = next(iter(task.batches("val", None)))
    plain = task.pictures(group, None)
    assert len(plain) == 2
    assert [p.title for p in plain[0]] == ["image", *cls.info.objectives]
    guess, _ = predictions(cls, 2)
    row = task.pictures(group, guess)[1]
    assert len(row) == 1 + 3 * len(cls.info.objectives)
    assert len(task.pictures(group, {"depth": guess["depth"]})[0]) == len(plain[0]) + 2
    for panel in row:
        assert panel.values.shape == (*SIZE, 3) if panel.kind == "rgb" else SIZE
        if panel.kind == "rgb":
            assert 0 <= np.nanmin(panel.values) <= np.nanmax(panel.values) <= 1
        if panel.kind == "error":
            assert np.nanmin(panel.values) >= 0
    label, depth = group.targets["segmentation"][1], group.targets["depth"][1, 0]
    wrong = row[3].values
    assert np.array_equal(np.isnan(wrong), label == -1)
    picked = guess["segmentation"][1].argmax(0)
    assert np.nansum(wrong) == ((picked != label) & (label != -1)).sum()
    assert np.array_equal(np.isnan(row[6].values), depth == 0)
    known = depth != 0
    error = (guess["depth"][1, 0] - depth).abs()[known]
    np.testing.assert_allclose(row[6].values[known.numpy()], error, rtol=1e-5)


def test_pictures_of_an_image_without_a_valid_pixel(tmp_path: Path) -> None:
    guess, target = predictions(NYUv2, 1)
    write(NYUv2, tmp_path)
    task = NYUv2(protocol(NYUv2), tmp_path)
    nothing = {k: v * 0 - (1 if k == "segmentation" else 0) for k, v in target.items()}
    (row,) = task.pictures(InputGroup(torch.rand(1, 3, *SIZE), nothing), guess)
    assert np.isnan(row[4].values).all()
    assert np.isnan(row[7].values).all()


# ------------------------------------------------------------------------------------ stand-ins
SMALL = (32, 48)
IMAGES = {"train": 6, "val": 2, "test": 3}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of its own, and recipes of few and small scenes, made in this process."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTLBENCH_CACHE", str(folder))
        patch.setattr("mtlbench.data.standin.generation.cores", lambda: 1)
        for cls in TASK_CLASSES:
            assert cls.recipe is not None
            few = dataclasses.replace(cls.recipe, counts={"train": 8, "val": 3}, size=SMALL)
            patch.setattr(cls, "recipe", few)
        yield folder


def generated(cls: type[DenseTask]) -> DenseTask:
    return cls(dataclasses.replace(protocol(cls, "mini", images=IMAGES), batch_size=4))


@both
def test_without_a_folder_scenes_stand_in(cls: type[DenseTask], cache: Path) -> None:
    task = generated(cls)
    assert task.stand_in
    scenery = {"cityscapes": "streets", "nyuv2": "rooms"}[cls.info.name]
    generated_images = f"generated {scenery} v1 (stand-in), 11 images 32x48"
    assert task.data_source == f"{generated_images}, split 6/2/3, {AVERAGED}"
    folder = task.samples["train"].folder.parent
    assert folder.is_relative_to(cache)
    assert list(cls.verify(folder)) == []
    splits = [collect(task.batches(split, None)) for split in ("train", "val", "test")]
    images = torch.cat([x["image"] for x in splits])
    assert len(images.flatten(1).unique(dim=0)) == 11
    found = {name: torch.cat([x[name] for x in splits]) for name in splits[0]}
    assert found["segmentation"].min() >= -1
    assert len(found["segmentation"].unique()) > cls.classes - 2
    assert 0.5 < (found["depth"] != 0).double().mean() < 1
    if "normal" in found:
        valid = (found["normal"] != 0).any(1)
        torch.testing.assert_close(valid, found["depth"][:, 0] != 0)
        lengths = found["normal"].norm(dim=1)[valid]
        torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_inverse_depth_of_streets(cache: Path) -> None:
    from mtlbench.tasks._scenes.streets import STREET_CLASSES, street

    folder = generated(Cityscapes).samples["train"].folder
    scene, inverse = street(2, *SMALL), np.load(folder / "depth/2.npy")[..., 0]
    sky = scene.label == STREET_CLASSES.index("sky")
    assert not inverse[sky].any()
    seen = scene.depth > INVERSE_METRES / NEAREST
    np.testing.assert_allclose(1.8499 / inverse[seen], scene.depth[seen], rtol=1e-3)
    assert not inverse[~seen].any()
    assert inverse.max() <= 0.4922
    assert pytest.approx(3.76, abs=0.01) == INVERSE_METRES / NEAREST


@both
def test_a_generated_folder_is_never_called_real(
    cls: type[DenseTask], cache: Path, tmp_path: Path
) -> None:
    own = generated(cls)
    folder = tmp_path / "copy"
    shutil.copytree(own.samples["train"].folder.parent, folder)
    task = cls(own.protocol, folder)
    assert task.stand_in
    assert task.data_source == own.data_source
    edit(lambda a: a / 2)(folder / "train/depth/0.npy")
    with pytest.raises(DataError, match=rf"{standin.MANIFEST} .*changed or deleted"):
        cls(own.protocol, folder)
    (folder / standin.MANIFEST).rename(folder / ".unfinished.json")
    with pytest.raises(DataError, match="half-made"):
        cls(own.protocol, folder)


def test_seeds_of_train_and_val_are_disjoint() -> None:
    for cls in TASK_CLASSES:
        assert cls.recipe is not None
        assert max(cls.recipe.counts.values()) < 1_000_000


# ------------------------------------------------------------------------------------ networks
@both
@torch.no_grad()
def test_networks_predict_every_objective(cls: type[DenseTask], cache: Path) -> None:
    task = generated(cls)
    (group,) = next(iter(task.batches("val", None)))
    channels = {"segmentation": cls.classes, "depth": 1, "normal": 3}
    for arch in cls.info.architectures:
        with torch.device("meta"):  # a network without numbers
            heads = task.build_model(arch).heads
        last = {
            k: [m for m in head.modules() if isinstance(m, Conv2d)][-1] for k, head in heads.items()
        }
        assert {k: m.out_channels for k, m in last.items()} == {
            k: channels[k] for k in cls.info.objectives
        }
    out = task.build_model("unet").eval()(group.inputs)
    for name, prediction in out.items():
        assert prediction.shape == (2, channels[name], *SMALL)
        assert task.loss(name, prediction, group.targets[name]).isfinite()
    if "normal" in out:
        lengths = out["normal"].norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))


def train(task: DenseTask, epochs: int) -> list[float]:
    """Mean losses of the epochs of plain training."""
    torch.manual_seed(0)
    model = task.build_model("unet")
    optimizer = torch.optim.Adam(model.parameters(), lr=task.protocol.lr)
    history = []
    for epoch in range(epochs):
        total = []
        for (group,) in task.batches("train", epoch):
            optimizer.zero_grad()
            out = model(group.inputs)
            losses = torch.stack([task.loss(k, out[k], t) for k, t in group.targets.items()])
            torch.autograd.backward(losses.sum())
            optimizer.step()
            total.append(losses.sum().item())
        history.append(float(np.mean(total)))
    return history


@both
def test_learns(cls: type[DenseTask], cache: Path) -> None:
    history = train(generated(cls), 8)
    assert history[-1] < 0.75 * history[0]


def trivial(task: DenseTask) -> dict[str, float]:
    """Metrics on val of the commonest class, the median depth and the mean normal of train."""
    known, val = collect(task.batches("train", None)), collect(task.batches("val", None))
    label, depth = known["segmentation"], known["depth"]
    n, _, height, width = val["image"].shape
    commonest = F.one_hot(label[label >= 0].bincount().argmax(), task.classes).float()
    constants = {"segmentation": commonest, "depth": depth[depth != 0].median()[None]}
    if "normal" in known:
        constants["normal"] = known["normal"].mean((0, 2, 3))
    guess = {k: c[None, :, None, None].expand(n, -1, height, width) for k, c in constants.items()}
    return measured(type(task), guess, val)


@both
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_protocol_leaves_the_underfitting_regime(cls: type[DenseTask]) -> None:
    task = cls(cls.info.protocols[0])
    with seeded(0):
        trainer = Trainer(
            task,
            cls.info.objectives,
            architecture=task.protocol.arch,
            method=Spec("ls"),
            sharpness=Spec("none"),
            seed=0,
            device=torch.device("cpu"),
        )
        last = trainer.fit().last
    known, val = last["train"], last["val"]
    assert all(known.losses[name] < 0.85 * val.losses[name] for name in cls.info.objectives)
    constant = trivial(task)
    for metric in cls.info.metrics:
        found, baseline = val.metrics[metric.name], constant[metric.name]
        better = found / baseline if metric.higher_is_better else baseline / found
        assert better > 1.15, metric.name
        if metric.unit == "%":
            assert found < 95
