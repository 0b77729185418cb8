"""The README's Python runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def test_the_readme_shows_the_library_in_use() -> None:
    found = blocks()
    assert found
    assert any("Stepper(" in block for block in found)


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(blocks(), start=1):
        code = compile(block, f"{README.name}, Python block {number}", "exec")
        exec(code, {"__name__": "__main__"})
