"""Networks for dense prediction."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from functools import cache, partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtlbench import InputGroup, MultiTaskModel, Stepper
from mtlbench.errors import UsageError
from mtlbench.tasks._nets.deeplab import deeplab
from mtlbench.tasks._nets.mtan import mtan
from mtlbench.tasks._nets.segnet import UnitLength, segnet
from mtlbench.tasks._nets.unet import unet

Builder = Callable[..., MultiTaskModel]

CITYSCAPES = {"segmentation": 7, "depth": 1}
NYUV2 = {"segmentation": 13, "depth": 1, "normal": 3}
TINY: dict[str, Builder] = {
    "segnet": partial(segnet, filters=(4, 6, 6, 8, 8)),
    "mtan": partial(mtan, filters=(4, 6, 6, 8, 8)),
    "deeplab": partial(deeplab, width=4),
    "unet": partial(unet, width=4),
}
EVERY_NETWORK = pytest.mark.parametrize("name", TINY)


def seeded(name: str, seed: int = 0) -> MultiTaskModel:
    """A narrow network for two objectives, the second of unit length."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TINY[name]({"segmentation": 4, "normal": 3}, {"normal": UnitLength()})


@cache
def _shared_model(name: str) -> MultiTaskModel:
    return seeded(name)


@pytest.fixture
def model(name: str) -> MultiTaskModel:
    """One for all tests that leave its parameters alone."""
    network = _shared_model(name).train()
    network.zero_grad()
    return network


def images(height: int = 32, width: int = 48, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def total_loss(predictions: dict[str, Tensor]) -> Tensor:
    g = torch.Generator().manual_seed(1)
    losses = [(p * torch.randn(p.shape, generator=g)).mean() for p in predictions.values()]
    return torch.stack(losses).sum()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def ids(parameters: Iterable[nn.Parameter]) -> set[int]:
    return {id(p) for p in parameters}


# ---------------------------------------------------------------------------------------- shapes
@EVERY_NETWORK
@pytest.mark.parametrize("size", [(34, 46), (64, 128), (72, 96)])
def test_predictions_have_the_size_of_the_images(
    name: str, model: MultiTaskModel, size: tuple[int, int]
) -> None:
    with torch.no_grad():
        predictions = model(images(*size))
    assert predictions["segmentation"].shape == (2, 4, *size)
    lengths = predictions["normal"].norm(dim=1)
    assert lengths.shape == (2, *size)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("segnet", (31, 64), "31 x 64 are too small: .* sides of 32 or more"),
        ("mtan", (64, 16), "64 x 16 are too small: .* sides of 32 or more"),
        ("unet", (64, 65), "64 x 65: .* even sides"),
    ],
)
def test_impossible_sizes_are_named(
    model: MultiTaskModel, size: tuple[int, int], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        model(images(*size))


@pytest.mark.parametrize("name", ["deeplab"])
def test_deeplab_trains_on_two_images_or_more_and_evaluates_one(model: MultiTaskModel) -> None:
    with pytest.raises(UsageError, match="batch of 1 image"):
        model(images(count=1))
    assert model.eval()(images(count=1))["segmentation"].shape == (1, 4, 32, 48)


@EVERY_NETWORK
def test_a_final_module_of_no_objective_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no objective 'normals' to end with; there are normal"):
        TINY[name]({"normal": 3}, {"normals": UnitLength()})


def test_unit_length_bears_zeros() -> None:
    x = torch.tensor([[3.0, 0.0], [4.0, 0.0]]).T.reshape(2, 2, 1, 1).requires_grad_()
    y = UnitLength()(x)
    y.sum().backward()
    torch.testing.assert_close(y.detach().flatten(), torch.tensor([0.6, 0.8, 0.0, 0.0]))
    assert x.grad is not None
    assert x.grad.isfinite().all()


# ------------------------------------------------------------------------------ parameter counts
def _conv(inputs: int, outputs: int, side: int = 3) -> int:
    return inputs * outputs * side**2 + outputs


def _layer(inputs: int, outputs: int) -> int:
    """Convolution and batch normalisation."""
    return _conv(inputs, outputs) + 2 * outputs


def _mask(inputs: int, outputs: int) -> int:
    return _conv(inputs, outputs, 1) + _conv(outputs, outputs, 1) + 4 * outputs


def _head(outputs: int) -> int:
    return _conv(64, 64) + _conv(64, outputs, 1)


VGG = [3, *2 * [64], *2 * [128], *3 * [256], *6 * [512]]
BACK = [512, *3 * [512], *3 * [256], *3 * [128], *4 * [64]]
SEGNET = sum(_layer(*pair) for path in (VGG, BACK) for pair in pairwise(path))
PATH = [
    *[(64, 64), (2 * 128, 128), (2 * 256, 256), (2 * 512, 512), (2 * 512, 512)],
    *[(2 * 512, 512), (512 + 256, 256), (256 + 128, 128), (128 + 64, 64), (2 * 64, 64)],
]
BETWEEN = [
    *[(64, 128), (128, 256), (256, 512), (512, 512), (512, 512)],
    *[(512, 512), (512, 256), (256, 128), (128, 64), (64, 64)],
]


@pytest.mark.parametrize("outputs", [CITYSCAPES, NYUV2])
def test_segnet_has_the_published_layers(outputs: dict[str, int]) -> None:
    with torch.device("meta"):
        model = segnet(outputs)
    assert count(model.shared) == SEGNET == 24_943_296
    assert {k: count(head) for k, head in model.heads.items()} == {
        objective: _head(channels) for objective, channels in outputs.items()
    }


def test_segnet_for_segmentation_alone_has_the_count_in_the_released_trainer() -> None:
    with torch.device("meta"):
        assert count(segnet({"segmentation": 13})) == 24_981_069


@pytest.mark.parametrize("outputs", [CITYSCAPES, NYUV2])
def test_mtan_has_the_published_layers(outputs: dict[str, int]) -> None:
    with torch.device("meta"):
        model = mtan(outputs)
    masks = sum(_mask(*pair) for pair in PATH)
    between = sum(_layer(*pair) for pair in BETWEEN)
    assert count(model.shared) == SEGNET + between + len(outputs) * masks
    assert {k: count(head) for k, head in model.heads.items()} == {
        objective: _head(channels) for objective, channels in outputs.items()
    }


def test_mtan_has_1_77_times_the_parameters_of_one_segnet_as_the_paper_says() -> None:
    with torch.device("meta"):
        assert round(count(mtan(NYUV2)) / 24_981_069, 2) == 1.77


def test_deeplab_has_the_parameters_that_torchvision_publishes() -> None:
    from torchvision.models import ResNet50_Weights
    from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

    with torch.device("meta"):
        model = deeplab({"segmentation": 21})
    classifier = 2048 * 1000 + 1000
    auxiliary = 9 * 1024 * 256 + 2 * 256 + _conv(256, 21, 1)
    published = ResNet50_Weights.IMAGENET1K_V1.meta["num_params"]
    assert count(model.shared) == published - classifier == 23_508_032
    published = DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["num_params"]
    assert count(model) == published - auxiliary


def test_deeplab_takes_state_dicts_of_torchvision() -> None:
    from torchvision.models import resnet50
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead

    with torch.device("meta"):
        model, trunk, head = deeplab({"depth": 1}), resnet50(weights=None), DeepLabHead(2048, 1)
    del trunk.fc
    assert shapes(model.shared) == shapes(trunk)
    assert shapes(model.get_submodule("heads.depth.0")) == shapes(head)


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def test_unet_is_small() -> None:
    model = unet(NYUV2)
    assert 100_000 < count(model.shared) < 300_000
    assert all(count(head) < 3_000 for head in model.heads.values())


@pytest.mark.parametrize("build", [segnet, mtan])
def test_initial_weights_are_as_released(build: Builder) -> None:
    torch.manual_seed(0)
    model = build({"depth": 1}, filters=(16, 32, 64, 64))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None
            assert (module.bias == 0).all()
            area = math.prod(module.kernel_size)
            std = math.sqrt(2 / (area * (module.in_channels + module.out_channels)))
            if module.weight.numel() > 2_000:
                assert abs(module.weight.std().item() / std - 1) < 0.1


# ----------------------------------------------------------------------------------------- roles
@EVERY_NETWORK
def test_roles_are_those_of_trunk_and_heads(model: MultiTaskModel) -> None:
    shared, heads = model.parameter_roles(list(model.heads))
    assert ids(shared) == ids(model.shared.parameters())
    for own, head in zip(heads, model.heads.values(), strict=True):
        assert own
        assert ids(own) == ids(head.parameters())
    assert len(shared) + sum(map(len, heads)) == len(list(model.parameters()))


@EVERY_NETWORK
def test_every_parameter_learns_from_the_sum_of_the_losses(model: MultiTaskModel) -> None:
    total_loss(model(images(64, 64))).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        if not name.endswith("bias"):  # batch normalisation takes a convolution's bias out again
            assert p.grad.any(), name


@EVERY_NETWORK
def test_a_head_learns_from_its_own_loss_only(model: MultiTaskModel) -> None:
    model(images(), ["normal"])["normal"][:, 0].sum().backward()
    assert all(p.grad is None for p in model.heads["segmentation"].parameters())
    assert any(p.grad is not None for p in model.heads["normal"].parameters())


@pytest.mark.parametrize("name", ["mtan"])
def test_mtans_attention_is_shared_but_only_its_own_task_moves_it(model: MultiTaskModel) -> None:
    shared, _ = model.parameter_roles(list(model.heads))
    paths = {k: model.shared.get_submodule(f"paths.{k}") for k in model.heads}
    assert ids(p for path in paths.values() for p in path.parameters()) <= ids(shared)
    model(images(), ["normal"])["normal"][:, 0].sum().backward()
    assert all(p.grad is None for p in paths["segmentation"].parameters())
    assert all(p.grad is not None for p in paths["normal"].parameters())
    assert all(p.grad is not None for p in model.shared.get_submodule("segnet").parameters())


@pytest.mark.parametrize("name", ["mtan"])
def test_mtans_heads_see_the_features_of_their_own_task(model: MultiTaskModel) -> None:
    with torch.no_grad():
        features = model.features(images(), list(model.heads))
        assert list(features) == list(model.heads)
        before = model.predict(features, list(model.heads))
        features["segmentation"] = torch.zeros_like(features["segmentation"])
        after = model.predict(features, list(model.heads))
    assert torch.equal(after["normal"], before["normal"])
    assert not torch.equal(after["segmentation"], before["segmentation"])


# ----------------------------------------------------------------------------------------- steps
def dot(objective: str, prediction: Any, target: Tensor) -> Tensor:
    product: Tensor = prediction * target
    return product.mean()


def one_step(model: MultiTaskModel, method: str, sharpness: str) -> Tensor:
    """All parameters after a step that took place."""
    x = images(64, 64)
    g = torch.Generator().manual_seed(2)
    shapes = {"segmentation": (2, 4, 64, 64), "normal": (2, 3, 64, 64)}
    targets = {k: 1 + torch.randn(shape, generator=g) for k, shape in shapes.items()}
    stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1), method, sharpness)
    before = stepper.flat.data.clone()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        report = stepper.step(InputGroup(x, targets), dot)
    assert not report.skipped
    assert stepper.flat.data.isfinite().all()
    assert not torch.equal(stepper.flat.data, before)
    return stepper.flat.data


@EVERY_NETWORK
@pytest.mark.parametrize(
    ("method", "sharpness"), [("fairgrad", "samo"), ("mgda:at=representation", "none")]
)
def test_a_step(name: str, method: str, sharpness: str) -> None:
    one_step(copy.deepcopy(_shared_model(name)), method, sharpness)


@EVERY_NETWORK
def test_the_seed_settles_the_weights_and_the_step(name: str) -> None:
    first, second = seeded(name, 5), seeded(name, 5)
    state = second.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in first.state_dict().items())
    after = one_step(first, "ls", "none")
    assert torch.equal(after, one_step(second, "ls", "none"))
    other = seeded(name, 6).state_dict()
    assert not all(torch.equal(tensor, other[key]) for key, tensor in state.items())
