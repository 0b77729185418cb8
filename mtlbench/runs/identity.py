"""What decides a run's numbers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from mtlbench.training.history import Record


class Weights(Record):
    """A file of initial weights."""

    file: str
    """Its name, without folders."""
    sha256: str


class RunIdentity(Record):
    """Everything that decides a run's numbers; two runs with the same identity are the same run."""

    task: str
    task_options: dict[str, Any]
    protocol: str
    protocol_version: int
    epochs: int
    data_source: str
    stand_in: bool
    architecture: str
    method: str
    method_options: dict[str, Any]
    sharpness: str
    sharpness_options: dict[str, Any]
    seed: int
    device_class: str
    weights: Weights | None = None
    """Of the trunk, where they are not random."""

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that stand for the identity.

        A field at its default counts for nothing: it was added after runs had been recorded.
        """
        text = json.dumps(self.model_dump(exclude_defaults=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def stem(self) -> str:
        """File name without its ending."""
        return (
            f"{self.task}-{self.protocol}-{self.method}-{self.sharpness}-s{self.seed}-{self.digest}"
        )
