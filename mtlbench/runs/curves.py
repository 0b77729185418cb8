"""Learning curves of a run that is going on: a CSV file beside its record, for TensorBoard too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mtlbench.errors import UsageError
from mtlbench.registry import Spec
from mtlbench.runs.gradients import GradientOptions
from mtlbench.runs.growing import GrowingTable
from mtlbench.training.history import Epoch

LOGS = ("tensorboard", "gradients")
"""Where curves can go besides the CSV file; and the task gradients, which are no curves."""


class Curves:
    """Writes a row an epoch; the file goes once the run's record, which has them too, is there.

    Args:
        path: of the CSV file.
        logs: of :data:`LOGS`, where else the curves go; beside the file.
    """

    def __init__(self, path: Path, logs: Iterable[str] = ()) -> None:
        self.path = path
        self._table = GrowingTable(path)
        boards = [log for log in logs if log == LOGS[0]]
        self._writers: list[Any] = [_writer(path.with_suffix("")) for _ in boards]

    def begin(self, phase: int, objectives: Iterable[str], epochs: Iterable[Epoch]) -> None:
        """A phase begins, or goes on after these epochs: rows of later ones are dropped."""
        self._phase, self._objectives = phase, list(objectives)
        rows = [self._row(n, epoch) for n, epoch in enumerate(epochs)]
        self._table.begin(lambda row: int(row["phase"]) < phase, rows)

    def add(self, n: int, epoch: Epoch) -> None:
        """Epoch ``n`` of the phase has ended."""
        row = self._row(n, epoch)
        self._table.add([row])
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


def check_logs(logs: Iterable[str]) -> None:
    """Refuse logs that cannot be written.

    Raises:
        UsageError: an unknown log, or what it needs is not installed.
    """
    for log in logs:
        spec = Spec.parse(log)
        if spec.name not in LOGS:
            raise UsageError(f"unknown log {log!r}; valid: {', '.join(LOGS)}")
        if spec.name == LOGS[1]:
            GradientOptions.of(spec)
        elif spec.options:
            raise UsageError(f"log {spec.name!r} has no options, got {log!r}")
        elif find_spec("tensorboard") is None:
            raise UsageError("TensorBoard is not installed: pip install 'mtlbench[tensorboard]'")


def gradient_options(logs: Iterable[str]) -> GradientOptions | None:
    """How gradients are to be logged, if they are."""
    wanted = [spec for spec in map(Spec.parse, logs) if spec.name == LOGS[1]]
    return GradientOptions.of(wanted[-1]) if wanted else None


def _writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
