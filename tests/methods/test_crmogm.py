"""CR-MOGM: the average of another method's weights."""

import pytest
import torch

from mtlbench import UsageError
from mtlbench.interfaces import GradientView
from mtlbench.methods.crmogm import CRMOGM
from mtlbench.registry import METHODS, Spec
from mtlbench.runs.spec import RunSpec, prepare
from tests.models import (
    aggregate_part,
    assert_close,
    dense_view,
    make_stepper,
    mse,
    same,
    single_batch,
    tiny_model,
)
from tests.toy_task import TOY


def _weights(method: str, view: GradientView) -> torch.Tensor:
    found = METHODS.build(method, 3).aggregate(view).weights
    assert found is not None
    return found


@pytest.mark.parametrize("inner", ["mgda", "cagrad:c=0.7:solver=nnls", "fairgrad", "uw_so"])
def test_weights_are_averages_of_the_others(inner: str) -> None:
    method, average = METHODS.build(f"crmogm:method={inner},alpha=0.8", 3), None
    for seed in range(4):
        view = dense_view(seed=seed)
        theirs = _weights(str(Spec.nested(inner)), view)
        average = theirs if average is None else 0.8 * average + 0.2 * theirs
        update = method.aggregate(view)
        assert update.weights is not None
        assert_close(update.weights, average)
        method.after_step(lambda: torch.ones(3))


def test_it_costs_and_treats_heads_as_the_other_does() -> None:
    for inner in ("uw", "famo", "random", "mgda"):
        ours, theirs = METHODS.build(f"crmogm:method={inner}", 3).info, METHODS.get(inner).info
        assert ours.passes(3) == theirs.passes(3)
        assert (ours.head_policy, ours.scale) == (theirs.head_policy, theirs.scale)
    looking = METHODS.build("crmogm:method=autolambda:held_out=0.2", 3).info.further
    assert looking == METHODS.build("autolambda:held_out=0.2", 3).info.further
    assert METHODS.build("crmogm:method=mgda:at=representation", 3).at == "representation"


def test_the_others_part_of_the_whole_is_kept_while_a_task_is_away() -> None:
    method = CRMOGM(3, alpha=0.5)
    for seed, tasks in enumerate(([0, 1], [0, 1, 2], [1, 2], [2], [0, 1, 2])):
        before = method.average.clone()
        aggregate_part(method, tasks, seed)
        assert float(method.average.sum()) == pytest.approx(1)
        for k in set(range(3)) - set(tasks):
            assert method.average[k] == before[k]


def test_the_other_learns_and_all_is_restored() -> None:
    text = "crmogm:method=famo"
    first, second = (make_stepper(tiny_model(), text) for _ in range(2))
    for seed in range(2):
        first.step(single_batch(seed=seed), mse)
    assert first.methods[0].state_dict()["other.logits"].any()
    second.load_state_dict(first.state_dict())
    assert same(first.state_dict()["methods"], second.state_dict()["methods"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("graddrop", "method=graddrop has no weights"),
        ("nosuch", "option method=nosuch: unknown method 'nosuch'"),
        ("cagrad:d=1", "option method=cagrad:d=1: method 'cagrad' has no option 'd'"),
    ],
)
def test_what_cannot_be_averaged_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        METHODS.build(f"crmogm:method={text}", 2)


def test_an_identity_has_the_other_in_its_shortest_form_and_its_version() -> None:
    plain, said, other, newer = (
        prepare(RunSpec(TOY, f"crmogm:method={text}")).identity
        for text in ("fairgrad", "fairgrad:alpha=2.0:heads=unit", "fairgrad:alpha=1", "upgrad")
    )
    assert plain.method_options["method"] == "fairgrad"
    assert plain.digest == said.digest != other.digest
    assert other.method_options["method"] == "fairgrad:alpha=1.0"
    assert plain.method_code is None
    assert newer.method_code is not None  # UPGrad is at version 2


def test_the_other_looks_at_further_batches() -> None:
    steppers = [make_stepper(tiny_model(), m) for m in ("moml", "crmogm:method=moml,alpha=0")]
    start = torch.get_rng_state()
    for stepper in steppers:
        torch.set_rng_state(start)
        for seed in range(3):
            further = [single_batch(seed=9 + seed)] * stepper.n_further
            stepper.step(single_batch(seed=seed), mse, further)
    plain, ours = steppers
    assert torch.equal(plain.flat.data, ours.flat.data)
    assert plain.methods[0].state_dict()["logits"].any()
