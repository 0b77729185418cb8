"""What a sweep shows while it goes on: a table in a terminal, lines in a pipe or a log file."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.live import Live
from rich.markup import escape
from rich.table import Table

from mtlbench.cli import terminal
from mtlbench.cli.pace import Pace, duration

if TYPE_CHECKING:
    from mtlbench.runs.events import Event
    from mtlbench.runs.record import RunRecord
    from mtlbench.runs.spec import Run

MINUTE = 60.0
MOST_ROWS = 12
"""Running cells that are shown one by one."""


@dataclass
class _Running:
    """A run that is going on."""

    run: Run
    since: float = field(default_factory=time.monotonic)
    epoch: int = 0
    first: int = 0
    """Epochs that it had done before, where it was resumed."""
    loss: float = float("nan")

    def left(self) -> float:
        """Seconds that it will still take, by the epochs so far; NaN before the first."""
        made = self.epoch - self.first
        spent = time.monotonic() - self.since
        return (self.run.total_epochs - self.epoch) * spent / made if made else float("nan")


class View:
    """Follows a sweep; a context.

    Args:
        runs: that are left to do.
        done: how many were done before.
    """

    def __init__(self, runs: Sequence[Run], done: int) -> None:
        from mtlbench.runs.effort import effort_of_epoch

        self.total, self.done, self.failed = done + len(runs), done, 0
        self._effort = {run.identity.digest: effort_of_epoch(run) for run in runs}
        self._left = {run.identity.digest: run.total_epochs for run in runs}
        self._pace = Pace(sum(self._effort[d] * epochs for d, epochs in self._left.items()))
        self._running: dict[str, _Running] = {}
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._ended = threading.Event()

    def __enter__(self) -> View:
        if terminal.console.is_terminal:
            self._live = Live(
                get_renderable=self._table, console=terminal.console, refresh_per_second=2
            )
            self._live.start()
        else:
            threading.Thread(target=self._lines, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._live is not None:
            self._live.stop()

    def watch(self, run: Run, event: Event) -> None:
        """Hear of an event of a run."""
        with self._lock:
            going = self._running.setdefault(run.identity.digest, _Running(run))
            if event.kind == "epoch":
                if going.epoch == 0:
                    going.first = event.epoch - 1
                    self._skip(run, going.first)
                going.epoch, going.loss = event.epoch, event.loss
                self._left[run.identity.digest] -= 1
                self._pace.advance(self._effort[run.identity.digest])

    def ended(self, run: Run, record: RunRecord) -> None:
        """Hear of a run's record."""
        with self._lock:
            self._running.pop(run.identity.digest, None)
            self._skip(run, self._left[run.identity.digest])
            self.done += record.status == "ok"
            self.failed += record.status != "ok"
            text = line(run, record) + self._pace.to_go
        terminal.console.print(text, highlight=False, soft_wrap=True)

    def _skip(self, run: Run, epochs: int) -> None:
        """So many epochs of a run need not be done."""
        digest = run.identity.digest
        self._pace.drop(self._effort[digest] * epochs)
        self._left[digest] -= epochs

    def summary(self) -> str:
        """One line about all of it."""
        waiting = self.total - self.done - self.failed - len(self._running)
        parts = [f"{self.done}/{self.total} done", f"{len(self._running)} running"]
        parts += [f"{waiting} waiting"] if waiting else []
        parts += [f"{self.failed} failed"] if self.failed else []
        return ", ".join(parts) + self._pace.to_go

    def _table(self) -> Table:
        with self._lock:
            running = list(self._running.values())
            table = Table(title=self.summary(), title_justify="left", title_style="bold", box=None)
            for header in ("running", "epoch", "loss", "left"):
                table.add_column(header, justify="left" if header == "running" else "right")
            for each in running[:MOST_ROWS]:
                left = each.left()
                table.add_row(
                    escape(name(each.run)),
                    f"{each.epoch}/{each.run.total_epochs}",
                    "" if each.loss != each.loss else f"{each.loss:.4g}",
                    "" if left != left else duration(left),
                )
            return table

    def _lines(self) -> None:
        """A line a minute."""
        while not self._ended.wait(MINUTE):
            with self._lock:
                text = self.summary()
            terminal.console.print(text, highlight=False, soft_wrap=True)


def name(run: Run) -> str:
    """A run in words."""
    identity = run.identity
    return f"{identity.task}: {run.spec.method} x {run.spec.sharpness}, seed {identity.seed}"


def line(run: Run, record: RunRecord) -> str:
    """A finished run in a line, with markup."""
    what = escape(f"{run.spec.method} x {run.spec.sharpness}, seed {run.identity.seed}")
    if record.status != "ok":
        return f"[red]{record.status}[/red] {what}: {escape(record.reason)}"
    return f"[green]ok[/green] {what}: {record.train_seconds:.1f} s"
