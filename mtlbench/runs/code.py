"""What a class does, as a hash of its source: names say nothing of it."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import logging
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mtlbench.runs.identity import Code

OURS = "mtlbench"
"""The package that is published with versions: what its classes declare is what they do."""
_SCRIPTS = ("__main__", "__mp_main__")
"""The main script, and how processes call that of the process that started them."""

logger = logging.getLogger(__name__)


@cache
def code_of(cls: type[Any]) -> Code | None:
    """Which code a task, a method or a wrapper is; None for a built-in one of version 1.

    A class of another package that declares a version is that version. One that declares none is
    its source: its module, and what that imports of the user's own modules (of the same package, or
    below the folder where the package or the script lies, but for what is installed there), without
    comments, docstrings and layout. What its built-in bases declare counts, too.
    """
    version: int | None = cls.info.version
    if _ours(cls.__module__):
        return None if version in (None, 1) else Code(version=version)
    name = "__main__" if cls.__module__ in _SCRIPTS else cls.__module__
    origin = f"{name}:{cls.__qualname__}"
    built_in = {base: vars(base)["info"].version for base in cls.__mro__ if _declares(base)}
    if version is not None and version not in built_in.values():  # not what it has inherited
        return Code(origin=origin, version=version)
    return Code(origin=origin, sha256=_sha256(cls, built_in))


@cache
def published(cls: type[Any]) -> str:
    """Which package and version a class that is not built in is of, if of one, and the SHA-256 of
    its source, whether it declares a version or not; empty for a built-in class."""
    if _ours(cls.__module__):
        return ""
    built_in = {base: vars(base)["info"].version for base in cls.__mro__ if _declares(base)}
    top = cls.__module__.partition(".")[0]
    packages = importlib.metadata.packages_distributions().get(top, [])
    named = [f"{name} {importlib.metadata.version(name)}" for name in dict.fromkeys(packages)]
    return ", ".join([*named, f"SHA-256 {_sha256(cls, built_in)}"])


def _sha256(cls: type[Any], built_in: Mapping[Any, int | None]) -> str:
    """Of a class's source, and of what its built-in bases declare."""
    total = hashlib.sha256()
    for base, declared in built_in.items():
        total.update(f"{base.__module__}:{base.__qualname__} {declared or 1}\n".encode())
    for module, path in sorted(_sources(cls).items()):
        digest = hashlib.sha256(_meaning(path)).hexdigest()
        total.update(f"{module} {digest}\n".encode())
    return total.hexdigest()


def code_of_all(cls: type, nested: Sequence[type]) -> Code | None:
    """Which code a class is that is made of others: its own, and a hash of theirs if they are more
    than built-in ones of version 1."""
    own: Code | None = code_of(cls)
    others: list[Code | None] = [code_of(each) for each in nested]
    if not any(others):
        return own
    text = "\n".join(code.model_dump_json() if code else "" for code in [own, *others])
    known = {} if own is None else own.model_dump(exclude={"sha256"})
    return Code(**known, sha256=hashlib.sha256(text.encode()).hexdigest())


def _ours(module: str) -> bool:
    return module.partition(".")[0] == OURS


def _declares(base: Any) -> bool:
    """Whether a class is a built-in method, wrapper or task."""
    return _ours(base.__module__) and "info" in vars(base)


def _sources(cls: type[Any]) -> dict[str, Path]:
    """Modules that a class is made of, by name."""
    found: dict[str, Path] = {}
    for base in cls.__mro__:
        if _ours(base.__module__) or base.__module__ in found:
            continue
        path = _file(base.__module__)
        own = base.__module__.partition(".")[0] == cls.__module__.partition(".")[0]
        if path is not None and (own or not _installed(path)):
            _follow(base.__module__, path, _root(base.__module__, path), found)
    if not found:
        logger.warning(
            "the source of %s.%s cannot be found: runs do not notice when it changes",
            cls.__module__,
            cls.__qualname__,
        )
    return found


def _follow(name: str, path: Path, root: Path, found: dict[str, Path]) -> None:
    """Add a module, and those that it imports."""
    waiting = [(name, path)]
    top = name.partition(".")[0]
    while waiting:
        name, path = waiting.pop()
        if name in found:
            continue
        found[name] = path
        for imported in _imports(name, path):
            if _ours(imported):
                continue
            target = _beside(root, imported)
            if target is not None and (imported.partition(".")[0] == top or not _installed(target)):
                waiting.append((imported, target))


def _file(module: str) -> Path | None:
    path = getattr(sys.modules.get(module), "__file__", None)
    return Path(path).resolve() if path and Path(path).is_file() else None


def _root(module: str, path: Path) -> Path:
    """The folder that a module's dotted name begins in."""
    levels = module.count(".") + (path.name == "__init__.py")
    return path.parents[levels] if module not in _SCRIPTS else path.parent


def _beside(root: Path, module: str) -> Path | None:
    """The file of a module below ``root``."""
    stem = root.joinpath(*module.split("."))
    return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)


@cache
def _places() -> Sequence[Path]:
    """Where Python and what is installed lie."""
    paths = [sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return [Path(path).resolve() for path in [*paths, site.getusersitepackages()]]


def _installed(path: Path) -> bool:
    known = {"site-packages", "dist-packages"} & set(path.parts)
    return bool(known) or any(path.is_relative_to(place) for place in _places())


def _imports(name: str, path: Path) -> Iterator[str]:
    """Dotted names that may be modules, wherever in the file they are imported; packages that
    they are in come before them."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # not Python
        return
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in [None, *ast.walk(tree)]:
        if node is None:
            names = [name]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join(filter(None, [*above, node.module]))
            names = [".".join(filter(None, [base, alias.name])) for alias in node.names]
        else:
            continue
        for each in names:
            parts = each.split(".")
            yield from (".".join(parts[:n]) for n in range(1, len(parts) + 1))


def _meaning(path: Path) -> bytes:
    """A Python file without what does not decide what it does; other files as they are."""
    source = path.read_bytes()
    try:
        return "\n".join(_words(ast.parse(source))).encode()
    except (SyntaxError, ValueError):
        return source


def _words(node: Any) -> Iterator[str]:
    """A syntax tree as text, the same for all versions of Python that know its nodes.

    ``ast.dump`` writes fields that are empty in some versions and not in others.
    """
    if isinstance(node, list):
        yield "["
        for each in node:
            yield from _words(each)
        yield "]"
    elif isinstance(node, ast.AST):
        yield type(node).__name__
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        for name, value in ast.iter_fields(node):
            if name == "body" and isinstance(node, documented) and _is_text(value[:1]):
                value = value[1:]
            if value not in (None, []) and name != "kind":
                yield name
                yield from _words(value)
    else:
        yield repr(node)


def _is_text(body: list[ast.stmt]) -> bool:
    """Whether a body begins with a docstring."""
    return any(
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for node in body
    )
