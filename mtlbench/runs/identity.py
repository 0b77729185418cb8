"""What decides a run's numbers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from mtlbench.engine.numerics import USUAL, Numerics
from mtlbench.training.history import Record, Text


class Weights(Record):
    """A file of initial weights."""

    file: Text
    """Its name, without folders."""
    sha256: str


class Code(Record):
    """Which code a class is that is not a built-in one of version 1."""

    origin: str = ""
    """``module:Class``; empty for a built-in class."""
    version: int | None = None
    """What the class declares."""
    sha256: str = ""
    """Of its source, where it declares no version; or of what it is and is made of."""

    def __str__(self) -> str:
        mark = f"v{self.version}" if self.version is not None else self.sha256[:8]
        return f"{self.origin}@{mark}" if self.origin else mark


class Among(Record):
    """What the rows have that a run of another network or length is compared with, by its
    protocol."""

    architecture: str
    epochs: int


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
    lr: float | None = None
    """That training begins with, where it is not the protocol's."""
    data_sha256: str = ""
    """Of the folder's content, where the data come from one."""
    task_code: Code | None = None
    method_code: Code | None = None
    sharpness_code: Code | None = None
    numerics: Numerics = USUAL
    gradient_scale: str | None = None
    """Where it is not the protocol's, like the next one."""
    clip_norm: float | None = None
    without_weights: bool = False
    """Whether the protocol has weights to begin with, and the run none."""
    among: Among | None = None
    """Of a single-task reference, where its protocol is another one than that of the others."""
    ranks: int = 1
    """Processes that train together; what they draw, and batch normalisation, is each one's own."""

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that stand for the identity.

        A field at its default counts for nothing: it was added after runs had been recorded.
        """
        text = json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def data_label(self) -> str:
        """The data, and what tells them from others that call themselves the same."""
        label = self.data_source
        if self.data_sha256:
            label += f", content {self.data_sha256[:8]}"
        return label if self.task_code is None else f"{label}, task {self.task_code}"

    def same_words(self, earlier: RunIdentity) -> bool:
        """Whether a request that once was that run is this one now: what differs are versions,
        code or data, or options that there were not yet."""
        versions = {"protocol_version", "data_source", "stand_in", "data_sha256"}
        codes = {"task_code", "method_code", "sharpness_code"}
        now, then = (each.model_dump(exclude=versions | codes) for each in (self, earlier))
        return all(
            value == now[name] or (isinstance(value, dict) and value.items() <= now[name].items())
            for name, value in then.items()
        )

    @property
    def stem(self) -> str:
        """File name without its ending."""
        return (
            f"{self.task}-{self.protocol}-{self.method}-{self.sharpness}-s{self.seed}-{self.digest}"
        )
