"""One step on several processes is one process's step with the same global batch."""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mtlbench import ProcessRanks, Stepper, UsageError
from mtlbench.engine import reduce
from mtlbench.engine.reduce import ALONE, Ranks, Shares
from tests.on_ranks import (
    Joint,
    Rooted,
    SizedValid,
    Summed,
    Tempered,
    Valid,
    compare,
    differs_without,
    gaps_in_targets,
    infinite_on_one,
    lost,
    model,
    normalised,
    on_ranks,
    routed,
    same_numbers,
    started,
    volumes,
)

ROOT = Path(__file__).parent.parent
DOUBLE, SINGLE = 2e-14, 3e-6
KINDS = ("ls", "rlw", "famo", "uw", "gradnorm", "mgda", "pcgrad", "graddrop", "moco", "nashmtl")
"""Methods of each kind: on losses, drawn, with a second evaluation, with parameters, on the
Gramian, on rows, with a state as long as the parameters."""
WRAPPERS = (
    *("none", "sam", "gsam", "looksam:every=2", "lsam", "samo", "fmtl", "wsam"),
    *("samo:noise=shared,points=by-sign", "samo:probe=eval,difference=forward"),
)
AT_OUTPUT = ("mgda:at=representation", "cagrad:at=representation")
LOOKING = ("autolambda", "forum", "modo", "moml", "sdmgrad")
LABELS = ("full", "partial", "multi", "alone")
"""All labels; some, with tasks that a process or all of them lack; inputs of their own, of which a
process lacks some; a last batch that the first process has alone."""
PAIRS = [
    *itertools.product(KINDS, WRAPPERS),
    *itertools.product(AT_OUTPUT, ("none", "sam", "looksam:every=2")),
    *itertools.product(LOOKING, ("none", "sam")),
]
Case = dict[str, Any]


def cases(kind: str, K: int = 3, **options: Any) -> list[Case]:
    return [{"method": m, "wrapper": w, "kind": kind, "K": K, **options} for m, w in PAIRS]


def one(method: str, wrapper: str = "none", kind: str = "partial", **options: Any) -> Case:
    return {"method": method, "wrapper": wrapper, "kind": kind, **options}


def check(folder: Path, cases: list[Case], bound: float = DOUBLE, size: int = 2) -> None:
    found = on_ranks(partial(compare, cases), folder, size)
    for gaps in found:
        assert isinstance(gaps, list), gaps
        worst = [(case, gap) for case, gap in zip(cases, gaps, strict=True) if not gap <= bound]
        assert not worst


# ------------------------------------------------------------------------------------------ alone
def test_one_process_sends_and_copies_nothing() -> None:
    t = torch.ones(3)
    assert ALONE.sum(t) is t
    assert Shares.of(ALONE, ["a"], Valid(), {"a": 3}, {}).own is None


def test_several_need_a_rendezvous() -> None:
    with pytest.raises(UsageError, match="start with torchrun"):
        ProcessRanks()


# --------------------------------------------------------------------------------------- the table
def test_two_processes_are_one(tmp_path: Path) -> None:
    some = [
        one("mgda"),
        one("stch", "samo", "multi"),
        one("mgda:at=representation", "sam"),
        one("ls", "fmtl", "full"),
    ]
    shared = [
        one("mgda", "none", rows="sharded"),
        one("mgda", "fmtl", rows="sharded"),
        one("ls", "samo:noise=shared,points=by-sign", "multi", slices=True),
    ]
    check(tmp_path, [case | {"adam": None} for case in some + shared])


@pytest.mark.slow
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("K", [1, 3])
def test_every_kind_of_method_with_every_wrapper(tmp_path: Path, kind: str, K: int) -> None:
    check(tmp_path, cases(kind, K))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["partial", "multi"])
def test_in_single_precision(tmp_path: Path, kind: str) -> None:
    check(tmp_path, cases(kind, dtype="float32"), SINGLE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["partial", "multi"])
def test_three_processes(tmp_path: Path, kind: str) -> None:
    check(tmp_path, cases(kind), size=3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("options", [{"rows": "sharded"}, {"slices": True}], ids=repr)
def test_columns_of_their_own_and_slices(tmp_path: Path, kind: str, options: Case) -> None:
    check(tmp_path, cases(kind, **options))


@pytest.mark.slow
def test_three_processes_share_columns(tmp_path: Path) -> None:
    check(tmp_path, cases("partial", rows="sharded"), size=3)
    check(tmp_path / "single", cases("multi", rows="sharded", dtype="float32"), SINGLE, size=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"adam": True},
        {"loss": Joint},
        {"loss": Tempered},
        {"loss": SizedValid, "spoil": gaps_in_targets},
        {"loss": Summed},
        {"made": normalised},
        {"made": routed},
    ],
    ids=["adam", "joint loss", "loss with parameters", "pixels", "sums", "batch norm", "parts"],
)
def test_whatever_else_a_step_has(tmp_path: Path, options: Case) -> None:
    pairs = itertools.product(("ls", "famo", "mgda", "pcgrad"), ("none", "sam", "samo", "fmtl"))
    case = {"kind": "partial"} | options
    check(tmp_path, [{"method": m, "wrapper": w} | case for m, w in pairs], 1e-11)


@pytest.mark.slow
def test_a_mean_that_does_not_say_of_what_is_off(tmp_path: Path) -> None:
    case = {"method": "ls", "wrapper": "none", "loss": Valid, "spoil": gaps_in_targets}
    assert all(gaps[0] > 1e-3 for gaps in on_ranks(partial(compare, [case]), tmp_path))


@pytest.mark.slow
def test_a_loss_without_parts_is_refused(tmp_path: Path) -> None:
    case = {"method": "ls", "wrapper": "none", "loss": Rooted, "kind": "full"}
    for found in on_ranks(partial(compare, [case]), tmp_path):
        assert "UsageError: the loss of t0 is the root of a mean: it has no parts" in found


@pytest.mark.slow
def test_all_skip_what_is_not_finite_on_one(tmp_path: Path) -> None:
    pairs = itertools.product(("ls", "famo", "mgda"), ("none", "samo", "fmtl"))
    spoilt = {"kind": "full", "spoil": infinite_on_one}
    check(tmp_path, [{"method": m, "wrapper": w} | spoilt for m, w in pairs])


@pytest.mark.slow
def test_a_group_of_one_process_is_alone(tmp_path: Path) -> None:
    (found,) = on_ranks(partial(compare, cases("full")), tmp_path, 1)
    assert set(found) == {0.0}, found


# ---------------------------------------------------------------------------------- what is summed
PLACES = {
    "Shares.of": one("ls", kind="full"),
    "BatchProblem.forward": one("ls"),
    "BatchProblem._separate": one("mgda"),
    "BatchProblem.evaluate": one("famo"),
    "LossParameters.write": one("ls", loss=Tempered),
    "LossParameters._used": one("ls", loss=Tempered),
    "PlainView._common": one("uw"),
    "PlainView._dense": one("mgda"),
    "PlainView.row": one("ls", "fmtl"),
    "PlainView._sum_heads": one("mgda:at=representation"),
    "PlainView.gramian": one("mgda:at=representation"),
    "Slices.summed": one("ls"),
    "Columns.__init__": one("mgda", rows="sharded"),
    "Columns.send": one("mgda", rows="sharded"),
    "Columns.complete": one("mgda", rows="sharded"),
    "Columns.gramian": one("mgda", rows="sharded"),
    "Columns.combine": one("mgda", rows="sharded"),
    "PlainView._combine_at_representation": one("mgda:at=representation"),
    "ShiftedView._every_row": one("mgda", "lsam"),
    "ShiftedView._replace": one("mgda", "fmtl"),
    "ShiftedView.combine": one("ls", "lsam"),
    "ShiftedView._differentiate": one("ls", "fmtl"),
}
ASKED = {"total", "sum", "sum_", "start_", "start_parts_", "spread_", "rank", "weighted"}


def test_every_place_that_asks_is_known() -> None:
    found = set()
    for path in sorted(Path(reduce.__file__).parent.glob("*.py")):
        for cls in ast.walk(ast.parse(path.read_text())):
            if not isinstance(cls, ast.ClassDef):
                continue
            for function in cls.body:
                for node in ast.walk(function):
                    if isinstance(node, ast.Attribute) and node.attr in ASKED:
                        owner = ast.unparse(node.value)
                        if owner.endswith(("ranks", "shares")):
                            assert isinstance(function, ast.FunctionDef)
                            found.add(f"{cls.name}.{function.name}")
    assert found == set(PLACES)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_every_place_is_needed(tmp_path: Path, place: str) -> None:
    found = on_ranks(partial(differs_without, place, PLACES[place]), tmp_path, limit=5)
    assert any(each is True for each in found), found


@pytest.mark.slow
def test_what_a_step_sends(tmp_path: Path) -> None:
    """As often as a backward pass has new numbers, and no more: the rest is K or K x K."""
    pairs = [
        ("ls", "none"),
        ("famo", "none"),
        ("mgda", "none"),
        ("mgda:at=representation", "none"),
        ("ls", "sam"),
        ("ls", "samo:noise=shared,points=by-sign"),
    ]
    for found in on_ranks(partial(volumes, pairs), tmp_path):
        assert [round(sent, 1) for _, sent in found] == [1.0, 1.0, 3.0, 1.0, 2.0, 2.0]


@pytest.mark.slow
def test_columns_of_their_own_send_two_thirds(tmp_path: Path) -> None:
    """(K + 1) / 2 K of three tasks: 2 of 3 sums, where no more than the Gramian is asked for."""
    pairs = [("mgda", "none"), ("pcgrad", "none"), ("ls", "none"), ("graddrop", "none")]
    for found in on_ranks(partial(volumes, pairs, rows="sharded"), tmp_path):
        assert [round(sent, 1) for _, sent in found] == [2.0, 2.0, 1.0, 3.0]


# ------------------------------------------------------------------------------------- by torchrun
def torchrun(size: int, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    return subprocess.run(
        [*start, str(size), *map(str, words)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.slow
def test_the_loop_of_the_readme(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.S | re.M)
    (block,) = [block for block in blocks if "init_process_group" in block]
    (tmp_path / "loop.py").write_text(block)
    ended = [torchrun(size, "loop.py", cwd=tmp_path) for size in (1, 2)]
    one, two = (torch.tensor(json.loads(each.stdout)) for each in ended)
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "method", "wrapper", "share"),
    [("multimnist", "fairgrad", "samo", 4), ("multimnist", "moml", "none", 8)],
)
def test_a_training_is_that_of_one_process(
    tmp_path: Path, task: str, method: str, wrapper: str, share: int
) -> None:
    """In double precision, as steps make 1e-7 of one more of the next: losses, metrics, weights."""
    from tests.runs_on_ranks import trained

    job = partial(trained, task, method, wrapper, share)
    one = job(ALONE)
    for found in on_ranks(job, tmp_path):
        assert isinstance(found, dict), found
        assert found["steps"] == one["steps"] > 3
        for name in ("train", "test", "metrics", "weights"):
            torch.testing.assert_close(
                torch.tensor(found[name]), torch.tensor(one[name]), rtol=1e-5, atol=1e-6
            )


def run(cwd: Path, out: str, *words: str, size: int = 2, toy: str = "") -> list[Any]:
    """``mtlbench run`` of a toy that fails on one process; the records."""
    task = f"tests.runs_on_ranks:OneFails{toy}"
    given = ["-m", "mtlbench", "run", task, "--protocol", "paper", "--device", "cpu"]
    ended = torchrun(size, *given, "--limit", "10", "--out", out, *words, cwd=cwd)
    print(ended.stdout, ended.stderr)
    from mtlbench.runs.record import RunRecord

    return [
        RunRecord.model_validate_json(path.read_text())
        for path in sorted((cwd / out).glob("*.json"))
    ]


@pytest.mark.slow
def test_runs_are_resumed_to_the_same_bits(tmp_path: Path) -> None:
    """The first process is killed in the third epoch; dropout and batch normalisation go on."""
    words = ["--method", "mgda", "--sharpness", "samo", "--checkpoint", "0"]
    (whole,) = run(tmp_path, "whole", *words)
    assert whole.status == "ok"
    assert whole.identity.ranks == 2
    fault = f":fault=kill,rank=0,at=2,once={tmp_path / 'once'}"
    assert run(tmp_path, "parts", *words, toy=fault) == []
    (resumed,) = run(tmp_path, "parts", *words, toy=fault)
    for mine, wanted in zip(resumed.phases, whole.phases, strict=True):
        assert [e.train_losses for e in mine.epochs] == [e.train_losses for e in wanted.epochs]
        assert mine.selected == wanted.selected
        assert len(mine.epochs) == 4


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "raise", "hang"])
def test_a_run_of_which_a_process_is_lost_is_a_record(tmp_path: Path, fault: str) -> None:
    words = ["--method", "ls", "stl"]
    failed, *_ = run(tmp_path, "out", *words, toy=f":fault={fault},rank=1,at=1")
    assert failed.status == "failed"
    assert failed.reason.startswith("LostError: another process has ended, or does not answer")


@pytest.mark.slow
def test_requests_that_no_processes_can_carry_out(tmp_path: Path) -> None:
    run_ = [
        "-m",
        "mtlbench",
        "run",
        "tests.runs_on_ranks:OneFails",
        "--method",
        "ls",
        "--out",
        "out",
    ]
    ended = torchrun(2, *run_, "--protocol", "mini", "--device", "cpu", cwd=tmp_path)
    assert ended.stderr.count("error: 2 processes for batches of 2, and each needs 2") == 1
    assert ended.returncode
    alone = subprocess.run(
        [sys.executable, *run_],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "start with torchrun --nproc_per_node 2" in alone.stderr
    assert alone.returncode == 2


# ------------------------------------------------------------------------------------- what fails
@pytest.mark.slow
def test_processes_with_different_requests(tmp_path: Path) -> None:
    found = on_ranks(partial(started, ["ls", "mgda"]), tmp_path)
    assert len(set(found)) == 1
    assert found[0].startswith("the processes differ in method and wrapper: ls and None on rank 0")


@pytest.mark.slow
def test_the_first_network_is_taken(tmp_path: Path) -> None:
    first, second = on_ranks(same_numbers, tmp_path)
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("how", ["dies", "stalls"])
def test_a_lost_process_is_noticed(tmp_path: Path, how: str) -> None:
    first, _ = on_ranks(partial(lost, how), tmp_path, limit=5)
    assert first.endswith("in step 1")


def test_one_process_has_all_columns() -> None:
    net = model(2)
    with pytest.raises(UsageError, match="for several processes"):
        Stepper(net, torch.optim.SGD(net.parameters(), 0.1), "mgda", rows="sharded")


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"rows": "streamed"}])
def test_what_does_not_go_together(options: Case) -> None:
    several = Ranks()
    several.size = 2
    net = model(2)
    with pytest.raises(UsageError, match="several processes"):
        Stepper(net, torch.optim.SGD(net.parameters(), 0.1), "ls", ranks=several, **options)
