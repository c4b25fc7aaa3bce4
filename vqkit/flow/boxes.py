"""The user's model as boxes that say what a plan does to each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vqkit.flow.plan import Plan, Role, Row
from vqkit.graph.ir import Graph
from vqkit.graph.layout import Place, layout


@dataclass(frozen=True)
class Box:
    """One layer of the user's model.

    Attributes:
        place: where it stands.
        part: "quantized", "partly", "float", or "merged" where it has no quantizer of its own: folded into a
            neighbour, quantized together with what follows, or only moving values.
        bits: fewest bits among its quantized weights, else among its values; None when float.
        sqnr_db: lowest ratio among its tensors; None when unknown.
        reasons: why tensors stay float, in words.
        marks: what the user said about it: "start", "stop", "ignored".
    """

    place: Place
    part: str
    bits: int | None = None
    sqnr_db: float | None = None
    reasons: tuple[str, ...] = ()
    marks: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.place.name


def boxes(
    model: Graph, plan: Plan, strategy: Any = None, ratios: Mapping[str, float] | None = None
) -> list[Box]:
    """What a plan does to each layer of a model.

    Args:
        model: the user's model, lowered and not rewritten.
        plan: made from it.
        strategy: gives the marks; None for none.
        ratios: plan row name -> dB.

    Returns:
        One box for each input and each call of a layer, in graph order.
    """
    rows: dict[str, list[Row]] = {}
    for row in plan.rows:
        for name in row.origin or (row.layer,):
            rows.setdefault(name, []).append(row)
    said = {} if strategy is None else {
        "start": strategy.input_layers, "stop": strategy.output_layers, "ignored": strategy.ignore_layers,
    }  # fmt: skip
    layers = {n.name: n.layer for n in model.nodes}
    return [_box(p, rows.get(layers.get(p.name, p.name), []), said, ratios or {}) for p in layout(model)]


def _box(
    place: Place, rows: Sequence[Row], said: Mapping[str, Sequence[str]], ratios: Mapping[str, float]
) -> Box:
    quantized = [r for r in rows if r.spec is not None]
    # A value that is quantized behind the activation that follows is no part that stayed float.
    left = [
        r for r in rows if r.spec is None and not r.reason.startswith(("quantized after", "moves values"))
    ]
    part = "partly" if quantized and left else "quantized" if quantized else "float" if left else "merged"
    widths = [r.spec.bit_width for r in quantized if r.role is Role.WEIGHT and r.spec is not None]
    widths = widths or [r.spec.bit_width for r in quantized if r.spec is not None]
    known = [ratios[r.name] for r in quantized if r.name in ratios]
    marks = tuple(mark for mark, names in said.items() if place.name in names)
    reasons = tuple(dict.fromkeys(r.reason for r in left if r.reason))
    return Box(place, part, min(widths, default=None), min(known, default=None), reasons, marks)
