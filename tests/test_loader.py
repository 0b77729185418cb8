"""Batches on their way to a device, with and without processes that fetch them."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mtlbench.data import ArrayBatches, Normalize, loader, reading
from mtlbench.data.loader import Feed, check_workers, default_workers
from mtlbench.engine.randomness import seeded
from mtlbench.errors import DataError, UsageError
from mtlbench.hardware import cores
from mtlbench.interfaces import Batch, InputGroup
from mtlbench.registry import Spec
from mtlbench.training.history import Phase
from mtlbench.training.trainer import Trainer
from tests.toy_task import ToyTask

CPU = torch.device("cpu")
PIXELS = torch.randint(256, (50, 3, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
FILE = Path("/data/000017.jpg")


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    before, handler = multiprocessing.active_children(), signal.getsignal(signal.SIGCHLD)
    yield
    assert multiprocessing.active_children() == before
    assert signal.getsignal(signal.SIGCHLD) == handler


def batches(at: Callable[[int], object] = lambda i: None, seed: int | None = 3) -> ArrayBatches:
    def group(index: Tensor) -> InputGroup:
        reading(FILE)
        at(int(index[0]))
        a = index.double()
        mixed = {"pixels": PIXELS[index], "plain": 7, "turned": PIXELS[index].transpose(1, 2)}
        return InputGroup(
            mixed, {"a": a, "same": a, "none": index[:0], "row": index.repeat(2, 1).unbind()[1]}
        )

    def finish(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return inputs | {"pixels": Normalize()(inputs["pixels"])}

    return ArrayBatches(group, len(PIXELS), 8, seed, finish)


def equal(one: list[Batch], other: list[Batch]) -> bool:
    pairs = [p for batch in zip(one, other, strict=True) for p in zip(*batch, strict=True)]
    return all(
        a.inputs["plain"] == b.inputs["plain"]
        and all(torch.equal(a.inputs[k], b.inputs[k]) for k in ("pixels", "turned"))
        and a.targets.keys() == b.targets.keys()
        and all(torch.equal(a.targets[k], b.targets[k]) for k in a.targets)
        for a, b in pairs
    )


@pytest.mark.parametrize("seed", [None, 3])
def test_processes_change_nothing(seed: int | None) -> None:
    state = torch.get_rng_state()
    plain = list(batches(seed=seed))
    found = [list(Feed(CPU, workers)(batches(seed=seed))) for workers in (0, 1, 2)]
    assert len(plain) == 7
    assert all(equal(plain, each) for each in found)
    assert found[2][4][0].inputs["pixels"].dtype == torch.float32
    half = batches(seed=seed).only(lambda n: torch.arange(0, n, 2))
    assert equal(list(half), list(Feed(CPU, 2)(half)))
    assert torch.equal(state, torch.get_rng_state())
    assert equal(plain[5:6], [batches(seed=seed).finished(batches(seed=seed).fetch(5))])


def test_a_pass_may_be_left() -> None:
    feed = Feed(CPU, 2)(batches())
    assert equal([next(feed) for _ in range(3)], list(batches())[:3])
    feed.close()
    assert list(Feed(CPU, 2)(ArrayBatches(batches().group, 0, 8, None))) == []


def test_what_cannot_be_fetched_is_said_by_whom_asks_for_it() -> None:
    order = batches()._order.tolist()

    def broken(i: int) -> None:
        if i == order[24]:
            raise DataError(f"{FILE} cannot be read")

    def buggy(i: int) -> None:
        if i == order[24]:
            raise KeyError("a bug")

    for at, error, said in (
        (broken, DataError, f"^{FILE} cannot be read$"),
        (buggy, RuntimeError, "^KeyError: 'a bug'\n(?s:.*)in buggy"),
    ):
        feed = Feed(CPU, 2)(batches(at))
        assert equal([next(feed) for _ in range(3)], list(batches())[:3])
        with pytest.raises(error, match=said):
            next(feed)


def test_a_process_that_dies_is_told_of_with_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "LOOK", 0.2)
    order = batches()._order.tolist()

    def die(i: int) -> None:
        if i == order[24]:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeError, match=f"exit code -9 .*out of memory.*reading {FILE}$"):
        list(Feed(CPU, 2)(batches(die)))


def test_a_process_that_is_stuck_is_told_of_with_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "LOOK", 0.2)
    monkeypatch.setattr(loader, "PATIENCE", 0.5)
    order, parent = batches()._order.tolist(), os.getpid()

    def sleep(i: int) -> None:
        if i == order[16] and os.getpid() != parent:
            time.sleep(100)

    feed = Feed(CPU, 1)(batches(sleep))
    assert equal([next(feed) for _ in range(2)], list(batches())[:2])
    with pytest.raises(RuntimeError, match=f"batch 2 has not come for 0.5 s.*reading {FILE}$"):
        next(feed)


def test_batches_without_numbers_are_fetched_here() -> None:
    class Listed:
        def __iter__(self) -> Iterator[Batch]:
            return iter(batches())

    assert equal(list(Feed(CPU)(Listed())), list(batches()))
    with pytest.warns(UserWarning, match="Listed are no NumberedBatches"):
        assert equal(list(Feed(CPU, 2)(Listed())), list(batches()))


def test_how_many_processes_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    assert default_workers(CPU, on_disk=True) == default_workers(gpu, on_disk=False) == 0
    assert default_workers(gpu, on_disk=True) == min(4, cores())
    assert default_workers(gpu, on_disk=True, jobs=99) == 1
    check_workers(2)
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert default_workers(gpu, on_disk=True) == 0
    check_workers(0)
    with pytest.raises(UsageError, match="by processes where these fork"):
        check_workers(2)


def test_bytes_are_normalized_as_by_plain_arithmetic() -> None:
    mean, std = torch.rand(2, 3, 1, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    every = torch.arange(256, dtype=torch.uint8).expand(2, 3, 5, -1)
    assert torch.equal(Normalize()(every), every.float() / 255)
    assert torch.equal(Normalize(mean, std)(every), (every / 255 - mean) / std)
    assert torch.equal(Normalize(mean)(every), every / 255 - mean)


def test_a_training_goes_on_with_another_number_of_processes() -> None:
    def trainer(workers: int) -> Trainer:
        task = ToyTask(dataclasses.replace(ToyTask.info.protocols[0], epochs=2))
        return Trainer(
            task,
            task.info.objectives,
            architecture="linear",
            method=Spec("ls"),
            sharpness=Spec("none"),
            seed=0,
            device=CPU,
            workers=workers,
        )

    def numbers(phase: Phase) -> dict[str, Any]:
        return phase.model_dump(exclude={"epochs": {"__all__": {"step_ms"}}})

    states: list[dict[str, Any]] = []
    with seeded(0):
        one = trainer(0)
        plain = one.fit(lambda: states.append(copy.deepcopy(one.state_dict())))
    with seeded(0):
        other = trainer(2)
        other.load_state_dict(states[0])
        assert numbers(other.fit()) == numbers(plain)
