"""Where generated data lies, for all runs of a user."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from platformdirs import user_cache_path

from mtlbench.data.standin.generation import generate
from mtlbench.data.standin.manifest import Manifest, plan, read_manifest
from mtlbench.interfaces import Recipe

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """``$MTLBENCH_CACHE``, else the platform's folder for a user's caches."""
    named = os.environ.get("MTLBENCH_CACHE")
    return Path(named) if named else user_cache_path("mtlbench", appauthor=False)


def place(wanted: Manifest) -> Path:
    """Where in the cache this data belongs; other counts, sizes and versions lie elsewhere."""
    height, width = wanted.size
    counts = "-".join(map(str, wanted.counts.values()))
    return cache_folder() / f"{wanted.task}-v{wanted.version}-{height}x{width}-{counts}"


def cached(task: str, recipe: Recipe) -> Path:
    """The folder of a task's stand-in data in the cache; generated if it is not there yet.

    Raises:
        UsageError: the cache cannot be written to.
    """
    wanted = plan(task, recipe)
    folder = place(wanted)
    if read_manifest(folder) is None:
        logger.info("generating %s in %s", wanted, folder)
        start = time.perf_counter()
        generate(wanted, recipe, folder)
        logger.info("generated in %.1f s", time.perf_counter() - start)
    return folder
