"""The plan as a compact HTML table: one line a tensor, overrides marked by text and colour."""

from __future__ import annotations

from html import escape
from typing import Any

_STYLE = """<style>
.vq-plan{border-collapse:collapse;font-size:12px}.vq-plan td,.vq-plan th{padding:1px 8px;text-align:left}
.vq-plan th{border-bottom:1px solid #888}.vq-plan .float td{opacity:.62;font-style:italic}
.vq-plan .over td:first-child{border-left:3px solid #d55e00}
.vq-plan .base td:first-child{border-left:3px solid #0072b2}
.vq-plan .num{text-align:right}</style>"""
_HEAD = ("layer", "kind", "tensor", "quantizer", "bits", "method", "rounding", "scale", "decided by", "why")


def plan_html(summary: str, rows: list[dict[str, Any]]) -> str:
    """A table for notebooks.

    Args:
        summary: the line above it.
        rows: flat rows, as in `Plan.to_frame`.

    Returns:
        HTML with everything escaped; the JSON pointer of the deciding rule is the tooltip of `decided by`.
    """
    head = "".join(f"<th>{h}</th>" for h in _HEAD)
    body = "".join(_row(r) for r in rows)
    return f"{_STYLE}<p>{escape(summary)}</p><table class='vq-plan'><tr>{head}</tr>{body}</table>"


def _row(r: dict[str, Any]) -> str:
    if r["quantizer"] == "float":
        cells = [r["layer"], r["kind"], r["tensor"], "float", *[""] * 5, r["reason"]]
        return f"<tr class='float'>{''.join(_cell(c) for c in cells)}</tr>"
    scale = ("per channel" if r["per_channel"] else "per tensor") + ("" if r["symmetry"] else ", asymmetric")
    words = [r["method"], r["round_mode"]]
    method, rounding = (str(w).replace("_", " ").lower() for w in words)
    cells = [r["layer"], r["kind"], r["tensor"], r["quantizer"], r["bit_width"], method, rounding, scale]
    decided = f"<td title='{escape(r['pointer'], quote=True)}'>{escape(r['decided_by'])}</td>"
    kind = "base" if r["decided_by"].startswith("builtin") else "over"
    return f"<tr class='{kind}'>{''.join(_cell(c) for c in cells)}{decided}{_cell(r['reason'])}</tr>"


def _cell(value: Any) -> str:
    return f"<td>{escape(str(value))}</td>"
