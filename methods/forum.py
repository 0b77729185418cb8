"""FORUM: held-out losses under the constraint that training loss is as low as descent makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt, Lt
from pydantic import PositiveFloat, PositiveInt
from scipy.optimize import Bounds, LinearConstraint, minimize
from torch import Tensor, nn

from mtlbench.engine.gramian import Array
from mtlbench.interfaces import (
    Further,
    GradientView,
    MethodInfo,
    StepProblem,
    Update,
    WeightingMethod,
)
from mtlbench.methods._adam import TaskAdam
from mtlbench.methods._cosines import SolveError
from mtlbench.methods._solvers import min_norm

EPS = 1e-8


class FORUM(WeightingMethod):
    r"""`"A First-Order Multi-Gradient Algorithm for Multi-Objective Bi-Level Optimization"
    <https://arxiv.org/abs/2401.09257>`_, as its code has it for multi-task learning.

    With logits a, :math:`f(a, \theta) = \operatorname{softmax}(a)^\top L(\theta)` on the batch,
    :math:`\theta_T` after T steps of gradient descent on f, and the unit gradients
    :math:`\hat F_k` of the losses of a batch that is held out, on trunk and heads together,

    .. math:: q = \left( \nabla_a f(a, \theta) - \nabla_a f(a, \theta_T), \nabla_\theta f \right),
        \qquad \pi_k = \rho - \frac{\hat F_k^\top q}{\lVert q \rVert^2}, \qquad
        w = \arg\min_{w \in \Delta, \; \nu \ge \max(0, \pi^\top w)}
        \lVert \hat F^\top w + \nu q \rVert^2 - \rho \lVert q \rVert^2 \nu

    and from the average :math:`\lambda \leftarrow \lambda + (e + 1)^{-3/4} (w - \lambda)`, e the
    number of epochs before,

    .. math:: \nu = \max(0, \pi^\top \lambda), \qquad d = \hat F^\top \lambda + \nu
        \nabla_\theta f, \qquad a \leftarrow \operatorname{Adam}(a, \nu q_a)

    Departs from the authors' code: descent does not stop where f exceeds 1e5, and a step without a
    look is one of f. A wrapper changes where :math:`\nabla_\theta f` is taken in d, no more.

    Costs T + 2 forward and T + K backward passes a step more, and memory for the K gradients.

    Args:
        n_tasks: K.
        rho: :math:`\rho`, how fast the constraint is to be met.
        eta: step size of the descent to :math:`\theta_T`.
        inner: T.
        lr: Adam's learning rate.
        held_out: share of the training data that :math:`\hat F` is taken on.
    """

    info = MethodInfo(
        name="forum",
        title="FORUM",
        year=2024,
        arxiv="2401.09257",
        head_policy="weighted",
        claims=("permutation",),
        further=Further(1, held_out=0.1, forwards=7, backwards=5, backwards_per_task=1),
    )
    lam: Tensor
    epochs: Tensor

    def __init__(
        self,
        n_tasks: int,
        *,
        rho: PositiveFloat = 0.1,
        eta: PositiveFloat = 0.1,
        inner: PositiveInt = 5,
        lr: PositiveFloat = 1e-3,
        held_out: Annotated[float, Gt(0), Lt(1)] = 0.1,
    ) -> None:
        super().__init__(n_tasks)
        further = Further(1, held_out, forwards=inner + 2, backwards=inner, backwards_per_task=1)
        vars(self)["info"] = replace(self.info, further=further)
        self.rho, self.eta, self.inner = rho, eta, inner
        self.logits = nn.Parameter(torch.zeros(n_tasks))
        self.optimizer = TaskAdam([self.logits], lr)
        self.register_buffer("lam", torch.zeros(n_tasks, dtype=torch.float64))
        self.register_buffer("epochs", torch.zeros(n_tasks, dtype=torch.float64))
        self._found: tuple[Tensor, Tensor, Tensor, Update] | None = None

    def look(self, problem: StepProblem) -> None:
        here = problem.view()
        w = self.logits.detach().softmax(0).to(here.losses)
        f = _copied(here.combine(w))
        fallen = here.losses - self._descended(problem, f, w)
        q_a = w * (fallen - w @ fallen)
        others = problem.further[0].view()
        J, heads = others.jacobian(), others.head_grads()
        G = J @ J.T + torch.stack([head @ head for head in heads]).diag()
        norms = G.diagonal().sqrt() + EPS
        with_heads = torch.stack([a @ b for a, b in zip(heads, f.heads, strict=True)])
        along = (J @ f.shared + with_heads) / norms
        size = torch.cat([q_a, f.shared, *f.heads]).square().sum() + EPS
        known = here.fetch(G / norms.outer(norms), along, size[None])
        try:
            shares = torch.from_numpy(_solve(self.rho, *known)).to(self.lam)
        except SolveError:  # gradients that are not finite: the step is skipped for them
            shares = torch.full_like(self.lam, torch.nan)
        lam = self.lam + (self.epochs + 1) ** -0.75 * (shares - self.lam)
        nu = (lam.to(along) @ (self.rho - along / size)).clamp_min(0)
        v = lam.to(norms) / norms
        upper = Update(v @ J, [v_k * head for v_k, head in zip(v, heads, strict=True)])
        self._found = lam, nu * q_a, nu, upper

    def _descended(self, problem: StepProblem, f: Update, w: Tensor) -> Tensor:
        """Losses after descent, whose first gradient is known."""
        flat, total = problem.flat, _copied(f)
        with flat.shifted(*flat.along(total, -self.eta)) as shift:
            for _ in range(self.inner - 1):
                flat.reuse_rows()
                total = total + problem.view().combine(w)
                shift(*flat.along(total, -self.eta))
            return problem.evaluate()

    def weights(self, view: GradientView) -> Tensor:
        return self.logits.detach().softmax(0).to(view.losses)

    def aggregate(self, view: GradientView) -> Update:
        if self._found is None or view.n_tasks == 1:
            return super().aggregate(view)
        _, _, nu, upper = self._found
        return upper + view.combine(nu * self.weights(view))

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        if self._found is not None:
            self.lam, slope, *_ = self._found
            self.logits.grad, self._found = slope.to(self.logits), None
            self.optimizer.step()

    def on_epoch_end(self, epoch: int, mean_losses: Tensor) -> None:
        self.epochs += ~mean_losses.isnan()


def _copied(update: Update) -> Update:
    return Update(update.shared.clone(), [head.clone() for head in update.heads])


def _solve(rho: float, gramian: Array, along: Array, size: Array) -> Array:
    r"""Weights (K,) of the unit gradients.

    The best :math:`\nu` is :math:`\max(0, \pi^\top w)`. What is left is, but for a constant, the
    squared length of :math:`\hat F^\top w` across q, and of its part t along q, :math:`\rho
    \lVert q \rVert t` below :math:`t = \rho \lVert q \rVert` and :math:`t^2` above.
    """
    bound = rho * float(size[0])
    w = min_norm(gramian)
    if w @ along >= bound:
        return w
    across = gramian - np.outer(along, along) / size[0]
    w = _quadratic(across, rho * along)
    if w @ along <= bound:
        return w
    return _quadratic(across, 0 * along, along / bound)


def _quadratic(H: Array, b: Array, one: Array | None = None) -> Array:
    """The least :math:`w^T H w + b^T w` of the simplex, where ``one @ w == 1`` if it is given."""
    scale, K = max(float(np.abs(H).max()), float(np.abs(b).max()), 1e-300), len(b)
    H, b = H / scale, b / scale
    rows = np.ones((1, K)) if one is None else np.stack([np.ones(K), one])

    def cost(w: Array) -> float:
        return float(w @ H @ w + b @ w)

    def slope(w: Array) -> Array:
        return np.asarray(2 * H @ w + b)

    found = minimize(
        cost,
        np.full(K, 1 / K),
        jac=slope,
        method="SLSQP",
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(rows, 1, 1),
        tol=1e-14,
        options={"maxiter": 200},
    )
    w = np.clip(found.x, 0, None)
    return np.asarray(w / w.sum())
