"""What a benchmark measures: a YAML file, read and checked."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from mtlbench.errors import UsageError


class Part(BaseModel):
    """A part of a plan; it holds nothing but what is declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Plan(Part):
    """What every command's plan has."""

    file: ClassVar[str]
    """The plan that comes with mtlbench."""

    seed: int
    rounds: PositiveInt
    seconds: float

    @classmethod
    def read(cls, path: Path | None = None) -> Self:
        """Read a file, by default the one that comes with mtlbench.

        Raises:
            UsageError: the file cannot be read, or is no plan.
        """
        try:
            source = files("mtlbench.bench").joinpath(cls.file) if path is None else path
            return cls.model_validate(yaml.safe_load(source.read_text()))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
            raise UsageError(f"{path or cls.file} is no plan of a benchmark: {error}") from error

    def paced(self, rounds: int | None, seconds: float | None) -> Self:
        """The same with another number of rounds or seconds, where there is one."""
        changes = {"rounds": rounds, "seconds": seconds}
        return self.model_copy(update={k: v for k, v in changes.items() if v is not None})
