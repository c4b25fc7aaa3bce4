"""Small tables for people: the same cells as aligned text and as HTML, and numbers with their units."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from vqkit.errors import SweepError

if TYPE_CHECKING:
    import pandas as pd

Rows = Sequence[Sequence[str]]
Row = Mapping[str, Any]


def elide(text: str, width: int) -> str:
    """Cut the middle out of a long text, because the ends of names tell them apart.

    Args:
        text: one line.
        width: most characters to keep, at least 3.
    """
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def text_table(
    header: Sequence[str], rows: Rows, *, left: Sequence[int] = (0,), widest: int = 40, width: int = 0
) -> str:
    """Cells as columns of plain text, numbers to the right.

    Args:
        header: one title per column.
        rows: cells, each row as long as `header`.
        left: columns aligned to the left.
        widest: longest cell shown in full; longer ones lose their middle, but for those of an only column.
        width: of the whole table; where it leaves room, left columns may be wider than `widest`.

    Returns:
        Lines joined by newlines, no trailing spaces.
    """
    plain = [[" ".join(cell.split()) for cell in row] for row in [header, *rows]]
    needed = [max(map(len, column)) for column in zip(*plain, strict=True)]
    limits = needed if len(needed) == 1 else _limits(needed, left, widest, width)
    cells = [[elide(cell, limit) for cell, limit in zip(row, limits, strict=True)] for row in plain]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * w for w in widths])
    return "\n".join(_line(row, widths, left) for row in cells)


def _limits(needed: Sequence[int], left: Sequence[int], widest: int, width: int) -> list[int]:
    limits = [min(n, widest) for n in needed]
    spare = width - sum(limits) - 2 * (len(limits) - 1)
    for i in left:
        more = max(0, min(needed[i] - limits[i], spare))
        limits[i] += more
        spare -= more
    return limits


def terminal_width() -> int:
    """Columns to write in: the terminal's, 150 where the text goes to a file or a pipe."""
    return shutil.get_terminal_size((150, 0)).columns


def _line(row: Sequence[str], widths: Sequence[int], left: Sequence[int]) -> str:
    cells = (c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
    return "  ".join(cells).rstrip()


def escaped(value: Any) -> str:
    """A value as text of an HTML page; nothing for None."""
    return "" if value is None else escape(str(value))


@dataclass(frozen=True)
class Column:
    """One column of an HTML table.

    Attributes:
        key: of the value in a row, and what sorting by it is called.
        title: heading.
        cell: value -> inner HTML of the cell, escaped; plain text by default.
        numeric: to the right, with digits of equal width.
        order: value -> what to sort by; the value itself by default.
    """

    key: str
    title: str
    cell: Callable[[Any], str] = escaped
    numeric: bool = False
    order: Callable[[Any], Any] | None = None


def html_table(header: Sequence[str], rows: Rows, *, left: Sequence[int] = (0,)) -> str:
    """The same cells as an HTML table for notebooks; every cell is escaped, and aligned without a style sheet."""
    columns = [Column(str(i), title, numeric=i not in left) for i, title in enumerate(header)]
    return html_grid([{c.key: cell for c, cell in zip(columns, row, strict=True)} for row in rows], columns)


def frame_table(
    frame: pd.DataFrame, table: Callable[..., str] = text_table, *, form: str = "{:.6g}", **how: Any
) -> str:
    """A pandas table as text or HTML, columns of numbers to the right, what is missing left empty.

    Args:
        frame: the table; its index is not shown.
        table: `text_table` or `html_table`.
        form: of a float.
        how: further arguments of `table`.
    """
    rows = [
        ["" if _missing(v) else form.format(v) if isinstance(v, float) else str(v) for v in row]
        for row in frame.astype(object).where(frame.notna(), None).to_numpy().tolist()
    ]
    left = [i for i, kind in enumerate(frame.dtypes) if kind.kind not in "iufb"]
    return table([str(c) for c in frame.columns], rows, left=left, **how)


def html_grid(
    rows: Sequence[Row],
    columns: Sequence[Column],
    *,
    key: str = "",
    sorted_by: str | None = None,
    label: str = "",
    chosen: str = "",
    values: bool = False,
    look: str = "",
) -> str:
    """Rows as an HTML table.

    Args:
        rows: in the order to show; each has the columns' keys and `key`. A value under "class" says how a row looks.
        columns: what to show.
        key: name of the value that identifies a row, which can then be chosen in a picker; "" for none.
        sorted_by: column the rows are sorted by, with "-" in front when descending, "" for their own order; None
            for headings that do not sort.
        label: what the table is, for screen readers.
        chosen: key of a row to mark.
        values: keep beside each cell what it is sorted by, for a page that sorts without Python.
        look: class of the table; without one, cells are aligned in place.
    """
    plain = not (look or key)
    head = "".join(_heading(c, sorted_by, plain) for c in columns)
    body = "".join(_html_row(r, columns, key, chosen, values, plain) for r in rows)
    opening = _tag("table", {"class": look or None, "role": "grid" if key else None, "aria-label": label or None})
    return f"{opening}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _tag(name: str, attributes: Mapping[str, str | None]) -> str:
    return f"<{name}{''.join(f' {k}={_quoted(v)}' for k, v in attributes.items() if v is not None)}>"


def _quoted(value: str) -> str:
    return f"'{escape(value, quote=True)}'"


def _side(column: Column, plain: bool) -> dict[str, str | None]:
    if plain:
        return {"style": f"text-align:{'right' if column.numeric else 'left'}"}
    return {"class": "num" if column.numeric else None}


def _heading(column: Column, sorted_by: str | None, plain: bool) -> str:
    side = _side(column, plain)
    if sorted_by is None:
        return f"{_tag('th', side)}{escape(column.title)}</th>"
    here = sorted_by.lstrip("-") == column.key
    word = ("descending" if sorted_by.startswith("-") else "ascending") if here else "none"
    arrow = {"ascending": " ▲", "descending": " ▼", "none": ""}[word]
    button = f"<button data-sort={_quoted(column.key)}>{escape(column.title)}{arrow}</button>"
    return f"{_tag('th', {'scope': 'col', **side, 'aria-sort': word})}{button}</th>"


def _html_row(row: Row, columns: Sequence[Column], key: str, chosen: str, values: bool, plain: bool) -> str:
    name = str(row[key]) if key else None
    here = "true" if name and name == chosen else None
    looks = {"data-key": name, "class": row.get("class") or None, "aria-selected": here}
    cells = (
        f"{_tag('td', {**_side(c, plain), **({'data-v': _sortable(c, row[c.key])} if values else {})})}"
        f"{c.cell(row[c.key])}</td>"
        for c in columns
    )
    return f"{_tag('tr', looks)}{''.join(cells)}</tr>"


def _sortable(column: Column, value: Any) -> str:
    """What a script sorts by: infinity as a number, nothing for what is missing."""
    value = column.order(value) if column.order else value
    if isinstance(value, float) and math.isinf(value):
        return "1e308" if value > 0 else "-1e308"
    return "" if _missing(value) else str(value)


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


@dataclass(frozen=True)
class Measure:
    """The metric that decides between runs.

    Attributes:
        name: as in the records.
        better: "higher" or "lower"; "" where nobody said.
        unit: "percent" is printed times 100, with differences in points; "plain" as it is.
    """

    name: str = "accuracy"
    better: str = "higher"
    unit: str = "percent"

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Measure:
        """The measure that a record's `judged` entry, or a row of a table, states.

        Args:
            given: name (or `metric`), better and unit; what is not a text counts as accuracy's.
        """
        name = given.get("metric", given.get("name"))
        if not isinstance(name, str) or not name:
            return cls()
        better, unit = (v if isinstance(v, str) else "" for v in (given.get("better"), given.get("unit")))
        return cls(name, better, unit or "plain")

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1."""
        return -1 if self.better == "lower" else 1

    @property
    def factor(self) -> float:
        """What values are multiplied by where they are printed or drawn."""
        return 100.0 if self.unit == "percent" else 1.0

    @property
    def label(self) -> str:
        """Name and unit, for a column or an axis."""
        return f"{self.name} %" if self.unit == "percent" else self.name

    @property
    def axis(self) -> str:
        """Name and unit, for an axis."""
        return f"{self.name} (%)" if self.unit == "percent" else f"{self.name} ({self.better} is better)"

    @property
    def against(self) -> str:
        """What an axis of differences shows, see `gain`."""
        if self.unit == "percent" and self.sign > 0:
            return f"{self.name} against float (percentage points)"
        return f"{self.name} against float (gain in {'points' if self.unit == 'percent' else 'per cent of float'})"

    @property
    def best(self) -> str:
        """What the best run is called."""
        return "most accurate" if self.name == "accuracy" else f"best by {self.name}"

    @property
    def judges(self) -> str:
        """That it decides, in a line for people."""
        return f"Judged by {self.name} ({self.better} is better)"

    def gain(self, value: Any, reference: Any) -> Any:
        """How much better values are than the float model's: points of a percentage, else per cent of float.

        Args:
            value: floats, any shape.
            reference: of the float model.
        """
        better = self.sign * (value - reference)
        return 100 * (better if self.unit == "percent" else better / abs(reference))

    @property
    def column(self) -> str:
        """What its column is called in a table of sensitivities or strategies: its name, where no other column's is."""
        return "value" if self.name in _TAKEN else self.name

    def drop(self, value: Any, reference: Any) -> Any:
        """How much worse values are than the float model's, in the metric's unit; negative where they are better.

        Args:
            value: floats, any shape.
            reference: of the float model.
        """
        return self.sign * (reference - value)

    def plain(self, value: float) -> str:
        """A value without its unit."""
        if value != value:
            return "–"
        return f"{100 * value:.2f}" if self.unit == "percent" else f"{value:.4g}"

    def text(self, value: float) -> str:
        """A value with its unit."""
        return f"{self.plain(value)} %" if self.unit == "percent" and value == value else self.plain(value)

    def signed(self, value: float) -> str:
        """A difference without its unit."""
        if value != value:
            return "–"
        return f"{100 * value:+.2f}" if self.unit == "percent" else f"{value:+.4g}"

    def difference(self, value: float) -> str:
        """A difference with its unit."""
        return f"{self.signed(value)} points" if self.unit == "percent" else self.signed(value)

    def distance(self, value: float) -> str:
        """A difference with its unit and without its sign."""
        return f"{abs(100 * value):.2f} points" if self.unit == "percent" else f"{abs(value):.4g}"


_TAKEN = ("bit_operations", "bits", "drop", "kind", "kl", "layer", "mode", "name", "p_float", "size_bytes", "sqnr_db")
"""Columns of tables that also have one of a metric."""


def percent(value: float) -> str:
    """A proportion as per cent with two digits, a dash when there is none."""
    return f"{100 * value:.2f}" if value == value else "–"


def number(value: float, digits: int = 1) -> str:
    """A number with fixed digits, a dash when there is none."""
    return f"{value:.{digits}f}" if value == value else "–"


def signed_points(value: float) -> str:
    """A difference of proportions in percentage points, always with its sign."""
    return f"{100 * value:+.2f}" if value == value else "–"


def size(value: float) -> str:
    """Bytes in the unit that leaves few digits (1 kB = 1000 bytes)."""
    if value != value:
        return "–"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value:.0f} B"


def duration(seconds: float) -> str:
    """Seconds as a short text: 0.42 s, 12.3 s, 4 min 05 s, 2 h 10 min."""
    if seconds != seconds:
        return "–"
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def parse_drop(text: str, measure: Measure, reference: float) -> float:
    """How much of a metric may be lost, as its values count: a percentage as a fraction.

    Args:
        text: a number, points of a percentage, else the metric's unit; or per cent of `reference`.
        measure: the metric.
        reference: value of the float model.

    Raises:
        SweepError: it is none of these.
    """
    number, sign, _ = text.strip().partition("%")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        unit = "percentage points" if measure.unit == "percent" else f"the unit of {measure.name}"
        raise SweepError(f"{text!r} is not a drop. Allowed: 0.5 ({unit}), 1% (of the float model's {measure.name})")
    if not math.isfinite(reference):
        raise SweepError(f"{text!r}: the float model's {measure.name} is {reference}, so a drop from it says nothing")
    return value / 100 * abs(reference) if sign else value / measure.factor


def parse_size(text: str, whole: float | None = None) -> float:
    """Bytes of a text such as 100KB, 0.5MB, 2048 or 60%.

    Args:
        text: number with an optional unit: B, KB, MB, GB (powers of 1000), KiB, MiB; or per cent of `whole`.
        whole: bytes of 100 %.

    Raises:
        SweepError: it is none of these.
    """
    units = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20}
    plain = text.strip().lower().replace(" ", "")
    number = plain.rstrip("%bkmgi")
    unit = plain[len(number) :]
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if unit == "%" and whole is not None and value > 0:
        return value / 100 * whole
    if unit not in units or value <= 0:
        raise SweepError(
            f"{text!r} is not a size. Allowed: 2048, 100KB, 0.5MB, 64KiB" + (", 60%" if whole is not None else "")
        )
    return value * units[unit]
