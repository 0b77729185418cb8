"""Sweeps as YAML files: what they say, and how they are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtlbench.errors import UsageError
from mtlbench.runs.plan import SCHEMA, SweepSpec, shard
from mtlbench.runs.sweep import checked
from tests.toy_task import TOY

SPEC: dict[str, Any] = {
    "tasks": [TOY],
    "methods": ["stl", "ls", "fairgrad:alpha={1,2}"],
    "sharpness": ["none", "samo:rho={0.01,0.05},noise={per-task,shared}"],
    "seeds": [0, 1],
}


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def words(spec: SweepSpec) -> list[tuple[str, str | None, int]]:
    return [(r.method, r.sharpness, r.seed) for r in spec.requests()]


def test_braces_are_grids_and_seeds_go_first(tmp_path: Path) -> None:
    found = words(SweepSpec.read(written(tmp_path, SPEC)))
    wrappers = [
        "none",
        *(f"samo:rho={rho},noise={n}" for rho in ("0.01", "0.05") for n in ("per-task", "shared")),
    ]
    methods = ("ls", "fairgrad:alpha=1", "fairgrad:alpha=2")
    cells = [("stl", "none"), *((m, w) for m in methods for w in wrappers)]
    assert found == [(*cell, seed) for seed in (0, 1) for cell in cells]


def test_the_reference_comes_by_itself_unless_it_is_there_or_not_wanted(tmp_path: Path) -> None:
    spec = {"tasks": [TOY], "methods": ["ls"]}
    assert words(SweepSpec.parse(spec, "here")) == [("stl", "none", 0), ("ls", "none", 0)]
    assert words(SweepSpec.parse(spec | {"reference": False}, "here")) == [("ls", "none", 0)]


def test_the_baseline_alone_is_trained_for_longer_at_equal_time() -> None:
    content = {"tasks": [TOY], "methods": ["stl", "ls", "mgda"], "sharpness": ["none", "sam"]}
    plain = SweepSpec.parse(content, "here").requests()
    (epochs,) = {run.identity.epochs for run in checked(plain)}
    spec = SweepSpec.parse(content | {"equal_time": [2, 4], "seeds": [0, 1]}, "here")
    found = [(r.method, r.sharpness, r.seed, r.epochs) for r in spec.requests() if r.epochs]
    assert found == [("ls", "none", seed, n * epochs) for seed in (0, 1) for n in (2, 4)]
    unknown = SweepSpec.parse(content | {"equal_time": [2], "protocol": "maxi"}, "here")
    with pytest.raises(UsageError, match="has no protocol 'maxi'"):
        unknown.requests()


def test_grids_with_wrappers_of_their_own() -> None:
    grids = [{"methods": ["mgda"], "sharpness": ["sam", "fmtl"]}]
    spec = SweepSpec.parse({"tasks": [TOY], "methods": ["stl", "ls"], "grids": grids}, "here")
    assert [cell[:2] for cell in words(spec)] == [
        ("stl", "none"),
        ("ls", "none"),
        ("mgda", "sam"),
        ("mgda", "fmtl"),
    ]


def test_a_grid_with_some_of_the_seeds() -> None:
    grids = [{"methods": ["stl", "ls"], "sharpness": ["sam"], "seeds": [1]}]
    content = {"tasks": [TOY], "methods": ["stl", "ls"], "seeds": [0, 1], "grids": grids}
    plain = [("stl", "none"), ("ls", "none")]
    spec = SweepSpec.parse(content, "here")
    assert words(spec) == [
        *((*cell, 0) for cell in plain),
        *((*cell, 1) for cell in [*plain, ("ls", "sam")]),
    ]
    content["grids"] = [{"methods": ["mgda"], "seeds": [1, 2]}]
    with pytest.raises(UsageError, match="here: grids: seed 2 is none of the sweep's"):
        SweepSpec.parse(content, "here")


def test_what_it_says_reaches_the_runs(tmp_path: Path) -> None:
    spec = {"tasks": [TOY], "methods": ["ls"], "protocol": "paper", "epochs": 2, "arch": "linear"}
    (stl, ls) = checked(SweepSpec.parse(spec | {"device": "cpu"}, "here").requests())
    assert (ls.identity.protocol, ls.identity.epochs, ls.identity.architecture) == (
        "paper",
        2,
        "linear",
    )
    assert stl.identity.method == "stl"


def test_data_of_some_tasks() -> None:
    spec = {"tasks": ["a", "b:c=1"], "methods": ["ls"], "data": {"b": "folder"}}
    found = {r.task: r.data for r in SweepSpec.parse(spec, "here").requests()}
    assert found == {"a": None, "b:c=1": Path("folder")}


def test_shards_share_the_runs() -> None:
    requests = SweepSpec.parse(SPEC, "here").requests()
    parts = [shard(requests, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(str(each) for part in parts for each in part) == sorted(map(str, requests))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_bad_shards(text: str) -> None:
    with pytest.raises(UsageError, match="is not of the form i/n"):
        shard([], text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": ["ls"]}, "unknown key 'method'; did you mean 'methods'?"),
        ({"grids": [{"methods": ["ls"], "sharpnes": ["sam"]}]}, "did you mean 'sharpness'?"),
        ({"frobnicate": 1}, "unknown key 'frobnicate'; valid: tasks, methods"),
        ({"seeds": [-1]}, "seeds.0: Input should be greater than or equal to 0, not -1"),
        ({"seeds": []}, "seeds: List should have at least 1 item"),
        ({"methods": []}, "nothing to run: give methods, or grids"),
        ({"epochs": 0}, "epochs: Input should be greater than 0"),
        ({"tasks": "toy"}, "tasks: Input should be a valid list"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = written(tmp_path, SPEC | change)
    with pytest.raises(UsageError) as caught:
        SweepSpec.read(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n", "", "a: [", "\x00"])
def test_what_is_no_sweep(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no sweep|cannot be read as YAML"):
        SweepSpec.read(written(tmp_path, text))


def test_a_cell_may_not_occur_twice() -> None:
    spec = SweepSpec.parse(SPEC | {"methods": ["ls", "fairgrad", "ls"]}, "here")
    with pytest.raises(UsageError, match="ls with none is in the sweep 2 times"):
        spec.requests()


def test_an_empty_choice() -> None:
    spec = SweepSpec.parse(SPEC | {"methods": ["cagrad:c={}"]}, "here")
    with pytest.raises(UsageError, match="an empty choice"):
        spec.requests()


def test_the_schema_for_editors_is_that_of_the_model() -> None:
    assert json.loads(SCHEMA.read_text()) == SweepSpec.model_json_schema()
