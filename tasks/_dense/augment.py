"""Augmentation of images together with what is known of each pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from mtlbench.tasks._dense.folder import Size
from mtlbench.tasks._dense.losses import SHORTEST


@dataclass(frozen=True)
class Crops:
    """Which part of each of n images is enlarged to the whole, and whether it is mirrored.

    Args:
        scale: factors of enlargement, (n,).
        corner: top left pixels of the parts, (n, 2).
        mirror: (n,).
        size: of the images.
    """

    scale: Tensor
    corner: Tensor
    mirror: Tensor
    size: Size

    @classmethod
    def draw(cls, n: int, size: Size, scales: Sequence[float], seed: int) -> Crops:
        """One of the scales, any place and either side for each image, all alike probable."""
        rng = np.random.default_rng((seed, 1))  # not the generator that shuffles
        scale = torch.from_numpy(rng.choice(scales, n))
        part = torch.tensor(size) / scale.unsqueeze(1)
        room = torch.tensor(size) - part.long() + 1
        corner = (torch.from_numpy(rng.random((n, 2))) * room).long()
        return cls(scale, corner, torch.from_numpy(rng.random(n) < 0.5), size)

    def __getitem__(self, index: Tensor) -> Crops:
        return Crops(self.scale[index], self.corner[index], self.mirror[index], self.size)

    def __call__(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same parts of all arrays.

        Args:
            arrays: "image" and "normal" (n, 3, H, W), "segmentation" (n, H, W), "depth"
                (n, 1, H, W).
        """
        return {name: _RULES[name](self, array) for name, array in arrays.items()}

    def _lines(self, axis: int) -> tuple[Tensor, Tensor, int]:
        """Of rows or columns: the position (n, H) of each, the part's length (n,), and H."""
        full = self.size[axis]
        lines = torch.arange(full).expand(len(self.scale), -1)
        if axis:
            lines = torch.where(self.mirror.unsqueeze(1), full - 1 - lines, lines)
        return lines, (full / self.scale).long().unsqueeze(1), full

    def nearest(self, array: Tensor) -> Tensor:
        """Enlarged without a mixture of neighbours; (n, H, W) or (n, channels, H, W)."""
        row, column = (
            self.corner[:, axis, None] + lines * part // full
            for axis in (0, 1)
            for lines, part, full in [self._lines(axis)]
        )
        sample = torch.arange(len(array))[:, None, None]
        if array.dim() == 3:
            return array[sample, row[:, :, None], column[:, None, :]]
        return array[sample, :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)

    def bilinear(self, array: Tensor) -> Tensor:
        """Enlarged with linear interpolation between the corners' pixels; (n, channels, H, W)."""
        row, column = (
            (2 * self.corner[:, axis, None] + 2 * lines * (part - 1) / (full - 1)) / (full - 1) - 1
            for axis in (0, 1)
            for lines, part, full in [self._lines(axis)]
        )
        x, y = torch.broadcast_tensors(column[:, None, :], row[:, :, None])
        grid = torch.stack([x, y], 3).to(array.dtype)
        return grid_sample(array, grid, padding_mode="border", align_corners=True)


def _depth(crops: Crops, depth: Tensor) -> Tensor:
    """What is enlarged is nearer. As released, inverse depth is divided as well."""
    return crops.nearest(depth) / crops.scale.to(depth.dtype).reshape(-1, 1, 1, 1)


def _normal(crops: Crops, normal: Tensor) -> Tensor:
    """Mixtures are brought back to unit length, and are valid where most of them is."""
    valid = (normal != 0).any(1, keepdim=True)
    mixed = crops.bilinear(torch.cat([normal, valid.to(normal.dtype)], 1))
    mixed, share = mixed[:, :3], mixed[:, 3:]
    mixed[crops.mirror, 0] *= -1
    squares = (mixed * mixed).sum(1, keepdim=True)
    return mixed * (share > 0.5) * squares.clamp(min=SHORTEST).rsqrt()


_RULES = {
    "image": Crops.bilinear,
    "segmentation": Crops.nearest,
    "depth": _depth,
    "normal": _normal,
}
