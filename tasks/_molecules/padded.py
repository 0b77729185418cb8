"""Molecules in memory, and batches of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlbench.tasks._molecules.arrays import BOND_TYPES, ELEMENTS, Array, Arrays
from mtlbench.tasks._nets.nnconv import MoleculeBatch, Padded

PART = 40


class Molecules:
    """All molecules of a file, padded to the largest.

    Args:
        arrays: those of :data:`~mtlbench.tasks._molecules.arrays.ARRAYS`, without faults.
    """

    def __init__(self, arrays: Arrays) -> None:
        n = arrays["n"].astype(np.int64)
        self.y: NDArray[np.float64] = arrays["y"].astype(np.float64)
        self.index: NDArray[np.int64] = arrays["index"].astype(np.int64)
        self.n = torch.from_numpy(n)
        self.mask = torch.arange(int(n.max())) < self.n.unsqueeze(1)

        z, hybridization = arrays["z"], arrays["hybridization"]
        self.chemistry = "sanitised SMILES" if hybridization.any() else "unsanitised SDF"
        """Where the features are from: an SDF that is read as it is knows no hybridisation."""
        columns = [z == element for element in ELEMENTS.values()]
        columns += [z, arrays["aromatic"]]
        columns += [hybridization == kind for kind in (1, 2, 3)]
        columns += [arrays["num_hs"]]
        self.nodes = self._padded(np.stack(columns, 1).astype(np.uint8))
        self.positions = self._padded((arrays["pos_mA"] / 1000).astype(np.float32))

        graph = torch.from_numpy(np.repeat(np.arange(len(n)), arrays["n_bonds"]))
        ends = torch.from_numpy(arrays["bonds"].astype(np.int64)).T
        kind = torch.from_numpy(arrays["bond_type"].astype(np.uint8)) + 1
        self.bonds = torch.zeros(*self.mask.shape, self.mask.size(1), dtype=torch.uint8)
        for i, j in (ends, ends.flip(0)):
            self.bonds[graph, i, j] = kind

    def _padded(self, rows: Array) -> Tensor:
        values = torch.from_numpy(rows)
        out = torch.zeros(*self.mask.shape, rows.shape[1], dtype=values.dtype)
        out[self.mask] = values
        return out

    def by_size(self, index: Tensor) -> Tensor:
        """The same molecules, smallest first."""
        return index[self.n[index].argsort(stable=True)]

    def batch(self, index: Tensor) -> MoleculeBatch:
        """These molecules.

        Nodes: element one-hot (5), Z, aromatic, sp, sp2, sp3, hydrogens; edges: bond one-hot (4,
        all zero where there is none), distance in angstrom.
        """
        return MoleculeBatch([self._part(part) for part in torch.split(index, PART)])

    def _part(self, index: Tensor) -> Padded:
        size = int(self.n[index].max())
        position = self.positions[index, :size]
        distance = (position.unsqueeze(2) - position.unsqueeze(1)).norm(dim=3, keepdim=True)
        one_hot = torch.eye(len(BOND_TYPES) + 1)[:, 1:]
        bonds = one_hot[self.bonds[index, :size, :size].long()]
        edges = torch.cat([bonds, distance], 3)
        return Padded(self.nodes[index, :size].float(), edges, self.mask[index, :size])
