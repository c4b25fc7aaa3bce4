"""The look that all widgets share: page style, figures as images, messages."""

from __future__ import annotations

import base64
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent


@cache
def css() -> str:
    """The one style sheet of widgets and static pages; it follows JupyterLab's theme where there is one."""
    return (HERE / "page.css").read_text("utf-8")


def page(*parts: str) -> str:
    """Parts of a static page under the shared style.

    Args:
        parts: HTML.

    Returns:
        HTML that needs nothing else.
    """
    return f"<style>{css()}</style><div class='vq'>{''.join(parts)}</div>"


def figure_html(figure: Figure, alt: str) -> str:
    """A figure as an image with words for who cannot see it.

    Args:
        figure: what to show.
        alt: what it shows, in a sentence.
    """
    from vqkit.plots.style import png

    data = base64.b64encode(png(figure)).decode()
    return f"<img class='vq-figure' alt='{escape(alt, quote=True)}' src='data:image/png;base64,{data}'>"


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


def mimebundle(live: Any, static: str, text: str) -> dict[str, Any]:
    """What a notebook stores of a widget: the live view, and the same as plain HTML and text.

    Args:
        live: the outermost ipywidget.
        static: HTML for where no kernel is.
        text: for terminals.
    """
    view = {"version_major": 2, "version_minor": 0, "model_id": live.model_id}
    return {"application/vnd.jupyter.widget-view+json": view, "text/html": static, "text/plain": text}
