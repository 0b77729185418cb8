"""Ways to share: cross-stitch networks and mixtures of experts, on every task that offers them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from mtlbench import MultiTaskModel
from mtlbench.errors import UsageError
from mtlbench.registry import TASKS
from mtlbench.tasks._nets.cross_stitch import CrossStitch, cross_stitch
from mtlbench.tasks._nets.experts import N_EXPERTS, N_OWN, N_SHARED, Mixture, cgc, mmoe
from mtlbench.testing import check_task

SHARING = ("cross_stitch", "mmoe", "cgc")
QUICK = [("flights", "cross_stitch"), ("flights", "cgc")]
NAMES = ("a", "b", "c")
WIDTH, FEATURES = 6, 4


def heads(names: Sequence[str] = NAMES) -> dict[str, nn.Module]:
    return {name: nn.Linear(FEATURES, 1) for name in names}


def stages() -> list[nn.Module]:
    return [nn.Linear(WIDTH, 5), nn.Sequential(nn.ReLU(), nn.Linear(5, FEATURES))]


def expert() -> nn.Module:
    return nn.Sequential(*stages())


def reached(model: MultiTaskModel, name: str, x: Tensor) -> set[str]:
    """Parameters that have a gradient of one prediction."""
    model.zero_grad(set_to_none=True)
    model(x, [name])[name].sum().backward()
    return {key for key, p in model.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(7, WIDTH)


# ------------------------------------------------------------------------------------ cross-stitch
def test_features_are_mixed_behind_every_stage(x: Tensor) -> None:
    stem = nn.Linear(WIDTH, WIDTH)
    model = cross_stitch(stem, stages, heads())
    trunk = model.shared
    assert isinstance(trunk, CrossStitch)
    for stitch in trunk.stitches:
        torch.testing.assert_close(stitch.sum(1), torch.ones(3))
        torch.testing.assert_close(stitch.diagonal(), torch.full((3,), 0.9))
        nn.init.normal_(stitch)
    h = [stem(x)] * 3
    for s, A in enumerate(trunk.stitches):
        own = [trunk.get_submodule(f"columns.{name}.{s}")(h[k]) for k, name in enumerate(NAMES)]
        h = [sum((A[j, k] * own[k] for k in range(3)), torch.zeros(())) for j in range(3)]
    found = model(x)
    for j, name in enumerate(NAMES):
        expected = model.heads[name].get_submodule("1")(h[j])
        torch.testing.assert_close(found[name], expected)


def test_every_column_is_shared(x: Tensor) -> None:
    model = cross_stitch(nn.Identity(), stages, heads())
    shared, own = model.parameter_roles(NAMES)
    assert len(shared) == len(list(model.shared.parameters()))
    assert [sum(p.numel() for p in head) for head in own] == [FEATURES + 1] * 3
    names = {f"shared.{key}" for key, _ in model.shared.named_parameters()}
    assert names <= reached(model, "b", x)


def test_one_column_is_a_plain_network(x: Tensor) -> None:
    model = cross_stitch(nn.Identity(), stages, heads(["a"]))
    h = x
    for s in range(2):
        h = model.shared.get_submodule(f"columns.a.{s}")(h)
    torch.testing.assert_close(model(x)["a"], model.heads["a"].get_submodule("1")(h))


# ------------------------------------------------------------------------------------ experts
@pytest.mark.parametrize(("n_shared", "n_own"), [(N_EXPERTS, 0), (N_SHARED, N_OWN)])
def test_gates_mix_experts(n_shared: int, n_own: int, x: Tensor) -> None:
    stem = nn.Linear(WIDTH, WIDTH)
    model = (cgc if n_own else mmoe)(stem, WIDTH, expert, heads())
    z = stem(x)
    found = model(x)
    for name, head in model.heads.items():
        assert isinstance(head, Mixture)
        every = [*model.shared.get_submodule("experts").children(), *head.own]
        assert len(every) == n_shared + n_own
        exponents = head.gate(z).exp()
        mixed = sum((exponents[:, [e]] * f(z) for e, f in enumerate(every)), torch.zeros(()))
        torch.testing.assert_close(found[name], head.head(mixed / exponents.sum(1, keepdim=True)))


def test_a_gate_and_own_experts_are_of_their_head(x: Tensor) -> None:
    model = cgc(nn.Linear(WIDTH, WIDTH), WIDTH, expert, heads())
    shared, own = model.parameter_roles(NAMES)
    assert len(shared) == len(list(model.shared.parameters()))
    sizes = [sum(p.numel() for p in head) for head in own]
    gate = (WIDTH + 1) * (N_SHARED + N_OWN)
    experts = N_OWN * sum(p.numel() for p in expert().parameters())
    assert sizes == [gate + experts + FEATURES + 1] * 3
    found = reached(model, "b", x)
    assert {key.split(".")[1] for key in found if key.startswith("heads.")} == {"b"}
    assert any(key.startswith("heads.b.own") for key in found)
    assert any(key.startswith("shared.experts") for key in found)


def test_a_pass_of_one_task_runs_its_gate_alone(x: Tensor) -> None:
    model = cgc(nn.Identity(), WIDTH, expert, heads())
    ran: list[str] = []
    for name, head in model.heads.items():
        for module in (head.get_submodule("gate"), head.get_submodule("own.0")):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    model(x, ["c"])
    assert ran == ["c", "c"]


# ------------------------------------------------------------------------------------ on the tasks
CELLS = [
    (name, arch)
    for name in TASKS.names()
    for arch in TASKS.get(name).info.architectures
    if arch in SHARING
]


def test_who_offers_them() -> None:
    assert set(CELLS) >= {(task, arch) for task in ("multimnist", "flights") for arch in SHARING}


@pytest.mark.parametrize(("task", "arch"), QUICK)
def test_tasks_conform(task: str, arch: str) -> None:
    assert [f for f in check_task(task, architecture=arch) if f.failed] == []


@pytest.mark.slow
@pytest.mark.parametrize(("task", "arch"), [cell for cell in CELLS if cell not in QUICK])
def test_other_tasks_conform(task: str, arch: str) -> None:
    assert [f for f in check_task(task, architecture=arch) if f.failed] == []


def test_the_kit_refuses_what_a_task_has_not() -> None:
    with pytest.raises(UsageError, match="multimnist has no architecture 'mlp'; valid: lenet, "):
        check_task("multimnist", architecture="mlp")
