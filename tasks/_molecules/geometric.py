"""A root folder of ``torch_geometric.datasets.QM9``: what it downloads, or what it makes of it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtlbench.interfaces import Fault
from mtlbench.tasks._molecules.arrays import (
    Array,
    Arrays,
    Molecule,
    Part,
    atomic_numbers,
    pack,
)
from mtlbench.tasks._molecules.tables import read_table

SDF, CSV, SKIPPED = "raw/gdb9.sdf", "raw/gdb9.sdf.csv", "raw/uncharacterized.txt"
RAW = (SDF, CSV, SKIPPED)
PROCESSED = ("processed/data_v3.pt",)

# target: (column of the table, unit of the column)
COLUMNS = {
    "mu": ("mu", "D"),
    "alpha": ("alpha", "a0^3"),
    "homo": ("homo", "hartree"),
    "lumo": ("lumo", "hartree"),
    "r2": ("r2", "a0^2"),
    "zpve": ("zpve", "hartree"),
    "u0": ("u0_atom", "kcal/mol"),
    "u": ("u298_atom", "kcal/mol"),
    "h": ("h298_atom", "kcal/mol"),
    "g": ("g298_atom", "kcal/mol"),
    "cv": ("cv", "cal/(mol K)"),
}
# The numbers of the targets among torch_geometric's 19.
NUMBERS = (0, 1, 2, 3, 5, 6, 12, 13, 14, 15, 11)
# Columns of torch_geometric's node features.
AROMATIC, SP, NUM_HS = 6, slice(7, 10), 10
HEADER, FOOTER = 9, 2


# ------------------------------------------------------------------------------------ raw
def read_raw(folder: Path) -> Iterator[Part]:
    """The molecules of the SDF that are not on the list of those left out.

    As torch_geometric does it, the SDF is read unsanitised: bonds are those of the file, no atom
    is aromatic or hybridised. That takes no chemistry, so it is done here without rdkit.
    """
    from torch_geometric.datasets.qm9 import HAR2EV, KCALMOL2EV

    if not all((folder / name).is_file() for name in RAW):
        return
    factor = {"hartree": HAR2EV, "kcal/mol": KCALMOL2EV}
    table, faults = read_table(
        folder / CSV, ("mol_id",), [column for column, _ in COLUMNS.values()]
    )
    for row in np.flatnonzero(table["mol_id"].duplicated()):
        faults.append(Fault(folder / CSV, f"{table['mol_id'].iloc[row]} is there twice"))
    units = np.array([factor.get(unit, 1.0) for _, unit in COLUMNS.values()])
    values = table[[column for column, _ in COLUMNS.values()]].to_numpy(np.float64) * units
    y = dict(zip(table["mol_id"], values, strict=True))
    skipped, more = _skipped(folder / SKIPPED)
    faults += more

    molecules = []
    for i, lines in enumerate(_records(folder / SDF), 1):
        name = lines[0].strip()
        if name in skipped:
            continue
        if name not in y:
            faults.append(Fault(folder / CSV, f"has no row of {name!r}, record {i} of {SDF}"))
            continue
        try:
            molecules.append(_molecule(lines, y[name]))
        except ValueError as error:
            faults.append(Fault(folder / SDF, f"record {i}, {name!r}: {error}"))
    yield Part(folder / SDF, pack(molecules), faults, target_file=folder / CSV)


def _skipped(file: Path) -> tuple[set[str], list[Fault]]:
    """Names of the molecules that failed QM9's check of consistency."""
    names, faults = set(), []
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    for i, line in enumerate(lines[HEADER:-FOOTER], HEADER + 1):
        number = line.split()[:1]
        if number and number[0].isdecimal():
            names.add(f"gdb_{number[0]}")
        else:
            faults.append(Fault(file, f"line {i} does not begin with the number of a molecule"))
    return names, faults


def _records(file: Path) -> Iterator[list[str]]:
    lines: list[str] = []
    with file.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            if line.startswith("$$$$"):
                yield lines or [""]
                lines = []
            else:
                lines.append(line)
    if any(line.strip() for line in lines):
        yield lines


def _molecule(lines: list[str], y: Array) -> Molecule:
    """One V2000 block, whose columns are fixed.

    Raises:
        ValueError: it is none, or it has bonds to atoms that it has not.
    """
    try:
        n, n_bonds = int(lines[3][:3]), int(lines[3][3:6])
        atoms, bonds = lines[4 : 4 + n], lines[4 + n : 4 + n + n_bonds]
        symbols = [line[31:34].strip() for line in atoms]
        positions = np.array([[float(line[k : k + 10]) for k in (0, 10, 20)] for line in atoms])
        rows = np.array([[int(line[k : k + 3]) for k in (0, 3, 6)] for line in bonds], dtype=int)
    except (IndexError, ValueError) as error:
        raise ValueError(f"cannot be read ({error}): expected a V2000 block") from error
    if len(atoms) < n or len(bonds) < n_bonds:
        raise ValueError(f"is cut off: expected {n} atoms and {n_bonds} bonds")
    rows = rows.reshape(-1, 3) - 1
    ends = rows[:, :2]
    if ((ends < 0) | (ends >= n)).any():
        row = rows[((ends < 0) | (ends >= n)).any(1)][0] + 1
        raise ValueError(f"a bond joins the atoms {row[0]} and {row[1]}, of {n}")
    z, index = atomic_numbers(symbols), _index(lines[0].strip())
    both = np.concatenate([ends, ends[:, ::-1]])
    num_hs = np.bincount(both[z[both[:, 1]] == 1, 0], minlength=n)
    none = np.zeros(n, dtype=int)
    return Molecule(index, y, z, positions, none, none, num_hs, ends, rows[:, 2])


def _index(name: str) -> int:
    match = re.fullmatch(r"gdb_(\d{1,9})", name)
    if match is None:
        raise ValueError(f"its name is {name!r}, expected gdb_1, gdb_2, ...")
    return int(match[1])


# ------------------------------------------------------------------------------------ processed
def read_processed(folder: Path) -> Iterator[Part]:
    """The molecules as ``torch_geometric.datasets.QM9`` saved them."""
    from torch_geometric.data import Data

    file = folder / PROCESSED[0]
    expected = "expected what this torch_geometric's QM9 saves"
    try:
        with torch.serialization.safe_globals([Data]):
            data, slices, *_ = torch.load(file, weights_only=True)
        arrays = _arrays(data, slices)
    except (
        *(AttributeError, EOFError, IndexError, KeyError, OSError, RuntimeError, TypeError),
        *(ValueError, pickle.UnpicklingError),
    ) as error:
        reason = str(error).partition("\n")[0]
        what = f"cannot be read ({type(error).__name__}: {reason}): {expected}"
        yield Part(file, pack([]), [Fault(file, what)])
        return
    yield Part(file, arrays)


def _arrays(data: Mapping[str, Any], slices: Mapping[str, Any]) -> Arrays:
    """From torch_geometric's collated form."""
    x, ends = data["x"].numpy(), data["edge_index"].numpy().T
    first = ends[:, 0] < ends[:, 1]  # every bond is there in both directions
    n = np.diff(slices["x"])
    graph = np.repeat(np.arange(len(n)), np.diff(slices["edge_index"]))
    return {
        "index": np.array([_index(name) for name in data["name"]], dtype=int),
        "n": n,
        "n_bonds": np.bincount(graph[first], minlength=len(n)),
        "y": data["y"].numpy()[:, NUMBERS].astype(np.float64),
        "z": data["z"].numpy(),
        "pos_mA": np.round(data["pos"].numpy() * 1000),
        "aromatic": x[:, AROMATIC],
        "hybridization": x[:, SP] @ np.array([1, 2, 3]),
        "num_hs": x[:, NUM_HS],
        "bonds": ends[first],
        "bond_type": data["edge_attr"].numpy()[first].argmax(1),
    }
