"""Which tensors lie outside the range that was chosen for them: a guard that believes no method.

Weights are measured whole. Of what calibration counted in a histogram, the histogram tells; where the
extremes that it saw fit the range, nothing is outside; only what is left is measured, on samples of the first
batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from vqkit.graph.execute import leading_to
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import replay, tensors
from vqkit.primitives import affine
from vqkit.primitives.histogram import Histogram
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import QuantizerType
from vqkit.quantization.calibrate import TensorStatistics
from vqkit.quantization.data import map_inputs
from vqkit.quantization.plan import Plan, QuantizedRow
from vqkit.quantization.solve import Encodings

MOST = 0.05
"""A tensor is named that has more than this share of its values outside, or of its energy."""

NUMBERS = 1 << 22
"""Activations that are held at once while the first batch is measured, at least one sample's."""


@dataclass(frozen=True, slots=True)
class Outside:
    """How much of a tensor its range does not reach.

    Attributes:
        values: share of the values more than a step beyond the ends of the grid.
        energy: share of the sum of squares that clipping these takes away.
    """

    values: float
    energy: float

    @property
    def much(self) -> bool:
        """Whether the tensor is named."""
        return max(self.values, self.energy) > MOST


NOTHING = Outside(0.0, 0.0)


def ends(params: QParams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lowest and highest value of a grid, and its step; float64, shape of the range."""
    spec = params.spec
    s = affine.multiplier(spec, params.f_min, params.f_max, params.pos).astype(np.float64)
    zero = params.zero_point.astype(np.float64)
    step = np.where(np.isfinite(s), 1 / np.where(np.isfinite(s), s, 1), 0.0)
    return (spec.q_min - zero) * step, (spec.q_max - zero) * step, step


def outside(x: np.ndarray, params: QParams, counts: Any = 1) -> Outside:
    """How much of a tensor lies outside of a grid.

    Args:
        x: float, any shape the range broadcasts against.
        params: the grid.
        counts: how often each value occurs, shape of x; once by default.
    """
    low, high, step = ends(params)
    x = np.asarray(x)
    if not x.size or (np.all(x.min() >= low - step) and np.all(x.max() <= high + step)):
        return NOTHING
    beyond = np.abs(x - np.clip(x, low, high))
    beyond = np.where(beyond > step, beyond, 0)
    weight = np.broadcast_to(counts, x.shape)
    energy = np.sum(weight * np.square(x, dtype=np.float64))
    lost = np.sum(weight * np.square(beyond))
    return Outside(float(weight[beyond > 0].sum() / weight.sum()), float(lost / energy if energy else 0.0))


def weights_outside(graph: Graph, plan: Plan, encodings: Encodings) -> dict[str, Outside]:
    """What the grids of quantized weights and biases do not reach.

    Args:
        graph: holds the float weights.
        plan: says which are quantized.
        encodings: decisions.

    Returns:
        Plan row name -> share.
    """
    rows = (r for r in plan.quantized if r.is_weight)
    return {r.name: outside(graph.layers[r.layer].weights[r.tensor], encodings[r.name]) for r in rows}


def values_outside(
    graph: Graph,
    rows: Mapping[str, QuantizedRow],
    encodings: Encodings,
    seen: Mapping[str, TensorStatistics],
    live: Mapping[str, Any],
    batches: Iterable[Any],
) -> dict[str, Outside]:
    """What the grids of activations do not reach.

    Args:
        graph: with fake-quantize layers inserted.
        rows: fake-quantize layer name -> plan row.
        encodings: decisions.
        seen: plan row name -> what calibration saw.
        live: layer name -> live object; weights and decisions are assigned.
        batches: of the calibration; read only as far as the first one, and only where need be.

    Returns:
        Plan row name -> share, on the calibration data.
    """
    found, left = {}, {}
    for fq, row in rows.items():
        known = _of_facts(seen[row.name], encodings[row.name]) if row.name in seen else NOTHING
        if known is None:
            left[fq] = encodings[row.name]
        else:
            found[row.name] = known
    if left:
        measured = _of_batch(graph, left, live, next(iter(batches)))
        found |= {rows[fq].name: share for fq, share in measured.items()}
    return found


def _of_facts(seen: TensorStatistics, params: QParams) -> Outside | None:
    """From what is known; None where the values have to be asked."""
    if seen.histogram is not None:
        counted = [seen.histogram] if isinstance(seen.histogram, Histogram) else seen.histogram.channels
        tables = [h.values() for h in counted]
        grids = [_channel(params, i) for i in range(len(counted))]
        return _together([(outside(v, g, n), v, n) for (v, n), g in zip(tables, grids, strict=True)])
    if params.spec.quantizer_type is QuantizerType.MAFS:
        return None
    low, high, step = ends(params)
    fits = np.all(np.min(seen.f_min, axis=0) >= low - step)
    fits &= np.all(np.max(seen.f_max, axis=0) <= high + step)
    return NOTHING if fits else None


def _channel(params: QParams, i: int) -> QParams:
    f_min, f_max, pos = (
        None if a is None else np.ravel(a)[i if a.size > 1 else 0] for a in (params.f_min, params.f_max, params.pos)
    )
    assert f_min is not None
    assert f_max is not None
    return QParams(params.spec.with_(per_channel=False), f_min, f_max, pos)


def _together(parts: list[tuple[Outside, np.ndarray, np.ndarray]]) -> Outside:
    """The share of all channels from those of each."""
    values = np.array([n.sum() for _, _, n in parts], np.float64)
    energy = np.array([(n * np.square(v, dtype=np.float64)).sum() for _, v, n in parts])
    shares = np.array([[o.values, o.energy] for o, _, _ in parts])
    return Outside(
        float(shares[:, 0] @ values / values.sum()), float(shares[:, 1] @ energy / max(energy.sum(), 1e-300))
    )


def _of_batch(graph: Graph, grids: Mapping[str, QParams], live: Mapping[str, Any], batch: Any) -> dict[str, Outside]:
    part, found = leading_to(graph, grids), {}

    def measuring(fq: str) -> Any:
        def measure(x: Any) -> Any:
            found[fq] = outside(np.asarray(x), grids[fq])
            return live[fq](x)

        return measure

    few = _some_of(graph, part, batch)
    replay(part, {**live, **{fq: measuring(fq) for fq in grids}}, tensors(part, few))
    return found


def _some_of(graph: Graph, part: Graph, batch: Any) -> Any:
    """As many samples of a batch as can be held; all of them where the model wants just so many."""
    if any(graph.values[v].shape[:1] != (None,) for v in graph.inputs.values()):
        return batch
    sizes = [graph.values[v].shape[1:] for node in part.nodes for v in node.outputs]
    one = sum(NUMBERS if None in size else prod(n for n in size if n is not None) for size in sizes)
    return map_inputs(lambda x, _: x[: max(1, NUMBERS // max(one, 1))], batch)


def lines(found: Mapping[str, Outside], plan: Plan) -> Iterator[str]:
    """A line for each tensor of which too much lies outside, in the plan's order.

    Args:
        found: plan row name -> share.
        plan: gives the methods.
    """
    for row in plan.quantized:
        share = found.get(row.name, NOTHING)
        if share.much:
            yield (
                f"{row.name}: {100 * share.values:.3g} % of the values lie outside the range that "
                f"{row.spec.method.name} chose; clipping them takes {100 * share.energy:.3g} % of the energy"
            )
