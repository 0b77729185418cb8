"""``mtlbench diagnose``: everything about one run, as a table."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from torch import Tensor

from mtlbench.diagnose.conflict import summary
from mtlbench.diagnose.landscape import Sharpness, sharpness
from mtlbench.diagnose.opened import Kept, kept
from mtlbench.diagnose.spectrum import Hessian, top_eigenvalues, trace
from mtlbench.diagnose.surface import Mode, Surface
from mtlbench.errors import UsageError
from mtlbench.runs.gradients import read_gradients
from mtlbench.runs.store import Store

logger = logging.getLogger(__name__)

Of = Literal["each", "mean"]
MEAN = "mean"
"""The mean loss, among the tasks."""


@dataclass(frozen=True)
class Settings:
    """What is computed; the same for all runs that are compared.

    Args:
        split: whose first batches, see :class:`Surface`.
        batches: how many; at most four if None.
        mode: of the network.
        layers: of the trunk that are moved; all if None.
        top: eigenvalues.
        tolerance: of their residuals, relative to the largest.
        restarts: of Lanczos, at most.
        samples: random vectors for the trace, and directions for the average rise.
        rho: radius of sharpness.
        ascent: steps of it.
        seed: of all that is random.
        of: whose curvature: of each task's loss and of their mean, or of the mean alone, which
            is K + 1 times as fast.
    """

    split: str = "train"
    batches: int | None = None
    mode: Mode = "eval"
    layers: str | None = None
    top: int = 5
    tolerance: float = 1e-3
    restarts: int = 20
    samples: int = 10
    rho: float = 0.05
    ascent: int = 5
    seed: int = 0
    of: Of = "each"

    def surface(self, run: Kept) -> Surface:
        """The run's losses.

        Raises:
            UsageError: see :class:`Surface`.
        """
        return Surface(
            run.model,
            run.task,
            split=self.split,
            n_batches=self.batches,
            mode=self.mode,
            layers=self.layers,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Number:
    """A row of a run's table.

    Args:
        of: a task, :data:`MEAN`, or a layer.
        quantity: what it is.
        value: of it.
        error: residual of an eigenvalue, standard error of a mean over random vectors.
        note: what is the matter with it.
    """

    of: str
    quantity: str
    value: float
    error: float = float("nan")
    note: str = ""


def numbers(
    run: Kept, surface: Surface, settings: Settings, gradients: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Losses; eigenvalues, trace and sharpness of what the settings say; what the gradient log
    says, if there is one; the test score that selection would go by."""
    found: list[Number] = []
    losses = surface.losses()
    of = {MEAN: surface.mean} | {o: surface.one(k) for k, o in enumerate(surface.objectives)}
    for name, coefficients in of.items():
        logger.info("%s: %s", run.path.stem, name)
        found.append(Number(name, "loss", float(coefficients @ losses)))
        if settings.of == "each" or name == MEAN:
            found += _curvature(name, surface, coefficients, settings)
    if gradients is not None:
        for row in summary(gradients).to_dict("records"):
            layer = str(row["layer"]) or "trunk"
            found += [Number(layer, f"late {q}", float(row[q])) for q in ("cosine", "conflict")]
    found.append(Number("test", "score", run.task.selection_score(run.record.scores("test"))))
    frame = pd.DataFrame([asdict(number) for number in found])
    identity = run.record.identity
    return frame.assign(
        run=run.path.stem,
        task=identity.task,
        method=run.record.titles[0],
        wrapper=run.record.titles[1],
        options=json.dumps([identity.method_options, identity.sharpness_options], sort_keys=True),
        plain=run.record.plain,
        seed=identity.seed,
        settings=json.dumps(asdict(settings), sort_keys=True),
    )


def _curvature(
    name: str, surface: Surface, coefficients: Tensor, settings: Settings
) -> Iterator[Number]:
    hessian = Hessian(surface, coefficients)
    values = top_eigenvalues(
        hessian,
        settings.top,
        tolerance=settings.tolerance,
        restarts=settings.restarts,
        seed=settings.seed,
    )
    for i, each in enumerate(values, start=1):
        note = "" if each.converged else "not converged"
        yield Number(name, f"lambda_{i}", each.value, each.residual, note)
    first, last = values[0], values[-1]
    if last.value > 0:
        sure = first.converged and last.converged
        ratio = first.value / last.value
        note = "" if sure else "of eigenvalues that did not converge"
        yield Number(name, f"lambda_1 / lambda_{len(values)}", ratio, note=note)
    yield Number(name, "trace", *trace(hessian, settings.samples, settings.seed))
    rise: Sharpness = sharpness(
        surface,
        coefficients,
        settings.rho,
        steps=settings.ascent,
        samples=settings.samples,
        seed=settings.seed,
    )
    yield Number(name, "sharpness", rise.highest)
    yield Number(name, "average rise", rise.average, rise.error)


def gradients_of(run: Kept) -> pd.DataFrame | None:
    """What the run logged of its gradients; None if it did not."""
    path = Store(run.path.parent).gradients_path(run.record.identity)
    if not path.exists() and not path.with_suffix(".parquet").exists():
        return None
    return read_gradients(path)


def read_numbers(path: Path) -> pd.DataFrame:
    """A table of :func:`numbers` that was written."""
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"note": str})
    return frame.fillna({"note": ""})


def is_done(path: Path, settings: Settings) -> bool:
    """Whether a table is there, and of these settings."""
    if not path.is_file():
        return False
    said = pd.read_csv(path, usecols=["settings"])["settings"]
    return bool(len(said)) and json.loads(said.iloc[0]) == asdict(settings)


def other_end(run: Kept, other: Path, data: Path | None) -> Kept:
    """A run that a line can lead to.

    Raises:
        UsageError: it is of another task or architecture.
    """
    end = kept(other, data)
    mine, theirs = run.record.identity, end.record.identity
    for what in ("task", "architecture"):
        if getattr(mine, what) != getattr(theirs, what):
            raise UsageError(
                f"there is no line from {run.path} to {other}: {what} {getattr(mine, what)!r} and "
                f"{getattr(theirs, what)!r}"
            )
    return end
