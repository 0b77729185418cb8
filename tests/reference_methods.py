"""Every weighting method again, slowly and obviously: the papers' formulas on explicit gradients,
loops over tasks and coordinates, enumeration and root finding where something is to be solved."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import ClassVar, Protocol

import cvxpy as cp
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, root
from torch import Tensor

Array = NDArray[np.float64]
Gradients = tuple[Tensor, list[Tensor]]
"""Gradients of the shared parameters, (K, P) or (P,), and those of each head."""


class Looked(Protocol):
    """A batch, at the parameters or displaced from them."""

    def gradients_at(self, shared: Tensor | float, heads: Sequence[Tensor | float]) -> Gradients:
        """All gradients where trunk and heads are displaced by so much."""

    def losses_at(self, shared: Tensor, heads: Sequence[Tensor]) -> Tensor:
        """Losses there."""


class Method:
    """Weights, and what follows from them."""

    unit_heads: ClassVar[bool] = False
    options: ClassVar[str] = ""
    """What the library's method is run with where its defaults would show little in three steps."""

    def __init__(self, K: int) -> None:
        self.K = K

    n_further: ClassVar[int] = 0

    def look(self, own: Looked, further: Sequence[Looked], lr: float) -> None:
        """At further batches, before the step."""

    def draw(self, generator: torch.Generator) -> None:
        """Random numbers that are drawn before the gradients are known."""

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        raise NotImplementedError

    def aggregate(
        self, losses: Tensor, J: Tensor, heads: list[Tensor], generator: torch.Generator
    ) -> Gradients:
        w = self.weights(losses, J)
        shared = torch.stack([w[k] * J[k] for k in range(self.K)]).sum(0)
        return shared, heads if self.unit_heads else [w[k] * h for k, h in enumerate(heads)]

    def after_step(self, losses: Tensor, after: Tensor) -> None:
        pass

    def on_epoch_end(self, epoch: int, losses: Tensor) -> None:
        pass


def random_weights(K: int, generator: torch.Generator) -> Tensor:
    return torch.softmax(torch.randn(K, generator=generator, dtype=torch.float64), 0)


# ------------------------------------------------------------------------------------- on losses
class LS(Method):
    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        return torch.ones_like(losses)


class Static(Method):
    options = "weights=1/2/0.5"

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        return torch.tensor([1.0, 2.0, 0.5]).to(losses)


class RLW(Method):
    def draw(self, generator: torch.Generator) -> None:
        self.w = random_weights(self.K, generator)

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        return self.w


class DWA(Method):
    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.epochs: list[Tensor] = []

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        if len(self.epochs) < 2:
            return torch.ones_like(losses)
        powers = [torch.exp(self.epochs[-1][k] / self.epochs[-2][k] / 2) for k in range(self.K)]
        return torch.stack([self.K * power / sum(powers) for power in powers])

    def on_epoch_end(self, epoch: int, losses: Tensor) -> None:
        self.epochs.append(losses)


class FAMO(Method):
    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.xi = torch.zeros(K).double().requires_grad_()
        self.optimizer = torch.optim.Adam([self.xi], lr=0.025, weight_decay=0.01)

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        z = torch.softmax(self.xi, 0).detach()
        return (z / (losses + 1e-8)) / (z / (losses + 1e-8)).sum()

    def after_step(self, losses: Tensor, after: Tensor) -> None:
        delta = torch.log(losses + 1e-8) - torch.log(after + 1e-8)
        self.optimizer.zero_grad()
        (torch.softmax(self.xi, 0) * delta).sum().backward()
        self.optimizer.step()


class Scalarisation(Method):
    """One function of the losses; the weights are its derivatives."""

    def objective(self, losses: Tensor) -> Tensor:
        raise NotImplementedError

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        variable = losses.clone().requires_grad_()
        return torch.autograd.grad(self.objective(variable), variable)[0]


class UWSO(Method):
    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        powers = [torch.exp(1 / loss) for loss in losses]
        return torch.stack([power / sum(powers) for power in powers])


class SI(Scalarisation):
    def objective(self, losses: Tensor) -> Tensor:
        return torch.log(losses).sum()


class GLS(Scalarisation):
    def objective(self, losses: Tensor) -> Tensor:
        return losses.prod() ** (1 / self.K)


class STCH(Scalarisation):
    options = "warmup=0"

    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.nadir: Tensor | None = None

    def objective(self, losses: Tensor) -> Tensor:
        if self.nadir is None:
            return torch.log(losses).sum()
        mu = 1.0
        return self.K * mu * torch.log(torch.exp(torch.log(losses / self.nadir) / mu).sum())

    def on_epoch_end(self, epoch: int, losses: Tensor) -> None:
        if epoch == 0:
            self.nadir = losses


class Learnt(Scalarisation):
    """With parameters s, which descend on the same function by Adam."""

    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.s = torch.zeros(K).double().requires_grad_()
        self.optimizer = torch.optim.Adam([self.s], lr=1e-3)

    def after_step(self, losses: Tensor, after: Tensor) -> None:
        self.optimizer.zero_grad()
        self.objective(losses).backward()
        self.optimizer.step()


class UW(Learnt):
    def objective(self, losses: Tensor) -> Tensor:
        return (0.5 * (torch.exp(-self.s) * losses + self.s)).sum()


class IMTLL(Learnt):
    def objective(self, losses: Tensor) -> Tensor:
        return (torch.exp(self.s) * losses - self.s).sum()


class PBI(Scalarisation):
    def objective(self, losses: Tensor) -> Tensor:
        r = torch.ones_like(losses) / self.K**0.5
        along = (r * losses).sum()
        across = (losses - along * r).square().sum()
        objective: Tensor = along + 5 * (across + 1e-12).sqrt()
        return objective


class COSMOS(Scalarisation):
    def objective(self, losses: Tensor) -> Tensor:
        r = torch.ones_like(losses) / self.K
        return (r * losses).sum() - torch.nn.functional.cosine_similarity(r, losses, dim=0)


class SLAW(Method):
    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.history: list[Tensor] = []

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        self.history.append(losses)
        if len(self.history) == 1:
            return torch.ones_like(losses)
        deviations = torch.stack(self.history).std(0, correction=0).tolist()
        total = sum(1 / s for s in deviations)
        return torch.tensor([self.K / s / total for s in deviations]).to(losses)


class GO4Align(Method):
    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.p = torch.full((K,), 1 / K).double()

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        self.p = self.p * torch.exp(-1e-4 * losses)
        self.p = self.p / self.p.sum()
        gamma = self.p * losses.sum() / losses
        fits = []
        for group in itertools.product((False, True), repeat=self.K):
            chosen = torch.tensor(group)
            if chosen.any() and not chosen.all():
                w = torch.where(chosen, gamma[chosen].mean(), gamma[~chosen].mean())
                fits.append((float(((gamma - w) ** 2).sum()), w))
        return min(fits, key=lambda fit: fit[0])[1]


class LDCMTL(Method):
    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.W = torch.zeros(K).double().requires_grad_()
        self.optimizer = torch.optim.Adam([self.W], lr=1e-3)

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        slopes = torch.zeros(self.K)
        for k in range(self.K - 1):
            slopes[k] += torch.sign(losses[k] - losses[k + 1])
            slopes[k + 1] -= torch.sign(losses[k] - losses[k + 1])
        return torch.softmax(self.W, 0).detach() + 0.1 * slopes

    def after_step(self, losses: Tensor, after: Tensor) -> None:
        self.optimizer.zero_grad()
        (torch.softmax(self.W, 0) * losses).sum().backward()
        self.optimizer.step()


# ---------------------------------------------------------------------------------- on the Gramian
class OnGramian(Method):
    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        G = torch.stack([torch.stack([a @ b for b in J]) for a in J])
        return torch.from_numpy(self.solve(G.double().numpy())).to(losses)

    def solve(self, G: Array) -> Array:
        raise NotImplementedError


class MGDA(OnGramian):
    unit_heads = True

    def solve(self, G: Array) -> Array:
        return min_norm_by_enumeration(G)


class CRMOGM(MGDA):
    average: Array | None = None

    def solve(self, G: Array) -> Array:
        found = super().solve(G)
        self.average = found if self.average is None else 0.9 * self.average + 0.1 * found
        return self.average


class EPO(Method):
    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        weighted = losses.numpy() / self.K**0.5
        shares = weighted / weighted.sum()
        mu = sum(s * np.log(s * self.K) for s in shares)
        a = np.array([(np.log(s * self.K) - mu) / self.K**0.5 for s in shares])
        G = (J @ J.T).numpy()
        assert mu > 1e-4
        bounds = {}
        for k, pull in enumerate(G @ a):
            if weighted[k] == weighted.max() or not (G @ a > 0).any():
                bounds[k] = 0.0
            elif pull <= 0:
                bounds[k] = float(pull)
        return torch.from_numpy(programme_by_enumeration(G @ a, G, bounds)).to(losses)


class CAGrad(OnGramian):
    unit_heads = True

    def solve(self, G: Array) -> Array:
        return cagrad_by_enumeration(G, 0.4) / (1 + 0.4**2)


class FairGrad(OnGramian):
    unit_heads = True

    def solve(self, G: Array) -> Array:
        return fair_by_root(G, 2.0)


class NashMTL(OnGramian):
    def solve(self, G: Array) -> Array:
        return fair_by_root(G, 1.0)

    def aggregate(
        self, losses: Tensor, J: Tensor, heads: list[Tensor], generator: torch.Generator
    ) -> Gradients:
        shared, own = super().aggregate(losses, J, heads, generator)
        return shared / max(1.0, float(shared.norm())), own


# ------------------------------------------------------------------------------- on the gradients
class OnJacobian(Method):
    """A direction; every head gets its own gradient."""

    unit_heads = True

    def direction(self, losses: Tensor, J: Tensor) -> Tensor:
        raise NotImplementedError

    def aggregate(
        self, losses: Tensor, J: Tensor, heads: list[Tensor], generator: torch.Generator
    ) -> Gradients:
        return self.direction(losses, J), heads


class Random(RLW):
    unit_heads = True


class SDMGrad(OnJacobian):
    def direction(self, losses: Tensor, J: Tensor) -> Tensor:
        lam, g0 = 0.3, J.mean(0)
        rows = J + lam * g0
        v = min_norm_by_enumeration((rows @ rows.T).numpy())
        return (torch.from_numpy(v) @ J + lam * g0) / (1 + lam)


class SDMGradOfThree(Method):
    unit_heads, options, n_further = True, "draws=3", 2

    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.w = torch.full((K,), 1 / K).double()

    def look(self, own: Looked, further: Sequence[Looked], lr: float) -> None:
        (J1, _), (J2, _) = (each.gradients_at(0.0, [0.0] * self.K) for each in further)
        GG = J1 @ J2.T
        scale = sum(max(float(GG[k, k]), 0.0) ** 0.5 for k in range(self.K)) / self.K
        GG = GG / (scale**2 + 1e-8)
        w = self.w.clone().requires_grad_()
        optimizer = torch.optim.SGD([w], lr=5, momentum=0.5)
        for _ in range(20):
            w.grad = GG @ w.detach() + 0.3 * GG.mean(1)
            optimizer.step()
            w.data.copy_(simplex_by_root(w.detach()))
        self.w = w.detach()

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        return (self.w + 0.3 / self.K) / 1.3


class MoDo(Method):
    options, n_further = "gamma=0.3", 2

    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.lam = torch.full((K,), 1 / K).double()

    def look(self, own: Looked, further: Sequence[Looked], lr: float) -> None:
        (J1, _), (J2, _) = (each.gradients_at(0.0, [0.0] * self.K) for each in further)
        self.lam = simplex_by_root(self.lam - 0.3 * (J1 @ J2.T @ self.lam + 0.1 * self.lam))

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        return self.lam


class AutoLambda(Method):
    options, n_further = "lr=0.05", 1

    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.lam = torch.full((K,), 0.1).double().requires_grad_()
        self.optimizer = torch.optim.Adam([self.lam], lr=0.05)

    def look(self, own: Looked, further: Sequence[Looked], lr: float) -> None:
        J, heads = own.gradients_at(0.0, [0.0] * self.K)
        lam = self.lam.detach()
        step = torch.stack([-lr * lam[k] * J[k] for k in range(self.K)]).sum(0)
        rows, d_heads = further[0].gradients_at(step, [-lr * lam[k] * heads[k] for k in range(3)])
        d = rows.sum(0)
        eps = 0.01 / torch.cat([d, *d_heads]).norm()
        above = own.losses_at(eps * d, [eps * h for h in d_heads])
        below = own.losses_at(-eps * d, [-eps * h for h in d_heads])
        self.lam.grad = -lr * (above - below) / (2 * eps)
        self.optimizer.step()

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        return self.lam.detach()


class MOML(Method):
    options, n_further = "lr=0.05", 1

    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.a = torch.zeros(K).double().requires_grad_()
        self.optimizer = torch.optim.Adam([self.a], lr=0.05)

    def look(self, own: Looked, further: Sequence[Looked], lr: float) -> None:
        a, nowhere = self.a.detach(), [0.0] * self.K
        w = torch.softmax(a, 0)
        J, heads = own.gradients_at(0.0, nowhere)
        shift = -0.1 * (w @ J), [-0.1 * w[k] * heads[k] for k in range(self.K)]
        G, upper = whole(J, heads), whole(*further[0].gradients_at(*shift))
        S = torch.stack([w[j] * (torch.eye(self.K).double()[j] - w) for j in range(self.K)])
        rows = torch.stack([-0.1 * row @ G.T @ S for row in upper])
        rows = torch.stack([row / row.norm() for row in rows])
        self.a.grad = torch.from_numpy(min_norm_by_enumeration((rows @ rows.T).numpy())) @ rows
        self.optimizer.step()

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        return torch.softmax(self.a.detach(), 0)


class FORUM(Method):
    options, n_further = "inner=3,lr=0.05", 1

    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.a = torch.zeros(K).double().requires_grad_()
        self.optimizer = torch.optim.Adam([self.a], lr=0.05)
        self.lam, self.epochs = torch.zeros(K).double(), 0

    def look(self, own: Looked, further: Sequence[Looked], lr: float) -> None:
        K, nowhere = self.K, [torch.zeros(()).double()] * self.K
        w = torch.softmax(self.a.detach(), 0)
        shift: Tensor = torch.zeros(()).double()
        head_shifts = nowhere
        for _ in range(3):
            J, heads = own.gradients_at(shift, head_shifts)
            shift = shift - 0.1 * w @ J
            head_shifts = [old - 0.1 * w[k] * heads[k] for k, old in enumerate(head_shifts)]
        J, heads = own.gradients_at(0.0, nowhere)
        f = torch.cat([w @ J, *(w[k] * heads[k] for k in range(K))])
        S = torch.stack([w[j] * (torch.eye(K).double()[j] - w) for j in range(K)])
        start = own.losses_at(torch.zeros(()).double(), nowhere)
        q_a = S @ start - S @ own.losses_at(shift, head_shifts)
        q = torch.cat([q_a, f])
        rows = whole(*further[0].gradients_at(0.0, nowhere))
        rows = torch.stack([row / (1e-8 + row.norm()) for row in rows])
        F = torch.cat([torch.zeros(K, K).double(), rows], 1)
        pi = torch.stack([0.1 - q @ row / (q @ q + 1e-8) for row in F])
        x, v = cp.Variable(K, nonneg=True), cp.Variable(nonneg=True)
        point = F.numpy().T @ x + q.numpy() * v
        cost = cp.sum_squares(point) - 0.1 * float(q @ q + 1e-8) * v
        cp.Problem(cp.Minimize(cost), [cp.sum(x) == 1, v >= pi.numpy() @ x]).solve(cp.CLARABEL)
        self.lam = self.lam + (self.epochs + 1) ** -0.75 * (torch.from_numpy(x.value) - self.lam)
        self.nu = max(float(self.lam @ pi), 0.0)
        self.upper, self.w, self.slope = self.lam @ rows, w, self.nu * q_a

    def aggregate(
        self, losses: Tensor, J: Tensor, heads: list[Tensor], generator: torch.Generator
    ) -> Gradients:
        upper = self.upper.split([J.shape[1], *map(len, heads)])
        own = [upper[k + 1] + self.nu * self.w[k] * heads[k] for k in range(self.K)]
        return upper[0] + self.nu * (self.w @ J), own

    def after_step(self, losses: Tensor, after: Tensor) -> None:
        self.a.grad = self.slope
        self.optimizer.step()

    def on_epoch_end(self, epoch: int, losses: Tensor) -> None:
        self.epochs += 1


class UPGrad(OnJacobian):
    def direction(self, losses: Tensor, J: Tensor) -> Tensor:
        return torch.stack([dual_cone_by_enumeration(J, g) for g in J]).mean(0)


class DualProj(OnJacobian):
    def direction(self, losses: Tensor, J: Tensor) -> Tensor:
        return dual_cone_by_enumeration(J, J.mean(0))


class AlignedMTL(OnJacobian):
    def direction(self, losses: Tensor, J: Tensor) -> Tensor:
        U, sizes, Vt = torch.linalg.svd(J, full_matrices=False)
        aligned: Tensor = sizes.min() * U @ Vt
        return aligned.sum(0)


class ConFIG(OnJacobian):
    def direction(self, losses: Tensor, J: Tensor) -> Tensor:
        units = torch.stack([g / g.norm() for g in J])
        x = torch.linalg.pinv(units).sum(1)
        u: Tensor = x / x.norm()
        return torch.stack([g @ u for g in J]).sum() * u


class IMTLG(Method):
    unit_heads = True

    """The paper's closed form, first the weights of all tasks but the first."""

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        units = [g / g.norm() for g in J]
        D = torch.stack([J[0] - g for g in J[1:]])
        U = torch.stack([units[0] - u for u in units[1:]])
        others = J[0] @ U.T @ torch.linalg.inv(D @ U.T)
        return torch.cat([1 - others.sum(0, keepdim=True), others])


class IMTL(IMTLG):
    """The same on the gradients of the scaled losses."""

    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.s = torch.zeros(K).double().requires_grad_()
        self.optimizer = torch.optim.Adam([self.s], lr=1e-3)

    def aggregate(
        self, losses: Tensor, J: Tensor, heads: list[Tensor], generator: torch.Generator
    ) -> Gradients:
        scales = torch.exp(self.s).detach()
        own = [scales[k] * h for k, h in enumerate(heads)]
        return super().aggregate(losses, scales[:, None] * J, own, generator)

    def after_step(self, losses: Tensor, after: Tensor) -> None:
        self.optimizer.zero_grad()
        (torch.exp(self.s) * losses - self.s).sum().backward()
        self.optimizer.step()


class Surgery(OnJacobian):
    """Task i meets the other tasks in a random order."""

    def draw(self, generator: torch.Generator) -> None:
        draws = torch.rand(self.K, self.K, generator=generator)
        self.orders = [
            [int(j) for j in row.argsort() if int(j) != i] for i, row in enumerate(draws)
        ]


class PCGrad(Surgery):
    def direction(self, losses: Tensor, J: Tensor) -> Tensor:
        total = torch.zeros_like(J[0])
        for i in range(self.K):
            g = J[i].clone()
            for j in self.orders[i]:
                if g @ J[j] < 0:
                    g = g - (g @ J[j]) / (J[j] @ J[j]) * J[j]
            total += g
        return total


class GradVac(Surgery):
    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.usual = torch.zeros(K, K).double()

    def direction(self, losses: Tensor, J: Tensor) -> Tensor:
        beta, total = 0.01, torch.zeros_like(J[0])
        for i in range(self.K):
            g = J[i].clone()
            for j in self.orders[i]:
                phi, usual = g @ J[j] / (g.norm() * J[j].norm()), self.usual[i, j].clone()
                if phi < usual:
                    across = torch.sqrt(1 - usual**2)
                    pull = g.norm() * (usual * torch.sqrt(1 - phi**2) - phi * across)
                    g = g + pull / (J[j].norm() * across) * J[j]
                self.usual[i, j] = (1 - beta) * usual + beta * phi
            total += g
        return total


class GradDrop(Method):
    unit_heads = True

    def aggregate(
        self, losses: Tensor, J: Tensor, heads: list[Tensor], generator: torch.Generator
    ) -> Gradients:
        K, P = J.shape
        u = torch.rand(P, generator=generator, dtype=J.dtype)
        out = torch.zeros(P, dtype=J.dtype)
        for i in range(P):
            total = sum(abs(float(J[k, i])) for k in range(K))
            purity = 0.5 * (1 + sum(float(J[k, i]) for k in range(K)) / total) if total else 0.5
            for k in range(K):
                positive, negative = bool(J[k, i] > 0), bool(J[k, i] < 0)
                if (positive and purity > u[i]) or (negative and purity < u[i]):
                    out[i] += J[k, i]
        return out, heads


class TrimmedMean(OnJacobian):
    def direction(self, losses: Tensor, J: Tensor) -> Tensor:
        middle = [sorted(column)[1:-1] for column in J.T.tolist()]
        return torch.tensor([sum(kept) / len(kept) for kept in middle]).to(J)


class GradNorm(Method):
    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.w = torch.ones(K).double().requires_grad_()
        self.optimizer = torch.optim.Adam([self.w], lr=0.025)
        self.first: Tensor | None = None

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        self.norms = torch.stack([g.norm() for g in J])
        return self.w.detach().clone()

    def after_step(self, losses: Tensor, after: Tensor) -> None:
        self.first = losses if self.first is None else self.first
        progress = losses / self.first
        sizes = self.w * self.norms
        target = sizes.detach().mean() * (progress / progress.mean()) ** 1.5
        self.optimizer.zero_grad()
        (sizes - target).abs().sum().backward()
        self.optimizer.step()
        with torch.no_grad():
            self.w.mul_(self.K / self.w.sum())


class MoCo(OnJacobian):
    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.t, self.simplex = 0, torch.full((K,), 1 / K).double()
        self.Y: Tensor | None = None

    def direction(self, losses: Tensor, J: Tensor) -> Tensor:
        self.t += 1
        beta, gamma = 0.5 / self.t**0.5, 0.1 / self.t**0.5
        self.Y = J.clone() if self.Y is None else self.Y - beta * (self.Y - J)
        pull = torch.stack([y @ (self.simplex @ self.Y) for y in self.Y])
        self.simplex = simplex_by_root(self.simplex - gamma * pull)
        return self.simplex @ self.Y


class DBMTL(Method):
    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.averages: list[Tensor | float] = [0.0] * K

    def aggregate(
        self, losses: Tensor, J: Tensor, heads: list[Tensor], generator: torch.Generator
    ) -> Gradients:
        logs = [J[k] / (losses[k] + 1e-8) for k in range(self.K)]
        own = [h / (losses[k] + 1e-8) for k, h in enumerate(heads)]
        mixed = [0.9 * old + 0.1 * new for old, new in zip(self.averages, logs, strict=True)]
        longest = max(float(g.norm()) for g in mixed)
        self.averages = list(mixed)
        return torch.stack([longest * g / g.norm() for g in mixed]).sum(0), own


class ExcessMTL(Method):
    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.alpha = torch.full((K,), 1 / K).double()
        self.past: list[Tensor] = []
        self.first: list[float] = []

    def weights(self, losses: Tensor, J: Tensor) -> Tensor:
        self.past.append(J.clone())
        excess = []
        for k in range(self.K):
            total = [sum(float(past[k, i]) ** 2 for past in self.past) for i in range(J.shape[1])]
            terms = zip(J[k].tolist(), total, strict=True)
            excess.append(sum(g**2 / s**0.5 for g, s in terms if s > 0))
        self.first = self.first or excess
        for k in range(self.K):
            self.alpha[k] *= np.exp(0.01 * excess[k] / self.first[k])
        self.alpha = self.alpha / self.alpha.sum()
        return self.alpha.to(losses)


class SAMGS(OnJacobian):
    def __init__(self, K: int) -> None:
        super().__init__(K)
        self.t, self.v, self.m = 0, 0.0, [torch.zeros(1).double()] * K

    def direction(self, losses: Tensor, J: Tensor) -> Tensor:
        self.t += 1
        sizes = [float(g.norm()) for g in J]
        pairs = [2 * a * b / (a * a + b * b) for a, b in itertools.combinations(sizes, 2)]
        similar = sum(pairs) / len(pairs)
        self.m = [0.9 * m + 0.1 * g for m, g in zip(self.m, J, strict=True)]
        self.v = 0.99 * self.v + 0.01 * (1 - similar) ** 2 + 1e-8
        if similar < 0.1:
            mean = sum(sizes) / self.K
            return torch.stack([mean * g / g.norm() for g in J]).sum(0)
        root = (self.v / (1 - 0.99**self.t)) ** 0.5
        lengths = [m.norm() / (1 - 0.9**self.t) / root for m in self.m]
        return torch.stack([w * g for w, g in zip(lengths, J, strict=True)]).sum(0)


METHODS: dict[str, type[Method]] = {
    "aligned_mtl": AlignedMTL,
    "autolambda": AutoLambda,
    "cagrad": CAGrad,
    "config": ConFIG,
    "cosmos": COSMOS,
    "crmogm": CRMOGM,
    "db_mtl": DBMTL,
    "dualproj": DualProj,
    "dwa": DWA,
    "epo": EPO,
    "excessmtl": ExcessMTL,
    "fairgrad": FairGrad,
    "famo": FAMO,
    "forum": FORUM,
    "gls": GLS,
    "go4align": GO4Align,
    "graddrop": GradDrop,
    "gradnorm": GradNorm,
    "gradvac": GradVac,
    "imtl": IMTL,
    "imtl_g": IMTLG,
    "imtl_l": IMTLL,
    "ldc_mtl": LDCMTL,
    "ls": LS,
    "mgda": MGDA,
    "moco": MoCo,
    "modo": MoDo,
    "moml": MOML,
    "nashmtl": NashMTL,
    "pbi": PBI,
    "pcgrad": PCGrad,
    "random": Random,
    "rlw": RLW,
    "sam_gs": SAMGS,
    "sdmgrad": SDMGrad,
    "si": SI,
    "slaw": SLAW,
    "static": Static,
    "stch": STCH,
    "trimmed_mean": TrimmedMean,
    "upgrad": UPGrad,
    "uw": UW,
    "uw_so": UWSO,
}


# ---------------------------------------------------------------------------------------- solvers
def subsets(K: int, smallest: int) -> Iterator[list[int]]:
    """Of the numbers below K."""
    for size in range(smallest, K + 1):
        yield from map(list, itertools.combinations(range(K), size))


def min_norm_by_enumeration(G: Array) -> Array:
    """The best of the stationary points on every face of the simplex."""
    K = len(G)
    candidates = []
    for face in subsets(K, 1):
        size = len(face)
        system = np.ones((size + 1, size + 1))
        system[:size, :size], system[size, size] = G[np.ix_(face, face)], 0
        solution = np.linalg.lstsq(system, np.eye(size + 1)[size], rcond=None)[0]
        w = np.zeros(K)
        w[face] = solution[:size]
        if w.min() >= -1e-12 and abs(w.sum() - 1) < 1e-9:
            candidates.append(w)
    return np.asarray(min(candidates, key=lambda w: float(w @ G @ w)))


def programme_by_enumeration(objective: Array, rows: Array, bounds: dict[int, float]) -> Array:
    """The corner of ``{w on the simplex, rows[k] @ w >= bounds[k]}`` with the largest
    ``objective @ w``: every choice of K - 1 inequalities that hold with equality."""
    K = len(objective)
    inequalities = [(np.eye(K)[k], 0.0) for k in range(K)]
    inequalities += [(rows[k], bound) for k, bound in bounds.items()]
    corners = []
    for binding in itertools.combinations(inequalities, K - 1):
        system = np.stack([np.ones(K), *(row for row, _ in binding)])
        if abs(np.linalg.det(system / np.linalg.norm(system, axis=1, keepdims=True))) > 1e-12:
            w = np.linalg.solve(system, np.array([1.0, *(bound for _, bound in binding)]))
            if all(row @ w >= bound - 1e-9 * np.linalg.norm(row) for row, bound in inequalities):
                corners.append(w)
    best = np.asarray(max(corners, key=lambda w: float(objective @ w)))
    return np.where(np.abs(best) < 1e-12, 0, best)


def whole(J: Tensor, heads: Sequence[Tensor]) -> Tensor:
    """Gradients of trunk and heads together, each with zeros for the other heads."""
    return torch.cat([J, torch.block_diag(*(head[None] for head in heads))], 1)


def fair_by_root(G: Array, alpha: float) -> Array:
    """``G w = w^(-1 / alpha)`` as a system of equations in log w."""
    scale = float(np.trace(G)) / len(G)

    def residual(x: Array) -> Array:
        return np.asarray(G / scale @ np.exp(x) - np.exp(-x / alpha))

    found = root(residual, np.zeros(len(G)), tol=1e-13)
    w = np.exp(found.x)
    assert np.allclose((G / scale @ w) ** alpha * w, 1, rtol=1e-8)
    return np.asarray(w * scale ** (-alpha / (1 + alpha)))


def cagrad_by_enumeration(G: Array, c: float) -> Array:
    """Weights of ``argmax min_k g_k d`` over the ball ``|d - g_0| <= c |g_0|``.

    It is on the sphere, and some tasks A attain the minimum t: d is ``g_0 + J_A' x`` with ``J_A d =
    t``, and ``|J_A' x| = c |g_0|`` is a quadratic equation in t.
    """
    K = len(G)
    mean = np.full(K, 1 / K)
    candidates = []
    for active in subsets(K, 1):
        A, inner, one = G[np.ix_(active, active)], (G @ mean)[active], np.ones(len(active))
        a, b = one @ np.linalg.solve(A, one), one @ np.linalg.solve(A, inner)
        rest = inner @ np.linalg.solve(A, inner) - c**2 * (mean @ G @ mean)
        spread = np.sqrt(max(b**2 - a * rest, 0))
        for t in ((b + spread) / a, (b - spread) / a):
            x = np.linalg.solve(A, t * one - inner)
            w = mean.copy()
            w[active] += c * np.sqrt(mean @ G @ mean) / np.sqrt(x @ A @ x) * x
            candidates.append(w)
    return np.asarray(max(candidates, key=lambda w: float((G @ w).min())))


def dual_cone_by_enumeration(J: Tensor, g: Tensor) -> Tensor:
    """The nearest x to g with ``J x >= 0``: g without its part along the rows that bind."""
    candidates: list[Tensor] = []
    for binding in subsets(len(J), 0):
        A = J[binding]
        x = g - A.T @ torch.linalg.inv(A @ A.T) @ A @ g
        if ((J @ x) >= -1e-10 * J.norm(dim=1) * g.norm()).all():
            candidates.append(x)
    return min(candidates, key=lambda x: float((x - g).norm()))


def simplex_by_root(v: Tensor) -> Tensor:
    """The nearest point of the simplex: ``max(v - tau, 0)`` with the tau that makes the sum 1."""

    def excess(tau: float) -> float:
        return float((v - tau).clamp_min(0).sum()) - 1

    tau = brentq(excess, float(v.min()) - 1, float(v.max()), xtol=1e-14)
    return (v - tau).clamp_min(0)
