"""The columns of a leaderboard on a page, and how their values are shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from vqkit import tables
from vqkit.tables import Column, Measure


@dataclass(frozen=True)
class Interval:
    """Bounds of a metric, and those of all runs beside it."""

    low: float
    high: float
    span: tuple[float, float]
    measure: Measure

    def __str__(self) -> str:
        return f"{self.measure.plain(self.low)}–{self.measure.plain(self.high)}"

    def html(self) -> str:
        """The bounds with a bar between the lowest and the highest of all."""
        first, last = self.span
        if not first < last:
            return str(self)
        left, width = (self.low - first) / (last - first), (self.high - self.low) / (last - first)
        drawn_as = f"left:{100 * left:.0f}%;width:{100 * width:.0f}%"
        return (
            f"<span class='bounds'><span class='span' aria-hidden='true'><i style='{drawn_as}'></i></span>{self}</span>"
        )


def number(form: Any) -> Any:
    """From a function of a number to one of a cell, which may be empty."""
    return lambda value: escape(form(value)) if value is not None else "–"


def operations(value: float) -> str:
    """Bit-operations in millions."""
    return f"{value / 1e6:.3g}" if value == value else "–"


def tags(words: str) -> str:
    """Words, each as a tag."""
    return " ".join(f"<span class='tag {w}'>{w}</span>" for w in words.split())


def anchors(links: Mapping[str, str]) -> str:
    """Links by their text."""
    return " ".join(f"<a href='{escape(href, quote=True)}'>{text}</a>" for text, href in links.items())


def columns_for(measure: Measure) -> tuple[Column, ...]:
    """The columns of a leaderboard by a metric."""
    return (
        Column("rank", "#", number(lambda v: f"{v:.0f}"), numeric=True),
        Column("name", "run"),
        Column("value", measure.label, number(measure.plain), numeric=True),
        Column("interval", "95 %", lambda v: v.html() if v else "", order=lambda v: v.low if v else math.nan),
        Column("value_delta", "Δ float", number(measure.signed), numeric=True),
        Column("size_bytes", "size", number(tables.size), numeric=True),
        Column("bit_operations", "bit-ops, million", number(operations), numeric=True),
        Column("sqnr_min_db", "min SQNR dB", number(tables.number), numeric=True),
        Column("sqnr_output_db", "out SQNR dB", number(tables.number), numeric=True),
        Column("seconds_total", "time", number(tables.duration), numeric=True),
        Column("marks", "standing", tags),
    )


COLUMNS = columns_for(Measure())
"""The columns of a leaderboard by accuracy; every other has the same keys."""
LINKS = Column("files", "files", anchors, order=lambda _: "")
LOST_COLUMNS = (
    Column("status", "status", tags),
    Column("name", "run"),
    Column("reason", "reason", lambda reason: f"<pre>{escape(reason)}</pre>"),
    Column("files", "files", anchors),
)
