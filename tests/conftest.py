"""What all tests share."""

import gc
import logging
import os
from importlib import import_module

OPENBLAS = "OPENBLAS_NUM_THREADS"


def compute_with_one_thread() -> None:
    """There are as many test processes as cores: threads of theirs would wait for each other.
    Processes that tests start choose for themselves."""
    before = os.environ.get(OPENBLAS)
    os.environ[OPENBLAS] = "1"  # it has no other say, and looks when NumPy and SciPy load theirs
    for library in ("numpy.linalg", "scipy.linalg"):
        import_module(library)
    del os.environ[OPENBLAS]
    if before is not None:
        os.environ[OPENBLAS] = before
    import_module("torch").set_num_threads(1)


gc.disable()  # while tests are collected, which makes no garbage worth a search of all of torch
os.environ["COLUMNS"] = "160"  # pytest-xdist says 80, at which long names fold
compute_with_one_thread()


def pytest_collection_finish() -> None:
    """Thousands of short tests follow. The garbage collector need not look again at what was
    imported for them, and pytest hangs its handlers, around each of them, on every logger whose
    messages do not reach the root: torch has forty of those."""
    gc.collect()
    gc.freeze()
    gc.enable()
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.propagate = True
