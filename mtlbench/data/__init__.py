"""What a task module builds on: batches, splits, files; :mod:`mtlbench.data.standin` generates
data that stands in for the real."""

from mtlbench.data.batches import (
    SPLITS,
    ArrayBatches,
    HeldOut,
    check_split,
    parted,
    split_indices,
)
from mtlbench.data.files import check_folder, load_npz, refuse

__all__ = [
    "SPLITS",
    "ArrayBatches",
    "HeldOut",
    "check_folder",
    "check_split",
    "load_npz",
    "parted",
    "refuse",
    "split_indices",
]
