"""``--log gradients`` and ``stepper.step(..., log=...)``: what is logged, and that nobody pays who
does not look."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mtlbench import GradientLog, InputGroup, Stepper, UsageError
from mtlbench.interfaces import MultiTaskModel
from mtlbench.runs.curves import check_logs
from mtlbench.runs.events import Event, StoppedError
from mtlbench.runs.execute import Watching, execute
from mtlbench.runs.gradients import read_gradients
from mtlbench.runs.record import RunRecord
from mtlbench.runs.spec import RunSpec, prepare
from mtlbench.runs.store import Store
from tests.models import mse, names, single_batch, tiny_model
from tests.toy_task import TOY

CELLS = [
    ("ls", "none"),
    ("mgda", "none"),
    ("fairgrad", "sam:rho=0.3"),
    ("ls", "samo:rho=0.2,noise=shared,points=by-sign"),
    ("mgda", "lsam:rho=0.2"),
    ("ls", "fmtl:rho=0.2"),
]


def stepper(method: str, sharpness: str, model: MultiTaskModel | None = None) -> Stepper:
    model = tiny_model() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Stepper(model, optimizer, method, sharpness)


def explicit(model: MultiTaskModel, batch: Any) -> dict[str, torch.Tensor]:
    """Task gradients of the trunk by autograd alone, on a copy, by parameter; with the random
    numbers that the step is going to draw."""
    network = copy.deepcopy(model)
    with torch.random.fork_rng():
        outputs = network(batch[0].inputs)
    params = dict(network.shared.named_parameters())
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in params}
    for name in names(3):
        loss = mse(name, outputs[name], batch[0].targets[name])
        grads = torch.autograd.grad(loss, list(params.values()), retain_graph=True)
        for p, g in zip(params, grads, strict=True):
            rows[p].append(g.flatten())
    return {name: torch.stack(found) for name, found in rows.items()}


@pytest.mark.parametrize(("method", "sharpness"), CELLS)
def test_a_step_that_is_looked_on_at_is_the_same(method: str, sharpness: str) -> None:
    batch, log = single_batch(), GradientLog()
    alone, watched = stepper(method, sharpness), stepper(method, sharpness)
    for one, how in ((alone, None), (watched, log)):
        torch.manual_seed(5)
        for _ in range(3):
            one.step(batch, mse, log=how)
    assert torch.equal(alone.flat.data, watched.flat.data)
    for a, b in zip(alone.model.buffers(), watched.model.buffers(), strict=True):
        assert torch.equal(a, b)
    assert alone.passes == watched.passes
    assert set(log.frame()["step"]) == {0, 1, 2}


def test_cosines_are_those_of_explicit_gradients_and_layers_add_up() -> None:
    model = tiny_model()
    model.eval()  # where the heads' dropout draws nothing, one forward pass is like another
    batch, log = single_batch(), GradientLog()
    rows = explicit(model, batch)
    stepper("ls", "sam:rho=0.3", model).step(batch, mse, log=log)
    frame = log.frame().set_index("layer")
    J = torch.cat(list(rows.values()), dim=1)
    cosines = torch.nn.functional.cosine_similarity(J[:, None], J[None], dim=2)
    for a, first in enumerate(names(3)):
        assert frame.loc["", f"norm/{first}"] == pytest.approx(float(J[a].norm()), rel=1e-6)
        for b, second in list(enumerate(names(3)))[a + 1 :]:
            assert frame.loc["", f"cosine/{first}|{second}"] == pytest.approx(
                float(cosines[a, b]), abs=1e-6
            )
    pairs = cosines[tuple(torch.triu_indices(3, 3, 1))]
    assert frame.loc["", "conflict"] == pytest.approx(float((pairs < 0).float().mean()))
    G = (J @ J.T).numpy()
    assert frame.loc["", "condition"] == pytest.approx(np.linalg.cond(G), rel=1e-6)
    assert frame.loc["", "rank"] == np.linalg.matrix_rank(G)
    parts = frame.drop(index="")
    assert parts["size"].sum() == frame.loc["", "size"] == J.shape[1]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        first, second = names(3)[a], names(3)[b]
        products = parts[f"cosine/{first}|{second}"].fillna(0)
        products *= parts[f"norm/{first}"] * parts[f"norm/{second}"]
        assert products.sum() == pytest.approx(G[a, b], rel=1e-6)


def test_what_method_and_wrapper_did() -> None:
    batch, log = single_batch(), GradientLog()
    one = stepper("mgda", "samo:rho=0.2,noise=shared,points=by-sign")
    report = one.step(batch, mse, log=log)
    trunk = log.frame().iloc[0]
    assert report.weights is not None
    assert [trunk[f"weight/{n}"] for n in names(3)] == pytest.approx(report.weights.tolist())
    assert [trunk[f"perturbation/{n}"] for n in names(3)] == pytest.approx([0.2] * 3)
    assert all(trunk[f"slope/{n}"] != 0 for n in names(3))
    plain = GradientLog()
    stepper("ls", "none").step(batch, mse, log=plain)
    assert not [c for c in plain.frame().columns if c.startswith(("perturbation/", "slope/"))]


def test_probe_signs_are_those_of_the_losses_along_the_probe() -> None:
    """By the losses themselves, of the noise that the wrapper draws."""
    model, batch, log = tiny_model(), single_batch(), GradientLog()
    model.eval()
    one = stepper("ls", "samo:rho=0.2,noise=shared,mu=0.001", model)
    P = one.flat.shared.stop
    z = torch.empty(1, P, dtype=torch.float64)
    z.normal_(generator=torch.Generator().manual_seed(0))
    rows = explicit(model, batch)
    slopes = torch.cat(list(rows.values()), dim=1) @ z[0]
    one.step(batch, mse, log=log)
    trunk = log.frame().iloc[0]
    found = [trunk[f"slope/{n}"] for n in names(3)]
    assert found == pytest.approx(slopes.tolist(), rel=1e-3)


def test_a_task_without_a_label_has_no_numbers() -> None:
    batch, log = single_batch(), GradientLog()
    gone = {name: t for name, t in batch[0].targets.items() if name != names(3)[1]}
    one = stepper("mgda", "none")
    one.step(batch, mse, log=log)
    one.step([InputGroup(batch[0].inputs, gone)], mse, log=log)
    trunk = log.frame().query("layer == ''")
    assert trunk[f"norm/{names(3)[1]}"].notna().tolist() == [True, False]
    assert trunk[f"norm/{names(3)[2]}"].notna().all()


@pytest.mark.parametrize(
    ("method", "sharpness", "forward", "backward"),
    [("ls", "none", 1, 3), ("mgda", "none", 0, 0), ("mgda", "sam:rho=0.1", 1, 3)],
)
def test_what_looking_costs_by_hooks_on_autograd(
    method: str, sharpness: str, forward: int, backward: int
) -> None:
    """Nothing at a step that is not wanted, and no forward pass at all without a log."""
    batch, counts = single_batch(), []
    for log in (None, GradientLog(every=2)):
        one = stepper(method, sharpness)
        seen = [0]
        one.model.shared.register_forward_hook(lambda *_, seen=seen: _add(seen))
        for _ in range(2):
            one.step(batch, mse, log=log)
            counts.append(seen[0])
        if log is not None:
            assert (log.passes.forward, log.passes.backward) == (forward, backward)
    first, second, watched, then = counts
    assert (watched - first, then - watched) == (forward, second - first)


def _add(seen: list[int]) -> None:
    seen[0] += 1


@pytest.mark.parametrize("every", [0, -1])
def test_every_nth_step_with_n_from_one(every: int) -> None:
    with pytest.raises(UsageError, match="n from 1"):
        GradientLog(every)


# ------------------------------------------------------------------------------------ of a run
def made(folder: Path, method: str = "mgda", **how: Any) -> tuple[RunRecord, Store]:
    store = Store(folder)
    run = prepare(RunSpec(TOY, method, "sam", device="cpu"))
    return execute(run, store, Watching(checkpoint_seconds=0, **how)), store


def _numbers(record: RunRecord) -> Any:
    (phase,) = record.phases
    kept = phase.model_dump()
    for epoch in kept["epochs"]:
        del epoch["step_ms"]
    return kept


def test_a_run_logs_beside_its_record_and_has_the_same_numbers(tmp_path: Path) -> None:
    plain, _ = made(tmp_path / "plain")
    record, store = made(tmp_path / "logged", logs=("gradients:every=4",))
    assert str(_numbers(record)) == str(_numbers(plain))
    assert record.identity == plain.identity
    found = read_gradients(store.gradients_path(record.identity))
    steps = found.loc[found["layer"] == "", "step"].tolist()
    assert steps == list(range(0, 30, 4))
    assert (found["epoch"] == found["step"] // 10).all()
    assert not list((tmp_path / "plain").glob("gradients"))


def test_a_run_that_is_interrupted_goes_on_with_its_file(tmp_path: Path) -> None:
    record, store = made(tmp_path / "whole", logs=("gradients:every=3",))
    whole = store.gradients_path(record.identity).read_text()

    def stop(event: Event) -> None:
        if event.kind == "epoch" and event.epoch == 1:
            raise StoppedError

    with pytest.raises(StoppedError):
        made(tmp_path / "parts", logs=("gradients:every=3",), watch=stop)
    path = Store(tmp_path / "parts").gradients_path(record.identity)
    half = path.read_text()
    path.write_text(
        half + half.splitlines()[-1].replace("0,", "1,", 1)[:9]
    )  # of one that was killed
    made(tmp_path / "parts", logs=("gradients:every=3",))
    assert path.read_text() == whole


def test_steps_that_are_looked_on_at_have_no_time(tmp_path: Path) -> None:
    record, _ = made(tmp_path, logs=("gradients",))
    assert record.step_ms is None or record.step_ms != record.step_ms
    (phase,) = record.phases
    assert phase.backwards_per_step == 4  # SAM's one and MGDA's three, without those of the log


def test_networks_of_one_task_have_no_log(tmp_path: Path) -> None:
    store = Store(tmp_path)
    execute(
        prepare(RunSpec(TOY, "stl", device="cpu", epochs=1)), store, Watching(logs=("gradients",))
    )
    assert not (tmp_path / "gradients").exists()


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("gradients:every=0", "every=0"),
        ("gradients:each=2", "each=2: .*valid: every, format"),
        ("gradients:format=xml", "format=xml"),
        ("tensorboard:every=1", "'tensorboard' has no options"),
        ("weights", "unknown log 'weights'; valid: tensorboard, gradients"),
    ],
)
def test_bad_logs_are_named(log: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_logs([log])


def test_parquet_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mtlbench.runs.gradients as module

    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'mtlbench\[parquet\]'"):
        check_logs(["gradients:format=parquet"])


def test_parquet_has_what_csv_has(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    record, store = made(tmp_path / "csv", logs=("gradients:every=5",))
    _, other = made(tmp_path / "parquet", logs=("gradients:every=5,format=parquet",))
    path = other.gradients_path(record.identity)
    assert not path.exists()
    pd.testing.assert_frame_equal(
        read_gradients(path), read_gradients(store.gradients_path(record.identity))
    )


def test_a_step_in_parts_is_not_looked_on_at() -> None:
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    one = Stepper(model, optimizer, "ls", "none", accumulate=2)
    with pytest.raises(UsageError, match="a log looks at whole batches: take accumulate=1"):
        one.step(single_batch(), mse, log=GradientLog())
