"""A dilated ResNet-50 with DeepLab heads, the network of LibMTL's dense benchmarks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from mtlbench.errors import UsageError
from mtlbench.interfaces import MultiTaskModel
from mtlbench.tasks._nets.attention import Attended
from mtlbench.tasks._nets.resnet import BOTTLENECK, resnet_stages
from mtlbench.tasks._nets.segnet import COLOURS, finals_of
from mtlbench.tasks._nets.trunk import ByTask, Trunk, map_gate, picking

FEATURES = 2048
RATES = (12, 24, 36)

Features = tuple[Tensor, tuple[int, int]]
"""A feature map at an eighth of the images' size, and that size."""


def deeplab(
    outputs: Mapping[str, int],
    finals: Mapping[str, nn.Module] | None = None,
    *,
    width: int = 64,
) -> MultiTaskModel:
    """ResNet-50 with dilation in place of the last two strides and heads from `"Rethinking Atrous
    Convolution for Semantic Image Segmentation" <https://arxiv.org/abs/1706.05587>`_, as in
    `"LibMTL" <https://arxiv.org/abs/2203.14338>`_.

    A head's prediction grows bilinearly to the size of the images, which may be any.

    Departs from the authors' code: weights are random, nothing is downloaded. Names of the trunk's
    parameters are those of torchvision's ``resnet50``.

    Args:
        outputs: channels of each objective's prediction.
        finals: what else to apply to an objective's prediction, at the images' size.
        width: of the first bottlenecks (torchvision's ``width_per_group``); a fourth of a head's.
    """
    return MultiTaskModel(DilatedResNet(width), _heads(outputs, finals, width))


def deeplab_trunk(
    outputs: Mapping[str, int],
    finals: Mapping[str, nn.Module] | None = None,
    *,
    width: int = 64,
) -> Trunk:
    """The same for other ways to share: a stage for each scale."""

    def stages() -> list[nn.Module]:
        first, *later = resnet_stages(dict(DilatedResNet(width).named_children()))
        return [Sized(first), *map(Further, later)]

    return Trunk(
        nn.Identity(),
        stages,
        lambda stage, n: map_gate((COLOURS, *BOTTLENECK)[stage], n),
        _heads(outputs, finals, width),
    )


def mtan_deeplab(
    outputs: Mapping[str, int],
    finals: Mapping[str, nn.Module] | None = None,
    *,
    width: int = 64,
) -> MultiTaskModel:
    """:func:`~mtlbench.tasks._nets.attention.attention` on it."""
    layers = dict(DilatedResNet(width).named_children())
    trunk = SizedPaths(layers, BOTTLENECK, list(outputs))
    return ByTask(trunk, picking(_heads(outputs, finals, width)), dict(trunk.own.items()))


def _heads(
    outputs: Mapping[str, int], finals: Mapping[str, nn.Module] | None, width: int
) -> dict[str, nn.Module]:
    last = finals_of(outputs, finals)
    return {name: nn.Sequential(Head(n, 4 * width), *last[name]) for name, n in outputs.items()}


class DilatedResNet(nn.Sequential):
    """ResNet-50 down to an eighth of the images' size, without its classifier."""

    def __init__(self, width: int) -> None:
        from torchvision.models import resnet50

        resnet = resnet50(
            weights=None,
            replace_stride_with_dilation=[False, True, True],
            width_per_group=width,
        )
        kept = OrderedDict(resnet.named_children())
        del kept["avgpool"], kept["fc"]
        super().__init__(kept)

    def forward(self, images: Tensor) -> Features:
        """Features and the images' size.

        Raises:
            UsageError: a single image in training.
        """
        size = size_of(images, training=self.training)
        x = images
        for layer in self:
            x = layer(x)
        return x, size


class Sized(nn.Module):
    """Images to what a stage makes of them, and their size."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, images: Tensor) -> Features:
        size = size_of(images, training=self.training)
        return self.stage(images), size


class Further(nn.Module):
    """A further stage, which the images' size is carried through."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, features: Features) -> Features:
        x, size = features
        return self.stage(x), size


class SizedPaths(Attended):
    """Features of the objectives, each with the images' size."""

    def forward(  # type: ignore[override]
        self,
        images: Tensor,
        objectives: Sequence[str],
        before_part: Callable[[str], object] = lambda name: None,
    ) -> dict[str, Features]:
        size = size_of(images, training=self.training)
        found = super().forward(images, objectives, before_part)
        return {name: (x, size) for name, x in found.items()}


def size_of(images: Tensor, *, training: bool) -> tuple[int, int]:
    """Height and width.

    Raises:
        UsageError: a single image in training.
    """
    count, _, height, width = images.shape
    if training and count == 1:
        raise UsageError(
            "a training batch of 1 image: DeepLab normalises the mean of each image over the "
            "batch and needs 2 or more"
        )
    return height, width


class Head(nn.Sequential):
    """torchvision's ``DeepLabHead`` with a choice of width, resized to the images."""

    def __init__(self, outputs: int, width: int) -> None:
        from torchvision.models.segmentation.deeplabv3 import ASPP

        super().__init__(
            ASPP(FEATURES, RATES, width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, outputs, 1),
        )

    def forward(self, features: Features) -> Tensor:
        x, size = features
        for layer in self:
            x = layer(x)
        return nn.functional.interpolate(x, size, mode="bilinear", align_corners=True)
