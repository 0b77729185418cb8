"""Pictures as SVG that is the same bytes every time, on every machine with the same matplotlib."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import ROUND_HALF_UP, Decimal
from html import escape
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG = re.compile(r"<svg.*?</svg>", re.DOTALL)
_VERSION = re.compile(r"matplotlib [\w.]+")
_TAG = re.compile(r"<\w[^>]*>")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_PATH = re.compile(r'(?<= d=")[^"]+')
_COMMAND = re.compile(r"\s*([A-Za-z])\s*")
_ALONE = re.compile(r"<g>(<(?:path|use)\b[^>]*/>)</g>")
_ID = re.compile(r' id="([^"]+)"')
_REFERENCE = re.compile(r'(url\(#|href="#)([^")]+)')
_HUNDREDTH = Decimal("0.01")


def svg(figure: Figure, salt: str, tips: Mapping[str, str] | None = None) -> str:
    """A figure as the element that a page has in it, letters as letters.

    Args:
        figure: to draw.
        salt: what tells the ids of this picture from those of all others on a page.
        tips: what a pointer over a mark shows, by the mark's gid.
    """
    from matplotlib import rc_context

    file = io.StringIO()
    source = files("mtlbench").joinpath("page.mplstyle")
    with as_file(source) as style, rc_context({"svg.hashsalt": salt}, fname=style):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :].rstrip()
    drawn = re.sub(r"<metadata>.*?</metadata>\s*", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"font: ([\d.]+px) '[^;\"]*", r"font: \1 sans-serif", drawn)
    drawn = re.sub(r"font-family: '[^;\"]*", "font-family: sans-serif", drawn)
    for gid, tip in (tips or {}).items():
        drawn = drawn.replace(f' id="{gid}">', f"><title>{escape(tip)}</title>", 1)
    drawn = _TAG.sub(lambda tag: _NUMBER.sub(_rounded, tag[0]), drawn)
    return _shortened(_renamed(drawn, salt))


def _renamed(drawn: str, salt: str) -> str:
    """With the ids that are referred to, counted: matplotlib's are hashes of unrounded numbers."""
    used = list(dict.fromkeys(name for _, name in _REFERENCE.findall(drawn)))
    names = {name: f"{salt}-{n}" for n, name in enumerate(used)}
    drawn = _REFERENCE.sub(lambda found: found[1] + names[found[2]], drawn)
    return _ID.sub(lambda found: f' id="{names[found[1]]}"' if found[1] in names else "", drawn)


def _shortened(drawn: str) -> str:
    """Without what says nothing: blanks between tags and in paths, groups of one shape."""
    drawn = re.sub(r">\n\s*<", "><", drawn)
    drawn = _PATH.sub(lambda path: _COMMAND.sub(r"\1", path[0]), drawn)
    return _ALONE.sub(r"\1", drawn)


def _rounded(found: re.Match[str]) -> str:
    """Two decimals. The last bits of a coordinate are the processor's; rounding the six decimals
    that matplotlib writes, halves upwards, leaves none of them."""
    number = Decimal(found[0]).quantize(_HUNDREDTH, ROUND_HALF_UP) + 0
    return f"{number:f}".rstrip("0").rstrip(".")


def made_by() -> str:
    """What decides the bytes of a picture, beside the numbers."""
    from matplotlib import __version__

    return f"matplotlib {__version__}"


def digest(figure: Figure) -> str:
    """Of the numbers and words of a figure, which no version of matplotlib changes."""
    return hashlib.sha256("\n".join(_contents(figure)).encode()).hexdigest()[:16]


def _contents(figure: Figure) -> Iterator[str]:
    """Words, lines, bars and intervals, axes by axes."""
    for axes in figure.axes:
        yield from (axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel())
        for line in axes.lines:
            yield from map(_words, np.asarray(line.get_xydata(), dtype=float))
        for patch in axes.patches:
            corners = patch.get_patch_transform().transform(
                np.asarray(patch.get_path().vertices, dtype=float)
            )
            yield _words([*corners.min(axis=0), *corners.max(axis=0)])
        for collection in axes.collections:
            for path in collection.get_paths():
                yield _words(np.asarray(path.vertices, dtype=float).ravel())
    for legend in figure.legends:
        yield from (text.get_text() for text in legend.get_texts())


def _words(numbers: Iterable[float]) -> str:
    return " ".join(f"{number:.5g}" for number in numbers)


def without_pictures(text: str) -> str:
    """A page or a picture without what another version of matplotlib may draw otherwise: the rest
    has the digests of what is drawn."""
    return _VERSION.sub("matplotlib", _SVG.sub("<svg>", text))


def version_of(text: str) -> str:
    """What made a page or a picture; empty if it does not say."""
    found = _VERSION.search(text)
    return found[0] if found else ""
