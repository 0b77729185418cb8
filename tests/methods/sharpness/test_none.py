"""No wrapper: the method as it is."""

import torch

from mtlbench.interfaces import GradientView, Update
from mtlbench.methods.sharpness.none import Plain
from tests.models import make_problem, tiny_model


def test_the_update_is_the_methods() -> None:
    problem = make_problem(tiny_model())
    seen: list[GradientView] = []

    def aggregate(view: GradientView) -> Update:
        seen.append(view)
        return answer

    answer = Update(torch.zeros(1), [])
    assert Plain().update(problem, aggregate) is answer
    assert len(seen) == 1
    assert seen[0].losses is problem.first_losses
    assert Plain.info.identity
    assert Plain.parts == 1
