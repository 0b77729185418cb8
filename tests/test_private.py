"""Torch's private parts: in one place, and missed when they are gone."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mtlbench import torch_private
from mtlbench.torch_private import set_versions, version_setter
from tests.test_rooms import LIBRARY


def of_many(tensors: object, versions: Any) -> None:
    if not isinstance(tensors, tuple):
        raise TypeError
    set_versions(tensors, versions)


def of_one(tensor: object, version: Any) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError
    set_versions([tensor], [version])


@pytest.mark.parametrize("form", [of_many, of_one])
def test_version_counters_are_set_as_torch_can(form: object) -> None:
    tensors = [torch.zeros(2), torch.zeros(3, requires_grad=True)]
    version_setter(form)(tensors, [5, 7])
    assert [tensor._version for tensor in tensors] == [5, 7]


def nothing(*arguments: object) -> None:
    pass


def refused(*arguments: object) -> None:
    raise TypeError


@pytest.mark.parametrize("form", [nothing, refused])
def test_a_torch_that_cannot_is_named(form: object) -> None:
    with pytest.raises(ImportError, match=f"torch {torch.__version__.partition('+')[0]}"):
        version_setter(form)


def test_a_torch_that_lacks_a_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.delattr(torch._C._autograd, "_unsafe_set_version_counter")
        with pytest.raises(ImportError, match=r"torch 2\..* lacks .*_unsafe_set_version_counter"):
            importlib.reload(torch_private)
    importlib.reload(torch_private)


def private_parts(path: Path) -> Iterator[str]:
    """What a file takes of torch that begins with an underscore; the public optimizers stand on
    ``torch._foreach_*``, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch."):
            names = [node.attr]
        else:
            continue
        yield from (n for n in names if n.startswith("_") and not n.startswith(("__", "_foreach_")))


@pytest.mark.parametrize("module", [m for m in LIBRARY if m != "torch_private"])
def test_private_parts_have_one_home(module: str) -> None:
    assert list(private_parts(LIBRARY[module])) == []
