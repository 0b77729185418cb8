"""Every option of every wrapper against the slow references, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mtlbench import MultiTaskModel, UsageError
from mtlbench.interfaces import Passes
from mtlbench.methods.sharpness.samo import chosen_spans
from mtlbench.registry import SHARPNESS
from tests.methods.sharpness.slow import (
    Slow,
    SlowESAM,
    SlowFMTL,
    SlowFriendlySAM,
    SlowGSAM,
    SlowLookSAM,
    SlowLSAM,
    SlowSAM,
    SlowSAMO,
    SlowWSAM,
)
from tests.models import (
    MakeBatch,
    make_stepper,
    mse,
    multi_batch,
    names,
    params_of,
    same,
    single_batch,
    tiny_model,
    variant,
)
from tests.reference import assert_follows_reference

LAST = [slice(0, 30), slice(42, 77)]  # the ends of the tiny trunk: see test_spans

CELLS: list[tuple[str, Callable[[], Slow]]] = [
    ("sam:adaptive=true,rho=0.3", lambda: SlowSAM("sam", rho=0.3, adaptive=True)),
    (
        "sam:adaptive=true,blocks=separate",
        lambda: SlowSAM("sam", blocks="separate", adaptive=True),
    ),
    ("lsam:rho=0.2", lambda: SlowLSAM("lsam", rho=0.2)),
    ("lsam:blocks=separate", lambda: SlowLSAM("lsam", blocks="separate")),
    ("lsam:adaptive=true,rho=0.3", lambda: SlowLSAM("lsam", rho=0.3, adaptive=True)),
    ("fmtl:adaptive=true,rho=0.3", lambda: SlowFMTL("fmtl", rho=0.3, adaptive=True)),
    ("fmtl:direct=true,rho=0.3", lambda: SlowFMTL("fmtl", rho=0.3, direct=True)),
    ("fmtl:flatness=reused", lambda: SlowFMTL("fmtl", flatness="reused")),
    ("fmtl:flatness=rescaled", lambda: SlowFMTL("fmtl", flatness="rescaled")),
    ("samo:adaptive=true,rho=0.3", lambda: SlowSAMO("samo", rho=0.3, adaptive=True)),
    ("samo:noise=shared", lambda: SlowSAMO("samo", noise="shared")),
    ("samo:difference=forward", lambda: SlowSAMO("samo", difference="forward")),
    (
        "samo:noise=shared,difference=forward",
        lambda: SlowSAMO("samo", noise="shared", difference="forward"),
    ),
    (
        "samo:noise=shared,difference=forward,probe=eval",
        lambda: SlowSAMO("samo", noise="shared", difference="forward", probe="eval"),
    ),
    ("samo:noise=shared,points=by-sign", lambda: SlowSAMO("samo", noise="shared")),
    (
        "samo:noise=shared,points=by-sign,normalize=global,difference=forward,adaptive=true",
        lambda: SlowSAMO(
            "samo", noise="shared", normalize="global", difference="forward", adaptive=True
        ),
    ),
    (
        "samo:noise=shared,points=by-sign,heads=false,probe=eval",
        lambda: SlowSAMO("samo", noise="shared", heads=False, probe="eval"),
    ),
    ("samo:normalize=global", lambda: SlowSAMO("samo", normalize="global")),
    ("samo:normalize=none,alpha=0.3", lambda: SlowSAMO("samo", normalize="none", alpha=0.3)),
    ("samo:layers=ends", lambda: SlowSAMO("samo", spans=LAST)),
    ("samo:layers=shared.0.*", lambda: SlowSAMO("samo", spans=LAST[:1])),
    ("samo:n_samples=3", lambda: SlowSAMO("samo", n_samples=3)),
    (
        "samo:n_samples=2,noise=shared,layers=ends",
        lambda: SlowSAMO("samo", n_samples=2, noise="shared", spans=LAST),
    ),
    ("samo:heads=false", lambda: SlowSAMO("samo", heads=False)),
    (
        "samo:alpha_rule=agreement,alpha=0.4,rho=0.3",
        lambda: SlowSAMO("samo", agreement=True, alpha=0.4, rho=0.3),
    ),
    (
        "samo:alpha_rule=agreement,n_samples=2,noise=shared,difference=forward",
        lambda: SlowSAMO("samo", agreement=True, n_samples=2, noise="shared", difference="forward"),
    ),
    ("looksam:every=2", lambda: SlowLookSAM("looksam")),
    ("looksam:every=1", lambda: SlowLookSAM("looksam", every=1)),
    (
        "looksam:every=3,alpha=0.4,adaptive=true",
        lambda: SlowLookSAM("looksam", every=3, look_alpha=0.4, adaptive=True),
    ),
    ("fsam:rho=0.3", lambda: SlowFriendlySAM("fsam", rho=0.3)),
    (
        "fsam:points=per-task,rho=0.3,sigma=0.7,lam=0.6",
        lambda: SlowFriendlySAM("fsam", rho=0.3, points="per-task", sigma=0.7, lam=0.6),
    ),
    (
        "fsam:blocks=separate,adaptive=true",
        lambda: SlowFriendlySAM("fsam", blocks="separate", adaptive=True),
    ),
    ("esam:rho=0.3", lambda: SlowESAM("esam", rho=0.3)),
    ("esam:points=per-task,beta=0.8", lambda: SlowESAM("esam", points="per-task", beta=0.8)),
    ("gsam:rho=0.3", lambda: SlowGSAM("gsam", rho=0.3)),
    (
        "gsam:points=per-task,rho=0.3,alpha=0.7",
        lambda: SlowGSAM("gsam", rho=0.3, points="per-task", gap=0.7),
    ),
    ("gsam:blocks=separate", lambda: SlowGSAM("gsam", blocks="separate")),
    (
        "gsam:blocks=separate,points=per-task,adaptive=true",
        lambda: SlowGSAM("gsam", blocks="separate", points="per-task", adaptive=True),
    ),
    ("wsam:rho=0.3", lambda: SlowWSAM("wsam", rho=0.3)),
    (
        "wsam:points=per-task,rho=0.3,gamma=0.7",
        lambda: SlowWSAM("wsam", rho=0.3, points="per-task", gamma=0.7),
    ),
    ("wsam:blocks=separate,gamma=0.5", lambda: SlowWSAM("wsam", blocks="separate", gamma=0.5)),
]
EVERY_CELL = pytest.mark.parametrize(("sharpness", "slow"), CELLS, ids=[text for text, _ in CELLS])


@EVERY_CELL
@pytest.mark.parametrize(
    ("method", "make_batch"),
    [("uw", single_batch), ("mgda", multi_batch), ("graddrop", single_batch)],
)
def test_options_follow_the_slow_reference(
    sharpness: str, slow: Callable[[], Slow], method: str, make_batch: MakeBatch
) -> None:
    if method == "graddrop" and "reused" in sharpness:
        pytest.skip("yields no weights")
    batches = [make_batch(seed=seed) for seed in range(4)]
    assert_follows_reference(tiny_model(), batches, method, sharpness, slow())


@EVERY_CELL
@pytest.mark.parametrize("kind", ["frozen", "tied heads", "tied to trunk", "unused", "multi-scale"])
def test_special_networks_are_left_as_they_were(
    sharpness: str, slow: Callable[[], Slow], kind: str
) -> None:
    if "shared.0" in sharpness:
        pytest.skip("names a layer of the plain network")
    stepper = make_stepper(variant(kind), "mgda", sharpness, lr=0.0)
    before = params_of(stepper.model)
    for _ in range(2):
        report = stepper.step(single_batch(), mse)
        assert not report.skipped
        assert same(params_of(stepper.model), before)
        assert torch.isfinite(stepper.flat.grad.buffer).all()


# ------------------------------------------------------------------------------------------ costs
# (forward, backward) of a step beyond (1, 1) of a loss-based method and (1, K) of a Gramian one
COSTS: dict[str, Callable[[int, bool], tuple[int, int]]] = {
    "none": lambda K, rows: (1, K if rows else 1),
    "sam": lambda K, rows: (2, 1 + K if rows else 2),
    "lsam": lambda K, rows: (1 + K, 2 * K),
    "fmtl": lambda K, rows: (1 + K, 2 * K if rows else 2 * K + 1),
    "fmtl:direct=true": lambda K, rows: (1 + K, 2 * K),
    "fmtl:flatness=reused": lambda K, rows: (1 + K, 2 * K if rows else 2 * K + 1),
    "fmtl:flatness=rescaled": lambda K, rows: (1 + K, 2 * K if rows else 2 * K + 1),
    "samo": lambda K, rows: (1 + 3 * K, 1 + K),
    "samo:noise=shared": lambda K, rows: (3 + K, 1 + K),
    "samo:noise=shared,difference=forward": lambda K, rows: (2 + K, 1 + K),
    "samo:noise=shared,difference=forward,probe=eval": lambda K, rows: (3 + K, 1 + K),
    "samo:difference=forward": lambda K, rows: (1 + 2 * K, 1 + K),
    "samo:n_samples=2": lambda K, rows: (1 + 5 * K, 1 + K),
    "samo:layers=ends": lambda K, rows: (1 + 3 * K, 1 + K),
    "looksam:every=1": lambda K, rows: (2, 1 + K if rows else 3),
    "fsam": lambda K, rows: (2, 1 + K if rows else 2),
    "fsam:points=per-task": lambda K, rows: (1 + K, 2 * K),
    "esam": lambda K, rows: (2, 1 + K if rows else 2),
    "esam:points=per-task": lambda K, rows: (1 + K, 2 * K),
    "gsam": lambda K, rows: (2, 1 + K if rows else 3),
    "gsam:points=per-task": lambda K, rows: (1 + K, 2 * K),
    "wsam": lambda K, rows: (2, 1 + 2 * K if rows else 3),
    "wsam:points=per-task": lambda K, rows: (1 + K, 2 * K if rows else 2 * K + 1),
}


@pytest.mark.parametrize("sharpness", COSTS)
@pytest.mark.parametrize(("method", "rows"), [("ls", False), ("mgda", True)])
@pytest.mark.parametrize("K", [2, 5, 11])
def test_costs(sharpness: str, method: str, rows: bool, K: int) -> None:
    stepper = make_stepper(tiny_model(K), method, sharpness)
    declared = stepper.wrapper.passes(K, stepper.methods[0].info.passes(K))
    stepper.step(single_batch(K), mse)
    assert stepper.passes == declared == Passes(*COSTS[sharpness](K, rows))


@pytest.mark.parametrize("method", ["ls", "mgda"])
def test_steps_between_cost_what_the_method_costs(method: str) -> None:
    stepper = make_stepper(tiny_model(), method, "looksam:every=3")
    own = stepper.methods[0].info.passes(3)
    for step in range(6):
        before = Passes(**vars(stepper.passes))
        declared = stepper.wrapper.passes(3, own)
        assert (declared == own) is bool(step % 3)
        stepper.step(single_batch(), mse)
        spent = stepper.passes
        assert spent.forward - before.forward == declared.forward
        assert spent.backward - before.backward == declared.backward


@pytest.mark.parametrize("sharpness", sorted([*COSTS, "samo:noise=shared,points=by-sign"]))
@pytest.mark.parametrize("method", ["ls", "famo"])
def test_no_rows_of_all_tasks_under_a_method_of_losses(sharpness: str, method: str) -> None:
    """And at most K + 3 vectors beyond the gradient, where rows of all tasks alone would be K."""
    if "rescaled" in sharpness:
        pytest.skip("needs the rows' size")
    if sharpness == "gsam:points=per-task":
        pytest.skip("changes every row")
    K = 5
    stepper = make_stepper(tiny_model(K), method, sharpness)
    for _ in range(2):
        stepper.step(single_batch(K), mse)
    assert set(stepper.flat._pool) == {1}
    assert len(stepper.flat._pool[1]) <= 4


# ------------------------------------------------------------------------------------------ layers
def test_spans() -> None:
    flat = make_stepper(tiny_model()).flat
    stops = torch.tensor(flat.layer_sizes).cumsum(0).tolist()
    layers = dict(zip(flat.layer_names, stops, strict=True))
    P = flat.shared.stop
    assert chosen_spans(flat, "all") == [slice(0, P)]
    assert chosen_spans(flat, "ends") == LAST
    assert LAST[-1].stop == P
    assert LAST[0].stop == layers["shared.0.bias"]
    assert chosen_spans(flat, "*") == [slice(0, P)]
    assert chosen_spans(flat, "shared.0.bias") == [slice(24, 30)]
    assert chosen_spans(flat, "shared.0.weight+shared.0.bias") == LAST[:1]


def test_an_unknown_layer_is_named() -> None:
    stepper = make_stepper(tiny_model(), "ls", "samo:layers=shared.0.*+nosuch")
    with pytest.raises(UsageError, match=r"no layer is like 'nosuch'; layers: shared\.0\.weight"):
        stepper.step(single_batch(), mse)


def test_a_network_without_shared_parameters() -> None:
    torch.manual_seed(0)
    heads = {name: nn.Linear(4, 2) for name in names(3)}
    for sharpness in SHARPNESS.names():
        model = MultiTaskModel(nn.Identity(), heads).double()
        report = make_stepper(model, "ls", sharpness).step(single_batch(), mse)
        assert not report.skipped


# --------------------------------------------------------------------------------------- requests
def test_own_points_refuse_the_representation() -> None:
    refused = [n for n in SHARPNESS.names() if not SHARPNESS.build(n).common_point]
    assert refused == ["fmtl", "lsam", "samo", "wsam"]
    for name in SHARPNESS.names():
        if name in refused:
            with pytest.raises(UsageError, match=f"mgda:at=representation .* {name} takes"):
                make_stepper(tiny_model(), "mgda:at=representation", name)
        else:
            make_stepper(tiny_model(), "mgda:at=representation", name).step(single_batch(), mse)


@pytest.mark.parametrize(
    ("method", "sharpness", "warned"),
    [
        ("fairgrad", "fmtl", True),
        ("nashmtl", "fmtl", True),
        ("mgda", "fmtl", False),
        ("fairgrad", "fmtl:direct=true", False),
        ("fairgrad", "fmtl:flatness=rescaled", False),
        ("fairgrad", "samo", False),
    ],
)
def test_a_method_that_sees_scales_is_warned_of(
    method: str, sharpness: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    make_stepper(tiny_model(), method, sharpness)
    expected = f"fmtl expects a method with scaling, which {method} does not claim"
    assert [expected in message for message in caplog.messages] == [True] * warned


def test_reused_weights_need_weights() -> None:
    stepper = make_stepper(tiny_model(), "graddrop", "fmtl:flatness=reused")
    with pytest.raises(UsageError, match="needs a method that works by weights"):
        stepper.step(single_batch(), mse)


@pytest.mark.parametrize("sharpness", ["looksam:every=3", "fsam", "fsam:points=per-task"])
def test_a_wrapper_resumes_where_it_was(sharpness: str) -> None:
    def run(stop: int) -> Any:
        torch.manual_seed(0)
        stepper = make_stepper(tiny_model(), "mgda", sharpness)
        for seed in range(7):
            if seed == stop:
                state, weights = stepper.state_dict(), stepper.model.state_dict()
                model = tiny_model()
                model.load_state_dict(weights)
                stepper = make_stepper(model, "mgda", sharpness)
                stepper.load_state_dict(state)
            stepper.step(single_batch(seed=seed), mse)
        return params_of(stepper.model)

    unbroken = run(stop=99)
    assert all(same(run(stop), unbroken) for stop in (1, 2, 4))
