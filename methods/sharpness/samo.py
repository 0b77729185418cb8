"""SAMO: global gradient information joined with a zeroth-order local one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from fnmatch import fnmatch
from functools import partial
from itertools import accumulate, compress
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from mtlbench.errors import UsageError
from mtlbench.flat import FlatParameters, Move
from mtlbench.interfaces import (
    GradientView,
    Passes,
    PlainStep,
    SharpnessInfo,
    SharpnessWrapper,
    Update,
)
from mtlbench.methods.sharpness._ball import Ball, mean_gradient
from mtlbench.methods.sharpness._yardsticks import ReleasedSAMO
from mtlbench.problem import StepProblem, evaluation_mode

Probe = Callable[[int], tuple[Tensor, Tensor]]
"""Task to noise (n, P) and the derivatives of its loss along each sample (n,)."""


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
    so it is computed. A difference of zero leaves the local part at zero. As a sign asks for
    little, ``noise="shared"`` and ``difference="forward"`` get all K of them from two forward
    passes, or one, instead of 2 K.

    Departs from the authors' code: the probe sees the network in training mode
    (``probe="eval"`` as released), and a zero difference or a zero-norm layer cannot yield NaN.

    Costs 1 + K backward passes and, beyond the method's and the K at the perturbed points,
    ``n_samples`` probes of two forward passes (one with ``difference="forward"``) for each task (in
    all, with ``noise="shared"``).

    Args:
        rho: length of the perturbations.
        alpha: share of the global part; 1 - alpha is the released code's beta.
        mu: length unit of the probe.
        noise: whether every task draws its own z or all share one.
        difference: "central", or "forward" from the loss at the parameters.
        normalize: which norms the local part gets from :math:`g_0`: that of each parameter tensor's
            part, the "global" one, or "none".
        layers: where the local part enters, elsewhere v is its global part alone: "all"; "ends" for
            the first and the last module with shared parameters ("SAM with sampling"); or patterns
            of parameter names, joined by "+": "shared.0.*+shared.4.*".
        n_samples: how many z the local part is averaged over.
        heads: whether the heads are perturbed.
        probe: mode of the network during the probe.
        adaptive: lengths relative to the parameters, see :class:`Ball`.
    """

    info = SharpnessInfo(name="samo", title="SAMO", year=2025, arxiv="2507.07883")
    common_point = False

    def __init__(
        self,
        *,
        rho: PositiveFloat = 0.05,
        alpha: Annotated[float, Ge(0), Le(1)] = 0.5,
        mu: PositiveFloat = 0.01,
        noise: Literal["per-task", "shared"] = "per-task",
        difference: Literal["central", "forward"] = "central",
        normalize: Literal["layer", "global", "none"] = "layer",
        layers: str = "all",
        n_samples: PositiveInt = 1,
        heads: bool = True,
        probe: Literal["train", "eval"] = "train",
        adaptive: bool = False,
    ) -> None:
        super().__init__()
        self.ball, self.alpha, self.mu = Ball(rho, adaptive), alpha, mu
        self.noise, self.difference, self.normalize = noise, difference, normalize
        self.layers, self.n_samples, self.heads, self.probe = layers, n_samples, heads, probe

    def passes(self, n_tasks: int, method: Passes) -> Passes:
        probed = n_tasks if self.noise == "per-task" else 1
        forward = self.difference == "forward"
        probes = self.n_samples * probed * (1 if forward else 2)
        here = int(forward and self.probe == "eval")
        return Passes(method.forward + n_tasks + probes + here, 1 + n_tasks)

    def yardsticks(self) -> Mapping[str, PlainStep]:
        released = partial(
            ReleasedSAMO,
            rho=self.ball.rho,
            alpha=self.alpha,
            mu=self.mu,
            adaptive=self.ball.adaptive,
        )
        return {"released": released}

    def update(self, problem: StepProblem, *aggregate: Callable[[GradientView], Update]) -> Update:
        flat, here = problem.flat, problem.view()
        mean = mean_gradient(here)
        probe = self._probe(problem, here.losses)

        def move(k: int) -> Sequence[Move]:
            v = self._local(flat, *probe(k), mean.shared).add_(mean.shared, alpha=self.alpha)
            head = [(flat.heads[k], mean.heads[k])] if self.heads else []
            return self.ball.moves(flat, (flat.shared, v), *head, apart=True)

        return aggregate[0](problem.view_at(here.losses, move))

    def _probe(self, problem: StepProblem, losses: Tensor) -> Probe:
        """Draws the noise and evaluates along it: once for all tasks, or for each that is asked."""
        spans = chosen_spans(problem.flat, self.layers)
        z = problem.flat.data.new_zeros(self.n_samples, problem.flat.shared.stop)

        def draw() -> None:
            if spans != [problem.flat.shared]:
                z.zero_()
            for span in spans:
                z[:, span].normal_(generator=problem.generator)

        if self.difference == "forward" and self.probe == "eval":
            with self._mode(problem):
                losses = problem.evaluate()
        if self.noise == "shared":
            draw()
            all_slopes = self._slopes(problem, z, losses, None)
            return lambda k: (z, all_slopes[:, k])

        def probe(k: int) -> tuple[Tensor, Tensor]:
            draw()
            return z, self._slopes(problem, z, losses[k], [problem.objectives[k]]).squeeze(1)

        return probe

    def _slopes(
        self, problem: StepProblem, z: Tensor, here: Tensor, only: Sequence[str] | None
    ) -> Tensor:
        """Derivatives of the losses along each sample, (n, K')."""
        shared, slopes = problem.flat.shared, []
        with self._mode(problem):
            for sample in z:
                with problem.flat.shifted((shared, sample, self.mu)):
                    ahead = problem.evaluate(only)
                if self.difference == "forward":
                    slopes.append((ahead - here) / self.mu)
                    continue
                with problem.flat.shifted((shared, sample, -self.mu)):
                    slopes.append((ahead - problem.evaluate(only)) / (2 * self.mu))
        return torch.stack(slopes)

    def _mode(self, problem: StepProblem) -> AbstractContextManager[None]:
        return evaluation_mode(problem.model) if self.probe == "eval" else nullcontext()

    def _local(self, flat: FlatParameters, z: Tensor, slopes: Tensor, mean: Tensor) -> Tensor:
        """``1 - alpha`` times the local part; written over noise that no other task needs."""
        if self.n_samples == 1:
            local = z[0] if self.noise == "per-task" else z[0].clone()
            factor = slopes[0] if self.normalize == "none" else slopes[0].sign()
        else:
            local, factor = slopes @ z / self.n_samples, torch.ones_like(slopes[0])
        factor = factor * (1 - self.alpha)
        if self.normalize == "layer":
            ratios = _ratio(flat.layer_norms(mean), flat.layer_norms(local))
            return flat.scale_layers_(local, factor * ratios)
        if self.normalize == "global":
            factor = factor * _ratio(mean.norm(), local.norm())
        return local.mul_(factor)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / b, 0.0)


def chosen_spans(flat: FlatParameters, layers: str) -> list[slice]:
    """Where the chosen layers lie among the shared parameters; neighbours are one span.

    Raises:
        UsageError: a pattern is like no layer.
    """
    names, sizes = flat.layer_names, flat.layer_sizes
    modules = [name.rpartition(".")[0] for name in names]
    if layers == "all":
        return [flat.shared]
    if layers == "ends":
        chosen = [module in (modules[0], modules[-1]) for module in modules]
    else:
        patterns = layers.split("+")
        idle = [p for p in patterns if not any(fnmatch(name, p) for name in names)]
        if idle:
            raise UsageError(f"samo: no layer is like {idle[0]!r}; layers: {', '.join(names)}")
        chosen = [any(fnmatch(name, p) for p in patterns) for name in names]
    spans: list[slice] = []
    for stop, size in compress(zip(accumulate(sizes), sizes, strict=True), chosen):
        start = stop - size
        if spans and spans[-1].stop == start:
            start = spans.pop().start
        spans.append(slice(start, stop))
    return spans
