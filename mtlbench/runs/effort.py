"""What runs cost relative to each other, as far as their passes say."""

from __future__ import annotations

from mtlbench.registry import SHARPNESS
from mtlbench.runs.spec import Run

BACKWARD = 2
"""A backward pass takes about as long as two forward passes."""


def effort_of_epoch(run: Run) -> float:
    """Passes of an epoch, in forward passes a step; the mean over the phases of a reference run."""
    wrapper = SHARPNESS.build(run.spec.sharpness or SHARPNESS.default)
    phases = run.phases
    total = 0.0
    for objectives in phases:
        n_tasks = len(objectives)
        info = run.method_info
        passes = wrapper.passes(n_tasks, info.passes(n_tasks))
        passes += info.looks(n_tasks) * wrapper.parts
        total += passes.forward + BACKWARD * passes.backward
    return total / len(phases)
