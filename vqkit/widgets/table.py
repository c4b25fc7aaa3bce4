"""Sortable HTML tables, and the look that all widgets share."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: of the value in a row, and what sorting by it is called.
        title: heading.
        cell: value -> inner HTML of the cell, escaped; plain text by default.
        numeric: to the right, with digits of equal width.
        order: value -> what to sort by; the value itself by default.
    """

    key: str
    title: str
    cell: Callable[[Any], str] = field(default=lambda value: text(value))
    numeric: bool = False
    order: Callable[[Any], Any] | None = None


def text(value: Any) -> str:
    """A value as escaped text; nothing for None."""
    return "" if value is None else escape(str(value))


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


def table(
    rows: Sequence[Row],
    columns: Sequence[Column],
    *,
    key: str = "key",
    sorted_by: str = "",
    label: str = "",
    quiet: str = "quiet",
    chosen: str = "",
) -> str:
    """An HTML table.

    Args:
        rows: in the order to show; each has the columns' keys and `key`.
        columns: what to show.
        key: name of the value that identifies a row; rows become choosable in a picker.
        sorted_by: column the rows are sorted by, with "-" in front when descending; "" for none.
        label: what the table is, for screen readers.
        quiet: name of the row value that, when true, sets a row back.
        chosen: key of a row to mark, for static pages.

    Returns:
        HTML; in a picker the headings sort.
    """
    head = "".join(_heading(c, sorted_by) for c in columns)
    body = "".join(_row(r, columns, key, quiet, chosen) for r in rows)
    named = f" aria-label='{escape(label, quote=True)}'" if label else ""
    return (
        f"<div class='vq-scroll'><table role='grid'{named}><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _heading(column: Column, sorted_by: str) -> str:
    here = sorted_by.lstrip("-") == column.key
    word = ("descending" if sorted_by.startswith("-") else "ascending") if here else "none"
    arrow = {"ascending": " ▲", "descending": " ▼", "none": ""}[word]
    button = f"<button data-sort='{escape(column.key, quote=True)}'>{escape(column.title)}{arrow}</button>"
    side = " class='num'" if column.numeric else ""
    return f"<th scope='col'{side} aria-sort='{word}'>{button}</th>"


def _row(row: Row, columns: Sequence[Column], key: str, quiet: str, chosen: str) -> str:
    cells = "".join(
        f"<td class='num'>{c.cell(row[c.key])}</td>" if c.numeric else f"<td>{c.cell(row[c.key])}</td>" for c in columns
    )
    name = str(row[key])
    looks = " class='quiet'" if row.get(quiet) else ""
    marked = " aria-selected='true'" if chosen == name else ""
    return f"<tr data-key='{escape(name, quote=True)}'{looks}{marked}>{cells}</tr>"


def arranged(rows: Sequence[Row], columns: Sequence[Column], *, sorted_by: str = "", words: str = "") -> list[Row]:
    """The rows that contain all words, sorted.

    Args:
        rows: any order; where values are equal it stays.
        columns: whose values are searched and sorted.
        sorted_by: key of a column, "-" in front for descending; "" keeps the order.
        words: separated by spaces; case does not matter.

    Returns:
        The rows to show. Rows without a value in the sorted column come last.
    """
    wanted = words.lower().split()
    kept = [r for r in rows if _holds(r, columns, wanted)]
    column = next((c for c in columns if c.key == sorted_by.lstrip("-")), None)
    if column is None:
        return kept
    value = column.order or (lambda v: v)
    have = [r for r in kept if not _missing(r[column.key])]
    none = [r for r in kept if _missing(r[column.key])]
    try:
        have.sort(key=lambda r: value(r[column.key]), reverse=sorted_by.startswith("-"))
    except TypeError:  # words among numbers
        have.sort(key=lambda r: str(value(r[column.key])), reverse=sorted_by.startswith("-"))
    return [*have, *none]


def _holds(row: Row, columns: Sequence[Column], words: Sequence[str]) -> bool:
    here = " ".join(str(row[c.key]) for c in columns).lower() if words else ""
    return all(word in here for word in words)


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def next_order(sorted_by: str, column: str) -> str:
    """What a press on a heading sorts by: ascending, then descending, then the original order."""
    return {column: f"-{column}", f"-{column}": ""}.get(sorted_by, column)


HERE = Path(__file__).resolve().parent / "static"


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
