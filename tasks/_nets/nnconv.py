"""The message-passing network of the QM9 benchmark, on complete graphs padded to dense tensors.

Parameters have the names and shapes that the same network has with torch_geometric's layers
(:class:`ReferenceMPNN`): state dicts go either way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from mtlbench.tasks._nets.trunk import Trunk

if TYPE_CHECKING:
    from torch_geometric.data import Batch as GraphBatch

ROUNDS = 3
ATOM, BOND = 11, 5
"""Features of an atom, and of a pair."""


@dataclass(frozen=True)
class Padded:
    """Complete graphs, padded to the largest.

    Args:
        nodes: (B, n, F).
        edges: (B, n, n, E), symmetric; the diagonal and padding are ignored.
        mask: (B, n), True where there is an atom.
    """

    nodes: Tensor
    edges: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Padded:
        """The same graphs on ``device``."""
        return Padded(*(t.to(device) for t in (self.nodes, self.edges, self.mask)))

    def pairs(self) -> Tensor:
        """(B, n, n), True where an edge joins two different atoms."""
        loops = torch.eye(self.mask.size(1), dtype=torch.bool, device=self.mask.device)
        return self.mask.unsqueeze(1) & self.mask.unsqueeze(2) & ~loops


@dataclass(frozen=True)
class MoleculeBatch:
    """A batch in parts, each padded for itself: little is padding if sorted by size."""

    parts: Sequence[Padded]

    def to(self, device: torch.device) -> MoleculeBatch:
        """The same batch on ``device``."""
        return MoleculeBatch([part.to(device) for part in self.parts])

    def sparse(self) -> GraphBatch:
        """The same graphs in the form of torch_geometric."""
        from torch_geometric.data import Batch, Data

        graphs = []
        for part in self.parts:
            for nodes, edges, mask in zip(part.nodes, part.edges, part.mask, strict=True):
                n = int(mask.sum())
                index = (~torch.eye(n, dtype=torch.bool)).nonzero().T
                graphs.append(Data(nodes[:n], index, edges[index[0], index[1]]))
        return Batch.from_data_list(graphs)


def edge_network(d: int, edge_features: int, width: int) -> nn.Sequential:
    """Edge features to a d x d matrix, flattened."""
    return nn.Sequential(nn.Linear(edge_features, width), nn.ReLU(), nn.Linear(width, d * d))


class EdgeConv(nn.Module):
    r"""NNConv with mean aggregation, from `"Neural Message Passing for Quantum Chemistry"
    <https://arxiv.org/abs/1704.01212>`_, without a matrix for each edge.

    .. math:: h_i' = \Theta h_i + b + \frac{1}{n - 1} \sum_{j \ne i} h_j W(e_{ij})

    The edge network ends in a linear layer: :math:`W(e) = \sum_k a_k(e) W_k` with the m hidden
    units a (and 1 for the bias). So :math:`u_{jk} = h_j W_k` once a node and a sum over j and k
    once a pair give the messages; the a are the same in every round of message passing.

    Args:
        d: node features.
        edge_features: features of an edge.
        width: hidden units of the edge network.
    """

    def __init__(self, d: int, edge_features: int, width: int) -> None:
        super().__init__()
        self.nn = edge_network(d, edge_features, width)
        self.lin = nn.Linear(d, d, bias=False)
        self.bias = nn.Parameter(torch.zeros(d))

    def coefficients(self, graphs: Padded) -> Tensor:
        """a of every edge over its node's degree, 0 where there is no edge: (B, n, n (m + 1))."""
        pairs = graphs.pairs().to(graphs.edges.dtype).unsqueeze(3)
        pairs = pairs / pairs.sum(2, keepdim=True).clamp_min(1)
        # relu(s x) = s relu(x) for s >= 0: normalise and mask the inputs, which are thin, not a.
        inputs = torch.cat([graphs.edges * pairs, pairs], 3)
        hidden = cast(nn.Linear, self.nn[0])
        weight = torch.cat([hidden.weight, hidden.bias.unsqueeze(1)], 1)
        constant = torch.zeros_like(weight[:1])
        constant[0, -1] = 1
        return nn.functional.relu(inputs @ torch.cat([weight, constant]).T).flatten(2)

    def matrices(self) -> Tensor:
        """All W_k and the bias, side by side: (d, (m + 1) d)."""
        d = self.bias.numel()
        last = cast(nn.Linear, self.nn[2])
        bias = last.bias.view(d, d, 1)
        return torch.cat([last.weight.view(d, d, -1), bias], 2).transpose(1, 2).flatten(1)

    def forward(self, nodes: Tensor, coefficients: Tensor, matrices: Tensor) -> Tensor:
        """New node features (B, n, d)."""
        u = (nodes @ matrices).view(nodes.size(0), -1, nodes.size(2))
        out: Tensor = torch.bmm(coefficients, u) + self.lin(nodes) + self.bias
        return out


class Set2Set(nn.Module):
    """Attention readout, from `"Order Matters: Sequence to sequence for sets" <https://arxiv.org/abs/1511.06391>`_.

    Args:
        d: node features.
        steps: of the attention.
    """

    def __init__(self, d: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.lstm = nn.LSTM(2 * d, d)

    def forward(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """Graph vectors (B, 2 d)."""
        batch, _, d = nodes.shape
        state = (nodes.new_zeros(1, batch, d), nodes.new_zeros(1, batch, d))
        out = nodes.new_zeros(batch, 2 * d)
        for _ in range(self.steps):
            query, state = self.lstm(out.unsqueeze(0), state)
            scores = torch.bmm(nodes, query.view(batch, d, 1)).squeeze(2)
            attention = scores.masked_fill(~mask, -torch.inf).softmax(1)
            out = torch.cat(
                [query.squeeze(0), torch.bmm(attention.unsqueeze(1), nodes).squeeze(1)], 1
            )
        return out


class MPNN(nn.Module):
    """Molecules to vectors (B, d): three rounds of :class:`EdgeConv` and GRU, :class:`Set2Set`
    and a linear layer.

    Args:
        d: node features inside.
        width: hidden units of the edge network.
        node_features: of the input.
        edge_features: of the input.
    """

    def __init__(
        self, d: int, width: int, node_features: int = ATOM, edge_features: int = BOND
    ) -> None:
        super().__init__()
        self.lin0 = nn.Linear(node_features, d)
        self.conv = EdgeConv(d, edge_features, width)
        self.gru = nn.GRUCell(d, d)
        self.set2set = Set2Set(d, steps=3)
        self.lin1 = nn.Linear(2 * d, d)

    def forward(self, graphs: MoleculeBatch) -> Tensor:
        return nn.functional.relu(self.lin1(self.vectors(graphs)))

    def vectors(self, graphs: MoleculeBatch) -> Tensor:
        """What the readout makes of molecules, (B, 2 d)."""
        matrices = self.conv.matrices()
        return torch.cat([self._embed(part, matrices) for part in graphs.parts])

    def _embed(self, graphs: Padded, matrices: Tensor) -> Tensor:
        h = nn.functional.relu(self.lin0(graphs.nodes))
        coefficients = self.conv.coefficients(graphs)
        for _ in range(ROUNDS):
            message = nn.functional.relu(self.conv(h, coefficients, matrices))
            h = self.gru(message.flatten(0, 1), h.flatten(0, 1)).view_as(h)
        out: Tensor = self.set2set(h, graphs.mask)
        return out


def mpnn_trunk(d: int, width: int, heads: Mapping[str, nn.Module]) -> Trunk:
    """The same for other ways to share: a stage up to the readout, and the linear layer.

    Args:
        d, width: see :class:`MPNN`.
        heads: objective name to what follows.
    """

    def gate(stage: int, n: int) -> nn.Module:
        return nn.Linear(2 * d, n) if stage else nn.Sequential(MeanAtom(), nn.Linear(ATOM, n))

    return Trunk(nn.Identity(), lambda: [Vectors(d, width), Last(d)], gate, heads)


class Vectors(MPNN):
    """:class:`MPNN` up to its readout. Arguments as there."""

    def __init__(self, d: int, width: int) -> None:
        super().__init__(d, width)
        del self.lin1

    def forward(self, graphs: MoleculeBatch) -> Tensor:
        return self.vectors(graphs)


class Last(nn.Sequential):
    """The linear layer behind the readout."""

    def __init__(self, d: int) -> None:
        super().__init__(nn.Linear(2 * d, d), nn.ReLU())


class MeanAtom(nn.Module):
    """The mean of the atoms' features, (B, F)."""

    def forward(self, graphs: MoleculeBatch) -> Tensor:
        means = []
        for part in graphs.parts:
            known = part.mask.unsqueeze(2).to(part.nodes.dtype)
            means.append((part.nodes * known).sum(1) / known.sum(1))
        return torch.cat(means)


class ReferenceMPNN(nn.Module):
    """:class:`MPNN` made of torch_geometric's layers, the yardstick of its results and its speed.

    Called with :meth:`MoleculeBatch.sparse` of the molecules. Arguments as there.
    """

    def __init__(
        self, d: int, width: int, node_features: int = ATOM, edge_features: int = BOND
    ) -> None:
        super().__init__()
        from torch_geometric.nn import NNConv, Set2Set

        self.lin0 = nn.Linear(node_features, d)
        self.conv = NNConv(d, d, edge_network(d, edge_features, width), aggr="mean")
        self.gru = nn.GRUCell(d, d)
        self.set2set = Set2Set(d, processing_steps=3)
        self.lin1 = nn.Linear(2 * d, d)

    def forward(self, graphs: Any) -> Tensor:
        h = nn.functional.relu(self.lin0(graphs.x))
        for _ in range(ROUNDS):
            h = self.gru(nn.functional.relu(self.conv(h, graphs.edge_index, graphs.edge_attr)), h)
        return nn.functional.relu(self.lin1(self.set2set(h, graphs.batch)))
