"""Learning curves of a run that is going on: a CSV file beside its record, for TensorBoard too."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mtlbench.errors import UsageError
from mtlbench.files import write_atomically
from mtlbench.training.history import Epoch

LOGS = ("tensorboard",)
"""Where curves can go besides the CSV file."""


class Curves:
    """Writes a row an epoch; the file goes once the run's record, which has them too, is there.

    Args:
        path: of the CSV file.
        logs: of :data:`LOGS`, where else the curves go; beside the file.
    """

    def __init__(self, path: Path, logs: Iterable[str] = ()) -> None:
        self.path = path
        self._columns: list[str] = []
        self._writers: list[Any] = [_writer(path.with_suffix("")) for _ in logs]

    def begin(self, phase: int, objectives: Iterable[str], epochs: Iterable[Epoch]) -> None:
        """A phase begins, or goes on after these epochs: rows of later ones are dropped."""
        self._phase, self._objectives = phase, list(objectives)
        kept = [] if phase == 0 else [r for r in self._rows() if int(r["phase"]) < phase]
        rows = [*kept, *(self._row(n, epoch) for n, epoch in enumerate(epochs))]
        self._columns = list(dict.fromkeys(name for row in rows for name in row))
        if rows:
            self._rewrite(rows)
        else:
            self.path.unlink(missing_ok=True)

    def add(self, n: int, epoch: Epoch) -> None:
        """Epoch ``n`` of the phase has ended."""
        row = self._row(n, epoch)
        if set(row) - set(self._columns):
            self._columns = list(dict.fromkeys([*self._columns, *row]))
            self._rewrite([*self._rows(), row])
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        for writer in self._writers:
            for name, value in row.items():
                if name not in ("phase", "epoch"):
                    writer.add_scalar(name, value, n)
            writer.flush()

    def end(self, *, keep: bool = False) -> None:
        """The run has ended; without ``keep`` its record has the curves."""
        for writer in self._writers:
            writer.close()
        if not keep:
            self.path.unlink(missing_ok=True)

    def _row(self, n: int, epoch: Epoch) -> Mapping[str, Any]:
        row: dict[str, Any] = {"phase": self._phase, "epoch": n}
        row |= {f"train/{name}": loss for name, loss in epoch.train_losses.items()}
        row |= {f"val/{name}": loss for name, loss in epoch.val.losses.items()}
        row |= {f"val/{name}": value for name, value in epoch.val.metrics.items()}
        return row | {"selection": epoch.selection_score, "skipped": epoch.skipped_steps}

    def _rows(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        def write(temporary: Path) -> None:
            with temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, self._columns)
                writer.writeheader()
                writer.writerows(rows)

        write_atomically(self.path, write)


def check_logs(logs: Iterable[str]) -> None:
    """Refuse logs that cannot be written.

    Raises:
        UsageError: an unknown log, or what it needs is not installed.
    """
    for log in logs:
        if log not in LOGS:
            raise UsageError(f"unknown log {log!r}; valid: {', '.join(LOGS)}")
        if find_spec("tensorboard") is None:
            raise UsageError("TensorBoard is not installed: pip install 'mtlbench[tensorboard]'")


def _writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
