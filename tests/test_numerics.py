"""How passes are computed: precision, in parts, compiled; and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtlbench import InputGroup, MultiTaskModel, Stepper, UsageError
from mtlbench.boards.places import group_of
from mtlbench.boards.verification import request
from mtlbench.engine.numerics import Numerics, compile_parts
from mtlbench.registry import METHODS as REGISTERED
from mtlbench.runs.execute import execute
from mtlbench.runs.spec import Run, RunSpec, command, prepare
from mtlbench.runs.store import Store
from tests.models import METHODS, WRAPPERS, mse
from tests.toy_task import TOY

K, ROWS = 3, 60
NAMES = tuple("abc")


def network(dtype: torch.dtype = torch.float64) -> MultiTaskModel:
    """No layer looks beyond an example or draws random numbers."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh())
    heads = {name: nn.Linear(16, 1 + k) for k, name in enumerate(NAMES)}
    return MultiTaskModel(trunk, heads).to(dtype)


def batch(dtype: torch.dtype = torch.float64, *, multi: bool = False, missing: bool = False) -> Any:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, 8, generator=generator, dtype=torch.float64).to(dtype)
    targets = {n: (x[:, : 1 + k] * (1 + k)).sin() for k, n in enumerate(NAMES)}
    if missing:
        targets["a"][:37] = torch.nan
        targets["c"][50:] = torch.nan
    if multi:
        return [InputGroup(x[k::K], {n: targets[n][k::K]}) for k, n in enumerate(NAMES)]
    return [InputGroup(x, targets)]


def taken(
    method: str, sharpness: str, made: Any, loss: Any = mse, steps: int = 2, **how: Any
) -> tuple[Tensor, Tensor]:
    """All losses, and the parameters, of some steps."""
    model = network(made[0].targets[next(iter(made[0].targets))].dtype)
    stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1), method, sharpness, **how)
    reports = [stepper.step(made, loss) for _ in range(steps)]
    assert not any(report.skipped for report in reports)
    losses = [report.losses for report in reports if report.losses is not None]
    return torch.stack(losses), stepper.flat.data


# ------------------------------------------------------------------------------------ in parts
PARTED = [
    ("ls", "none", {}),
    ("mgda", "fmtl", {}),
    ("fairgrad", "samo", {"multi": True}),
    ("famo", "sam", {"missing": True}),
    ("graddrop", "lsam", {"multi": True}),
    ("uw", "samo:points=by-sign,noise=shared", {"missing": True}),
]


def _as_the_whole(method: str, sharpness: str, kind: Any) -> None:
    whole = taken(method, sharpness, batch(**kind))
    parts = taken(method, sharpness, batch(**kind), accumulate=4)
    for found, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("method", "sharpness", "kind"), PARTED)
def test_parts_make_the_step_of_the_whole(method: str, sharpness: str, kind: Any) -> None:
    _as_the_whole(method, sharpness, kind)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("sharpness", WRAPPERS)
@pytest.mark.parametrize("method", METHODS)
def test_parts_make_every_step_of_the_whole(method: str, sharpness: str) -> None:
    if REGISTERED.get(method).info.further is not None:
        pytest.skip("looks at further batches, which is refused")
    for kind in ({}, {"multi": True}, {"missing": True}):
        _as_the_whole(method, sharpness, kind)


def test_uneven_parts_and_a_learnable_loss() -> None:
    def found(**how: Any) -> list[Tensor]:
        model, scale = network(), nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        optimizer = torch.optim.Adam([*model.parameters(), scale], lr=0.01)
        stepper = Stepper(model, optimizer, "fairgrad", "samo", **how)
        for _ in range(2):
            stepper.step(batch(missing=True), lambda o, p, t: mse(o, scale * p, t))
        return [stepper.flat.data, scale.detach()]

    for part, whole in zip(found(accumulate=7), found(), strict=True):
        torch.testing.assert_close(part, whole, rtol=1e-9, atol=1e-11)


def test_parts_need_the_memory_of_one() -> None:
    """What a graph keeps alive is counted by hooks of autograd, not by the engine."""
    alive, most = [0], [0]

    class Kept:
        def __init__(self, t: Tensor) -> None:
            self.t = t
            alive[0] += t.numel()
            most[0] = max(most[0], alive[0])

        def __del__(self) -> None:
            alive[0] -= self.t.numel()

    def peak(accumulate: int) -> int:
        alive[0] = most[0] = 0
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.t):
            taken("fairgrad", "none", batch(), steps=1, accumulate=accumulate)
        return most[0]

    weights = sum(p.numel() for p in network().parameters())
    assert peak(6) - weights < (peak(1) - weights) / 4


def test_a_skipped_step_leaves_statistics_of_all_parts_alone() -> None:
    torch.manual_seed(0)
    model = MultiTaskModel(
        nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Dropout()), {"a": nn.Linear(4, 1)}
    )
    stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1), "ls", "sam", accumulate=3)
    made = [InputGroup(g.inputs, {"a": g.targets["a"]}) for g in batch(torch.float32)]
    stepper.step(made, mse)
    counted = model.shared.get_buffer("1.num_batches_tracked")
    assert int(counted) == 3
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert stepper.step(made, lambda *of: mse(*of) * torch.inf).skipped
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


class _Opaque:
    def to(self, device: torch.device) -> _Opaque:
        return self


def test_what_has_no_parts_is_refused() -> None:
    stepper = Stepper(network(), torch.optim.SGD([nn.Parameter(torch.ones(1))]), "ls", accumulate=2)
    for inputs in (_Opaque(), torch.ones(3, 8)):
        with pytest.raises(UsageError, match=r"accumulate=2: an input is .* has no parts"):
            stepper.step(InputGroup(inputs, batch()[0].targets), mse)
    with pytest.raises(UsageError, match="accumulate=1"):
        taken("mgda:at=representation", "none", batch(), accumulate=2)


# ------------------------------------------------------------------------------------ precision
def _float32_alone(objective: str, prediction: Tensor, target: Tensor) -> Tensor:
    assert prediction.dtype == torch.float32
    return mse(objective, prediction, target)


@pytest.mark.parametrize("sharpness", [f"{n}:rho=0.5" if n != "none" else n for n in WRAPPERS])
def test_a_wrapper_in_bf16_is_that_of_float32(sharpness: str) -> None:
    method = "ls" if sharpness != "none" else "mgda:at=representation"
    made, start = (
        batch(torch.float32),
        Stepper(network(torch.float32), torch.optim.SGD([nn.Parameter(torch.ones(1))]), "ls"),
    )
    exact, cast = (
        taken(method, sharpness, made, _float32_alone, steps=1, precision=p)[1] - start.flat.data
        for p in ("fp32", "bf16")
    )
    assert 0 < float((cast - exact).norm() / exact.norm()) < 0.06


def test_fp32_is_float32_within_an_autocast_of_the_callers() -> None:
    made = batch(torch.float32)
    exact = taken("fairgrad", "samo", made, precision="fp32")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        around = taken("fairgrad", "samo", made, precision="fp32")
        parts = taken("fairgrad", "samo", made, accumulate=3)
        whole = taken("fairgrad", "samo", made)
    assert torch.equal(around[1], exact[1])
    assert not torch.equal(whole[1], exact[1])
    torch.testing.assert_close(parts[1], whole[1], rtol=1e-2, atol=1e-3)


def test_sixteen_bits_end_at_the_losses() -> None:
    """Whatever a loss is computed in, methods see float32."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, _ = taken("fairgrad", "none", batch(torch.float32), lambda o, p, t: p.mean() ** 2)
    assert losses.dtype == torch.float32


def test_images_go_through_with_channels_innermost() -> None:
    seen: list[bool] = []

    class Looks(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return super().forward(x)

    def found(channels_last: bool) -> Tensor:
        torch.manual_seed(0)
        trunk = nn.Sequential(Looks(3, 4, 3), nn.Flatten())
        model = MultiTaskModel(trunk, {n: nn.Linear(64, 1) for n in "ab"})
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        stepper = Stepper(model, optimizer, "mgda", "samo", channels_last=channels_last)
        x = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
        stepper.step(InputGroup(x, dict.fromkeys("ab", x[:, 0, 0, :1])), mse)
        return stepper.flat.data

    torch.testing.assert_close(found(True), found(False), rtol=1e-4, atol=1e-5)
    assert set(seen[: len(seen) // 2]) == {True}
    assert set(seen[len(seen) // 2 :]) == {False}


# ------------------------------------------------------------------------------------ compiled
DYNAMO = pytest.mark.filterwarnings("ignore:The .grad attribute")  # it looks at all of a tensor


def _normalised() -> MultiTaskModel:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.GELU())
    return MultiTaskModel(trunk, {n: nn.Linear(16, 1 + k) for k, n in enumerate(NAMES)})


def _steps(model: MultiTaskModel, method: str, sharpness: str) -> Iterator[Tensor]:
    torch.manual_seed(0)
    stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1), method, sharpness)
    for _ in range(3):
        report = stepper.step(batch(torch.float32), mse)
        assert report.losses is not None
        yield report.losses


@DYNAMO
def test_all_is_compiled_in_the_first_step_and_no_shift_compiles_again() -> None:
    graphs: list[Any] = []

    def counting(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model, plain = _normalised(), _normalised()
    compile_parts(model, counting)
    most = []
    pairs = ("ls", "none"), ("fairgrad", "samo"), ("famo", "fmtl"), ("ls", "sam")
    for pair in pairs:
        found = [(losses, len(graphs)) for losses in _steps(model, *pair)]
        for (mine, _), theirs in zip(found, _steps(plain, *pair), strict=True):
            assert torch.equal(mine, theirs)
        assert len({count for _, count in found}) == 1, pair
        most.append(found[0][1])
    # The trunk and three sizes of heads; the trunk's later passes, without statistics; all of it
    # without a graph.
    assert most == [4, 9, 9, 9]


@DYNAMO
@pytest.mark.slow
def test_a_graph_for_one_backward_pass_is_refused() -> None:
    torch._dynamo.reset()
    model = _normalised()
    compile_parts(model, "aot_eager")
    sum(out.sum() for out in model(batch(torch.float32)[0].inputs).values()).backward()
    with pytest.raises(UsageError, match="compiled outside of a step"):
        next(_steps(model, "fairgrad", "none"))
    torch._dynamo.reset()
    next(_steps(model, "fairgrad", "none"))


POLLUTED = """
import sys, torch
from tests.test_numerics import _normalised, _steps, batch
from mtlbench.engine.numerics import compile_parts
model = _normalised()
compile_parts(model)
if sys.argv[1] == "plain":
    sum(out.sum() for out in model(batch(torch.float32)[0].inputs).values()).backward()
else:
    for method in ("ls", "fairgrad"):
        model.load_state_dict(_normalised().state_dict())
        print([v for losses in _steps(model, method, "none") for v in losses.tolist()])
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_cache_on_disk_does_not_tell_of_graphs_for_one_backward_pass(tmp_path: Path) -> None:
    """Dropout draws other numbers when compiled: what is compared is a fresh cache with others."""

    def found(cache: Path, *ways: str) -> str:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache)}
        return [
            subprocess.run(
                [sys.executable, "-c", POLLUTED, way],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for way in ways
        ][-1]

    assert found(tmp_path / "a", "plain", "steps") == found(tmp_path / "b", "steps", "steps")


# ------------------------------------------------------------------------------------ refused
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"precision": "fp8"}, "unknown precision 'fp8'; valid: fp32, tf32, bf16$"),
    ({"precision": "fp16"}, "float16 needs a GradScaler, .* take bf16"),
    ({"precision": "tf32"}, "tf32 is of NVIDIA's GPUs .*; take fp32 or bf16"),
    ({"accumulate": 0}, "accumulate must be an integer of at least 1, not 0"),
]


@pytest.mark.parametrize(("how", "said"), REFUSED)
def test_what_cannot_be_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        taken("ls", "none", batch(), **how)


def test_float16_and_its_scaler_are_refused() -> None:
    with torch.autocast("cpu", dtype=torch.float16), pytest.raises(UsageError, match="GradScaler"):
        taken("ls", "none", batch(torch.float32))
    with pytest.raises(UsageError, match="GradScaler scales one loss"):
        Stepper(network(), torch.amp.GradScaler("cpu", enabled=False), "ls")  # type: ignore[arg-type]


def test_compile_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with pytest.raises(UsageError, match="no '/no/such/compiler' here: install one, name another"):
        prepare(RunSpec(TOY, "ls", device="cpu", numerics=Numerics(compile=True)))


# ------------------------------------------------------------------------------------ runs
def test_numerics_are_a_part_of_what_a_run_is() -> None:
    def run(**how: Any) -> Run:
        return prepare(RunSpec(TOY, "ls", device="cpu", numerics=Numerics(**how)))

    kinds: list[dict[str, Any]] = [
        {"precision": "bf16"},
        {"channels_last": True},
        {"accumulate": 2},
        {"deterministic": True},
    ]
    assert run().identity == prepare(RunSpec(TOY, "ls", device="cpu")).identity
    assert len({run(**how).identity.digest for how in [{}, *kinds]}) == 5
    assert str(Numerics(precision="bf16", accumulate=2)) == "bf16 accumulate 2"
    assert command(run(precision="bf16", channels_last=True)).endswith(
        "--precision bf16 --channels-last --out runs"
    )


def test_a_run_in_bf16_and_parts_is_another_row(tmp_path: Path) -> None:
    how = Numerics(precision="bf16", accumulate=2, deterministic=True)
    common: dict[str, Any] = {"protocol": "paper", "device": "cpu", "epochs": 1}
    records = [
        execute(prepare(RunSpec(TOY, "ls", numerics=each, **common)), Store(tmp_path))
        for each in (Numerics(), how)
    ]
    assert [record.status for record in records] == ["ok", "ok"]
    assert not torch.are_deterministic_algorithms_enabled()
    losses = [record.phases[0].epochs[0].train_losses for record in records]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)
    assert request(records[1]).identity == records[1].identity
    assert len({group_of(record)["device_class"] for record in records}) == 2
