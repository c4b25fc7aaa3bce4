"""The report of a recommendation: one HTML file with the reason, a figure and everything measured."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqkit.experiment import significance, tables
from vqkit.files import write_bytes

if TYPE_CHECKING:
    from vqkit.search.advice import Advice

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd}"
    "img{max-width:100%}"
)


def write(advice: Advice, path: str | Path, title: str) -> Path:
    """Write the report of an advice.

    Args:
        advice: with or without a chosen point.
        path: of the HTML file.
        title: what the model is called.

    Returns:
        The path.
    """
    from vqkit.plots.style import png
    from vqkit.search.advice import HEADER

    picture = base64.b64encode(png(figure(advice))).decode()
    chosen = advice.chosen
    bits = "" if chosen is None or not chosen.bits else (
        "<h2>Bits of the weights</h2>"
        + tables.html_table(("layer", "bits"), [[k, v] for k, v in chosen.bits.items()])
    )  # fmt: skip
    body = "".join((
        f"<h1>Recommended strategy for {html.escape(title)}</h1><p>{html.escape(advice.sentence)}</p>",
        f'<img alt="accuracy against size" src="data:image/png;base64,{picture}">',
        "<h2>Everything measured</h2>", tables.html_table(HEADER, advice.rows(), left=(0, 5)),
        "<p>p (float): exact McNemar test against the float model on the same samples. Level: cannot be told "
        "from the most accurate one within the bounds.</p>", bits,
        f"<p>{len(advice.points)} strategies in {tables.duration(advice.seconds)}.</p>",
    ))  # fmt: skip
    page = (f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
            f"<style>{STYLE}</style><body>{body}</body></html>\n")  # fmt: skip
    write_bytes(path, page.encode())
    return Path(path)


def figure(advice: Advice) -> Any:
    """Accuracy against size of everything measured, with intervals; the recommended one is marked."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(7, 4.2), dpi=130, layout="constrained")
    ax = fig.subplots()
    sizes = [p.measured.size_bytes / 1e3 for p in advice.points]
    values = [100 * p.measured.accuracy for p in advice.points]
    spans = [p.measured.interval() for p in advice.points]
    low = [v - 100 * s[0] for v, s in zip(values, spans, strict=True)]
    high = [100 * s[1] - v for v, s in zip(values, spans, strict=True)]
    ax.errorbar(sizes, values, yerr=[low, high], fmt="o", color="#0072B2", ecolor="#9ecae1", label="measured")
    on = significance.pareto(sizes, values)
    line = sorted((s, v) for s, v, k in zip(sizes, values, on, strict=True) if k)
    ax.step(*zip(*line, strict=True), where="post", color="#0072B2", lw=1, alpha=0.6)
    ax.axhline(100 * float(advice.float_right.mean()), color="black", ls=":", lw=1, label="float")
    if advice.chosen is not None:
        m = advice.chosen.measured
        ax.plot(m.size_bytes / 1e3, 100 * m.accuracy, "*", ms=16, color="#D55E00", label="recommended")
    ax.set(xlabel="size of the weights, kB", ylabel="top-1 accuracy, %")
    ax.legend(frameon=False, loc="lower right")
    return fig
