"""All that tasks, methods and wrappers declare, for ``mtlbench list NAME`` and ``--long``."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from mtlbench.boards.symbols import DOWN, UP
from mtlbench.registry import METHODS, SHARPNESS, TASKS, declared_options

if TYPE_CHECKING:
    from mtlbench.interfaces import Passes, Protocol, SharpnessWrapper, Task, WeightingMethod

SIZES = (2, 10)
"""Numbers of tasks that costs are shown for."""


def details(kind: str, name: str) -> Table:
    """What the thing of this name declares.

    Raises:
        UsageError: there is none, or it cannot be imported.
    """
    rows = {"tasks": _task, "methods": _method, "sharpness": _wrapper}[kind](name)
    table = Table(
        title=escape(f"{name}: {rows.pop('title')}"),
        title_justify="left",
        title_style="bold",
        show_header=False,
        box=box.SIMPLE_HEAD,
    )
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for row in rows.items():
        table.add_row(*map(escape, row))
    return table


def summary(cls: type) -> str:
    """What the first line of a module says that its class is."""
    module = sys.modules[cls.__module__].__doc__ or ""
    return module.partition("\n")[0].partition(": ")[2]


def _task(name: str) -> dict[str, str]:
    cls: type[Task] = TASKS.get(name)
    info = cls.info
    metrics = [
        f"{m.name} {UP if m.higher_is_better else DOWN} ({m.unit or 'no unit'})"
        for m in info.metrics
    ]
    protocols = [
        f"{p.name} v{p.version}: {p.arch}, {p.epochs} epochs, batches of {p.batch_size}, "
        f"{p.optimizer} {p.lr:g}{_further(p)}"
        for p in info.protocols
    ]
    return {
        "title": info.title,
        f"{len(info.objectives)} objectives": ", ".join(info.objectives),
        "metrics": ", ".join(metrics),
        "protocols": "\n".join(protocols),
        "architectures": ", ".join(info.architectures) + " (sizes: mtlbench list architectures)",
        "options": _options(cls),
        "data": info.instead,
        "the real data": info.source,
        "licence": info.licence,
        "papers": "\n".join(info.references),
    }


def _further(protocol: Protocol) -> str:
    """What single tasks have instead, and where weights come from."""
    alone = ", ".join(f"{name} {value}" for name, value in protocol.alone.items())
    weights = f"; begins with {protocol.weights}" if protocol.weights else ""
    return (f"; single tasks: {alone}" if alone else "") + weights


def _method(name: str) -> dict[str, str]:
    cls: type[WeightingMethod] = METHODS.get(name)
    info = cls.info
    costs = {n: info.passes(n) + info.looks(n) for n in SIZES}
    return {
        "title": f"{info.title}, {info.year}" if info.year else info.title,
        "what it is": summary(cls),
        "paper": _paper(info.arxiv),
        "options": _options(cls),
        "passes of a step": _costs(costs),
        "further batches": f"{info.further.count}, {info.further.where_from}"
        if info.further
        else "looks at none",
        "K equal tasks": {"sum": "K g", "mean": "g", "own": "neither g nor K g"}[info.scale],
        "claims": ", ".join(info.claims) or "nothing",
        "role": info.role,
    }


def _wrapper(name: str) -> dict[str, str]:
    cls: type[SharpnessWrapper] = SHARPNESS.get(name)
    info, wrapper, plain = cls.info, SHARPNESS.build(name), METHODS.get(_baseline()).info
    costs = {n: wrapper.passes(n, plain.passes(n)) for n in SIZES}
    bound = "at most " if wrapper.at_most else ""
    return {
        "title": f"{info.title}, {info.year}" if info.year else info.title,
        "what it is": summary(cls),
        "paper": _paper(info.arxiv),
        "options": _options(cls),
        f"passes with {plain.title}": bound + _costs(costs),
        "expects": ", ".join(wrapper.expects) or "nothing of the method",
    }


def _baseline() -> str:
    from mtlbench.registry import baseline

    return baseline()


def _paper(arxiv: str) -> str:
    return f"https://arxiv.org/abs/{arxiv}" if arxiv else "no paper"


def _costs(passes: Mapping[int, Passes]) -> str:
    return ", ".join(
        f"{p.forward:g} forward and {p.backward:g} backward for {n} tasks"
        for n, p in passes.items()
    )


def _options(cls: type) -> str:
    """A line an option: name, default, what is valid, and what the docstring says of it."""
    properties: dict[str, Any] = declared_options(cls).model_json_schema().get("properties", {})
    said = _documented(cls)
    lines = []
    for name, schema in properties.items():
        default = f"={_written(schema['default'])}" if "default" in schema else ""
        meaning = f": {said[name]}" if name in said else ""
        lines.append(f"{name}{default} ({valid(schema)}){meaning}")
    return "\n".join(lines) or "no options"


def _written(value: Any) -> str:
    """As on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


_BOUNDS = {
    "exclusiveMinimum": ">",
    "minimum": ">=",
    "exclusiveMaximum": "<",
    "maximum": "<=",
}


def valid(schema: Mapping[str, Any]) -> str:
    """Valid values, of a JSON schema: ``a or b``, ``number > 0``."""
    if "anyOf" in schema:
        return " or ".join(map(valid, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " or ".join(map(_written, schema.get("enum", [schema.get("const")])))
    if schema.get("type") == "boolean":
        return "true or false"
    bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema]
    return f"{schema.get('type', 'any')} {' and '.join(bounds)}".strip()


def _documented(cls: type) -> dict[str, str]:
    """What the docstrings of a class and of those that it comes from say of each argument."""
    found: dict[str, str] = {}
    for base in cls.__mro__:
        arguments = (inspect.cleandoc(vars(base).get("__doc__") or "")).partition("\nArgs:\n")[2]
        block = re.split(r"\n\S", arguments)[0]
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", block, re.MULTILINE):
            plain = re.sub(r":\w+:`([^`]*)`", r"\1", text).replace("``", "")
            found.setdefault(name, " ".join(plain.split()))
    return found
