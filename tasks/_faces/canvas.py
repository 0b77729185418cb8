"""A picture that is painted shape by shape, with smooth edges."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[np.float32]

FINER = 2
"""Points that are painted for each pixel, along a side."""


class Canvas:
    """Shapes are functions of each point: its distance to their edge, negative inside.

    The picture is 2 high; x leads right and y down from its middle.

    Args:
        height: in pixels.
        width: in pixels.
        turn: of everything that is painted, in radians.
        scale: of it.
        shift: of it, right and down.
    """

    def __init__(
        self, height: int, width: int, turn: float, scale: float, shift: tuple[float, float]
    ) -> None:
        self.size = height, width
        rows, columns = FINER * height, FINER * width
        down, right = np.mgrid[0:rows, 0:columns].astype(np.float32)
        u, v = (2 * right + 1 - columns) / rows, (2 * down + 1 - rows) / rows
        self.across, self.down = u, v
        """Where each point is on the picture."""
        c, s = np.cos(turn), np.sin(turn)
        self.x: Array = ((c * u + s * v) / scale - shift[0]).astype(np.float32)
        self.y: Array = ((c * v - s * u) / scale - shift[1]).astype(np.float32)
        self.edge = 2.2 / rows / scale
        """Width of a soft edge."""
        self.image: Array = np.zeros((rows, columns, 3), np.float32)

    def paint(self, mask: ArrayLike, colour: ArrayLike, opacity: float = 1.0) -> None:
        """Put a colour, or one a point, where a mask is 1, and a share of it where it is less."""
        share = np.clip(np.asarray(mask, np.float32), 0, 1) * np.float32(opacity)
        touched = np.flatnonzero(share.any(1))
        if not len(touched):
            return
        rows = slice(touched[0], touched[-1] + 1)
        colours = np.asarray(colour, np.float32)
        if colours.ndim == 3:
            colours = colours[rows]
        part = self.image[rows]
        part += share[rows, :, None] * (colours - part)

    def inside(self, distance: Any) -> Array:
        """The mask of a shape."""
        return np.asarray(np.clip(0.5 - distance / self.edge, 0, 1), np.float32)

    def ellipse(self, x: float, y: float, rx: float, ry: float) -> Array:
        """An ellipse around (x, y)."""
        radius = np.sqrt(((self.x - x) / rx) ** 2 + ((self.y - y) / ry) ** 2)
        return np.asarray((radius - 1) * min(rx, ry), np.float32)

    def arc(self, x: float, y: float, half: float, bend: float, thick: float) -> Array:
        """A stroke ``2 half`` wide through (x, y), its ends ``bend`` lower."""
        along = self.x - x
        across = np.abs(self.y - y - bend * (along / half) ** 2) - thick
        return np.asarray(np.maximum(across, np.abs(along) - half), np.float32)

    def glow(self, x: float, y: float, radius: float) -> Array:
        """A mask without an edge."""
        square = (self.x - x) ** 2 + (self.y - y) ** 2
        return np.asarray(np.exp(-square / radius**2), np.float32)

    def finish(self, blur: float, noise: Array) -> NDArray[np.uint8]:
        """The picture, (H, W, 3).

        Args:
            blur: standard deviation, as a share of the picture's height.
            noise: what is added, (H, W, 3).
        """
        height, width = self.size
        image = self.image.reshape(height, FINER, width, FINER, 3).mean((1, 3))
        if blur:
            image = gaussian_filter(image, (blur * height, blur * height, 0), mode="nearest")
        return np.asarray(255 * np.clip(image + noise, 0, 1) + 0.5, np.float64).astype(np.uint8)
