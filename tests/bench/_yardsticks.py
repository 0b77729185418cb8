"""The yardsticks of what the tests of the benchmarks define."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from mtlbench.interfaces import PlainStep
from tests.bench.plans import Raced


def of_raced(wrapper: Raced) -> Mapping[str, PlainStep]:
    def make(*parts: Any) -> Callable[[], object]:
        wrapper.made_of.append(parts)
        return partial(time.sleep, wrapper.pause)

    return {"sleep": make}


YARDSTICKS = {"raced": of_raced}
