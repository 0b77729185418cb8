"""Batches that a method looks at beside the one it trains on: where they are from, and what a look
leaves alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mtlbench import InputGroup, UsageError
from mtlbench.data import ArrayBatches, HeldOut
from mtlbench.engine.problem import BatchProblem
from mtlbench.interfaces import Batch, Divisible, Further, Update
from mtlbench.registry import METHODS, TASKS, Spec, identifying
from mtlbench.runs.spec import build_task
from mtlbench.tasks._office.batches import DomainBatches
from mtlbench.testing.known import KnownProblem
from mtlbench.training.further import TrainingData
from tests.models import (
    assert_close,
    buffers_of,
    dense_view,
    make_problem,
    make_stepper,
    mse,
    names,
    same,
    single_batch,
    snapshot,
    tiny_model,
)
from tests.test_trainer import toy
from tests.toy_task import SIZES, ToyTask

LOOKING = [name for name in METHODS.names() if METHODS.get(name).info.further]
HELD_OUT = Further(1, held_out=0.3)


# -------------------------------------------------------------------------------- where from
def _array(n: int, seed: int | None) -> ArrayBatches:
    return ArrayBatches(lambda index: InputGroup(index, {"left": index}), n, 3, seed)


def _domains(n: int, seed: int | None) -> DomainBatches:
    def group(k: int, index: Tensor, draw: int | None) -> InputGroup:
        return InputGroup(100 * k + index, {"left": index})

    return DomainBatches(group, [n, n // 2], 3, seed)


def _seen(batches: Iterable[Batch]) -> set[int]:
    return {int(i) for batch in batches for group in batch for i in group.inputs}


@pytest.mark.parametrize("make", [_array, _domains])
@pytest.mark.parametrize(("n", "share"), [(40, 0.1), (41, 0.5), (2, 0.01), (2, 0.99)])
def test_examples_are_held_out_for_good(
    make: Callable[[int, int | None], Any], n: int, share: float
) -> None:
    inside, outside = HeldOut(share), HeldOut(share, inside=False)
    held = _seen(make(n, None).only(inside))
    kept = _seen(make(n, None).only(outside))
    assert held
    assert kept
    assert not held & kept
    assert held | kept == _seen(make(n, None))
    for seed in range(4):  # whatever the order, and but for one left over
        assert _seen(make(n, seed).only(inside)) <= held
        assert _seen(make(n, seed).only(outside)) <= kept


def _rows(task: ToyTask, split: str) -> Tensor:
    return torch.cat([group.inputs for (group,) in task.batches(split, None)])


def _overlap(a: Tensor, b: Tensor) -> bool:
    return bool((a[:, None] == b[None]).all(2).any())


def test_held_out_batches_are_never_trained_on_nor_judged_by() -> None:
    task = toy()
    data = TrainingData(task, HELD_OUT, seed=0)
    held = torch.cat([data.further()[0][0].inputs for _ in range(30)])
    trained = torch.cat([group.inputs for order in range(5) for (group,) in data.epoch(order)])
    assert len(held.unique(dim=0)) == round(0.3 * SIZES[0])
    assert len(trained.unique(dim=0)) == SIZES[0] - round(0.3 * SIZES[0])
    assert not _overlap(held, trained)
    assert not any(_overlap(held, _rows(task, split)) for split in ("val", "test"))
    other = TrainingData(toy(), HELD_OUT, seed=7)
    again = torch.cat([other.further()[0][0].inputs for _ in range(30)])
    assert torch.equal(again.unique(dim=0), held.unique(dim=0))
    assert not torch.equal(again, held)


def test_further_training_batches_are_drawn_in_an_order_of_their_own() -> None:
    data = TrainingData(toy(), Further(2), seed=0)
    drawn = [data.further() for _ in range(10)]
    assert all(len(batches) == 2 for batches in drawn)
    first = torch.cat([group.inputs for batches in drawn[:5] for (group,) in batches])
    assert len(first.unique(dim=0)) == SIZES[0]  # a pass
    second = torch.cat([group.inputs for batches in drawn[5:] for (group,) in batches])
    assert not torch.equal(first, second)
    own = torch.cat([group.inputs for (group,) in data.epoch(0)])
    assert len(own.unique(dim=0)) == SIZES[0]


def test_no_pass_over_further_batches_has_the_order_of_an_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, orders = toy(), list[int | None]()

    def noted(split: str, seed: int | None) -> list[Batch]:
        orders.append(seed)
        return [[]]

    monkeypatch.setattr(task, "batches", noted)
    data = TrainingData(task, Further(1), seed=3)
    for _ in range(5):
        data.further()
    epochs = [int(np.random.SeedSequence((3, e)).generate_state(1)[0]) for e in range(5)]
    assert len({*orders, *epochs}) == 10


def test_the_source_goes_on_where_it_was_saved() -> None:
    whole = TrainingData(toy(), HELD_OUT, seed=0)
    for _ in range(8):
        state = copy.deepcopy(whole.state_dict())
        resumed = TrainingData(toy(), HELD_OUT, seed=0)
        resumed.load_state_dict(state)
        ahead = [resumed.further()[0][0].inputs for _ in range(4)]
        expected = TrainingData(toy(), HELD_OUT, seed=0)
        expected.load_state_dict(state)
        assert same(ahead, [expected.further()[0][0].inputs for _ in range(4)])
        assert torch.equal(whole.further()[0][0].inputs, ahead[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS.names())
def test_every_benchmark_can_be_divided(name: str) -> None:
    task, _ = build_task(Spec(name), None, None)
    assert isinstance(task.batches("train", 0), Divisible)


def test_batches_that_cannot_be_divided_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    task = toy()
    batches = task.batches
    monkeypatch.setattr(task, "batches", lambda split, seed: list(batches(split, seed)))
    data = TrainingData(task, HELD_OUT, seed=0)
    with pytest.raises(UsageError, match=r"30% of the training data .* task 'toy' cannot be div"):
        data.epoch(0)
    assert len(list(TrainingData(task, Further(2), seed=0).epoch(0))) == 10  # nothing is held out


def test_what_is_held_out_is_part_of_what_a_run_is() -> None:
    def identity(spec: str) -> dict[str, Any]:
        return identifying(*METHODS.resolve(Spec.parse(spec)))

    assert identity("autolambda")["held_out"] == identity("moml")["held_out"] == 0.1
    assert "draws" not in identity("sdmgrad")
    assert identity("sdmgrad:draws=3")["draws"] == 3
    assert METHODS.build("moml:held_out=0.2", 3).info.further == Further(
        1, held_out=0.2, forwards=2, backwards_per_task=2
    )


# ---------------------------------------------------------------------------- a loop of one's own
def test_the_number_of_further_batches_is_checked() -> None:
    batch = single_batch()
    moml, ls = make_stepper(tiny_model(), "moml"), make_stepper(tiny_model())
    with pytest.raises(
        UsageError, match=r"moml looks at 1 further batches a step, held out .* was given 2"
    ):
        moml.step(batch, mse, [batch, batch])
    with pytest.raises(UsageError, match="ls looks at no further batches, step\\(\\) was given 1"):
        ls.step(batch, mse, [batch])
    assert (moml.n_further, ls.n_further, moml.steps) == (1, 0, 0)
    assert not moml.step(batch, mse, [batch[0]]).skipped


@pytest.mark.parametrize("method", LOOKING)
def test_where_a_label_is_missing_there_is_no_look(method: str) -> None:
    stepper, batch = make_stepper(tiny_model(), method), single_batch()
    group = batch[0]
    few = {name: target for name, target in group.targets.items() if name != names(3)[1]}
    before = snapshot(stepper.methods[0].state_dict())
    report = stepper.step(batch, mse, [[InputGroup(group.inputs, few)]] * stepper.n_further)
    assert not report.skipped
    assert same(before, snapshot(stepper.methods[0].state_dict()))
    assert stepper.passes.forward == 1
    assert stepper.diagnostics()["unlooked_steps"] == 1
    state = stepper.state_dict()
    stepper.step(batch, mse)
    assert "unlooked_steps" in stepper.diagnostics()
    stepper.load_state_dict(state)
    assert stepper.diagnostics()["unlooked_steps"] == 1


@pytest.mark.parametrize("method", LOOKING)
def test_a_look_moves_no_statistics_and_no_random_numbers(method: str) -> None:
    """The step's own batch sees what it would see without the look."""
    plain, looking = (make_stepper(tiny_model(), m, lr=0.0) for m in ("ls", method))
    found = []
    for stepper in (plain, looking):
        torch.manual_seed(3)
        reports = [stepper.step(single_batch(seed=seed), mse) for seed in range(2)]
        losses = [report.losses for report in reports]
        found.append([losses, buffers_of(stepper.model), torch.get_rng_state()])
    assert same(*found)


# -------------------------------------------------------------------------------- the contract
def test_ahead_is_what_sgd_does() -> None:
    """With momentum and weight decay, in groups, of which one parameter is in none."""
    model = tiny_model()
    left_out, *trunk = model.shared.parameters()
    groups = [
        {"params": trunk, "lr": 0.1},
        {"params": model.heads.parameters(), "lr": 0.3, "weight_decay": 0.5},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.7, weight_decay=0.2)
    flat = make_stepper(model).flat
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        vector = torch.randn(flat.size, generator=generator).double()
        update = Update(vector[flat.shared], [vector[head] for head in flat.heads])
        problem = _problem(model, flat, optimizer)
        moved, bare = problem.ahead(update), problem.ahead(update, bare=True)
        before = flat.data.clone()
        flat.grad.rows[0].copy_(update.shared)
        for own, new in zip(flat.grad.heads, update.heads, strict=True):
            own.copy_(new)
        flat.grad.bind()
        optimizer.step()
        assert_close(torch.cat([moved.shared, *moved.heads]), flat.data - before)
        assert not moved.shared[: left_out.numel()].any()
        assert_close(torch.cat(list(bare.heads)), -0.3 * torch.cat(list(update.heads)))
    with pytest.raises(UsageError, match="made without an optimizer"):
        make_problem(model).ahead(update)


def _problem(model: Any, flat: Any, optimizer: Any) -> BatchProblem:
    return BatchProblem(
        model, flat, single_batch(), names(3), mse, torch.Generator(), optimizer=optimizer
    )


def test_segments_move_along_a_gradient_and_back() -> None:
    problem = make_problem(tiny_model())
    flat, before = problem.flat, problem.flat.data.clone()
    update = problem.view().combine(torch.ones(3).double())
    expected = before - 0.1 * torch.cat([update.shared, *update.heads])
    with flat.shifted(*flat.along(update, -0.1)):
        assert_close(flat.data, expected)
    assert torch.equal(flat.data, before)


def test_the_kits_linear_problem_is_its_gradients() -> None:
    view = dense_view()
    problem: Any = KnownProblem(view, 2)  # type: ignore[arg-type]
    update = view.combine(torch.ones(3).double())
    before = problem.losses()
    with problem.flat.shifted(*problem.flat.along(update, 0.5)):
        moved = problem.evaluate()
        assert_close(problem.evaluate([problem.objectives[2]]), moved[2:])
    rows = [head @ head for head in view.head_grads()]
    assert_close(moved - before, 0.5 * (view.jacobian() @ update.shared + torch.stack(rows)))
    assert same(problem.losses(), before)
    assert len(problem.further) == 2
    assert len(list(islice(problem.view().row(1), 2))) == 2
