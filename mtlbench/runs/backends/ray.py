"""On a Ray cluster: Ray places runs, starts processes, and tries a run again whose node died."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlbench.errors import UsageError
from mtlbench.runs.backends import PATIENCE, Backend, Job
from mtlbench.runs.crew import make
from mtlbench.runs.events import unwatched
from mtlbench.runs.execute import Load, Watching
from mtlbench.runs.spec import Run, RunSpec
from mtlbench.runs.store import Store

if TYPE_CHECKING:
    from ray import ObjectRef

logger = logging.getLogger(__name__)

PATIENCE_TO_CONNECT = 15
"""Seconds after which an address counts as unreachable."""
TRIES_AGAIN = 1
"""How often a run whose process or node died is tried again, before that is its record."""


class OnRay(Backend):
    """Tasks of a Ray cluster; the store has to be a folder that every node sees.

    Processes are reused by Ray, so each imports once and keeps its data.

    Args:
        address: of a cluster, ``"host:port"`` or ``"auto"``; a cluster of this machine if None.
        jobs: runs at a time; as many as the cluster has room for by default.
        cpus: cores of a run, all of one node.
        gpus: GPUs of a run, likewise, or a share of one.
    """

    def __init__(
        self, address: str | None = None, jobs: int | None = None, cpus: int = 1, gpus: float = 0.0
    ) -> None:
        self.address, self.jobs, self.cpus, self.gpus = address, jobs, cpus, gpus

    def work(self, job: Job) -> None:
        ray = connect(self.address)
        if not self._room(ray):
            wanted = f"{self.cpus} cores" + (f" and {self.gpus:g} GPUs" if self.gpus else "")
            if self.address is None:
                ray.shutdown()
                raise UsageError(f"a run takes {wanted}, and this machine has fewer")
            logger.warning("no node of the cluster has the %s that a run takes yet", wanted)
        resources = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": TRIES_AGAIN}
        remote = ray.remote(**resources)(_run)
        running: dict[ObjectRef[Any], Run] = {}
        try:
            while True:
                self._submit(ray, remote, job, running)
                if not running:
                    if job.queue.empty():
                        break
                    time.sleep(PATIENCE)
                    continue
                done, _ = ray.wait(list(running), timeout=1.0)
                for reference in done:
                    job.queue.ended(running.pop(reference), _death(ray, reference))
        finally:
            for reference, run in running.items():
                ray.cancel(reference)
                job.queue.ended(run)
            ray.shutdown()

    def _submit(self, ray: Any, remote: Any, job: Job, running: dict[ObjectRef[Any], Run]) -> None:
        """Hand over runs for as much room as the cluster has now."""
        room = self.jobs or max(1, self._room(ray))
        folder = job.store.folder.resolve()
        while len(running) < room:
            run = job.queue.take()
            if run is None:
                return
            reference = remote.remote(
                run.spec, run.identity.digest, folder, job.watching(unwatched), job.load(room)
            )
            running[reference] = run

    def _room(self, ray: Any) -> int:
        """Runs that the cluster's nodes have place for, each on one of them."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        has = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return sum(
            min(int(node.get(what, 0) / n + 1e-9) for what, n in wanted.items() if n)
            for node in has
        )


def connect(address: str | None) -> Any:
    """Ray, connected.

    Raises:
        UsageError: it is not installed, or nothing answers at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError("Ray is not installed: pip install 'mtlbench[ray]'") from error
    # Ray's own limit on connecting; it would try for minutes.
    os.environ.setdefault("RAY_gcs_server_request_timeout_seconds", str(PATIENCE_TO_CONNECT // 3))
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))}
    try:
        if address is not None and address != "auto":
            _reach(address)
        ray.init(
            address=address,
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            ignore_reinit_error=True,
            runtime_env={"env_vars": paths},
        )
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"no Ray cluster answers at {address or 'this machine'}: {reason}") from (
            error
        )
    return ray


def _reach(address: str) -> None:
    """Refuse an address that nothing listens at."""
    import socket

    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("an address is of the form host:port")
    socket.create_connection((host, int(port)), timeout=PATIENCE_TO_CONNECT).close()


def _death(ray: Any, reference: Any) -> str:
    """Why a task left no record: what it says itself, or how its process died; empty if it did."""
    try:
        return str(ray.get(reference))
    except Exception as error:  # whatever Ray or the task raised is the reason
        return f"the run's process died on the cluster: {type(error).__name__}"


def _run(spec: RunSpec, digest: str, folder: Path, watching: Watching, load: Load) -> str:
    return make(spec, digest, Store(folder), watching, load)
