"""The rooms of the library: arrows lead downwards and in no circle; no task, no method is named."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from mtlbench.registry import METHODS, SHARPNESS, TASKS

ROOT = Path(__file__).parent.parent
LINKS = ("tasks", "methods")
FLOORS = (
    ("errors",),
    ("files", "hardware", "processes", "torch_private"),
    ("svg",),
    ("drawing",),
    ("interfaces",),
    ("registry", "data"),
    ("engine",),
    ("training",),
    ("runs",),
    ("bench", "boards", "diagnose", "testing"),
    ("cli",),
    ("__init__", "__main__"),
)
"""Rooms and files from the ground up; those of one floor do not know each other."""

MAY_IMPORT = {
    "tasks": {"errors", "files", "hardware", "interfaces", "data"},
    "methods": {"errors", "interfaces", "engine.gramian", "engine.flat", "registry"},
}
"""Methods know the registry as one may be made of another, whose name is an option."""
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules(folder: str) -> Iterator[tuple[str, Path]]:
    """Dotted names below the package, with their files."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT / folder).with_suffix("").parts
        if parts[0] not in LINKS or folder != "mtlbench":
            yield (
                ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts),
                path,
            )


LIBRARY = dict(modules("mtlbench"))


def imported(path: Path) -> Iterator[str]:
    """What a file imports of the package, wherever in the file and for whatever reason."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            assert node.level == 0, f"{path}: relative import"
        else:
            continue
        yield from (n.removeprefix("mtlbench.") for n in names if n.startswith("mtlbench."))


def owner(name: str) -> str:
    """The module of a dotted name."""
    while name not in LIBRARY:
        name, dot, _ = name.rpartition(".")
        assert dot, f"mtlbench has no {name}"
    return name


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in LIBRARY} == set(FLOOR)


@pytest.mark.parametrize("module", [m for m in LIBRARY if m != "__init__"])
def test_arrows_lead_downwards(module: str) -> None:
    for name in imported(LIBRARY[module]):
        assert room(name) not in LINKS, f"{module} imports {name}"
        below = room(owner(name))
        same = below == room(module)
        assert same or FLOOR[below] < FLOOR[room(module)], f"{module} imports {name}"


def test_nothing_goes_in_circles() -> None:
    """Nor within a room; a package's face does not count, as it only hands names on."""
    faces = {m for m, path in LIBRARY.items() if path.name == "__init__.py"}
    graph = {
        module: {owner(name) for name in imported(path)} - faces - {module}
        for module, path in LIBRARY.items()
        if module not in faces
    }
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_what_is_plugged_in_knows_the_contracts_alone(folder: str) -> None:
    allowed = MAY_IMPORT[folder]
    for module, path in modules(folder):
        for name in imported(path):
            mine = room(name) == folder
            parts = name.split(".")
            known = {parts[0], ".".join(parts[:2])} & allowed
            assert mine or known, f"{folder}.{module} imports {name}"


@pytest.mark.parametrize("module", sorted(LIBRARY))
def test_the_library_names_no_task_and_no_method(module: str) -> None:
    names = {name for registry in (TASKS, METHODS, SHARPNESS) for name in registry.names()}
    literals = {
        node.value.partition(":")[0]
        for node in ast.walk(ast.parse(LIBRARY[module].read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert literals & names == set()
