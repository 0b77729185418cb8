"""Partial labels: examples and whole tasks without a label."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtlbench import InputGroup, MultiTaskModel, Stepper, UsageError
from mtlbench.engine.labels import Labels, labelled
from mtlbench.engine.randomness import evaluation_mode
from mtlbench.engine.restrict import restricted
from mtlbench.interfaces import Batch, DenseView, Task, WeightingMethod
from mtlbench.registry import METHODS, SHARPNESS, TASKS
from mtlbench.testing.families import run_on
from mtlbench.testing.steps import Supplied
from mtlbench.training.evaluate import evaluate
from tests.models import make_stepper, mse, multi_batch, names, same, single_batch, tiny_model

K, PRESENT = 5, [0, 2, 3]
MISSING = [1, 4]
TRAINED = [name for name in METHODS.names() if METHODS.get(name).info.role != "reference"]


def without(batch: Batch, tasks: list[int], *, mark: bool = False) -> list[InputGroup]:
    """The batch without these tasks' targets, or with targets that are all missing."""
    gone = {names(K)[k] for k in tasks}
    groups = []
    for group in batch:
        targets = {
            name: torch.full_like(t, torch.nan) if mark and name in gone else t
            for name, t in group.targets.items()
            if mark or name not in gone
        }
        groups.append(InputGroup(group.inputs, targets))
    return groups


# --------------------------------------------------------------------------------------- labels
def test_what_is_missing() -> None:
    assert labelled(torch.tensor([1.0, torch.nan, 0.0])).tolist() == [True, False, True]
    assert labelled(torch.tensor([1, -1, 0])).tolist() == [True, False, True]
    assert labelled(torch.tensor([True, False])).tolist() == [True, True]


def test_a_vector_counts_if_all_of_it_is_known_and_a_map_if_anything_is() -> None:
    target = torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan], [0.0, 0.0]])
    words = torch.tensor([[5, -100], [-100, -100], [1, 2]])
    labels = Labels(
        {
            "a": target,
            "b": torch.tensor([0, 1, 2]),
            "c": torch.tensor([-1, -1, -1]),
            "map": target.reshape(3, 1, 1, 2),
            "words": words,
        }
    )
    assert labels.counts == {"a": 1, "b": 3, "c": 0, "map": 2, "words": 2}
    prediction = torch.arange(6.0).reshape(3, 2)
    p, t = labels.pick("a", prediction, target)
    assert torch.equal(p, prediction[[2]])
    assert torch.equal(t[0], target[2])
    assert labels.pick("b", prediction, target)[0] is prediction
    assert labels.pick("a", (prediction,), target)[1] is target


def test_targets_of_one_shape_keep_their_own_gaps() -> None:
    rows = torch.tensor([[1.0, torch.nan, 0.0], [torch.nan] * 3, [1.0, 1.0, 1.0]])
    targets = {"a": rows[0], "n": torch.tensor([1, 0, -1]), "b": rows[1], "c": rows[2]}
    labels = Labels(targets)
    assert labels.counts == {"a": 2, "n": 2, "b": 0, "c": 3}
    assert list(labels.counts) == list(targets)
    predictions = {name: torch.arange(3) for name in "anc"}
    found, left = labels.pick_all(predictions, targets)
    assert {name: p.tolist() for name, p in found.items()} == {
        "a": [0, 2],
        "n": [0, 1],
        "c": [0, 1, 2],
    }
    assert left["n"].tolist() == [1, 0]
    whole = {"c": predictions["c"]}
    assert labels.pick_all(whole, targets)[0] is whole


# ----------------------------------------------------------------------------------- one problem
@pytest.mark.parametrize("make_batch", [single_batch, multi_batch])
@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.parametrize("mark", [False, True])
def test_the_others_step_is_what_it_would_be_without_the_missing(
    method: str, mark: bool, make_batch: Any
) -> None:
    """Three steps, against a network and a method of the present tasks alone."""
    model = tiny_model(K)
    present = [names(K)[k] for k in PRESENT]
    heads = {name: copy.deepcopy(model.heads[name]) for name in present}
    alone = MultiTaskModel(copy.deepcopy(model.shared), heads)
    some, few = make_stepper(model, method, seed=3), make_stepper(alone, method, seed=3)
    for seed in range(3):
        batch = make_batch(K, seed=seed)
        torch.manual_seed(seed)
        report = some.step(without(batch, MISSING, mark=mark), mse)
        torch.manual_seed(seed)
        expected = few.step([g for g in without(batch, MISSING) if g.targets], mse)
        assert report.losses is not None
        assert expected.losses is not None
        assert report.losses[MISSING].isnan().all()
        torch.testing.assert_close(report.losses[PRESENT], expected.losses)
    for name in present:
        for p, q in zip(
            model.heads[name].parameters(), alone.heads[name].parameters(), strict=True
        ):
            torch.testing.assert_close(p, q)
    for p, q in zip(model.shared.parameters(), alone.shared.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("sharpness", SHARPNESS.names())
@pytest.mark.parametrize("method", ["uw", "fairgrad", "graddrop"])
def test_wrappers_too(method: str, sharpness: str) -> None:
    model = tiny_model(K)
    present = [names(K)[k] for k in PRESENT]
    heads = {name: copy.deepcopy(model.heads[name]) for name in present}
    alone = MultiTaskModel(copy.deepcopy(model.shared), heads)
    some = make_stepper(model, method, sharpness, seed=3)
    few = make_stepper(alone, method, sharpness, seed=3)
    for seed in range(2):
        batch = single_batch(K, seed=seed)
        for stepper in (some, few):
            torch.manual_seed(seed)
            stepper.step(without(batch, MISSING), mse)
    for p, q in zip(model.shared.parameters(), alone.shared.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("method", TRAINED)
def test_a_missing_task_is_left_as_it_was(method: str) -> None:
    """Its head, also where the optimizer has momentum and decay, and what the method knows."""
    model = tiny_model(K)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    stepper = Supplied(model, optimizer, method)
    for seed in range(2):
        stepper.step(single_batch(K, seed=seed), mse)
    heads = [copy.deepcopy(model.heads[names(K)[k]].state_dict()) for k in MISSING]
    known = _known(stepper.methods[0])
    stepper.step(without(single_batch(K), MISSING), mse)
    assert same([model.heads[names(K)[k]].state_dict() for k in MISSING], heads)
    assert same(_known(stepper.methods[0]), known)
    assert not stepper.step(single_batch(K), mse).skipped


def _known(method: WeightingMethod) -> dict[str, Tensor]:
    """The entries of the missing tasks."""
    tensors = {**dict(method.named_parameters()), **dict(method.named_buffers())}
    return {n: t.detach()[MISSING].clone() for n, t in tensors.items() if t.dim() and len(t) == K}


@pytest.mark.parametrize("method", TRAINED)
def test_any_order_of_missing_tasks_stays_finite(method: str) -> None:
    model = tiny_model(K)
    stepper = make_stepper(model, method, lr=0.01)
    for step, missing in enumerate([[0], [0, 1, 2], [], [1, 2, 3, 4], [4], [0, 1, 3, 4], []]):
        report = stepper.step(without(single_batch(K, seed=step), missing), mse)
        assert not report.skipped
        mean = torch.full((K,), 0.5)
        mean[missing] = torch.nan
        stepper.on_epoch_end(step, mean)
        assert torch.isfinite(stepper.flat.data).all()


def test_a_batch_without_any_label_is_skipped() -> None:
    stepper = make_stepper(tiny_model(K), "mgda")
    before = stepper.flat.data.clone()
    report = stepper.step(without(single_batch(K), list(range(K))), mse)
    assert report.skipped == "no task has a label"
    assert torch.equal(stepper.flat.data, before)
    assert (stepper.skipped, stepper.unlabelled) == (0, 1)
    assert stepper.diagnostics()["unlabelled_steps"] == 1


def test_a_misspelt_target_is_named() -> None:
    group = single_batch(3)[0]
    wrong = InputGroup(group.inputs, {**group.targets, "tsk": group.targets[names(3)[0]]})
    with pytest.raises(UsageError, match=r"a target for tsk, which is no head: task1, task10"):
        make_stepper(tiny_model(3)).step([wrong], mse)


def test_passes_are_those_of_the_present_tasks() -> None:
    stepper = make_stepper(tiny_model(K), "mgda", "samo")
    stepper.step(without(single_batch(K), MISSING), mse)
    assert (stepper.passes.forward, stepper.passes.backward) == (1 + 3 * 3, 1 + 3)


# -------------------------------------------------------------------------------------- examples
def test_examples_without_a_label_are_left_out_of_the_mean() -> None:
    model, stepper = tiny_model(3), None
    group = single_batch(3)[0]
    first = names(3)[0]
    target = group.targets[first].clone()
    target[::2] = torch.nan
    model.eval()
    outputs = model(group.inputs, [first])[first]
    expected = mse(first, outputs[1::2], target[1::2])
    stepper = make_stepper(model)
    report = stepper.step([InputGroup(group.inputs, {**group.targets, first: target})], mse)
    assert report.losses is not None
    torch.testing.assert_close(report.losses[0], expected.detach())


# -------------------------------------------------------------------------------------- restrict
@pytest.mark.parametrize("method", TRAINED)
def test_a_restricted_method_is_one_of_fewer_tasks(method: str) -> None:
    """On fresh methods, three steps; and it is whole again afterwards."""
    whole, few = METHODS.build(method, K), METHODS.build(method, len(PRESENT))
    shapes = {n: t.shape for n, t in whole.state_dict().items() if isinstance(t, Tensor)}
    for case in run_on("ordinary", len(PRESENT)):
        with restricted(whole, PRESENT):
            a = whole.aggregate(case.view())
            whole.after_step(lambda case=case: 0.9 * case.losses)  # type: ignore[misc]
        b = few.aggregate(case.view())
        few.after_step(lambda case=case: 0.9 * case.losses)  # type: ignore[misc]
        torch.testing.assert_close(a.shared, b.shared)
    assert whole.n_tasks == K
    for name, t in whole.state_dict().items():
        if isinstance(t, Tensor) and shapes[name].numel():
            assert t.shape == shapes[name]


def test_a_method_of_ones_own_needs_nothing_for_it() -> None:
    class Learnt(WeightingMethod):
        info = METHODS.get("ls").info

        def __init__(self, n_tasks: int) -> None:
            super().__init__(n_tasks)
            self.logits = nn.Parameter(torch.arange(n_tasks, dtype=torch.float32))

    method = Learnt(4)
    with restricted(method, [1, 3]):
        assert method.logits.tolist() == [1, 3]
        with torch.no_grad():
            method.logits.add_(10)
    assert method.logits.tolist() == [0, 11, 2, 13]


@pytest.mark.parametrize("method", ["moco", "db_mtl", "excessmtl"])
def test_as_many_parameters_as_tasks_are_no_pairs_of_tasks(method: str) -> None:
    whole = METHODS.build(method, 3)
    generator = torch.Generator().manual_seed(0)
    J = torch.randn(3, 3, generator=generator)
    for tasks in ([0, 1, 2], [0, 2], [1], [0, 1, 2]):
        view = DenseView(torch.ones(len(tasks)), J[tasks], [*J[tasks]], generator)
        with restricted(whole, tasks):
            assert whole.aggregate(view).shared.shape == (3,)
            whole.after_step(lambda view=view: view.losses)  # type: ignore[misc]


def test_pairs_of_tasks_are_told_by_name() -> None:
    class OfPairs(WeightingMethod):
        info = METHODS.get("ls").info
        pairs = ("affinity",)

        def __init__(self, n_tasks: int) -> None:
            super().__init__(n_tasks)
            self.affinity = nn.Parameter(torch.arange(9.0).reshape(3, 3))
            self.optimizer = torch.optim.SGD([self.affinity], lr=1.0, momentum=0.9)

    method = OfPairs(3)
    for tasks in ([0, 2], [0, 1, 2], [1, 2]):
        with restricted(method, tasks):
            assert method.affinity.shape == (len(tasks), len(tasks))
            method.affinity.grad = torch.zeros_like(method.affinity)
            method.optimizer.step()
    assert torch.equal(method.affinity.detach(), torch.arange(9.0).reshape(3, 3))
    (state,) = method.optimizer.state.values()
    assert state["momentum_buffer"].shape == (3, 3)


# ----------------------------------------------------------------------------------------- tasks
class _Sparse:
    """A task that lost every second label of its first objective and all of its last one."""

    def __init__(self, task: Task) -> None:
        self.task, self.info = task, task.info

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def batches(self, split: str, seed: int | None) -> list[Batch]:
        batch = next(iter(self.task.batches(split, seed)))
        first, last = self.info.objectives[0], self.info.objectives[-1]
        groups = []
        for group in batch:
            targets = dict(group.targets)
            missing = torch.nan if targets[first].is_floating_point() else -1
            targets[first] = targets[first].clone()
            targets[first][::2] = missing
            targets[last] = torch.full_like(targets[last], missing)
            groups.append(InputGroup(group.inputs, targets))
        return [groups]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["multimnist", "qm9"])
def test_tasks_train_and_evaluate_with_what_there_is(name: str) -> None:
    protocol = TASKS.get(name).info.protocols[0]
    task = TASKS.build(name, protocol, None)
    sparse, objectives = _Sparse(task), list(task.info.objectives)
    model = task.build_model(protocol.arch)
    stepper = Stepper(model, torch.optim.Adam(model.parameters()), "fairgrad", "samo")
    (batch,) = sparse.batches("train", 0)
    report = stepper.step(batch, task.loss)
    assert not report.skipped
    assert report.losses is not None
    assert report.losses.isnan().tolist() == [o == objectives[-1] for o in objectives]
    scores = evaluate(model, sparse, "val", objectives, torch.device("cpu"))  # type: ignore[arg-type]
    known = {m.name for m in task.info.metrics if m.objective != objectives[-1]}
    assert set(scores.metrics) == known
    assert all(math.isfinite(value) for value in scores.metrics.values())
    assert list(scores.losses) == objectives[:-1]
    full = next(iter(task.batches("val", None)))
    (few,) = sparse.batches("val", None)
    with evaluation_mode(model), torch.no_grad():
        outputs = model(few[0].inputs, objectives)
    first = objectives[0]
    expected = task.loss(first, outputs[first][1::2], full[0].targets[first][1::2])
    assert scores.losses[first] == pytest.approx(float(expected), rel=1e-5)
