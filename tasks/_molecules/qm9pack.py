"""The CSV files of the package qm9pack: geometry and SMILES, energies in hartree."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mtlbench.errors import UsageError
from mtlbench.interfaces import Fault
from mtlbench.tasks._molecules.arrays import (
    BOND_TYPES,
    TARGETS,
    Array,
    Molecule,
    Part,
    atomic_numbers,
    pack,
)
from mtlbench.tasks._molecules.tables import read_table

FILES = tuple(f"qm9_part{k}.csv" for k in (1, 2, 3))
COLUMNS = (
    "Dipole_debye",
    "Polarizability_bohr3",
    "HOMO_au",
    "LUMO_au",
    "R2_bohr2",
    "ZPVE_au",
    "InternalEnergy_0K_au",
    "InternalEnergy_298K_au",
    "Enthalphy_298K_au",
    "GibbsFreeEnergy_298K_au",
    "Heatcapacity_Cv_cal_mol_K",
)
HARTREES = ("homo", "lumo", "zpve", "u0", "u", "h", "g")
# target: its number in torch_geometric, where the energies of the free atoms are found
ATOMISATION = {"u0": 7, "u": 8, "h": 9, "g": 10}
HYBRIDIZATION = {"SP": 1, "SP2": 2, "SP3": 3}


def read(folder: Path) -> Iterator[Part]:
    """The molecules of each file.

    Bonds, aromaticity and hybridisation are those of the SMILES, which rdkit sanitises; a hydrogen
    belongs to the nearest heavy atom.

    Raises:
        UsageError: rdkit is not installed.
    """
    try:
        from rdkit import Chem, rdBase
    except ImportError as error:
        what = f"{folder} has SMILES, which rdkit reads"
        raise UsageError(f"{what}: pip install 'mtlbench[qm9]'") from error
    rdBase.DisableLog("rdApp.*")  # a SMILES that it cannot read is a fault, told as such
    for name in FILES:
        if (folder / name).is_file():
            yield _part(folder / name, Chem)


def _part(file: Path, chem: Any) -> Part:
    table, faults = read_table(file, ("SMILES", "Elements", "XYZ_Ang"), ("Index", *COLUMNS))
    convert, molecules = _converter(), []
    rows = table[["Index", "SMILES", "Elements", "XYZ_Ang"]].itertuples(index=False)
    for (index, smiles, elements, xyz), raw in zip(
        rows, table[list(COLUMNS)].to_numpy(np.float64), strict=True
    ):
        try:
            if index % 1:
                raise ValueError("its index is no whole number")
            z = atomic_numbers(_items(elements))
            positions = np.array(_items(xyz), dtype=np.float64).reshape(len(z), 3)
            mol = chem.MolFromSmiles(smiles)
            features = _features(mol, smiles, z, positions)
            molecules.append(Molecule(int(index), convert(raw, z), z, positions, *features))
        except (TypeError, ValueError) as error:
            faults.append(Fault(file, f"molecule {index}: {error}"))
    return Part(file, pack(molecules), faults)


def _items(text: str) -> list[str]:
    """Of a list, which may have lists in it, written as Python does."""
    return re.sub(r"[\[\]' ]", "", text).split(",")


def _converter() -> Callable[[Array, Array], Array]:
    """From a row of the file to torch_geometric's units: eV, and energies of atomisation."""
    from torch_geometric.datasets.qm9 import HAR2EV, atomrefs

    factors = np.array([HAR2EV if name in HARTREES else 1.0 for name in TARGETS])
    atoms = np.zeros((10, len(TARGETS)))
    for name, number in ATOMISATION.items():
        atoms[[1, 6, 7, 8, 9], TARGETS.index(name)] = atomrefs[number]
    return lambda raw, z: raw * factors - atoms[z].sum(0)


def _features(mol: Any, smiles: str, z: Array, positions: Array) -> tuple[Array, ...]:
    """Aromaticity, hybridisation, hydrogens, bonds and their types.

    Raises:
        ValueError: the SMILES cannot be read, or is that of another molecule.
    """
    if mol is None:
        raise ValueError(f"SMILES {smiles!r} cannot be read")
    heavy, hydrogens = np.flatnonzero(z > 1), np.flatnonzero(z == 1)
    if not len(heavy):
        raise ValueError("it has no heavy atom")
    atoms, joins = list(mol.GetAtoms()), list(mol.GetBonds())
    numbers = np.array([(a.GetAtomicNum(), a.GetTotalNumHs()) for a in atoms])
    ends = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in joins], dtype=int)
    ends = ends.reshape(-1, 2)

    distance = np.linalg.norm(positions[hydrogens, None] - positions[heavy], axis=-1)
    owner = heavy[distance.argmin(1)]
    counts = np.bincount(owner, minlength=len(z))
    if not np.array_equal(numbers, np.stack([z, counts], 1)[heavy]):
        heavy = _matched(mol, z, positions)[: len(heavy)]

    aromatic, hybridization = np.zeros((2, len(z)), dtype=int)
    aromatic[heavy] = [a.GetIsAromatic() for a in atoms]
    hybridization[heavy] = [HYBRIDIZATION.get(a.GetHybridization().name, 0) for a in atoms]
    types = [BOND_TYPES.index(b.GetBondType().name.lower()) for b in joins] + [0] * len(hydrogens)
    bonds = np.concatenate([heavy[ends], np.stack([owner, hydrogens], 1)])
    return aromatic, hybridization, counts, bonds, np.array(types, dtype=int)


def _matched(mol: Any, z: Array, positions: Array) -> Array:
    """Where each atom of the SMILES is in the file: six molecules have them in another order.

    Raises:
        ValueError: SMILES and geometry are of different molecules.
    """
    from rdkit import Chem
    from rdkit.Chem.rdDetermineBonds import DetermineConnectivity

    table = Chem.GetPeriodicTable()
    atoms = zip(z.tolist(), positions.tolist(), strict=True)
    lines = [" ".join([table.GetElementSymbol(k), *map(str, xyz)]) for k, xyz in atoms]
    built = Chem.MolFromXYZBlock("\n".join([str(len(z)), "", *lines]))
    DetermineConnectivity(built)
    rule: Any = Chem.AdjustQueryParameters.NoAdjustments()
    rule.makeBondsGeneric = True
    drawn = Chem.AdjustQueryProperties(Chem.AddHs(mol), rule)
    match = built.GetSubstructMatch(drawn)
    if len(match) != len(z) or built.GetNumBonds() != drawn.GetNumBonds():
        raise ValueError("SMILES and geometry are of different molecules")
    return np.array(match)
