"""On a CUDA device: the same numbers as on the CPU, and nothing that only a CPU can do."""

from pathlib import Path

import pytest
import torch

from mtlbench.registry import METHODS, SHARPNESS
from mtlbench.runs.execute import execute
from mtlbench.runs.spec import RunSpec, prepare
from mtlbench.runs.store import Store
from mtlbench.testing.steps import Supplied
from tests.models import mse, single_batch, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
RANDOM = ("graddrop", "gradvac", "pcgrad", "random", "rlw", "esam", "samo")
"""They draw random numbers, which differ from device to device."""


def _losses(device: str, method: str, sharpness: str) -> torch.Tensor:
    model = tiny_model().to(device).eval()  # dropout draws other numbers on another device
    stepper = Supplied(model, torch.optim.SGD(model.parameters(), lr=0.01), method, sharpness)
    batch = [group.to(torch.device(device)) for group in single_batch()]
    reports = [stepper.step(batch, mse) for _ in range(3)]
    assert all(report.losses is not None for report in reports)
    return torch.stack([report.losses.cpu() for report in reports if report.losses is not None])


@pytest.mark.parametrize("method", METHODS.names())
@pytest.mark.parametrize("sharpness", SHARPNESS.names())
def test_steps_agree_with_the_cpu(method: str, sharpness: str) -> None:
    if method in RANDOM or sharpness in RANDOM:
        pytest.skip("its random numbers differ from device to device")
    torch.testing.assert_close(
        _losses("cuda", method, sharpness), _losses("cpu", method, sharpness), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("sharpness", SHARPNESS.names())
def test_a_run_ends_with_numbers(tmp_path: Path, sharpness: str) -> None:
    spec = RunSpec("multimnist", "fairgrad", sharpness, epochs=1, device="cuda")
    record = execute(prepare(spec), Store(tmp_path))
    assert record.status == "ok", record.reason
    assert record.peak_memory_mb
    assert record.peak_memory_mb > 0
