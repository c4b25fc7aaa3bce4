"""Small tables for people: the same cells as aligned text and as HTML."""

from __future__ import annotations

import html
import shutil
from collections.abc import Sequence

from vqkit.errors import SweepError

Rows = Sequence[Sequence[str]]


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


def html_table(header: Sequence[str], rows: Rows, *, left: Sequence[int] = (0,)) -> str:
    """The same cells as an HTML table for notebooks; every cell is escaped."""
    head = _html_row("th", header, left)
    body = "".join(_html_row("td", row, left) for row in rows)
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def _html_row(tag: str, cells: Sequence[str], left: Sequence[int]) -> str:
    side = ("left" if i in left else "right" for i in range(len(cells)))
    inner = (f'<{tag} style="text-align:{s}">{html.escape(c)}</{tag}>' for s, c in zip(side, cells, strict=True))
    return f"<tr>{''.join(inner)}</tr>"


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
