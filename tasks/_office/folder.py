"""Folders of images: ``<root>/<Domain>/<class>/*.jpg``, also with ``images`` above the classes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlbench.data import SPLITS, Decoded, refuse
from mtlbench.errors import DataError
from mtlbench.interfaces import Fault
from mtlbench.tasks import _images as image
from mtlbench.tasks._images import HOW, UNREADABLE

ENDINGS = (".jpg", ".jpeg", ".png")
THREADS = 8

Split = Mapping[str, Sequence[int]]
"""Split to positions of a domain's files."""


@dataclass(frozen=True)
class Folder:
    """Images of some domains.

    Args:
        root: of the data set.
        classes: names, sorted.
        files: domain to its images, sorted by class and name.
        splits: domain to which of them are in which split.
        rule: how they were split, in words.
    """

    root: Path
    classes: Sequence[str]
    files: Mapping[str, Sequence[Path]]
    splits: Mapping[str, Split]
    rule: str

    def labels(self, domain: str) -> Tensor:
        """Class of each image, (n,) int64."""
        index = {name: i for i, name in enumerate(self.classes)}
        return torch.tensor([index[file.parent.name] for file in self.files[domain]])


def scan(root: Path, domains: Sequence[str]) -> tuple[Folder, list[Fault]]:
    """The images of a folder, and what is wrong with the names in it and with its lists."""
    faults, bases = [], {}
    for domain in domains:
        found = [path for path in _folders(root) if _plain(path.name) == _plain(domain)]
        if not found:
            faults.append(Fault(root / domain, "is missing: expected a folder for each class"))
            continue
        inner = found[0] / "images"
        bases[domain] = inner if inner.is_dir() else found[0]
        faults += [Fault(path, f"is the domain {domain} a second time") for path in found[1:]]
    classes = sorted({path.name for base in bases.values() for path in _folders(base)})
    files: dict[str, list[Path]] = {}
    for domain, base in bases.items():
        files[domain] = []
        for name in classes:
            images = [p for p in (base / name).glob("[!.]*") if p.suffix.lower() in ENDINGS]
            files[domain] += sorted(images)
            if not images:
                what = "has no image" if (base / name).is_dir() else "is missing"
                endings = ", ".join(ENDINGS)
                faults.append(Fault(base / name, f"{what}: expected {endings} in every class"))
        if not files[domain]:
            faults.append(Fault(base, "is empty: expected a folder for each class"))
    lists = _lists(root, domains)
    if lists:
        splits, wrong = _by_lists(root, files, lists)
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in lists.values()))
        rule = f"by the folder's lists ({digest.hexdigest()[:8]})"
        return Folder(root, classes, files, splits, rule), faults + wrong
    splits = {domain: _by_names(domain, paths) for domain, paths in files.items()}
    return Folder(root, classes, files, splits, "by file name"), faults


def open_folder(root: Path, domains: Sequence[str], source: str) -> Folder:
    """The images of a folder.

    Args:
        source: how to get the data set, for the message of an error.

    Raises:
        DataError: a domain, a class of one, or an image of a list is missing.
    """
    folder, faults = scan(root, domains)
    refuse(faults, source)
    return folder


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.glob("[!.]*") if entry.is_dir())


def _plain(domain: str) -> str:
    """Real World, Real_World and Real-World are one domain."""
    return re.sub(r"[ _-]", " ", domain).lower()


# ------------------------------------------------------------------------------------ splits
def _by_names(domain: str, files: Sequence[Path]) -> Split:
    """A fifth of each class for val, a fifth for test: by a hash of ``domain/class/file``, so that
    it is the same everywhere."""
    by_class: dict[str, list[int]] = {}
    for i, file in enumerate(files):
        by_class.setdefault(file.parent.name, []).append(i)
    parts: dict[str, list[int]] = {split: [] for split in SPLITS}
    for name, own in by_class.items():
        ranked = sorted(own, key=lambda i: _hash(f"{_plain(domain)}/{name}/{files[i].name}"))
        fifth = round(len(own) / 5)
        for split, part in zip(
            ("val", "test", "train"),
            (ranked[:fifth], ranked[fifth : 2 * fifth], ranked[2 * fifth :]),
            strict=True,
        ):
            parts[split] += sorted(part)
    return parts


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _lists(root: Path, domains: Sequence[str]) -> dict[tuple[str, str], Path]:
    """Files ``<Domain>_<split>.txt``, as LibMTL names its lists, by domain and split."""
    wanted = {(_plain(d), split): (d, split) for d in domains for split in SPLITS}
    found = {}
    for path in sorted(root.glob("*.txt")):
        domain, _, split = path.stem.rpartition("_")
        if (_plain(domain), split) in wanted:
            found[wanted[_plain(domain), split]] = path
    return found


def _by_lists(
    root: Path, files: Mapping[str, Sequence[Path]], lists: Mapping[tuple[str, str], Path]
) -> tuple[dict[str, Split], list[Fault]]:
    """Splits by lists with a line ``Domain/.../class/file label`` an image; the label is that of
    the class' name."""
    faults: list[Fault] = []
    splits: dict[str, Split] = {}
    for domain, paths in files.items():
        at = {(path.parent.name, path.name): i for i, path in enumerate(paths)}
        seen: set[tuple[str, str]] = set()
        parts: dict[str, list[int]] = {split: [] for split in SPLITS}
        for split in SPLITS:
            path = lists.get((domain, split))
            if path is None:
                name = f"{domain.replace('-', '_')}_{split}.txt"
                what = "is missing: there are lists of other domains or splits"
                faults.append(Fault(root / name, what))
                continue
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                parts_of = PurePosixPath(re.sub(r"\s+\d+\s*$", "", line)).parts
                key = (parts_of[-2], parts_of[-1]) if len(parts_of) > 2 else None
                if key is None or _plain(parts_of[0]) != _plain(domain):
                    what = f"line {number} is {line!r}: expected {domain}/class/file and a label"
                elif key not in at:
                    what = f"line {number} names {'/'.join(parts_of)}, which is not there"
                elif key in seen:
                    what = f"line {number} names {'/'.join(parts_of)}, which is in a list already"
                else:
                    seen.add(key)
                    parts[split].append(at[key])
                    continue
                faults.append(Fault(path, what))
            if not parts[split]:
                faults.append(Fault(path, "names no image of the folder"))
        splits[domain] = parts
    return splits, faults


# ------------------------------------------------------------------------------------ images
def decoded(root: Path, files: Sequence[Path], side: int) -> Decoded:
    """Images of files of any sizes and colours below ``root``.

    Args:
        side: height and width that they are brought to, as by torchvision's ``Resize``.
    """
    names = [file.relative_to(root).as_posix() for file in files]
    return Decoded(root, names, (3, side, side), partial(_readable, side=side), HOW)


def _readable(path: Path, side: int) -> NDArray[np.uint8]:
    try:
        return decode(path, side)
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read ({error}): expected an image") from error


def decode(path: Path, side: int) -> NDArray[np.uint8]:
    """An image file in three colours, (3, side, side)."""
    return image.decode(path, side).transpose(2, 0, 1)


def unreadable(files: Sequence[Path]) -> Iterator[Fault]:
    """Those of the files that are no images."""

    def what(path: Path) -> str:
        try:
            decode(path, 1)
        except UNREADABLE as error:
            return f"cannot be read ({error}): expected an image"
        return ""

    with ThreadPoolExecutor(THREADS) as pool:
        for path, wrong in zip(files, pool.map(what, files), strict=True):
            if wrong:
                yield Fault(path, wrong)
