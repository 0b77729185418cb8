"""What methods on the Gramian share: fallbacks, refreshing, the point of the gradients."""

import logging
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from mtlbench import GramianMethod, MethodInfo
from mtlbench.gramian import Array
from mtlbench.interfaces import GramianPoint
from mtlbench.views import DenseView
from tests.models import dense_view, make_problem, make_stepper, mse, single_batch, tiny_model

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
