"""What is installed is what is in the checkout."""

from __future__ import annotations

import importlib
import importlib.metadata
import tomllib
from pathlib import Path
from typing import Any

import pytest

import mtlbench

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


@pytest.mark.parametrize("package", sorted(FOLDERS.keys() - {"mtlbench"}))
def test_the_links_lead_to_the_folders(package: str) -> None:
    link = ROOT.joinpath(*package.split("."))
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == ROOT / FOLDERS[package]


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
