"""A network of no size, and plans as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml

from mtlbench.bench.workloads import CNN
from mtlbench.interfaces import SharpnessInfo
from mtlbench.methods.sharpness.none import Plain

CPU = torch.device("cpu")
TINY = CNN(name="tiny", widths=[4, 6], features=5, image=8, batch=4, tasks=3)
PACE = {"seed": 0, "rounds": 1, "seconds": 0}


def write(path: Path, plan: Mapping[str, Any]) -> str:
    path.write_text(yaml.safe_dump(dict(plan)))
    return str(path)


class Raced(Plain):
    """A wrapper with a yardstick that takes its time, or none at all."""

    info = SharpnessInfo(name="raced", title="raced")
    made_of: ClassVar[list[tuple[Any, ...]]] = []

    def __init__(self, *, pause: float = 0.0) -> None:
        super().__init__()
        self.pause = pause
