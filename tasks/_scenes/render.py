"""From solids to a picture: light and shadow, haze, the camera's sensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from mtlbench.errors import UsageError
from mtlbench.tasks._scenes.geometry import (
    Placed,
    Solid,
    Vector,
    View,
    cast,
    pixel_grid,
    surface,
    turn,
)
from mtlbench.tasks._scenes.textures import Array, Colour, noise, paint

SMALLEST = 16
IGNORED = -1
OFFSET = 0.02
"""A shadow begins this many metres behind what casts it: rounding must not shade a surface."""


@dataclass(frozen=True)
class Scene:
    """A picture, and what there is to know of each pixel.

    Args:
        image: (H, W, 3) float32 in [0, 1].
        label: (H, W) int64, the id of the class; -1 is to be ignored.
        depth: (H, W) float32, metres along the optical axis; 0 is invalid.
        normal: (H, W, 3) float32 of unit length in the camera's frame, x right, y up, z towards
            the viewer; 0 where the depth is invalid.
    """

    image: NDArray[np.float32]
    label: NDArray[np.int64]
    depth: NDArray[np.float32]
    normal: NDArray[np.float32]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Args:
        yaw: of the optical axis, from z towards x.
        pitch: of the optical axis, above the horizon.
        fov: angle of view from the left to the right edge, in degrees.
    """

    position: Vector
    yaw: float
    pitch: float
    fov: float

    @property
    def view(self) -> View:
        return View(self.position, turn(self.yaw, self.pitch))

    @property
    def half_width(self) -> float:
        """Of the picture, if it were one metre ahead."""
        return math.tan(math.radians(self.fov) / 2)

    def plane(self, height: int, width: int) -> Array:
        """The pixels' centres (2, height * width) one metre ahead, row by row."""
        x, y = pixel_grid(height, width)
        x, y = np.broadcast_arrays(x, -y * height / width)
        return np.stack([x.ravel(), y.ravel()]) * self.half_width


@dataclass(frozen=True)
class Light:
    """A lamp, or the sun far away, and what comes from everywhere.

    Args:
        aim: what the lamp points at; it shines into the half space before it.
        strength: of the lamp's light, where it falls straight on.
        ambient: of the light from everywhere.
        reach: metres from the lamp at which it is half as strong.
    """

    position: Vector
    aim: Vector
    strength: float
    ambient: float
    colour: Colour = (1.0, 1.0, 1.0)
    reach: float = math.inf

    @property
    def view(self) -> View:
        x, y, z = np.subtract(self.aim, self.position).tolist()
        return View(self.position, turn(math.atan2(x, z), math.atan2(y, math.hypot(x, z))))


@dataclass(frozen=True)
class Sky:
    """What is behind everything, and the haze before it.

    Args:
        haze: metres after which 63 % of a thing's own colour is lost.
        clouds: share of the sky.
    """

    label: int
    horizon: Colour
    zenith: Colour
    haze: float
    clouds: float

    def colour(self, rays: Array, shift: float) -> Array:
        """Colours (3, n) along world directions (3, n)."""
        up = np.maximum(rays[1] / np.sqrt((rays**2).sum(0)), 0.02)
        cloud = noise(rays[0] / up / 30, rays[2] / up / 30, shift) + self.clouds - 1
        high = np.clip(up / 0.35, 0, 1)
        blue = np.outer(self.horizon, 1 - high) + np.outer(self.zenith, high)
        return blue + 0.8 * np.clip(3 * cloud, 0, 1) * (0.95 - blue)


def check_size(height: int, width: int) -> None:
    """Refuse a picture that is too small to show anything.

    Raises:
        UsageError: a side is shorter than 16 pixels.
    """
    if min(height, width) < SMALLEST:
        raise UsageError(
            f"no scene of {height} x {width} pixels: height and width are at least {SMALLEST}"
        )


def render(
    solids: Sequence[Solid],
    camera: Camera,
    light: Light,
    height: int,
    width: int,
    rng: Generator,
    sky: Sky | None = None,
) -> Scene:
    """The scene that the camera sees.

    Args:
        rng: of exposure and noise; nothing else depends on it.
        sky: behind everything; without one what the rays miss is black and ignored.
    """
    view, plane = camera.view, camera.plane(height, width)
    placed = Placed.of(solids)
    depth, nearest = cast(placed, view, plane)
    rays = view.rays(plane)
    met = np.flatnonzero(nearest >= 0)
    index, distance, towards = nearest[met], depth[met], rays[:, met]
    points = np.array(view.position)[:, None] + distance * towards
    normals, u, v = surface(placed, index, points)

    towards = towards / np.sqrt((towards**2).sum(0))
    facing = np.maximum(-(normals * towards).sum(0), 0.1)
    pixel = distance * (2 * camera.half_width / width) / facing
    colours, sensed = paint([s.material for s in solids], index, u, v, pixel)
    # What looks small casts no shadow that is worth its time.
    far = np.sqrt(((placed.centre - view.position) ** 2).sum(1))
    casts = np.array([s.casts for s in solids]) & (placed.half.max(1) > 0.03 * far)
    casters = placed.only(np.flatnonzero(casts))
    colours = colours * _brightness(casters, light, points, normals)
    gloss = np.array([s.material.gloss for s in solids])[index]
    k = np.flatnonzero(gloss)
    glint = _glint(light, points[:, k], normals[:, k], towards[:, k])
    colours[:, k] += gloss[k] * light.strength * glint

    image = np.zeros_like(rays)
    label = np.full(len(depth), IGNORED if sky is None else sky.label)
    if sky is not None:
        k = np.flatnonzero(nearest < 0)
        image[:, k] = sky.colour(rays[:, k], light.position[0])
        clear = np.exp(-distance / sky.haze)
        colours = clear * colours + np.outer(sky.horizon, 1 - clear)
    image[:, met] = colours
    label[met] = np.array([s.label for s in solids])[index]
    valid, faces = np.zeros_like(depth), np.zeros_like(rays)
    valid[met] = distance * sensed
    faces[:, met] = view.axes.T @ normals * sensed * [[1], [1], [-1]]

    def picture(values: Array) -> Array:
        return values.reshape(-1, height, width).transpose(1, 2, 0)

    return Scene(
        image=_sensor(picture(image), rng),
        label=label.reshape(height, width),
        depth=valid.reshape(height, width).astype(np.float32),
        normal=np.ascontiguousarray(picture(faces), np.float32),
    )


def _brightness(casters: Placed, light: Light, points: Array, normals: Array) -> Array:
    """How much light falls on each point, as a colour (3, n)."""
    away = points - np.array(light.position)[:, None]
    distance = np.sqrt((away**2).sum(0))
    straight = np.maximum(-(normals * away).sum(0) / distance, 0)
    # What the lamp sees is lit. Behind it is a ceiling that nothing shades.
    plane, depth = light.view.project(points)
    k = np.flatnonzero((straight > 0) & (depth > OFFSET))
    met, _ = cast(casters, light.view, plane[:, k])
    straight[k[depth[k] - met > OFFSET]] = 0
    strength = light.strength / (1 + (distance / light.reach) ** 2)
    ambient = light.ambient * (0.9 + 0.1 * normals[1])
    bright: Array = np.outer(light.colour, strength * straight) + ambient
    return bright


def _glint(light: Light, points: Array, normals: Array, towards: Array) -> Array:
    """The mirror image of the lamp (n,), seen along unit vectors (3, n)."""
    lamp = np.array(light.position)[:, None] - points
    half = lamp / np.sqrt((lamp**2).sum(0)) - towards
    cosine: Array = (half * normals).sum(0) / np.sqrt((half**2).sum(0))
    return np.power(np.maximum(cosine, 0), 32)


def _sensor(image: Array, rng: Generator) -> NDArray[np.float32]:
    """Exposure and white balance, a lens a little out of focus, noise, and clipping."""
    exposed = image * (rng.uniform(0.85, 1.15) * rng.uniform(0.95, 1.05, 3))
    for axis in (0, 1):
        margin = [(int(axis == k), int(axis == k)) for k in range(3)]
        padded = np.moveaxis(np.pad(exposed, margin, "edge"), axis, 0)
        blurred = 0.7 * padded[1:-1] + 0.15 * (padded[:-2] + padded[2:])
        exposed = np.moveaxis(blurred, 0, axis)
    exposed = exposed + 0.015 * rng.standard_normal(image.shape)
    return np.clip(exposed, 0, 1).astype(np.float32)
