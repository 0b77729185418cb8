from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtlbench.errors import DataError, UsageError
from mtlbench.interfaces import InputGroup, MultiTaskModel
from mtlbench.tasks._molecules.arrays import ARRAYS
from mtlbench.tasks._nets.nnconv import (
    MPNN,
    EdgeConv,
    MoleculeBatch,
    Padded,
    ReferenceMPNN,
    Set2Set,
)
from mtlbench.tasks.qm9 import EMBEDDED, QM9, TARGETS

MINI, PAPER = QM9.info.protocols
FULL_PRECISION = torch.float64

# torch_geometric's own use of a deprecated function, when it is imported
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def task() -> QM9:
    return QM9(MINI)


@pytest.fixture(scope="module")
def arrays() -> dict[str, Any]:
    with np.load(EMBEDDED) as archive:
        return {key: archive[key] for key in archive}


@pytest.fixture(scope="module")
def group(task: QM9) -> InputGroup:
    """A batch of molecules of very different sizes."""
    (group,) = next(iter(task.batches("train", 0)))
    return group


def double(batch: MoleculeBatch) -> MoleculeBatch:
    return MoleculeBatch([Padded(p.nodes.double(), p.edges.double(), p.mask) for p in batch.parts])


# ------------------------------------------------------------------------------------ batches
def test_shapes_and_roles(task: QM9, group: InputGroup) -> None:
    assert list(group.targets) == list(task.info.objectives) == list(TARGETS)
    sizes = []
    for part in group.inputs.parts:
        b, n = part.mask.shape
        assert part.nodes.shape == (b, n, 11)
        assert part.edges.shape == (b, n, n, 5)
        sizes += part.mask.sum(1).tolist()
    assert sizes == sorted(sizes)
    assert len(sizes) == MINI.batch_size
    model = task.build_model("mpnn")
    shared, heads = model.parameter_roles(task.info.objectives)
    d = MINI.options["d"]
    assert {p.data_ptr() for p in shared} == {p.data_ptr() for p in model.shared.parameters()}
    assert [sum(p.numel() for p in head) for head in heads] == [d + 1] * 11
    assert model.shared(group.inputs).shape == (MINI.batch_size, d)
    assert {p.shape for p in model(group.inputs).values()} == {(MINI.batch_size,)}


def test_lengths(task: QM9) -> None:
    for split, n in zip(("train", "val", "test"), MINI.options["split"], strict=True):
        batches = task.batches(split, None)
        assert len(list(batches)) == len(batches) == -(-n // MINI.batch_size)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'holdout'; valid: train, val, test"):
        task.batches("holdout", None)


def test_seed_decides_the_order(task: QM9) -> None:
    random_state = torch.get_rng_state()
    y0, y1, y2, yn = (
        torch.cat([group.targets["u0"] for (group,) in task.batches("train", seed)])
        for seed in (0, 0, 1, None)
    )
    assert torch.equal(y0, y1)
    assert not torch.equal(y0, y2)
    assert torch.equal(y0.sort().values, y2.sort().values)
    assert torch.equal(y0.sort().values, yn.sort().values)
    assert torch.equal(random_state, torch.get_rng_state())


def test_split_is_fixed(task: QM9) -> None:
    assert task.data_source == "QM9, 5,000 embedded molecules, split 3,000/500/1,500"
    everything = np.concatenate(list(task.split.values()))
    assert len(everything) == len(set(everything.tolist())) == sum(MINI.options["split"])
    paper = QM9(PAPER)
    assert paper.data_source == "QM9, 5,000 embedded molecules, split 4,236/382/382"
    assert sorted(np.concatenate(list(paper.split.values())).tolist()) == list(range(5000))
    # A change of these numbers changes every published one: raise the protocol's version.
    assert [index[:4].tolist() for index in task.split.values()] == [
        [2221, 1222, 227, 4662],
        [1294, 3007, 4987, 2277],
        [4439, 4478, 1702, 827],
    ]


def test_features(task: QM9, arrays: dict[str, Any]) -> None:
    molecule = 17
    atoms, bonds = (
        slice(int(arrays[n][:molecule].sum()), int(arrays[n][: molecule + 1].sum()))
        for n in ("n", "n_bonds")
    )
    (part,) = task.molecules.batch(torch.tensor([molecule])).parts
    z, xyz = arrays["z"][atoms], arrays["pos_mA"][atoms] / 1000
    n = len(z)
    nodes = np.zeros((n, 11))
    for i in range(n):
        nodes[i, [1, 6, 7, 8, 9].index(z[i])] = 1
        nodes[i, 5:7] = z[i], arrays["aromatic"][atoms][i]
        if kind := arrays["hybridization"][atoms][i]:
            nodes[i, 6 + kind] = 1
        nodes[i, 10] = arrays["num_hs"][atoms][i]
    edges = np.zeros((n, n, 5))
    edges[..., 4] = np.linalg.norm(xyz[:, None] - xyz[None], axis=2)
    for (i, j), kind in zip(arrays["bonds"][bonds], arrays["bond_type"][bonds], strict=True):
        edges[i, j, kind] = edges[j, i, kind] = 1
    np.testing.assert_array_equal(part.nodes[0], nodes)
    np.testing.assert_allclose(part.edges[0], edges, atol=1e-5)


def test_water(task: QM9, arrays: dict[str, Any]) -> None:
    (water,) = np.flatnonzero(np.array(str(arrays["smiles"]).split("\n")) == "O")
    assert task.molecules.y[water, list(TARGETS).index("u0")] == pytest.approx(-9.240, abs=5e-4)
    (part,) = task.molecules.batch(torch.tensor([water])).parts
    assert sorted(part.nodes[0, :, 5].tolist()) == [1, 1, 8]
    oxygen = part.nodes[0, :, 5].argmax()
    np.testing.assert_allclose(
        part.edges[0, oxygen, :, 4].sort().values, [0, 0.962, 0.962], atol=2e-3
    )
    assert part.edges[0, ..., 0].sum() == 4


def test_targets_are_z_scored_by_train(task: QM9) -> None:
    y = torch.stack(
        [torch.cat([g.targets[name] for (g,) in task.batches("train", None)]) for name in TARGETS]
    )
    torch.testing.assert_close(y.mean(1), torch.zeros(11), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(1, correction=0), torch.ones(11), atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------ losses
def test_scales_are_standard_deviations(arrays: dict[str, Any]) -> None:
    for column, metric in enumerate(QM9.info.metrics):
        factor = 1000 if metric.unit == "meV" else 1
        assert metric.scale == pytest.approx(arrays["y"][:, column].std() * factor, rel=1e-5)


def test_loss_and_meters(task: QM9, group: InputGroup) -> None:
    rng = np.random.default_rng(0)
    meters = task.meters()
    assert list(meters) == [m.name for m in task.info.metrics]
    raw = task.molecules.y[task.split["train"]]
    for metric in task.info.metrics:
        column = list(TARGETS).index(metric.objective)
        target = group.targets[metric.objective]
        prediction = target + torch.from_numpy(rng.normal(size=len(target))).float()
        loss = task.loss(metric.objective, prediction, target)
        torch.testing.assert_close(loss, ((prediction - target) ** 2).sum() / len(target))
        for part in (slice(0, 64), slice(64, None)):
            meters[metric.name].update(prediction[part], target[part])
        unit = 1000 if metric.unit == "meV" else 1
        error = (prediction - target).abs().double().numpy().mean() * raw[:, column].std() * unit
        assert float(meters[metric.name].compute()) == pytest.approx(error, rel=1e-5)
    score = task.selection_score({m.name: 0.5 * m.scale for m in task.info.metrics})
    assert score == pytest.approx(-0.5)


# ------------------------------------------------------------------------------------ network
@pytest.mark.parametrize(("d", "width"), [(16, 16), (8, 12)])
def test_equals_torch_geometric(group: InputGroup, d: int, width: int) -> None:
    torch.manual_seed(0)
    dense, sparse = MPNN(d, width).double(), ReferenceMPNN(d, width).double()
    sparse.load_state_dict(dense.state_dict())
    batch = double(group.inputs)
    outputs = dense(batch), sparse(batch.sparse())
    torch.testing.assert_close(*outputs, atol=1e-10, rtol=1e-8)
    weight = torch.randn_like(outputs[0])
    for out in outputs:
        torch.autograd.backward((out * weight).sum())
    reference = dict(sparse.named_parameters())
    for name, p in dense.named_parameters():
        torch.testing.assert_close(p.grad, reference[name].grad, atol=1e-10, rtol=1e-8)


def test_single_precision_equals_torch_geometric(group: InputGroup) -> None:
    torch.manual_seed(0)
    dense, sparse = MPNN(16, 16), ReferenceMPNN(16, 16)
    dense.load_state_dict(sparse.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(
            dense(group.inputs), sparse(group.inputs.sparse()), atol=1e-5, rtol=1e-5
        )


def test_edge_conv_equals_nnconv(group: InputGroup) -> None:
    from torch_geometric.nn import NNConv

    torch.manual_seed(0)
    ours = EdgeConv(6, 5, 7).double()
    torch.nn.init.normal_(ours.bias)
    theirs = NNConv(6, 6, ours.nn, aggr="mean").double()
    theirs.load_state_dict(ours.state_dict())
    part = double(group.inputs).parts[-1]
    graphs = MoleculeBatch([part]).sparse()
    h = torch.randn(*part.mask.shape, 6, dtype=FULL_PRECISION)
    out = ours(h, ours.coefficients(part), ours.matrices())
    expected = theirs(h[part.mask], graphs.edge_index, graphs.edge_attr)
    torch.testing.assert_close(out[part.mask], expected, atol=1e-10, rtol=1e-8)


def test_set2set_equals_torch_geometric() -> None:
    from torch_geometric.nn import Set2Set as Reference

    torch.manual_seed(0)
    ours, theirs = Set2Set(6, 3).double(), Reference(6, 3).double()
    theirs.load_state_dict(ours.state_dict())
    mask = torch.arange(9) < torch.tensor([[3], [9], [1], [5]])
    nodes = torch.randn(4, 9, 6, dtype=FULL_PRECISION, requires_grad=True)
    graph = mask.nonzero()[:, 0]
    outputs = ours(nodes, mask), theirs(nodes[mask], graph)
    torch.testing.assert_close(*outputs, atol=1e-12, rtol=1e-10)
    weight = torch.randn_like(outputs[0])
    grads = [torch.autograd.grad((out * weight).sum(), nodes)[0] for out in outputs]
    torch.testing.assert_close(*grads, atol=1e-12, rtol=1e-10)


def test_order_of_atoms_and_padding_do_not_matter(group: InputGroup) -> None:
    torch.manual_seed(0)
    network = MPNN(8, 8).double()
    part = double(group.inputs).parts[0]
    n = part.mask.size(1)
    order = torch.randperm(n + 3)
    nodes = torch.nn.functional.pad(part.nodes, (0, 0, 0, 3), value=5.0)
    edges = torch.nn.functional.pad(part.edges, (0, 0, 0, 3, 0, 3), value=5.0)
    mask = torch.nn.functional.pad(part.mask, (0, 3))
    shuffled = Padded(nodes[:, order], edges[:, order][:, :, order], mask[:, order])
    torch.testing.assert_close(
        network(MoleculeBatch([part])), network(MoleculeBatch([shuffled])), atol=1e-10, rtol=1e-8
    )


def test_sparse_is_the_complete_graph(group: InputGroup) -> None:
    graphs = group.inputs.sparse()
    sizes = graphs.batch.bincount()
    assert graphs.num_nodes == sizes.sum()
    assert graphs.num_edges == (sizes * (sizes - 1)).sum()
    assert not graphs.has_self_loops()
    assert graphs.is_undirected()


def test_torch_geometric_is_not_imported_to_train() -> None:
    code = (
        "import sys; from mtlbench.tasks.qm9 import QM9; task = QM9(QM9.info.protocols[0]);"
        "task.build_model('mpnn')(next(iter(task.batches('val', None)))[0].inputs);"
        "assert 'torch_geometric' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------ training
def _train(task: QM9, epochs: int) -> MultiTaskModel:
    torch.manual_seed(0)
    model = task.build_model("mpnn")
    optimizer = torch.optim.Adam(model.parameters(), lr=MINI.lr)
    for epoch in range(epochs):
        for (group,) in task.batches("train", epoch):
            optimizer.zero_grad()
            out = model(group.inputs)
            torch.stack(
                [task.loss(k, out[k], t) for k, t in group.targets.items()]
            ).sum().backward()
            optimizer.step()
    return model


@torch.no_grad()
def _scores(task: QM9, model: MultiTaskModel | None) -> dict[str, float]:
    """Mean absolute errors on val, of the trivial predictor if there is no model."""
    meters = task.meters()
    for (group,) in task.batches("val", None):
        out = model(group.inputs) if model else {}
        for metric in task.info.metrics:
            target = group.targets[metric.objective]
            meters[metric.name].update(out.get(metric.objective, torch.zeros_like(target)), target)
    return {name: float(meter.compute()) for name, meter in meters.items()}


def test_learns(task: QM9) -> None:
    trivial = task.selection_score(_scores(task, None))
    assert -0.9 < trivial < -0.7
    assert task.selection_score(_scores(task, _train(task, 5))) > trivial + 0.25


@pytest.mark.slow
def test_protocol_beats_the_trivial_predictor_on_every_target(task: QM9) -> None:
    trivial, trained = _scores(task, None), _scores(task, _train(task, MINI.epochs))
    assert task.selection_score(trained) > -0.6
    assert all(trained[name] < trivial[name] for name in trivial)


# ------------------------------------------------------------------------------------ folders
@pytest.fixture
def small(arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays of the first 40 molecules."""
    counts = {
        "molecules": 40,
        "atoms": int(arrays["n"][:40].sum()),
        "bonds": int(arrays["n_bonds"][:40].sum()),
    }
    return {name: arrays[name][: counts[kind]] for name, (kind, _, _) in ARRAYS.items()}


def test_folder(tmp_path: Path, small: dict[str, Any]) -> None:
    np.savez_compressed(tmp_path / "qm9.npz", **small)
    task = QM9(dataclasses.replace(MINI, batch_size=2), tmp_path)
    assert task.data_source == "QM9, 40 molecules of sanitised SMILES, split 24/4/12"
    assert len(list(task.batches("train", None))) == 12


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no QM9: expected one of qm9\.npz, .*PATH"):
        QM9(MINI, tmp_path)


def test_missing_arrays(tmp_path: Path, small: dict[str, Any]) -> None:
    del small["bonds"], small["y"]
    np.savez_compressed(tmp_path / "qm9.npz", **small)
    with pytest.raises(DataError, match=r"qm9\.npz lacks the arrays y, bonds: expected"):
        QM9(MINI, tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file(tmp_path: Path, small: dict[str, Any], share: float) -> None:
    path = tmp_path / "qm9.npz"
    np.savez_compressed(path, **small)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"qm9\.npz is corrupt .*: expected"):
        QM9(MINI, tmp_path)


def test_flipped_bytes(tmp_path: Path, small: dict[str, Any]) -> None:
    path = tmp_path / "qm9.npz"
    np.savez_compressed(path, **small)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 50] = bytes(50)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"qm9\.npz is corrupt .*: expected"):
        QM9(MINI, tmp_path)


def test_not_an_archive(tmp_path: Path) -> None:
    (tmp_path / "qm9.npz").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"qm9\.npz is corrupt"):
        QM9(MINI, tmp_path)
    with (tmp_path / "qm9.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match=r"qm9\.npz is corrupt"):
        QM9(MINI, tmp_path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("z", lambda a: a[:-1]),
        ("y", lambda a: a[:, :10]),
        ("bonds", lambda a: a[:-2]),
        ("index", lambda a: a[1:]),
    ],
)
def test_arrays_that_do_not_fit(
    tmp_path: Path, small: dict[str, Any], name: str, change: Any
) -> None:
    small[name] = change(small[name])
    np.savez_compressed(tmp_path / "qm9.npz", **small)
    with pytest.raises(DataError, match=rf"qm9\.npz has an array '{name}' of shape"):
        QM9(MINI, tmp_path)
