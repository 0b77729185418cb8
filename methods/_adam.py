"""Adam for numbers that belong to tasks, not all of which take part in every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mtlbench.interfaces.gradients import in_double


class TaskAdam(Optimizer):
    r"""`"Adam: A Method for Stochastic Optimization" <https://arxiv.org/abs/1412.6980>`_, with a
    count t of steps for every entry.

    With the moving averages m of the gradient g, and v of its square,

    .. math:: \theta_k \leftarrow \theta_k - \eta \frac{m_k / (1 - \beta_1^{t_k})}
        {\sqrt{v_k / (1 - \beta_2^{t_k})} + \epsilon}

    Where all tasks take part in every step it is torch's. Torch has one t for a whole tensor: the
    averages of a task that begins after a thousand steps would count as settled while they are
    still near zero, and its first steps be up to six times too long.

    Args:
        params: each one number a task, (K,).
        lr: :math:`\eta`.
        betas: :math:`\beta_1, \beta_2`.
        eps: :math:`\epsilon`.
        weight_decay: times the parameter, added to the gradient.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move the parameters by their ``grad``; those without one stay, and so does, with all that
        is known of it, an entry whose ``grad`` is NaN: nobody has to wait to see that."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    moved, state = self._moved(p, p.grad, group)
                    p.copy_(moved)
                    self.state[p].update(state)

    @torch.no_grad()
    def peek(self, p: Tensor, grad: Tensor) -> Tensor:
        """What a step along ``grad`` would make of the parameter; nothing moves."""
        group = next(g for g in self.param_groups if any(p is own for own in g["params"]))
        return self._moved(p, grad, group)[0]

    def _moved(
        self, p: Tensor, grad: Tensor, group: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A parameter after a step, and its averages and count then."""
        grad, (beta1, beta2) = grad.add(p, alpha=group["weight_decay"]), group["betas"]
        known = ~grad.isnan()
        zeros = {name: torch.zeros_like(p) for name in ("step", "exp_avg", "exp_avg_sq")}
        # Torch leaves the count on the CPU when it loads.
        before = {name: value.to(p.device) for name, value in (self.state.get(p) or zeros).items()}
        count = before["step"] + 1
        mean = before["exp_avg"].lerp(grad, 1 - beta1)
        square = (beta2 * before["exp_avg_sq"]).addcmul_(grad, grad, value=1 - beta2)
        t = in_double(count)
        step_size = (group["lr"] / (1 - beta1**t)).to(p)
        size = square.sqrt() / (1 - beta2**t).sqrt().to(p)
        moved = p - step_size * mean / (size + group["eps"])
        after = {"step": count, "exp_avg": mean, "exp_avg_sq": square}
        return torch.where(known, moved, p), {
            name: torch.where(known, value, before[name]) for name, value in after.items()
        }
