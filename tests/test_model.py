"""Roles of parameters follow from the structure."""

import pytest
import torch
from torch import nn

from mtlbench import MultiTaskModel
from tests.models import OwnWeight, names, tiny_model, trunk, variant


def _names_of(model: MultiTaskModel, params: list[nn.Parameter]) -> set[str]:
    known = {id(p): name for name, p in model.named_parameters()}
    return {known[id(p)] for p in params}


def test_every_parameter_of_a_plain_model_has_one_role() -> None:
    model = tiny_model(K=3)
    shared, heads = model.parameter_roles(names(3))
    assert [id(p) for p in shared] == [id(p) for p in model.shared.parameters()]
    for name, head in zip(names(3), heads, strict=True):
        assert [id(p) for p in head] == [id(p) for p in model.heads[name].parameters()]


def test_a_name_that_begins_like_another_is_another() -> None:
    model = tiny_model(K=2)
    _, (first, second) = model.parameter_roles(["task1", "task10"])
    assert _names_of(model, first) == {"heads.task1.1.weight", "heads.task1.1.bias"}
    assert _names_of(model, second) == {"heads.task10.1.weight", "heads.task10.1.bias"}


@pytest.mark.parametrize(
    ("kind", "tied"), [("tied heads", "heads.task1.weight"), ("tied to trunk", "shared.1.weight")]
)
def test_a_tied_parameter_is_shared_and_listed_once(kind: str, tied: str) -> None:
    model = variant(kind)
    shared, heads = model.parameter_roles(names(3))
    everything = [p for group in (shared, *heads) for p in group]
    assert tied in _names_of(model, shared)
    assert len({id(p) for p in everything}) == len(everything) == len(list(model.parameters()))


def test_frozen_parameters_have_no_role() -> None:
    model = variant("frozen")
    shared, heads = model.parameter_roles(names(3))
    assert "shared.0.weight" not in _names_of(model, shared)
    assert heads[1] == []
    assert heads[0]
    assert heads[2]


def test_heads_of_other_objectives_are_left_out_and_the_order_is_the_callers() -> None:
    model = tiny_model(K=3)
    shared, heads = model.parameter_roles(["task20", "task1"])
    used = _names_of(model, shared) | _names_of(model, heads[0]) | _names_of(model, heads[1])
    assert not any(name.startswith("heads.task10.") for name in used)
    assert _names_of(model, heads[0]) == {"heads.task20.1.weight", "heads.task20.1.bias"}


def test_a_weight_tied_with_the_head_of_another_objective_stays_shared() -> None:
    weight = nn.Parameter(torch.zeros(5, 2))
    model = MultiTaskModel(trunk(), {"a": OwnWeight(weight), "b": OwnWeight(weight)})
    shared, (own,) = model.parameter_roles(["a"])
    assert "heads.a.weight" in _names_of(model, shared)
    assert _names_of(model, own) == {"heads.a.own.weight", "heads.a.own.bias"}


def test_a_parameter_beside_trunk_and_heads_is_shared() -> None:
    class Scaled(MultiTaskModel):
        def __init__(self) -> None:
            super().__init__(trunk(), {"a": nn.Linear(5, 2)})
            self.scale = nn.Parameter(torch.ones(()))

    model = Scaled()
    shared, _ = model.parameter_roles(["a"])
    assert "scale" in _names_of(model, shared)


def test_forward_runs_the_wanted_heads_only() -> None:
    model = tiny_model(K=3).eval()
    ran: list[str] = []
    for name, head in model.heads.items():
        head.register_forward_hook(lambda *_, name=name: ran.append(name))
    x = torch.zeros(2, 4).double()
    some = model(x, ["task10"])
    assert ran == ["task10"]
    everything = model(x)
    assert list(everything) == names(3)
    assert torch.equal(some["task10"], everything["task10"])
