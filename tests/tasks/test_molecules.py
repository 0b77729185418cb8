"""QM9 in each of its layouts: tiny folders made of embedded molecules."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mtlbench import InputGroup, Stepper
from mtlbench.bench.yardsticks import yardsticks
from mtlbench.cli import main
from mtlbench.data import SPLITS, split_indices
from mtlbench.errors import DataError, UsageError
from mtlbench.tasks._molecules import geometric, qm9pack, sources
from mtlbench.tasks._molecules.arrays import ARRAYS, ELEMENTS, TARGETS, Arrays
from mtlbench.tasks._molecules.split import FULL, PUBLISHED, codes, split
from mtlbench.tasks.qm9 import EMBEDDED, QM9

MINI, PAPER = QM9.info.protocols
SYMBOLS = {number: symbol for symbol, number in ELEMENTS.items()}
CHOSEN = (*range(4), 12, 13, *range(300, 4800, 750))
N = len(CHOSEN)
SKIPPED = 58  # the first of those that failed QM9's check

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


# ------------------------------------------------------------------------------------ folders
@pytest.fixture(scope="module")
def embedded() -> Arrays:
    with np.load(EMBEDDED) as archive:
        return {name: archive[name] for name in archive}


def taken(arrays: Arrays, molecules: Iterable[int]) -> Arrays:
    """These molecules, in this order."""
    order = list(molecules)
    rows = {"molecules": np.array(order)}
    for kind, counts in (("atoms", arrays["n"]), ("bonds", arrays["n_bonds"])):
        ends = counts.astype(int).cumsum()
        rows[kind] = np.concatenate([np.arange(ends[i] - counts[i], ends[i]) for i in order])
    return {name: arrays[name][rows[kind]] for name, (kind, _, _) in ARRAYS.items()}


@pytest.fixture
def few(embedded: Arrays) -> Arrays:
    """Molecules of several sizes with every type of bond, and geometric's features: none."""
    arrays = taken(embedded, CHOSEN)
    nothing = np.zeros_like(arrays["z"])
    return arrays | {"aromatic": nothing, "hybridization": nothing}


@pytest.fixture
def smiles(embedded: Arrays) -> list[str]:
    """Of the same molecules."""
    every = str(embedded["smiles"]).split("\n")
    return [every[i] for i in CHOSEN]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Path:
    """A cache of its own; all of QM9 is parsed into the user's, and not again."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setenv("MTLBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def molecules(arrays: Arrays) -> Iterable[Any]:
    """Index, y, atoms and bonds of each."""
    atoms = np.split(np.arange(len(arrays["z"])), arrays["n"].astype(int).cumsum()[:-1])
    bonds = np.split(np.arange(len(arrays["bonds"])), arrays["n_bonds"].astype(int).cumsum()[:-1])
    return zip(arrays["index"].tolist(), arrays["y"], atoms, bonds, strict=True)


def write_raw(folder: Path, arrays: Arrays) -> None:
    """As torch_geometric downloads it; with one molecule more, that is on the list of skipped."""
    from torch_geometric.datasets.qm9 import HAR2EV, KCALMOL2EV

    (folder / "raw").mkdir(parents=True)
    records, rows = [], []
    extra = (f"gdb_{SKIPPED}", np.ones(len(TARGETS)), np.array([0]), np.array([], dtype=int))
    for index, y, atoms, bonds in [*molecules(arrays), extra]:
        name = index if isinstance(index, str) else f"gdb_{index}"
        lines = [
            name,
            "  -OEChem-03231823243D",
            "",
            f"{len(atoms):3}{len(bonds):3}  0  0  0  0999 V2000",
        ]
        for i in atoms:
            xyz = "".join(f"{x / 1000:10.4f}" for x in arrays["pos_mA"][i])
            lines.append(f"{xyz} {SYMBOLS[int(arrays['z'][i])]:3} 0  0  0  0  0")
        for b in bonds:
            i, j = arrays["bonds"][b].astype(int) + 1
            lines.append(f"{i:3}{j:3}{int(arrays['bond_type'][b]) + 1:3}  0  0  0  0")
        records.append("\n".join([*lines, "M  END", "$$$$\n"]))
        factors = {"hartree": HAR2EV, "kcal/mol": KCALMOL2EV}
        row = {"mol_id": name, "A": 1.0, "B": 1.0, "C": 1.0} | dict.fromkeys(TABLE, 0.0)
        for value, (column, unit) in zip(y, geometric.COLUMNS.values(), strict=True):
            row[column] = value / factors.get(unit, 1.0)
        rows.append(row)
    (folder / geometric.SDF).write_text("".join(records))
    pd.DataFrame(rows).to_csv(folder / geometric.CSV, index=False)
    header = "\n".join(f"header {i}" for i in range(9))
    (folder / geometric.SKIPPED).write_text(f"{header}\n    58  C  C\n   61  C\n\nend")


TABLE = (
    *("mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "u0", "u298", "h298", "g298", "cv"),
    *("u0_atom", "u298_atom", "h298_atom", "g298_atom"),
)


def write_processed(folder: Path, arrays: Arrays) -> None:
    """As torch_geometric saves it."""
    from torch_geometric import datasets
    from torch_geometric.data import Data

    graphs = []
    for index, y, atoms, bonds in molecules(arrays):
        z = torch.from_numpy(arrays["z"][atoms].astype(np.int64))
        one_hot = z[:, None] == torch.tensor(list(ELEMENTS.values()))
        rest = np.zeros((len(z), 4))
        columns = [one_hot, z[:, None], torch.from_numpy(rest)]
        columns.append(torch.from_numpy(arrays["num_hs"][atoms].astype(int))[:, None])
        x = torch.cat([c.float() for c in columns], 1)
        ends = torch.from_numpy(arrays["bonds"][bonds].astype(np.int64)).T
        kind = torch.from_numpy(arrays["bond_type"][bonds].astype(np.int64)).repeat(2)
        targets = torch.zeros(1, 19)
        targets[0, list(geometric.NUMBERS)] = torch.from_numpy(y).float()
        graphs.append(
            Data(
                x=x,
                z=z,
                pos=torch.from_numpy(arrays["pos_mA"][atoms] / 1000).float(),
                edge_index=torch.cat([ends, ends.flip(0)], 1),
                edge_attr=torch.nn.functional.one_hot(kind, 4).float(),
                smiles="C",
                y=targets,
                name=f"gdb_{index}",
                idx=index - 1,
            )
        )
    (folder / "processed").mkdir(parents=True)
    datasets.QM9.save(graphs, str(folder / geometric.PROCESSED[0]))


def write_qm9pack(folder: Path, arrays: Arrays, smiles: list[str]) -> None:
    """As the package has it, in three files."""
    from torch_geometric.datasets.qm9 import HAR2EV, atomrefs

    (folder / "data").mkdir(parents=True)
    rows = []
    for (index, y, atoms, _), text in zip(molecules(arrays), smiles, strict=True):
        z = arrays["z"][atoms].tolist()
        free = {
            name: sum(atomrefs[number][list(ELEMENTS.values()).index(k)] for k in z)
            for name, number in qm9pack.ATOMISATION.items()
        }
        values = [
            (value + free.get(name, 0)) / (HAR2EV if name in qm9pack.HARTREES else 1)
            for name, value in zip(TARGETS, y, strict=True)
        ]
        symbols = ",".join(f"'{SYMBOLS[k]}'" for k in z)
        xyz = ",".join(str([x / 1000 for x in arrays["pos_mA"][i].tolist()]) for i in atoms)
        row = {"Index": index, "SMILES": text, "Elements": f"[{symbols}]", "XYZ_Ang": f"[{xyz}]"}
        rows.append(row | dict(zip(qm9pack.COLUMNS, values, strict=True)) | {"InChi": "no matter"})
    for name, part in zip(qm9pack.FILES, np.array_split(np.arange(len(rows)), 3), strict=True):
        pd.DataFrame([rows[i] for i in part]).to_csv(folder / "data" / name, index=False)


def write_own(folder: Path, arrays: Arrays) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / sources.OWN, **{name: arrays[name] for name in ARRAYS})  # type: ignore[arg-type]


WRITERS: dict[str, Callable[[Path, Arrays], None]] = {
    "own": write_own,
    "raw": write_raw,
    "processed": write_processed,
}
each = pytest.mark.parametrize("layout", WRITERS)


def loaded(data: Path) -> Arrays:
    with np.load(sources.archive(data, "SOURCE")) as archive:
        return {name: archive[name] for name in archive}


def joins(arrays: Arrays) -> list[tuple[int, ...]]:
    """Molecule, both atoms and type of each bond, sorted."""
    graph = np.repeat(np.arange(len(arrays["n"])), arrays["n_bonds"].astype(int))
    ends = np.sort(arrays["bonds"], 1)
    return sorted(map(tuple, np.column_stack([graph, ends, arrays["bond_type"]]).tolist()))


def assert_same(found: Arrays, expected: Arrays) -> None:
    for name, (_, _, kind) in ARRAYS.items():
        assert found[name].dtype == kind
        if name not in ("y", "bonds", "bond_type"):
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert joins(found) == joins(expected)
    np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------------------------ layouts
@each
def test_what_is_read_is_what_was_written(layout: str, tmp_path: Path, few: Arrays) -> None:
    WRITERS[layout](tmp_path / "data", few)
    assert_same(loaded(tmp_path / "data"), few)
    task = QM9(MINI, tmp_path / "data")
    assert task.data_source == "QM9, 12 molecules of unsanitised SDF, split 8/1/3"


def test_qm9pack_gives_the_embedded_molecules(
    tmp_path: Path, few: Arrays, embedded: Arrays, smiles: list[str]
) -> None:
    pytest.importorskip("rdkit")
    write_qm9pack(tmp_path / "qm9pack", few, smiles)
    expected = taken(embedded, CHOSEN)
    for place in (".", "qm9pack", "qm9pack/data"):
        assert_same(loaded(tmp_path / place), expected)
    task = QM9(MINI, tmp_path)
    assert task.data_source == "QM9, 12 molecules of sanitised SMILES, split 8/1/3"
    assert {np.unique(expected[name]).size for name in ("aromatic", "hybridization")} == {2, 4}


def test_qm9pack_with_atoms_in_another_order(
    tmp_path: Path, few: Arrays, smiles: list[str], embedded: Arrays
) -> None:
    """Bonds and features are found by the geometry."""
    chem = pytest.importorskip("rdkit.Chem")
    write_qm9pack(tmp_path / "as it is", few, smiles)
    backwards = [
        chem.MolToSmiles(
            chem.MolFromSmiles(s), rootedAtAtom=chem.MolFromSmiles(s).GetNumAtoms() - 1
        )
        for s in smiles
    ]
    assert backwards != smiles
    write_qm9pack(tmp_path / "backwards", few, backwards)
    one, other = loaded(tmp_path / "as it is"), loaded(tmp_path / "backwards")
    for name in ("aromatic", "hybridization", "num_hs", "n_bonds"):
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    assert joins(one) == joins(other)


def test_qm9pack_without_rdkit(
    tmp_path: Path, few: Arrays, smiles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_qm9pack(tmp_path / "data", few, smiles)
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(
        UsageError, match=r"SMILES, which rdkit reads: pip install 'mtlbench\[qm9\]'"
    ):
        QM9(MINI, tmp_path / "data")


@pytest.mark.filterwarnings("ignore:Weights only load failed")
def test_equals_torch_geometric(tmp_path: Path, embedded: Arrays, cache: Path) -> None:
    """Its own processing of the raw files, which needs rdkit."""
    pytest.importorskip("rdkit")
    from torch_geometric import datasets

    # It goes by the position, not by the name: 57 molecules, and the next is number 58.
    arrays = taken(embedded, range(SKIPPED - 1)) | {"index": np.arange(1, SKIPPED)}
    write_raw(tmp_path, arrays)
    raw = loaded(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.QM9, "download", None)
        assert len(datasets.QM9(str(tmp_path))) == SKIPPED - 1
    assert_same(loaded(tmp_path), raw)
    assert len(list(cache.glob("*.npz"))) == 2


def test_no_layout(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"holds no QM9: expected one of qm9\.npz, processed/data"):
        QM9(MINI, tmp_path)
    (fault,) = QM9.verify(tmp_path)
    assert fault.file == tmp_path


@each
def test_too_few_molecules(layout: str, tmp_path: Path, few: Arrays) -> None:
    WRITERS[layout](tmp_path / "data", taken(few, range(3)))
    with pytest.raises(DataError, match=r"npz has 3 molecules: expected at least 10"):
        QM9(MINI, tmp_path / "data")


# ------------------------------------------------------------------------------------ cache
@each
def test_parsed_once(
    layout: str, tmp_path: Path, few: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layout == "own":
        pytest.skip("it is not parsed")
    folder = tmp_path / "data"
    WRITERS[layout](folder, few)
    first = sources.archive(folder, "")
    monkeypatch.setattr(Path, "replace", None)  # nothing more is written
    assert sources.archive(folder, "") == first
    assert [p.suffix for p in sorted((tmp_path / "cache").iterdir())] == [".npz", ".lock"]


def test_a_changed_source_is_parsed_anew(tmp_path: Path, few: Arrays) -> None:
    folder = tmp_path / "data"
    write_raw(folder, few)
    before, first = sources.archive(folder, ""), loaded(folder)
    text = (folder / geometric.SDF).read_text()
    (folder / geometric.SDF).write_text(
        text.replace(f"{few['pos_mA'][0, 0] / 1000:10.4f}", "    1.2340", 1)
    )
    assert sources.archive(folder, "") != before
    assert (first["pos_mA"] != loaded(folder)["pos_mA"]).sum() == 1
    assert loaded(folder)["pos_mA"][0, 0] == 1234


def test_an_interrupted_parse_leaves_nothing(
    tmp_path: Path, few: Arrays, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    folder = tmp_path / "data"
    write_raw(folder, few)
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sources.archive(folder, "")
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    assert_same(loaded(folder), few)


def test_a_harmed_cache_says_what_to_do(tmp_path: Path, few: Arrays) -> None:
    write_raw(tmp_path / "data", few)
    path = sources.archive(tmp_path / "data", "")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=rf"{path.name} is corrupt .*Delete it to make it anew"):
        QM9(MINI, tmp_path / "data")


# ------------------------------------------------------------------------------------ split
def test_published_split() -> None:
    known = np.flatnonzero(codes())
    assert len(known) == FULL
    found = split(known, PUBLISHED)
    assert [len(found[name]) for name in SPLITS] == list(PUBLISHED)
    # A change of these numbers changes every published one: raise the protocol's version.
    assert [known[found[name]][:4].tolist() for name in SPLITS] == [
        [1, 2, 3, 4],
        [5, 28, 31, 82],
        [11, 17, 21, 42],
    ]
    rule = split_indices(FULL, (110_000, 10_000, 10_000))
    for name in ("val", "test"):
        np.testing.assert_array_equal(found[name], np.sort(rule[name]))
    rest = np.setdiff1d(np.arange(FULL), [*rule["val"], *rule["test"]])
    np.testing.assert_array_equal(found["train"], rest)


@pytest.mark.parametrize("sizes", [PUBLISHED, MINI.options["split"]])
def test_the_order_of_the_molecules_does_not_matter(sizes: tuple[int, int, int]) -> None:
    known = np.flatnonzero(codes())
    shuffled = np.random.default_rng(1).permutation(known)
    one, other = split(known, sizes), split(shuffled, sizes)
    for name in SPLITS:
        np.testing.assert_array_equal(known[one[name]], shuffled[other[name]])


def test_the_embedded_molecules_are_of_qm9(embedded: Arrays) -> None:
    assert (codes()[embedded["index"]] > 0).all()
    assert QM9(PAPER).data_source == "QM9, 5,000 embedded molecules, split 4,236/382/382"


# ------------------------------------------------------------------------------------ faults
def put(name: str, at: Any, value: Any) -> Callable[[Arrays], Arrays]:
    def change(arrays: Arrays) -> Arrays:
        array = arrays[name].astype(float if name == "y" else int)
        array[at] = value
        return arrays | {name: array}

    return change


HARMS = {
    "element": (put("z", 0, 14), r"molecule 3: unknown element of atomic number 14"),
    "bond": (put("bonds", (0, 1), 3), r"molecule 3: a bond joins the atoms \[0 3\]"),
    "type": (put("bond_type", 1, 4), r"molecule 3: a bond of type 4, expected 0 to 3"),
    "target": (put("y", (2, 6), np.inf), r"molecule \d+: target 'u0' is inf"),
    "far": (put("pos_mA", (0, 0), 40_000), r"molecule 3: an atom is not within 32.767 angstrom"),
    "twice": (
        lambda a: a | {"index": a["index"][[0, 1, 2, 0, *range(4, N)]]},
        r"entry 3: index 3 is",
    ),
    "uncharacterised": (put("index", 5, 58), r"entry 5: index 58 is that of no molecule of QM9"),
    "beyond": (put("index", 5, 133_886), r"entry 5: index 133886 is that of no molecule"),
}


@pytest.mark.parametrize(("harm", "message"), HARMS.values(), ids=HARMS)
def test_faults_of_arrays(harm: Any, message: str, tmp_path: Path, few: Arrays) -> None:
    write_own(tmp_path, harm(few))
    with pytest.raises(DataError, match=rf"qm9\.npz .*{message}"):
        QM9(MINI, tmp_path)
    (fault,) = QM9.verify(tmp_path)
    assert fault.file == tmp_path / "qm9.npz"
    assert re.match(message, fault.what)


def test_verify_tells_all_faults_at_once(tmp_path: Path, few: Arrays) -> None:
    arrays = few
    for name, (harm, _) in HARMS.items():
        if name not in ("twice", "beyond"):
            arrays = harm(arrays)
    write_own(tmp_path, arrays)
    assert len(list(QM9.verify(tmp_path))) == len(HARMS) - 2


def swap(old: str, new: str) -> Callable[[str], str]:
    """The first occurrence only."""

    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


RAW_HARMS = {
    "element": (geometric.SDF, swap(" O ", " Si"), r"record 1, 'gdb_3': unknown element 'Si'"),
    "bond": (
        geometric.SDF,
        swap("  1  2  1  0", "  1  9  1  0"),
        "a bond joins the atoms 1 and 9, of 3",
    ),
    "no bond": (geometric.SDF, swap("  1  2  1  0", "  0  2  1  0"), "the atoms 0 and 2, of 3"),
    "type": (geometric.SDF, swap("  1  2  1  0", "  1  2  8  0"), "molecule 3: a bond of type 7"),
    "number": (geometric.SDF, swap("0.", "x."), "record 1, 'gdb_3': cannot be read"),
    "cut off": (geometric.SDF, lambda t: t[: t.index("  1  3  1  0")], "is cut off: expected 3"),
    "no row": (geometric.CSV, swap("gdb_20,", "urea,"), "has no row of 'gdb_20', record 2"),
    "twice": (geometric.SDF, swap("gdb_20\n", "gdb_3\n"), "entry 1: index 3 is also that of"),
    "not a number": (
        geometric.CSV,
        swap("gdb_3,1.0,1.0,1.0,", "gdb_3,1.0,1.0,1.0,abc"),
        "row 1: column 'mu' has 'abc.*', expected a number",
    ),
    "infinite": (
        geometric.CSV,
        lambda t: re.sub(r"(gdb_3(,1.0){3}),[^,]*", r"\1,inf", t),
        "molecule 3: target 'mu' is inf",
    ),
    "column": (geometric.CSV, swap("u0_atom", "u0atom"), "lacks the columns u0_atom"),
    "row": (geometric.CSV, swap("gdb_20,", "gdb_3,"), "gdb_3 is there twice"),
    "empty": (geometric.CSV, lambda _: "", "cannot be read .*: expected a CSV file"),
    "list": (geometric.SKIPPED, swap("   61 ", "  two "), "line 11 does not begin with the number"),
}


@pytest.mark.parametrize(("name", "change", "message"), RAW_HARMS.values(), ids=RAW_HARMS)
def test_faults_of_raw_files(
    name: str, change: Any, message: str, tmp_path: Path, few: Arrays, cache: Path
) -> None:
    write_raw(tmp_path, few)
    assert [fault.what for fault in QM9.verify(tmp_path)] == [COUNT.format(N)]
    file = tmp_path / name
    file.write_text(change(file.read_text()))
    with pytest.raises(DataError, match=rf"{re.escape(name)} .*{message}"):
        QM9(MINI, tmp_path)
    assert not list(cache.glob("*.npz"))
    first = next(QM9.verify(tmp_path))
    assert first.file == file
    assert re.search(message, first.what)


COUNT = "has {} molecules that can be read, expected 130,831"
PACK_HARMS = {
    "element": (swap("'O'", "'Si'"), "molecule 3: unknown element 'Si', expected H, C, N, O, F"),
    "atoms": (swap("'O',", ""), "molecule 3: cannot reshape array of size 9"),
    "number": (swap("[[", "[[x"), "molecule 3: could not convert string to float: 'x"),
    "smiles": (swap(",O,", ",O(,"), r"molecule 3: SMILES 'O\(' cannot be read"),
    "another": (swap(",O,", ",N,"), "molecule 3: SMILES and geometry are of different molecules"),
    "hydrogen": (
        swap(",O,", ",[OH],"),
        "molecule 3: SMILES and geometry are of different molecules",
    ),
    "index": (swap("\n3,", "\nx,"), "row 1: column 'Index' has 'x', expected a number"),
    "no index": (swap("\n3,", "\n,"), "molecule nan: its index is no whole number"),
    "half": (swap("\n3,", "\n3.5,"), "molecule 3.5: its index is no whole number"),
    "twice": (swap("\n20,", "\n3,"), "entry 1: index 3 is also that of"),
    "infinite": (
        lambda t: re.sub(r"([^,]*),(no matter)", r"inf,\2", t, count=1),
        "molecule 3: target 'cv' is inf",
    ),
    "column": (swap("HOMO_au", "HOMO"), "lacks the columns HOMO_au"),
}


@pytest.mark.parametrize(("change", "message"), PACK_HARMS.values(), ids=PACK_HARMS)
def test_faults_of_qm9pack(
    change: Any, message: str, tmp_path: Path, few: Arrays, smiles: list[str]
) -> None:
    pytest.importorskip("rdkit")
    write_qm9pack(tmp_path, few, smiles)
    assert [fault.what for fault in QM9.verify(tmp_path)] == [COUNT.format(N)]
    file = tmp_path / "data" / qm9pack.FILES[0]
    file.write_text(change(file.read_text()))
    with pytest.raises(DataError, match=rf"{file.name} {message}"):
        QM9(MINI, tmp_path)
    first = next(QM9.verify(tmp_path))
    assert first.file == file
    assert re.match(message, first.what)


def edited(change: Callable[[Any, Any], None]) -> Callable[[Path], None]:
    def apply(file: Path) -> None:
        data, slices, kind = torch.load(file, weights_only=False)
        change(data, slices)
        torch.save((data, slices, kind), file)

    return apply


def set_to(name: str, at: Any, value: Any) -> Callable[[Path], None]:
    return edited(lambda data, slices: data[name].__setitem__(at, value))


PROCESSED_HARMS = {
    "page": (lambda f: f.write_text("<html>404</html>"), "cannot be read .*: expected what this"),
    "truncated": (lambda f: f.write_bytes(f.read_bytes()[:-300]), "cannot be read .*: expected"),
    "code": (lambda f: torch.save((print, 1), f), "cannot be read .*Unpickling"),
    "single": (lambda f: torch.save(torch.zeros(3), f), "cannot be read"),
    "without z": (edited(lambda data, slices: data.pop("z")), "cannot be read .*KeyError: 'z'"),
    "z": (set_to("z", 0, 14), "molecule 3: unknown element of atomic number 14"),
    "bond": (set_to("edge_index", (1, 0), 7), r"molecule 3: a bond joins the atoms \[0 7\]"),
    "target": (set_to("y", (0, 0), torch.inf), "molecule 3: target 'mu' is inf"),
    "name": (set_to("name", 1, "water"), "cannot be read .*its name is 'water'"),
    "twice": (set_to("name", 1, "gdb_3"), "entry 1: index 3 is also that of"),
    "slices": (
        edited(lambda data, slices: slices["x"][-1:].add_(1)),
        "has an array|cannot be read",
    ),
}


@pytest.mark.parametrize(("harm", "message"), PROCESSED_HARMS.values(), ids=PROCESSED_HARMS)
def test_faults_of_processed_files(harm: Any, message: str, tmp_path: Path, few: Arrays) -> None:
    write_processed(tmp_path, few)
    assert [fault.what for fault in QM9.verify(tmp_path)] == [COUNT.format(N)]
    harm(tmp_path / geometric.PROCESSED[0])
    with pytest.raises(DataError, match=rf"data_v3\.pt ({message})"):
        QM9(MINI, tmp_path)
    first = next(QM9.verify(tmp_path))
    assert first.file == tmp_path / geometric.PROCESSED[0]
    assert re.match(message, first.what)


@pytest.mark.parametrize("name", geometric.RAW)
def test_missing_raw_file(name: str, tmp_path: Path, few: Arrays) -> None:
    write_raw(tmp_path, few)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=rf"{name} is missing: expected with raw/gdb9\.sdf, "):
        QM9(MINI, tmp_path)
    (fault,) = QM9.verify(tmp_path)
    assert fault.file == tmp_path / name


def test_missing_csv_file(tmp_path: Path, few: Arrays, smiles: list[str]) -> None:
    pytest.importorskip("rdkit")
    write_qm9pack(tmp_path, few, smiles)
    other, missing = (tmp_path / "data" / name for name in qm9pack.FILES[:2])
    missing.unlink()
    other.write_text(swap("'O'", "'Si'")(other.read_text()))
    with pytest.raises(DataError, match=r"qm9_part2\.csv is missing: expected with qm9_part1"):
        QM9(MINI, tmp_path)
    assert [fault.file for fault in QM9.verify(tmp_path)] == [missing, other]


def test_a_molecule_in_two_files(tmp_path: Path, few: Arrays, smiles: list[str]) -> None:
    pytest.importorskip("rdkit")
    few["index"][-1] = few["index"][0]
    write_qm9pack(tmp_path, few, smiles)
    message = r"part3\.csv entry 3: index 3 is also that of an entry before, in .*part1\.csv"
    with pytest.raises(DataError, match=message):
        QM9(MINI, tmp_path)


def test_verify_on_the_command_line(
    tmp_path: Path, few: Arrays, capsys: pytest.CaptureFixture[str]
) -> None:
    write_own(tmp_path, few)
    assert main(["data", "verify", "qm9", "--data", str(tmp_path)]) == 0
    assert "nothing is wrong with its 1 files" in capsys.readouterr().out
    write_own(tmp_path, put("z", 0, 14)(few))
    assert main(["data", "verify", "qm9", "--data", str(tmp_path)]) == 1
    assert "unknown element of atomic number 14" in capsys.readouterr().out


# ------------------------------------------------------------------------------------ labels
@each
def test_partial_labels(layout: str, tmp_path: Path, few: Arrays) -> None:
    """A NaN is a target that is not known, and a whole target may be."""
    few["y"][::2, 0] = np.nan
    few["y"][:, 10] = np.nan
    WRITERS[layout](tmp_path, few)
    found = [fault.what for fault in QM9.verify(tmp_path)]
    assert len([what for what in found if what.endswith("is nan")]) == N // 2 + N
    task = QM9(dataclasses.replace(PAPER, options=SMALL), tmp_path)
    train = few["y"][task.split["train"]]
    assert task.mean[1] == pytest.approx(train[:, 1].mean(), rel=1e-6)
    assert task.mean[0] == pytest.approx(np.nanmean(train[:, 0]), rel=1e-6)
    assert task.std[0] == pytest.approx(np.nanstd(train[:, 0]), rel=1e-5)
    assert np.isnan([task.mean[10], task.std[10]]).all()
    torch.manual_seed(0)
    model = task.build_model("mpnn")
    stepper = Stepper(model, torch.optim.Adam(model.parameters()), "fairgrad", "samo:rho=0.01")
    (batch,) = task.batches("train", 0)
    assert isinstance(batch[0], InputGroup)
    before = [p.clone() for p in model.heads["cv"].parameters()]
    report = stepper.step(batch, task.loss)
    assert report.losses is not None
    assert report.losses.isnan().tolist() == [False] * 10 + [True]
    known = batch[0].targets["mu"].isnan().logical_not()
    assert 0 < known.sum() < len(known)
    assert all(
        torch.equal(a, b) for a, b in zip(before, model.heads["cv"].parameters(), strict=True)
    )


SMALL = {"split": (8, 2, 2), "d": 8, "edge_width": 8}


# ------------------------------------------------------------------------------------ all of QM9
@pytest.fixture(scope="module")
def package() -> Path:
    """The folder of qm9pack, which is not imported: it needs pkg_resources."""
    pytest.importorskip("rdkit")
    found = importlib.util.find_spec("qm9pack")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("qm9pack is not installed")
    return Path(found.submodule_search_locations[0])


@pytest.fixture(scope="module")
def full(package: Path) -> QM9:
    return QM9(PAPER, package)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_of_qm9(full: QM9, embedded: Arrays) -> None:
    """The embedded molecules are a part of it; it splits as published and trains."""
    assert full.data_source == (
        "QM9, 130,831 molecules of sanitised SMILES, split 110,000/10,000/10,000"
    )
    own = QM9(PAPER).molecules
    at = np.searchsorted(full.molecules.index, embedded["index"])
    np.testing.assert_array_equal(full.molecules.index[at], own.index)
    np.testing.assert_allclose(full.molecules.y[at], own.y, rtol=1e-12, atol=1e-9)
    chosen = torch.from_numpy(at)
    size = own.mask.size(1)
    assert torch.equal(full.molecules.n[chosen], own.n)
    assert torch.equal(full.molecules.nodes[chosen, :size], own.nodes)
    assert torch.equal(full.molecules.positions[chosen, :size], own.positions)
    assert torch.equal(full.molecules.bonds[chosen, :size, :size], own.bonds)
    for name, k in zip(SPLITS, (1, 2, 3), strict=True):
        assert (codes()[full.molecules.index[full.split[name]]] == k).all()

    torch.manual_seed(0)
    model = full.build_model("mpnn")
    optimizer = torch.optim.Adam(model.parameters(), lr=PAPER.lr)
    stepper = Stepper(model, optimizer, "ls", "none")
    totals = []
    for batch in islice(full.batches("train", 0), 3):
        assert len(batch[0].targets["u0"]) == 120
        losses = stepper.step(batch, full.loss).losses
        assert losses is not None
        totals.append(losses.sum().item())
    assert totals[-1] < totals[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_loads_within_seconds(full: QM9, package: Path) -> None:
    sources.molecules.cache_clear()
    start = time.process_time()
    QM9(PAPER, package)
    assert time.process_time() - start < 10


@pytest.mark.slow
def test_six_times_faster_than_torch_geometric() -> None:
    """Forward and backward of the paper's network on a batch of 120, in CPU time."""
    (pair,) = yardsticks(QM9(PAPER)).values()
    seconds: list[list[float]] = [[], []]
    for _ in range(4):
        for taken_by, run in zip(seconds, pair, strict=True):
            start = time.process_time()
            run()
            taken_by.append(time.process_time() - start)
    ours, theirs = map(np.median, seconds)
    assert theirs > 6 * ours
