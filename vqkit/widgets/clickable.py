"""A figure whose runs can be chosen: the picture, and over each mark a part that a picker makes choosable."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from matplotlib.colors import to_rgb

from vqkit.plots.points import places
from vqkit.plots.style import png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RADIUS = 9
_LOOK = (
    ".vq-mark{fill:transparent;stroke:transparent;stroke-width:2.5;cursor:pointer}"
    ".vq-mark:hover{stroke:currentColor;stroke-dasharray:3 3}"
    ".vq-mark:focus-visible{outline:none;stroke:currentColor;stroke-dasharray:3 3}"
    ".vq-mark[aria-selected=true]{stroke:currentColor;stroke-dasharray:none}"
)


def clickable(figure: Figure, names: Mapping[str, str], alt: str, *, chosen: str = "") -> str:
    """A figure as HTML for a picker; without one it is a picture with a tip on each mark.

    Args:
        figure: of `vqkit.plots`, with runs marked.
        names: run key -> what to say about it, in a line; runs without one cannot be chosen.
        alt: what the figure shows, in a sentence.
        chosen: key of the run to mark.

    Returns:
        SVG; arrow keys walk from left to right.
    """
    width, height = figure.bbox.width, figure.bbox.height
    marks = sorted(places(figure).items(), key=lambda item: item[1])
    data = base64.b64encode(png(figure)).decode()
    ink = "#e6e6e6" if _dark(figure) else "#222222"
    return (
        f"<svg class='vq-figure' role='listbox' aria-label='{escape(alt, quote=True)}' style='color:{ink}' "
        f"width='{width:.0f}' viewBox='0 0 {width:.0f} {height:.0f}'><style>{_LOOK}</style>"
        f"<image href='data:image/png;base64,{data}' width='{width:.0f}' height='{height:.0f}'/>"
        + "".join(
            _mark(key, names[key], x * width, y * height, key == chosen)
            for key, (x, y) in marks
            if key in names
        )
        + "</svg>"
    )


def _mark(key: str, words: str, x: float, y: float, here: bool) -> str:
    said, named = escape(words, quote=True), escape(key, quote=True)
    return (
        f"<circle class='vq-mark' role='option' data-key='{named}' cx='{x:.1f}' cy='{y:.1f}' r='{_RADIUS}' "
        f"aria-label='{said}' aria-selected='{str(here).lower()}'><title>{said}</title></circle>"
    )


def _dark(figure: Figure) -> bool:
    return sum(to_rgb(figure.get_facecolor())) < 1.5
