"""What a run's log of its task gradients shows: where tasks conflict, and when."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mtlbench.errors import UsageError
from mtlbench.training.gradients import TRUNK

HALF = 0.5
"""Share of the conflict that the suggested layers have, at least."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Suggestion:
    """Where a wrapper that works on some layers only may work.

    Args:
        pattern: parameter names of the layers, joined by "+"; empty if no tasks conflict.
        why: in a sentence.
    """

    pattern: str
    why: str


def trunk(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a logged step, of all shared parameters."""
    return frame[frame["layer"].fillna(TRUNK) == TRUNK]


def layers(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a logged step and layer, with ``against``: the sum of the task gradients' negative
    inner products there."""
    found = frame[frame["layer"].fillna(TRUNK) != TRUNK].copy()
    against = np.zeros(len(found))
    for column in found.columns:
        kind, _, names = column.partition("/")
        if kind == "cosine" and names:
            first, _, second = names.partition("|")
            product = found[column] * found[f"norm/{first}"] * found[f"norm/{second}"]
            against += -product.fillna(0).clip(upper=0).to_numpy()
    found["against"] = against
    return found


def late(frame: pd.DataFrame) -> pd.DataFrame:
    """The second half of what was logged: the steps from the middle one on."""
    steps = np.sort(frame["step"].unique())
    middle = int(steps[len(steps) // 2])
    return frame[frame["step"] >= middle]


def dynamics(frame: pd.DataFrame) -> pd.DataFrame:
    """Epochs by layers: the mean cosine of the task gradients."""
    found = layers(frame)
    order = list(dict.fromkeys(found["layer"]))
    wide = found.pivot_table(values="cosine", index="epoch", columns="layer", aggfunc="mean")
    return pd.DataFrame({layer: wide[layer] for layer in order})


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Of the trunk and of each layer in the second half of training: ``cosine``, ``conflict``,
    ``size``, and ``share``, that of the conflict among the layers."""
    whole, parts = late(trunk(frame)), late(layers(frame))
    means = parts.groupby("layer", sort=False)[["cosine", "conflict", "size", "against"]].mean()
    total = means["against"].sum()
    means["share"] = means.pop("against") / total if total > 0 else 0.0
    top = whole[["cosine", "conflict", "size"]].mean().to_frame().T.assign(share=1.0)
    top.index = pd.Index([TRUNK], name="layer")
    return pd.concat([top, means]).reset_index()


def suggestion(frame: pd.DataFrame) -> Suggestion:
    """The fewest layers that have at least half of the conflict: a place to look for a gain by
    "SAM with sampling", which nothing but a run can confirm."""
    found = summary(frame)
    parts = found[found["layer"] != TRUNK]
    if parts["share"].sum() == 0:
        return Suggestion(
            "", "no layers are suggested: no two task gradients had a negative cosine"
        )
    ordered = parts.sort_values("share", ascending=False, kind="stable")
    count = int((ordered["share"].cumsum() < HALF - _ROUNDING).sum()) + 1
    chosen = ordered["layer"].iloc[:count].tolist()
    mine = parts["layer"].isin(chosen)
    ends = {parts["layer"].iloc[0], parts["layer"].iloc[-1]}
    pattern = "+".join(f"{name}.*" for name in parts["layer"][mine])
    has = "layer has" if len(parts) == 1 else "layers have" if count > 1 else "layers has"
    why = (
        f"layers={pattern}: {count} of {len(parts)} {has} {parts['share'][mine].sum():.0%} of the "
        f"conflict (sum of negative inner products of task gradients, second half of training) and "
        f"{parts['size'][mine].sum() / parts['size'].sum():.0%} of the trunk's parameters; mean "
        f"cosine {parts['cosine'][mine].mean():+.2f} there"
    )
    if not mine.all():
        why += f", {parts['cosine'][~mine].mean():+.2f} elsewhere"
    if set(chosen) == ends:
        why += "; these are the first and the last one: layers=ends"
    return Suggestion(pattern, why)


def only(frame: pd.DataFrame, chosen: list[str]) -> pd.DataFrame:
    """The rows of the trunk and of some layers.

    Raises:
        UsageError: none of the layers was logged.
    """
    modules = {name.rpartition(".")[0] or name for name in chosen}
    known = frame["layer"].fillna(TRUNK)
    if not known.isin(modules).any():
        raise UsageError(f"the log has no rows of {', '.join(sorted(modules))}")
    return frame[known.isin(modules) | (known == TRUNK)]
