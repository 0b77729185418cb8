"""Passes as autograd runs them, counted by what they run through and not by what was meant."""

from __future__ import annotations

import itertools

import pytest

from mtlbench.registry import METHODS, SHARPNESS, Spec
from mtlbench.testing.networks import PLAIN, TRUNK, JointlySquared, batch, squared, traversals
from mtlbench.testing.steps import JOINT_HEADS, stepper, traversed
from mtlbench.training.stepper import Stepper

K = 3
METHODS_TRIED = [name for name in METHODS.names() if METHODS.get(name).info.role != "reference"]
WRAPPERS = [*SHARPNESS.names(), "samo:noise=shared,points=by-sign", "fmtl:direct=true"]
CELLS = [
    pytest.param(m, w, marks=() if m in ("ls", "fairgrad") else pytest.mark.slow)
    for m, w in itertools.product(METHODS_TRIED, WRAPPERS)
]
"""One method of each cost with every wrapper; the rest are slow. The kit has every method alone."""


@pytest.mark.parametrize(("method", "sharpness"), CELLS)
def test_counters_say_what_autograd_does(method: str, sharpness: str) -> None:
    """Shared inputs and inputs of their own, heads and losses apart and joint: the counter is the
    number of passes through the trunk's output. With inputs of its own a task's pass runs through
    its own head, and the trunk where its own inputs went, alone."""

    def fresh(K: int, network: str) -> Stepper:
        return stepper(Spec.parse(method), Spec.parse(sharpness), K, network=network)

    for where, noted in traversed(fresh, K, steps=1):
        heads = sum(noted.values()) - noted[TRUNK]
        if "inputs of their own" in where:
            assert heads == noted[TRUNK], where
        if sharpness == "none" and not METHODS.get(method).info.further:
            assert set(noted.values()) - {noted[TRUNK]} <= {1}, where


@pytest.mark.parametrize(("network", "joint"), [*itertools.product((PLAIN, JOINT_HEADS), (0, 1))])
@pytest.mark.parametrize("method", ["mgda", "mgda:at=representation", "graddrop"])
def test_each_head_is_run_backward_once(method: str, network: str, joint: int) -> None:
    running = stepper(Spec.parse(method), None, 5, network=network)
    noted = traversals(running.model)
    running.step(batch(5), JointlySquared() if joint else squared)
    through_trunk = noted.pop(TRUNK)
    assert through_trunk == running.passes.backward == (1 if "representation" in method else 5)
    assert list(noted.values()) == [1] * 5


def test_a_weighted_sum_is_one_pass_through_joint_heads() -> None:
    running = stepper(Spec.parse("ls"), None, K, network=JOINT_HEADS)
    noted = traversals(running.model)
    running.step(batch(K), JointlySquared())
    assert noted == {TRUNK: 1}  # the heads are one product, none of them runs by itself
