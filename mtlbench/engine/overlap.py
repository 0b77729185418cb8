"""A gradient is summed over processes slice by slice, while a pass still finds the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor

from mtlbench.engine.reduce import Ranks
from mtlbench.engine.rows import GradientRows, Layout

SLICE = 4 << 20
"""Bytes of a slice, at least: shorter ones cost more in waits than they gain."""


class Slices:
    """The slices of ``[shared | heads]``, from its end to its start: a backward pass comes to the
    heads first.

    All processes send them in this one order, each slice as soon as it and those before it are
    complete; what the pass does not come to is sent after it.

    Args:
        layout: of the parameters.
    """

    def __init__(self, layout: Layout) -> None:
        self.spans: list[slice] = []
        """From the end to the start."""
        self._of: list[int] = []
        stop = start = layout.size
        for p in reversed(layout.params):
            self._of.append(len(self.spans))
            start -= p.numel()
            if (stop - start) * p.element_size() >= SLICE:
                self.spans.append(slice(start, stop))
                stop = start
        if start < stop:
            self.spans.append(slice(start, stop))
        self._of.reverse()
        self._params = layout.params

    @contextmanager
    def summed(self, rows: GradientRows, ranks: Ranks) -> Iterator[None]:
        """Within is the last backward pass to ``rows``, of a single row, which are sums of all
        processes afterwards."""
        if ranks.size == 1 or len(self.spans) == 1:
            yield
            ranks.sum_(rows.tail)
            return
        left = [self._of.count(i) for i in range(len(self.spans))]
        sent = 0

        def found(of: int, _: Tensor) -> None:
            nonlocal sent
            left[of] -= 1
            while sent < len(left) and not left[sent]:
                ranks.start_(rows.tail[self.spans[sent]])
                sent += 1

        hooks = [
            p.register_post_accumulate_grad_hook(partial(found, of))
            for p, of in zip(self._params, self._of, strict=True)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        for span in self.spans[sent:]:
            ranks.start_(rows.tail[span])
        ranks.finish()
