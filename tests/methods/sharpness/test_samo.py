"""SAMO: the global gradient and the sign of a probe."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtlbench import MultiTaskModel, Stepper, UsageError
from mtlbench.interfaces import Passes
from tests.models import (
    MakeBatch,
    buffers_of,
    displacements,
    make_problem,
    make_stepper,
    mse,
    multi_batch,
    names,
    same,
    single_batch,
    tiny_model,
)
from tests.reference import Wrapper, assert_follows_reference

OPTIONS: list[dict[str, Any]] = [
    {"rho": 0.3, "mu": 0.1},
    {"alpha": 0.0},
    {"alpha": 0.3},
    {"alpha": 1.0},
    {"probe": "eval", "mu": 0.1},
]


@pytest.mark.parametrize("make_batch", [single_batch, multi_batch])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_follow_the_reference(options: dict[str, Any], make_batch: MakeBatch) -> None:
    text = "samo:" + ",".join(f"{k}={v}" for k, v in options.items())
    batches = [make_batch(seed=seed) for seed in range(2)]
    assert_follows_reference(tiny_model(), batches, "mgda", text, Wrapper("samo", **options))


def _points(stepper: Stepper, **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Displacements of the probes and of the gradients."""
    here, *others = displacements(stepper, **options)
    assert not here.any()
    K = len(stepper.objectives)
    assert len(others) == 3 * K
    probes = [d for k in range(K) for d in others[3 * k : 3 * k + 2]]
    return probes, others[2::3]


@pytest.mark.parametrize("method", ["ls", "mgda"])
def test_lengths_are_as_defined(method: str) -> None:
    stepper = make_stepper(tiny_model(), method, "samo:rho=0.2,mu=0.05")
    flat = stepper.flat
    probes, points = _points(stepper)
    for ahead, behind in zip(probes[::2], probes[1::2], strict=True):
        assert torch.allclose(ahead, -behind, atol=1e-12)
        assert not ahead[flat.shared.stop :].any()
    assert not torch.allclose(probes[0], probes[2])
    for k, d in enumerate(points):
        assert float(d[flat.shared].norm()) == pytest.approx(0.2)
        for j, segment in enumerate(flat.heads):
            assert float(d[segment].norm()) == pytest.approx(0.2 if j == k else 0.0)


def test_heads_may_move_by_the_gradient_of_the_mean_loss_as_it_is() -> None:
    stepper = make_stepper(tiny_model(), "ls", "samo:rho=0.2,mu=0.05,head_length=gradient")
    flat = stepper.flat
    torch.manual_seed(0)
    mean = [own.clone() for own in make_problem(stepper).view().head_grads()]
    torch.manual_seed(0)
    _, points = _points(stepper)
    for k, d in enumerate(points):
        assert float(d[flat.shared].norm()) == pytest.approx(0.2)
        expected = mean[k] / len(points)
        assert torch.allclose(d[flat.heads[k]], expected, atol=1e-12)


def test_noise_comes_from_the_runs_generator_alone() -> None:
    def probes(seed: int, global_seed: int) -> list[Tensor]:
        torch.manual_seed(global_seed)
        return _points(make_stepper(tiny_model(), "ls", "samo", seed=seed))[0]

    assert all(map(torch.equal, probes(0, 0), probes(0, 1)))
    assert not any(map(torch.equal, probes(0, 0), probes(1, 0)))


def test_the_noise_differs_from_step_to_step() -> None:
    stepper = make_stepper(tiny_model(), "ls", "samo")
    assert not torch.equal(_points(stepper)[0][0], _points(stepper)[0][0])


def _half_flat(objective: str, prediction: Tensor, target: Tensor) -> Tensor:
    """The second task's loss does not depend on the parameters."""
    return prediction.sum() * 0 if objective == "task10" else mse(objective, prediction, target)


def test_a_zero_difference_leaves_the_global_part_alone() -> None:
    mixed = make_stepper(tiny_model(), "ls", "samo:alpha=0.5")
    only_global = make_stepper(tiny_model(), "ls", "samo:alpha=1")
    torch.manual_seed(0)
    _, points = _points(mixed, loss=_half_flat)
    torch.manual_seed(0)
    _, expected = _points(only_global, loss=_half_flat)
    assert torch.allclose(points[1], expected[1], atol=1e-12)
    assert not torch.allclose(points[0], expected[0])


BY_SIGN = "samo:noise=shared,points=by-sign"


@pytest.mark.parametrize(("method", "rows"), [("ls", False), ("mgda", True)])
@pytest.mark.parametrize("K", [2, 11])
def test_tasks_with_one_sign_share_their_passes(method: str, rows: bool, K: int) -> None:
    counted = set()
    for seed in range(8):
        stepper = make_stepper(tiny_model(K), method, BY_SIGN, seed=seed)
        points = len(displacements(stepper)) - 3
        spent = stepper.passes
        assert (spent.forward, spent.backward) == (3 + points, 1 + (K if rows else points))
        declared = stepper.wrapper.passes(K, stepper.methods[0].info.passes(K))
        most = min(K, 3)
        assert declared == Passes(3 + most, 1 + (K if rows else most))
        counted.add(points)
    assert 2 in counted <= {1, 2}


def test_a_zero_difference_has_a_point_of_its_own() -> None:
    """Which is then that of the global part, as for one task by itself."""
    apart = make_stepper(tiny_model(5), "ls", "samo:noise=shared")
    together = make_stepper(tiny_model(5), "ls", BY_SIGN)
    torch.manual_seed(0)
    per_task = displacements(apart, single_batch(5), loss=_half_flat)[3:]
    torch.manual_seed(0)
    by_sign = displacements(together, single_batch(5), loss=_half_flat)[3:]
    shared = apart.flat.shared
    assert len({tuple(d[shared].tolist()) for d in per_task}) == len(by_sign) >= 2
    for d in per_task:
        assert min(float((d - other)[shared].abs().max()) for other in by_sign) < 1e-12


@pytest.mark.parametrize("option", ["noise=per-task", "n_samples=2", "normalize=none"])
def test_points_of_their_own_cannot_be_shared(option: str) -> None:
    options = {"noise": "shared"} | dict([option.split("=")])
    text = ",".join(f"{name}={value}" for name, value in options.items())
    with pytest.raises(UsageError, match="points=by-sign needs noise=shared, n_samples=1"):
        make_stepper(tiny_model(), "ls", f"samo:points=by-sign,{text}")


def test_no_gradient_at_all_moves_nothing() -> None:
    stepper = make_stepper(tiny_model(), "ls", "samo")
    _, points = _points(stepper, loss=lambda name, p, t: p.sum() * 0)
    assert not any(d.any() for d in points)


def test_a_probe_runs_the_head_of_its_task_only() -> None:
    model, ran = tiny_model(), list[str]()
    for name, head in model.heads.items():
        head.register_forward_hook(lambda *_, name=name: ran.append(name))
    displacements(make_stepper(model, "mgda", "samo"))
    assert ran == names(3) + [name for name in names(3) for _ in range(3)]


class _IdleLayer(nn.Module):
    """A trunk with a layer whose gradient is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.used(x) + 0 * self.idle(x)
        return out


def test_a_layer_without_gradient_stays() -> None:
    torch.manual_seed(0)
    heads = {name: nn.Linear(5, 2) for name in names(3)}
    stepper = make_stepper(MultiTaskModel(_IdleLayer(), heads).double(), "ls", "samo:alpha=0.3")
    _, points = _points(stepper)
    used = 4 * 5 + 5
    for d in points:
        assert not d[used : 2 * used].any()
        assert d[:used].any()
        assert torch.isfinite(d).all()


def test_a_probe_in_evaluation_mode_leaves_modes_and_statistics_alone() -> None:
    model, trained = tiny_model(), tiny_model()
    modes: list[bool] = []
    model.shared.register_forward_hook(lambda module, *_: modes.append(module.training))
    for network, probe in ((model, "eval"), (trained, "train")):
        torch.manual_seed(0)
        make_stepper(network, "ls", f"samo:probe={probe}", lr=0.0).step(single_batch(), mse)
    assert modes == [True] + [False, False, True] * 3
    assert all(m.training for m in model.modules())
    assert same(buffers_of(model), buffers_of(trained))
