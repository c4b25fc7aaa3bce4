"""Proof that what was requested is what the model applies, read from the finished model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vqkit.errors import AuditError
from vqkit.graph.keras_layers import variables
from vqkit.primitives.ops import fake_quantize_numpy
from vqkit.primitives.spec import QuantizerSpec
from vqkit.quantization.layer_kinds import rounded
from vqkit.quantization.plan import Row
from vqkit.quantization.prepare import rounding_rows
from vqkit.quantization.refine import converted_spec

Applied = QuantizerSpec | str | None
_SHOWN = ("bit_width", "method", "round_mode", "per_channel", "symmetry", "narrow_range", "unsigned")


def audit(quantized: Any, layers: Mapping[str, Any] | None = None) -> Any:
    """Compare every row of the plan with the finished Keras model.

    Activations: the model's fake-quantize layer has the planned quantizer and the decided range.
    Weights: they lie on the decided grid. 16-bit rows: weights are rounded, a rounding layer of that type
    stands behind the value. Float rows: no fake-quantize layer stands there, and the
    weights are the optimized float model's.

    Args:
        quantized: a `Quantized`.
        layers: name -> live layer that holds the result; those of its model by default.

    Returns:
        A pandas table with one row for each tensor: requested, applied, ok, problem, and a note where much of
        it lies outside the range that was chosen.

    Raises:
        AuditError: some row differs; the message names the first three.
    """
    import pandas as pd

    layers = {x.name: x for x in quantized.model.layers} if layers is None else layers
    checked = [_check(quantized, row, layers) for row in quantized.plan.rows]
    stray = _stray_quantizers(quantized, layers)
    wrong = [f"{c['tensor']}: {c['problem']}" for c in checked if not c["ok"]] + stray
    if wrong:
        raise AuditError(f"{len(wrong)} of {len(checked)} tensors are not as planned: " + "; ".join(wrong[:3]))
    return pd.DataFrame(checked)


def _check(quantized: Any, row: Row, layers: Mapping[str, Any]) -> dict[str, Any]:
    wanted = _requested(quantized, row)
    applied, problem = (_applied_weight if row.is_weight else _applied_value)(quantized, row, layers)
    if not problem and applied != wanted:
        problem = f"requested {_words(wanted)}, applied {_words(applied)}"
    note = next((line for line in quantized.outside if line.startswith(f"{row.name}: ")), "")
    return {
        "tensor": row.name,
        "requested": _words(wanted),
        "applied": _words(applied),
        "ok": not problem,
        "problem": problem,
        "note": note,
    }


def _requested(quantized: Any, row: Row) -> Applied:
    if row.spec is None:
        return row.data_type or None
    return converted_spec(row.spec, quantized.strategy.refine)


def _applied_weight(quantized: Any, row: Row, layers: Mapping[str, Any]) -> tuple[Applied, str]:
    live = layers[row.layer]
    weights = quantized.corrected.layers[row.layer].weights
    now, was = np.asarray(variables(live, weights)[row.tensor].numpy()), weights[row.tensor]
    if row.data_type:
        fits = np.array_equal(now, rounded(was, row))
        return row.data_type, "" if fits else f"weights are not those of the float model in {row.data_type}"
    if row.spec is None:
        return None, "" if np.array_equal(now, was) else "float weights were changed"
    params = quantized.encodings.get(row.name)
    if params is None:
        return None, "no decision was made"
    expected = fake_quantize_numpy(was, params)
    return params.spec, "" if np.array_equal(now, expected) else "weights do not lie on the decided grid"


def _applied_value(quantized: Any, row: Row, layers: Mapping[str, Any]) -> tuple[Applied, str]:
    if row.data_type:
        names = [k for k, r in rounding_rows(quantized.graph, quantized.plan).items() if r.name == row.name]
        return layers[names[0]].data_type, ""
    if row.spec is None:
        return None, ""
    name = next((fq for fq, r in quantized.rows.items() if r.name == row.name), None)
    if name is None:
        return None, "no quantizer was inserted"
    applied, decided = layers[name].params, quantized.encodings[row.name]
    same = all(_same(getattr(applied, key), getattr(decided, key)) for key in ("f_min", "f_max", "pos"))
    return applied.spec, "" if same else f"decided {decided.to_json()}, applied {applied.to_json()}"


def _same(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is None and b is None
    return bool(np.array_equal(np.ravel(a), np.ravel(b)))


def _stray_quantizers(quantized: Any, layers: Mapping[str, Any]) -> list[str]:
    from vqkit.quantization.layers import FakeQuantize, RoundToType

    inserted = (FakeQuantize, RoundToType)
    names = [name for name, layer in layers.items() if isinstance(layer, inserted)]
    rounding = rounding_rows(quantized.graph, quantized.plan)
    known = {*quantized.rows, *rounding, *quantized.optimized.layers}
    return [f"{n}: a quantizer that the plan does not have" for n in names if n not in known]


def _words(spec: Applied) -> str:
    if spec is None or isinstance(spec, str):
        return spec or "float"
    words = {k: getattr(v, "name", v) for k in _SHOWN if (v := getattr(spec, k)) is not None}
    return f"{spec.quantizer_type.value}({', '.join(f'{k}={v}' for k, v in words.items())})"
