"""What is done on the pretend accelerator by default, and on which torch."""

TORCH = "2.14"
KINDS = ("ls", "mgda", "gradvac", "moco", "db_mtl", "famo")
WRAPPERS = ("none", "samo", "fmtl", "looksam", "wsam")
RUNS = (("multimnist", "moco", "looksam", 2), ("multimnist", "gradvac", "none", 2))
"""Task, method, wrapper and batches a split."""
TASKS = ("multimnist", "qm9", "celeba", "cityscapes", "nyuv2", "office31", "office_home")
