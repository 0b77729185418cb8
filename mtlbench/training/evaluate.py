"""Metrics and losses of a split."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import chain

import torch
from torch import Tensor

from mtlbench.data.loader import Feed
from mtlbench.data.parts import in_turns
from mtlbench.engine.labels import Labels
from mtlbench.engine.numerics import AS_AROUND, Numerics, compiling
from mtlbench.engine.randomness import evaluation_mode
from mtlbench.engine.reduce import ALONE, Ranks
from mtlbench.hardware import home_of_doubles, on_host
from mtlbench.interfaces import MultiTaskModel, Task
from mtlbench.torch_private import tree_map
from mtlbench.training.history import Scores


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """The mean of every metric and loss over evaluations of one split."""

    def mean(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {name: statistics.fmean(v[name] for v in values) for name in values[0]}

    kinds = ("metrics", "losses", "otherwise")
    return Scores(**{kind: mean([getattr(s, kind) for s in scores]) for kind in kinds})


@torch.no_grad()
def evaluate(
    model: MultiTaskModel,
    task: Task,
    split: str,
    objectives: Sequence[str],
    device: torch.device,
    numerics: Numerics = AS_AROUND,
    workers: int = 0,
    ranks: Ranks = ALONE,
) -> Scores:
    """Metrics and mean losses of a split, of the objectives that have a label in it; in evaluation
    mode, the model's mode is restored. ``workers`` processes fetch batches ahead. Those of
    ``ranks`` take turns with the batches, and all find the same."""
    of = {metric.name: metric.objective for metric in task.info.metrics}
    home = home_of_doubles(device)
    named = [*task.meters().items(), *task.meters_otherwise().items()]
    meters = [(n, m.to(home)) for n, m in named if of[n] in objectives]
    sums = {name: torch.zeros((), device=home, dtype=torch.float64) for name in objectives}
    counts = dict.fromkeys(objectives, 0)
    batches = in_turns(task.batches(split, None), ranks.rank, ranks.size)
    fed = Feed(device, workers)(batches)
    with evaluation_mode(model), numerics.settings(device), compiling(), closing(fed):
        for group in chain.from_iterable(fed):
            names = [name for name in objectives if name in group.targets]
            if not names:
                continue
            with numerics.network(device):
                predictions = model(numerics.inputs(group.inputs), names)
            predictions = numerics.predictions(predictions)
            labels = Labels({name: group.readable(name) for name in names}, task.ignore, device)
            known = {
                name: labels.pick(name, predictions[name], group.targets[name])
                for name, count in labels.counts.items()
                if count
            }
            for name, pair in known.items():
                sums[name] += task.loss(name, *pair).to(home) * labels.counts[name]
                counts[name] += labels.counts[name]
            if home != device:
                known = tree_map(lambda t: t.to(home) if isinstance(t, Tensor) else t, known)
            for metric, meter in meters:
                if of[metric] in known:
                    meter.update(*known[of[metric]])
    if ranks.size > 1:
        from mtlbench.training.merge import merge_meters  # torchmetrics is slow to import

        sums = dict(zip(sums, ranks.sum(torch.stack(list(sums.values()))).unbind(), strict=True))
        whole = ranks.total([float(n) for n in counts.values()])
        counts = dict(zip(counts, map(int, whole), strict=True))
        merge_meters([meter for _, meter in meters], ranks)
    found = [(n, torch.as_tensor(m.compute())) for n, m in meters if counts[of[n]]]
    losses = {name: sums[name] / counts[name] for name in objectives if counts[name]}
    values = [float(v) for v in on_host(*(value for _, value in found), *losses.values())]
    judged = len({name for name, _ in found})
    pairs = list(zip([name for name, _ in found], values, strict=False))
    return Scores(
        metrics=dict(pairs[:judged]),
        losses=dict(zip(losses, values[len(found) :], strict=True)),
        otherwise=dict(pairs[judged:]),
    )
