"""Training of one model: which epoch is selected, what is paired by a seed, what a state holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mtlbench.engine.randomness import seeded
from mtlbench.errors import DivergedError
from mtlbench.registry import METHODS, SHARPNESS, Spec
from mtlbench.training.evaluate import evaluate
from mtlbench.training.history import Phase
from mtlbench.training.trainer import Trainer
from tests.toy_task import EPOCHS, SIZES, ToyTask

CPU = torch.device("cpu")
OBJECTIVES = ToyTask.info.objectives


@pytest.fixture
def task() -> ToyTask:
    return toy()


def toy(epochs: int = EPOCHS, **changes: Any) -> ToyTask:
    options = {name: changes.pop(name) for name in ("fault", "at") if name in changes}
    protocol = replace(ToyTask.info.protocols[0], epochs=epochs, **changes)
    return ToyTask(protocol, **options)


def trainer(
    task: ToyTask,
    method: str = "ls",
    sharpness: str = "none",
    seed: int = 0,
    objectives: Sequence[str] = OBJECTIVES,
) -> Trainer:
    return Trainer(
        task,
        objectives,
        architecture=task.protocol.arch,
        method=Spec.parse(method),
        sharpness=Spec.parse(sharpness),
        seed=seed,
        device=CPU,
    )


def fit(task: ToyTask, **changes: Any) -> Phase:
    with seeded(0):
        return trainer(task, **changes).fit()


def numbers(phase: Phase) -> dict[str, Any]:
    """A phase without its timing."""
    return phase.model_dump(exclude={"epochs": {"__all__": {"step_ms"}}})


# ------------------------------------------------------------------------------------ selection
@pytest.mark.parametrize(
    ("scores", "selected"),
    [
        ([0.1, 0.9, 0.3], 1),
        ([0.1, 0.3, 0.9], 2),
        ([0.9, 0.3, 0.1], 0),
        ([0.1, 0.9, 0.9], 1),
        ([0.1, 1 / 3, 1 / 3], 1),
        ([math.nan, 0.3, 0.9], 2),
        ([0.3, math.nan, 0.9], 2),
        ([0.3, math.nan, 0.1], 0),
        ([math.nan, math.nan, math.nan], 0),
    ],
    ids=lambda value: (
        " ".join(f"{s:.2g}" for s in value) if isinstance(value, list) else str(value)
    ),
)
def test_the_best_epoch_on_validation_is_selected(
    scores: list[float], selected: int, task: ToyTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(scores)
    monkeypatch.setattr(task, "selection_score", lambda metrics: next(left))
    phase = fit(task)
    assert phase.selected_epoch == selected
    assert phase.selected["val"] == phase.epochs[selected].val
    assert phase.last["val"] == phase.epochs[-1].val


def test_the_score_is_of_the_validation_split(
    task: ToyTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = []
    batches = task.batches

    def watched(split: str, seed: int | None) -> object:
        splits.append(split)
        return batches(split, seed)

    monkeypatch.setattr(task, "batches", watched)
    phase = fit(task)
    tested = ["test"] * (phase.selected_epoch < EPOCHS - 1)  # no model is judged twice
    assert splits == ["train", "val"] * EPOCHS + ["test", "train", *tested]
    scores = [task.selection_score(epoch.val.metrics) for epoch in phase.epochs]
    assert [epoch.selection_score for epoch in phase.epochs] == pytest.approx(scores, rel=1e-5)


def test_training_learns() -> None:
    task = toy(epochs=8, scheduler=None)
    with seeded(0):
        made = trainer(task)
        before = evaluate(made.model, task, "train", OBJECTIVES, CPU).losses
        after = made.fit().last["train"].losses
    assert all(after[name] < before[name] for name in OBJECTIVES)


# ------------------------------------------------------------------------------------ pairing
def test_a_seed_pairs_all_methods_and_wrappers(
    task: ToyTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[int] = []
    batches = task.batches

    def watched(split: str, seed: int | None) -> object:
        if seed is not None:
            orders.append(seed)
        return batches(split, seed)

    def start(method: str, wrapper: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Initial weights, and the next number that dropout would draw."""
        with seeded(seed):
            made = trainer(task, method, wrapper, seed)
            return made.stepper.flat.data.clone(), torch.rand(3)

    monkeypatch.setattr(task, "batches", watched)
    weights, noise = start(METHODS.names()[0], SHARPNESS.default, 0)
    for method, wrapper in product(METHODS.names(), SHARPNESS.names()):
        again, drawn = start(method, wrapper, 0)
        assert torch.equal(again, weights), (method, wrapper)
        assert torch.equal(drawn, noise), (method, wrapper)
    assert not torch.equal(start(METHODS.names()[0], SHARPNESS.default, 1)[0], weights)

    fit(task, method="ls")
    expected, orders = orders, []
    fit(task, method="mgda", sharpness="sam")
    assert orders == expected
    assert len(set(orders)) == EPOCHS


def test_a_protocol_may_average_its_last_epochs_on_test() -> None:
    phases = [fit(toy(epochs)) for epochs in (2, 3, 4)]
    tests = [phase.last["test"] for phase in phases]
    averaged = fit(toy(4, average_last=3))
    for name in tests[0].metrics:
        mean = sum(scores.metrics[name] for scores in tests) / 3
        assert averaged.selected["test"].metrics[name] == pytest.approx(mean, abs=1e-5)
    assert averaged.selected_epoch == 3
    assert averaged.last == phases[-1].last
    assert averaged.selected.keys() == {"val", "test"}
    assert averaged.selected["val"] == averaged.last["val"]


@pytest.mark.parametrize("selected", [0, 4])
def test_what_does_not_count_is_kept_beside(selected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(averaged: int) -> Phase:
        task = toy(6, average_last=averaged)
        scores = iter([float(epoch == selected) for epoch in range(6)])
        monkeypatch.setattr(task, "selection_score", lambda metrics: next(scores))
        return fit(task)

    chosen, averaged = ended(0), ended(2)
    assert chosen.selected_epoch == selected
    assert chosen.last == averaged.last
    assert (chosen.last_n, averaged.last_n) == (2, 2), "a third of a short training"
    assert chosen.beside == {"mean_of_last": averaged.selected["test"]}
    assert averaged.beside == {"selected": chosen.selected["test"]}


def test_seeded_leaves_the_callers_generator_alone() -> None:
    before = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(3):
        assert torch.equal(torch.rand(4), first)


# ------------------------------------------------------------------------------------ epochs
def test_what_an_epoch_leaves_behind(task: ToyTask) -> None:
    seen = []
    with seeded(0):
        made = trainer(task)
        phase = made.fit(lambda: seen.append(len(made.history)))
    assert seen == [1, 2, 3]
    assert phase.objectives == list(OBJECTIVES)
    for epoch in phase.epochs:
        assert set(epoch.train_losses) == set(epoch.val.losses) == set(OBJECTIVES)
        assert set(epoch.val.metrics) == {metric.name for metric in task.info.metrics}
        assert epoch.step_ms > 0
        assert epoch.skipped_steps == 0
    assert made.stepper.steps == EPOCHS * SIZES[0] / task.protocol.batch_size
    assert made.train_seconds > 0
    assert made.step_ms > 0


def test_one_objective_alone(task: ToyTask) -> None:
    phase = fit(task, method="stl", objectives=["slope"])
    assert phase.objectives == ["slope"]
    for scores in (*phase.last.values(), *phase.selected.values()):
        assert set(scores.metrics) == {"slope_mse"}
        assert set(scores.losses) == {"slope"}


def test_the_schedulers() -> None:
    def rates(name: str, **options: Any) -> list[float]:
        seen: list[float] = []
        with seeded(0):
            made = trainer(toy(scheduler=(name, options)))
            group = made.stepper.optimizer.param_groups[0]
            made.fit(lambda: seen.append(group["lr"]))
        return seen

    assert rates("StepLR", step_size=1, gamma=0.5) == [0.005, 0.0025, 0.00125]
    never_better = {"mode": "max", "threshold": 1e9, "threshold_mode": "abs", "patience": 0}
    assert rates("ReduceLROnPlateau", **never_better) == pytest.approx([0.01, 0.001, 0.0001])
    any_better = {"threshold": -1e9, "threshold_mode": "abs", "patience": 0}
    for mode in ("max", "min"):
        assert rates("ReduceLROnPlateau", mode=mode, **any_better) == [0.01] * 3


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_plateau_is_one_of_the_selection_score(mode: str) -> None:
    """Higher is better, also for a scheduler that minimises: it is given the negative."""
    with seeded(0):
        made = trainer(toy(scheduler=("ReduceLROnPlateau", {"mode": mode})))
        made.fit()
    assert isinstance(made.scheduler, ReduceLROnPlateau)
    best = max(epoch.selection_score for epoch in made.history)
    assert made.scheduler.best == pytest.approx(best if mode == "max" else -best)


def test_options_of_the_optimizer() -> None:
    made = trainer(toy(optimizer="SGD", optimizer_options={"momentum": 0.9}))
    (group,) = made.stepper.optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.01, 0.9, 0)


def test_divergence_stops_training() -> None:
    with pytest.raises(DivergedError, match="20 steps in a row skipped: non-finite loss: level"):
        fit(toy(fault="nan"))


def test_an_epoch_without_a_step_has_no_training_loss() -> None:
    """Ten steps are too few to call it diverged."""
    phase = fit(toy(fault="nan", at=EPOCHS - 1))
    assert [epoch.skipped_steps for epoch in phase.epochs] == [0, 0, 10]
    assert all(math.isnan(loss) for loss in phase.epochs[-1].train_losses.values())
    assert phase.diagnostics["skipped_steps"] == 10


# ------------------------------------------------------------------------------------ evaluation
def test_evaluation_changes_nothing(task: ToyTask) -> None:
    with seeded(0):
        model = trainer(task).model.train()
        next(m for m in model.modules() if isinstance(m, nn.Dropout)).eval()
        modes = [module.training for module in model.modules()]
        state = {name: value.clone() for name, value in model.state_dict().items()}
        generator = torch.get_rng_state()
        first = evaluate(model, task, "test", OBJECTIVES, CPU)
        assert evaluate(model, task, "test", OBJECTIVES, CPU) == first
        assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes


def test_losses_are_means_over_samples() -> None:
    """Also where the last batch is smaller."""

    def losses(batch_size: int) -> dict[str, float]:
        task = toy(batch_size=batch_size)
        with seeded(0):
            return evaluate(trainer(task).model, task, "val", OBJECTIVES, CPU).losses

    assert losses(3) == pytest.approx(losses(8), rel=1e-6)


def test_the_network_is_told_of_every_epoch(task: ToyTask, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    with seeded(0):
        made = trainer(task)
        monkeypatch.setattr(made.model, "begin_epoch", lambda *epoch: told.append(epoch))
        made.fit()
    assert told == [(epoch, EPOCHS) for epoch in range(EPOCHS)]


# ------------------------------------------------------------------------------------ state
@pytest.mark.parametrize(
    ("method", "sharpness", "averaged"),
    [
        ("famo", "fmtl", 0),
        ("graddrop", "samo", 0),
        ("ls", "none", EPOCHS),
        ("moml:held_out=0.3", "sam", 0),
    ],
)
def test_a_loaded_state_goes_on_as_if_never_saved(
    method: str, sharpness: str, averaged: int, tmp_path: Path
) -> None:
    task = toy(average_last=averaged)
    path = tmp_path / "state.pt"

    def save_at(made: Trainer) -> Callable[[], None]:
        def save() -> None:
            if len(made.history) == 1:
                torch.save(made.state_dict(), path)

        return save

    with seeded(0):
        made = trainer(task, method, sharpness)
        unbroken = made.fit(save_at(made))
    with seeded(1):  # neither these weights nor these numbers may matter
        other = trainer(task, method, sharpness, seed=0)
        other.load_state_dict(torch.load(path, weights_only=True))
        assert numbers(other.fit()) == numbers(unbroken)
    assert torch.equal(made.stepper.flat.data, other.stepper.flat.data)
