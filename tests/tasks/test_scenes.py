from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mtlbench.tasks._scenes import ROOM_CLASSES, STREET_CLASSES, Scene, room, rooms, street, streets

Generate = Callable[..., Scene]
SMALL: dict[Generate, tuple[int, int]] = {street: (64, 128), room: (72, 96)}
CLASSES: dict[Generate, tuple[str, ...]] = {street: STREET_CLASSES, room: ROOM_CLASSES}
FOV: dict[Generate, float] = {street: streets.FOV, room: rooms.FOV}
COUNT = 40

both = pytest.mark.parametrize("generate", list(SMALL), ids=lambda f: f.__name__)


@pytest.fixture(scope="module")
def scenes() -> dict[Generate, list[Scene]]:
    return {f: [f(seed, *size) for seed in range(COUNT)] for f, size in SMALL.items()}


def same(a: Scene, b: Scene) -> bool:
    return all(vars(a)[name].tobytes() == vars(b)[name].tobytes() for name in vars(a))


# ------------------------------------------------------------------------------------ contents
@both
def test_shapes_types_and_ranges(generate: Generate, scenes: dict[Generate, list[Scene]]) -> None:
    size = SMALL[generate]
    for scene in scenes[generate]:
        assert scene.image.shape == scene.normal.shape == (*size, 3)
        assert scene.label.shape == scene.depth.shape == size
        assert scene.image.dtype == scene.depth.dtype == scene.normal.dtype == np.float32
        assert scene.label.dtype == np.int64
        assert scene.image.min() >= 0
        assert scene.image.max() <= 1
        assert scene.image.std() > 0.05
        assert scene.label.min() >= -1
        assert scene.label.max() < len(CLASSES[generate])
        assert np.isfinite(scene.depth).all()
        assert scene.depth.min() >= 0


@both
def test_normals_are_of_unit_length_where_the_depth_is_valid(
    generate: Generate, scenes: dict[Generate, list[Scene]]
) -> None:
    for scene in scenes[generate]:
        length = np.linalg.norm(scene.normal, axis=2)
        np.testing.assert_allclose(length, scene.depth > 0, atol=1e-5)


def test_what_has_no_depth(scenes: dict[Generate, list[Scene]]) -> None:
    for scene in scenes[street]:
        sky_or_ignored = np.isin(scene.label, (-1, STREET_CLASSES.index("sky")))
        np.testing.assert_array_equal(scene.depth == 0, sky_or_ignored)
        assert 0.03 < (scene.label == -1).mean() < 0.2
    missing = np.array([(scene.depth == 0).mean() for scene in scenes[room]])
    assert missing.max() < 0.3
    assert 0.005 < missing.mean() < 0.1
    assert all((scene.label >= 0).all() for scene in scenes[room])


@both
def test_depth_is_not_a_function_of_the_row(
    generate: Generate, scenes: dict[Generate, list[Scene]]
) -> None:
    log = np.log([np.where(s.depth > 0, s.depth, np.nan) for s in scenes[generate]])
    by_row = np.nanmean(log[:, 5:-10], axis=(0, 2))
    left = np.nanstd(log[:, 5:-10] - by_row[:, None])
    assert left > 0.5 * np.nanstd(log[:, 5:-10])


@both
def test_every_class_is_common_and_large_enough(
    generate: Generate, scenes: dict[Generate, list[Scene]]
) -> None:
    """In at least 60 % of the streets and 25 % of the rooms, and on a fair share of the pixels."""
    labels = np.stack([scene.label for scene in scenes[generate]])
    least = {street: 0.6, room: 0.25}[generate]
    for k, name in enumerate(CLASSES[generate]):
        shares = (labels == k).mean((1, 2))
        assert (shares > 0.002).mean() >= least, name
        assert 0.005 < shares.mean() < 0.5, name


def test_people_and_poles_are_large(scenes: dict[Generate, list[Scene]]) -> None:
    for name, share in (("human", 0.75), ("object", 0.6)):
        shares = [(s.label == STREET_CLASSES.index(name)).mean() for s in scenes[street]]
        assert np.mean(np.array(shares) > 0.01) > share, name


# ------------------------------------------------------------------------------------ geometry
def normals_of_depth(depth: NDArray[Any], fov: float) -> NDArray[np.float64]:
    """Normals (H - 2, W - 2, 3) of the surface through the back-projected neighbours of a pixel."""
    height, width = depth.shape
    focal = width / 2 / math.tan(math.radians(fov) / 2)
    x = (np.arange(width) + 0.5 - width / 2) / focal
    y = -(np.arange(height) + 0.5 - height / 2) / focal
    z = depth.astype(np.float64)
    points = np.stack([z * x, z * y[:, None], -z], 2)
    across = points[1:-1, 2:] - points[1:-1, :-2]
    up = points[:-2, 1:-1] - points[2:, 1:-1]
    normal = np.cross(across, up)
    return np.asarray(normal / np.maximum(np.linalg.norm(normal, axis=2, keepdims=True), 1e-12))


@both
def test_normals_are_those_of_the_depth(generate: Generate) -> None:
    """Inside smooth surfaces: where the normals around a pixel are about its own."""
    for seed in range(3):
        scene = generate(seed, *(2 * side for side in SMALL[generate]))
        normal, valid = scene.normal[1:-1, 1:-1], np.ones(scene.depth[1:-1, 1:-1].shape, bool)
        for rows in (slice(0, -2), slice(1, -1), slice(2, None)):
            for columns in (slice(0, -2), slice(1, -1), slice(2, None)):
                valid &= (scene.normal[rows, columns] * normal).sum(2) > 0.98
                valid &= scene.label[rows, columns] == scene.label[1:-1, 1:-1]
        assert valid.mean() > 0.3
        ours, expected = normal[valid], normals_of_depth(scene.depth, FOV[generate])[valid]
        angle = np.degrees(np.arccos(np.clip((ours * expected).sum(1), -1, 1)))
        assert np.median(angle) < 3
        assert (angle < 10).mean() > 0.9


@both
def test_surfaces_face_the_viewer(generate: Generate, scenes: dict[Generate, list[Scene]]) -> None:
    height, width = SMALL[generate]
    scale = math.tan(math.radians(FOV[generate]) / 2)
    x = ((np.arange(width) + 0.5) / width * 2 - 1) * scale
    y = -((np.arange(height) + 0.5) / height * 2 - 1) * scale * height / width
    for scene in scenes[generate]:
        along = scene.normal[..., 0] * x + scene.normal[..., 1] * y[:, None] - scene.normal[..., 2]
        assert along.max() < 1e-4


# ------------------------------------------------------------------------------------ seeds, sizes
@both
def test_a_seed_is_a_scene_whatever_was_made_before(
    generate: Generate, scenes: dict[Generate, list[Scene]]
) -> None:
    street(100, 16, 32)
    room(100, 16, 32)
    np.random.default_rng().random(3)
    assert same(generate(COUNT - 1, *SMALL[generate]), scenes[generate][-1])
    assert not same(scenes[generate][0], scenes[generate][1])


@both
def test_the_size_does_not_change_the_scene(
    generate: Generate, scenes: dict[Generate, list[Scene]]
) -> None:
    for seed in (0, 1):
        small, large = (
            scenes[generate][seed],
            generate(seed, *(2 * side for side in SMALL[generate])),
        )
        assert (large.label[::2, ::2] == small.label).mean() > 0.85
        known = (large.depth[::2, ::2] > 0) & (small.depth > 0)
        ratio = large.depth[::2, ::2][known] / small.depth[known]
        assert np.median(np.abs(ratio - 1)) < 0.02
        assert abs(float(large.image.mean() - small.image.mean())) < 0.02


@both
@pytest.mark.parametrize("size", [(0, 128), (64, 15), (-64, 128)])
def test_a_size_that_is_too_small(generate: Generate, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"no scene of {size[0]} x {size[1]} pixels: .* least 16"):
        generate(0, *size)


@both
@pytest.mark.parametrize("size", [(16, 16), (17, 33), (64, 20)])
def test_odd_sizes(generate: Generate, size: tuple[int, int]) -> None:
    assert generate(0, *size).image.shape == (*size, 3)
