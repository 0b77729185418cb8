"""Records: written whole or not at all, read back as they were, refused when corrupt."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from mtlbench.errors import UsageError
from mtlbench.files import check_writable, write_atomically
from mtlbench.runs.identity import Weights
from mtlbench.runs.record import RunRecord, read_record
from mtlbench.runs.store import Store
from tests.factories import identity, record

OLD_DIGEST = "95b425251181"
"""Of :func:`tests.factories.identity` before identities had weights."""


def test_round_trip(tmp_path: Path) -> None:
    store = Store(tmp_path / "sweep")
    written = record(method="tilt", method_options={"c": 0.1 + 0.2, "mode": "a"}, seed=4)
    path = store.write(written)
    assert read_record(path) == written
    assert store.read(written.identity) == written
    assert list(store) == [written]
    assert path.read_text().count("\n") == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_numbers_survive(value: float, tmp_path: Path) -> None:
    store = Store(tmp_path)
    back = read_record(store.write(record(error=value))).scores()["error"]
    assert back == value or (math.isnan(back) and math.isnan(value))


def test_failed_runs_survive(tmp_path: Path) -> None:
    written = record(status="diverged", reason="loss is nan at step 3\nlast good: 0.1")
    assert read_record(Store(tmp_path).write(written)) == written


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    assert Store(tmp_path).read(identity()) is None
    assert list(Store(tmp_path / "nowhere")) == []


def test_subfolders_are_read_in_order(tmp_path: Path) -> None:
    runs = [record(seed=seed) for seed in range(3)]
    for folder, run in zip("bca", runs, strict=True):
        Store(tmp_path / folder).write(run)
    assert [run.identity.seed for run in Store(tmp_path)] == [2, 0, 1]


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"method_options": {"c": 1}}, {"device_class": "cuda"}, {"protocol_version": 2}],
)
def test_identity_decides_the_file(change: dict[str, object]) -> None:
    assert identity(**change).stem != identity().stem
    assert identity().stem == identity().stem


def test_the_order_of_options_does_not_make_another_run() -> None:
    options = {"a": 1, "b": 2}
    backwards = dict(reversed(options.items()))
    assert identity(task_options=options).digest == identity(task_options=backwards).digest


def test_records_of_before_there_were_weights_are_the_same_runs(tmp_path: Path) -> None:
    assert identity().digest == OLD_DIGEST
    store, run = Store(tmp_path), record()
    old = json.loads(run.model_dump_json())
    del old["identity"]["weights"]
    (tmp_path / f"{identity().stem}.json").write_text(json.dumps(old))
    assert store.read(identity()) == run

    weights = [Weights(file=file, sha256=sha) for file in ("a.pt", "b.pt") for sha in ("0", "1")]
    assert len({identity(weights=w).digest for w in (None, *weights)}) == 5


# ------------------------------------------------------------------------------------ bad records
@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"schema_version":1', '"schema_version":2'),
        lambda text: text.replace('"status":"ok"', '"status":"fine"'),
        lambda text: text.replace('"plain":true', '"plain":true,"extra":1'),
    ],
    ids=["half", "empty", "no object", "newer schema", "unknown status", "unknown field"],
)
def test_a_corrupt_record_is_named(spoil: Callable[[str], str], tmp_path: Path) -> None:
    path = Store(tmp_path).write(record())
    path.write_text(spoil(path.read_text()))
    with pytest.raises(UsageError, match=path.name):
        read_record(path)


def test_bad_files_are_named_and_left_out(tmp_path: Path) -> None:
    store, good = Store(tmp_path), record()
    text = store.write(good).read_text()
    bad = {
        "cut.json": (text[:700], "is not a run record: cut off, or no JSON (EOF while parsing"),
        "empty.json": ("", "is empty"),
        "config.json": ('{"lr": 0.1}', "is not a run record"),
        "list.json": ("[1]", "is not a run record"),
        "older.json": (text.replace('"schema_version":1', '"schema_version":0'), "version 0;"),
        "newer.json": (text.replace('"schema_version":1', '"schema_version":2'), "version 2;"),
        "less.json": (text.replace('"plain":true,', ""), "plain: Field required"),
        "._mac.json": ("\0", "is hidden"),
        ".ipynb_checkpoints/a.json": (text, "is hidden"),
    }
    for name, (content, _) in bad.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    records, faults = store.read_all()
    assert records == [good]
    reasons = {fault.path.relative_to(tmp_path).as_posix(): fault.reason for fault in faults}
    assert set(reasons) == {*bad, "binary.json"}
    for name, (_, reason) in bad.items():
        assert reason in reasons[name]
    assert not any("\n" in reason for reason in reasons.values())


def test_what_is_left_out_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert list(Store(tmp_path)) == []
    assert f"{tmp_path / 'config.json'} is not a run record" in caplog.text


@pytest.mark.parametrize("name", ["a copy.json", "z copy.json"])
def test_of_copies_the_record_under_its_own_name_is_kept(name: str, tmp_path: Path) -> None:
    store, runs = Store(tmp_path), [record(), record(seed=1)]
    path, _ = map(store.write, runs)
    copy = tmp_path / name
    for content, said in ((runs[0], "is a copy of"), (record(1.0), "is of the same run as")):
        copy.write_text(content.model_dump_json())
        records, (fault,) = store.read_all()
        assert records == runs
        assert fault.path == copy
        assert f"{said} {path}" in fault.reason


@pytest.mark.parametrize("spoil", [lambda text: text[:700], lambda text: "", lambda text: "{}"])
def test_a_corrupt_record_is_set_aside(
    spoil: Callable[[str], str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, run = Store(tmp_path), record()
    path = store.write(run)
    for aside in (path.with_name(f"{path.name}.corrupt"), path.with_name(f"{path.name}.corrupt1")):
        path.write_text(spoil(run.model_dump_json()))
        content = path.read_text()
        assert store.status(run.identity) is None
        assert not path.exists()
        assert aside.read_text() == content
        assert str(path) in caplog.text
        assert aside.name in caplog.text
    store.write(run)
    assert store.read_all() == ([run], [])


def test_a_newer_record_is_not_set_aside(tmp_path: Path) -> None:
    store, run = Store(tmp_path), record()
    path = store.write(run)
    path.write_text(path.read_text().replace('"schema_version":1', '"schema_version":2'))
    with pytest.raises(UsageError, match="schema version 2; this mtlbench reads version 1"):
        store.status(run.identity)
    assert path.exists()


@pytest.mark.parametrize("status", ["ok", "diverged", "failed"])
def test_the_status_alone(status: str, tmp_path: Path) -> None:
    store, run = Store(tmp_path), record(status=status)
    path = store.write(run)
    assert store.status(run.identity) == status
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4, sort_keys=True))
    assert store.status(run.identity) == status


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_finished_record_is_replaced_by_no_less(status: str, tmp_path: Path) -> None:
    store, done = Store(tmp_path), record()
    store.write(record(status=status))
    store.write(done)
    store.write(record(status=status))
    assert store.read(done.identity) == done
    store.write(record(90.0))
    assert store.read(done.identity) == record(90.0)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"run\.json"):
        read_record(path)


def test_records_are_frozen_and_closed() -> None:
    run = record()
    with pytest.raises(ValidationError):
        run.status = "failed"
    with pytest.raises(ValidationError):
        RunRecord.model_validate({**json.loads(run.model_dump_json()), "surprise": 1})


def test_scores_join_the_phases() -> None:
    run = record(80.0, 2.0, last=(70.0, 3.0))
    (phase,) = run.phases
    parts = [
        phase.model_copy(
            update={
                "selected": {"test": phase.selected["test"].model_copy(update={"metrics": part})}
            }
        )
        for part in ({"accuracy": 80.0}, {"error": 2.0})
    ]
    assert run.model_copy(update={"phases": parts}).scores() == run.scores()
    assert run.scores(at="last") == {"accuracy": 70.0, "error": 3.0}


# ------------------------------------------------------------------------------------ writing
def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    def half(path: Path) -> None:
        path.write_text("half of")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(tmp_path / "new.json", half)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text("whole")

    def interrupted(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert [p.name for p in tmp_path.iterdir()] == ["old.json"]
    assert path.read_text() == "whole"


@pytest.mark.parametrize("hidden", [False, True], ids=["said", "said by a cause"])
def test_a_full_disk_is_named(hidden: bool, tmp_path: Path) -> None:
    def full(temporary: Path) -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            if hidden:  # as torch.save does
                raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904
            raise

    with pytest.raises(UsageError, match=f"{re.escape(str(tmp_path))}.* disk is full"):
        write_atomically(tmp_path / "new.json", full)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_making_is_no_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    seen: list[RunRecord] = []

    def look_around(path: Path) -> None:
        path.write_text("half")
        seen.extend(store)

    write_atomically(tmp_path / "a.json", look_around)
    assert seen == []


def test_check_writable(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    check_writable(folder)
    assert list(folder.iterdir()) == []


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=f"output folder {folder} cannot be written to"):
            check_writable(folder)
