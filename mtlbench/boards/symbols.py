"""Text for terminals whose encoding lacks arrows and Greek letters."""

from __future__ import annotations

import codecs

DASH = "—"
TIMES = "\N{MULTIPLICATION SIGN}"
UP, DOWN = "↑", "↓"
DELTA_M = "Δm%"

HANDLER = "mtlbench.spelt"
"""For ``errors=`` of a stream: what its encoding lacks is spelt in ASCII instead of raising."""
_ASCII = {
    DASH: "-",
    TIMES: "x",
    UP: "^",
    DOWN: "v",
    "Δ": "d",
    "±": "+-",
    "·": "|",
    "…": "...",
    "→": "->",
    "≥": ">=",
    "≤": "<=",
    "━": "-",
    "─": "-",
    "│": "|",
    "╭": "+",
    "╮": "+",
    "╰": "+",
    "╯": "+",
}


def spelt(text: str, encoding: str) -> str:
    """The text as far as the encoding has it; the other characters in ASCII, those that have no
    likeness as ``\\xfc``."""
    return text.encode(encoding, HANDLER).decode(encoding)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    escaped = (_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking)
    return "".join(escaped), error.end


codecs.register_error(HANDLER, _replace)
