"""One buffer: views, shifts that leave no trace, gradient rows that are allocated once."""

import copy

import pytest
import torch
from torch import Tensor, nn

from mtlbench import MultiTaskModel, UsageError
from mtlbench.engine.flat import FlatParameters
from mtlbench.interfaces import Move
from tests.models import make_stepper, names, single_batch, tiny_model, variant
from tests.reference import plain_forward


@pytest.fixture
def model() -> MultiTaskModel:
    return tiny_model(K=3)


@pytest.fixture
def flat(model: MultiTaskModel) -> FlatParameters:
    return FlatParameters(model, names(3))


def _random_move(flat: FlatParameters, segment: slice, length: float = 0.1) -> Move:
    return segment, torch.randn_like(flat.data[segment]), length


def _are_views(flat: FlatParameters) -> bool:
    """Whether the buffer, piece by piece, is the parameters."""
    pieces = flat.data.split([p.numel() for p in flat.params])
    return all(
        p.data_ptr() == piece.data_ptr() and torch.equal(p.detach().flatten(), piece)
        for p, piece in zip(flat.params, pieces, strict=True)
    )


def test_the_buffer_is_the_parameters_shared_first(model: MultiTaskModel) -> None:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    flat = FlatParameters(model, names(3))
    assert _are_views(flat)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert flat.shared == slice(0, sum(p.numel() for p in model.shared.parameters()))
    assert [s.start for s in flat.heads] == [flat.shared.stop, *(s.stop for s in flat.heads[:-1])]
    assert flat.heads[-1].stop == flat.data.numel()


def test_frozen_and_foreign_parameters_stay_where_they_are() -> None:
    model = variant("frozen")
    kept = {p.data_ptr() for p in model.parameters() if not p.requires_grad}
    flat = FlatParameters(model, names(3)[:2])
    assert kept <= {p.data_ptr() for p in model.parameters()}
    assert flat.heads[1].start == flat.heads[1].stop
    assert not {id(p) for p in model.heads[names(3)[2]].parameters()} & set(map(id, flat.params))


def test_load_state_dict_keeps_the_views(model: MultiTaskModel, flat: FlatParameters) -> None:
    other = tiny_model(K=3, seed=5)
    model.load_state_dict(other.state_dict())
    assert _are_views(flat)
    assert torch.equal(
        flat.data[: flat.shared.stop], FlatParameters(other, names(3)).data[flat.shared]
    )


def test_a_shift_moves_what_it_says_and_leaves_no_trace(flat: FlatParameters) -> None:
    before = flat.data.clone()
    moves = [_random_move(flat, flat.shared), _random_move(flat, flat.heads[1])]
    expected = before.clone()
    for segment, direction, length in moves:
        expected[segment] += length * direction
    for _ in range(2):
        with flat.shifted(*moves):
            assert torch.allclose(flat.data, expected, rtol=1e-12)
            assert flat.point
        assert torch.equal(flat.data, before)
        assert not flat.point


@pytest.mark.parametrize("length", [1e30, float("nan")])
def test_even_an_absurd_shift_is_undone_to_the_bit(flat: FlatParameters, length: float) -> None:
    before = flat.data.clone()
    with flat.shifted(_random_move(flat, flat.shared, length)):
        pass
    assert torch.equal(flat.data, before)


def test_a_shift_ends_with_an_exception(flat: FlatParameters) -> None:
    before = flat.data.clone()
    with pytest.raises(KeyError), flat.shifted(_random_move(flat, flat.shared)):
        raise KeyError
    assert torch.equal(flat.data, before)
    with flat.shifted(_random_move(flat, flat.shared)):
        assert not torch.equal(flat.data, before)


def test_a_move_of_the_wrong_size_is_refused_and_undone(flat: FlatParameters) -> None:
    before = flat.data.clone()
    wrong = (flat.heads[0], torch.zeros(1000).double(), 1.0)
    with (
        pytest.raises(ValueError, match=r"shape \(1000,\)"),
        flat.shifted(_random_move(flat, flat.shared), wrong),
    ):
        pass
    assert torch.equal(flat.data, before)
    assert not flat.point


def test_a_shift_goes_on_from_where_it_began(flat: FlatParameters) -> None:
    before = flat.data.clone()
    first, second = _random_move(flat, flat.shared), _random_move(flat, flat.shared)
    head = _random_move(flat, flat.heads[1])
    expected = before.clone()
    for segment, direction, length in (second, head):
        expected[segment] += length * direction
    with flat.shifted(first) as shift:
        point = flat.point
        shift(second, head)
        assert torch.allclose(flat.data, expected, rtol=1e-12)
        assert flat.point != point
        shift(first)  # the head stays where it is
        assert torch.allclose(flat.data[flat.heads[1]], expected[flat.heads[1]], rtol=1e-12)
    assert torch.equal(flat.data, before)
    assert not flat.point


def test_shifts_do_not_nest(flat: FlatParameters) -> None:
    move = _random_move(flat, flat.shared)
    with flat.shifted(move), pytest.raises(RuntimeError, match="do not nest"), flat.shifted(move):
        pass


def test_a_new_step_restores_to_where_somebody_moved_the_data(flat: FlatParameters) -> None:
    with flat.shifted(_random_move(flat, flat.shared)):
        pass
    for p in flat.params:
        p.data.add_(1.0)
    moved = flat.data.clone()
    flat.begin_step()
    with flat.shifted(_random_move(flat, flat.shared)):
        pass
    assert torch.equal(flat.data, moved)


def test_a_shift_after_the_optimizer_moved_restores_to_there(flat: FlatParameters) -> None:
    with flat.shifted(_random_move(flat, flat.shared)):
        pass
    with torch.no_grad():
        for p in flat.params:
            p.add_(1.0)
    moved = flat.data.clone()
    with flat.shifted(_random_move(flat, flat.shared)):
        pass
    assert torch.equal(flat.data, moved)


def _graph(model: MultiTaskModel) -> Tensor:
    torch.manual_seed(0)
    return torch.stack(plain_forward(model, single_batch())).sum()


@pytest.mark.parametrize(
    ("made", "used"),
    [
        ("before", "within"),
        ("within", "onward"),
        ("within", "after"),
        ("within", "next"),
        ("before", "stepped"),
    ],
)
def test_a_stale_graph_raises(
    model: MultiTaskModel, flat: FlatParameters, made: str, used: str
) -> None:
    def use() -> None:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    loss = _graph(model)
    with flat.shifted(_random_move(flat, flat.shared)) as shift:
        if made == "within":
            loss = _graph(model)
        if used == "within":
            use()
        if used == "onward":
            shift(_random_move(flat, flat.shared))
            use()
    if used == "after":
        use()
    with flat.shifted(_random_move(flat, flat.shared)):
        if used == "next":
            use()
    if used == "stepped":
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        for p in flat.params:
            p.data.add_(1.0)
        torch.autograd.graph.increment_version(flat.params)
        use()


def test_a_graph_is_of_use_again_where_it_was_made(
    model: MultiTaskModel, flat: FlatParameters
) -> None:
    expected = torch.autograd.grad(_graph(model), flat.shared_params)
    loss = _graph(model)
    for _ in range(2):
        with flat.shifted(_random_move(flat, flat.shared)):
            _graph(model).backward()
    assert all(map(torch.equal, torch.autograd.grad(loss, flat.shared_params), expected))


def test_rows_are_allocated_once_and_never_shared_within_a_step(flat: FlatParameters) -> None:
    flat.begin_step()
    first, second = flat.rows(3), flat.rows(3)
    assert first.jacobian.data_ptr() != second.jacobian.data_ptr()
    first.buffer.fill_(7.0)
    flat.begin_step()
    again = flat.rows(3)
    assert again is first
    assert not again.buffer.any()
    assert flat.rows(3) is second
    assert flat.rows(1) is flat.grad


def test_bound_rows_receive_the_gradients(model: MultiTaskModel, flat: FlatParameters) -> None:
    rows = flat.rows(2)
    losses = plain_forward(model, single_batch())
    for k in range(2):
        rows.bind(k)
        losses[k].backward(retain_graph=True)
        expected = torch.autograd.grad(losses[k], flat.shared_params, retain_graph=True)
        assert torch.equal(rows.rows[k], torch.cat([g.flatten() for g in expected]))
    own = torch.autograd.grad(losses[1], flat.head_params[1])
    assert torch.equal(rows.heads[1], torch.cat([g.flatten() for g in own]))
    assert not rows.heads[2].any()


def test_layers_are_the_shared_tensors(model: MultiTaskModel, flat: FlatParameters) -> None:
    direction = torch.randn_like(flat.data[flat.shared])
    pieces = direction.clone().split([p.numel() for p in model.shared.parameters()])
    assert torch.allclose(flat.layer_norms(direction), torch.stack([p.norm() for p in pieces]))
    factors = torch.arange(len(pieces)).double()
    scaled = flat.scale_layers_(direction.clone(), factors)
    assert torch.equal(scaled, torch.cat([f * p for f, p in zip(factors, pieces, strict=True)]))


def test_a_user_may_zero_the_gradients_all_the_same() -> None:
    def trained(zero: bool) -> Tensor:
        torch.manual_seed(0)
        stepper = make_stepper(tiny_model(), "mgda")
        for seed in range(3):
            if zero:
                stepper.optimizer.zero_grad()
            stepper.step(single_batch(seed=seed), lambda name, p, t: (p - t).pow(2).mean())
        return stepper.flat.data

    assert torch.equal(trained(zero=True), trained(zero=False))


def test_mixed_dtypes_are_refused(model: MultiTaskModel) -> None:
    model.heads["task1"].half()
    with pytest.raises(UsageError, match=r"torch\.float16.*torch\.float64"):
        FlatParameters(model, names(3))


def test_nothing_to_train_is_refused(model: MultiTaskModel) -> None:
    with pytest.raises(UsageError, match="no trainable parameter"):
        FlatParameters(model.requires_grad_(False), names(3))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("plain", True),
        ("unused", True),
        ("tied heads", False),
        ("tied to trunk", False),
    ],
)
def test_trunk_only_is_said_of_models_without_other_shared_paths(kind: str, expected: bool) -> None:
    assert FlatParameters(variant(kind), names(3)).trunk_only is expected


def test_a_copied_model_has_parameters_of_its_own(
    model: MultiTaskModel, flat: FlatParameters
) -> None:
    copied = copy.deepcopy(model)
    nn.init.zeros_(next(copied.parameters()))
    assert _are_views(flat)
    assert next(model.parameters()).any()
