"""The stand-in: drawings of office things in four styles, by many designers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mtlbench.data import SPLITS, load_npz

EMBEDDED = Path(__file__).parents[1] / "_data" / "office_icons_64.npz"
ARRAYS = ("alpha", "rgb", "rgb_index", "label", "domain", "source", "classes", "domains")

HELD_OUT = {
    "val": ("noto-v1", "fxemoji", "solar"),
    "test": ("noto", "twemoji", "lucide", "mdi", "fa6-solid"),
}
"""Families of val and test; all others train. One that draws in several styles is on the same side
in all of them, and so are those of one designer: fluent-emoji, fluent-emoji-flat and
fluent-emoji-high-contrast; emojione and emojione-monotone.

Of the 39 classes, training has all in every style. Test has all but Knives, Radio, Screwdriver and
Sneakers in "line". Val has 33 in "shaded", 22 in "flat" and 26 in "line" and in "solid"."""

DROPPED_CLASSES = {
    "File_Cabinet": "boxes, in line and solid",
    "Flipflops": "a single one in line; the others are slippers and boots",
    "Lamp_Shade": "light bulbs, in shaded and flat",
    "Marker": "crayons in shaded and flat, nibs in line",
    "Mop": "brooms",
    "Pan": "pots and grills, in line",
    "Soda": "two or three in a style, none of them to train on in line",
    "Speaker": "signs for the volume, in shaded and flat",
    "Webcam": "cameras and camcorders, in shaded and flat",
}
"""Classes whose drawings, looked at, are something else, or too few."""

DROPPED = {
    "a siren": ("icon-park:alarm",),
    "an armchair, which is a Chair": ("mdi:sofa-single", "mdi:sofa-single-outline"),
    "a calculator": ("icon-park:computer-one",),
    "a desktop computer": ("noto-v1:laptop",),
    "an envelope": ("icon-park:folder",),
    "a spatula": ("tabler:tools-kitchen",),
    "a branch of versions": ("icon-park:fork",),
    "a face": ("fxemoji:sunglasses",),
    "a coffee pot": ("icon-park:kettle-one", "game-icons:coffee-pot"),
    "a piano": ("fxemoji:keyboard",),
    "dots in a circle": ("icon-park:keyboard",),
    "a dagger": ("game-icons:plain-dagger",),
    "an animal": ("game-icons:mouse",),
    "a glass or a paper cup": (
        "tabler:beer",
        "tabler:beer-filled",
        "tabler:cup",
        "mdi:beer",
        "mdi:beer-outline",
        "mdi:cup",
        "mdi:cup-outline",
    ),
    "a trophy": ("solar:cup-linear", "solar:cup-bold"),
    "an open book": (
        "tabler:book",
        "tabler:book-filled",
        "solar:notebook-minimalistic-linear",
        "solar:notebook-minimalistic-bold",
    ),
    "a chain": ("fxemoji:linkedpaperclips",),
    "a feather": ("game-icons:quill", "game-icons:quill-ink"),
    "pencil and ruler, or pen and ruler": (
        "lucide:pencil-ruler",
        "ph:pencil-ruler",
        "ph:pencil-ruler-light",
        "ph:pencil-ruler-thin",
        "ph:pencil-ruler-fill",
        "mdi:pencil-ruler",
        "mdi:pencil-ruler-outline",
        "game-icons:pencil-ruler",
        "solar:ruler-pen-linear",
        "solar:ruler-pen-bold",
    ),
    "waves": ("lucide:radio",),
    "circles": ("icon-park:radio-two",),
    "a slanted board": ("icon-park:ruler-one",),
    "screwdriver and wrench": ("fa6-solid:screwdriver-wrench",),
    "footprints": ("fa6-solid:shoe-prints",),
    "a mobile phone": ("icon-park:phone",),
    "a crossed-out telephone": ("mdi:phone-classic-off",),
    "a backspace key": ("lucide:delete",),
}
"""Drawings that were found by name and, looked at, are not of their class: what they are."""


class Icons:
    """Drawings on white, 64 x 64: what is left of the file without what was dropped.

    Attributes:
        classes: names, sorted.
        pixels: (n, 3, 64, 64) uint8.
        label: of each drawing, an index into ``classes``, (n,) int64.
        style: of each.
        family: of each, the set it comes from.
        source: of each, "family:name".
        split: of each, as its family's.
    """

    def __init__(self) -> None:
        found = load_npz(EMBEDDED, ARRAYS, "It comes with mtlbench: install it again.")
        names = found["classes"][found["label"]]
        dropped = [source for sources in DROPPED.values() for source in sources]
        kept = ~np.isin(names, list(DROPPED_CLASSES)) & ~np.isin(found["source"], dropped)
        self.classes, label = np.unique(names[kept], return_inverse=True)
        self.label = torch.from_numpy(label)
        self.style = found["domains"][found["domain"][kept]]
        self.source = found["source"][kept]
        self.family = np.array([source.partition(":")[0] for source in self.source])
        held_out = {family: split for split, families in HELD_OUT.items() for family in families}
        self.split = np.array([held_out.get(family, "train") for family in self.family])
        colour = np.zeros((*found["alpha"].shape, 3), np.float32)
        colour[found["rgb_index"]] = found["rgb"]
        alpha = found["alpha"][kept, ..., None] / np.float32(255)
        drawn = alpha * colour[kept] + (1 - alpha) * 255
        self.pixels = torch.from_numpy(drawn.round().astype(np.uint8)).permute(0, 3, 1, 2)

    def of(self, style: str, split: str) -> Tensor:
        """Indices of the drawings of one style and split."""
        return torch.from_numpy(np.flatnonzero((self.style == style) & (self.split == split)))

    def describe(self, styles: Mapping[str, str]) -> str:
        """What they are, and which style stands for which domain."""
        counts = [sum(len(self.of(style, split)) for style in styles.values()) for split in SPLITS]
        stands = ", ".join(f"{style} for {domain}" for domain, style in styles.items())
        return (
            f"{sum(counts):,} drawings of {len(self.classes)} classes (stand-in: {stands}), "
            f"split {'/'.join(map(str, counts))} by designer"
        )


@lru_cache(maxsize=1)
def icons() -> Icons:
    """The drawings, read once."""
    return Icons()
