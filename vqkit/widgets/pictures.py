"""Pictures of the bench as HTML images with words."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vqkit.flow.plan import Row
from vqkit.widgets.style import figure_html, message_html


def tensor_picture(work: Any, row: Row | None, *, dark: bool) -> str:
    """One tensor at a glance, or why there is nothing to see.

    Args:
        work: a `Exploration`.
        row: the tensor.
        dark: for a dark page.
    """
    from vqkit.plots import DARK, LIGHT, tensor_panels

    look = None if row is None else work.look(row)
    if row is None or look is None:
        return message_html("choose a row" if row is None else f"{row.name} stays float: {row.reason}")
    cost = work.state.costs[row.name]
    spec = look.qparams.spec
    alt = (
        f"{row.name}: histogram with the {spec.bit_width} bit grid, error over the scale, channel ranges; "
        f"own SQNR {cost.sqnr_db:.1f} dB"
    )
    with _tidied():
        return figure_html(tensor_panels(
            look.values, look.quantized, look.qparams, look.curve, title=row.name, before=look.before,
            axis=look.axis, theme=DARK if dark else LIGHT,
        ), alt)  # fmt: skip


@contextmanager
def _tidied() -> Iterator[None]:
    """Free what is made inside while it is young.

    A figure is a knot of cycles. Left to Python's own pace it outlives the young generations, and every tenth
    figure waits for a search through all that TensorFlow holds, half a second.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
            gc.collect(1)
