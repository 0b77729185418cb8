"""Where a graph of autograd can be cut, and where it is best to."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, pairwise
from math import prod

from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node, get_gradient_edge

SLACK, FLOOR = 1.25, 1 << 20
"""Segments are as few as hold at most SLACK times the least possible, or FLOOR numbers."""

Edge = tuple[Node, int]


class Graph:
    """The part of K losses' graph that leads to given parameters.

    Args:
        losses: K scalars, each with a graph through its own head alone.
        params: leaves of the graph.

    Attributes:
        roots: the losses' edges; None for a loss without a graph.
        leaves: leaf node to index of its parameter.
        edges: what leaves each node that leads to a parameter.
        tasks: bit k of a node's entry says whether loss k leads there.
    """

    def __init__(self, losses: Sequence[Tensor], params: Sequence[nn.Parameter]) -> None:
        self.roots = [_edge(loss) if loss.requires_grad else None for loss in losses]
        leaves = {_edge(p)[0]: i for i, p in enumerate(params)}
        self.leaves: dict[Node, int] = {}
        self.edges: dict[Node, list[Edge]] = {}
        self.opaque = False
        """Whether some function's backward pass is Python, which may hide parameters."""
        leads: dict[Node, bool] = {}
        stack = [root[0] for root in self.roots if root is not None]
        while stack:
            node = stack[-1]
            after = [(child, nr) for child, nr in node.next_functions if child is not None]
            todo = [child for child, _ in after if child not in leads]
            if node not in leads and todo:
                stack += todo
                continue
            stack.pop()
            if node in leads:
                continue
            self.opaque |= isinstance(node, BackwardCFunction)
            if node in leaves:
                self.leaves[node] = leaves[node]
            self.edges[node] = [edge for edge in after if leads[edge[0]]]
            leads[node] = node in leaves or bool(self.edges[node])
        self._nodes = [node for node, useful in leads.items() if useful]
        self.tasks = dict.fromkeys(leads, 0)
        for k, root in enumerate(self.roots):
            if root is not None:
                self.tasks[root[0]] |= 1 << k
        for node in self.order(by_depth=False):
            for child, _ in self.edges[node]:
                self.tasks[child] |= self.tasks[node]

    def order(self, *, by_depth: bool) -> list[Node]:
        """The nodes without the leaves, from the losses to the inputs: the latest first, as
        autograd would, or by the distance from the losses. This is better where one trunk sees
        several inputs, whose passes then advance side by side."""
        waiting = dict.fromkeys(self._nodes, 0)
        for node in self._nodes:
            for child, _ in self.edges[node]:
                waiting[child] += 1
        depth, turn = dict.fromkeys(self._nodes, 0), count()  # nodes themselves have no order
        ready: list[tuple[int, int, Node]] = []

        def push(node: Node) -> None:
            key = depth[node] if by_depth else -node._sequence_nr()
            heapq.heappush(ready, (key, next(turn), node))

        for node, before in waiting.items():
            if not before and node not in self.leaves:
                push(node)
        found: list[Node] = []
        while ready:
            node = heapq.heappop(ready)[2]
            found.append(node)
            for child, _ in self.edges[node]:
                depth[child] = max(depth[child], depth[node] + 1)
                waiting[child] -= 1
                if not waiting[child] and child not in self.leaves:
                    push(child)
        return found

    def uses(self, order: Sequence[Node]) -> dict[Node, list[int]]:
        """Positions in the order from where each leaf is reached."""
        found: dict[Node, list[int]] = {}
        for i, node in enumerate(order):
            for child, _ in self.edges[node]:
                if child in self.leaves:
                    found.setdefault(child, []).append(i)
        return found

    def shape(self) -> Hashable:
        """Equal for two graphs of the same structure, whatever the sizes."""
        number = {node: i for i, node in enumerate(self._nodes)}
        links = ((type(n), *(number[child] for child, _ in self.edges[n])) for n in self._nodes)
        return tuple(links)


@dataclass(frozen=True)
class Plan:
    """Where to cut.

    Args:
        by_depth: the graph's order that is cut.
        cuts: positions in it, with both ends.
        held: numbers held at a time beside the forward graph, by estimate.
    """

    by_depth: bool
    cuts: tuple[int, ...]
    held: int


def plan(graph: Graph, sizes: Mapping[int, int]) -> Plan:
    """The fewest segments that hold little more than the least possible.

    Args:
        graph: of the losses.
        sizes: of the parameters whose rows are multiplied, by their index.
    """
    enough = max(FLOOR, sum(_rows(graph, leaf, sizes) for leaf in graph.leaves) // 2)
    first = _plan(graph, sizes, by_depth=False)
    if first.held <= enough:
        return first
    return min(first, _plan(graph, sizes, by_depth=True), key=lambda each: each.held)


def _rows(graph: Graph, leaf: Node, sizes: Mapping[int, int]) -> int:
    """How many numbers a leaf's rows are."""
    return sizes.get(graph.leaves[leaf], 0) * graph.tasks[leaf].bit_count()


def _plan(graph: Graph, sizes: Mapping[int, int], *, by_depth: bool) -> Plan:
    order = graph.order(by_depth=by_depth)
    n, at = len(order), {node: i for i, node in enumerate(order)}
    born: dict[Edge, int] = {}
    for i, node in enumerate(order):
        for edge in graph.edges[node]:
            if edge[0] not in graph.leaves:
                born.setdefault(edge, i)
    changes, starts, ends = ([0] * (n + 2) for _ in range(3))
    for (node, nr), i in born.items():
        gradients = prod(node._input_metadata[nr].shape) * graph.tasks[node].bit_count()
        changes[i + 1] += gradients
        changes[at[node] + 1] -= gradients
    uses = {leaf: p for leaf, p in graph.uses(order).items() if graph.leaves[leaf] in sizes}
    for leaf, places in uses.items():
        starts[places[0] + 1] += _rows(graph, leaf, sizes)
        ends[places[-1] + 1] += _rows(graph, leaf, sizes)
    crossing, begun, ended = (list(accumulate(each)) for each in (changes, starts, ends))
    used = sorted({i for places in uses.values() for i in places})
    between = (min(range(a + 1, b + 1), key=crossing.__getitem__) for a, b in pairwise(used))
    spots = [0, *between, n]

    def held(i: int, j: int) -> int:
        a, b = spots[i], spots[j]
        return max(crossing[a], crossing[b]) + begun[b] - ended[a]

    least = [0]
    for j in range(1, len(spots)):
        least.append(min(max(least[i], held(i, j)) for i in range(j)))
    limit = max(SLACK * least[-1], FLOOR)
    best = [(0, 0)]  # segments up to a spot, and where the last of them begins
    for j in range(1, len(spots)):
        fit = ((best[i][0] + 1, i) for i in range(j) if held(i, j) <= limit)
        best.append(min(fit, default=(n, j - 1)))
    cuts = [len(spots) - 1]
    while cuts[-1]:
        cuts.append(best[cuts[-1]][1])
    cuts.reverse()
    most = max(held(i, j) for i, j in pairwise(cuts))
    return Plan(by_depth, tuple(spots[i] for i in cuts), most)


def _edge(tensor: Tensor) -> Edge:
    node, nr, *_ = get_gradient_edge(tensor)
    return node, nr
