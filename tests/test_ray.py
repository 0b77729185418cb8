"""Sweeps on a real Ray cluster of this machine: two nodes, one of which is killed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mtlbench.errors import UsageError
from mtlbench.runs.backends.here import Here
from mtlbench.runs.backends.ray import OnRay
from mtlbench.runs.spec import RunSpec
from mtlbench.runs.store import Store
from mtlbench.runs.sweep import checked, sweep
from tests.test_runner import numbers
from tests.toy_task import TOY

FAILS = "tests.runs_on_ranks:OneFails"
pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
SPECS = [
    RunSpec(TOY, method, seed=seed, device="cpu", epochs=4)
    for seed in (0, 1)
    for method in ("stl", "ls", "mgda", "fairgrad")
]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield made
    made.shutdown()


def test_a_node_dies_in_the_middle(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    store = Store(tmp_path / "ray")

    def kill() -> None:
        while not any(store.folder.glob("*.json")):
            time.sleep(0.1)
        cluster.remove_node(node, allow_graceful=False)

    threading.Thread(target=kill, daemon=True).start()
    sweep(checked(SPECS), store, OnRay(cluster.address))

    alone = Store(tmp_path / "here")
    sweep(checked(SPECS), alone, Here())
    found, expected = ({r.identity.digest: numbers(r) for r in s} for s in (store, alone))
    assert found == expected
    assert not [path for path in store.folder.rglob("*") if path.suffix != ".json"]


def test_a_run_that_kills_its_process_is_its_own_record(cluster: Any, tmp_path: Path) -> None:
    runs = checked(
        RunSpec(f"{TOY}:{fault}", method, device="cpu")
        for fault, method in (("fault=kill", "mgda"), ("", "ls"))
    )
    store = Store(tmp_path)
    sweep(runs, store, OnRay(cluster.address))
    assert {r.identity.method: r.status for r in store} == {"mgda": "failed", "ls": "ok"}


def test_two_processes_a_run(cluster: Any, tmp_path: Path) -> None:
    """On a node that has room for both; one that has not is left alone."""
    cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    runs = checked(
        RunSpec(f"{FAILS}{fault}", "ls", device="cpu", protocol="paper", ranks=2)
        for fault in (":fault=kill", "")
    )
    store, alone = Store(tmp_path / "ray"), Store(tmp_path / "here")
    sweep(runs, store, OnRay(cluster.address, cpus=2), limit=30)
    sweep(runs[1:], alone, Here())
    lost, found = (store.read(run.identity) for run in runs)
    assert lost is not None
    assert found is not None
    assert "it ended with exit code -9" in lost.reason
    assert [numbers(found)] == [numbers(record) for record in alone]


def test_a_run_that_this_machine_has_no_room_for(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(UsageError, match="a run takes 10000 cores, and this machine has fewer"):
        sweep(checked(SPECS[:1]), Store(tmp_path), OnRay(cpus=10_000))


def test_an_address_that_nobody_answers_at(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    start = time.monotonic()
    with pytest.raises(UsageError, match=r"no Ray cluster answers at 127\.0\.0\.1:9"):
        sweep(checked(SPECS[:1]), Store(tmp_path), OnRay("127.0.0.1:9"))
    assert time.monotonic() - start < 15
