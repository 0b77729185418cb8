"""How a class declares its options, and what travels with a module's state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict, validate_call
from torch import Tensor, nn
from torch.optim import Optimizer


class Checked:
    """Constructors check their arguments against their annotations (``PositiveFloat``, ...)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            check = validate_call(
                config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
            )
            cls.__init__ = check(cls.__init__)  # type: ignore[method-assign]


@dataclass(frozen=True)
class Later:
    """Marks an option that came when there were runs already, as ``Annotated[bool, Later()]``.

    At its default, which has to be what was done before, it is no part of a run's identity: runs
    without it and with it are the same.
    """


@dataclass(frozen=True)
class Nested:
    """Marks an option that names another method, for a method that is made of one, as
    ``Annotated[str, Nested()]``.

    It is written ``name:option=value:option=value``, with colons, as commas part the options that
    it is one of. What the named one is by its version or its source is part of a run's identity.
    """


def _moved(fn: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """A tensor where ``fn`` puts it, in single precision on devices that have no double one."""
    try:
        return fn(t)
    except TypeError:
        if t.dtype != torch.float64:
            raise
        return fn(t.float())


class Stateful(Checked, nn.Module):
    """A module whose optimizers travel with its ``state_dict``."""

    on_host: ClassVar[tuple[str, ...]] = ()
    """Buffers that stay on the CPU: what decides what is done next (a count of steps), which the
    host would wait for on a device, and what is computed there."""

    def _apply(self, fn: Any, recurse: bool = True) -> Stateful:
        every, inside = self._buffers, vars(self)
        inside["_buffers"] = {n: b for n, b in every.items() if n not in self.on_host}
        try:
            apply: Callable[..., Any] = super()._apply
            apply(partial(_moved, fn), recurse)
        finally:
            inside["_buffers"] = every | self._buffers
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """States of the optimizers that a method holds as attributes."""
        return {k: v.state_dict() for k, v in vars(self).items() if isinstance(v, Optimizer)}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`get_extra_state`."""
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """A buffer that is empty until the first step takes the shape of what is loaded."""
        for name, buffer in self.named_buffers(recurse=False):
            if not buffer.numel() and prefix + name in state_dict:
                saved = state_dict[prefix + name]
                setattr(self, name, buffer.new_empty(saved.shape, dtype=saved.dtype))
        super()._load_from_state_dict(state_dict, prefix, *rest)
