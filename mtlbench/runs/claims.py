"""Who makes which run: a claim is a file that is there for as long as somebody does.

Nothing here needs locks of the operating system: a file is made by one process only (``O_EXCL``),
also on network file systems. A claim lapses when its holder is gone. On the same machine that is
seen from its process; from elsewhere, from the time of its last beat, both times by the clock of
the file system.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import tempfile
import threading
import uuid
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import TracebackType

from mtlbench.files import named_if_full

BEAT = 10.0
"""Seconds between two signs of life."""
LIMIT = 90.0
"""Seconds without one after which a holder that cannot be seen counts as gone."""


@dataclass(frozen=True)
class Holder:
    """A process that makes a run.

    Args:
        host: name of its machine.
        pid: its number there.
        system: what the number counts in: this start of this machine, and the container.
        born: when the process started, in the system's own words.
        token: tells claims of a process apart.
    """

    host: str = "unknown host"
    pid: int = 0
    system: str = ""
    born: str = ""
    token: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        pid = os.getpid()
        born = _born(pid) if _system() else None
        return cls(socket.gethostname(), pid, _system(), born or "", secrets.token_hex(4))

    @property
    def lives(self) -> bool | None:
        """Whether the process is there; None if that cannot be seen from this one."""
        if not self.system or self.system != _system():
            return None
        return _born(self.pid) == self.born


@cache
def _system() -> str:
    """What process numbers count in; empty where processes of others cannot be asked for."""
    if sys.platform == "win32":  # os.kill(pid, 0) ends a process there
        return ""
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{started} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{sys.platform} {uuid.getnode()}"


def _born(pid: int) -> str | None:
    """When a process started; empty where that is not told, None if there is no such process."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else rest[18]
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


class Claim:
    """A run that is this process's own until :meth:`release`; made by :func:`acquire`."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path, self.holder = path, holder
        self._over = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            try:
                os.utime(self.path)
            except FileNotFoundError:
                return
            except OSError:  # a file server may be back by the next beat
                continue

    def release(self) -> None:
        """Let others make the run."""
        self._over.set()
        held = _read(self.path)
        if held is not None and held[0] == self.holder:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def acquire(path: Path) -> Claim | None:
    """Claim a run, unless somebody else holds it.

    Args:
        path: the claim's file, the same for everybody who might make the run.

    Raises:
        UsageError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        claim = _make(path)
        if claim is not None:
            return claim
        held = _read(path)
        if held is not None and not _lapsed(path, *held):
            return None
        if held is not None and not _broken(path, held):
            return None
    return None


def holder(path: Path) -> Holder | None:
    """Who holds a claim; None if nobody does."""
    held = _read(path)
    return None if held is None or _lapsed(path, *held) else held[0]


def _make(path: Path) -> Claim | None:
    """A new claim, if there is none."""
    me = Holder.here()
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return None
    try:
        with named_if_full(path.parent), os.fdopen(descriptor, "w") as file:
            json.dump(asdict(me), file)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Claim(path, me)


def _read(path: Path) -> tuple[Holder, float] | None:
    """Who claimed, and the last beat. Who is unknown while the file is being written."""
    try:
        with path.open() as file:
            beat = os.fstat(file.fileno()).st_mtime
            text = file.read()
    except FileNotFoundError:
        return None
    try:
        return Holder(**json.loads(text)), beat
    except (ValueError, TypeError):
        return Holder(), beat


def _lapsed(path: Path, holder: Holder, beat: float) -> bool:
    if holder.lives is not None:
        return not holder.lives
    return _now(path.parent) - beat > LIMIT


def _now(folder: Path) -> float:
    """The time by the clock that files in this folder are dated by."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def _broken(path: Path, held: tuple[Holder, float]) -> bool:
    """Remove a claim that has lapsed; False if somebody else is about to.

    Whoever does holds a claim on that: two that saw the same dead holder would otherwise remove
    each other's new claims.
    """
    right = acquire(path.with_name(f"{path.name}.{held[0].token or 'unknown'}"))
    if right is None:
        return False
    with right:
        if _read(path) == held:
            path.unlink(missing_ok=True)
    return True
