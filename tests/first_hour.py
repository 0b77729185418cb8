"""The first hour of somebody new: every command of README and CONTRIBUTING on a fresh clone.

``python -m tests.first_hour`` clones what is committed into a temporary folder and runs the pages
there, in the current environment and in 80 columns, with shorter trainings; ``--full`` runs them as
they stand (an hour). It ends with 1 if a command did.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md")

NOT_HERE = {
    "pip install": "the environment is the current one",
    "python3.11 -m venv": "the environment is the current one",
    ". .venv": "the environment is the current one",
    "git clone": "done already",
    "cd mtlbench": "done already",
    "python -m tests.first_hour": "this is it",
    "python -m pytest": "runs by itself, for minutes",
    "bash .ci/run": "runs by itself, for many minutes",
    "mypy": "runs by itself, for minutes",
    "mtlbench submit": "shorter runs are none to submit; tests/test_contributing.py does",
    "mtlbench leaderboard leaderboards/submissions/": "as submit",
    "mtlbench verify": "as submit",
    "mtlbench data verify TASK": "a pattern; the README's own is run",
    "mtlbench data verify nyuv2": "the real data are not here",
    "mtlbench run nyuv2 --protocol paper": "the real data are not here",
    "mtlbench sweep leaderboards/specs/published": "the real data are not here",
    "mtlbench leaderboard paper": "the real data are not here",
}
"""Beginnings of commands that are left out, and why."""

SHORTER = {
    "mtlbench quickstart": "mtlbench quickstart --epochs 1",
    "--seed 0 1 2": "--seed 0 --epochs 1",
    "--seed '{0..19}'": "--seed 0 --epochs 1",
    "stl ls fairgrad:alpha=2 cagrad": "stl ls fairgrad:alpha=2",
    "make cityscapes": "make cityscapes --n-train 4 --n-val 4 --size 32x64",
    "bench step": "bench step --case 'multimnist*' --rounds 1 --seconds 0",
    "bench engine": "bench engine --rounds 1 --seconds 0",
}
"""What stands on a page, and what is run for it."""

KEPT = "mtlbench run cityscapes --method ls --epochs 1 --keep-model --out kept"
"""Makes the record that the README's ``show`` calls RECORD.json."""


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each block of code."""
    return re.findall(r"^```(bash|python)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def commands(block: str) -> Iterator[str]:
    """One a line, and one between ``&&``s."""
    for line in block.splitlines():
        for part in shlex.join(shlex.split(line, comments=True)).split("'&&'"):
            yield part.strip()


def place(template: str) -> str | None:
    """The file of a block that is one; None for a script."""
    name = re.search(r'name="(\w+)"', template)
    if name is None:
        return None
    if "(SharpnessWrapper)" in template:
        return f"methods/sharpness/{name[1]}.py"
    if "(WeightingMethod)" in template:
        return f"methods/{name[1]}.py"
    return f"{name[1]}.py" if "read_csv" in template else f"tasks/{name[1]}.py"


def environment(clone: Path) -> dict[str, str]:
    """Finds this Python, the clone's library, and ``mtlbench`` of both."""
    script = clone.parent / "bin" / "mtlbench"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mtlbench "$@"\n')
    script.chmod(0o755)
    path = os.pathsep.join([str(script.parent), str(Path(sys.executable).parent)])
    return os.environ | {
        "PATH": f"{path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(clone),
        "MTLBENCH_CACHE": str(clone.parent / "cache"),
        "COLUMNS": "80",
    }


class Visitor:
    """Follows pages in a clone and reports what happens."""

    def __init__(self, clone: Path, full: bool) -> None:
        self.clone, self.full, self.failed = clone, full, 0
        self._environment = environment(clone)

    def follow(self, page: str) -> None:
        for language, block in blocks((self.clone / page).read_text()):
            if language == "bash":
                for command in commands(block):
                    self._command(command)
            elif "def test_" in block:
                print(f"left out   a test for a package of one's own: {block.split()[1]}")
            else:
                self._python(block)

    def _python(self, block: str) -> None:
        file = place(block)
        (self.clone / (file or "script.py")).write_text(block)
        if file is None:
            self._run(f"{sys.executable} script.py", "a script that prints")
        elif "read_csv" in block:
            rows = ["price,age,rooms,floor"]
            rows += [f"{i % 7},{i % 5},{i % 3},{i % 11}" for i in range(100)]
            (self.clone / "folder").mkdir()
            (self.clone / "folder" / "table.csv").write_text("\n".join(rows) + "\n")

    def _command(self, command: str) -> None:
        for start, why in NOT_HERE.items():
            if command.startswith(start):
                print(f"left out   {command}: {why}", flush=True)
                return
        if "RECORD.json" in command:
            self._run(KEPT, KEPT)
            (record,) = (self.clone / "kept").glob("*.json")
            command = command.replace("RECORD.json", str(record.relative_to(self.clone)))
        run = command
        for text, instead in ({} if self.full else SHORTER).items():
            run = run.replace(text, instead)
        self._run(run, command)

    def _run(self, run: str, shown: str) -> None:
        start = time.monotonic()
        ended = subprocess.run(
            run,
            shell=True,
            cwd=self.clone,
            env=self._environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        bad = ended.returncode != 0 or "Traceback" in ended.stdout or not ended.stdout.strip()
        self.failed += bad
        print(
            f"{'FAILED' if bad else 'ok':6} {time.monotonic() - start:5.0f} s {shown}", flush=True
        )
        if bad:
            print(f"ended with {ended.returncode}\n{ended.stdout[-2000:]}", flush=True)


def main(words: list[str]) -> int:
    """0 if every command ended well and said something; 1 otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "mtlbench"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        visitor = Visitor(clone, full="--full" in words)
        for page in PAGES:
            print(f"--- {page}", flush=True)
            visitor.follow(page)
        return int(visitor.failed > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
