"""CelebA on disk, as its authors and as torchvision lay it out."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtlbench.data import SPLITS, Decoded, kept_array, refuse
from mtlbench.errors import DataError
from mtlbench.hardware import cores
from mtlbench.interfaces import Fault
from mtlbench.tasks._faces.attributes import ATTRIBUTES
from mtlbench.tasks._images import HOW, UNREADABLE, decode

FEW = 3
"""Names that a message lists."""
VALUES = {"1": 1, "-1": -1, "0": 0}
PARTS = {str(i): i for i in range(len(SPLITS))}
NO_PART = -1
LISTS = "lists of CelebA, 1"
"""Raise the number with any change of what is read from them."""


@dataclass(frozen=True)
class Layout:
    """Where the parts of the data set are."""

    images: Path
    attributes: Path
    partition: Path

    @classmethod
    def original(cls, root: Path) -> Layout:
        """As the authors have it."""
        return cls(
            root / "Img" / "img_align_celeba",
            root / "Anno" / "list_attr_celeba.txt",
            root / "Eval" / "list_eval_partition.txt",
        )

    @classmethod
    def of(cls, root: Path) -> Layout:
        """The layout that most is there of: the authors', or torchvision's, whose folder
        ``celeba`` or what holds it may be named."""
        flat = [
            cls(
                folder / "img_align_celeba",
                folder / "list_attr_celeba.txt",
                folder / "list_eval_partition.txt",
            )
            for folder in (root / "celeba", root)
        ]
        return max([cls.original(root), *flat], key=lambda layout: layout.count())

    def count(self) -> int:
        """How many of the parts are there."""
        return sum(part.exists() for part in (self.images, self.attributes, self.partition))


@dataclass(frozen=True)
class Faces:
    """What the two lists say of the images.

    Args:
        layout: where they are.
        names: of the images' files.
        labels: (images, attributes) int8: 1 yes, -1 no, 0 unknown.
        split: positions in ``names``, by split.
    """

    layout: Layout
    names: Sequence[str]
    labels: NDArray[np.int8]
    split: Mapping[str, NDArray[np.int64]]


def open_faces(root: Path, source: str) -> Faces:
    """What the lists of a folder say; they are parsed once for all runs.

    Args:
        source: how to get the data set, for the message of an error.

    Raises:
        DataError: a list is missing or broken, or an image is missing.
    """
    layout = Layout.of(root)
    lists = [layout.attributes, layout.partition]
    if not all(path.is_file() for path in lists):
        refuse(scan(root)[1], source)

    def parse(file: BinaryIO) -> None:
        faces, faults = scan(root)
        refuse(faults, source)
        width = max(map(len, faces.names))
        dtype = [("name", f"U{width}"), ("part", "i1"), ("values", "i1", faces.labels.shape[1:])]
        table = np.empty(len(faces.names), dtype)
        table["name"], table["values"] = faces.names, faces.labels
        for part, split in enumerate(SPLITS):
            table["part"][faces.split[split]] = part
        np.save(file, table)

    names = [path.relative_to(root).as_posix() for path in lists]
    table = kept_array(root, names, f"{LISTS}: {' '.join(ATTRIBUTES)}", parse)
    faces = _faces(layout, table["name"].tolist(), table["values"], table["part"])
    refuse(_missing(layout.images, set(faces.names)), source)
    return faces


def scan(root: Path) -> tuple[Faces, list[Fault]]:
    """Read the lists of a folder, and find what is wrong with them and with the names of its
    files."""
    layout = Layout.of(root)
    values, of_values = _attributes(layout.attributes)
    parts, of_parts = _partition(layout.partition)
    faults = [*of_values, *of_parts]
    if values and parts:
        faults += _differences(layout, values.keys(), parts.keys())
        unused = [str(i) for i in range(len(SPLITS)) if i not in parts.values()]
        if unused:
            what = f"has no image in part {' or '.join(unused)}: expected 0 train, 1 val, 2 test"
            faults.append(Fault(layout.partition, what))
    faults += _missing(layout.images, values.keys() or parts.keys())
    names = [name for name in values if name in parts]
    assigned = np.array([parts[name] for name in names], np.int8)
    labels = np.frombuffer(b"".join(values[name] for name in names), np.int8)
    return _faces(layout, names, labels.reshape(-1, len(ATTRIBUTES)), assigned), faults


def _faces(
    layout: Layout, names: Sequence[str], labels: NDArray[np.int8], parts: NDArray[np.int8]
) -> Faces:
    split = {split: np.flatnonzero(parts == i) for i, split in enumerate(SPLITS)}
    return Faces(layout, names, labels, split)


def _differences(layout: Layout, labelled: Set[str], assigned: Set[str]) -> Iterator[Fault]:
    """Images that one list has and the other does not."""
    for path, own, other, title in (
        (layout.partition, assigned, labelled, "attributes"),
        (layout.attributes, labelled, assigned, "partition"),
    ):
        if absent := sorted(other - own):
            counts = f"lists {len(own):,} images and the {title} {len(other):,}"
            yield Fault(path, f"{counts}: {_some(absent)} is not in it")


def _missing(folder: Path, names: Set[str]) -> Iterator[Fault]:
    """Images that are listed and not there."""
    present = set(os.listdir(folder)) if folder.is_dir() else set()
    if not present:
        yield Fault(folder, "is missing or empty: expected the images that the lists name")
        return
    yield from (Fault(folder / name, "is missing") for name in sorted(names - present))


def _lines(path: Path, expected: str) -> tuple[list[str], list[Fault]]:
    try:
        return path.read_text().splitlines(), []
    except FileNotFoundError:
        return [], [Fault(path, f"is missing: expected {expected}")]
    except (OSError, UnicodeDecodeError) as error:
        return [], [Fault(path, f"cannot be read ({error}): expected {expected}")]


def _attributes(path: Path) -> tuple[dict[str, bytes], list[Fault]]:
    """Values by image, in the order of :data:`ATTRIBUTES`, a signed byte each."""
    expected = "the number of images, the names of the attributes, and a line an image"
    lines, faults = _lines(path, expected)
    if faults:
        return {}, faults
    count, header = (line.split() for line in (lines[:2] if len(lines) > 1 else ("", "")))
    rows = lines[2:]
    absent = [name for name in ATTRIBUTES if name not in header]
    if absent:
        what = f"has no attribute {_some(absent)} in its second line: expected {expected}"
        return {}, [Fault(path, what)]
    if count != [str(len(rows))]:
        said = " ".join(count) or "nothing"
        faults.append(Fault(path, f"says {said} in its first line and has {len(rows):,} images"))
    columns = [header.index(name) for name in ATTRIBUTES]
    unknown = bytes(len(columns))
    found: dict[str, bytes] = {}
    for number, (name, *values) in enumerate((row.split() or [""] for row in rows), start=3):
        wrong = [value for value in values if value not in VALUES]
        where = f"line {number} ({name or 'empty'})"
        if len(values) != len(header):
            what = f"{where} has {len(values)} values, expected {len(header)}"
        elif wrong:
            what = f"{where} has the value {_some(wrong)}, expected 1, -1 or 0 (unknown)"
        elif name in found:
            what = f"{where} is there twice"
        else:
            found[name] = array("b", [VALUES[values[i]] for i in columns]).tobytes()
            continue
        if name:
            found.setdefault(name, unknown)
        faults.append(Fault(path, what))
    return found, faults


def _partition(path: Path) -> tuple[dict[str, int], list[Fault]]:
    """Index of the split by image."""
    lines, faults = _lines(path, "lines of an image and 0 (train), 1 (val) or 2 (test)")
    found: dict[str, int] = {}
    for number, words in enumerate(map(str.split, lines), start=1):
        if len(words) != 2 or words[1] not in PARTS:
            said = " ".join(words) or "nothing"
            what = f"line {number} has {said!r}, expected the name of an image and 0, 1 or 2"
        elif words[0] in found:
            what = f"line {number} ({words[0]}) is there twice"
        else:
            found[words[0]] = PARTS[words[1]]
            continue
        if words:
            found.setdefault(words[0], NO_PART)
        faults.append(Fault(path, what))
    return found, faults


def _some(names: Sequence[str]) -> str:
    """The first names, and how many there are."""
    shown = ", ".join(names[:FEW])
    return f"{shown}, ... ({len(names):,} in all)" if len(names) > FEW else shown


# ------------------------------------------------------------------------------------ images
def photos(folder: Path, names: Sequence[str], size: int) -> Decoded:
    """Images of a folder, brought to one size, (3, size, size)."""
    return Decoded(folder, names, (3, size, size), partial(_decode, size=size), HOW)


def _decode(path: Path, size: int) -> NDArray[np.uint8]:
    try:
        return decode(path, size).transpose(2, 0, 1)
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read as an image ({error})") from error


def image_size(path: Path) -> tuple[int, int]:
    """Height and width, from the image's header.

    Raises:
        DataError: the file is no image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read as an image ({error})") from error


def image_faults(faces: Faces) -> Iterator[Fault]:
    """What is wrong with the images that are there: decodes all of them."""
    paths = [faces.layout.images / name for name in faces.names]
    paths = [path for path in paths if path.is_file()]
    with ThreadPoolExecutor(cores()) as pool:
        found = list(pool.map(_checked, paths))
    sizes = Counter(size for size in found if not isinstance(size, str))
    usual = max(sizes, key=sizes.__getitem__, default=(0, 0))
    for path, size in zip(paths, found, strict=True):
        if isinstance(size, str):
            yield Fault(path, size)
        elif size != usual:
            height, width = size
            yield Fault(path, f"has {height}x{width} pixels, most images {usual[0]}x{usual[1]}")


def _checked(path: Path) -> tuple[int, int] | str:
    """An image's height and width, or what is wrong with it."""
    try:
        with Image.open(path) as image:
            image.load()
            return image.height, image.width
    except UNREADABLE as error:
        return f"cannot be read as an image ({error})"
