"""Molecules as flat arrays, the format of ``qm9.npz``: one molecule after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlbench.interfaces import Fault
from mtlbench.tasks._molecules.split import is_known

Array = NDArray[Any]
Arrays = dict[str, Array]

TARGETS = ("mu", "alpha", "homo", "lumo", "r2", "zpve", "u0", "u", "h", "g", "cv")
ELEMENTS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
BOND_TYPES = ("single", "double", "triple", "aromatic")
FARTHEST = np.iinfo(np.int16).max

# array: (which count its length is, shape of an entry, type in a file)
ARRAYS: dict[str, tuple[str, tuple[int, ...], str]] = {
    "index": ("molecules", (), "int32"),
    "n": ("molecules", (), "uint8"),
    "n_bonds": ("molecules", (), "uint8"),
    "y": ("molecules", (len(TARGETS),), "float64"),
    "z": ("atoms", (), "uint8"),
    "pos_mA": ("atoms", (3,), "int16"),
    "aromatic": ("atoms", (), "uint8"),
    "hybridization": ("atoms", (), "uint8"),
    "num_hs": ("atoms", (), "uint8"),
    "bonds": ("bonds", (2,), "uint8"),
    "bond_type": ("bonds", (), "uint8"),
}


@dataclass(frozen=True)
class Molecule:
    """One molecule of n atoms and b bonds, as a file has it.

    Args:
        index: its number in QM9, from 1.
        y: the :data:`TARGETS` in torch_geometric's units, NaN where there is none.
        z: atomic numbers, (n,).
        positions: in angstrom, (n, 3).
        aromatic: (n,).
        hybridization: 0 none, 1 sp, 2 sp2, 3 sp3; (n,).
        num_hs: hydrogens bound to each atom, (n,).
        bonds: the atoms that each bond joins, (b, 2).
        bond_type: index into :data:`BOND_TYPES`, (b,).
    """

    index: int
    y: Array
    z: Array
    positions: Array
    aromatic: Array
    hybridization: Array
    num_hs: Array
    bonds: Array
    bond_type: Array


@dataclass(frozen=True)
class Part:
    """What one file holds.

    Args:
        file: of the molecules.
        arrays: those of :data:`ARRAYS`.
        faults: of entries that could not be read, and are left out.
        target_file: of the targets, if it is another.
    """

    file: Path
    arrays: Arrays
    faults: Sequence[Fault] = ()
    target_file: Path | None = None


def atomic_numbers(symbols: Iterable[str]) -> Array:
    """Of atoms.

    Raises:
        ValueError: an element that is not in QM9.
    """
    symbols = list(symbols)
    unknown = sorted(set(symbols) - set(ELEMENTS))
    if unknown:
        raise ValueError(f"unknown element {unknown[0]!r}, expected {', '.join(ELEMENTS)}")
    return np.array([ELEMENTS[symbol] for symbol in symbols])


def pack(molecules: Sequence[Molecule]) -> Arrays:
    """The arrays of molecules; positions are rounded to 0.001 angstrom."""

    def joined(name: str) -> Array:
        _, entry, _ = ARRAYS.get(name, ("", (3,), ""))
        rows = [np.reshape(getattr(m, name), (-1, *entry)) for m in molecules]
        return np.concatenate(rows) if rows else np.empty((0, *entry))

    positions = joined("positions").astype(np.float32)
    near = np.isfinite(positions)
    arrays = {name: joined(name) for name in ARRAYS if name in Molecule.__dataclass_fields__}
    return arrays | {
        "n": np.array([len(m.z) for m in molecules], dtype=int),
        "n_bonds": np.array([len(m.bonds) for m in molecules], dtype=int),
        "pos_mA": np.where(near, np.round(np.where(near, positions, 0) * 1000), FARTHEST + 1),
    }


def compact(arrays: Arrays) -> Arrays:
    """The same arrays in the types that a file has."""
    return {name: arrays[name].astype(kind) for name, (_, _, kind) in ARRAYS.items()}


def joined(parts: Sequence[Part]) -> Arrays:
    """The arrays of all parts."""
    return {name: np.concatenate([part.arrays[name] for part in parts]) for name in ARRAYS}


# ------------------------------------------------------------------------------------ faults
def shape_faults(arrays: Arrays) -> Iterator[str]:
    """Arrays that do not fit together."""
    counts = {"molecules": len(arrays["n"])}
    counts["atoms"] = int(arrays["n"].sum(dtype=int))
    counts["bonds"] = int(arrays["n_bonds"].sum(dtype=int))
    for name, (kind, entry, _) in ARRAYS.items():
        if arrays[name].shape != (counts[kind], *entry):
            yield (
                f"has an array {name!r} of shape {arrays[name].shape}, expected "
                f"{(counts[kind], *entry)} for {counts[kind]:,} {kind}"
            )


def faults(part: Part) -> Iterator[Fault]:
    """What keeps the molecules of a part from being used."""
    yield from part.faults
    arrays, file = part.arrays, part.file
    misfits = [Fault(file, what) for what in shape_faults(arrays)]
    if misfits:
        yield from misfits
        return
    index, n = arrays["index"], arrays["n"].astype(int)
    of_atom = np.repeat(index, n)
    of_bond, atoms = (np.repeat(a, arrays["n_bonds"].astype(int)) for a in (index, n))

    def told(bad: Array, molecule: Array, what: str, values: Array) -> Iterator[Fault]:
        for i in np.flatnonzero(bad):
            yield Fault(file, f"molecule {molecule[i]}: {what.format(values[i])}")

    for i in np.flatnonzero(~is_known(index)):
        yield Fault(file, f"entry {i}: index {index[i]} is that of no molecule of QM9")
    yield from told(n < 1, index, "it has {} atoms", n)
    known = np.isin(arrays["z"], list(ELEMENTS.values()))
    numbers = ", ".join(map(str, ELEMENTS.values()))
    what = f"unknown element of atomic number {{}}, expected {numbers}"
    yield from told(~known, of_atom, what, arrays["z"])
    far = np.any(np.abs(arrays["pos_mA"].astype(int)) > FARTHEST, axis=1)
    yield from told(far, of_atom, "an atom is not within 32.767 angstrom", far)
    bonds = arrays["bonds"].astype(int)
    outside = np.any((bonds < 0) | (bonds >= atoms[:, None]), axis=1)
    yield from told(outside, of_bond, "a bond joins the atoms {}, one of which is not there", bonds)
    kinds = arrays["bond_type"].astype(int)
    valid = f"expected 0 to {len(BOND_TYPES) - 1}"
    odd = (kinds < 0) | (kinds >= len(BOND_TYPES))
    yield from told(odd, of_bond, f"a bond of type {{}}, {valid}", kinds)
    yield from _targets(part, np.isinf(arrays["y"]))


def gaps(part: Part) -> Iterator[Fault]:
    """Targets that are missing: they do no harm, the molecule counts as unlabelled."""
    if part.arrays["y"].shape[1:] == (len(TARGETS),):
        yield from _targets(part, np.isnan(part.arrays["y"]))


def _targets(part: Part, bad: Array) -> Iterator[Fault]:
    for i, column in np.argwhere(bad):
        what = f"molecule {part.arrays['index'][i]}: target {TARGETS[column]!r} is"
        yield Fault(part.target_file or part.file, f"{what} {part.arrays['y'][i, column]}")


def repeated(parts: Sequence[Part]) -> Iterator[Fault]:
    """Molecules that are there twice, in one part or in two."""
    seen: dict[int, Path] = {}
    for part in parts:
        for i, index in enumerate(part.arrays["index"].tolist()):
            if index in seen:
                again = f"entry {i}: index {index} is also that of an entry before"
                other = "" if seen[index] == part.file else f", in {seen[index]}"
                yield Fault(part.file, again + other)
            seen[index] = part.file
