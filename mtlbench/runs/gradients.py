"""Where a run's task gradients are logged: a file beside its record."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from mtlbench.errors import UsageError
from mtlbench.files import write_atomically
from mtlbench.registry import Spec
from mtlbench.runs.growing import GrowingTable
from mtlbench.training.gradients import GradientLog

if TYPE_CHECKING:
    import pandas as pd

_PARQUET = "parquet"


class GradientOptions(BaseModel):
    """What may follow ``gradients:``.

    Args:
        every: steps from one that is logged to the next.
        format: of the finished file; while a run goes on, and after one that died, it is CSV.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: PositiveInt = 1
    format: Literal["csv", "parquet"] = "csv"

    @classmethod
    def of(cls, spec: Spec) -> GradientOptions:
        """Checked options.

        Raises:
            UsageError: one is unknown or of the wrong kind, or needs what is not installed.
        """
        try:
            options = cls.model_validate(dict(spec.options))
        except ValidationError as error:
            first = error.errors()[0]
            valid = ", ".join(cls.model_fields)
            given = f"{first['loc'][0]}={first['input']}"
            raise UsageError(f"--log {spec}: {given}: {first['msg']}; valid: {valid}") from error
        if options.format == _PARQUET and find_spec("pyarrow") is None:
            raise UsageError("pyarrow is not installed: pip install 'mtlbench[parquet]'")
        return options


class GradientFile:
    """Writes the rows of a :class:`~mtlbench.training.gradients.GradientLog` epoch by epoch, with
    ``phase`` and ``epoch`` before each. A run that goes on from a checkpoint goes on with its file.

    Args:
        path: of the CSV file.
        options: how.
    """

    def __init__(self, path: Path, options: GradientOptions) -> None:
        self.path, self.options = path, options
        self._table = GrowingTable(path)
        self._phase = 0
        self.log: GradientLog | None = None
        """Of the present phase; None for one with a single task, which conflicts with nothing."""

    def begin(self, phase: int, objectives: Iterable[str], epochs: int) -> None:
        """A phase begins, or goes on after so many epochs: rows of later ones are dropped."""
        several = len(list(objectives)) > 1
        self._phase, self.log = phase, GradientLog(self.options.every) if several else None
        self._table.begin(lambda row: (int(row["phase"]), int(row["epoch"])) < (phase, epochs))

    def add(self, epoch: int) -> None:
        """An epoch has ended."""
        if self.log is not None:
            start = {"phase": self._phase, "epoch": epoch}
            self._table.add([start | _rounded(row) for row in self.log.take()])

    def end(self) -> None:
        """The run has ended well."""
        if self.options.format == _PARQUET and self.path.exists():
            frame = read_gradients(self.path)
            target = self.path.with_suffix(".parquet")
            write_atomically(target, lambda temporary: frame.to_parquet(temporary, index=False))
            self.path.unlink()


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Eight digits: one more than single precision has."""
    return {k: f"{v:.8g}" if isinstance(v, float) else v for k, v in row.items()}


def read_gradients(path: Path) -> pd.DataFrame:
    """What a run logged, from its CSV file or from the Parquet file of the same name.

    Raises:
        UsageError: there is neither, or it cannot be read.
    """
    import pandas as pd

    parquet = path.with_suffix(".parquet")
    if parquet.is_file():
        if find_spec("pyarrow") is None:
            raise UsageError(f"{parquet} needs pyarrow: pip install 'mtlbench[parquet]'")
        return pd.read_parquet(parquet)
    if not path.is_file():
        raise UsageError(
            f"there are no gradients at {path}: they are logged with --log gradients, or "
            "--log gradients:every=10"
        )
    try:
        return pd.read_csv(path, keep_default_na=False, na_values={"": [""]}).pipe(_numbers)
    except (ValueError, pd.errors.ParserError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """A table whose columns are numbers but for the layers' names."""
    import pandas as pd

    return frame.assign(
        **{name: pd.to_numeric(frame[name]) for name in frame.columns if name != "layer"}
    )
