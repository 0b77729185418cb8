"""Training of one model: epochs, selection, checkpoints."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mtlbench.data.loader import Feed
from mtlbench.engine.numerics import USUAL, Numerics, compile_parts
from mtlbench.engine.observe import StepLog
from mtlbench.engine.randomness import reseed
from mtlbench.engine.reduce import ALONE, Ranks
from mtlbench.engine.stream import RowsMode
from mtlbench.hardware import Stopwatch, rng_state, set_rng_state
from mtlbench.interfaces import Task
from mtlbench.registry import Spec
from mtlbench.training.evaluate import evaluate, mean_scores
from mtlbench.training.further import TrainingData
from mtlbench.training.history import Epoch, Phase, Scores, Selection
from mtlbench.training.optim import make_optimizer, make_scheduler
from mtlbench.training.stepper import Stepper
from mtlbench.training.weights import load_trunk

WARM_UP_STEPS = 3
PROCESSES = 2
"""Sets the seeds of what several processes draw apart from those of the order of batches."""
LAST_EPOCHS = 4
"""Whose mean test scores are kept beside those of the selected epoch; a third of a training that is
shorter than three times that."""
State = dict[str, Any]


class Trainer:
    """Trains one network on some of a task's objectives. Use it within :func:`seeded`.

    Args:
        task: the benchmark.
        objectives: what to train on: all of them, or one for a single-task reference.
        architecture: one of ``task.info.architectures``.
        method: weighting method.
        sharpness: wrapper.
        seed: of data order and perturbation noise.
        device: where to train.
        weights: file of the trunk's initial weights.
        lr: learning rate that training begins with, instead of the protocol's.
        gradient_scale: instead of the protocol's.
        clip_norm: instead of the protocol's.
        numerics: how the network's passes are computed.
        rows: see :class:`Stepper`.
        workers: processes that fetch batches ahead; numbers do not depend on it.
        ranks: the processes that train together, each with its part of every batch.
    """

    def __init__(
        self,
        task: Task,
        objectives: Sequence[str],
        *,
        architecture: str,
        method: Spec,
        sharpness: Spec,
        seed: int,
        device: torch.device,
        weights: Path | None = None,
        lr: float | None = None,
        gradient_scale: str | None = None,
        clip_norm: float | None = None,
        numerics: Numerics = USUAL,
        rows: RowsMode = "auto",
        workers: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        protocol = task.protocol
        self.task, self.objectives, self.seed, self.device = task, list(objectives), seed, device
        self.model = task.build_model(architecture)
        if weights is not None:
            load_trunk(self.model, weights)
        self.model.to(device)
        if numerics.compile:
            compile_parts(self.model)
        optimizer = make_optimizer(protocol, self.model, lr)
        self.scheduler = make_scheduler(protocol, optimizer)
        self.stepper = Stepper(
            self.model,
            optimizer,
            method,
            sharpness,
            objectives=self.objectives,
            seed=seed,
            gradient_scale=gradient_scale or protocol.gradient_scale,
            clip_norm=protocol.clip_norm if clip_norm is None else clip_norm,
            ignore=task.ignore,
            precision=numerics.precision,
            channels_last=numerics.channels_last,
            accumulate=numerics.accumulate,
            rows=rows,
            ranks=ranks,
        )
        self.feed = Feed(device, workers)
        self.data = TrainingData(task, self.stepper.further, seed, ranks)
        self.history: list[Epoch] = []
        self.skips: Counter[str] = Counter()
        """Why steps were skipped, and how many."""
        self.train_seconds = 0.0
        self.evaluation_seconds = 0.0
        self._selected: tuple[int, State] = (0, {})
        self.tests: list[Scores] = []
        """Test scores of the last epochs, whose mean is taken."""
        self._averaged = protocol.average_last or max(1, min(LAST_EPOCHS, protocol.epochs // 3))
        self._warm_up = WARM_UP_STEPS
        self.log: StepLog | None = None
        """Looks on at steps; those that it wants are left out of the times of a step."""

    def fit(
        self,
        on_epoch: Callable[[], None] = lambda: None,
        on_first_step: Callable[[], None] = lambda: None,
    ) -> Phase:
        """Train the remaining epochs and evaluate; the model is then that of the selected epoch, or
        of the last one where the protocol averages epochs.

        Args:
            on_epoch: called after every epoch, when :meth:`state_dict` is worth keeping.
            on_first_step: called once, after the first step.

        Raises:
            DivergedError: too many steps in a row had a non-finite loss or gradient.
        """
        while len(self.history) < self.task.protocol.epochs:
            self._epoch(len(self.history), on_first_step)
            on_first_step = _nothing
            on_epoch()
        steps = max(self.stepper.steps, 1)
        tests = self.tests or [self._evaluate("test")]
        last = {
            "train": self._evaluate("train"),
            "val": self.history[-1].val,
            "test": tests[-1],
        }
        epoch, selected, beside = self._chosen(tests)
        passes = self.stepper.passes
        return Phase(
            objectives=self.objectives,
            epochs=self.history,
            selected_epoch=epoch,
            last=last,
            selected=selected,
            beside=beside,
            last_n=len(tests),
            forwards_per_step=passes.forward / steps,
            backwards_per_step=passes.backward / steps,
            head_backwards_per_step=passes.head_backward / steps,
            diagnostics=self.stepper.diagnostics(),
        )

    def _epoch(self, epoch: int, on_first_step: Callable[[], None]) -> None:
        self.model.train()
        self.model.begin_epoch(epoch, self.task.protocol.epochs)
        order = int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0])
        if self.ranks.size > 1:
            own = np.random.SeedSequence((self.seed, epoch, self.ranks.rank + 1, PROCESSES))
            reseed(int(own.generate_state(1)[0]), self.device)
        total = torch.zeros(len(self.objectives), device=self.device)
        counts = torch.zeros_like(total)
        watch, begun, skipped_before = Stopwatch(self.device), False, self.stepper.skipped
        alone: list[bool] = []
        with closing(self.feed(self.data.epoch(order))) as batches:
            for batch in batches:
                further = [[g.to(self.device) for g in each] for each in self.data.further()]
                skipped = self.stepper.skipped
                alone.append(self.log is None or not self.log.wants(self.stepper.steps))
                with watch.lap():
                    report = self.stepper.step(batch, self.task.loss, further, log=self.log)
                if not begun:
                    on_first_step()
                begun = True
                if self.stepper.skipped > skipped:
                    self.skips[report.skipped] += 1
                if not report.skipped and report.losses is not None:
                    total += report.losses.nan_to_num(0.0)
                    counts += ~report.losses.isnan()
        mean = total / counts
        if counts.any():
            self.stepper.on_epoch_end(epoch, mean)
        val = self._evaluate("val")
        score = self.task.selection_score(val.metrics)
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(score if self.scheduler.mode == "max" else -score)
        elif self.scheduler is not None:
            self.scheduler.step()
        times = watch.seconds()
        timed = list(compress(times, alone))[self._warm_up :]
        self._warm_up = 0
        self.train_seconds += sum(times)
        self.history.append(
            Epoch(
                train_losses=dict(zip(self.objectives, mean.tolist(), strict=True)),
                val=val,
                selection_score=score,
                step_ms=1000 * statistics.median(timed) if timed else float("nan"),
                skipped_steps=self.stepper.skipped - skipped_before,
            )
        )
        *earlier, latest = (e.selection_score for e in self.history)
        best = max((s for s in earlier if not math.isnan(s)), default=-math.inf)
        if latest > best or not self._selected[1]:
            state = {k: v.clone() for k, v in self.model.state_dict().items()}
            self._selected = (epoch, state)
        if epoch >= self.task.protocol.epochs - self._averaged:
            self.tests.append(self._evaluate("test"))

    def _evaluate(self, split: str) -> Scores:
        start = time.perf_counter()
        if self.ranks.size > 1:  # running statistics are those of its own parts
            self.ranks.take_first_([b for b in self.model.buffers() if b.numel()])
        scores = evaluate(
            self.model,
            self.task,
            split,
            self.objectives,
            self.device,
            self.stepper.numerics,
            self.feed.workers,
            self.ranks,
        )
        self.evaluation_seconds += time.perf_counter() - start
        return scores

    def _chosen(
        self, tests: Sequence[Scores]
    ) -> tuple[int, dict[str, Scores], dict[Selection, Scores]]:
        """The epoch whose scores count, and these, and the test scores that do not; the weights of
        that epoch are in the model afterwards.

        No split is evaluated that has been before, on the same weights.

        Args:
            tests: of the last epochs.
        """
        final, (epoch, state) = len(self.history) - 1, self._selected
        averages = self.task.protocol.average_last > 0
        ended = {k: v.clone() for k, v in self.model.state_dict().items()} if averages else state
        if final - epoch < len(tests):
            at_selected = tests[epoch - final - 1]
        else:
            self.model.load_state_dict(state)
            at_selected = self._evaluate("test")
        self.model.load_state_dict(ended)
        mean = mean_scores(tests)
        if averages:
            return final, {"val": self.history[-1].val, "test": mean}, {"selected": at_selected}
        val_and_test = {"val": self.history[epoch].val, "test": at_selected}
        return epoch, val_and_test, {"mean_of_last": mean}

    @property
    def step_ms(self) -> float:
        """Median over the epochs of their median step times, in milliseconds."""
        timed = [e.step_ms for e in self.history if e.step_ms == e.step_ms]
        return statistics.median(timed) if timed else float("nan")

    def state_dict(self) -> State:
        """All that a resumed training needs to end with the same numbers."""
        there = rng_state(self.device)
        return {
            "model": self.model.state_dict(),
            "stepper": self.stepper.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "history": [epoch.model_dump() for epoch in self.history],
            "selected": self._selected,
            "tests": [scores.model_dump() for scores in self.tests],
            "further": self.data.state_dict(),
            "seconds": (self.train_seconds, self.evaluation_seconds),
            "skips": dict(self.skips),
            "rng": [torch.get_rng_state(), *([] if there is None else [there])],
        }

    def load_state_dict(self, state: State) -> None:
        """Inverse of :meth:`state_dict`."""
        self.model.load_state_dict(state["model"])
        self.stepper.load_state_dict(state["stepper"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.history = [Epoch.model_validate(epoch) for epoch in state["history"]]
        self._selected = tuple(state["selected"])
        self.tests = [Scores.model_validate(scores) for scores in state["tests"]]
        if "further" in state:  # not in checkpoints of before
            self.data.load_state_dict(state["further"])
        self.train_seconds, self.evaluation_seconds = state["seconds"]
        self.skips = Counter(state["skips"])
        torch.set_rng_state(state["rng"][0].cpu())
        for saved in state["rng"][1:]:
            set_rng_state(self.device, saved.cpu())


def _nothing() -> None:
    """For whom nothing is left to be told."""
