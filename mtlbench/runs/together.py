"""Runs that processes of torchrun train together: the first one leads, and writes."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Timer

import torch.distributed as dist

from mtlbench.engine.reduce import ALONE, ProcessRanks, Ranks
from mtlbench.errors import UsageError
from mtlbench.hardware import pick_device
from mtlbench.processes import GRACE, TERMINATED, rank_and_size
from mtlbench.runs.backends import PATIENCE, Backend, Job
from mtlbench.runs.crew import BACKENDS, place
from mtlbench.runs.execute import Load, execute, follow
from mtlbench.runs.spec import Run
from mtlbench.runs.store import Store

logger = logging.getLogger(__name__)

PLACES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun says in the environment."""
_WAIT, _END = "wait", "end"


def meet(device: str | None, limit: float) -> tuple[Ranks, str | None]:
    """Meet the other processes that torchrun has started; this one alone if it has started none.

    Args:
        device: "cpu", "cuda"; None for the fastest there is.
        limit: seconds that a process waits for the others before it gives them up.

    Returns:
        The processes, and the device of this one.

    Raises:
        UsageError: the processes cannot find each other, or there are fewer GPUs than processes.
    """
    size = rank_and_size()[1]
    if size == 1:
        return ALONE, device
    missing = [name for name in PLACES if name not in os.environ]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is {size}, and {', '.join(missing)} not set: start with "
            f"torchrun --nproc_per_node {size} -m mtlbench run ..."
        )
    kind = pick_device(device).type
    own = place(kind, int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(BACKENDS[kind], timeout=timedelta(seconds=limit))
    return ProcessRanks(), own


class Together(Backend):
    """Executes runs in this process, the first one, and in those that :func:`keep_up`.

    Args:
        ranks: the processes.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._lost = False

    def work(self, job: Job) -> None:
        signal.signal(signal.SIGTERM, _end_soon)
        while not job.queue.empty():
            run = job.queue.take()
            self.ranks.gather(_WAIT if run is None else run.identity.digest)
            if run is None:
                time.sleep(PATIENCE)
                continue
            watching = job.watching(partial(job.watch, run))
            record = execute(run, job.store, watching, job.load(jobs=1), self.ranks)
            job.queue.ended(run)
            if record.status == "failed":
                self._lost = True  # whoever failed has ended
                if not job.queue.empty():
                    logger.warning("the same command goes on with the runs that are left")
                return

    def end(self) -> None:
        """Let the others end."""
        if not self._lost:
            self.ranks.gather(_END)


def keep_up(runs: Sequence[Run], folder: Path, load: Load, ranks: Ranks) -> None:
    """Train what the first process says until it says no more.

    Raises:
        Exception: a run has died here; the first process finds out that it is alone.
    """
    store = Store(folder)
    known = {run.identity.digest: run for run in runs}
    while True:
        said = ranks.gather(None)[0]
        if said == _END:
            return
        if said != _WAIT:
            follow(known[said], store, load, ranks)


def _end_soon(number: int, frame: object) -> None:
    """Torchrun ends all processes once one has failed: the first one first writes its record."""
    timer = Timer(GRACE / 2, os._exit, (TERMINATED,))
    timer.daemon = True
    timer.start()
