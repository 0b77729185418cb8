"""How much memory torch's allocator had in use at a time."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.profiler import ProfilerActivity, profile


def peak_memory(run: Callable[[], object], device: torch.device) -> float | None:
    """The most that torch's allocator had in use while ``run`` ran, beyond what it had before.

    Tensors of all kinds count: parameters and their gradients, states of optimizers, activations,
    what a kernel allocates through torch. What a library allocates for itself does not, nor does
    memory that the allocator only keeps in reserve; so the number is the same on every run.

    Returns:
        MiB; None on devices other than CUDA and the CPU.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    if device.type != "cpu":
        return None
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # it would talk of GPUs that are not there
    gc.collect()  # or what others left behind is freed within
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    with TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted((e for e in events if e["name"] == "[memory]"), key=itemgetter("ts"))
    in_use = accumulate((e["args"]["Bytes"] for e in changes), initial=0)
    return float(max(in_use)) / 2**20
