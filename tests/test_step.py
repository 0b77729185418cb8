"""Training steps: every method with every wrapper."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtlbench import DivergedError, GramianMethod, InputGroup, MultiTaskModel, Stepper, UsageError
from mtlbench.interfaces import Loss, Passes
from mtlbench.registry import METHODS as REGISTERED
from mtlbench.training.stepper import MAX_SKIPPED_IN_A_ROW
from tests.models import (
    METHODS,
    WRAPPERS,
    MakeBatch,
    assert_close,
    buffers_of,
    make_problem,
    make_stepper,
    mse,
    multi_batch,
    names,
    params_of,
    passes_of_a_step,
    run_wrapper,
    same,
    single_batch,
    snapshot,
    tiny_model,
    variant,
)
from tests.reference import Wrapper, assert_follows_reference, gradient, plain_forward
from tests.reference_methods import METHODS as REFERENCES

EVERY_METHOD = pytest.mark.parametrize("method", METHODS)
EVERY_WRAPPER = pytest.mark.parametrize("sharpness", WRAPPERS)
ONE_OF_EACH_KIND = ("ls", "famo", "fairgrad", "graddrop", "moco")
CELLS = [
    (method, sharpness)
    for method, sharpness in itertools.product(METHODS, WRAPPERS)
    if sharpness in ("none", "fmtl") or method in ONE_OF_EACH_KIND
]
EVERY_CELL = pytest.mark.parametrize(("method", "sharpness"), CELLS)
"""Every method with one part and with two, every wrapper with one method of each kind."""
BATCHES = pytest.mark.parametrize("make_batch", [single_batch, multi_batch])


def _state(stepper: Stepper) -> list[Any]:
    """All that a skipped step must leave alone; the model's includes its running statistics."""
    state = stepper.state_dict()
    return snapshot(
        stepper.model.state_dict(), state["optimizer"], state["methods"], state["wrapper"]
    )


# --------------------------------------------------------------------------------- the reference
def test_every_method_has_a_reference() -> None:
    assert sorted(REFERENCES) == METHODS


@pytest.mark.parametrize(
    ("method", "sharpness"),
    [
        pytest.param(*cell, marks=() if cell in CELLS else pytest.mark.slow)
        for cell in itertools.product(METHODS, ["none", "sam", "fmtl", "samo"])
    ],
)
@BATCHES
def test_three_steps_follow_the_reference(
    method: str, sharpness: str, make_batch: MakeBatch
) -> None:
    """Other wrappers, and options, have their references in ``tests/methods/sharpness``."""
    batches = [make_batch(seed=seed) for seed in range(3)]
    assert_follows_reference(tiny_model(), batches, method, sharpness, Wrapper(sharpness))


# ---------------------------------------------------------------------------------------- passes
ON_LOSSES = (
    *("cosmos", "dwa", "famo", "gls", "go4align", "imtl_l", "ldc_mtl", "ls", "pbi", "rlw", "si"),
    *("slaw", "static", "stch", "uw", "uw_so"),
)
UNWEIGHTED = ("random",)
"""Weights for the trunk alone: each head goes backward by itself, the trunk once."""
AFTERWARDS = ("famo",)
LOOKS = {"autolambda": (4, 2, 0), "forum": (7, 5, 1), "modo": (2, 1, 1), "moml": (2, 0, 2)}
"""Beforehand: forward passes, backward passes of weighted sums, and of each task."""


def _contract(method: str, sharpness: str, K: int, step: int, groups: int) -> tuple[int, int, int]:
    """Not read from what methods and wrappers declare: that is compared with it."""
    one = method in (*ON_LOSSES, *UNWEIGHTED, *LOOKS)
    whole_back = groups  # of the mean loss: through the graph of every input group
    own = whole_back if one else K
    whole, of_one_task, backward = {
        "none": (1, 0, own),
        "sam": (2, 0, whole_back + own),
        "looksam": (1, 0, own) if step else (2, 0, (1 + one) * whole_back + own),
        "lsam": (1, K, 2 * K),
        "fmtl": (1, K, 2 * K + one * whole_back),
        "samo": (1, 3 * K, whole_back + K),
        "fsam": (2, 0, whole_back + own),
        "esam": (2, 0, whole_back + own),
        "gsam": (2, 0, (1 + one) * whole_back + own),
        "wsam": (2, 0, whole_back + 2 * own),
    }[sharpness]
    alone = K if method in UNWEIGHTED and sharpness not in ("lsam", "samo") else 0
    forwards, whole_looks, own_looks = LOOKS.get(method, (0, 0, 0))
    parts = 2 if sharpness == "fmtl" else 1
    whole += (method in AFTERWARDS) + parts * forwards
    backward += parts * (whole_looks * groups + own_looks * K)
    return whole * groups + of_one_task, backward, alone


@EVERY_CELL
@pytest.mark.parametrize("K", [2, 5])
def test_a_step_costs_its_contract(method: str, sharpness: str, K: int) -> None:
    stepper = make_stepper(tiny_model(K), method, sharpness)
    for step, batch in enumerate((single_batch(K), single_batch(K), multi_batch(K))):
        declared = stepper.coming_passes
        contract = _contract(method, sharpness, K, step, len(batch))
        assert passes_of_a_step(stepper, batch) == contract
        if len(batch) == 1:
            assert declared == Passes(*contract)


# ------------------------------------------------------------------- what no wrapper may disturb
@EVERY_CELL
def test_parameters_are_bit_equal_after_every_wrapper(method: str, sharpness: str) -> None:
    stepper = make_stepper(tiny_model(), method, sharpness)
    before = params_of(stepper.model)
    run_wrapper(stepper, make_problem(stepper, single_batch()))
    assert same(params_of(stepper.model), before)


class _RaisingLoss:
    """Raises at the call with index ``at``."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.calls = at, 0

    def __call__(self, objective: str, prediction: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        if self.calls - 1 == self.at:
            raise KeyError(objective)
        return mse(objective, prediction, target)


@EVERY_WRAPPER
@BATCHES
def test_parameters_are_bit_equal_after_a_loss_raised(
    sharpness: str, make_batch: MakeBatch
) -> None:
    stepper = make_stepper(tiny_model(), "mgda", sharpness)
    counting = _RaisingLoss()
    run_wrapper(stepper, make_problem(stepper, make_batch(), counting))
    before, buffer = params_of(stepper.model), stepper.flat.data.data_ptr()
    for at in range(counting.calls):
        with pytest.raises(KeyError):
            stepper.step(make_batch(), _RaisingLoss(at))
        assert same(params_of(stepper.model), before)
        assert stepper.flat.params[0].data_ptr() == buffer
    stepper.step(make_batch(), mse)
    assert not same(params_of(stepper.model), before)


@EVERY_WRAPPER
@pytest.mark.parametrize("method", ["ls", "famo", "fairgrad"])
def test_statistics_and_global_generator_are_those_of_plain_forwards(
    method: str, sharpness: str
) -> None:
    """The parameters stand still (lr = 0), so that one network can be compared with the other."""
    plain, model = tiny_model(), tiny_model()
    stepper = make_stepper(model, method, sharpness, lr=0.0)
    torch.manual_seed(2)
    for seed in range(3):
        plain_forward(plain, single_batch(seed=seed))
    expected = torch.get_rng_state()
    torch.manual_seed(2)
    for seed in range(3):
        stepper.step(single_batch(seed=seed), mse)
    assert torch.equal(torch.get_rng_state(), expected)
    assert same(buffers_of(model), buffers_of(plain))
    assert model.get_buffer("shared.1.num_batches_tracked") == stepper.steps == 3


@EVERY_WRAPPER
def test_the_row_buffers_are_allocated_once_a_run(sharpness: str) -> None:
    stepper = make_stepper(tiny_model(), "mgda", sharpness)
    pointers = set()
    for seed in range(3):
        stepper.step(single_batch(seed=seed), mse)
        rows = [r for pool in stepper.flat._pool.values() for r in pool]
        pointers.add(tuple(r.jacobian.data_ptr() for r in rows))
    assert len(pointers) == 1
    assert all(
        p.grad is not None and p.grad.data_ptr() == stepper.flat.grad.buffer[offset].data_ptr()
        for p, offset in zip(stepper.flat.params, _offsets(stepper.flat.params), strict=True)
    )


def _offsets(params: list[nn.Parameter]) -> list[int]:
    return [0, *itertools.accumulate(p.numel() for p in params)][:-1]


# ---------------------------------------------------------------------------------- method state
WITHOUT_STEPS = {
    *("cosmos", "gls", "graddrop", "ls", "pbi", "random", "rlw", "si", "static", "trimmed_mean"),
    "uw_so",
}
ON_EPOCHS = {"dwa", "forum", "stch"}


@EVERY_METHOD
def test_only_after_step_advances_a_method(method: str) -> None:
    stepper = make_stepper(tiny_model(), method)
    stepper.step(single_batch(), mse)
    (weighting,) = stepper.methods
    before = snapshot(weighting.state_dict())
    problem = make_problem(stepper, single_batch(seed=1))
    for _ in range(3):
        update = weighting.aggregate(problem.view())
        assert same(snapshot(weighting.state_dict()), before)
        if update.weights is not None:
            assert not update.weights.requires_grad
    weighting.after_step(problem.evaluate)
    idle = WITHOUT_STEPS | ON_EPOCHS | set(LOOKS)  # without a look there is nothing to learn
    assert same(snapshot(weighting.state_dict()), before) is (method in idle)


@EVERY_METHOD
def test_a_step_without_aggregation_teaches_a_method_nothing(method: str) -> None:
    stepper = make_stepper(tiny_model(), method)
    stepper.step(single_batch(), mse)
    (weighting,) = stepper.methods
    before = snapshot(weighting.state_dict())
    problem = make_problem(stepper, single_batch(seed=1))
    weighting.after_step(problem.evaluate)
    state = weighting.state_dict()
    counts = [
        f"{name}.steps".lstrip(".")
        for name, part in weighting.named_modules()
        if isinstance(part, GramianMethod)
    ]  # the steps between refreshes
    counts += ["now"] * ("now" in state)  # the steps that losses are seen on
    for count in counts:
        assert state.pop(count) == before[0].pop(count) + 1
    assert same(state, before[0])


@EVERY_METHOD
def test_epochs_teach_those_methods_only_that_say_so(method: str) -> None:
    stepper = make_stepper(tiny_model(), method)
    stepper.step(single_batch(), mse)
    before = _state(stepper)
    for epoch in range(8):
        stepper.on_epoch_end(epoch, torch.tensor([1.0, 2.0, 3.0]).double())
    assert same(_state(stepper), before) is (method not in ON_EPOCHS)


@EVERY_CELL
def test_a_restored_stepper_goes_on_bit_for_bit(method: str, sharpness: str) -> None:
    def fresh(seed: int) -> Stepper:
        return make_stepper(
            tiny_model(seed=seed), method, sharpness, seed=seed, optimizer=torch.optim.Adam
        )

    def train(stepper: Stepper, seeds: range) -> None:
        for seed in seeds:
            losses = stepper.step(single_batch(seed=seed), mse).losses
            assert losses is not None
            stepper.on_epoch_end(4 + seed, losses)

    first = fresh(seed=0)
    train(first, range(2))
    model_state, state = snapshot(first.model.state_dict(), first.state_dict())
    rng = torch.get_rng_state()
    train(first, range(2, 4))

    second = fresh(seed=1)
    train(second, range(4, 5))
    second.model.load_state_dict(model_state)
    second.load_state_dict(state)
    torch.set_rng_state(rng)
    train(second, range(2, 4))
    assert same(second.model.state_dict(), first.model.state_dict())
    assert same(second.state_dict(), first.state_dict())
    assert second.steps == 4


# -------------------------------------------------------------------------------- skipped steps
def _bad_loss(objective: str, prediction: Tensor, target: Tensor) -> Tensor:
    value = mse(objective, prediction, target)
    return value * float("inf") if objective == "task10" else value


def _bad_gradient(objective: str, prediction: Tensor, target: Tensor) -> Tensor:
    """Finite, with a gradient that is not."""
    return mse(objective, prediction, target) + (prediction * 0).abs().sum().sqrt()


BAD_LOSSES: dict[str, Loss] = {
    "non-finite loss: task10 = inf": _bad_loss,
    "non-finite": _bad_gradient,
}


@EVERY_CELL
def test_a_non_finite_step_leaves_no_trace(method: str, sharpness: str) -> None:
    """Also not in the step after it, which a twin takes without having skipped any."""
    start = torch.get_rng_state()
    stepper, twin = (
        make_stepper(tiny_model(), method, sharpness, optimizer=torch.optim.Adam) for _ in range(2)
    )
    for one in (stepper, twin):
        torch.set_rng_state(start)
        one.step(single_batch(), mse)
    before, skipped = _state(stepper), 0
    for said, loss in BAD_LOSSES.items():
        for make_batch in (single_batch, multi_batch):
            skipped += 1
            report = stepper.step(make_batch(seed=skipped), loss)
            assert report.skipped.startswith(said)
            assert same(_state(stepper), before)
            assert (stepper.steps, stepper.skipped) == (1 + skipped, skipped)
            assert stepper.diagnostics()["skipped_steps"] == skipped
    for one in (stepper, twin):
        torch.set_rng_state(start)
        one.generator.manual_seed(0)
        assert not one.step(single_batch(seed=9), mse).skipped
    assert same(_state(stepper), _state(twin))
    assert not same(_state(stepper), before)


def test_weights_that_are_not_finite_skip_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper = make_stepper(tiny_model())
    before = _state(stepper)
    weights = torch.tensor([1.0, float("nan"), 1.0]).double()
    monkeypatch.setattr(stepper.methods[0], "weights", lambda view: weights)
    report = stepper.step(single_batch(), mse)
    assert report.skipped == "non-finite gradient"
    assert report.losses is not None
    assert torch.isfinite(report.losses).all()
    assert same(_state(stepper), before)


def test_a_skipped_step_is_no_fallback_of_the_solver() -> None:
    stepper = make_stepper(tiny_model(), "fairgrad")
    for loss in (_bad_gradient, mse):
        stepper.step(single_batch(), loss)
    assert stepper.diagnostics() == {"skipped_steps": 1, "solver_fallbacks": 0}


def test_too_many_skipped_steps_in_a_row_are_an_error() -> None:
    stepper = make_stepper(tiny_model())
    for loss in (_bad_loss, mse):  # one good step starts the count anew
        for _ in range(MAX_SKIPPED_IN_A_ROW - 1 if loss is _bad_loss else 1):
            stepper.step(single_batch(), loss)
    for _ in range(MAX_SKIPPED_IN_A_ROW - 1):
        stepper.step(single_batch(), _bad_loss)
    with pytest.raises(DivergedError, match=r"20 steps in a row.*task10 = inf"):
        stepper.step(single_batch(), _bad_loss)
    assert stepper.skipped == 39


def test_the_report_says_what_happened() -> None:
    stepper = make_stepper(tiny_model(), "mgda")
    report = stepper.step(single_batch(), mse)
    assert report.losses is not None
    assert report.losses.shape == (3,)
    assert report.weights is not None
    assert report.weights.sum() == pytest.approx(1)
    skipped = stepper.step(single_batch(), _bad_loss)
    assert skipped.losses is None
    assert skipped.weights is None


# ------------------------------------------------------------------------ scale, clipping, heads
def _gradients(method: str, **options: Any) -> tuple[Tensor, list[Tensor]]:
    """What one step writes, for three equal tasks."""
    torch.manual_seed(0)
    model = tiny_model().eval()
    for head in model.heads.values():
        head.load_state_dict(model.heads["task1"].state_dict())
    (group,) = single_batch()
    targets = dict.fromkeys(names(3), group.targets["task1"])
    stepper = make_stepper(model, method, **options)
    stepper.step(InputGroup(group.inputs, targets), mse)
    return stepper.flat.grad.rows[0], list(stepper.flat.grad.heads)


@EVERY_METHOD
def test_equal_tasks_have_the_declared_scale(method: str) -> None:
    sum_of_gradients = _gradients("ls")[0]
    scale = REGISTERED.get(method).info.scale
    shared, scaled = _gradients(method)[0], _gradients(method, gradient_scale="sum")[0]
    # CAGrad goes beyond the mean even where all gradients agree.
    beyond = 1.4 / 1.16 if method == "cagrad" else 1.0
    if scale == "own":
        assert torch.equal(scaled, shared)
    else:
        assert_close(scaled, beyond * sum_of_gradients, 1e-6)
        assert_close(shared, scaled / (3 if scale == "mean" else 1), 1e-6)


def test_unit_heads_are_the_same_at_every_scale() -> None:
    for own, scaled in zip(
        _gradients("cagrad")[1], _gradients("cagrad", gradient_scale="sum")[1], strict=True
    ):
        assert_close(scaled, own)


@pytest.mark.parametrize("method", ["ls", "mgda", "cagrad"])
def test_clipping_bounds_the_shared_gradient_after_scaling(method: str) -> None:
    options = {"gradient_scale": "sum"}
    shared, heads = _gradients(method, **options)
    norm = float(shared.norm())
    clipped, same_heads = _gradients(method, **options, clip_norm=norm / 2)
    assert_close(clipped, shared / 2)
    assert all(map(torch.equal, heads, same_heads))
    assert torch.equal(_gradients(method, **options, clip_norm=2 * norm)[0], shared)


def test_clipping_a_zero_gradient_is_harmless() -> None:
    stepper = make_stepper(tiny_model(), clip_norm=1.0)
    report = stepper.step(single_batch(), lambda name, p, t: p.sum() * 0)
    assert not report.skipped
    assert not stepper.flat.grad.buffer.any()


@pytest.mark.parametrize("method", [m for m in METHODS if m != "forum"])  # which adds gradients
def test_heads_follow_the_declared_policy(method: str) -> None:
    model = tiny_model()
    stepper = make_stepper(model, method)
    start = torch.get_rng_state()
    losses = plain_forward(model, single_batch())
    own = [
        gradient(loss, params)
        for loss, params in zip(losses, stepper.flat.head_params, strict=True)
    ]
    torch.set_rng_state(start)
    weights = stepper.step(single_batch(), mse).weights
    assert (stepper.methods[0].info.head_policy == "unit") is REFERENCES[method].unit_heads
    factors = torch.stack(
        [a @ b / (b @ b) for a, b in zip(stepper.flat.grad.heads, own, strict=True)]
    )
    for factor, actual, expected in zip(factors, stepper.flat.grad.heads, own, strict=True):
        assert_close(actual, factor * expected)
    if REFERENCES[method].unit_heads:
        assert_close(factors, torch.ones(3).double())
    elif weights is not None:  # Nash-MTL shortens the shared gradient alone
        assert_close(factors / factors.norm(), weights / weights.norm(), 1e-5)


# ------------------------------------------------------------------------------------ edge cases
@EVERY_METHOD
@BATCHES
def test_one_task_alone_is_plain_descent(method: str, make_batch: MakeBatch) -> None:
    model, batch = tiny_model(1), make_batch(1)
    stepper = make_stepper(model, method)
    start = torch.get_rng_state()
    (loss,) = plain_forward(model, batch)
    expected = gradient(loss, stepper.flat.params)
    torch.set_rng_state(start)
    stepper.step(batch, mse)
    assert_close(stepper.flat.grad.buffer, expected, 1e-6)


@EVERY_CELL
def test_one_task_alone_works_with_every_wrapper(method: str, sharpness: str) -> None:
    stepper = make_stepper(tiny_model(1), method, sharpness)
    assert not stepper.step(single_batch(1), mse).skipped


def _no_gradient(objective: str, prediction: Tensor, target: Tensor) -> Tensor:
    return prediction.sum() * 0 if objective == "task10" else mse(objective, prediction, target)


@EVERY_CELL
def test_a_task_without_gradient_spoils_nothing(
    method: str, sharpness: str, caplog: pytest.LogCaptureFixture
) -> None:
    stepper = make_stepper(tiny_model(), method, sharpness)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        for seed in range(2):
            assert not stepper.step(single_batch(seed=seed), _no_gradient).skipped
    assert all(torch.isfinite(p).all() for p in stepper.model.parameters())
    assert not caplog.records


@EVERY_WRAPPER
@pytest.mark.parametrize("method", ["ls", "mgda", "cagrad", "graddrop"])
@pytest.mark.parametrize("kind", ["frozen", "tied heads", "tied to trunk", "unused", "multi-scale"])
def test_special_networks_train_and_keep_their_structure(
    method: str, sharpness: str, kind: str
) -> None:
    model = variant(kind)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    stepper = make_stepper(model, method, sharpness)
    before = params_of(model)
    for seed in range(2):
        assert not stepper.step(single_batch(seed=seed), mse).skipped
    after = params_of(model)
    unchanged = {name for name in after if torch.equal(after[name], before[name])}
    assert frozen <= unchanged
    assert not {n for n in unchanged - frozen if n.startswith("shared") and n.endswith("weight")}
    assert len(after) == len(before)


@EVERY_WRAPPER
def test_heads_alone_can_be_trained(sharpness: str) -> None:
    model = tiny_model()
    model.shared.requires_grad_(False)
    stepper = make_stepper(model, "fairgrad", sharpness)
    before = params_of(model)
    assert not stepper.step(single_batch(), mse).skipped
    changed = {n for n, p in params_of(model).items() if not torch.equal(p, before[n])}
    assert changed == {n for n in before if n.startswith("heads")}


def test_some_objectives_alone_leave_the_other_heads_alone() -> None:
    model = tiny_model()
    before = params_of(model)
    stepper = make_stepper(model, "ls", objectives=["task20", "task1"])
    report = stepper.step(single_batch(), mse)
    changed = {
        n.split(".")[1] for n, p in params_of(model).items() if not torch.equal(p, before[n])
    }
    assert report.losses is not None
    assert report.losses.shape == (2,)
    assert "task10" not in changed
    assert {"task1", "task20"} <= changed


# --------------------------------------------------------------------------------- the user's view
@pytest.mark.parametrize("sharpness", WRAPPERS)
def test_ten_lines_of_ones_own_reduce_the_loss(sharpness: str) -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 16), nn.ReLU())
    model = MultiTaskModel(trunk, {"a": nn.Linear(16, 1), "b": nn.Linear(16, 1)})
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    stepper = Stepper(model, optimizer, method="fairgrad", sharpness=sharpness)
    x = torch.randn(64, 4)
    batch = InputGroup(x, {"a": x[:, :1].sin(), "b": x.prod(1, keepdim=True)})
    losses = []
    for _ in range(30):
        report = stepper.step(batch, lambda name, pred, y: nn.functional.mse_loss(pred, y))
        assert report.losses is not None
        losses.append(report.losses)
    assert (losses[-1] < 0.6 * losses[0]).all()


def test_a_single_group_is_a_batch() -> None:
    def trained(wrap: bool) -> Tensor:
        torch.manual_seed(0)
        stepper = make_stepper(tiny_model())
        (group,) = single_batch()
        stepper.step([group] if wrap else group, mse)
        return stepper.flat.data

    assert torch.equal(trained(wrap=True), trained(wrap=False))


def test_mixed_dtypes_are_refused_when_the_stepper_is_built() -> None:
    model = tiny_model()
    model.heads["task1"].float()
    with pytest.raises(UsageError, match="one dtype and device"):
        make_stepper(model)


def test_epoch_ends_reach_every_copy_of_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper = make_stepper(tiny_model(), "ls", "fmtl")
    heard: list[int] = []
    for method in stepper.methods:
        monkeypatch.setattr(method, "on_epoch_end", lambda epoch, losses: heard.append(epoch))
    stepper.on_epoch_end(4, torch.ones(3))
    assert heard == [4, 4]
