"""The Gramian in pieces: against rows of a plain Jacobian, on graphs of every kind."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mtlbench.engine import cuts, stream
from mtlbench.engine.stream import NotStreamableError, Streamer
from mtlbench.errors import UsageError
from mtlbench.registry import METHODS as REGISTERED
from mtlbench.registry import SHARPNESS
from mtlbench.tasks._nets.mtan import mtan
from mtlbench.tasks._nets.nnconv import MPNN, MoleculeBatch, Padded
from mtlbench.tasks._nets.segnet import segnet
from mtlbench.tasks._nets.unet import unet
from mtlbench.testing.networks import TRUNK, traversals
from tests.models import (
    METHODS,
    MakeBatch,
    assert_close,
    make_problem,
    make_stepper,
    mse,
    multi_batch,
    passes_of_a_step,
    single_batch,
    tiny_model,
)

WIDTH, K = 12, 3
OUTPUTS = {"a": 3, "b": 1, "c": 2}


@dataclass
class Network:
    """Losses, and what they are differentiated by."""

    losses: Sequence[Tensor]
    shared: list[nn.Parameter]
    heads: list[list[nn.Parameter]]


class Squared(torch.autograd.Function):
    """A function of one's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        out: Tensor = 2 * x * grads[0]
        return out


def _inputs() -> Tensor:
    return torch.randn(4, WIDTH)


def _linear() -> nn.Linear:
    return nn.Linear(WIDTH, WIDTH)


def _with_heads(features: Tensor, *trunk: nn.Module) -> Network:
    heads = [nn.Sequential(_linear(), nn.Tanh(), nn.Linear(WIDTH, 1)) for _ in range(K)]
    shared = [p for module in trunk for p in module.parameters()]
    losses = [head(features).square().mean() for head in heads]
    return Network(losses, shared, [list(head.parameters()) for head in heads])


def _layers(n: int = 4) -> nn.Sequential:
    return nn.Sequential(*[m for _ in range(n) for m in (_linear(), nn.Tanh())])


def _chain() -> Network:
    trunk = _layers()
    return _with_heads(trunk(_inputs()), trunk)


def _tied() -> Network:
    again = _linear()
    trunk = nn.Sequential(again, nn.Tanh(), _linear(), nn.Tanh(), again, nn.Tanh(), _linear())
    return _with_heads(trunk(_inputs()), trunk)


def _skips() -> Network:
    """Edges that pass several cuts, beside edges that lead to them."""
    a, b, c, d = (_linear() for _ in range(4))
    x = a(_inputs())
    y = b(x.tanh()) + x
    z = c(y.tanh()) + y + x
    return _with_heads(d(z) + x * y, a, b, c, d)


def _gru() -> Network:
    cell, x = nn.GRUCell(WIDTH, WIDTH), _inputs()
    h = x
    for _ in range(3):
        h = cell(x, h)
    return _with_heads(h, cell)


def _lstm() -> Network:
    lstm = nn.LSTM(WIDTH, WIDTH, num_layers=2, batch_first=True)
    return _with_heads(lstm(torch.randn(4, 5, WIDTH))[0], lstm)


def _dense(build: Callable[..., Any], **options: Any) -> Network:
    model = build(OUTPUTS, **options)
    losses = [v.square().mean() for v in model(torch.randn(2, 3, 32, 32)).values()]
    return Network(losses, *model.parameter_roles(list(OUTPUTS)))


def _messages() -> Network:
    trunk = MPNN(WIDTH, 16)
    graphs = [
        Padded(torch.randn(4, n, 11), torch.randn(4, n, n, 5), torch.ones(4, n, dtype=torch.bool))
        for n in (5, 8)
    ]
    return _with_heads(trunk(MoleculeBatch(graphs)), trunk)


def _in_place() -> Network:
    first, second = _linear(), _linear()
    x = first(_inputs())
    x[:, :5].mul_(2)
    x = nn.functional.dropout(x.relu_())
    y = second(x)
    y.add_(x)
    return _with_heads(y, first, second)


def _checkpoint(*, use_reentrant: bool = False) -> Network:
    trunk = nn.Sequential(*(_layers(2) for _ in range(3)))
    x = _inputs().requires_grad_()
    for block in trunk:
        x = checkpoint(block, x, use_reentrant=use_reentrant)
    return _with_heads(x, trunk)


def _own_function() -> Network:
    a, b, c = (_linear() for _ in range(3))
    x = a(_inputs())
    y = Squared.apply(b(x))
    return _with_heads(c(y) + x + y, a, b, c)


def _inputs_of_their_own() -> Network:
    trunk, heads = _layers(), [nn.Linear(WIDTH, 1) for _ in range(K)]
    losses = [head(trunk(_inputs())).square().mean() for head in heads]
    return Network(losses, list(trunk.parameters()), [list(h.parameters()) for h in heads])


def _odd_ones() -> Network:
    """A shared layer of two tasks alone, one of none, a loss without a graph and one twice."""
    first, second, idle, head = _linear(), _linear(), _linear(), nn.Linear(WIDTH, 1)
    x = first(_inputs()).tanh()
    seen = head(second(x)).square().mean()
    losses = [x.square().mean(), seen, torch.tensor(1.0), seen, seen.exp()]
    shared = [p for m in (first, second, idle, head) for p in m.parameters()]
    return Network(losses, shared, [[] for _ in losses])


NETWORKS: dict[str, Callable[[], Network]] = {
    "chain": _chain,
    "tied": _tied,
    "skips": _skips,
    "gru": _gru,
    "lstm": _lstm,
    "unet": lambda: _dense(unet),
    "segnet": lambda: _dense(segnet, filters=(4, 8, 8, 8, 8)),
    "mtan": lambda: _dense(mtan, filters=(4, 8, 8, 8, 8)),
    "messages": _messages,
    "in place": _in_place,
    "checkpoint": _checkpoint,
    "a function of one's own": _own_function,
    "inputs of their own": _inputs_of_their_own,
    "odd ones": _odd_ones,
}


def _plain(net: Network) -> tuple[Tensor, list[list[Tensor]]]:
    """The Gramian, and each head's gradients."""
    rows, heads = [], []
    for loss, head in zip(net.losses, net.heads, strict=True):
        params = [*net.shared, *head]
        grads = [torch.zeros_like(p) for p in params]
        if loss.requires_grad:
            grads = [*torch.autograd.grad(loss, params, retain_graph=True, materialize_grads=True)]
        n = len(net.shared)
        rows.append(torch.cat([g.flatten() for g in grads[:n]]).double())
        heads.append(grads[n:])
    J = torch.stack(rows)
    return J @ J.T, heads


def _difference(found: Tensor, expected: Tensor) -> float:
    norms = expected.diagonal().sqrt()
    scale = (norms[:, None] * norms).clamp_min(1e-300)
    return float(((found - expected).abs() / scale).max())


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many segments as make the least, on networks of no size."""
    monkeypatch.setattr(cuts, "FLOOR", 0)
    monkeypatch.setattr(cuts, "SLACK", 1.0)
    monkeypatch.setattr(stream, "GAIN", float("inf"))


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch, in_pieces: None) -> None:
    """A cut between any two nodes."""

    def cut(graph: cuts.Graph, sizes: Any) -> cuts.Plan:
        return cuts.Plan(False, tuple(range(len(graph.order(by_depth=False)) + 1)), 0)

    monkeypatch.setattr(stream, "plan", cut)


def _agree(net: Network, bound: float) -> None:
    streamer, (expected, own) = Streamer(net.shared, "streamed"), _plain(net)
    for _ in range(2):  # the graph stays usable, as does the plan
        heads = [[torch.zeros_like(p) for p in head] for head in net.heads]
        G = streamer.stream(net.losses, net.heads).gramian(heads)
        assert G.dtype == torch.float64
        assert _difference(G, expected) <= bound
        for mine, theirs in zip(heads, own, strict=True):
            torch.testing.assert_close(mine, theirs)


SLOW = {"messages", "mtan", "unet", "segnet", "checkpoint"}


@pytest.mark.parametrize(
    ("network", "cut"),
    [
        pytest.param(n, cut, marks=pytest.mark.slow if n in SLOW and cut == "everywhere" else ())
        for n in NETWORKS
        for cut in ("in_pieces", "everywhere")
    ],
)
def test_the_gramian_is_that_of_the_rows(
    network: str, cut: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(cut)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        _agree(NETWORKS[network](), 5e-15)
        torch.set_default_dtype(torch.float32)
        _agree(NETWORKS[network](), 1e-6)
    finally:
        torch.set_default_dtype(before)


def test_a_reentrant_checkpoint_hides_parameters() -> None:
    net = _checkpoint(use_reentrant=True)
    with pytest.raises(NotStreamableError, match="reentrant checkpoint"):
        Streamer(net.shared, "streamed").stream(net.losses, net.heads)


def test_what_cannot_be_cut_is_not_worth_it() -> None:
    net = _gru()
    with pytest.raises(NotStreamableError, match="in pieces it would be 100% of the whole"):
        Streamer(net.shared, "streamed").stream(net.losses, net.heads)


# ---------------------------------------------------------------------------------- within a step
GRAMIAN = [name for name in METHODS if REGISTERED.get(name).info.streams]
STREAMED = ("none", "sam", "esam", "fsam")
"""Wrappers with one point for all tasks, of whose gradients they ask for no rows."""
CELLS = [
    pytest.param(m, w, marks=() if "mgda" in m or w == "none" else pytest.mark.slow)
    for m in ("mgda", "fairgrad:heads=unit", "imtl_g")
    for w in SHARPNESS.names()
]


@pytest.mark.parametrize(("method", "sharpness"), CELLS)
@pytest.mark.parametrize("make_batch", [single_batch, multi_batch])
def test_a_step_is_the_same_and_costs_what_is_declared(
    method: str, sharpness: str, make_batch: MakeBatch, everywhere: None
) -> None:
    """Gradients at points of their own stay whole, as do those of a wrapper that reads rows."""
    whole, streamed = (
        make_stepper(tiny_model(), method, sharpness, rows=rows) for rows in ("whole", "streamed")
    )
    noted = traversals(streamed.model)
    for seed in range(2):
        batch, alone = make_batch(seed=seed), streamed.methods[0].info
        declared = [
            astuple(streamed.wrapper.passes(3, alone.passes(3, streamed=kind)))
            for kind in (True, False)
        ]
        torch.manual_seed(seed)
        passes_of_a_step(whole, batch)
        torch.manual_seed(seed)
        noted.clear()
        found = passes_of_a_step(streamed, batch)
        assert noted[TRUNK] == found[1]
        if make_batch is single_batch:
            assert found in declared[: 1 if sharpness in STREAMED else 2]
        for rows in (whole.flat.grad, streamed.flat.grad):
            assert rows.buffer.abs().sum() > 0
        torch.testing.assert_close(
            streamed.flat.grad.buffer, whole.flat.grad.buffer, rtol=1e-9, atol=1e-12
        )
        if sharpness == "none" and make_batch is single_batch:
            assert found == (1, 4, 0)


def test_who_asks_for_rows_after_the_gramian_has_them(everywhere: None) -> None:
    torch.manual_seed(0)
    view = make_problem(make_stepper(tiny_model(), rows="streamed")).view()
    torch.manual_seed(0)
    plain = make_problem(tiny_model()).view()
    G, w = view.gramian(), torch.tensor([0.2, 0.3, 0.5]).double()
    first, second = view.combine(w, "unit"), view.combine(-w, "weighted")
    J = view.jacobian()
    assert_close(J, plain.jacobian(), 1e-12)
    assert_close(G, J @ J.T, 1e-12)
    assert_close(first.shared, w @ J, 1e-12)
    assert_close(second.shared, -w @ J, 1e-12)
    for k, own in enumerate(plain.head_grads()):
        assert_close(first.heads[k], own, 1e-12)
        assert_close(second.heads[k], -w[k] * own, 1e-12)


def test_the_jacobian_is_streamed_if_it_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    streamer = Streamer([nn.Parameter(torch.zeros(1 << 20))])
    assert not streamer.wanted(31, 1)
    assert streamer.wanted(32, 1)
    assert not streamer.wanted(32, 32)  # another pass for each would be twice the work
    monkeypatch.setattr(stream, "WHOLE_BELOW", (0, 8))
    assert not streamer.wanted(7, 1)
    assert not Streamer(streamer.shared, "whole").wanted(32, 1)
    assert Streamer(streamer.shared, "streamed").wanted(2, 32)


def test_why_a_jacobian_is_whole_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    stepper = make_stepper(tiny_model(), "mgda", rows="streamed")
    for _ in range(3):
        assert passes_of_a_step(stepper, single_batch()) == (1, 3, 0)
    (record,) = caplog.records
    assert "the Jacobian is kept whole: in pieces it would be 100% of the whole" in record.message


def test_a_copy_holds_rows_as_the_first_does() -> None:
    stepper = make_stepper(tiny_model(), "mgda", rows="whole")
    assert copy.deepcopy(stepper).flat.streamer.mode == "whole"


def test_unknown_rows() -> None:
    with pytest.raises(UsageError, match="unknown rows 'some'; valid: auto, whole, streamed"):
        make_stepper(tiny_model(), "mgda", rows="some")


def test_every_method_that_streams_asks_for_no_rows(everywhere: None) -> None:
    for method in GRAMIAN:
        stepper = make_stepper(tiny_model(), method, rows="streamed")
        stepper.step(single_batch(), mse)
        assert stepper.passes.backward == stepper.methods[0].info.passes(3, streamed=True).backward
