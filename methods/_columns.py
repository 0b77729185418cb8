"""Work on the Jacobian that holds a part of its columns at a time."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

AT_LEAST, AT_MOST = 1 << 15, 128
"""Columns of a block, and blocks."""


def column_blocks(jacobian: Tensor) -> Iterator[slice]:
    """The columns of (K, P), some at a time: what is computed of so many needs little memory beside
    the whole."""
    P = jacobian.shape[1]
    width = max(AT_LEAST, -(-P // AT_MOST))
    return (slice(start, min(start + width, P)) for start in range(0, P, width))
