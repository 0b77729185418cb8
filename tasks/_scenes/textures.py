"""Procedural textures: a pattern says where on its palette a point of the surface lies."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array = NDArray[np.float64]
Colour = tuple[float, float, float]
Range = tuple[float, float]
Pattern = Callable[[Array, Array, Array], Array]
"""From u and v (n,) in units of the pattern, and a shift (n,) that makes each solid's own, to
[0, 1]."""


@dataclass(frozen=True)
class Material:
    """What a surface looks like.

    Args:
        palette: up to four colours that the pattern mixes: 0 is the first and 1 the last.
        scale: units of the pattern in a metre.
        grain: how strongly the brightness varies from spot to spot.
        gloss: strength of the lamp's mirror image.
        unseen: share of the surface that a depth sensor gets no answer from.
    """

    palette: tuple[Colour, ...]
    pattern: str = "plain"
    scale: float = 1.0
    grain: float = 0.15
    gloss: float = 0.0
    unseen: float = 0.0


def paint(
    materials: Sequence[Material], which: NDArray[np.int64], u: Array, v: Array, size: Array
) -> tuple[Array, NDArray[np.bool_]]:
    """Colours (3, n) of the materials ``which`` (n,) at u and v in metres, and where a depth
    sensor sees them (n,).

    Args:
        size: of a pixel there (n,) in metres; a pattern finer than the pixels fades to its mean,
            as it does on a camera's sensor.
    """
    scale = np.array([m.scale for m in materials])[which]
    shift = np.random.default_rng(0).random(len(materials))[which]
    names = np.array([m.pattern for m in materials])
    where = np.zeros_like(u)
    for name in sorted(set(names[which].tolist())):
        k = np.flatnonzero((names == name)[which])
        where[k] = PATTERNS[name](u[k] * scale[k], v[k] * scale[k], shift[k])
    count = np.maximum(np.bincount(which, minlength=len(materials)), 1)
    mean = (np.bincount(which, where, len(materials)) / count)[which]
    where = mean + np.clip(1.5 - 2 * size * scale, 0, 1) * (where - mean)

    palettes = np.array([(*m.palette, *m.palette[-1:] * (5 - len(m.palette))) for m in materials])
    place = where * np.array([len(m.palette) - 1 for m in materials])[which]
    step = place.astype(np.int64)
    share = (place - step)[:, None]
    colours = (1 - share) * palettes[which, step] + share * palettes[which, step + 1]
    spots = 0.6 * noise(u, v, shift) + 0.4 * noise(5 * u, 5 * v, shift)
    colours *= (1 + np.array([m.grain for m in materials])[which] * (2 * spots - 1))[:, None]
    unseen = np.array([m.unseen for m in materials])[which]
    k = np.flatnonzero(unseen)
    seen = np.ones(len(u), bool)
    seen[k] = noise(u[k], v[k], shift[k] + 0.5) >= unseen[k]
    return colours.T, seen


# ------------------------------------------------------------------------------------ noise
TILE, TEXELS = 512, 64


@cache
def _tile() -> Array:
    """Smooth noise (512, 512) with a 1/f spectrum that repeats itself; uniform in [0, 1]."""
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)) * TILE
    amplitude = 1 / np.maximum(frequency, 6) ** 1.3
    spectrum = np.fft.rfft2(np.random.default_rng(0).standard_normal((TILE, TILE)))
    rough = np.fft.irfft2(spectrum * amplitude, (TILE, TILE)).ravel()
    ranks = np.empty(TILE * TILE)
    ranks[rough.argsort()] = np.linspace(0, 1, TILE * TILE)
    return ranks.reshape(TILE, TILE)


@cache
def _dice() -> Array:
    """Independent uniform values (512, 512)."""
    return np.random.default_rng(1).random((TILE, TILE))


def _look_up(table: Array, row: Array, column: Array) -> Array:
    flat = (row.astype(np.int64) & (TILE - 1)) * TILE + (column.astype(np.int64) & (TILE - 1))
    return table.ravel().take(flat)


def noise(u: Array, v: Array, shift: Array | float) -> Array:
    """Smooth noise in [0, 1], uniform, whose spots are about as large as a unit."""
    row = np.floor(TEXELS * (v + 11.9 * shift))
    return _look_up(_tile(), row, np.floor(TEXELS * (u + 37.3 * shift)))


def draw(i: Array, j: Array, shift: Array) -> Array:
    """A uniform value in [0, 1) for each cell (i, j) of a grid."""
    return _look_up(_dice(), np.floor(i + 997 * shift), np.floor(j + 613 * shift))


# ------------------------------------------------------------------------------------ patterns
def _plain(u: Array, v: Array, shift: Array) -> Array:
    return np.zeros_like(u)


def _checks(u: Array, v: Array, shift: Array) -> Array:
    return (np.floor(u) + np.floor(v)) % 2


def _tiles(u: Array, v: Array, shift: Array) -> Array:
    """The first colours for the tiles, the last for the joints."""
    joint = (u % 1 < 0.06) | (v % 1 < 0.06)
    return np.where(joint, 1.0, 0.4 * draw(np.floor(u), np.floor(v), shift))


def _bricks(u: Array, v: Array, shift: Array) -> Array:
    """Half as high as long; the last colour for the mortar."""
    row = np.floor(2 * v)
    along = u + row % 2 / 2
    mortar = (2 * v % 1 < 0.16) | (along % 1 < 0.08)
    return np.where(mortar, 1.0, 0.5 * draw(np.floor(along), row, shift))


def _planks(u: Array, v: Array, shift: Array) -> Array:
    """Boards along v; the last colour for the joints."""
    board = np.floor(u)
    end = (v / 8 + draw(board, board, shift)) % 1
    streaks = 0.4 * noise(4 * u, v / 4, shift) + 0.4 * draw(board, np.zeros_like(u), shift)
    return np.where((u % 1 < 0.05) | (end < 0.01), 1.0, streaks)


def _wood(u: Array, v: Array, shift: Array) -> Array:
    return noise(u / 4, 4 * v, shift)


def _cloth(u: Array, v: Array, shift: Array) -> Array:
    return noise(2 * u, 2 * v, shift)


def _stripes(u: Array, v: Array, shift: Array) -> Array:
    return (u % 1 < 0.5).astype(np.float64)


def _bars(u: Array, v: Array, shift: Array) -> Array:
    return (v % 1 < 0.5).astype(np.float64)


def _folds(u: Array, v: Array, shift: Array) -> Array:
    """Those of a curtain."""
    return 0.5 + 0.5 * np.sin(6 * u + 3 * noise(u / 4, v / 16, shift))


def _windows(u: Array, v: Array, shift: Array) -> Array:
    """A front: the first colour for the wall, the second for glass, the last for curtains."""
    i, j = np.floor(u), np.floor(v)
    x, y = np.abs(u - i - 0.5), np.abs(v - j - 0.55)
    pane = np.where(draw(i, j, shift) < 0.3, 1.0, 0.5)
    return np.where((x < 0.27) & (x > 0.025) & (y < 0.3), pane, 0.0)


def _leaves(u: Array, v: Array, shift: Array) -> Array:
    return 0.45 * noise(u, v, shift) + 0.55 * noise(4 * u, 4 * v, shift)


def _spines(u: Array, v: Array, shift: Array) -> Array:
    """Backs of books of all colours of the palette, wider and narrower."""
    book = np.floor(u + 0.8 * noise(u / 8, np.zeros_like(u), shift))
    return draw(book, np.zeros_like(u), shift)


def _painting(u: Array, v: Array, shift: Array) -> Array:
    return noise(u, v, shift)


def _screen(u: Array, v: Array, shift: Array) -> Array:
    """Half of the screens are switched off."""
    return np.where(shift < 0.5, 0.0, 0.3 + 0.7 * noise(u, v, shift))


def _outdoors(u: Array, v: Array, shift: Array) -> Array:
    """The view from a window: the first colours below, the last above."""
    return np.clip(0.5 + 0.6 * v + 0.5 * (noise(u, v, shift) - 0.5), 0, 1)


def _lanes(u: Array, v: Array, shift: Array) -> Array:
    """A road along v, in metres: dashes in the middle; the last colour for paint."""
    return ((np.abs(u) < 0.09) & (v % 6 < 3)).astype(np.float64)


PATTERNS: dict[str, Pattern] = {
    "plain": _plain,
    "checks": _checks,
    "tiles": _tiles,
    "bricks": _bricks,
    "planks": _planks,
    "wood": _wood,
    "cloth": _cloth,
    "stripes": _stripes,
    "bars": _bars,
    "folds": _folds,
    "windows": _windows,
    "leaves": _leaves,
    "spines": _spines,
    "painting": _painting,
    "screen": _screen,
    "outdoors": _outdoors,
    "lanes": _lanes,
}


# ------------------------------------------------------------------------------------ colours
def tint(rng: Generator, saturation: Range, value: Range) -> Colour:
    """A colour of any hue."""
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))


def near(rng: Generator, colour: Colour, by: float) -> Colour:
    """A colour like this one, brighter or darker by a share of at most ``by``."""
    gain = rng.uniform(1 - by, 1 + by) * rng.uniform(1 - by / 3, 1 + by / 3, 3)
    r, g, b = (gain * colour).tolist()
    return r, g, b
