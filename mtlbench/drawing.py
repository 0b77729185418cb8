"""One look for all pictures: SVG in the colours of the page that it is part of, the same bytes
every time."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

from mtlbench.files import write_atomically
from mtlbench.svg import digest, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0b5fa8", "#c46a00", "#008a6a", "#d06aa8", "#7d2a12", "#2f9ad6", "#3b3b3b")
"""Those of the light page, which the colour-blind can tell apart; page.css has those of the dark
one, and what is written is a variable of its."""
_VARIABLES = {colour: f"var(--c{n})" for n, colour in enumerate(COLOURS)}
MARKERS = "osD^vP*Xph<>"
LINES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
INK = "#010203"
"""What the page's text colour replaces in pictures."""
_PANELS = 4
"""Of small multiples, side by side."""
_ALONE = (
    "<style>:root { color: #1b1b1f; background: #fff; } @media (prefers-color-scheme: dark) "
    "{ :root { color: #e7e8ea; background: #15171a; } }</style>"
)
"""The page's two themes, for a picture that is a file of its own."""


def figure_of(
    width: float, height: float, rows: int = 1, columns: int = 1, *, share: bool = True
) -> tuple[Figure, list[Any]]:
    """A figure, and its axes in one dimension.

    Args:
        width: in inches.
        height: in inches.
        rows: of axes.
        columns: of axes.
        share: whether they have one scale, as small multiples do.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    grid = figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False)
    figure.patch.set_alpha(0)
    for axes in grid.flat:
        axes.patch.set_alpha(0)
        axes.tick_params(which="both", colors=INK)
        for spine in axes.spines.values():
            spine.set_color(INK)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
    return figure, list(grid.flat)


def multiples(n: int, height: float) -> tuple[Figure, list[Any]]:
    """Small multiples, each so high."""
    rows = math.ceil(n / _PANELS)
    figure, every = figure_of(12, 0.8 + height * rows, rows, min(n, _PANELS))
    for spare in every[n:]:
        spare.set_visible(False)
    return figure, every[:n]


def title(axes: Any, text: str, width: int = 30) -> None:
    """Name axes above them, in lines of so many letters."""
    axes.set_title(fill(text, width), fontsize=9, color=INK, loc="left")


def legend(
    place: Any, entries: Sequence[Any], where: str = "outside right upper", columns: int = 1
) -> None:
    """What colours and lines stand for, beside a figure or within axes."""
    drawn = place.legend(handles=entries, loc=where, ncols=columns, frameon=False)
    for text in drawn.get_texts():
        text.set_color(INK)


def colour_bar(figure: Figure, image: Any, axes: Sequence[Any], label: str) -> None:
    """What the colours of an image stand for."""
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.set_label(label, color=INK, fontsize=9)
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.outline.set_edgecolor(INK)


def inline(
    figure: Figure,
    label: str,
    caption: str,
    salt: str,
    *,
    wide: bool = False,
    tips: Mapping[str, str] | None = None,
) -> str:
    """A figure as a part of the page, in its colours.

    Args:
        figure: to draw.
        label: what a reader is told who does not see it.
        caption: below it.
        salt: what tells its ids from those of all other pictures of a page.
        wide: whether it takes the page's width.
        tips: what a pointer over a mark shows, by the mark's gid.
    """
    drawn = _labelled(svg(figure, salt, tips), label)
    for token, colour in _VARIABLES.items():
        drawn = drawn.replace(token, colour)
    kind = ' class="wide"' if wide else ""
    said = f"<figcaption>{escape(caption)}</figcaption>"
    return f'<figure{kind} data-drawn="{digest(figure)}">{drawn}{said}</figure>'


def _labelled(drawn: str, label: str) -> str:
    """As wide as there is room, in the colour of the text around it."""
    drawn = drawn.replace(INK, "currentColor")
    drawn = re.sub(r' width="[\d.]+pt"| height="[\d.]+pt"', "", drawn, count=2)
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def write_svg(figure: Figure, path: Path, label: str) -> None:
    """A figure as a file, light or dark as the reader's screen is."""
    drawn = _labelled(svg(figure, "p"), label)
    text = drawn[: (end := drawn.index(">") + 1)] + _ALONE + drawn[end:]
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode()))


def write_png(figure: Figure, path: Path) -> None:
    """A figure as an image on white."""
    style: dict[str, Any] = {"format": "png", "dpi": 150, "facecolor": "white"}
    write_atomically(path, lambda temporary: figure.savefig(temporary, **style))
