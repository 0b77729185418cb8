"""Ways to share on any trunk in stages, and on every task that offers them."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtlbench import InputGroup, MultiTaskModel, Stepper
from mtlbench.cli.architectures import sizes
from mtlbench.engine.flat import FlatParameters
from mtlbench.engine.problem import BatchProblem
from mtlbench.errors import UsageError
from mtlbench.interfaces import Passes
from mtlbench.registry import SHARPNESS, TASKS, Spec
from mtlbench.runs.spec import build_task
from mtlbench.tasks._nets import attributes, deeplab, lenet, office, segnet, unet
from mtlbench.tasks._nets.attention import attention
from mtlbench.tasks._nets.branching import LTB, Branches
from mtlbench.tasks._nets.cross_stitch import CrossStitch, cross_stitch
from mtlbench.tasks._nets.experts import (
    BITS,
    ENTROPY,
    N_EXPERTS,
    N_OWN,
    N_SHARED,
    SELECTED,
    DSelectK,
    Mixture,
    Selection,
    cgc,
    mmoe,
)
from mtlbench.tasks._nets.mtan import mtan
from mtlbench.tasks._nets.ple import ple
from mtlbench.tasks._nets.sharing import SHARING
from mtlbench.tasks._nets.trunk import Trunk, vector_gate
from mtlbench.testing import assert_conforms, check, check_task
from mtlbench.testing.networks import JointlySquared, squared

EVERY = [*SHARING, "mtan", "mtan_deeplab"]
QUICK = [("flights", "ple"), ("flights", "dselect_k")]
NAMES = ("a", "b", "c")
WIDTHS = (6, 5, 4)


def trunk(stem: nn.Module | None = None, names: Sequence[str] = NAMES, dropout: float = 0) -> Trunk:
    return Trunk(
        nn.Identity() if stem is None else stem,
        lambda: [
            nn.Sequential(nn.Linear(6, 5), nn.Dropout(dropout)),
            nn.Sequential(nn.Tanh(), nn.Linear(5, 4)),
        ],
        lambda stage, n: vector_gate(WIDTHS[stage], n),
        {name: nn.Linear(4, 1) for name in names},
    )


def stem() -> nn.Module:
    return nn.Linear(6, 6)


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def part(module: nn.Module, *path: object) -> Any:
    return module.get_submodule(".".join(map(str, path)))


def reached(model: MultiTaskModel, name: str, x: Tensor) -> set[str]:
    """Parameters that have a gradient of one prediction."""
    model.zero_grad(set_to_none=True)
    model(x, [name])[name].sum().backward()
    return {key for key, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def problem_of(model: MultiTaskModel, x: Tensor, loss: Any = squared) -> BatchProblem:
    g = torch.Generator().manual_seed(1)
    names = list(model.heads)
    targets = {name: torch.randn(len(x), 1, generator=g) for name in names}
    flat = FlatParameters(model, names)
    return BatchProblem(
        model, flat, [InputGroup(x, targets)], names, loss, torch.Generator(), Passes()
    )


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(7, 6)


# ------------------------------------------------------------------------------------ cross-stitch
def test_features_are_mixed_behind_every_stage(x: Tensor) -> None:
    model = cross_stitch(trunk(stem()))
    shared = model.shared
    assert isinstance(shared, CrossStitch)
    for stitch in shared.stitches:
        torch.testing.assert_close(stitch.sum(1), torch.ones(3))
        torch.testing.assert_close(stitch.diagonal(), torch.full((3,), 0.9))
        nn.init.normal_(stitch)
    h = [shared.stem(x)] * 3
    for s, A in enumerate(shared.stitches):
        own = [part(shared, "columns", name, s)(h[k]) for k, name in enumerate(NAMES)]
        h = [sum((A[j, k] * own[k] for k in range(3)), torch.zeros(())) for j in range(3)]
    found = model(x)
    for j, name in enumerate(NAMES):
        torch.testing.assert_close(found[name], part(model.heads, name, 1)(h[j]))


@pytest.mark.parametrize("build", [cross_stitch, LTB])
def test_every_column_is_shared(build: Callable[[Trunk], MultiTaskModel], x: Tensor) -> None:
    model = build(trunk())
    shared, own = model.parameter_roles(NAMES)
    assert len(shared) == len(list(model.shared.parameters()))
    assert [sum(p.numel() for p in head) for head in own] == [5] * 3


def test_every_column_of_a_cross_stitch_acts_on_every_loss(x: Tensor) -> None:
    model = cross_stitch(trunk())
    names = {f"shared.{key}" for key, _ in model.shared.named_parameters()}
    assert names <= reached(model, "b", x)


@pytest.mark.parametrize("build", [cross_stitch, LTB])
def test_one_column_is_a_plain_network(build: Callable[[Trunk], MultiTaskModel], x: Tensor) -> None:
    model = build(trunk(names=["a"]))
    h = x
    for s in range(2):
        h = part(model.shared, "columns.a", s)(h)
    torch.testing.assert_close(model(x)["a"], part(model.heads, "a.1")(h))


# ------------------------------------------------------------------------------------ experts
@pytest.mark.parametrize(("n_shared", "n_own"), [(N_EXPERTS, 0), (N_SHARED, N_OWN)])
def test_gates_mix_experts(n_shared: int, n_own: int, x: Tensor) -> None:
    model = (cgc if n_own else mmoe)(trunk(stem()))
    z = part(model.shared, "stem")(x)
    found = model(x)
    for name, head in model.heads.items():
        assert isinstance(head, Mixture)
        every = [*part(model.shared, "experts").children(), *head.own]
        assert len(every) == n_shared + n_own
        exponents = head.gate(z).exp()
        mixed = sum((exponents[:, [e]] * f(z) for e, f in enumerate(every)), torch.zeros(()))
        torch.testing.assert_close(found[name], head.head(mixed / exponents.sum(1, keepdim=True)))


def test_a_gate_and_own_experts_are_of_their_head(x: Tensor) -> None:
    model = cgc(trunk(stem()))
    shared, own = model.parameter_roles(NAMES)
    assert len(shared) == len(list(model.shared.parameters()))
    gate, expert = 7 * (N_SHARED + N_OWN), count(trunk().whole())
    assert [sum(p.numel() for p in head) for head in own] == [gate + N_OWN * expert + 5] * 3
    found = reached(model, "b", x)
    assert {key.split(".")[1] for key in found if key.startswith("heads.")} == {"b"}
    assert any(key.startswith("heads.b.own") for key in found)
    assert any(key.startswith("shared.experts") for key in found)


# ------------------------------------------------------------------------------------ PLE
def test_ple_mixes_shared_and_own_experts_at_every_stage(x: Tensor) -> None:
    model = ple(trunk(stem()))
    z = part(model.shared, "stem")(x)
    found = model(x)
    for name in NAMES:
        h = z
        for s in range(2):
            own = part(model.shared, "own", name)
            experts = [*part(model.shared, "experts", s), *part(own, "experts", s)]
            assert len(experts) == N_SHARED + N_OWN
            e = part(own, "gates", s)(h).exp()
            h = torch.stack(
                [
                    sum((e[i, k] * f(h[i]) for k, f in enumerate(experts)), torch.zeros(()))
                    / e[i].sum()
                    for i in range(len(x))
                ]
            )
        torch.testing.assert_close(found[name], part(model.heads, name, 1)(h))


def test_own_parts_of_a_trunk_are_of_their_head(x: Tensor) -> None:
    model = copy.deepcopy(ple(trunk(stem())))  # a copy's roles are those of its own parts
    shared, own = model.parameter_roles(["c", "a"])
    expected = [*part(model.shared, "stem").parameters()]
    expected += part(model.shared, "experts").parameters()
    assert list(map(id, shared)) == list(map(id, expected))
    for name, params in zip(("c", "a"), own, strict=True):
        of_it = [*part(model.shared, "own", name).parameters(), *model.heads[name].parameters()]
        assert list(map(id, params)) == list(map(id, of_it))
    assert {k.split(".")[2] for k in reached(model, "b", x) if k.startswith("shared.own")} == {"b"}
    heads = dict(model.heads.items())
    tied = MultiTaskModel(model.shared, heads, {"a": part(model.shared, "stem")})
    assert len(tied.parameter_roles(["a"])[1][0]) == 2 + 2
    with pytest.raises(UsageError, match="a part of the trunk for 'd', which is no head"):
        MultiTaskModel(model.shared, heads, {"d": nn.Identity()})


def test_a_pass_through_own_parts_of_the_trunk_counts_as_one_of_the_trunk(x: Tensor) -> None:
    problem = problem_of(ple(trunk()), x)
    view = problem.view()
    gramian = view.gramian("representation")
    assert (problem.passes.backward, problem.passes.head_backward) == (3, 0)
    torch.testing.assert_close(gramian, gramian.diagonal().diag())  # features are a task's own
    update, rows = view.combine(torch.ones(3)), problem.view()
    torch.testing.assert_close(update.shared, rows.jacobian().sum(0))
    for mine, theirs in zip(update.heads, rows.head_grads(), strict=True):
        torch.testing.assert_close(mine, theirs)


# ------------------------------------------------------------------------------------ DSelect-k
def _smooth_step(t: float) -> float:
    return 0.0 if t <= -0.5 else 1.0 if t >= 0.5 else -2 * t**3 + 1.5 * t + 0.5


def _choices(z: Sequence[float]) -> list[list[float]]:
    """Shares of the experts in each of the choices, number by number."""
    rows = []
    for i in range(SELECTED):
        bits = [_smooth_step(t) for t in z[i * BITS : (i + 1) * BITS]]
        row = []
        for e in range(2**BITS):
            written = f"{e:0{BITS}b}"
            row.append(
                math.prod(s if b == "1" else 1 - s for s, b in zip(bits, written, strict=True))
            )
        rows.append(row)
    return rows


@torch.no_grad()
def test_dselect_k_selects_experts_and_is_penalised_for_their_entropy(x: Tensor) -> None:
    model = DSelectK(trunk(stem()))
    z = part(model.shared, "stem")(x)
    for name in NAMES:
        part(model.heads, name, "selector.z.1").weight.data.normal_(std=0.3)
    experts = [f(z) for f in part(model.shared, "experts").children()]
    assert len(experts) == 2**BITS
    found, features = model(x), model.shared(x)
    for name in NAMES:
        head = model.heads[name]
        assert isinstance(head, Selection)
        mixed, entropy = [], 0.0
        for i in range(len(x)):
            chosen = _choices(head.selector.z(z)[i].tolist())
            w = head.selector.w(z)[i].exp()
            shares = [
                sum(float(w[c] / w.sum()) * chosen[c][e] for c in range(SELECTED))
                for e in range(2**BITS)
            ]
            assert abs(sum(shares) - 1) < 1e-5
            pairs = zip(shares, experts, strict=True)
            mixed.append(sum((s * f[i] for s, f in pairs), torch.zeros(())))
            entropy -= sum(q * math.log(q + 1e-6) for row in chosen for q in row)
        torch.testing.assert_close(found[name], head.head(torch.stack(mixed)))
        penalty = model.penalty(features, name)
        assert float(penalty) == pytest.approx(ENTROPY * entropy / len(x), rel=1e-4)


@torch.no_grad()
def test_a_saturated_selector_uses_no_more_than_k_experts(x: Tensor) -> None:
    model = DSelectK(trunk())
    selector = part(model.heads, "a.selector")
    selector.z[1].bias.data.copy_(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    selector.z[1].weight.data.zero_()
    assert selector(x)[0].nonzero().flatten().tolist() == [1, 2]
    penalty = model.penalty(model.shared(x), "a")
    assert float(penalty) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("loss", [squared, JointlySquared()])
def test_a_penalty_is_a_part_of_its_own_loss_alone(loss: Any, x: Tensor) -> None:
    class Penalised(MultiTaskModel):
        def penalty(self, features: Any, objective: str) -> Tensor | None:
            if objective == "b":
                return None
            weight = self.heads[objective].get_parameter("weight")
            penalty: Tensor = 3 * features.square().mean() + weight.square().sum()
            return penalty

    torch.manual_seed(0)
    plain = MultiTaskModel(nn.Linear(6, 4), {name: nn.Linear(4, 1) for name in NAMES})
    model = Penalised(plain.shared, dict(plain.heads.items()))
    without, problem = problem_of(copy.deepcopy(plain), x, loss), problem_of(model, x, loss)
    h = model.shared(x)
    extra = [model.penalty(h, name) for name in NAMES]
    flat = problem.flat
    view, base = problem.view(), without.view()
    values = [0.0 if e is None else e.item() for e in extra]
    torch.testing.assert_close(view.losses - base.losses, torch.tensor(values))
    J, heads = view.jacobian() - base.jacobian(), view.head_grads()
    for k, e in enumerate(extra):
        if e is None:
            assert not J[k].any()
            continue
        own = flat.head_params[k]
        grads = torch.autograd.grad(
            e, [*flat.shared_params, *own], retain_graph=True, materialize_grads=True
        )
        torch.testing.assert_close(J[k], torch.cat([g.flatten() for g in grads[:2]]))
        found = heads[k] - base.head_grads()[k]
        torch.testing.assert_close(found, torch.cat([g.flatten() for g in grads[2:]]))
    assert vars(problem.passes) == vars(without.passes)
    torch.testing.assert_close(problem.losses(["c"]), problem.losses()[2:])


# ------------------------------------------------------------------------------------ LTB
def test_ltb_follows_the_likeliest_column_in_evaluation(x: Tensor) -> None:
    model = LTB(trunk(stem())).eval()
    (alpha,) = model.shared.get_submodule("alpha").parameters()
    alpha.data.copy_(torch.tensor([[0.0, 1, 0], [0, 0, 2], [3, 0, 0]]))
    z, found = part(model.shared, "stem")(x), model(x)
    for name, followed in zip(NAMES, ("b", "c", "a"), strict=True):
        h = part(model.shared, "columns", followed, 0)(z)
        expected = part(model.heads, name, 1)(part(model.shared, "columns", name, 1)(h))
        torch.testing.assert_close(found[name], expected)


def test_ltb_draws_one_column_and_learns_by_the_softmax() -> None:
    branches = Branches(trunk())
    (alpha,) = branches.alpha
    alpha.data.normal_()
    branches.temperature.fill_(0.7)
    torch.manual_seed(3)
    chosen = branches.choices(alpha)
    torch.testing.assert_close(chosen.sum(1), torch.ones(3))
    assert sorted(set(chosen.flatten().round(decimals=5).abs().tolist())) == [0, 1]
    v = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    (grad,) = torch.autograd.grad((v * chosen).sum(), alpha)
    torch.manual_seed(3)
    noise = -torch.empty(3, 3).exponential_().log()
    soft = ((alpha + noise) / 0.7).softmax(1)
    assert soft.argmax(1).tolist() == chosen.argmax(1).tolist()
    torch.testing.assert_close(grad, torch.autograd.grad((v * soft).sum(), alpha)[0])


def test_ltb_anneals_and_begins_with_all_columns(x: Tensor) -> None:
    model = LTB(trunk())
    (alpha,) = model.shared.get_submodule("alpha").parameters()
    model.begin_epoch(1, 200)
    for _ in range(2):  # training and evaluation alike
        assert torch.equal(part(model, "shared").choices(alpha), torch.ones(3, 3))
        model.eval()
    model.begin_epoch(24, 200)
    state = model.state_dict()
    assert float(state["shared.temperature"]) == pytest.approx(2.0)
    assert not state["shared.warm_up"]


def test_all_passes_of_a_step_branch_alike(x: Tensor) -> None:
    problem = problem_of(LTB(trunk(dropout=0.5)), x)
    first = problem.losses()
    for _ in range(3):
        torch.testing.assert_close(problem.losses(), first)
        torch.testing.assert_close(problem.losses(["b"]), first[1:2])


# ------------------------------------------------------------------------------------ parts
def _residual() -> MultiTaskModel:
    from torchvision.models.resnet import BasicBlock

    channels = (2, 2, 3, 4)
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(3, 2, 3),
        "bn1": nn.BatchNorm2d(2),
        "relu": nn.ReLU(),
        "maxpool": nn.MaxPool2d(2),
    }
    for scale, (n, m) in enumerate(pairwise((*channels, 8)), start=1):
        down = nn.Conv2d(n, m, 1, stride=2)
        layers[f"layer{scale}"] = nn.Sequential(BasicBlock(n, m, 2, down), BasicBlock(m, m))
    return attention(layers, channels, {name: Mean() for name in NAMES})


class Mean(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((1, 2, 3)).unsqueeze(1)


PARTED: dict[str, tuple[Callable[[], MultiTaskModel], Callable[[MultiTaskModel], Any], Any]] = {
    "ple": (
        lambda: ple(trunk(dropout=0.5)),
        lambda m: m.shared.get_submodule("own").named_children(),
        (7, 6),
    ),
    "mtan": (
        lambda: mtan(dict.fromkeys(NAMES, 1), {n: Mean() for n in NAMES}, filters=(3, 4)),
        lambda m: m.shared.get_submodule("paths").named_children(),
        (2, 3, 8, 8),
    ),
    "mtan on a residual network": (
        lambda: _residual(),
        lambda m: (
            (name, masks.get_submodule("0"))
            for name, masks in m.shared.get_submodule("own").named_children()
        ),
        (2, 3, 32, 32),
    ),
}


@pytest.mark.parametrize("name", PARTED)
def test_a_pass_runs_the_parts_of_its_own_tasks_alone(name: str) -> None:
    build, parts, shape = PARTED[name]
    torch.manual_seed(0)
    model, inputs = build(), torch.randn(shape)
    ran: list[str] = []
    wanted: list[list[str]] = []
    model.shared.register_forward_pre_hook(lambda _, args: wanted.append(list(args[1])))
    for task, module in parts(model):
        module.register_forward_hook(lambda *_, task=task: ran.append(task))
    targets = {task: torch.randn(len(inputs), 1) for task in NAMES}
    per_task = 0
    wrappers = SHARPNESS.names() if name == "ple" else ["samo", "fmtl"]
    for wrapper in wrappers:
        stepper = Stepper(model, torch.optim.SGD(model.parameters(), 0.01), "ls", wrapper)
        report = stepper.step(InputGroup(inputs, targets), squared)
        assert not report.skipped
        per_task += sum(len(names) == 1 for names in wanted)
        assert len(wanted) == stepper.passes.forward
        assert Counter(ran) == Counter(task for names in wanted for task in names)
        ran.clear()
        wanted.clear()
    assert per_task >= 2 * len(NAMES)


def test_a_pass_of_one_task_draws_what_the_pass_of_all_drew_for_it(x: Tensor) -> None:
    problem = problem_of(ple(trunk(dropout=0.5)), x)
    first = problem.losses()
    for k, name in enumerate(NAMES):
        torch.testing.assert_close(problem.losses([name]), first[k : k + 1])
    assert not torch.equal(problem_of(ple(trunk(dropout=0.5)), x).losses(), first)


# ------------------------------------------------------------------------------------ trunks
OUTPUTS = {"segmentation": 4, "depth": 1}
MAPS = (2, 3, 34, 46)
PAIRS: dict[str, tuple[Callable[[], MultiTaskModel], Callable[[], Trunk], Any]] = {
    "lenet": (
        lambda: lenet.lenet(NAMES, 3, 5),
        lambda: lenet.trunk(NAMES, 3, 5),
        (2, 1, 28, 28),
    ),
    "cnn": (
        lambda: office.cnn(NAMES, 3, width=8),
        lambda: office.cnn_trunk(NAMES, 3, width=8),
        (2, 3, 32, 32),
    ),
    "strided": (
        lambda: attributes.strided(NAMES, 16, 4, 5),
        lambda: attributes.strided_trunk(NAMES, 16, 4, 5),
        (2, 3, 16, 16),
    ),
    "unet": (
        lambda: unet.unet(OUTPUTS, width=4),
        lambda: unet.unet_trunk(OUTPUTS, width=4),
        MAPS,
    ),
    "segnet": (
        lambda: segnet.segnet(OUTPUTS, filters=(3, 4, 5)),
        lambda: segnet.segnet_trunk(OUTPUTS, filters=(3, 4, 5)),
        MAPS,
    ),
}
SLOW_PAIRS: dict[str, tuple[Callable[[], MultiTaskModel], Callable[[], Trunk], Any]] = {
    "deep": (
        lambda: attributes.deep(NAMES),
        lambda: attributes.deep_trunk(NAMES),
        (2, 3, 16, 16),
    ),
    "resnet18": (
        lambda: office.resnet18(NAMES, 3),
        lambda: office.resnet18_trunk(NAMES, 3),
        (2, 3, 32, 32),
    ),
    "deeplab": (
        lambda: deeplab.deeplab(OUTPUTS, width=4),
        lambda: deeplab.deeplab_trunk(OUTPUTS, width=4),
        MAPS,
    ),
}
EVERY_PAIR = [
    *PAIRS,
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_PAIRS),
]


@pytest.mark.parametrize("name", EVERY_PAIR)
def test_the_stages_of_a_trunk_are_the_trunk_and_all_ways_to_share_take_it(name: str) -> None:
    hard, make, shape = (PAIRS | SLOW_PAIRS)[name]
    torch.manual_seed(0)
    model, inputs, of = hard().eval(), torch.randn(shape), make()
    whole = of.whole().eval()
    mine = dict(whole.named_parameters())
    theirs = list(model.shared.parameters())
    if name == "segnet":  # its parameters lie in another order
        by_shape = sorted(model.shared.named_parameters(), key=lambda kv: _order(kv[0]))
        theirs = [p for _, p in by_shape]
    if name == "unet":
        by_shape = sorted(model.shared.named_parameters(), key=lambda kv: _unet_order(kv[0]))
        theirs = [p for _, p in by_shape]
    for p, q in zip(mine.values(), theirs, strict=True):
        p.data.copy_(q.data)
    expected, found = model.shared(inputs), whole(inputs)
    torch.testing.assert_close(found, expected)
    for arch, share in SHARING.items():
        shared = share(make())
        first, *_ = shared.heads
        predictions = shared(inputs)
        sum(p.square().mean() for p in predictions.values()).backward()
        params, _ = shared.parameter_roles(list(shared.heads))
        assert all(p.grad is not None for p in params), arch
        assert predictions[first].shape == model(inputs)[first].shape, arch


def _order(name: str) -> tuple[int, int, int]:
    """Where a parameter of SegNet comes in its stages."""
    kind, index, *_ = name.split(".")
    back = kind == "decoders"
    return int(back), -int(index) if back else int(index), int(kind == "encoders")


def _unet_order(name: str) -> tuple[bool, int, bool]:
    """Where a parameter of the U-Net comes in its stages."""
    kind, index, *_ = name.split(".")
    return kind != "down", int(index), kind == "up"


# ------------------------------------------------------------------------------------ on the tasks
CELLS = [
    (name, arch)
    for name in TASKS.names()
    for arch in TASKS.get(name).info.architectures
    if arch in EVERY
]


def test_who_offers_them() -> None:
    assert set(CELLS) >= {(task, arch) for task in TASKS.names() for arch in SHARING}


@pytest.mark.parametrize(("task", "arch"), QUICK)
def test_tasks_conform(task: str, arch: str) -> None:
    assert_conforms(task, architecture=arch)


@pytest.mark.timeout(900)
@pytest.mark.slow
@pytest.mark.parametrize(("task", "arch"), [cell for cell in CELLS if cell not in QUICK])
def test_other_tasks_conform(task: str, arch: str) -> None:
    assert_conforms(task, architecture=arch)


def test_the_kit_refuses_what_a_task_has_not() -> None:
    with pytest.raises(UsageError, match="multimnist has no architecture 'mlp'; valid: lenet, "):
        check_task("multimnist", architecture="mlp")
    with pytest.raises(UsageError, match="method 'ls' has no architectures"):
        check("ls", architecture="mlp")


def test_sizes_are_those_of_the_networks() -> None:
    task, _ = build_task(Spec("multimnist"), None, None)
    found = list(sizes(task))
    assert [arch for arch, *_ in found] == ["lenet", *SHARING]
    one = lenet.lenet(["left"], 10, 50)
    trunk_size, head = count(one.shared), count(one.heads)
    by_name = {arch: own for arch, *own in found}
    assert by_name["lenet"] == [trunk_size, 2 * head]
    assert by_name["cross_stitch"] == [2 * trunk_size + 3 * 4, 2 * head]
    assert by_name["ltb"] == [2 * trunk_size + 2 * 4, 2 * head]
    gate = partial(int.__mul__, 784 + 1)
    assert by_name["mmoe"] == [3 * trunk_size, 2 * (head + gate(3))]
    assert by_name["cgc"] == [2 * trunk_size, 2 * (head + gate(3) + trunk_size)]
    assert by_name["dselect_k"] == [4 * trunk_size, 2 * (head + gate(2 * 2 + 2))]
    gates = 3 * (785 + 10 * 12 * 12 + 1 + 20 * 4 * 4 + 1)
    assert by_name["ple"] == [2 * trunk_size, 2 * (head + gates + trunk_size)]
