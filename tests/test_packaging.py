"""What is installed is what is in the checkout, and the library names no task and no method."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import tomllib
from pathlib import Path
from typing import Any

import pytest

import mtlbench
from mtlbench.registry import METHODS, SHARPNESS, TASKS

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]


def test_every_package_folder_is_installed() -> None:
    packages = {
        ".".join([package, *init.parent.relative_to(ROOT / folder).parts])
        for package, folder in FOLDERS.items()
        for init in (ROOT / folder).rglob("__init__.py")  # which follows no links
    }
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(packages)


@pytest.mark.parametrize("name", ["tasks", "methods"])
def test_the_links_lead_to_the_folders(name: str) -> None:
    link = ROOT / "mtlbench" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..", name)


@pytest.mark.parametrize("name", ["tasks", "methods", "methods.sharpness"])
def test_the_bare_names_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    with pytest.raises(ImportError, match=r"import this package as 'mtlbench\.(tasks|methods)'"):
        importlib.import_module(name)


def test_the_version_is_one() -> None:
    declared = PROJECT["project"]["version"]
    assert mtlbench.__version__ == declared
    assert importlib.metadata.version("mtlbench") == declared


def test_what_is_exported_is_there() -> None:
    assert all(hasattr(mtlbench, name) for name in mtlbench.__all__)


@pytest.mark.parametrize("path", sorted((ROOT / "mtlbench").glob("*.py")), ids=lambda p: p.name)
def test_the_library_names_no_task_and_no_method(path: Path) -> None:
    names = {name for registry in (TASKS, METHODS, SHARPNESS) for name in registry.names()}
    literals = {
        node.value.partition(":")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert literals & names == set()


def test_the_library_does_not_import_tasks_or_methods() -> None:
    """Arrows lead from tasks and methods to the library, never back."""
    for path in (ROOT / "mtlbench").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            backwards = [m for m in modules if m.startswith(("mtlbench.tasks", "mtlbench.methods"))]
            assert backwards == [], path
