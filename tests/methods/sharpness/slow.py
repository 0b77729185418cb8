"""The wrappers with all their options again, slowly: a copy of the network for each point, explicit
loops, textbook formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mtlbench import MultiTaskModel
from tests.reference import Gradients, Method, Step, flattened, head_params, shared_params
from tests.reference import Wrapper as Base


def perturbation(rho: float, adaptive: bool, *blocks: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Of each ``(theta, direction)``, all together of length ``rho``."""
    scales = [theta.abs() if adaptive else torch.ones_like(theta) for theta, _ in blocks]
    norm = torch.cat([t * d for t, (_, d) in zip(scales, blocks, strict=True)]).norm()
    return [
        rho * t * t * d / norm if norm > 0 else torch.zeros_like(d)
        for t, (_, d) in zip(scales, blocks, strict=True)
    ]


def apart(rho: float, adaptive: bool, *blocks: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Of each ``(theta, direction)``, each of length ``rho``."""
    return [perturbation(rho, adaptive, block)[0] for block in blocks]


@dataclass
class Slow(Base):
    """What they have in common."""

    adaptive: bool = False

    @property
    def parts(self) -> int:
        return 1

    def ascent(self, blocks: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        rule = perturbation if self.blocks == "joint" else apart
        return rule(self.rho, self.adaptive, *blocks)


def theta(step: Step) -> Tensor:
    return flattened(shared_params(step.model)).detach()


def head(step: Step, k: int) -> Tensor:
    return flattened(head_params(step.model, k)).detach()


@dataclass
class SlowSAM(Slow):
    def sharp(self, step: Step) -> Gradients:
        J, heads = step.gradients()
        K = len(heads)
        blocks = [(theta(step), J.mean(0))]
        blocks += [(head(step, k), h / K) for k, h in enumerate(heads)]
        eps, *eps_h = self.ascent(blocks)
        there = step.moved(eps, dict(enumerate(eps_h)))
        return step.gradients(lambda k: there)

    def update(
        self, step: Step, losses: Tensor, methods: list[Method], noise: torch.Generator
    ) -> Gradients:
        return methods[0].aggregate(losses, *self.sharp(step), noise)


@dataclass
class SlowLookSAM(SlowSAM):
    every: int = 2
    look_alpha: float = 0.7
    steps: int = 0
    orthogonal: list[Tensor] = field(default_factory=list)

    def update(
        self, step: Step, losses: Tensor, methods: list[Method], noise: torch.Generator
    ) -> Gradients:
        self.steps += 1
        J, heads = step.gradients()
        if (self.steps - 1) % self.every:
            shared, own = methods[0].aggregate(losses, J, heads, noise)
            bent = [
                d + self.look_alpha * d.norm() / v.norm() * v if v.norm() > 0 else d
                for d, v in zip([shared, *own], self.orthogonal, strict=True)
            ]
            return bent[0], bent[1:]
        J_sharp, heads_sharp = self.sharp(step)
        K = len(heads)
        self.orthogonal = []
        for g, s in zip(
            [J.mean(0), *(h / K for h in heads)],
            [J_sharp.mean(0), *(h / K for h in heads_sharp)],
            strict=True,
        ):
            cosine = (g @ s) / (g.norm() * s.norm())
            self.orthogonal.append(s - s.norm() * cosine * g / g.norm())
        return methods[0].aggregate(losses, J_sharp, heads_sharp, noise)


@dataclass
class SlowLSAM(Slow):
    def sharp(self, step: Step) -> Gradients:
        J, heads = step.gradients()

        def there(k: int) -> MultiTaskModel:
            eps, eps_h = self.ascent([(theta(step), J[k]), (head(step, k), heads[k])])
            return step.moved(eps, {k: eps_h})

        return step.gradients(there)

    def update(
        self, step: Step, losses: Tensor, methods: list[Method], noise: torch.Generator
    ) -> Gradients:
        return methods[0].aggregate(losses, *self.sharp(step), noise)


@dataclass
class SlowPoints(Slow):
    """One point for all tasks, or one for each."""

    points: str = "common"

    def displacement(
        self, blocks: list[tuple[Tensor, Tensor]], k: int, noise: torch.Generator
    ) -> list[Tensor]:
        return self.ascent(blocks)

    def sharp(
        self, step: Step, J: Tensor, heads: list[Tensor], noise: torch.Generator
    ) -> Gradients:
        K = len(heads)
        if self.points == "common":
            blocks = [(theta(step), J.mean(0))]
            blocks += [(head(step, k), h / K) for k, h in enumerate(heads)]
            eps, *eps_h = self.displacement(blocks, 0, noise)
            common = step.moved(eps, dict(enumerate(eps_h)))
            return step.gradients(lambda k: common)

        def there(k: int) -> MultiTaskModel:
            own = [(theta(step), J[k]), (head(step, k), heads[k])]
            eps, eps_h = self.displacement(own, k, noise)
            return step.moved(eps, {k: eps_h})

        return step.gradients(there)

    def update(
        self, step: Step, losses: Tensor, methods: list[Method], noise: torch.Generator
    ) -> Gradients:
        J, heads = step.gradients()
        sharp = self.sharp(step, J, list(heads), noise)
        return methods[0].aggregate(losses, *sharp, noise)


@dataclass
class SlowFriendlySAM(SlowPoints):
    sigma: float = 1.0
    lam: float = 0.9
    means: dict[int, list[Tensor]] = field(default_factory=dict)

    def displacement(
        self, blocks: list[tuple[Tensor, Tensor]], k: int, noise: torch.Generator
    ) -> list[Tensor]:
        old = self.means.get(k, [torch.zeros_like(g) for _, g in blocks])
        new = [self.lam * m + (1 - self.lam) * g for m, (_, g) in zip(old, blocks, strict=True)]
        self.means[k] = new
        return self.ascent(
            [(at, g - self.sigma * m) for m, (at, g) in zip(new, blocks, strict=True)]
        )


@dataclass
class SlowESAM(SlowPoints):
    beta: float = 0.5

    def displacement(
        self, blocks: list[tuple[Tensor, Tensor]], k: int, noise: torch.Generator
    ) -> list[Tensor]:
        whole = self.ascent(blocks)
        chosen = [torch.empty_like(e).bernoulli_(self.beta, generator=noise) for e in whole]
        return [e * b / self.beta for e, b in zip(whole, chosen, strict=True)]


@dataclass
class SlowGSAM(SlowPoints):
    gap: float = 0.2

    def update(
        self, step: Step, losses: Tensor, methods: list[Method], noise: torch.Generator
    ) -> Gradients:
        J, heads = step.gradients()
        J_sharp, heads_sharp = self.sharp(step, J, list(heads), noise)
        K = len(heads)
        if self.points == "per-task":
            rows = [
                self.changed([s, s_h], [g, g_h], [s, s_h])
                for g, g_h, s, s_h in zip(J, heads, J_sharp, heads_sharp, strict=True)
            ]
            stacked = torch.stack([row for row, _ in rows])
            return methods[0].aggregate(losses, stacked, [own for _, own in rows], noise)
        d, own = methods[0].aggregate(losses, J_sharp, heads_sharp, noise)
        plain = [J.mean(0), *(h / K for h in heads)]
        sharp = [J_sharp.mean(0), *(h / K for h in heads_sharp)]
        shared, *changed = self.changed([d, *own], plain, sharp)
        return shared, changed

    def changed(self, d: list[Tensor], g: list[Tensor], s: list[Tensor]) -> list[Tensor]:
        if self.blocks == "separate":
            return [self.one(*part) for part in zip(d, g, s, strict=True)]
        sizes = [len(part) for part in d]
        return list(self.one(torch.cat(d), torch.cat(g), torch.cat(s)).split(sizes))

    def one(self, d: Tensor, g: Tensor, s: Tensor) -> Tensor:
        upright = g - (g @ s) / (s @ s) * s
        step: Tensor = d - self.gap * (d.norm() / s.norm()) * upright
        return step


@dataclass
class SlowWSAM(SlowPoints):
    gamma: float = 0.9

    def update(
        self, step: Step, losses: Tensor, methods: list[Method], noise: torch.Generator
    ) -> Gradients:
        J, heads = step.gradients()
        J_sharp, heads_sharp = self.sharp(step, J, list(heads), noise)
        weight = self.gamma / (1 - self.gamma)
        rows = J + weight * (J_sharp - J)
        own = [h + weight * (s - h) for h, s in zip(heads, heads_sharp, strict=True)]
        return methods[0].aggregate(losses, rows, own, noise)


@dataclass
class SlowFMTL(SlowLSAM):
    blocks: str = "separate"
    direct: bool = False
    flatness: str = "own"

    @property
    def parts(self) -> int:
        return 1 if self.direct or self.flatness == "reused" else 2

    def update(
        self, step: Step, losses: Tensor, methods: list[Method], noise: torch.Generator
    ) -> Gradients:
        J, heads = step.gradients()
        J_sharp, heads_sharp = self.sharp(step)
        if self.direct:
            return methods[0].aggregate(losses, J_sharp, heads_sharp, noise)[0], heads_sharp
        loss_part, _ = methods[0].aggregate(losses, J, heads, noise)
        flat = J_sharp - J
        if self.flatness == "reused":
            w = methods[0].weights(losses, J)
            return loss_part + sum(w[k] * flat[k] for k in range(len(w))), heads_sharp
        size = flat.norm() / J.norm() if self.flatness == "rescaled" else 1.0
        flat_part, _ = methods[1].aggregate(losses, flat / size, heads, noise)
        return loss_part + size * flat_part, heads_sharp


@dataclass
class SlowSAMO(Slow):
    noise: str = "per-task"
    difference: str = "central"
    normalize: str = "layer"
    spans: Sequence[slice] = (slice(None),)
    n_samples: int = 1
    heads: bool = True
    agreement: bool = False
    seen: dict[int, list[Tensor]] = field(default_factory=dict)
    """Of each task the slopes of its own loss and of the others' mean, at every step."""

    def update(
        self, step: Step, losses: Tensor, methods: list[Method], noise: torch.Generator
    ) -> Gradients:
        J, own = step.gradients()
        g0, K = J.mean(0), len(own)
        shared_noise = self._draw(g0, noise) if self.noise == "shared" else None

        def there(k: int) -> MultiTaskModel:
            z = self._draw(g0, noise) if shared_noise is None else shared_noise
            slopes = [self._slope(step, k, sample) for sample in z]
            local = sum((c * sample for c, sample in zip(slopes, z, strict=True)), 0 * g0)
            alpha = self.alpha
            if self.agreement:
                mine = torch.stack(slopes)
                pair = torch.stack([mine, (K * z @ g0 - mine) / (K - 1)])
                self.seen.setdefault(k, []).append(pair)
                alpha = self._agreed(self.seen[k])
            v = alpha * g0 + (1 - alpha) * self._normalized(step, local / len(z), g0)
            (eps,) = perturbation(self.rho, self.adaptive, (theta(step), v))
            (eps_h,) = perturbation(self.rho, self.adaptive, (head(step, k), own[k] / K))
            return step.moved(eps, {k: eps_h} if self.heads else {})

        return methods[0].aggregate(losses, *step.gradients(there), noise)

    def _agreed(self, seen: list[Tensor]) -> float:
        weights = [0.01 * 0.99**age for age in reversed(range(len(seen)))]
        pairs = [(w, pair) for w, pair in zip(weights, seen, strict=True)]
        product, a, b = (
            sum(w * float((pair[i] * pair[j]).mean()) for w, pair in pairs)
            for i, j in ((0, 1), (0, 0), (1, 1))
        )
        cosine = sum(weights) * product / math.sqrt(a * b)
        if cosine > 0:
            return self.alpha + (1 - self.alpha) * cosine
        return self.alpha * (1 + cosine)

    def _draw(self, like: Tensor, noise: torch.Generator) -> Tensor:
        z = torch.zeros(self.n_samples, like.numel(), dtype=like.dtype)
        for span in self.spans:
            z[:, span].normal_(generator=noise)
        return z

    def _slope(self, step: Step, k: int, z: Tensor) -> Tensor:
        def at(distance: float) -> Tensor:
            model = step.moved(distance * z, {})
            model.train(self.probe == "train")
            return step.losses(model)[k].detach()

        if self.difference == "forward":
            return (at(self.mu) - at(0.0)) / self.mu
        return (at(self.mu) - at(-self.mu)) / (2 * self.mu)

    def _normalized(self, step: Step, local: Tensor, g0: Tensor) -> Tensor:
        if self.normalize == "none":
            return local
        sizes = [p.numel() for p in shared_params(step.model)]
        if self.normalize == "global":
            sizes = [len(g0)]
        pieces = zip(local.split(sizes), g0.split(sizes), strict=True)
        return torch.cat(
            [a * b.norm() / a.norm() if a.norm() > 0 else torch.zeros_like(a) for a, b in pieces]
        )
