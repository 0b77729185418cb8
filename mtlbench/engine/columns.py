r"""A Jacobian that several processes share by columns: each has P / R of them, of all K rows.

A Gramian needs no whole row: with :math:`J = [C_1 | \dots | C_R]`,

.. math:: J J^\top = \sum_r C_r C_r^\top, \qquad J^\top w = [C_1^\top w; \dots; C_R^\top w]

so that a row is sent once, to the processes that own its columns, and the update once, back:
(K + 1) P numbers instead of the 2 K P that sums of whole rows take. What is held is two rows, the
update and K / R rows of columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlbench.engine.flat import FlatParameters
from mtlbench.engine.reduce import Ranks
from mtlbench.interfaces import HeadPolicy, Update
from mtlbench.interfaces.gradients import inner_products, scaled


class Columns:
    """The columns of this process.

    Two buffers take turns, so that one row is sent while the next is found.

    Args:
        flat: the parameters.
        ranks: the processes.
        n_tasks: K.

    Attributes:
        own: (K, P / R), summed over the processes once it was :meth:`complete`.
        heads: the heads' gradients, likewise.
    """

    def __init__(self, flat: FlatParameters, ranks: Ranks, n_tasks: int) -> None:
        self._flat, self._ranks = flat, ranks
        self._span = ranks.spans(flat.shared.stop)[ranks.rank]
        self._buffers = flat.rows(1), flat.rows(1)
        self._sent: list[int] = []
        self.own = flat.data.new_empty(n_tasks, self._span.stop - self._span.start)
        self.heads: Sequence[Tensor] = self._buffers[0].heads
        self._free = list(self._buffers)

    def bind(self) -> None:
        """Let autograd write the next row, and the gradient of its head, to a buffer that is
        free."""
        turn = len(self._sent)
        buffer = self._buffers[turn % 2]
        if turn >= 2:
            self._ranks.finish(but=1)
            self._keep(turn - 2)
            buffer.rows[0].zero_()
        buffer.bind()

    def send(self, k: int) -> None:
        """The row is found, and is task k's."""
        buffer = self._buffers[len(self._sent) % 2]
        self._ranks.start_parts_(buffer.rows[0])
        self._sent.append(k)

    def _keep(self, turn: int) -> None:
        self.own[self._sent[turn]] = self._buffers[turn % 2].rows[0][self._span]

    def complete(self) -> Columns:
        """Wait for the last rows, and sum the heads' gradients, each of which is in one buffer."""
        self._ranks.finish()
        for turn in range(max(0, len(self._sent) - 2), len(self._sent)):
            self._keep(turn)
        first, second = (buffer.buffer[self._flat.shared.stop :] for buffer in self._buffers)
        self._ranks.sum_(first.add_(second))
        return self

    def gramian(self) -> Tensor:
        """(K, K), in double precision."""
        return self._ranks.sum(inner_products(self.own))

    def combine(self, weights: Tensor, heads: HeadPolicy) -> Update:
        """The weighted sum of the rows, whole on every process."""
        buffer = self._free.pop(0) if self._free else self._flat.rows(1)
        row = buffer.rows[0]
        torch.mv(self.own.T, weights.to(self.own), out=row[self._span])
        self._ranks.spread_(row)
        return Update(row, scaled(self.heads, weights, heads), weights)
