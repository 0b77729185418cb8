"""One function a step: replayed randomness, frozen statistics; gradients cost what is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtlbench import MultiTaskModel, UsageError
from mtlbench.engine.problem import BatchProblem
from mtlbench.engine.randomness import evaluation_mode
from mtlbench.engine.views import NonFiniteError
from mtlbench.interfaces import Batch, DenseView, GradientView, HeadPolicy, JointLoss, Move, Passes
from tests.models import (
    VARIANTS,
    MakeBatch,
    assert_close,
    buffers_of,
    make_problem,
    mse,
    multi_batch,
    names,
    same,
    single_batch,
    tiny_model,
    trunk,
    variant,
)
from tests.reference import gradient, plain_forward

BATCHES = pytest.mark.parametrize("make_batch", [single_batch, multi_batch])
WEIGHTS = torch.tensor([0.5, 2.0, 0.25]).double()


def _passes(problem: BatchProblem) -> tuple[int, int, int]:
    p = problem.passes
    return p.forward, p.backward, p.head_backward


def _nudge(problem: BatchProblem) -> Sequence[Move]:
    flat = problem.flat
    return ((flat.shared, torch.ones_like(flat.data[flat.shared]), 0.01),)


# ----------------------------------------------------------------------------------- one function
@BATCHES
def test_later_forwards_give_the_same_bits(make_batch: MakeBatch) -> None:
    problem = make_problem(tiny_model(), make_batch())
    first = problem.losses()
    torch.rand(5)  # somebody else draws in between
    assert torch.equal(problem.losses(), first)
    for k, name in enumerate(names(3)):
        assert torch.equal(problem.losses([name]), first[k : k + 1])
    wanted = names(3)[::-1]
    assert torch.equal(problem.evaluate(wanted), first.flip(0))
    with problem.flat.shifted(*_nudge(problem)):
        assert not torch.equal(problem.losses(), first)
    assert torch.equal(problem.losses(), first)


class JointMSE(JointLoss):
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def together(self, predictions: Mapping[str, Any], targets: Mapping[str, Tensor]) -> Tensor:
        self.asked.append(list(predictions))
        return torch.stack([mse(name, p, targets[name]) for name, p in predictions.items()])


@BATCHES
def test_a_joint_loss_is_asked_once_for_each_group(make_batch: MakeBatch) -> None:
    joint, batch = JointMSE(), make_batch()
    problem = make_problem(tiny_model(), batch, joint)
    torch.manual_seed(0)
    here = problem.losses()
    assert joint.asked == [[n for n in names(3) if n in group.targets] for group in batch]
    torch.manual_seed(0)
    assert torch.equal(here, make_problem(tiny_model(), batch).losses())
    turned = names(3)[:0:-1]
    assert torch.equal(problem.losses(turned), here[[2, 1]])
    name = names(3)[1]
    group = next(group for group in batch if name in group.targets)
    prediction = torch.zeros_like(group.targets[name])
    single = joint(name, prediction, group.targets[name])
    assert torch.equal(single, mse(name, prediction, group.targets[name]))


@BATCHES
def test_two_problems_draw_different_dropout(make_batch: MakeBatch) -> None:
    model = tiny_model()
    a, b = (make_problem(model, make_batch()).losses() for _ in range(2))
    assert not torch.equal(a, b)


@BATCHES
def test_the_global_generator_advances_by_one_plain_forward(make_batch: MakeBatch) -> None:
    torch.manual_seed(3)
    plain_forward(tiny_model(), make_batch())
    expected = torch.get_rng_state()
    torch.manual_seed(3)
    problem = make_problem(tiny_model(), make_batch())
    for _ in range(3):
        problem.losses()
        problem.evaluate(names(3)[1:2])
        assert torch.equal(torch.get_rng_state(), expected)


@BATCHES
def test_only_the_first_forward_moves_the_statistics(make_batch: MakeBatch) -> None:
    torch.manual_seed(3)
    plain = tiny_model()
    plain_forward(plain, make_batch())
    torch.manual_seed(3)
    model = tiny_model()
    problem = make_problem(model, make_batch())
    for _ in range(3):
        problem.losses()
    problem.evaluate([names(3)[0]])
    assert same(buffers_of(model), buffers_of(plain))
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm1d))


def test_statistics_are_tracked_again_after_an_exception() -> None:
    model, calls = tiny_model(), [0]

    def loss(objective: str, prediction: Tensor, target: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] > 3:
            raise KeyError(objective)
        return mse(objective, prediction, target)

    problem = make_problem(model, loss=loss)
    problem.losses()
    with pytest.raises(KeyError):
        problem.losses()
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm1d))


def _with_norm(norm: nn.Module) -> MultiTaskModel:
    body = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(0, (2, 4)), norm, nn.Flatten(0, 1))
    return MultiTaskModel(body, {"task1": nn.Linear(4, 2), "task10": nn.Linear(4, 2)}).double()


NORMS = {
    "batch": nn.BatchNorm1d(4),
    "batch without statistics": nn.BatchNorm1d(4, track_running_stats=False),
    "cumulative batch": nn.BatchNorm1d(4, momentum=None),
    "instance": nn.InstanceNorm1d(4, track_running_stats=True),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_layer_computes_the_same_again(norm: str, training: bool) -> None:
    model = _with_norm(NORMS[norm])
    plain_forward(model, single_batch(2))
    model.train(training)
    problem = make_problem(model, single_batch(2))
    first, statistics = problem.losses(), buffers_of(model)
    assert torch.equal(problem.losses(), first)
    assert same(buffers_of(model), statistics)


def test_evaluation_mode_gives_every_module_its_own_mode_back() -> None:
    model = tiny_model()
    model.shared.get_submodule("1").eval()
    before = [m.training for m in model.modules()]
    with evaluation_mode(model):
        assert not any(m.training for m in model.modules())
    assert [m.training for m in model.modules()] == before
    with pytest.raises(KeyError), evaluation_mode(model):
        raise KeyError
    assert [m.training for m in model.modules()] == before


def test_only_the_wanted_heads_and_groups_run() -> None:
    model, ran = tiny_model(), list[str]()
    for name, head in model.heads.items():
        head.register_forward_hook(lambda *_, name=name: ran.append(name))
    for make_batch in (single_batch, multi_batch):
        ran.clear()
        problem = make_problem(model, make_batch())
        problem.losses(["task10"])
        assert ran == ["task10"]
        assert _passes(problem) == (1, 0, 0)


@pytest.mark.parametrize("absent", [["task10"], ["task1", "task20"]])
def test_a_problem_is_that_of_the_labelled_tasks(absent: list[str]) -> None:
    batch = [group for group in multi_batch() if not set(group.targets) & set(absent)]
    problem = make_problem(tiny_model(), batch)
    assert problem.objectives == [name for name in names(3) if name not in absent]
    assert problem.n_tasks == len(problem.flat.heads) == 3 - len(absent)


def test_evaluate_leaves_no_graph() -> None:
    assert not make_problem(tiny_model()).evaluate().requires_grad


# -------------------------------------------------------------------------------------- gradients
def _reference(
    problem: BatchProblem, model: MultiTaskModel, batch: Batch
) -> tuple[Tensor, list[Tensor]]:
    """The task gradients by an autograd call each; leaves the generator at the start."""
    start, flat = torch.get_rng_state(), problem.flat
    losses = plain_forward(model, batch)
    J = torch.stack([gradient(loss, flat.shared_params) for loss in losses])
    heads = [gradient(loss, p) for loss, p in zip(losses, flat.head_params, strict=True)]
    torch.set_rng_state(start)
    return J, heads


@BATCHES
@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("heads", ["unit", "weighted"])
@pytest.mark.parametrize("asked", ["nothing", "jacobian", "representation"])
def test_every_way_to_combine_gives_the_weighted_sum(
    kind: str, heads: HeadPolicy, asked: str, make_batch: MakeBatch
) -> None:
    model, batch = variant(kind), make_batch()
    problem = make_problem(model, batch)
    J, own = _reference(problem, model, batch)
    view = problem.view()
    if asked == "jacobian":
        assert_close(view.jacobian(), J)
        assert_close(view.gramian(), J @ J.T)
    if asked == "representation":
        view.gramian("representation")
    for _ in range(2):  # a wrapper may aggregate twice
        update = view.combine(WEIGHTS, heads)
        assert_close(update.shared, WEIGHTS @ J)
        for w, h, actual in zip(WEIGHTS, own, update.heads, strict=True):
            assert_close(actual, h if heads == "unit" else w * h)
    for h, actual in zip(own, view.head_grads(), strict=True):
        assert_close(actual, h)


@pytest.mark.parametrize("asked", ["nothing", "jacobian", "representation"])
def test_weights_are_constants(asked: str) -> None:
    view = make_problem(tiny_model()).view()
    if asked == "jacobian":
        view.jacobian()
    if asked == "representation":
        view.gramian("representation")
    w = WEIGHTS.clone().requires_grad_()
    update = view.combine(w)
    assert w.grad is None
    assert update.weights is not None
    results = (update.shared, update.weights, *update.heads)
    assert not any(t.requires_grad for t in results)


@BATCHES
def test_cost_follows_from_the_questions(make_batch: MakeBatch) -> None:
    batch, K = make_batch(), 3
    n = len(batch)  # passes are counted by input group: each goes through a graph of its own

    def cost(*questions: str) -> tuple[int, int, int]:
        problem = make_problem(tiny_model(), batch)
        view = problem.view()
        answers: dict[str, Any] = {
            "J": view.jacobian,
            "G": view.gramian,
            "heads": view.head_grads,
            "R": lambda: view.gramian("representation"),
            "weighted": lambda: view.combine(WEIGHTS),
            "unit": lambda: view.combine(WEIGHTS, "unit"),
            "ones": lambda: view.combine(torch.ones_like(WEIGHTS), "unit"),
        }
        for question in questions:
            answers[question]()
        return _passes(problem)

    assert cost() == (n, 0, 0)
    assert cost("weighted") == (n, n, 0)
    assert cost("J", "G", "heads", "weighted", "unit") == (n, K, 0)
    assert cost("R", "R", "heads") == (n, 0, K)
    assert cost("R", "weighted") == (n, n, K)
    assert cost("unit") == (n, n, K)
    assert cost("R", "ones") == (n, n, K)


def test_a_unit_update_costs_a_jacobian_where_parameters_bypass_the_trunk() -> None:
    problem = make_problem(variant("tied heads"))
    problem.view().combine(WEIGHTS, "unit")
    assert _passes(problem) == (1, 3, 0)


@BATCHES
def test_the_representation_gramian_is_that_of_the_trunks_output(make_batch: MakeBatch) -> None:
    model, batch = tiny_model().eval(), make_batch()
    view = make_problem(model, batch).view()
    rows = []
    for name in names(3):
        pieces = []
        for group in batch:
            z = model.shared(group.inputs).detach().requires_grad_()
            if name in group.targets:
                mse(name, model.heads[name](z), group.targets[name]).backward()
            pieces.append(torch.zeros_like(z) if z.grad is None else z.grad)
        rows.append(torch.cat([p.flatten() for p in pieces]))
    expected = torch.stack(rows)
    assert_close(view.gramian("representation"), expected @ expected.T)


def test_jacobian_lives_in_one_buffer_for_the_whole_run() -> None:
    model = tiny_model()
    problem = make_problem(model)
    flat, pointers = problem.flat, set()
    for _ in range(3):
        problem = BatchProblem(
            model, flat, single_batch(), names(3), mse, torch.Generator(), Passes()
        )
        view = problem.view()
        pointers.add(view.jacobian().data_ptr())
        assert view.jacobian() is view.jacobian()
    assert len(pointers) == 1


def test_losses_are_detached_and_kept() -> None:
    problem = make_problem(tiny_model())
    view = problem.view()
    assert not view.losses.requires_grad
    assert problem.first_losses is view.losses
    with problem.flat.shifted(*_nudge(problem)):
        moved = problem.view(losses=view.losses)
        assert moved.losses is view.losses
    assert problem.first_losses is view.losses


def test_a_view_is_of_its_point() -> None:
    problem = make_problem(tiny_model())
    here = problem.view()
    with problem.flat.shifted(*_nudge(problem)):
        there = problem.view(losses=here.losses)
        with pytest.raises(RuntimeError, match="left its point"):
            here.jacobian()
    with pytest.raises(RuntimeError, match="left its point"):
        there.combine(WEIGHTS)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_losses_are_named(bad: float) -> None:
    def loss(objective: str, prediction: Tensor, target: Tensor) -> Tensor:
        value = mse(objective, prediction, target)
        return value * bad if objective == "task10" else value

    with pytest.raises(NonFiniteError, match=f"non-finite loss: task10 = {bad}$"):
        make_problem(tiny_model(), loss=loss).view()


# --------------------------------------------------------------------------------- shifted points
def _own_points(problem: BatchProblem) -> list[list[Move]]:
    flat = problem.flat
    trunk = torch.linspace(-1, 1, flat.shared.stop).double()
    return [
        [
            (flat.shared, trunk, 0.01 * (k + 1)),
            (flat.heads[k], flat.data[flat.heads[k]].clone(), 0.1),
        ]
        for k in range(3)
    ]


@BATCHES
@pytest.mark.parametrize("heads", ["unit", "weighted"])
@pytest.mark.parametrize("dense", [True, False])
def test_shifted_rows_are_taken_at_points_of_their_own(
    make_batch: MakeBatch, heads: HeadPolicy, dense: bool
) -> None:
    model, batch = tiny_model(), make_batch()
    problem = make_problem(model, batch)
    points = _own_points(problem)
    J, own = [], []
    for k in range(3):
        with problem.flat.shifted(*points[k]):
            rows, grads = _reference(problem, model, batch)
        J.append(rows[k])
        own.append(grads[k])
    before = problem.flat.data.clone()
    losses = problem.losses().detach()
    view = problem.view_at(losses, lambda k: points[k])
    if dense:
        assert_close(view.jacobian(), torch.stack(J))
    update = view.combine(WEIGHTS, heads)
    assert_close(update.shared, WEIGHTS @ torch.stack(J))
    for w, h, actual in zip(WEIGHTS, own, update.heads, strict=True):
        assert_close(actual, h if heads == "unit" else w * h)
    assert _passes(problem) == (len(batch) + 3, 3, 0)
    assert torch.equal(problem.flat.data, before)


@BATCHES
@pytest.mark.parametrize("heads", ["unit", "weighted"])
@pytest.mark.parametrize("dense", [True, False])
def test_tasks_may_share_their_points(
    make_batch: MakeBatch, heads: HeadPolicy, dense: bool
) -> None:
    problem, plain = (make_problem(tiny_model(), make_batch()) for _ in range(2))
    points = [[2, 0], [1]]
    trunk = torch.linspace(-1, 1, problem.flat.shared.stop).double()

    def move(point: int) -> list[Move]:
        return [(problem.flat.shared, trunk, 0.01 * (point + 1))]

    torch.manual_seed(0)
    view = problem.view_at_points(problem.losses().detach(), points, move)
    torch.manual_seed(0)
    one_by_one = plain.view_at(plain.losses().detach(), lambda k: move(int(k == 1)))
    if dense:
        assert_close(view.jacobian(), one_by_one.jacobian())
    update, expected = view.combine(WEIGHTS, heads), one_by_one.combine(WEIGHTS, heads)
    assert_close(update.shared, expected.shared)
    for actual, head in zip(update.heads, expected.heads, strict=True):
        assert_close(actual, head)
    graphs = sum(
        any(problem.objectives[k] in group.targets for k in tasks)
        for tasks in points
        for group in make_batch()
    )
    forward = len(make_batch()) + graphs
    backward = 3 if dense or heads == "unit" else graphs
    assert _passes(problem) == (forward, backward, 0)
    for actual, head in zip(view.head_grads(), one_by_one.head_grads(), strict=True):
        assert_close(actual, head)


@pytest.mark.parametrize("view_of", ["dense", "shifted"])
def test_views_without_a_representation_say_so(view_of: str) -> None:
    problem = make_problem(tiny_model())
    losses = problem.losses().detach()
    view = (
        DenseView(losses, torch.zeros(3, 4).double(), [], problem.generator)
        if view_of == "dense"
        else problem.view_at(losses, lambda k: ())
    )
    with pytest.raises(UsageError, match="at='shared'"):
        view.gramian("representation")


# ------------------------------------------------------------------------------------- edge cases
def _constant(objective: str, prediction: Tensor, target: Tensor) -> Tensor:
    """A task without a labelled example in this batch."""
    return torch.zeros(()).double() if objective == "task10" else mse(objective, prediction, target)


@pytest.mark.parametrize("shifted", ["no", "apart", "together"])
def test_a_loss_that_depends_on_nothing_has_a_zero_row(shifted: str) -> None:
    problem = make_problem(tiny_model(), loss=_constant)
    losses = problem.losses().detach()
    view: GradientView = problem.view()
    if shifted == "apart":
        view = problem.view_at(losses, lambda k: ())
    if shifted == "together":
        view = problem.view_at_points(losses, [[0, 2], [1]], lambda point: ())
    J = view.jacobian()
    assert not J[1].any()
    assert J[0].any()
    assert not view.head_grads()[1].any()


def test_a_frozen_trunk_has_a_zero_representation_gramian() -> None:
    model = tiny_model()
    model.shared.requires_grad_(False)
    assert not make_problem(model).view().gramian("representation").any()


def test_a_frozen_trunk_leaves_an_empty_jacobian() -> None:
    model = tiny_model()
    model.shared.requires_grad_(False)
    view = make_problem(model).view()
    assert view.jacobian().shape == (3, 0)
    assert all(h.any() for h in view.head_grads())


class _Boxed:
    """A structure that pytrees do not look into, as most graph batches and data classes are."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


class _Boxing(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> _Boxed:
        return _Boxed(self.body(x))


class _Unboxing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(5, 2)

    def forward(self, box: _Boxed) -> Tensor:
        out: Tensor = self.own(box.value)
        return out


def _boxed() -> MultiTaskModel:
    torch.manual_seed(0)
    return MultiTaskModel(_Boxing(trunk()), {name: _Unboxing() for name in names(3)}).double()


def test_a_unit_update_does_not_need_to_see_the_trunks_output() -> None:
    problem = make_problem(_boxed())
    view = problem.view()
    update = view.combine(WEIGHTS, "unit")
    assert_close(update.shared.clone(), WEIGHTS @ problem.view().jacobian())


def test_a_representation_that_cannot_be_seen_is_an_error() -> None:
    with pytest.raises(UsageError, match="at='shared'"):
        make_problem(_boxed()).view().gramian("representation")
