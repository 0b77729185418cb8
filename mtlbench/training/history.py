"""What training leaves behind: scores, epochs, phases. Plain data, a part of every record."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

Number = Annotated[float, AfterValidator(lambda value: float(f"{value:.7g}"))]
"""Seven digits: all that single precision has, at half the size of a file."""
Text = Annotated[str, AfterValidator(lambda text: text.encode(errors="backslashreplace").decode())]
"""What JSON can say: a folder's name need not be text, and its bytes are spelled as escapes."""
Selection = Literal["selected", "mean_of_last"]
"""What of a training may count: the epoch that validation selects, or the mean of the last ones."""


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Scores(Record):
    """One evaluation of a model: metric values and mean losses of a split."""

    metrics: dict[str, Number]
    losses: dict[str, Number]
    otherwise: dict[str, Number] = Field(default={})
    """Metrics measured in another way, where the task has one; not written where it has none."""

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        return {name: v for name, v in written.items() if name != "otherwise" or self.otherwise}


class Epoch(Record):
    """What one epoch of training left behind."""

    train_losses: dict[str, Number]
    val: Scores
    selection_score: Number
    step_ms: Number
    """Median of the epoch's timed steps; NaN where none was timed."""
    skipped_steps: int


class Phase(Record):
    """One trained model. A run is one phase; a reference run has one a task."""

    objectives: list[str]
    epochs: list[Epoch]
    selected_epoch: int
    last: dict[str, Scores]
    """Scores by split (train, val, test) after the last epoch."""
    selected: dict[str, Scores]
    """Scores of val and test that count by the protocol: at the selected epoch; or after the last
    one and, on test, the mean of the last ones."""
    beside: dict[Selection, Scores] = Field(default={})
    """Test scores of the other one of the two; empty in records from before it was kept."""
    last_n: int = 0
    """How many last epochs the mean is of; 0 where that is not known."""
    forwards_per_step: Number
    backwards_per_step: Number
    head_backwards_per_step: Number
    diagnostics: dict[str, Number]
