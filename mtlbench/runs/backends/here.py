"""In this process, one run after the other: for debugging."""

from __future__ import annotations

import time
from functools import partial

from mtlbench.runs.backends import PATIENCE, Backend, Job
from mtlbench.runs.crew import carry_out


class Here(Backend):
    """Executes in the calling process."""

    def work(self, job: Job) -> None:
        while not job.queue.empty():
            run = job.queue.take()
            if run is None:
                time.sleep(PATIENCE)
                continue
            watching = job.watching(partial(job.watch, run))
            carry_out(run, job.store, watching, job.load(jobs=1))
            job.queue.ended(run)
