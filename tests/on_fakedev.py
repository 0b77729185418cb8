"""Trains on the pretend accelerator and on the CPU, and tells what differs and what the host waits
for: ``python -m tests.on_fakedev SECTION`` prints JSON. In a process of its own, as the device
changes PyTorch."""

from __future__ import annotations

import itertools
import json
import logging
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from tests import fakedev

DEVICE = fakedev.install("mtlbench", pretend="mps" if "mps" in sys.argv[1:] else "cuda")

from mtlbench import InputGroup  # noqa: E402
from mtlbench.interfaces import Batch  # noqa: E402
from mtlbench.registry import METHODS, SHARPNESS  # noqa: E402
from mtlbench.runs.execute import Watching, execute  # noqa: E402
from mtlbench.runs.record import RunRecord  # noqa: E402
from mtlbench.runs.spec import Run, RunSpec, prepare  # noqa: E402
from mtlbench.runs.store import Store  # noqa: E402
from mtlbench.testing.steps import Supplied  # noqa: E402
from tests import models  # noqa: E402
from tests.fakedev_plan import KINDS, RUNS, WRAPPERS  # noqa: E402

CPU = torch.device("cpu")
K, STEPS, COUNTED = 3, 6, 3
Spoil = Callable[[int, Batch], None]


def train(
    device: torch.device,
    method: str,
    wrapper: str,
    *,
    multi: bool = False,
    spoil: Spoil | None = None,
) -> tuple[torch.Tensor, Counter[tuple[str, str]]]:
    """Losses of all steps and the parameters after them; what the last steps waited for, by kind
    and place, a batch's way to the device included."""
    torch.manual_seed(0)
    model = models.tiny_model(K, dtype=torch.float32).to(device)
    torch.manual_seed(1)
    stepper = Supplied(model, torch.optim.Adam(model.parameters(), lr=0.01), method, wrapper)
    make = models.multi_batch if multi else models.single_batch
    seen, counts = [], Counter[tuple[str, str]]()
    for step in range(STEPS):
        batch = make(K, seed=step % 3, dtype=torch.float32)
        if spoil is not None:
            spoil(step, batch)
        with fakedev.recorded() as found:
            report = stepper.step([group.to(device) for group in batch], models.mse)
        if step >= STEPS - COUNTED:
            counts.update((e.kind, e.place.removeprefix("mtlbench/")) for e in found)
        none = torch.full((K,), -1.0, device=device)
        seen.append(none if report.losses is None else report.losses)
    state = torch.cat([torch.stack(seen).flatten(), stepper.flat.data])
    return state.cpu().double(), counts


def compared(method: str, wrapper: str, **request: Any) -> dict[str, Any]:
    """The largest relative difference from the CPU, and what a step waits for."""
    expected, _ = train(CPU, method, wrapper, **request)
    found, counts = train(DEVICE, method, wrapper, **request)
    gap = (found - expected).abs() / expected.abs().clamp_min(1e-3)
    gap = gap[~(found.isnan() & expected.isnan())]
    kinds = {"waits": ("sync", "d2h"), "copies": ("h2d",), "asynchronous": ("h2d async",)}
    return {
        "gap": gap.max().item(),
        "places": {f"{kind} {place}": n / COUNTED for (kind, place), n in sorted(counts.items())},
    } | {
        name: sum(n for (kind, _), n in counts.items() if kind in those) / COUNTED
        for name, those in kinds.items()
    }


def some_unlabelled(step: int, batch: Batch) -> None:
    """Some examples lack a label, in every third step those of a whole task."""
    for group in batch:
        for k, target in enumerate(group.targets.values()):
            target[: 2 + k] = torch.nan
            if k == step % 9:
                target[:] = torch.nan


def infinite(step: int, batch: Batch) -> None:
    """Two steps have an infinite loss."""
    if step in (2, 5):
        next(iter(batch[0].targets.values()))[:] = torch.inf


# ------------------------------------------------------------------------------------ sections
def batches() -> dict[str, Any]:
    """A batch of all kinds of tensors on its way to the device."""
    inputs = {
        "image": torch.rand(2, 3, 5),
        "turned": torch.rand(4, 2).T,
        "mask": torch.tensor([True, False, True]),
        "empty": torch.zeros(0),
        "plain": "text",
        "pair": [torch.arange(3, dtype=torch.int16), torch.rand(2).double()],
    }
    target = torch.tensor([1.0, torch.nan, 2.0])
    group = InputGroup(inputs, {"a": target, "b": torch.arange(3), "again": target})
    with fakedev.recorded() as events:
        there = group.to(DEVICE)
    pairs = list(
        zip(
            tree_leaves([inputs, group.targets]),
            tree_leaves([there.inputs, there.targets]),
            strict=True,
        )
    )
    tensors = [(a, b) for a, b in pairs if isinstance(a, torch.Tensor)]
    known = there.readable("a") is target
    there.targets["b"][0] = 7  # does not count for its neighbours in memory
    others_known = there.readable("a") is target
    there.targets["a"][0] = torch.nan
    return {
        "kinds": sorted(e.kind for e in events),
        "same": all(b.device == DEVICE and b.dtype == a.dtype for a, b in tensors)
        and all(torch.equal(a.nan_to_num(9), b.cpu().nan_to_num(9)) for a, b in tensors[:-3]),
        "read on the host": [known, others_known, there.readable("b").device.type == "cpu"],
        "read where it was written": there.readable("a") is there.targets["a"],
        "moved again": there.to(DEVICE).readable("b").device.type,
    }


def counts() -> dict[str, Any]:
    """Kinds of methods with wrappers."""
    return {f"{m} {w}": compared(m, w) for m, w in itertools.product(KINDS, WRAPPERS)}


def everything() -> dict[str, Any]:
    """All methods with all wrappers, on one input and on one a task."""
    pairs = itertools.product(METHODS.names(), SHARPNESS.names(), (False, True))
    return {f"{m} {w} {'multi' * s}".strip(): compared(m, w, multi=s) for m, w, s in pairs}


def trouble() -> dict[str, Any]:
    """Missing labels and steps that are skipped."""
    spoils = (some_unlabelled, infinite)
    pairs = itertools.product(("ls", "gradvac", "db_mtl"), ("none", "samo"), spoils)
    return {f"{m} {w} {s.__name__}": compared(m, w, spoil=s) for m, w, s in pairs}


def runs() -> dict[str, Any]:
    """Runs, whole and resumed, on either device and from one to the other."""
    return {f"{task} {m} {w}": resumed(task, m, w, n) for task, m, w, n in RUNS}


def of_task(task: str) -> dict[str, Any]:
    """A few steps of a task."""
    return resumed(task, "mgda", "samo", 2, [(DEVICE.type, DEVICE.type)])


def resumed(
    task: str, method: str, wrapper: str, batches: int, ways: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """The difference from the CPU's whole run, by where it was interrupted and went on, and how
    often its optimizer waits."""
    request = RunSpec(task, method, wrapper, epochs=2, device="cpu")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        expected = numbers(finished(request, Path(folder, "whole"), batches))
        for way in ways or itertools.product(("cpu", DEVICE.type), repeat=2):
            at = Path(folder, "-".join(way))
            interrupted(RunSpec(task, method, wrapper, epochs=2, device=way[0]), at, batches)
            with fakedev.recorded() as events:
                record = finished(
                    RunSpec(task, method, wrapper, epochs=2, device=way[1]), at, batches
                )
            gaps = [
                abs(v - expected[k]) / max(abs(expected[k]), 1e-3)
                for k, v in numbers(record).items()
            ]
            waits = sum("/optim/" in e.line and e.kind != "h2d" for e in events)
            found[" -> ".join(way)] = {"gap": max(gaps), "optimizer waits": waits}
    return found


def limited(request: RunSpec, batches: int) -> Run:
    """A run whose task has no more than so many batches a split."""
    run = prepare(request)
    task: Any = run.task
    real = type(task).batches
    task.batches = lambda split, seed: list(itertools.islice(real(task, split, seed), batches))
    return run


def interrupted(request: RunSpec, folder: Path, batches: int) -> None:
    """The first epoch, and a checkpoint that the run goes on from on any device."""

    def stop(event: Any) -> None:
        if event.kind == "epoch":
            raise KeyboardInterrupt

    run, store = limited(request, batches), Store(folder)
    try:
        execute(run, store, Watching(stop, checkpoint_seconds=0))
    except KeyboardInterrupt:
        kept = store.checkpoint_path(run.identity)
        for device in ("cpu", DEVICE.type):  # its class is a part of a run's identity
            other = store.checkpoint_path(
                prepare(RunSpec(**vars(request) | {"device": device})).identity
            )
            if other != kept:
                other.write_bytes(kept.read_bytes())


def finished(request: RunSpec, folder: Path, batches: int) -> RunRecord:
    record = execute(limited(request, batches), Store(folder))
    assert record.status == "ok", record.reason
    return record


def numbers(record: RunRecord) -> dict[str, float]:
    """All scores and losses of a run that are numbers."""
    found: dict[str, float] = {}
    for i, phase in enumerate(record.phases):
        for j, epoch in enumerate(phase.epochs):
            found |= {f"{i} {j} train {k}": v for k, v in epoch.train_losses.items()}
            found |= {
                f"{i} {j} val {k}": v for k, v in (epoch.val.losses | epoch.val.metrics).items()
            }
        for split, scores in phase.selected.items():
            found |= {f"{i} {split} {k}": v for k, v in (scores.losses | scores.metrics).items()}
    return {k: v for k, v in found.items() if v == v}


def mps() -> dict[str, Any]:
    """As on a Mac, whose device has no float64: methods, and a run with evaluation and a resume."""
    found = {}
    for method in METHODS.names():  # of parameters, Adam makes steps of rounding
        mine, theirs = (train(device, method, "samo")[0][: STEPS * K] for device in (DEVICE, CPU))
        found[method] = ((mine - theirs).abs() / theirs.abs()).max().item()
    gaps = resumed("multimnist", "moco", "looksam", 2)
    return found | {way: gap["gap"] for way, gap in gaps.items()}


SECTIONS = {f.__name__: f for f in (batches, counts, everything, trouble, runs, mps)}


def found(section: str) -> dict[str, Any]:
    """What a section, or ``task:NAME``, finds."""
    name, _, task = section.partition(":")
    return of_task(task) if task else SECTIONS[name]()


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    print(json.dumps({section: found(section) for section in sys.argv[1:]}))
