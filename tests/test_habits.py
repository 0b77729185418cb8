"""The engine in a user's hands: what people do to a network between steps, and what they pass."""

from __future__ import annotations

import copy
import io
import logging
import pickle
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from mtlbench import DivergedError, InputGroup, MultiTaskModel, Stepper, UsageError
from mtlbench.engine.flat import FlatParameters
from mtlbench.interfaces import JointLoss, Loss
from mtlbench.registry import SHARPNESS
from tests.models import mse, names, tiny_model

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(3))
BATCH = InputGroup(X, {"a": X[:, :1], "b": X[:, 1:2]})
SAM = "sam:rho=0.5"


def build(trunk: Callable[[], nn.Module] | None = None) -> MultiTaskModel:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(6, 16), nn.ReLU()) if trunk is None else trunk()
    return MultiTaskModel(body, {n: nn.Linear(16, 1) for n in "ab"})


def stepper(
    model: MultiTaskModel, method: str = "ls", sharpness: str = "none", lr: float = 0.0, **how: Any
) -> Stepper:
    return Stepper(model, torch.optim.SGD(model.parameters(), lr=lr), method, sharpness, **how)


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


# ------------------------------------------------------------------------------ moved parameters
def _rebound(model: MultiTaskModel) -> None:
    for p in model.parameters():
        p.data = p.data.clone()


def _swapped(model: MultiTaskModel) -> None:
    ema = copy.deepcopy(model)
    for _ in range(2):
        for p, q in zip(model.parameters(), ema.parameters(), strict=True):
            p.data, q.data = q.data, p.data


def _halved(model: MultiTaskModel) -> None:
    model.half().float()


def _shared(model: MultiTaskModel) -> None:
    model.share_memory()


def _second(model: MultiTaskModel) -> None:
    stepper(model, "ls", SAM).step(BATCH, mse)


def _loaded(model: MultiTaskModel) -> None:
    model.load_state_dict({k: 0.5 * v for k, v in model.state_dict().items()})


@pytest.mark.parametrize("change", [_rebound, _swapped, _halved, _shared, _second, _loaded])
@pytest.mark.parametrize("method", ["ls", "mgda"])
def test_parameters_that_were_moved_go_on_as_with_a_fresh_stepper(
    method: str, change: Callable[[MultiTaskModel], None]
) -> None:
    model = build()
    old = stepper(model, method, SAM)
    old.step(BATCH, mse)
    change(model)
    fresh = build()
    fresh.load_state_dict(model.state_dict())
    for one in (old, stepper(fresh, method, SAM)):
        one.step(BATCH, mse)
    assert torch.equal(gradient(model), gradient(fresh))
    plain = stepper(fresh, method)
    plain.step(BATCH, mse)
    assert not torch.allclose(gradient(model), gradient(fresh), rtol=0.1)


def test_another_memory_format_is_no_detachment() -> None:
    def conv() -> MultiTaskModel:
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten())
        return MultiTaskModel(body, {n: nn.Linear(4 * 36, 1) for n in "ab"})

    x = torch.randn(8, 2, 8, 8)
    batch = InputGroup(x, {"a": x[:, 0, 0, :1], "b": x[:, 1, 0, :1]})
    model, other = conv(), conv()
    moved, still = stepper(model, "ls", SAM), stepper(other, "ls", SAM)
    model.to(memory_format=torch.channels_last)
    for one in (moved, still):
        one.step(batch, mse)
    torch.testing.assert_close(gradient(model), gradient(other))


def _assigned(model: MultiTaskModel) -> None:
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)


def _frozen(model: MultiTaskModel) -> None:
    model.get_submodule("shared.0").requires_grad_(False)


def _doubled(model: MultiTaskModel) -> None:
    model.double()


def _new_head(model: MultiTaskModel) -> None:
    model.heads["c"] = nn.Linear(16, 1)


def _other_head(model: MultiTaskModel) -> None:
    model.heads["a"] = nn.Linear(16, 1)


def _deeper(model: MultiTaskModel) -> None:
    assert isinstance(model.shared, nn.Sequential)
    model.shared.append(nn.Linear(16, 16))


CHANGES: list[tuple[Callable[[MultiTaskModel], None], str]] = [
    (_assigned, "replaced: heads.a.bias"),
    (_frozen, "gone or frozen: shared.0.bias, shared.0.weight"),
    (_doubled, "shared.0.weight has dtype torch.float64"),
    (_new_head, "the heads were a, b and are a, b, c: build a new Stepper"),
    (_other_head, "replaced: heads.a.bias, heads.a.weight"),
    (_deeper, "new: shared.2.bias, shared.2.weight"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_other_parameters_need_a_new_stepper(
    change: Callable[[MultiTaskModel], None], said: str
) -> None:
    model = build()
    old = stepper(model)
    old.step(BATCH, mse)
    change(model)
    with pytest.raises(UsageError, match="Stepper") as caught:
        old.step(BATCH, mse)
    assert said in str(caught.value)
    if change is not _doubled:
        stepper(model, objectives=["a", "b"]).step(BATCH, mse)


def test_unfrozen_layers_need_a_new_stepper() -> None:
    model = build()
    _frozen(model)
    old = stepper(model)
    model.requires_grad_(True)
    with pytest.raises(UsageError, match=r"new: shared\.0\.bias, shared\.0\.weight"):
        old.step(BATCH, mse)


def test_what_has_no_part_in_the_objectives_may_change() -> None:
    model = build()
    old = stepper(model, objectives=["a"])
    model.heads["c"] = nn.Linear(16, 1)
    model.heads["b"].requires_grad_(False)
    assert not old.step(BATCH, mse).skipped


def test_the_check_reads_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = FlatParameters(tiny_model(), names(3))
    monkeypatch.setattr(Tensor, "item", None)
    monkeypatch.setattr(Tensor, "tolist", None)
    monkeypatch.setattr(torch, "equal", None)
    flat.begin_step()


# ---------------------------------------------------------------------------------------- copies
def _saved(part: Any) -> int:
    file = io.BytesIO()
    torch.save(part, file)
    return file.tell()


def test_a_saved_part_is_as_big_as_its_numbers() -> None:
    model, bare = (build(lambda: nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 16))) for _ in "12")
    running = stepper(model)
    running.step(BATCH, mse)
    for mine, theirs in (
        (model.heads["a"], bare.heads["a"]),
        (model.shared, bare.shared),
        (model.state_dict(), bare.state_dict()),
    ):
        assert _saved(mine) < 1.05 * _saved(theirs) + 64
    weight = model.heads["a"].get_parameter("weight")
    assert weight.untyped_storage().nbytes() == 4 * weight.numel()
    assert weight.data_ptr() == running.flat.data[running.flat.heads[0]].data_ptr()


def _by_pickle(running: Stepper) -> Stepper:
    made: Stepper = pickle.loads(pickle.dumps(running))
    return made


def _by_torch(running: Stepper) -> Stepper:
    file = io.BytesIO()
    torch.save(running, file)
    file.seek(0)
    made: Stepper = torch.load(file, weights_only=False)
    return made


@pytest.mark.parametrize("copied", [copy.deepcopy, _by_pickle, _by_torch])
@pytest.mark.parametrize("method", ["ls", "fairgrad"])
def test_a_copied_stepper_goes_on_by_itself(
    method: str, copied: Callable[[Stepper], Stepper]
) -> None:
    first = stepper(build(), method, SAM, lr=0.1)
    first.step(BATCH, mse)
    second = copied(first)
    start = first.flat.data.clone()
    second.step(BATCH, mse)
    assert torch.equal(first.flat.data, start)
    assert not torch.equal(second.flat.data, start)
    first.step(BATCH, mse)
    for p, q in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_moving_averages_follow_and_stand_alone() -> None:
    model = build()
    running = stepper(model, "mgda", lr=0.1)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    )
    expected = copy.deepcopy(model)
    average.update_parameters(model)
    for _ in range(3):
        running.step(BATCH, mse)
        average.update_parameters(model)
        with torch.no_grad():
            for p, q in zip(expected.parameters(), model.parameters(), strict=True):
                p.lerp_(q, 0.5)
    for p, q in zip(average.module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q)


# ------------------------------------------------------------------ parameters beside the model's
@pytest.mark.parametrize(
    ("method", "sharpness"), [("ls", "none"), ("mgda", "none"), ("fairgrad", "samo"), ("uw", "sam")]
)
def test_a_learnable_loss_gets_this_steps_gradient(method: str, sharpness: str) -> None:
    model, log_t = build(), nn.Parameter(torch.tensor(0.3))

    def loss(objective: str, prediction: Tensor, target: Tensor) -> Tensor:
        return ((prediction - target) * log_t.exp()).square().mean()

    optimizer = torch.optim.SGD([*model.parameters(), log_t], lr=0.0)
    running = Stepper(model, optimizer, method, sharpness)
    rows = [
        torch.autograd.grad(loss(name, model(X)[name], BATCH.targets[name]), log_t)[0]
        for name in "ab"
    ]
    for _ in range(3):
        report = running.step(BATCH, loss)
        weights = torch.ones(2)
        if running.methods[0].info.head_policy == "weighted" and report.weights is not None:
            weights = report.weights
        assert log_t.grad is not None
        torch.testing.assert_close(log_t.grad, (weights * torch.stack(rows)).sum())


def test_a_loss_parameter_whose_gradient_is_not_finite_skips_the_step() -> None:
    model, scale = build(), nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([*model.parameters(), scale], lr=0.1)
    running = Stepper(model, optimizer, "ls")
    report = running.step(BATCH, lambda n, p, t: mse(n, p, t) + (0 * scale).abs().sqrt())
    assert report.skipped == "non-finite gradient"
    assert scale == 0


def test_parameters_that_no_optimizer_has_are_named(caplog: pytest.LogCaptureFixture) -> None:
    model = build()
    Stepper(model, torch.optim.SGD(model.shared.parameters(), lr=0.1), "ls")
    assert "does not have heads.a.weight, heads.a.bias, heads.b.weight" in caplog.text


# --------------------------------------------------------------------------------------- buffers
class _Running(nn.Module):
    """A running mean of one's own, which it uses, and a counter that is another tensor each time.
    Its scale is saved for the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.get_buffer("mean").mul_(0.9).add_(0.1 * x.detach().mean(0))
            self.seen = self.get_buffer("seen") + 1
        out: Tensor = (x - self.get_buffer("mean")) * (1 + self.get_buffer("mean"))
        return out


class _OwnNorm(nn.Module):
    """Normalisation by torch's function, with statistics of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(16))
        self.register_buffer("running_var", torch.ones(16))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            x, self.get_buffer("running_mean"), self.get_buffer("running_var"), training=True
        )


TRUNKS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU()),
    "spectral norm": lambda: nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(6, 16)), nn.ReLU()
    ),
    "own statistics": lambda: nn.Sequential(_Running(), nn.Linear(6, 16), nn.ReLU()),
    "own norm": lambda: nn.Sequential(nn.Linear(6, 16), _OwnNorm(), nn.ReLU()),
}


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in model.named_buffers()}


@pytest.mark.parametrize("kind", TRUNKS)
@pytest.mark.parametrize(
    ("method", "sharpness"),
    [("ls", "none"), ("fairgrad", "samo"), ("ls", "fmtl"), ("famo", "none"), ("mgda", "lsam")],
)
def test_buffers_move_once_a_step_and_not_in_a_skipped_one(
    kind: str, method: str, sharpness: str
) -> None:
    model, plain = build(TRUNKS[kind]), build(TRUNKS[kind])
    running = stepper(model, method, sharpness)
    for _ in range(2):
        assert not running.step(BATCH, mse).skipped
        plain(X)
    expected = _buffers(plain)
    assert expected
    for name, b in _buffers(model).items():
        torch.testing.assert_close(b, expected[name])
    before = _buffers(model)
    assert running.step(BATCH, lambda n, p, t: mse(n, p, t) * torch.nan).skipped
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())


# ---------------------------------------------------------------------------------------- labels
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_signs_as_labels_are_asked_about_and_can_be_said(
    dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    y = ((X[:, :1] > 0).long() * 2 - 1).to(dtype)
    batch, seen = InputGroup(X, {"a": y, "b": X[:, 1:2]}), list[int]()

    def loss(objective: str, prediction: Tensor, target: Tensor) -> Tensor:
        seen.append(len(target))
        return nn.functional.soft_margin_loss(prediction, target.float())

    running = stepper(build())
    for _ in range(2):
        running.step(batch, loss)
    negative = int((y < 0).sum())
    said = f"a: {negative} of 64 targets are negative integers and count as missing labels"
    assert [said in r.getMessage() for r in caplog.records] == [True]
    assert set(seen) == {64 - negative, 64}
    for rule in ("nothing", {"a": "nothing"}, -100):
        caplog.clear()
        seen.clear()
        stepper(build(), ignore=rule).step(batch, loss)
        assert seen == [64, 64]
        assert not caplog.records
    stepper(build(), ignore="negative").step(batch, loss)
    assert not caplog.records


def test_few_missing_integers_need_no_word(caplog: pytest.LogCaptureFixture) -> None:
    y = torch.arange(64).reshape(64, 1) - 5
    running = stepper(build())
    running.step(InputGroup(X, {"a": y, "b": X[:, 1:2]}), mse)
    assert not caplog.records
    running.step(InputGroup(X, {"a": y - 40, "b": X[:, 1:2]}), mse)
    assert "a: 45 of 64 targets" in caplog.text


def test_steps_without_labels_are_no_divergence() -> None:
    nothing = InputGroup(X, {name: torch.full((64, 1), torch.nan) for name in "ab"})
    running = stepper(build(), "mgda")
    for _ in range(50):
        assert running.step(nothing, mse).skipped == "no task has a label"
    assert (running.steps, running.skipped, running.unlabelled) == (50, 0, 50)
    again = stepper(build(), "mgda")
    again.load_state_dict(running.state_dict())
    assert again.unlabelled == 50

    def alternate() -> None:  # they do not end a row of bad steps either
        for _ in range(30):
            running.step(BATCH, lambda n, p, t: mse(n, p, t) * torch.nan)
            running.step(nothing, mse)

    with pytest.raises(DivergedError):
        alternate()


@pytest.mark.parametrize("method", ["ls", "mgda", "fairgrad"])
def test_a_poisoned_head_spoils_no_step_without_it(method: str) -> None:
    model = build()
    running = stepper(model, method, lr=0.01)

    def bad(objective: str, prediction: Tensor, target: Tensor) -> Tensor:
        loss = mse(objective, prediction, target)
        weight = model.heads["b"].get_parameter("weight")
        return loss + (0 * weight.sum()).abs().sqrt() if objective == "b" else loss

    assert running.step(BATCH, bad).skipped == "non-finite gradient"
    for _ in range(3):
        assert not running.step(InputGroup(X, {"a": BATCH.targets["a"]}), mse).skipped


def test_one_nan_of_a_vector_leaves_its_example_out() -> None:
    torch.manual_seed(0)
    model = MultiTaskModel(nn.Linear(6, 4), {"a": nn.Linear(4, 3)})
    y = X[:, :3].clone()
    y[5, 1] = torch.nan
    known = [i for i in range(64) if i != 5]
    report = stepper(model).step(InputGroup(X, {"a": y}), mse)
    assert not report.skipped
    assert report.losses is not None
    expected = mse("a", model(X)["a"][known], y[known])
    torch.testing.assert_close(report.losses[0], expected.detach())


# ------------------------------------------------------------------------------------- arguments
class _Wrong(JointLoss):
    def together(self, predictions: Any, targets: Any) -> Tensor:
        return torch.zeros(5, requires_grad=True)


LOSSES: dict[str, tuple[Any, str]] = {
    "of shape (1,)": (lambda n, p, t: mse(n, p, t).reshape(1), r"loss of a .* one of shape \(1,\)"),
    "an example": (lambda n, p, t: (p - t).square(), r"loss of a .* one of shape \(64, 1\)"),
    "a number": (
        lambda n, p, t: mse(n, p, t).item(),
        "loss of a must be a scalar Tensor, not float",
    ),
    "nothing": (lambda n, p, t: None, "loss of a must be a scalar Tensor, not NoneType"),
    "two arguments": (lambda p, t: (p - t).square().mean(), r"called as loss\(objective, pred"),
    "torch's": (nn.MSELoss(), r"called as loss\(objective, prediction, target\)"),
    "a dict": ({"a": nn.MSELoss()}, "must be a function .* not dict"),
    "detached": (lambda n, p, t: mse(n, p, t).detach(), "no loss has a gradient"),
    "joint": (_Wrong(), r"must return a Tensor of shape \(2,\), not one of shape \(5,\)"),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_of_no_use_is_named(kind: str) -> None:
    loss, said = LOSSES[kind]
    with pytest.raises(UsageError, match=said):
        stepper(build(), "fairgrad").step(BATCH, loss)


def test_an_error_within_a_loss_is_its_own() -> None:
    def loss(objective: str, prediction: Tensor, target: Tensor) -> Tensor:
        raise TypeError("mine")

    with pytest.raises(TypeError, match=r"^mine$"):
        stepper(build()).step(BATCH, loss)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_step_without_gradients_is_refused(
    context: Callable[[], AbstractContextManager[None]],
) -> None:
    with context(), pytest.raises(UsageError, match=r"within torch\.no_grad"):
        stepper(build()).step(BATCH, mse)


BATCHES: dict[str, tuple[Any, str]] = {
    "a pair": ((X, BATCH.targets), "not of Tensor"),
    "a dict": ({"x": X}, "not dict"),
    "a tensor": (X, "not Tensor"),
    "a list of targets": (InputGroup(X, [X]), "mapping of objective to Tensor, not list"),  # type: ignore[arg-type]
    "a list for a Tensor": (InputGroup(X, {"a": [1.0]}), "target for a must be a Tensor, not list"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("kind", BATCHES)
def test_a_batch_of_another_kind_is_named(kind: str) -> None:
    batch, said = BATCHES[kind]
    with pytest.raises(UsageError, match=said):
        stepper(build()).step(batch, mse)


ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"objectives": ["a", "c"]}, "no head is called 'c'; heads: a, b"),
    ({"objectives": ["a", "a"]}, "named twice"),
    ({"objectives": []}, "objectives are none"),
    ({"objectives": "a"}, "not the name 'a'"),
    ({"gradient_scale": "mean"}, "unknown gradient_scale 'mean'; valid: paper, sum"),
    ({"clip_norm": 0.0}, "clip_norm=0.0 must be positive"),
    ({"clip_norm": -1.0}, "clip_norm=-1.0 must be positive"),
    ({"clip_norm": float("nan")}, "clip_norm=nan must be positive"),
    ({"method": None}, "the method must be a name with options, not None"),
]


@pytest.mark.parametrize(("how", "said"), ARGUMENTS)
def test_arguments_are_checked(how: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        stepper(build(), **how)


def test_models_and_optimizers_are_checked() -> None:
    model = build()
    plain = nn.Linear(2, 2)
    with pytest.raises(UsageError, match=r"must be a MultiTaskModel .*, not Linear"):
        Stepper(plain, torch.optim.SGD(plain.parameters(), lr=0.1), "ls")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="LBFGS evaluates the loss itself"):
        Stepper(model, torch.optim.LBFGS(model.parameters()), "ls")
    with pytest.raises(UsageError, match="must be torch's, not list"):
        Stepper(model, [], "ls")  # type: ignore[arg-type]
    lazy = MultiTaskModel(nn.LazyLinear(4), {"a": nn.Linear(4, 1)})
    with pytest.raises(UsageError, match="a lazy layer has no parameters yet"):
        stepper(lazy)


@pytest.mark.parametrize("name", ["type", "price.usd", "keys", "", "training"])
def test_names_that_torch_has_no_place_for_are_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"a head cannot be called '{name}'"):
        MultiTaskModel(nn.Linear(6, 4), {name: nn.Linear(4, 1)})


class _Pair(NamedTuple):
    left: Tensor
    right: Any


def test_inputs_of_any_structure_are_moved() -> None:
    inputs = {"ids": X, "more": [X, _Pair(X, None)], "n": 3}
    moved = InputGroup(inputs, {"a": X}).to(torch.device("meta"))
    assert moved.inputs["ids"].is_meta
    assert moved.inputs["more"][1].left.is_meta
    assert moved.inputs["more"][1].right is None
    assert moved.inputs["n"] == 3
    with pytest.raises(UsageError, match="of type object have no method"):
        InputGroup({"x": object()}, {}).to(torch.device("cpu"))


# ---------------------------------------------------------------------------- precision, compilers
@pytest.mark.parametrize("sharpness", [f"{n}:rho=0.5" for n in SHARPNESS.names() if n != "none"])
def test_a_wrapper_within_autocast_is_that_of_float32(sharpness: str) -> None:
    """A cast of the parameters that autocast keeps is not of those that a wrapper has moved."""

    def found(sharp: str, context: AbstractContextManager[Any]) -> Tensor:
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
        model = MultiTaskModel(trunk, {n: nn.Linear(32, 1) for n in "ab"})
        x = torch.randn(64, 8)
        running = stepper(model, "ls", sharp)
        with context:
            running.step(InputGroup(x, {"a": x[:, :1].sin(), "b": -x[:, 1:2]}), _float_mse)
        return gradient(model.shared)

    def _float_mse(objective: str, prediction: Tensor, target: Tensor) -> Tensor:
        return mse(objective, prediction.float(), target)

    exact = found(sharpness, nullcontext())
    cast = found(sharpness, torch.autocast("cpu", dtype=torch.bfloat16))
    effect = (found("none", nullcontext()) - exact).norm()
    assert effect > 0.3 * exact.norm()
    assert (cast - exact).norm() < 0.06 * exact.norm()


def test_within_one_autocast_the_network_is_the_present_one() -> None:
    """The second loss of FAMO, and what a caller predicts after the step, see its parameters."""
    model = build()
    running = stepper(model, "famo", lr=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        running.step(BATCH, lambda n, p, t: mse(n, p.float(), t))
        kept = model(X)["a"]
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        assert torch.equal(model(X)["a"], kept)


def _compiled() -> nn.Module:
    body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16))
    compiled: Any = torch.compile(body)
    return compiled  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_compiled_trunk_serves_methods_in_any_order() -> None:
    for method in ("ls", "fairgrad", "ls", "mgda"):
        running = stepper(build(_compiled), method, lr=0.01)
        for _ in range(2):
            assert not running.step(BATCH, mse).skipped


# ------------------------------------------------------------------------- loops of other libraries
class _Signed(torch.optim.Optimizer):
    """An optimizer of one's own."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad.sign(), alpha=group["lr"])


def test_an_optimizer_of_ones_own_is_given_the_aggregate() -> None:
    model = build()
    before = [p.detach().clone() for p in model.parameters()]
    running = Stepper(model, _Signed(model.parameters(), 0.25), "fairgrad", "samo")
    running.step(BATCH, mse)
    for p, q in zip(model.parameters(), before, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.detach(), q - 0.25 * p.grad.sign())


class _Module(nn.Module):
    """As Lightning's manual optimisation has it: the network in a module that owns the step, whose
    optimizers come wrapped and whose schedulers are stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.net = build()
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 5)
        self.stepper = Stepper(self.net, self.optimizer, "mgda", SAM)

    def training_step(self, batch: InputGroup) -> Tensor:
        self.optimizer.zero_grad()
        report = self.stepper.step(batch, mse)
        self.scheduler.step()
        assert report.losses is not None
        return report.losses.sum()


def test_a_module_with_manual_optimisation_trains_and_is_restored() -> None:
    module = _Module()
    losses = [float(module.training_step(BATCH)) for _ in range(10)]
    assert losses[-1] < losses[0]
    other = _Module()
    other.load_state_dict(module.state_dict())
    other.stepper.load_state_dict(copy.deepcopy(module.stepper.state_dict()))
    other.scheduler.load_state_dict(module.scheduler.state_dict())
    assert float(other.training_step(BATCH)) == float(module.training_step(BATCH))


class _ModelOutput(OrderedDict[str, Any]):
    """As transformers' outputs are: a mapping whose entries are attributes."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class _Encoder(nn.Module):
    """As transformers' encoders are: called with keywords, tied embeddings beside."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix = nn.Embedding(20, 16), nn.Linear(16, 16)

    def forward(self, inputs: dict[str, Tensor]) -> _ModelOutput:
        return self._encode(**inputs)

    def _encode(self, input_ids: Tensor, attention_mask: Tensor) -> _ModelOutput:
        hidden = self.mix(self.embedding(input_ids)).tanh() * attention_mask[..., None]
        return _ModelOutput(last_hidden_state=hidden, attentions=None)


class _First(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.layer = nn.Linear(16, n)

    def forward(self, output: _ModelOutput) -> Tensor:
        out: Tensor = self.layer(output.last_hidden_state.mean(1))
        return out


@pytest.mark.parametrize(
    ("method", "sharpness"),
    [("ls", "none"), ("fairgrad", "samo"), ("graddrop", "sam"), ("famo", "fmtl")],
)
def test_an_encoder_with_dicts_in_and_out_trains(method: str, sharpness: str) -> None:
    torch.manual_seed(0)
    model = MultiTaskModel(_Encoder(), {"topic": _First(3), "mood": _First(2)})
    running = Stepper(model, torch.optim.AdamW(model.parameters(), lr=1e-2), method, sharpness)
    ids = torch.randint(20, (16, 12))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch = InputGroup(inputs, {"topic": ids[:, 0] % 3, "mood": ids[:, 1] % 2})
    ce: Loss = lambda n, p, t: nn.functional.cross_entropy(p, t)  # noqa: E731
    losses = []
    for _ in range(15):
        report = running.step(batch.to(torch.device("cpu")), ce)
        assert report.losses is not None
        losses.append(float(report.losses.sum()))
    assert losses[-1] < losses[0]
    state = model.shared.state_dict()
    assert all(t.untyped_storage().nbytes() == t.numel() * 4 for t in state.values())


def test_logging_is_quiet_in_an_ordinary_run(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        running = stepper(build(), "fairgrad", "samo", lr=0.1)
        for _ in range(3):
            running.step(BATCH, mse)
    assert not caplog.records
