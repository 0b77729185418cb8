"""Static weights: as written."""

import pytest
import torch

from mtlbench.errors import UsageError
from mtlbench.registry import METHODS
from tests.models import assert_close, dense_view


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("static", [1, 1, 1]),
        ("static:weights=2.5", [2.5] * 3),
        ("static:weights=1/0/5e-1", [1, 0, 0.5]),
    ],
)
def test_the_update_has_the_written_weights(spec: str, expected: list[float]) -> None:
    view, method = dense_view(), METHODS.build(spec, 3)
    method.load_state_dict(method.state_dict())
    update = method.aggregate(view)
    w = torch.tensor(expected).double()
    assert_close(update.shared, w @ view.jacobian())
    for k in range(3):
        assert_close(update.heads[k], w[k] * view.head_grads()[k])


@pytest.mark.parametrize("text", ["", "1/", "one", "1/-1/1", "0/0/0", "nan", "1/inf/1", "1/2"])
def test_other_weights_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="weights"):
        METHODS.build(f"static:weights={text}", 3)


def test_the_gradient_of_one_task_is_left_alone() -> None:
    view = dense_view(1)
    assert_close(METHODS.build("static:weights=7", 1).aggregate(view).shared, view.jacobian()[0])
