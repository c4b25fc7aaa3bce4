"""Pages and their parts as HTML: the look that files and widgets share, tables, figures, messages.

Whatever comes from outside is escaped, and nothing is fetched.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqkit import _version, plots, tables
from vqkit.plots.runs import places
from vqkit.plots.style import png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent / "static"


@cache
def css() -> str:
    """The one style sheet of widgets and static pages; it follows JupyterLab's theme where there is one."""
    return (HERE / "page.css").read_text("utf-8")


def page(*parts: str) -> str:
    """Parts of a page under the shared style.

    Args:
        parts: HTML.

    Returns:
        HTML that needs nothing else.
    """
    return f"<style>{css()}</style><div class='vq'>{''.join(parts)}</div>"


def document(title: str, *parts: str, sortable: bool = False) -> str:
    """A whole HTML file that needs no network.

    Args:
        title: of the window.
        parts: HTML of the body.
        sortable: with the script that sorts its tables and filters their rows.
    """
    look = css() + (HERE / "document.css").read_text("utf-8")
    script = f"<script>{(HERE / 'document.js').read_text('utf-8')}</script>" if sortable else ""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<meta name='color-scheme' content='light dark'>"
        f"<meta name='generator' content='vqkit {_version.__version__}'>"
        f"<title>{escape(title)}</title><style>{look}</style></head>"
        f"<body class='vq vq-document'>{''.join(parts)}{script}</body></html>\n"
    )


def table(rows: Sequence[tables.Row], columns: Sequence[tables.Column], **how: Any) -> str:
    """A table in a box that scrolls.

    Args:
        rows: in the order to show; each has a "key", by which it can be chosen in a picker.
        columns: what to show.
        how: further arguments of `tables.html_grid`.

    Returns:
        HTML; in a picker the headings sort.
    """
    return f"<div class='vq-scroll'>{tables.html_grid(rows, columns, key='key', **{'sorted_by': '', **how})}</div>"


def cells(header: Sequence[str], rows: tables.Rows) -> str:
    """A table of text, all of it to the left."""
    return tables.html_table(header, rows, left=range(len(header)))


def bar(value: float | None, top: float, *, unit: str, low: float = 0.0, digits: int = 1) -> str:
    """A number with a bar; the bar is hatched below `low`, so that colour says nothing alone.

    Args:
        value: None or NaN shows a dash, infinity a full bar.
        top: the value of a full bar.
        unit: behind the number.
        low: values below it are marked.
        digits: after the point.
    """
    if value is None or math.isnan(value):
        return "–"
    share = 100.0 if math.isinf(value) and value > 0 else 100 * min(max(value, 0.0) / top, 1.0)
    words = "no error" if value == math.inf else f"{value:.{digits}f}{' ' + unit if unit else ''}"
    mark = " class='low'" if value < low else ""
    return f"<span class='bar' aria-hidden='true'><i{mark} style='width:{share:.0f}%'></i></span>{words}"


def mark(kind: int, words: str, tip: str = "") -> str:
    """Words with a coloured mark before them.

    Args:
        kind: 0 to 4, the colour (4 is hollow).
        words: what the colour says, in text.
        tip: more, shown on hover.
    """
    title = f" title='{escape(tip, quote=True)}'" if tip else ""
    return f"<span{title}><span class='mark m{kind}' aria-hidden='true'></span>{escape(words)}</span>"


def figure_html(figure: Figure, alt: str) -> str:
    """A figure as an image with words for who cannot see it.

    Args:
        figure: what to show.
        alt: what it shows, in a sentence.
    """
    data = base64.b64encode(png(figure)).decode()
    return f"<img class='vq-figure' alt='{escape(alt, quote=True)}' src='data:image/png;base64,{data}'>"


def drawn(draw: Callable[[plots.Theme], Figure], alt: str, theme: plots.Theme | None) -> str:
    """A figure in a theme; for a file, which does not know its reader's, in both.

    Args:
        draw: theme -> figure.
        alt: what it shows, in a sentence.
        theme: None for both, as drawings of which the page shows one.
    """
    if theme is not None:
        return figure_html(draw(theme), alt)
    light, dark = (_drawing(draw(t)) for t in (plots.LIGHT, plots.DARK))
    return (
        f"<figure><picture><source media='(prefers-color-scheme: dark)' srcset='{dark}'>"
        f"<img class='vq-figure' src='{light}' alt='{escape(alt, quote=True)}'></picture></figure>"
    )


def _drawing(figure: Figure) -> str:
    """The figure as an image inside the page; in an image no script of a drawing can run."""
    import matplotlib

    drawing = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "vqkit"}):
        figure.savefig(drawing, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(drawing.getvalue()).decode()}"


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
        + "".join(_mark(key, names[key], x * width, y * height, key == chosen) for key, (x, y) in marks if key in names)
        + "</svg>"
    )


def _mark(key: str, words: str, x: float, y: float, here: bool) -> str:
    said, named = escape(words, quote=True), escape(key, quote=True)
    return (
        f"<circle class='vq-mark' role='option' data-key='{named}' cx='{x:.1f}' cy='{y:.1f}' r='{_RADIUS}' "
        f"aria-label='{said}' aria-selected='{str(here).lower()}'><title>{said}</title></circle>"
    )


def _dark(figure: Figure) -> bool:
    from matplotlib.colors import to_rgb

    return sum(to_rgb(figure.get_facecolor())) < 1.5


def section(title: str, *parts: str, level: int = 3) -> str:
    """Parts under a heading; nothing where all of them are empty.

    Args:
        title: text.
        parts: HTML.
        level: of the heading.
    """
    body = "".join(parts)
    return f"<section><h{level}>{escape(title)}</h{level}>{body}</section>" if body else ""


def listed(items: Sequence[str]) -> str:
    """Texts as a list; nothing where there are none."""
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>" if items else ""


def folded(title: str, body: str, *, unfolded: bool = False) -> str:
    """A part that is opened by its title."""
    return f"<details{' open' if unfolded else ''}><summary>{escape(title)}</summary>{body}</details>"


def scrolled(label: str, text: str) -> str:
    """Text in a box that scrolls, with the keyboard too.

    Args:
        label: what it is.
        text: it is escaped.
    """
    return (
        f"<div class='vq-scroll' tabindex='0' role='region' aria-label='{escape(label, quote=True)}'>"
        f"<pre class='vq-json'>{escape(text)}</pre></div>"
    )


def message_html(text: str, kind: str = "") -> str:
    """One readable message.

    Args:
        text: in words; it is escaped.
        kind: "error", "done" or "" for a plain note. The word stands in the text too: nothing is said by
            colour alone.
    """
    word = {"error": "Not possible: ", "done": "Done: "}.get(kind, "")
    role = "alert" if kind == "error" else "status"
    return f"<div class='vq-message {kind}' role='{role}'>{word}{escape(text)}</div>" if text else ""
