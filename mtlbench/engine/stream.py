r"""The Gramian without the Jacobian: K backward passes in lockstep, a piece of the graph at a time.

The autograd graph is cut, not the modules: between two nodes of a topological order, the K
gradients of every edge that crosses the cut are kept. From the losses to the inputs, each segment
turns them, task by task, into K rows of its own parameters, which are multiplied and forgotten, and
K gradients on the edges that leave it. Skips, recurrence and tied parameters are no special cases.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from mtlbench.engine.cuts import Edge, Graph, Plan, plan
from mtlbench.engine.restrict import Index
from mtlbench.interfaces.gradients import inner_products

logger = logging.getLogger(__name__)

RowsMode = Literal["auto", "whole", "streamed", "sharded"]
"""Whether a Gramian is made of a whole Jacobian: by its size, always, or never where there is
another way; or whether each of several processes has a part of the Jacobian's columns."""

WHOLE_BELOW = 128 << 20, 8
"""Bytes and tasks of a Jacobian below which ``auto`` keeps it whole. Measured, a stream takes 1.00
to 1.10 times as long from so many bytes on (10 and 40 tasks), and up to 1.16 below (10 tasks). The
weighted pass is the larger a part the fewer tasks there are, and of fewer than 8 a whole
Jacobian is less than twice what parameters, gradient and Adam take in any case."""
GAIN = 0.75
"""The share of a whole Jacobian that a stream may hold at a time, or else it is not worth it."""


class NotStreamableError(RuntimeError):
    """The graph cannot be cut, or it is not worth it: the Jacobian has to be whole."""


@dataclass
class Block:
    """Rows of the parameters that the same tasks reach and that end in the same segment.

    Args:
        tasks: bit k says whether task k has a row.
        leaves: of the parameters.
        several: whether more than one segment adds to the rows, which then live until the last.
    """

    tasks: int
    leaves: list[Node]
    several: bool
    rows: Tensor | None = None


class Streamer:
    """Gramians of K losses, step after step.

    Args:
        shared: the P parameters whose gradients are multiplied.
        mode: when to stream.
    """

    def __init__(self, shared: Sequence[nn.Parameter], mode: RowsMode = "auto") -> None:
        self.shared, self.mode = list(shared), mode
        self._sizes = {i: p.numel() for i, p in enumerate(self.shared)}
        self._plans: dict[Hashable, Plan] = {}
        self._scratch = torch.empty(0)
        self._index: dict[int, Index] = {}
        self._logged: set[str] = set()

    def wanted(self, n_tasks: int, groups: int) -> bool:
        """Whether a Gramian of so many losses is to be streamed.

        Args:
            n_tasks: K.
            groups: how many graphs of the trunk the losses have. The weighted pass that a stream
                needs at its end is one through each.
        """
        size = self.size(n_tasks)
        if self.mode == "auto":
            least, few = WHOLE_BELOW
            return groups == 1 and size >= least and n_tasks >= few
        return self.mode == "streamed" and n_tasks > 1 and size > 0

    def size(self, n_tasks: int) -> int:
        """Bytes of a Jacobian."""
        return n_tasks * sum(p.numel() * p.element_size() for p in self.shared)

    def stream(self, losses: Sequence[Tensor], heads: Sequence[Sequence[nn.Parameter]]) -> Stream:
        """What makes the Gramian of a step, planned.

        Args:
            losses: K scalars, each with a graph through its own head alone. (Entries of one tensor
                would send zeros through every head.)
            heads: parameters of each head.

        Raises:
            NotStreamableError: the whole Jacobian has to be taken.
        """
        graph = Graph(losses, [*self.shared, *chain.from_iterable(heads)])
        return Stream(losses, graph, self._plan(graph, len(losses)), self)

    def _plan(self, graph: Graph, n_tasks: int) -> Plan:
        missing = self._sizes.keys() - graph.leaves.values()
        if graph.opaque and missing:
            raise NotStreamableError(
                "a function's backward pass may hide parameters (a reentrant checkpoint does)"
            )
        shape = graph.shape()
        if shape not in self._plans:
            if len(self._plans) >= 16:  # graphs differ from step to step
                self._plans.clear()
            self._plans[shape] = plan(graph, self._sizes)
        chosen = self._plans[shape]
        whole = n_tasks * sum(self._sizes.values())
        if chosen.held > GAIN * whole:
            raise NotStreamableError(
                f"in pieces it would be {chosen.held / whole:.0%} of the whole"
            )
        return chosen

    def log(self, reason: NotStreamableError) -> None:
        """Say once why a Jacobian is whole."""
        if str(reason) not in self._logged:
            self._logged.add(str(reason))
            logger.warning("the Jacobian is kept whole: %s", reason)

    def scratch(self, size: int, like: Tensor) -> Tensor:
        """Memory that is kept from step to step."""
        if self._scratch.numel() < size or self._scratch.device != like.device:
            self._scratch = torch.empty(0)
            self._scratch = torch.empty(size, dtype=self.shared[0].dtype, device=like.device)
        return self._scratch

    def index(self, tasks: int) -> Index:
        """The tasks of a bit mask, copied to a device once a run."""
        if tasks not in self._index:
            self._index[tasks] = Index([k for k in range(tasks.bit_length()) if tasks >> k & 1])
        return self._index[tasks]


class Stream:
    """One Gramian on its way, see :meth:`Streamer.stream`."""

    def __init__(
        self, losses: Sequence[Tensor], graph: Graph, chosen: Plan, streamer: Streamer
    ) -> None:
        self.losses, self.graph, self.streamer = losses, graph, streamer
        self.order, self.cuts = graph.order(by_depth=chosen.by_depth), chosen.cuts
        self.pending: dict[Edge, dict[int, Tensor]] = {}
        self.rows: dict[Node, Sequence[Tensor]] = {}
        """Of the parameters at hand, those of the tasks that reach them."""
        self.own: dict[int, Tensor] = {}
        """Where the gradients of the heads' parameters go."""

    def _segment_of(self, position: int) -> int:
        return bisect_left(self.cuts, position + 1) - 1

    def _blocks(self) -> dict[int, list[Block]]:
        """The rows to be multiplied, by the segment that they end in."""
        found: dict[tuple[int, int, bool], Block] = {}
        for leaf, places in self.graph.uses(self.order).items():
            if self.graph.leaves[leaf] >= len(self.streamer.shared):
                continue
            tasks, last = self.graph.tasks[leaf], self._segment_of(places[-1])
            several = self._segment_of(places[0]) < last
            block = found.setdefault((last, tasks, several), Block(tasks, [], several))
            block.leaves.append(leaf)
        ending: dict[int, list[Block]] = {}
        for (last, _, _), block in found.items():
            ending.setdefault(last, []).append(block)
        return ending

    def gramian(self, heads: Sequence[Sequence[Tensor]]) -> Tensor:
        """(K, K), in double precision, by one backward pass a loss; the graph stays usable.

        Args:
            heads: zeros, to which the gradients of the heads' parameters are added.
        """
        losses, streamer, dtype = self.losses, self.streamer, self.streamer.shared[0].dtype
        self.own = dict(enumerate(chain.from_iterable(heads), start=len(streamer.shared)))
        for k, (root, loss) in enumerate(zip(self.graph.roots, losses, strict=True)):
            if root is not None:
                self.pending.setdefault(root, {})[k] = torch.ones_like(loss)
        blocks = self._blocks()
        for block in chain.from_iterable(blocks.values()):
            if block.several:
                self._place(block, losses[0].new_zeros(self._size(block), dtype=dtype))
        most = max(map(self._need, blocks.values()), default=0)
        scratch = streamer.scratch(most, losses[0])
        total = inner_products(losses[0].new_zeros(len(losses), 0, dtype=dtype))
        for s, (a, b) in enumerate(pairwise(self.cuts)):
            ending, taken = blocks.pop(s, []), 0
            for block in ending:
                if not block.several:
                    size = self._size(block)
                    self._place(block, scratch[taken : taken + size].zero_())
                    taken += size
            self._segment(self.order[a:b], len(losses))
            for block in ending:
                self._add(total, block)
        return total

    def _widths(self, block: Block) -> list[int]:
        return [self.streamer.shared[self.graph.leaves[leaf]].numel() for leaf in block.leaves]

    def _size(self, block: Block) -> int:
        """Numbers in a block's rows."""
        return block.tasks.bit_count() * sum(self._widths(block))

    def _need(self, blocks: Sequence[Block]) -> int:
        """Scratch that blocks take which end in one segment."""
        return sum(self._size(block) for block in blocks if not block.several)

    def _place(self, block: Block, memory: Tensor) -> None:
        widths, n = self._widths(block), block.tasks.bit_count()
        block.rows = memory.view(n, sum(widths))
        for leaf, part in zip(block.leaves, block.rows.split(widths, dim=1), strict=True):
            shape = self.streamer.shared[self.graph.leaves[leaf]].shape
            self.rows[leaf] = [row.view(shape) for row in part]

    def _segment(self, nodes: Sequence[Node], n_tasks: int) -> None:
        """Differentiate a segment, task by task."""
        graph, inside = self.graph, set(nodes)
        entries = [edge for edge in self.pending if edge[0] in inside]
        leaving = (edge for node in nodes for edge in graph.edges[node] if edge[0] not in inside)
        exits = list(dict.fromkeys(leaving))
        with _stopped({node for node, _ in exits} - graph.leaves.keys()):
            for k in range(n_tasks):
                given = [(e, self.pending[e].pop(k)) for e in entries if k in self.pending[e]]
                wanted = [edge for edge in exits if graph.tasks[edge[0]] >> k & 1]
                if given and wanted:
                    starts, grads = zip(*given, strict=True)
                    del given
                    ends = [GradientEdge(*edge) for edge in wanted]
                    found = torch.autograd.grad(
                        [GradientEdge(*edge) for edge in starts],
                        ends,
                        grads,
                        retain_graph=True,
                        allow_unused=True,
                    )
                    del grads
                    self._take(k, wanted, found)
                    del found
        for edge in entries:
            del self.pending[edge]

    def _take(self, k: int, edges: Sequence[Edge], grads: Sequence[Tensor | None]) -> None:
        """Task k's gradients of edges that leave a segment."""
        for edge, found in zip(edges, grads, strict=True):
            if found is None:
                continue
            grad = found if found.layout is torch.strided else found.to_dense()
            if edge[0] in self.graph.leaves:
                self._target(k, edge[0]).add_(grad)
            else:
                known = self.pending.setdefault(edge, {})
                known[k] = known[k] + grad if k in known else grad  # may share memory with others

    def _target(self, k: int, leaf: Node) -> Tensor:
        """What task k's gradient of a leaf is added to."""
        index = self.graph.leaves[leaf]
        if index in self.own:
            return self.own[index]
        before = self.graph.tasks[leaf] & ((1 << k) - 1)
        return self.rows[leaf][before.bit_count()]

    def _add(self, total: Tensor, block: Block) -> None:
        """Multiply a block's rows, and forget them."""
        assert block.rows is not None
        products = inner_products(block.rows)
        if len(products) == len(total):
            total += products
        else:
            index = self.streamer.index(block.tasks).on(total.device)
            total[index[:, None], index] += products
        block.rows = None
        for leaf in block.leaves:
            del self.rows[leaf]


@contextmanager
def _stopped(nodes: Iterable[Node]) -> Iterator[None]:
    """No gradient passes through these nodes: where one edge that leaves a segment leads to
    another, autograd would go on beyond the first and count twice."""
    handles = [node.register_prehook(lambda grads: (None,) * len(grads)) for node in nodes]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
