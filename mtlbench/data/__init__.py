"""What a task module builds on: batches, splits, files; :mod:`mtlbench.data.standin` generates
data that stands in for the real."""

from mtlbench.data.batches import (
    SPLITS,
    ArrayBatches,
    HeldOut,
    Normalize,
    NumberedBatches,
    check_split,
    split_indices,
)
from mtlbench.data.decoded import Decoded
from mtlbench.data.files import check_folder, load_npz, refuse
from mtlbench.data.kept import kept_array
from mtlbench.data.notes import reading

__all__ = [
    "SPLITS",
    "ArrayBatches",
    "Decoded",
    "HeldOut",
    "Normalize",
    "NumberedBatches",
    "check_folder",
    "check_split",
    "kept_array",
    "load_npz",
    "reading",
    "refuse",
    "split_indices",
]
