"""SAMO: global gradient information joined with a zeroth-order local one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from fnmatch import fnmatch
from itertools import accumulate, compress
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from mtlbench.errors import UsageError
from mtlbench.interfaces import (
    GradientView,
    Later,
    Move,
    Parameters,
    Passes,
    SharpnessInfo,
    SharpnessWrapper,
    StepProblem,
    Update,
)
from mtlbench.methods.sharpness._agreement import blended, share
from mtlbench.methods.sharpness._ball import Ball, mean_gradient

SIGNS = (-1, 0, 1)

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
    passes, or one, instead of 2 K. And where z is shared, :math:`v_k` is one of two vectors (of
    three, where a difference is zero): ``points="by-sign"`` takes the gradients of all tasks with
    one sign together, which is the same update by fewer passes.

    Ours, an experiment (the paper names its fixed :math:`\alpha` as a limitation):
    ``alpha_rule="agreement"`` gives each task an :math:`\alpha_k` of its own. The probes tell the
    products :math:`z_k^\top g_k`, and :math:`z_k^\top g_0` is known; averaged over the steps they
    estimate the cosine between :math:`g_k` and the mean gradient of the other tasks, at the cost of
    a product with z. Where it is 1 the global part says all that the local one could, and
    :math:`\alpha_k = 1`; at 0 it is :math:`\alpha`, at -1 it is 0, and linear between.

    Departs from the authors' code: the probe sees the network in training mode
    (``probe="eval"`` as released), and a zero difference or a zero-norm layer cannot yield NaN.
    Not copied, as released: on Cityscapes the gradient :math:`g_0` has what the update before left
    in it; on Office-Home the step is taken from the last perturbed point; on QM9 what is done to
    head 1 is done to head 10, too.

    Costs 1 + K backward passes and, beyond the method's and the K at the perturbed points,
    ``n_samples`` probes of two forward passes (one with ``difference="forward"``) for each task (in
    all, with ``noise="shared"``). ``points="by-sign"`` needs no more than a forward pass a sign at
    the perturbed points instead of K, and a backward pass a sign instead of K under a method that
    asks for no Jacobian: neither grows with the tasks then.

    Args:
        rho: length of the perturbations.
        alpha: share of the global part; 1 - alpha is the released code's beta.
        alpha_rule: whether alpha is "fixed", or what is taken for gradients that are orthogonal to
            the others', "agreement".
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
        head_length: of a head's perturbation: "rho", or "gradient", the gradient as it is, as
            released for QM9.
        probe: mode of the network during the probe.
        points: whether every task's gradient is taken by itself, "per-task", or those of tasks
            with the same sign together, "by-sign"; that needs one shared sample and normalisation.
        adaptive: lengths relative to the parameters, see :class:`Ball`.
    """

    info = SharpnessInfo(name="samo", title="SAMO", year=2025, arxiv="2507.07883")
    common_point = False
    moments: Tensor

    def __init__(
        self,
        *,
        rho: PositiveFloat = 0.05,
        alpha: Annotated[float, Ge(0), Le(1)] = 0.5,
        alpha_rule: Annotated[Literal["fixed", "agreement"], Later()] = "fixed",
        mu: PositiveFloat = 0.01,
        noise: Literal["per-task", "shared"] = "per-task",
        difference: Literal["central", "forward"] = "central",
        normalize: Literal["layer", "global", "none"] = "layer",
        layers: str = "all",
        n_samples: PositiveInt = 1,
        heads: bool = True,
        head_length: Annotated[Literal["rho", "gradient"], Later()] = "rho",
        probe: Literal["train", "eval"] = "train",
        points: Annotated[Literal["per-task", "by-sign"], Later()] = "per-task",
        adaptive: bool = False,
    ) -> None:
        super().__init__()
        self.ball, self.alpha, self.mu = Ball(rho, adaptive), alpha, mu
        self.noise, self.difference, self.normalize = noise, difference, normalize
        self.layers, self.n_samples, self.heads, self.probe = layers, n_samples, heads, probe
        self.raw_heads = head_length == "gradient"
        self.points, self.at_most = points, points == "by-sign"
        if points == "by-sign" and (noise, n_samples, normalize == "none") != ("shared", 1, False):
            raise ValueError(
                "points=by-sign needs noise=shared, n_samples=1 and normalize=layer or global: "
                "otherwise no two tasks have one point"
            )
        self.agrees = alpha_rule == "agreement"
        if self.agrees and points == "by-sign":
            raise ValueError("alpha_rule=agreement gives each task a point; use points=per-task")
        # Of every task of the model, (K, 4) from the first step on.
        self.register_buffer("moments", torch.zeros(0), persistent=self.agrees)
        self._proposed = self.moments

    def passes(self, n_tasks: int, method: Passes) -> Passes:
        probed = n_tasks if self.noise == "per-task" else 1
        forward = self.difference == "forward"
        probes = self.n_samples * probed * (1 if forward else 2)
        here = int(forward and self.probe == "eval")
        points = n_tasks if self.points == "per-task" else min(n_tasks, len(SIGNS))
        backward = points if method.backward == 1 else n_tasks
        return Passes(method.forward + points + probes + here, 1 + backward)

    def update(self, problem: StepProblem, *aggregate: Callable[[GradientView], Update]) -> Update:
        flat, here = problem.flat, problem.view()
        mean = mean_gradient(here)
        sizes = self._sizes(flat, mean.shared)
        probe = self._probe(problem, here.losses)
        if self.agrees:
            fresh = flat.data.new_zeros(len(problem.model.heads), 4, dtype=torch.float64)
            self._proposed = self.moments.clone() if self.moments.numel() else fresh

        def move(*tasks: int) -> Sequence[Move]:
            z, slopes = probe(tasks[0])
            if self.agrees and problem.n_tasks > 1:
                alpha = self._agreement(problem, tasks[0], slopes, z @ mean.shared)
                v = self._local(flat, z, slopes, sizes, 1 - alpha).add_(alpha * mean.shared)
            else:
                v = self._local(flat, z, slopes, sizes, 1 - self.alpha)
                v.add_(mean.shared, alpha=self.alpha)
            heads = [(flat.heads[k], mean.heads[k]) for k in tasks if self.heads]
            if self.raw_heads:
                raw: list[Move] = [(segment, gradient, 1.0) for segment, gradient in heads]
                return [*self.ball.moves(flat, (flat.shared, v)), *raw]
            return self.ball.moves(flat, (flat.shared, v), *heads, apart=True)

        if self.points == "per-task":
            return aggregate[0](problem.view_at(here.losses, move))
        slopes = torch.cat([probe(k)[1] for k in range(problem.n_tasks)])
        points = _alike(slopes.sign().tolist())
        return aggregate[0](
            problem.view_at_points(here.losses, points, lambda point: move(*points[point]))
        )

    def after_step(self) -> None:
        self.moments = self._proposed

    def _agreement(self, problem: StepProblem, k: int, own: Tensor, mean: Tensor) -> Tensor:
        """The share of the global part for task k, whose slope is ``own`` and whose mean's
        ``mean``."""
        row = list(problem.model.heads).index(problem.objectives[k])
        after = blended(self._proposed[row], own, mean, problem.n_tasks)
        self._proposed[row] = after
        return share(after, self.alpha).to(own)

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
                with problem.flat.shifted((shared, sample, self.mu)) as shift:
                    ahead = problem.evaluate(only)
                    if self.difference == "forward":
                        slopes.append((ahead - here) / self.mu)
                        continue
                    shift((shared, sample, -self.mu))
                    slopes.append((ahead - problem.evaluate(only)) / (2 * self.mu))
        found = torch.stack(slopes)
        problem.note("slope", found, only)
        return found

    def _mode(self, problem: StepProblem) -> AbstractContextManager[None]:
        return problem.evaluation_mode() if self.probe == "eval" else nullcontext()

    def _sizes(self, flat: Parameters, direction: Tensor) -> Tensor:
        """The norms that normalisation compares."""
        if self.normalize == "layer":
            return flat.layer_norms(direction)
        whole: Tensor = direction.norm()
        return whole

    def _local(
        self, flat: Parameters, z: Tensor, slopes: Tensor, sizes: Tensor, part: Tensor | float
    ) -> Tensor:
        """``part`` times the local part; written over noise that no other task needs.

        Args:
            flat: at the parameters.
            z: noise (n, P).
            slopes: derivatives of the task's loss along each sample, (n,).
            sizes: of :math:`g_0`, as :meth:`_sizes` has them.
            part: 1 - alpha.
        """
        if self.n_samples == 1:
            local = z[0] if self.noise == "per-task" else z[0].clone()
            factor = slopes[0] if self.normalize == "none" else slopes[0].sign()
        else:
            local, factor = slopes @ z / self.n_samples, torch.ones_like(slopes[0])
        factor = factor * part
        if self.normalize == "none":
            return local.mul_(factor)
        factor = factor * _ratio(sizes, self._sizes(flat, local))
        if self.normalize == "global":
            return local.mul_(factor)
        return flat.scale_layers_(local, factor)


def _alike(values: Sequence[float]) -> list[list[int]]:
    """Indices of equal values together."""
    found: dict[float, list[int]] = {}
    for k, value in enumerate(values):
        found.setdefault(value, []).append(k)
    return list(found.values())


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / b, 0.0)


def chosen_spans(flat: Parameters, layers: str) -> list[slice]:
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
