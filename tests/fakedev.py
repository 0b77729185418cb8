"""A pretend accelerator, ``fake:0``, that computes on the CPU, is as strict as CUDA and counts.

Its tensors are tensors of PyTorch's PrivateUse1 device in ordinary memory. Every operator that has
no kernel for all devices comes to :func:`_run`: it checks devices as CUDA's kernels do, relabels
the operands as CPU tensors of the same memory (through DLPack, without a copy), runs the CPU's
kernel and relabels the result. All else (views, autograd, the checks of structured kernels) is
PyTorch's own code, as it is for CUDA. Call :func:`install` once a process, before anything else.
"""

from __future__ import annotations

import ctypes
import re
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from importlib import machinery
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration

NAME = "fake"
CPU, FAKE = 1, 12  # DLPack's kDLCPU and kDLExtDev
DATA_DEPENDENT = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "repeat_interleave",
    "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive",
}  # fmt: skip


# ------------------------------------------------------------------------------------ records
@dataclass(frozen=True)
class Occurrence:
    """Something that the host waits for: a value or a size (``sync``), or a copy to it (``d2h``) or
    from it (``h2d``); ``async`` copies it does not wait for."""

    kind: str
    op: str
    place: str
    """The innermost line of the packages under test (else the outermost line of all)."""
    line: str
    """The innermost line of all."""


events: list[Occurrence] = []
operators: set[str] = set()
"""All operators that have reached the device."""
packages: tuple[str, ...] = ()
"""Whose lines are named as places."""
pretended: str | None = None
"""What these packages take the device for."""


@contextmanager
def recorded() -> Iterator[list[Occurrence]]:
    """The events within."""
    start, found = len(events), list[Occurrence]()
    yield found
    found.extend(events[start:])


def _note(kind: str, op: str) -> None:
    frame: FrameType | None = sys._getframe(2)
    found = list[str]()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module != __name__:
            found.append(f"{module.replace('.', '/')}.py:{frame.f_lineno}")
            if module.partition(".")[0] in packages:
                break
        frame = frame.f_back
    events.append(Occurrence(kind, op, found[-1], found[0]))


# ------------------------------------------------------------------------------------ relabelling
_address = ctypes.pythonapi.PyCapsule_GetPointer
_address.restype, _address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _relabelled(t: Tensor, device: int) -> Tensor:
    """A tensor of the same memory on the other device."""
    capsule = torch._C._to_dlpack(t)
    start = _address(capsule, b"dltensor")  # a DLTensor begins with a pointer and the device's kind
    ctypes.c_int32.from_address(start + ctypes.sizeof(ctypes.c_void_p)).value = device
    return torch._C._from_dlpack(capsule)


def _is_fake(x: object) -> bool:
    return isinstance(x, Tensor) and x.device.type == NAME


def host(x: Any) -> Any:
    """What the CPU's kernels see of an operand."""
    if isinstance(x, Tensor):
        if x.device.type != NAME:
            return x
        return _relabelled(x, CPU) if x.numel() else torch.empty(x.shape, dtype=x.dtype)
    if type(x) is torch.device:
        return torch.device("cpu")
    return _inner.get(x._cdata, x) if type(x) is _Generator else x


def fake(x: Any) -> Any:
    """What the device makes of a result."""
    if pretended == "mps" and isinstance(x, Tensor) and x.dtype == torch.float64:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype: MPS has no float64")
    return _relabelled(x, FAKE) if isinstance(x, Tensor) else x


# ------------------------------------------------------------------------------------ randomness
_Generator: Any = torch.Generator
_inner: dict[int, torch.Generator] = {}
"""What the fake device's generators draw from, by the address of their (unused) own state."""


class Generator(_Generator):  # type: ignore[misc]
    """A generator of the fake device."""

    def __init__(self, device: Any = None) -> None:
        _inner[self._cdata] = _Generator()
        weakref.finalize(self, _inner.pop, self._cdata)

    def __new__(cls, device: Any = None) -> Any:
        return super().__new__(cls)

    device = property(lambda self: torch.device(NAME, 0))

    def manual_seed(self, seed: int) -> Generator:
        _inner[self._cdata].manual_seed(seed)
        return self

    def get_state(self) -> Tensor:
        return _inner[self._cdata].get_state()

    def set_state(self, state: Tensor) -> Generator:
        _inner[self._cdata].set_state(state)
        return self


class _MakesGenerators(type):
    """``torch.Generator``, which may be asked for one of the fake device."""

    def __call__(cls, device: Any = "cpu") -> torch.Generator:
        return (Generator if torch.device(device).type == NAME else _Generator)(device)

    def __instancecheck__(cls, x: object) -> bool:
        return isinstance(x, _Generator)


class _Strict(TorchFunctionMode):
    """Keeps the fake device's generators from CPU tensors, and notes memory that is pinned."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        pinned, source = options.pop("pin_memory", False), options.get("generator")
        found = func(*args, **options)
        if pinned and isinstance(found, Tensor):
            _pinned[found.data_ptr()] = weakref.ref(found)
        if isinstance(source, Generator) and isinstance(found, Tensor) and not _is_fake(found):
            raise RuntimeError(f"Expected a 'cpu' device type for generator but found {NAME!r}")
        return found


class Event:
    """``torch.cuda.Event``: what is recorded is waited for by ``synchronize`` only."""

    def __init__(self, enable_timing: bool = False) -> None:
        self._at = 0.0

    def record(self, stream: Any = None) -> None:
        self._at = time.perf_counter()

    def synchronize(self) -> None:
        _note("sync", "synchronize")

    def elapsed_time(self, end: Event) -> float:
        return 1000 * (end._at - self._at)


class Backend(backend_registration._DummyBackendModule):
    """``torch.fake``, with the functions of ``torch.cuda`` that the code under test calls."""

    generator = _Generator()
    Event = Event

    def manual_seed_all(self, seed: int) -> None:
        self.generator.manual_seed(seed)

    def get_rng_state(self, device: Any = None) -> Tensor:
        state: Tensor = self.generator.get_state()
        return state

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        if state.device.type != "cpu":
            raise TypeError("RNG state must be a torch.ByteTensor")
        self.generator.set_state(state)

    def get_rng_state_all(self) -> list[Tensor]:
        return [self.generator.get_state()]

    def synchronize(self, device: Any = None) -> None:
        _note("sync", "synchronize")

    def reset_peak_memory_stats(self, device: Any = None) -> None: ...

    def max_memory_allocated(self, device: Any = None) -> int:
        return 1

    memory_allocated = max_memory_allocated

    def get_device_name(self, device: Any = None) -> str:
        return "pretend accelerator"


@contextmanager
def _drawing(generator: torch.Generator) -> Iterator[None]:
    """CPU kernels draw from ``generator``."""
    before = torch.get_rng_state()
    torch.default_generator.set_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(torch.default_generator.get_state())
        torch.default_generator.set_state(before)


# ------------------------------------------------------------------------------------ operators
def _tolerant() -> set[str]:
    """Operators whose CUDA kernels take 0-dimensional CPU tensors (they are TensorIterator's)."""
    path = (
        Path(torch.__file__).parent.parent / "torchgen/packaged/ATen/native/native_functions.yaml"
    )
    entries = re.split(r"^- func: ", path.read_text(), flags=re.MULTILINE)
    return {"aten::" + e.partition("(")[0] for e in entries if "device_check: NoCheck" in e}


@dataclass(frozen=True)
class _Signature:
    """What :func:`_run` needs to know of an operator."""

    names: tuple[str, ...]
    outs: tuple[str, ...]
    returns: tuple[tuple[str | None, bool], ...]
    """For each result, the operand that it is or is a view of, and whether it is the operand."""
    takes_scalars: bool
    draws: bool

    @classmethod
    @cache
    def of(cls, op: Any) -> _Signature:
        operands, results = op._schema.arguments, op._schema.returns
        sets = {s: a.name for a in operands if a.alias_info for s in a.alias_info.before_set}
        owners = [
            r.alias_info and (sets[next(iter(r.alias_info.before_set))], r.alias_info.is_write)
            for r in results
        ]
        operators.add(op.name())
        return cls(
            names=tuple(a.name for a in operands),
            outs=tuple(a.name for a in operands if a.is_out),
            returns=tuple(owner or (None, False) for owner in owners),
            takes_scalars=op.name() in tolerant,
            draws=torch.Tag.nondeterministic_seeded in op.tags,
        )


def _each(function: Any, x: Any) -> Any:
    """``function`` of an operand or of each of a list."""
    return [_each(function, e) for e in x] if isinstance(x, (list, tuple)) else function(x)


def _run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """An operator on the device."""
    signature = _Signature.of(op)
    given = dict(zip(signature.names, args, strict=False)) | kwargs

    def checked(x: Any) -> Any:
        wrong = isinstance(x, Tensor) and not _is_fake(x)
        if wrong and (x.dim() or not signature.takes_scalars):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but one is on {x.device} ({op})"
            )
        if type(x) is _Generator and x._cdata not in _inner:
            raise RuntimeError(
                f"Expected a {NAME!r} device type for generator but found {x.device.type!r} ({op})"
            )
        return host(x)

    # Indices may be on the CPU.
    on_host = {name: _each(host if name == "indices" else checked, x) for name, x in given.items()}
    if op.overloadpacket.__name__ in DATA_DEPENDENT:
        _note("sync", op.overloadpacket.__name__)
    if op is torch.ops.aten._index_put_impl_.default:  # does inside what operators do elsewhere
        for index in filter(None.__ne__, given["indices"]):
            if index.dtype is torch.bool and given["values"].numel() != 1:
                _note("sync", "nonzero")
            elif index.numel() and not _is_fake(index):
                _note("h2d", "copy_")
    # The CPU's kernel may give an output another size, also on the way (mse_loss), which relabelled
    # memory cannot have: those that are small or empty are computed apart.
    apart = [name for name in signature.outs if _is_fake(given[name]) and given[name].numel() < 2]
    on_host |= {name: torch.empty(0, dtype=given[name].dtype) for name in apart}
    implicit = signature.draws and not given.get("generator")
    kernel: Any = INSTEAD.get(op, op)
    with _drawing(Backend.generator) if implicit else nullcontext():
        found = kernel(**on_host)
    for name in apart:
        if given[name].shape == on_host[name].shape:
            host(given[name]).copy_(on_host[name])
        else:
            given[name].data = fake(on_host[name])
    several = len(signature.returns) > 1
    results = []
    for x, (owner, written) in zip(found if several else [found], signature.returns, strict=False):
        if owner is None:
            results.append(_each(fake, x))
        elif written:
            results.append(given[owner])
        else:
            of = given[owner]
            results.append(
                _as_strided(of, x.size(), x.stride(), of.storage_offset() + x.storage_offset())
            )
    return tuple(results) if several else results[0] if results else None


def _as_strided(t: Tensor, size: Any, stride: Any, start: int | None = None) -> Tensor:
    view: Tensor = torch.ops.aten.as_strided_(torch.ops.aten.alias(t), size, stride, start)
    return view


_pinned: dict[int, weakref.ref[Tensor]] = {}
"""Page-locked tensors, by address."""


def _pin_memory(t: Tensor, device: Any = None) -> Tensor:
    copy = t.clone()
    _pinned[copy.data_ptr()] = weakref.ref(copy)
    return copy


def _is_pinned(t: Tensor, device: Any = None) -> bool:
    known = _pinned.get(t.data_ptr())
    return known is not None and known() is not None


def _copy_from(src: Tensor, dst: Tensor, non_blocking: bool = False) -> Tensor:
    """The host waits for a copy unless it is of pinned memory, to the device, and asked not to."""
    if src.device != dst.device and src.numel():
        waits = not (non_blocking and _is_fake(dst) and _is_pinned(src))
        _note(("h2d" if _is_fake(dst) else "d2h") + " async" * (not waits), "copy_")
    host(dst).copy_(host(src))
    return dst


def _to_copy(
    t: Tensor, *, dtype: Any = None, device: Any = None, non_blocking: bool = False, **layout: Any
) -> Tensor:
    """As PyTorch's own, which asks for pinned memory where a copy to the host is asynchronous."""
    form = layout.get("memory_format") or torch.preserve_format
    out = torch.empty_like(t, dtype=dtype, device=device, memory_format=form)
    return out.copy_(t, non_blocking=non_blocking)


def _own_on_cuda() -> Iterator[Any]:
    """Operators that CPU and CUDA have kernels for though there is one for all devices."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    for full in torch._C._dispatch_get_all_op_names():
        if all(has(full, key) for key in ("CPU", "CUDA", "CompositeExplicitAutograd")):
            name, _, overload = full.removeprefix("aten::").partition(".")
            yield getattr(getattr(torch.ops.aten, name), overload or "default")


def _resize(t: Tensor, size: Sequence[int], memory_format: Any = None) -> Tensor:
    if tuple(size) != tuple(t.shape):
        t.data = fake(host(t).clone().resize_(size))
    return t


def _gru(input_gates, hidden_gates, hx, input_bias=None, hidden_bias=None):  # type: ignore[no-untyped-def]
    i, h = (
        g if b is None else g + b
        for g, b in ((input_gates, input_bias), (hidden_gates, hidden_bias))
    )
    (ir, iz, i_n), (hr, hz, hn) = i.chunk(3, 1), h.chunk(3, 1)
    r, z = (ir + hr).sigmoid(), (iz + hz).sigmoid()
    n = (i_n + r * hn).tanh()
    return n + z * (hx - n), torch.cat([r, z, n, hx, hn], 1)


def _gru_backward(grad_hy, workspace, has_bias):  # type: ignore[no-untyped-def]
    r, z, n, hx, hn = workspace.chunk(5, 1)
    dz, dn = grad_hy * (hx - n) * (1 - z) * z, grad_hy * (1 - z) * (1 - n * n)
    dr = dn * hn * (1 - r) * r
    i, h = torch.cat([dr, dz, dn], 1), torch.cat([dr, dz, dn * r], 1)
    return (i, h, grad_hy * z, *((i.sum(0), h.sum(0)) if has_bias else (None, None)))


def _lstm(input_gates, hidden_gates, cx, input_bias=None, hidden_bias=None):  # type: ignore[no-untyped-def]
    gates = sum(x for x in (input_gates, hidden_gates, input_bias, hidden_bias) if x is not None)
    i, f, g, o = gates.chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    cy = f * cx + i * g
    return o * cy.tanh(), cy, torch.cat([i, f, g, o], 1)


def _lstm_backward(grad_hy, grad_cy, cx, cy, workspace, has_bias):  # type: ignore[no-untyped-def]
    i, f, g, o = workspace.chunk(4, 1)
    t = cy.tanh()
    dh = torch.zeros_like(cx) if grad_hy is None else grad_hy
    dc = dh * o * (1 - t * t) + (0 if grad_cy is None else grad_cy)
    parts = dc * g * i * (1 - i), dc * cx * f * (1 - f), dc * i * (1 - g * g), dh * t * o * (1 - o)
    gates = torch.cat(parts, 1)
    return gates, dc * f, gates.sum(0) if has_bias else None


def _convolution_backward(grad_output, input, weight, **others):  # type: ignore[no-untyped-def]
    sizes = [weight.shape[1] * others["groups"] if others["transposed"] else weight.shape[0]]
    return torch.ops.aten.convolution_backward(grad_output, input, weight, sizes, **others)


INSTEAD = {  # kernels that the CPU has under another name, or not at all
    torch.ops.aten.convolution_overrideable.default: torch.ops.aten.convolution,
    torch.ops.aten.convolution_backward_overrideable.default: _convolution_backward,
    torch.ops.aten._thnn_fused_gru_cell.default: _gru,
    torch.ops.aten._thnn_fused_gru_cell_backward.default: _gru_backward,
    torch.ops.aten._thnn_fused_lstm_cell.default: _lstm,
    torch.ops.aten._thnn_fused_lstm_cell_backward_impl.default: _lstm_backward,
}
tolerant: set[str] = set()


# ------------------------------------------------------------------------------------ storages
def _bytes(storage: torch.UntypedStorage) -> Tensor:
    """The memory of a storage of either device, as a CPU tensor."""
    memory: Any = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    memory.owner = storage
    return (
        torch.frombuffer(memory, dtype=torch.uint8)
        if storage.nbytes()
        else torch.empty(0, dtype=torch.uint8)
    )


def _storage_to(
    self: torch.UntypedStorage, *, device: Any, non_blocking: bool = False
) -> torch.UntypedStorage:
    here, there = (torch.device(d).type == NAME for d in (self.device, device))
    if here == there:
        return self
    _note("d2h" if here else "h2d", "storage")
    copy = _bytes(self).clone()
    return (fake(copy) if there else copy).untyped_storage()


def _storage_clone(self: torch.UntypedStorage) -> torch.UntypedStorage:
    copy = _bytes(self).clone()
    return (fake(copy) if self.device.type == NAME else copy).untyped_storage()


def _set(t: Tensor, source: Any, start: int, size: Any, stride: Any = ()) -> Tensor:
    t.data = fake(_bytes(source).view(t.dtype).as_strided(size, stride, start))
    return t


# ------------------------------------------------------------------------------------ installation
class _Loader(machinery.SourceFileLoader):
    """Reads a module as if the fake device were CUDA, or MPS: what is for that only, is for it."""

    def get_code(self, fullname: str) -> Any:
        kind = (pretended or "").encode()
        text = self.get_data(self.path).replace(b'"' + kind + b'"', b'"fake"')
        return self.source_to_code(text.replace(b"torch." + kind + b".", b"torch.fake."), self.path)


_real_apply: Any = torch.nn.Module._apply


def _apply(self: torch.nn.Module, fn: Any, recurse: bool = True) -> torch.nn.Module:
    """Keep a module's parameters the same objects on another device, as CUDA does."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        moved: torch.nn.Module = _real_apply(self, fn, recurse)
        return moved
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


class _Finder:
    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] not in packages:
            return None
        spec = machinery.PathFinder.find_spec(name, path)
        if spec and isinstance(spec.loader, machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install(*under_test: str, pretend: str | None = "cuda") -> torch.device:
    """Add the device to this process.

    Args:
        under_test: packages whose lines are named in records.
        pretend: what these packages take the fake device for, "cuda" or "mps". The latter has no
            float64.
    """
    global packages, pretended
    packages, pretended = under_test, pretend
    tolerant.update(_tolerant())
    backend_registration._setup_privateuseone_for_python_backend(NAME, Backend())
    kernels = torch.library.Library("_", "IMPL")
    kernels.fallback(_run, "PrivateUse1")
    own = torch.library.Library("aten", "IMPL")
    own.impl("_copy_from", _copy_from, "PrivateUse1")
    for name, kernel in (("as_strided", _as_strided), ("resize_", _resize), ("_to_copy", _to_copy)):
        own.impl(name, kernel, "PrivateUse1")
    own.impl("set_.source_Storage_storage_offset", _set, "PrivateUse1")
    tensor: Any = Tensor
    tensor.pin_memory, tensor.is_pinned = _pin_memory, _is_pinned
    storage: Any = torch.UntypedStorage
    storage.to, storage.clone = _storage_to, _storage_clone
    storage.cpu = lambda self: _storage_to(self, device="cpu")
    for op in [*INSTEAD, *_own_on_cuda()]:
        own.impl(op.name(), partial(_run, op), "PrivateUse1")
    _keep.extend([kernels, own])
    whole: Any = torch
    whole.Generator = _MakesGenerators("Generator", (), {})
    strict: Any = _Strict()
    strict.__enter__()
    torch.autograd.set_multithreading_enabled(False)  # a backward pass has its caller's stack
    torch.nn.Module._apply = _apply  # type: ignore[method-assign]
    if pretend:
        sys.meta_path.insert(0, _Finder)
    return torch.device(NAME, 0)


_keep: list[Any] = []
