"""The model as an SVG whose boxes can be chosen in a picker; the same boxes as in `plots.model_graph`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vqkit.flow.boxes import Box
from vqkit.plots import DARK, LIGHT
from vqkit.plots.graphs import ink_on, paint, second_line, short, words_of

WIDTH, HEIGHT, GAP_X, GAP_Y = 158, 34, 26, 16


def graph_svg(boxes: Sequence[Box], *, colour: str, dark: bool = False) -> str:
    """The picture.

    Args:
        boxes: from `vqkit.flow.boxes.boxes`.
        colour: "partition", "bits" or "sqnr".
        dark: for a dark page.

    Returns:
        SVG text; each box has the layer's name as `data-key` and says all its colours say.
    """
    columns = 1 + max(b.place.column for b in boxes)
    rows = 1 + max(b.place.row for b in boxes)
    size = (columns * (WIDTH + GAP_X) + GAP_X, rows * (HEIGHT + GAP_Y) + GAP_Y)
    at = {b.name: _corner(b) for b in boxes}
    lines = "".join(_line(at[b.name], at[r]) for b in boxes for r in b.place.readers)
    drawn = "".join(_box(b, colour, dark) for b in boxes)
    return (
        "<div class='vq-scroll vq-graph'><svg role='listbox' aria-label='layers of the model' "
        f"width='{size[0]}' height='{size[1]}' viewBox='0 0 {size[0]} {size[1]}'>"
        f"<g fill='none' stroke='currentColor' stroke-opacity='0.5'>{lines}</g>{drawn}</svg></div>"
    )


def _corner(box: Box) -> tuple[int, int]:
    return GAP_X + box.place.column * (WIDTH + GAP_X), GAP_Y // 2 + box.place.row * (HEIGHT + GAP_Y)


def _line(a: tuple[int, int], b: tuple[int, int]) -> str:
    (x, y), (u, v) = (a[0] + WIDTH // 2, a[1] + HEIGHT), (b[0] + WIDTH // 2, b[1])
    if x == u and v - y > HEIGHT:  # past the boxes between
        edge = x - WIDTH // 2
        side = edge - GAP_X // 2
        return f"<path d='M{edge} {y - 8} C{side} {y} {side} {v} {edge} {v + 8}'/>"
    if v < y:  # to the top of the next column
        out, into, half = x + WIDTH // 2, u - WIDTH // 2, HEIGHT // 2
        return f"<path d='M{out} {y - half} C{into - 13} {y} {out + 13} {v} {into} {v + half}'/>"
    return f"<path d='M{x} {y} L{u} {v}'/>"


def _box(box: Box, colour: str, dark: bool) -> str:
    x, y = _corner(box)
    fill, _ = paint(box, colour, DARK if dark else LIGHT)
    ink = ink_on(fill)
    dash = " stroke-dasharray='4 3'" if box.part in ("float", "merged") else ""
    words = words_of(box, colour)
    tip = "; ".join([f"{box.name} ({box.place.kind}): {words}", *box.reasons])
    label = escape(tip, quote=True)
    middle = x + WIDTH // 2
    return (
        f"<g role='option' data-key='{escape(box.name, quote=True)}' aria-label='{label}'>"
        f"<title>{escape(tip)}</title>"
        f"<rect x='{x}' y='{y}' width='{WIDTH}' height='{HEIGHT}' rx='6' fill='{fill}' "
        f"stroke='currentColor'{dash}/>"
        f"<text x='{middle}' y='{y + 14}' text-anchor='middle' font-size='11' style='fill:{ink}'>"
        f"{escape(short(box.name))}</text>"
        f"<text x='{middle}' y='{y + 27}' text-anchor='middle' font-size='9.5' style='fill:{ink}'>"
        f"{escape(second_line(box, colour))}</text></g>"
    )
