"""How passes through a network are computed: in which precision, compiled or not, in how many
parts."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import torch
import torch._functorch.config as compiler
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError
from torch import Tensor, nn

from mtlbench.errors import UsageError
from mtlbench.interfaces import MultiTaskModel
from mtlbench.torch_private import tree_map

logger = logging.getLogger(__name__)
T = TypeVar("T")
Context = Callable[[], AbstractContextManager[Any]]
Precision = Literal["fp32", "tf32", "bf16"]
AMPERE = (8, 0)
"""Compute capability of the first GPUs with TF32."""
MOST_GRAPHS = 64
"""Graphs that one function is compiled to: Dynamo's own 8 are for all heads and the trunk together,
as what calls a compiled module is one function; with or without gradients, statistics, another size
of batch are graphs of their own."""
SCALER = (
    "a GradScaler scales one loss for one backward pass; a step has K gradients, of which methods "
    "and wrappers take norms and products: take bf16, whose range is float32's and needs none"
)
NO_FP16 = f"float16 needs a GradScaler, but {SCALER}"


class Numerics(BaseModel):
    """How a network's passes are computed. All but the defaults are a part of a run's identity.

    Args:
        precision: of products and convolutions. "fp32": as IEEE has it, on any device. "tf32":
            factors with 10 bits of fraction, on NVIDIA's GPUs from Ampere on. "bf16": the network
            within :class:`torch.autocast` with bfloat16, 7 bits; parameters, predictions, losses,
            gradients and all that is made of them stay in float32. None: as it is around the call,
            with an ``autocast`` of the caller's if there is one.
        channels_last: whether images go through the network with their channels innermost.
        compile: whether trunk and heads are compiled.
        accumulate: in how many parts a batch goes through the network, one after the other, see
            :class:`~mtlbench.engine.accumulate.AccumulatedProblem`.
        deterministic: whether only algorithms are used that make the same bits every time. Slower,
            by tens of percent where convolutions or scattered sums dominate; an operation without
            such an algorithm is an error that names it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: Precision | None = "fp32"
    channels_last: bool = False
    compile: bool = False
    accumulate: PositiveInt = 1
    deterministic: bool = False

    @classmethod
    def of(cls, **choices: Any) -> Numerics:
        """From what a user chose.

        Raises:
            UsageError: an unknown precision, or less than one part.
        """
        try:
            return cls(**choices)
        except ValidationError as error:
            name, value = error.errors()[0]["loc"][0], error.errors()[0]["input"]
        if name != "precision":
            raise UsageError(f"{name} must be an integer of at least 1, not {value!r}")
        reason = f"; {NO_FP16}" if value in ("fp16", "float16", "half") else ""
        valid = ", ".join(get_args(Precision))
        raise UsageError(f"unknown precision {value!r}; valid: {valid}{reason}")

    def check(self, device: torch.device) -> None:
        """Refuse what a device cannot do, as far as that is seen without trying.

        Raises:
            UsageError: it has no TF32, or there is no compiler for it.
        """
        if self.precision == "tf32":
            cuda = device.type == "cuda"
            if not cuda or torch.cuda.get_device_capability(device) < AMPERE:
                raise UsageError(
                    f"precision tf32 is of NVIDIA's GPUs from Ampere on, {device.type!r} is none "
                    "of them; take fp32 or bf16"
                )
        if self.compile:
            _check_compiler(device)

    @property
    def words(self) -> list[str]:
        """What is not the default, as options of the command line."""
        flags = {"channels_last", "compile", "deterministic"}
        words = []
        for name, value in self.model_dump(exclude_defaults=True).items():
            option = "--" + name.replace("_", "-")
            words += [option] if name in flags else [option, str(value)]
        return words

    def __str__(self) -> str:
        """What is not the default, in a few words; empty if nothing is."""
        return " ".join(self.words).replace("--precision ", "").replace("--", "")

    @contextmanager
    def settings(self, device: torch.device) -> Iterator[None]:
        """Torch's switches for TF32 as :attr:`precision` has them within, as before afterwards."""
        if self.precision is None or device.type != "cuda":
            yield
            return
        switches: tuple[Any, ...] = torch.backends.cuda.matmul, torch.backends.cudnn
        before = [switch.allow_tf32 for switch in switches]
        try:
            for switch in switches:
                switch.allow_tf32 = self.precision == "tf32"
            yield
        finally:
            for switch, allowed in zip(switches, before, strict=True):
                switch.allow_tf32 = allowed

    def network(self, device: torch.device) -> AbstractContextManager[Any]:
        """The network runs within."""
        cast = self.precision == "bf16"
        if self.precision is None or not (cast or torch.is_autocast_enabled(device.type)):
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=cast)

    def contexts(self, device: torch.device) -> tuple[Context, Context]:
        """What makes the contexts that a step runs its network in, and its losses.

        Ask before :func:`without_autocast`: an autocast of the caller's is for these two alone, not
        for what is made of gradients.
        """
        if self.precision is None and torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
            around = partial(torch.autocast, device.type, dtype=dtype)
            return around, around
        return partial(self.network, device), nullcontext

    def inputs(self, inputs: Any) -> Any:
        """Inputs as the network gets them."""
        return tree_map(_channels_last, inputs) if self.channels_last else inputs

    def predictions(self, predictions: Any) -> Any:
        """Predictions as losses and meters get them."""
        return tree_map(widened, predictions) if self.precision == "bf16" else predictions


USUAL = Numerics()
AS_AROUND = Numerics(precision=None)
"""As it is around a call."""


def widened(leaf: T) -> T:
    """A tensor of 16-bit floats in float32; anything else as it is."""
    short = isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.itemsize == 2
    found: Any = leaf.float() if short else leaf  # type: ignore[attr-defined]
    return found  # type: ignore[no-any-return]


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast within."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def check_autocast(device: torch.device) -> None:
    """Refuse a step within float16.

    Raises:
        UsageError: it is within such an autocast.
    """
    kind, float16 = device.type, torch.float16
    if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is float16:
        raise UsageError(f"a step within autocast to float16: {NO_FP16}")


def compile_parts(model: MultiTaskModel, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile a network's trunk and heads, each by itself; names of parameters stay. A trunk that
    runs part by part for the objectives that are asked for is left as it is.

    Raises:
        UsageError: torch cannot compile here.
    """
    modules = list(model.heads.values())
    if type(model).features is MultiTaskModel.features:
        modules.insert(0, model.shared)
    else:
        logger.warning("compile: the trunk runs part by part; only the heads are compiled")
    try:
        for module in modules:
            module.compile(backend=backend)
    except RuntimeError as error:  # not for this version of Python, or this platform
        raise UsageError(f"compile: {str(error).partition(chr(10))[0]}") from error


@contextmanager
def compiling() -> Iterator[None]:
    """What is compiled within has as many graphs as it needs, which can go backward more than once.

    By default the compiler lets a backward pass reuse the memory of what it has read. Its cache on
    disk does not tell such passes from others, but by a tag.
    """
    dynamo: Any = sys.modules.get("torch._dynamo.config")  # nothing is compiled without it
    if dynamo is None:
        with _changed(compiler, donated_buffer=False):
            yield
        return
    limit = max(MOST_GRAPHS, dynamo.recompile_limit)
    caching: Any = sys.modules.get("torch.compiler.config")
    if hasattr(caching, "cache_key_tag"):
        apart = _changed(caching, cache_key_tag=f"{caching.cache_key_tag}, retained graphs")
    else:  # an older torch
        import torch._inductor.config as inductor

        apart = _changed(inductor, force_disable_caches=True)
    with (
        _changed(compiler, donated_buffer=False),
        apart,
        _changed(dynamo, recompile_limit=limit),
    ):
        yield


@contextmanager
def _changed(config: Any, **values: Any) -> Iterator[None]:
    """Settings of a part of torch within, as before afterwards; ``config.patch`` takes longer."""
    before = {name: getattr(config, name) for name in values}
    try:
        for name, value in values.items():
            setattr(config, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def is_compiled(modules: Iterable[nn.Module]) -> bool:
    """Whether one of a network's parts is."""
    return "torch._dynamo" in sys.modules and any(
        m._compiled_call_impl is not None or hasattr(m, "_orig_mod") for m in modules
    )


def check_retained(losses: Tensor) -> None:
    """Refuse compiled graphs whose backward pass overwrites what the next one of it would read.

    Raises:
        UsageError: there is one. Torch would say nothing within :func:`compiling`.
    """
    seen, found = set[Any](), [losses.grad_fn]
    while found:
        node: Any = found.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found += [following for following, _ in node.next_functions]
        metadata = getattr(getattr(node, "_forward_cls", None), "metadata", None)
        if getattr(metadata, "bw_donated_idxs", None):
            raise UsageError(
                "a part of the network was compiled outside of a step, for one backward pass where "
                "a step may make several: call torch._dynamo.reset() before, or set "
                "torch._functorch.config.donated_buffer = False before anything is compiled"
            )


@contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """Only algorithms that make the same bits every time within, if wanted; torch's switches are
    afterwards as before."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    cudnn = torch.backends.cudnn
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    before = cudnn.deterministic, cudnn.benchmark
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        cudnn.deterministic, cudnn.benchmark = before


def _channels_last(leaf: Any) -> Any:
    image = isinstance(leaf, Tensor) and leaf.dim() == 4 and leaf.is_floating_point()
    return leaf.contiguous(memory_format=torch.channels_last) if image else leaf


def _check_compiler(device: torch.device) -> None:
    """Look for what torch's compiler calls.

    Raises:
        UsageError: it is not there.
    """
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise UsageError("compile needs triton on CUDA: pip install triton, or leave it out")
        return
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    named = os.environ.get("CXX", usual)
    if shutil.which((named.split() or [""])[0]) is None:
        raise UsageError(
            f"compile needs a C++ compiler, and there is no {named!r} here: install one, name "
            "another in CXX, or leave it out"
        )
