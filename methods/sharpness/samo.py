"""SAMO: global gradient information joined with a zeroth-order local one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from pydantic import PositiveFloat
from torch import Tensor

from mtlbench.flat import Move
from mtlbench.interfaces import GradientView, Passes, SharpnessInfo, SharpnessWrapper, Update
from mtlbench.methods.sharpness._ball import length, mean_gradient
from mtlbench.problem import StepProblem, evaluation_mode


class SAMO(SharpnessWrapper):
    r"""`"SAMO: A Lightweight Sharpness-Aware Approach for Multi-Task Optimization with Joint
    Global-Local Perturbation" <https://arxiv.org/abs/2507.07883>`_.

    .. math:: \epsilon_k = \rho \, v_k / \lVert v_k \rVert, \quad v_k = \alpha g_0 + (1 - \alpha)
        \hat g_k, \quad \hat g_k = \frac{L_k(\theta + \mu z_k) - L_k(\theta - \mu z_k)}{2 \mu} z_k,
        \quad z_k \sim N(0, I)

    and each parameter tensor's part of :math:`\hat g_k` is brought to the norm of that part of
    :math:`g_0`. Head k moves by :math:`\rho` along its own gradient of the mean loss. Row k of J is
    taken at :math:`(\theta + \epsilon_k, h_k + \epsilon_k^h)`.

    After that normalisation only the *sign* of the probe's difference is left of it:
    :math:`\hat g_k^d = \operatorname{sign}(c_k) \lVert g_0^d \rVert z_k^d / \lVert z_k^d \rVert`;
    so it is computed. A difference of zero leaves the local part at zero.

    Departs from the authors' code: the probe sees the network in training mode
    (``probe="eval"`` as released), and a zero difference or a zero-norm layer cannot yield NaN.

    Args:
        rho: length of the perturbations.
        alpha: share of the global part; 1 - alpha is the released code's beta.
        mu: length unit of the probe.
        probe: mode of the network during the probe.
    """

    info = SharpnessInfo(name="samo", title="SAMO", year=2025, arxiv="2507.07883")

    def __init__(
        self,
        *,
        rho: PositiveFloat = 0.05,
        alpha: Annotated[float, Ge(0), Le(1)] = 0.5,
        mu: PositiveFloat = 0.01,
        probe: Literal["train", "eval"] = "train",
    ) -> None:
        super().__init__()
        self.rho, self.alpha, self.mu, self.probe = rho, alpha, mu, probe

    def passes(self, n_tasks: int, method: Passes) -> Passes:
        return Passes(method.forward + 3 * n_tasks, 1 + n_tasks)

    def update(self, problem: StepProblem, *aggregate: Callable[[GradientView], Update]) -> Update:
        flat, here = problem.flat, problem.view()
        mean = mean_gradient(here)
        layer_norms = flat.layer_norms(mean.shared)
        head_lengths = [length(h, self.rho) for h in mean.heads]
        z = torch.empty_like(mean.shared)

        def move(k: int) -> Sequence[Move]:
            z.normal_(generator=problem.generator)
            sign = self._difference(problem, k, z).sign()
            direction = self._mixed(problem, mean.shared, z, sign, layer_norms)
            return (
                (flat.shared, direction, length(direction, self.rho)),
                (flat.heads[k], mean.heads[k], head_lengths[k]),
            )

        return aggregate[0](problem.view_at(here.losses, move))

    def _difference(self, problem: StepProblem, k: int, z: Tensor) -> Tensor:
        """Twice mu times the derivative of loss k along ``z``, by two forward passes."""
        mode: AbstractContextManager[None] = (
            evaluation_mode(problem.model) if self.probe == "eval" else nullcontext()
        )
        only, shared = [problem.objectives[k]], problem.flat.shared
        with mode:
            with problem.flat.shifted((shared, z, self.mu)):
                ahead = problem.evaluate(only)
            with problem.flat.shifted((shared, z, -self.mu)):
                behind = problem.evaluate(only)
        return (ahead - behind).squeeze()

    def _mixed(
        self, problem: StepProblem, mean: Tensor, z: Tensor, sign: Tensor, layer_norms: Tensor
    ) -> Tensor:
        """v_k; written over ``z``."""
        noise_norms = problem.flat.layer_norms(z)
        factors = torch.where(noise_norms > 0, layer_norms / noise_norms, 0.0)
        problem.flat.scale_layers_(z, factors * sign * (1 - self.alpha))
        return z.add_(mean, alpha=self.alpha)
