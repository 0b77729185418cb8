"""Names to objects: a file in ``tasks/``, ``methods/`` or ``methods/sharpness/`` is registered by
being there.

Packages elsewhere register through the entry-point groups ``mtlbench.tasks``, ``mtlbench.methods``
and ``mtlbench.sharpness``; ``my_pkg.mod:MyMethod`` needs no registration at all.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mtlbench.errors import UsageError, did_you_mean

if TYPE_CHECKING:  # names alone are listed without torch
    from pydantic import BaseModel

    from mtlbench.interfaces import SharpnessWrapper, Task, WeightingMethod

T = TypeVar("T", "WeightingMethod", "SharpnessWrapper", "Task")


@dataclass(frozen=True)
class Spec:
    """A name with options, written ``name`` or ``name:option=value,option=value``."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read the written form.

        Raises:
            UsageError: a part is not of the form ``option=value``.
        """
        name, _, rest = text.partition(":")
        if rest and "=" not in rest.partition(":")[0]:  # my_pkg.mod:MyMethod[:options]
            attribute, _, rest = rest.partition(":")
            name = f"{name}:{attribute}"
        options = {}
        for part in filter(None, rest.split(",")):
            key, equals, value = part.partition("=")
            if not equals:
                raise UsageError(f"{text!r}: {part!r} is not of the form option=value")
            options[key.strip()] = value.strip()
        return cls(name, options)

    @classmethod
    def nested(cls, text: str) -> Spec:
        """Read the form with colons, ``name:option=value:option=value``, which an option may have
        as its value."""
        parts = text.split(":")
        options = [part for part in parts[1:] if "=" in part]
        name = ":".join(part for part in parts if part not in options)
        return cls.parse(f"{name}:{','.join(options)}" if options else name)

    def __str__(self) -> str:
        options = ",".join(f"{k}={v}" for k, v in self.options.items())
        return f"{self.name}:{options}" if options else self.name


class Registry(Generic[T]):
    """The objects of one kind, found lazily.

    Args:
        kind: what they are called in messages.
        package: where the built-in ones live, one module each.
        group: entry-point group of the others.
        base: name of their base class, one of the contracts.
    """

    def __init__(self, kind: str, package: str, group: str, base: str) -> None:
        self.kind, self._package, self._group, self._base_name = kind, package, group, base

    @cached_property
    def _base(self) -> Any:
        return getattr(importlib.import_module("mtlbench.interfaces"), self._base_name)

    @cached_property
    def _plugins(self) -> dict[str, Any]:
        return {entry.name: entry for entry in entry_points(group=self._group)}

    def names(self) -> list[str]:
        """All registered names, sorted; nothing is imported for it but the package."""
        folders = tuple(importlib.import_module(self._package).__path__)
        changed = tuple(os.stat(folder).st_mtime_ns for folder in folders)
        return sorted(_modules(folders, changed) | set(self._plugins))

    @property
    def default(self) -> str:
        """The name that the package declares as its ``DEFAULT``."""
        return str(importlib.import_module(self._package).DEFAULT)

    def module(self, name: str) -> str | None:
        """Where the class of this name is defined, as far as that is known without importing it."""
        path, _, attribute = name.partition(":")
        if attribute:
            return path
        if name in self._plugins:
            return str(self._plugins[name].module)
        return f"{self._package}.{name}" if name in self.names() else None

    def check_name(self, name: str) -> None:
        """Refuse a name that nothing has, as far as that can be seen without importing it.

        Raises:
            UsageError: unknown name or module.
        """
        path, _, attribute = name.partition(":")
        if attribute and path in self.names():
            raise UsageError(f"{name!r}: {attribute!r} is not of the form option=value")
        if _is_dotted(path) and attribute.isidentifier():
            if not _importable(path):
                raise UsageError(
                    f"{self.kind} {name!r} cannot be imported: no module is named {path!r}"
                    f"{_instead(path, attribute)}"
                )
        elif name not in self.names():
            raise UsageError(self._unknown(name))

    def _unknown(self, name: str) -> str:
        path, _, attribute = name.partition(":")
        if attribute:
            hint = _instead(path, attribute)
        elif "," in name:
            hint = f"; several are separated by spaces: {' '.join(name.split(','))}"
        else:
            hint = did_you_mean(name, self.names())
        return f"unknown {self.kind} {name!r}; valid: {', '.join(self.names())}{hint}"

    def get(self, name: str) -> type[T]:
        """The class of this name.

        Raises:
            UsageError: unknown name, or an optional dependency of it is missing.
        """
        self.check_name(name)
        path, _, attribute = name.partition(":")
        try:
            if attribute:
                return self._checked(self._attribute(path, attribute), name)
            if name in self._plugins:
                return self._checked(self._plugins[name].load(), name)
            return self._only_class(f"{self._package}.{name}", name)
        except (ImportError, AttributeError) as error:
            raise UsageError(f"{self.kind} {name!r} cannot be imported: {error}") from error

    def _attribute(self, path: str, attribute: str) -> Any:
        module = importlib.import_module(path)
        if not hasattr(module, attribute):
            classes = [n for n, m in vars(module).items() if isinstance(m, type)]
            raise AttributeError(
                f"module {path!r} has no attribute {attribute!r}{did_you_mean(attribute, classes)}"
            )
        return getattr(module, attribute)

    def _checked(self, found: Any, name: str) -> type[T]:
        if isinstance(found, type) and issubclass(found, self._base):
            return found
        raise UsageError(f"{self.kind} {name!r} is no {self._base.__name__} but {found!r}")

    def _only_class(self, module: str, name: str) -> type[T]:
        members = vars(importlib.import_module(module)).values()
        classes: list[Any] = [
            m for m in members if isinstance(m, type) and issubclass(m, self._base)
        ]
        named = [c for c in classes if c.__module__ == module and c.info.name == name]
        if len(named) != 1:
            raise UsageError(
                f"{module} must define one {self._base.__name__} with info.name == {name!r}, "
                f"it defines {len(named)}"
            )
        found: type[T] = named[0]
        return found

    def resolve(self, spec: Spec) -> tuple[type[T], dict[str, Any]]:
        """The class and all its options with their values, defaults included.

        Raises:
            UsageError: unknown name or option, or a value of the wrong type or range.
        """
        from pydantic import ValidationError

        cls = self.get(spec.name)
        model = declared_options(cls)
        unknown = [name for name in spec.options if name not in model.model_fields]
        if unknown:
            valid = ", ".join(model.model_fields) or "it has none"
            raise UsageError(
                f"{self.kind} {spec.name!r} has no option {unknown[0]!r}; valid: {valid}"
                f"{did_you_mean(unknown[0], model.model_fields)}"
            )
        try:
            options = model(**spec.options).model_dump()
        except ValidationError as error:
            first = error.errors()[0]
            value = f"{first['loc'][0]}={first['input']}"
            raise UsageError(
                f"{self.kind} {spec.name!r}: option {value}: {first['msg']}"
            ) from error
        for name in _nested_in(cls):
            try:
                options[name] = self._shortest(options[name])
            except UsageError as error:
                value = f"{name}={options[name]}"
                raise UsageError(f"{self.kind} {spec.name!r}: option {value}: {error}") from error
        return cls, options

    def _shortest(self, text: str) -> str:
        """A nested name with those of its options that are not at their defaults."""
        spec = Spec.nested(text)
        cls, options = self.resolve(spec)
        usual = defaults(cls)
        texts: list[str] = [
            f"{k}={v}" for k, v in options.items() if k not in usual or v != usual[k]
        ]
        return ":".join([spec.name, *texts])

    def nested(self, cls: type, options: Mapping[str, Any]) -> list[type[T]]:
        """The classes that resolved options name."""
        return [self.get(Spec.nested(options[name]).name) for name in _nested_in(cls)]

    def build(self, spec: str | Spec, *args: Any) -> T:
        """An instance.

        Args:
            spec: name and options.
            args: positional arguments of the constructor, before the options.

        Raises:
            UsageError: see :meth:`resolve`, or the constructor refuses a value.
        """
        spec = Spec.parse(spec) if isinstance(spec, str) else spec
        cls, options = self.resolve(spec)
        try:
            return cls(*args, **options)
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError(f"{self.kind} {spec}: {error}") from error


@cache
def _modules(folders: tuple[str, ...], changed: tuple[int, ...]) -> frozenset[str]:
    """Modules in a package's folders, as of when these were changed last; a sweep asks for each of
    its runs."""
    found = pkgutil.iter_modules(folders)
    return frozenset(m.name for m in found if not m.ispkg and not m.name.startswith("_"))


def _is_dotted(path: str) -> bool:
    return all(part.isidentifier() for part in path.split("."))


def _importable(path: str) -> bool:
    """Whether there is a module of this name; only the packages that it is in are imported."""
    try:
        return importlib.util.find_spec(path) is not None
    except (ImportError, ValueError):  # what it is said to be in is not there, or no package
        return path in sys.modules


def _instead(path: str, attribute: str) -> str:
    """How to write what looks like a file's name."""
    if not (path.endswith(".py") or "/" in path or "\\" in path):
        return ""
    name = path.replace("\\", "/").removesuffix(".py").removeprefix("./").replace("/", ".")
    return f"; a module is named as in Python, seen from the current folder: '{name}:{attribute}'"


def _nested_in(cls: type) -> list[str]:
    """The options that name another of the same kind."""
    from mtlbench.interfaces import Nested

    fields = declared_options(cls).model_fields
    return [name for name, field in fields.items() if Nested() in field.metadata]


def identifying(cls: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that tell runs of a class apart: those that came later only if they are not at
    their defaults."""
    from mtlbench.interfaces import Later

    fields = declared_options(cls).model_fields
    return {
        name: value
        for name, value in options.items()
        if value != fields[name].default or Later() not in fields[name].metadata
    }


def defaults(cls: type) -> dict[str, Any]:
    """The options that have a default, at their defaults."""
    fields = declared_options(cls).model_fields
    return {name: field.default for name, field in fields.items() if not field.is_required()}


@cache
def declared_options(cls: type) -> type[BaseModel]:
    """A model of the keyword-only arguments, those behind ``**common`` included."""
    from pydantic import ConfigDict, create_model

    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        init = vars(base)["__init__"]
        parameters = inspect.signature(init).parameters.values()
        hints = typing.get_type_hints(init, include_extras=True)
        for p in parameters:
            if p.kind is p.KEYWORD_ONLY:
                default = ... if p.default is p.empty else p.default
                found.setdefault(p.name, (hints[p.name], default))
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    config = ConfigDict(protected_namespaces=(), allow_inf_nan=False)
    model: type[BaseModel] = create_model("Options", __config__=config, **found)
    return model


METHODS: Registry[WeightingMethod] = Registry(
    "method", "mtlbench.methods", "mtlbench.methods", "WeightingMethod"
)
SHARPNESS: Registry[SharpnessWrapper] = Registry(
    "sharpness wrapper", "mtlbench.methods.sharpness", "mtlbench.sharpness", "SharpnessWrapper"
)
TASKS: Registry[Task] = Registry("task", "mtlbench.tasks", "mtlbench.tasks", "Task")


def baseline() -> str:
    """The method that run times are compared with."""
    return next(name for name in METHODS.names() if METHODS.get(name).info.role == "baseline")


def reference() -> str | None:
    """The method that delta-m is measured against."""
    roles = ((name, METHODS.get(name).info.role) for name in METHODS.names())
    return next((name for name, role in roles if role == "reference"), None)
