"""What methods on the Gramian share: fallbacks, refreshing, the point of the gradients."""

import logging
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from mtlbench import GramianMethod, MethodInfo, MultiTaskModel
from mtlbench.engine.gramian import Array
from mtlbench.engine.restrict import restricted
from mtlbench.interfaces import Batch, DenseView, GramianPoint
from mtlbench.interfaces.gradients import inner_products
from mtlbench.registry import METHODS as REGISTERED
from mtlbench.registry import Spec
from tests.models import (
    METHODS,
    MakeBatch,
    assert_close,
    dense_view,
    make_problem,
    make_stepper,
    mse,
    multi_batch,
    passes_of_a_step,
    single_batch,
    tiny_model,
)
from tests.reference import gradient, plain_forward
from tests.reference_methods import METHODS as REFERENCES

FAILURES: dict[str, Array | Exception] = {
    "arithmetic": ZeroDivisionError("no solution"),
    "linear algebra": np.linalg.LinAlgError("singular"),
    "nan": np.array([1.0, np.nan, 1.0]),
    "shape": np.ones(2),
}


class Scripted(GramianMethod):
    """Answers from a list."""

    info = MethodInfo(name="scripted", title="Scripted", year=2020, scale="mean")

    def __init__(
        self,
        n_tasks: int,
        answers: Sequence[Array | Exception],
        *,
        refresh: int = 1,
        at: GramianPoint = "shared",
    ) -> None:
        super().__init__(n_tasks, refresh=refresh, at=at)
        self.answers = list(answers)
        self.seen: list[Array] = []

    def solve(self, gramian: Array, losses: Array) -> Array:
        self.seen.append(gramian)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def _no_evaluation() -> Tensor:
    raise AssertionError("no method on the Gramian needs the losses after the step")


GOOD = np.array([0.2, 0.3, 0.5])


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_failed_solve_keeps_the_last_good_weights(failure: Array | Exception) -> None:
    method = Scripted(3, [failure, GOOD, failure, failure])
    assert torch.allclose(method.weights(dense_view()), torch.full((3,), 1 / 3).double())
    method.after_step(_no_evaluation)
    for _ in range(3):
        assert np.array_equal(method.weights(dense_view()), GOOD)
        method.after_step(_no_evaluation)
    assert method.diagnostics() == {"solver_fallbacks": 3}


def test_fallbacks_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    method = Scripted(3, [ArithmeticError("the reason")] * 5)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            method.weights(dense_view())
            method.after_step(_no_evaluation)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "scripted" in caplog.text
    assert "the reason" in caplog.text


def test_an_error_of_another_kind_is_not_hidden() -> None:
    with pytest.raises(TypeError):
        Scripted(3, [TypeError("a bug")]).weights(dense_view())


def test_only_after_step_makes_weights_the_last_good_ones() -> None:
    method = Scripted(3, [GOOD, ArithmeticError()])
    method.weights(dense_view())
    assert torch.allclose(method.weights(dense_view()), torch.full((3,), 1 / 3).double())


def test_refresh_solves_on_every_nth_step_only() -> None:
    method = Scripted(3, [GOOD, GOOD[::-1].copy()], refresh=3)
    for expected in [GOOD] * 3 + [GOOD[::-1]] * 3:
        assert np.array_equal(method.weights(dense_view()), expected)
        method.after_step(_no_evaluation)
    assert len(method.seen) == 2


def test_weights_are_reused_for_the_tasks_that_they_were_solved_for() -> None:
    """Those of other tasks sum to anything, and may all be zero."""
    pair = np.array([0.6, 0.4])
    vertex = np.array([0.0, 1.0, 0.0])
    method = Scripted(3, [vertex, pair, ArithmeticError(), GOOD], refresh=3)
    steps: list[tuple[list[int], Array]] = [
        ([0, 1, 2], vertex),
        ([0, 2], pair),  # solved again, as the weight went to task 1
        ([0, 2], pair),
        ([0, 1], np.array([0.5, 0.5])),  # not solved, and there are no weights of theirs
        ([0, 1, 2], GOOD),
    ]
    for tasks, expected in steps:
        whole = dense_view()
        view = DenseView(whole.losses[tasks], whole.jacobian()[tasks], [], whole.generator)
        with restricted(method, tasks):
            assert np.array_equal(method.weights(view), expected)
            method.after_step(_no_evaluation)
    assert len(method.seen) == 4


def test_weights_once_returned_stay_as_they_were() -> None:
    method = Scripted(3, [GOOD, GOOD[::-1].copy()], refresh=2)
    method.weights(dense_view())
    method.after_step(_no_evaluation)
    kept = method.weights(dense_view())
    method.after_step(_no_evaluation)
    method.weights(dense_view())
    method.after_step(_no_evaluation)
    assert np.array_equal(kept, GOOD)


def test_the_solve_is_in_double_precision_and_the_weights_in_the_views() -> None:
    full = dense_view()
    view = DenseView(full.losses.float(), full.jacobian().float(), [], full.generator)
    method = Scripted(3, [GOOD])
    assert method.weights(view).dtype == torch.float32
    assert method.seen[0].dtype == np.float64
    assert np.array_equal(method.seen[0], (view.jacobian() @ view.jacobian().T).numpy())


def test_the_point_is_handed_on() -> None:
    view = make_problem(tiny_model()).view()
    method = Scripted(3, [GOOD], at="representation")
    method.weights(view)
    assert np.array_equal(method.seen[0], view.gramian("representation").numpy())


def test_the_count_of_fallbacks_survives_a_resume() -> None:
    first = make_stepper(tiny_model(), "mgda")
    first.methods = [Scripted(3, [ArithmeticError()])]
    first.step(single_batch(), mse)
    assert first.diagnostics()["solver_fallbacks"] == 1
    second = make_stepper(tiny_model(), "mgda")
    second.methods = [Scripted(3, [])]
    second.load_state_dict(first.state_dict())
    assert second.diagnostics()["solver_fallbacks"] == 1


# ------------------------------------------------------------------------------- all such methods
def _with_option(option: str) -> list[str]:
    return [name for name in METHODS if option in REGISTERED.resolve(Spec(name))[1]]


BATCHES = pytest.mark.parametrize("make_batch", [single_batch, multi_batch])


def test_a_method_on_the_gramian_has_the_common_options() -> None:
    on_gramian = [n for n in METHODS if issubclass(REGISTERED.get(n), GramianMethod)]
    assert len(on_gramian) > 5
    assert set(on_gramian) <= set(_with_option("refresh")) <= set(_with_option("at"))


@BATCHES
@pytest.mark.parametrize("method", _with_option("refresh"))
def test_steps_between_refreshes_solve_nothing(method: str, make_batch: MakeBatch) -> None:
    """Heads with gradients of their own have K backward passes through the heads besides."""
    for K, at in ((2, "shared"), (5, "shared"), (2, "representation"), (5, "representation")):
        batch = make_batch(K)
        n = len(batch)
        stepper = make_stepper(tiny_model(K), f"{method}:refresh=3,at={at}")
        between = (n, n, K if REFERENCES[method].unit_heads else 0)
        refreshing = (n, K, 0) if at == "shared" else (n, n, K)
        spent = [passes_of_a_step(stepper, batch) for _ in range(5)]
        assert spent == [refreshing, between, between, refreshing, between]


@BATCHES
@pytest.mark.parametrize("method", _with_option("at"))
@pytest.mark.parametrize("K", [2, 5])
def test_the_representation_costs_one_backward_pass_through_the_trunk(
    method: str, K: int, make_batch: MakeBatch
) -> None:
    """One through the graph of each input group, that is."""
    batch = make_batch(K)
    stepper = make_stepper(tiny_model(K), f"{method}:at=representation")
    for _ in range(2):
        assert passes_of_a_step(stepper, batch) == (len(batch), len(batch), K)


def _plain_gradients(model: MultiTaskModel, batch: Batch) -> list[tuple[Tensor, ...]]:
    """For each task: loss, and gradient of the shared parameters, of the trunk's outputs and of the
    task's head; leaves the global generator at the start."""
    start, outputs = torch.get_rng_state(), list[Tensor]()
    hook = model.shared.register_forward_hook(lambda module, inputs, out: outputs.append(out))
    losses = plain_forward(model, batch)
    hook.remove()
    torch.set_rng_state(start)
    shared, heads = list(model.shared.parameters()), model.heads.values()
    return [
        (
            loss.detach(),
            gradient(loss, shared),
            gradient(loss, outputs),
            gradient(loss, list(head.parameters())),
        )
        for loss, head in zip(losses, heads, strict=True)
    ]


@BATCHES
@pytest.mark.parametrize("method", _with_option("at"))
def test_weights_of_the_representation_apply_to_the_shared_gradients(
    method: str, make_batch: MakeBatch
) -> None:
    model = tiny_model()
    stepper = make_stepper(model, f"{method}:at=representation")
    twin = REGISTERED.build(method, 3)
    for seed in range(2):
        batch = make_batch(seed=seed)
        losses, J, R, own = zip(*_plain_gradients(model, batch), strict=True)
        noise = torch.Generator()
        noise.set_state(stepper.generator.get_state())
        w = twin.weights(DenseView(torch.stack(losses), torch.stack(R), own, noise))
        if method == "imtl":  # the heads' losses are scaled, too
            scales = twin.state_dict()["log_scale"].exp()
            own = tuple(scale * head for scale, head in zip(scales, own, strict=True))
        twin.after_step(_no_evaluation)
        stepper.step(batch, mse)
        shared = w @ torch.stack(J)
        if method == "nashmtl":
            shared /= shared.norm().clamp_min(1)
        assert_close(stepper.flat.grad.rows[0], shared, 1e-6)
        for k, head in enumerate(stepper.flat.grad.heads):
            assert_close(head, own[k] if REFERENCES[method].unit_heads else w[k] * own[k], 1e-6)


# ------------------------------------------------------------------------------- inner products
def _dependent(K: int, P: int) -> Tensor:
    """Rows that share a part; the last is the sum of the first two."""
    J = torch.randn(K, P, generator=torch.Generator().manual_seed(K)) + 3
    J[-1] = J[0] + J[1]
    return J


def _exact(rows: Tensor) -> Tensor:
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for start in range(0, rows.shape[1], 1 << 16):
        part = rows[:, start : start + (1 << 16)].double()
        total += part @ part.T
    return total


@pytest.mark.parametrize(
    ("K", "P"), [(2, 1), (3, 4096), (3, 4097), (11, 10_000), (100, 20_000), (7, 1_500_000)]
)
def test_float32_rows_have_the_gramian_of_doubles_to_a_millionth(K: int, P: int) -> None:
    J = _dependent(K, P)
    expected, G = _exact(J), dense_view(K).gramian()
    assert G.dtype == torch.float64
    G = DenseView(torch.ones(K), J, [], torch.Generator()).gramian()
    norms = expected.diagonal().sqrt()
    assert G.dtype == torch.float64
    assert float(((G - expected) / norms / norms[:, None]).abs().max()) <= 1e-6


@pytest.mark.slow
def test_a_large_gramian_is_as_exact() -> None:
    J = torch.randn(3, 25_000_000, generator=torch.Generator().manual_seed(0)) + 3
    J[2] = J[0] + J[1]
    expected, norms = _exact(J), J.double().norm(dim=1)
    error = (inner_products(J) - expected) / norms / norms[:, None]
    assert float(error.abs().max()) <= 1e-6


@pytest.mark.parametrize("method", ["aligned_mtl", "imtl_g", "config", "mgda", "upgrad"])
def test_a_dependent_row_among_millions_of_parameters(method: str) -> None:
    """One product of float32 rows made the update 99 % another one."""
    J = _dependent(3, 4_000_000)
    view = DenseView(torch.ones(3), J, [J[0, :1]] * 3, torch.Generator())
    G, built = _exact(J), REGISTERED.build(method, 3)
    assert isinstance(built, GramianMethod)
    v, w = torch.from_numpy(built.solve(G.numpy(), np.ones(3))), built.weights(view).double()
    assert float(((w - v) @ G @ (w - v)).sqrt() / (v @ G @ v).sqrt()) <= 1e-4
