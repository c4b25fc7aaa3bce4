"""`Quantized`: the result of quantization, and the proof that what was requested is what the model applies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import AuditError
from vqkit.graph.copies import make_all_live
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import raise_model
from vqkit.graph.keras_layers import variables
from vqkit.primitives.ops import fake_quantize_numpy
from vqkit.primitives.spec import QuantizerSpec
from vqkit.quantization.layer_kinds import HALF_BITS, rounded
from vqkit.quantization.plan import Plan, QuantizedRow, Row
from vqkit.quantization.prepare import rounding_rows
from vqkit.quantization.refine import converted_spec
from vqkit.quantization.refine.integer_arithmetic import SCALES
from vqkit.quantization.solve import Encodings, bake
from vqkit.strategy import Strategy

if TYPE_CHECKING:
    import keras

Applied = QuantizerSpec | str | None
_SHOWN = ("bit_width", "method", "round_mode", "per_channel", "symmetry", "narrow_range", "unsigned")


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantized model with everything that explains it.

    Attributes:
        plan: what was requested for each tensor.
        encodings: plan row name -> the decision that is applied.
        calibrated: the same before refinement.
        strategy: the strategy it was made with.
        graph: the float graph with fake-quantize layers inserted.
        corrected: the same with weights as refinement corrected them before they were quantized.
        optimized: the float graph after the optimize pipeline, before conversions to device form.
        rows: fake-quantize layer name -> plan row.
        report: what passes and refinement did, and the lines of `outside`.
        timings: step -> seconds.
        calibration: "quantized" or "float".
        vitis_compat: whether the reference's mistakes were reproduced.
        outside: a line for each tensor of which much lies outside the range that was chosen for it.
    """

    plan: Plan
    encodings: Encodings
    calibrated: Encodings
    strategy: Strategy
    graph: Graph
    corrected: Graph
    optimized: Graph
    rows: Mapping[str, QuantizedRow]
    report: tuple[str, ...]
    timings: Mapping[str, float]
    calibration: str = "quantized"
    vitis_compat: bool = False
    outside: tuple[str, ...] = ()
    _cache: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __repr__(self) -> str:
        """One line: model, strategy, how many tensors are quantized; `report` and `plan` tell more."""
        clipped = f", {len(self.outside)} with much outside their range" if self.outside else ""
        return f"<Quantized: {self.plan.summary()}{clipped}>"

    @property
    def live(self) -> Mapping[str, Any]:
        """Layer name -> live object that `model` is made of."""
        if "live" not in self._cache:
            live = make_all_live(bake(self.corrected, self.encodings, self.plan))
            for fq, row in self.rows.items():
                live[fq].assign(self.encodings[row.name])
            self.keep_live(live)
        found: Mapping[str, Any] = self._cache["live"]
        return found

    def keep_live(self, live: Mapping[str, Any]) -> None:
        """Take live layers that hold weights and decisions already, instead of making some."""
        self._cache["live"] = live

    @cached_property
    def model(self) -> keras.Model:
        """An ordinary Keras model: predict, evaluate, save, load. Built when first asked for."""
        from vqkit.quantization.layers import QuantizedModel, carrying

        grids = {(r.layer, r.tensor): self.encodings[r.name] for r in self.plan.quantized if r.is_weight}
        return carrying(raise_model(self.graph, self.live, QuantizedModel), grids)

    @cached_property
    def float_model(self) -> keras.Model:
        """The optimized float model, as an ordinary Keras model."""
        return raise_model(self.optimized)

    def audit(self) -> Any:
        """Requested against applied, tensor by tensor.

        Returns:
            A pandas table.

        Raises:
            AuditError: some tensor is not what the plan says.
        """
        return audit(self)

    @property
    def size_bytes(self) -> float:
        """Bytes of the weights at their bit widths; 16-bit floats count 2, other float ones 4."""
        return sum(self._bits(r) for r in self._weight_rows()) / 8 + self._unplanned_bytes()

    @property
    def float_size_bytes(self) -> float:
        """Bytes of all weights as float32."""
        return float(sum(w.size * 4 for layer in self.optimized.layers.values() for w in layer.weights.values()))

    def _weight_rows(self) -> Iterable[Row]:
        return (r for r in self.plan.rows if r.is_weight)

    def _bits(self, row: Row) -> float:
        width = (HALF_BITS if row.data_type else 32) if row.spec is None else row.spec.bit_width
        return float(self.graph.layers[row.layer].weights[row.tensor].size * width)

    def _unplanned_bytes(self) -> float:
        planned = {r.name for r in self._weight_rows()}
        return float(
            sum(
                w.size * 4
                for name, layer in self.graph.layers.items()
                if name not in self.rows
                for key, w in layer.weights.items()
                if f"{name}/{key}" not in planned and key not in SCALES
            )
        )


def audit(quantized: Quantized, layers: Mapping[str, Any] | None = None) -> Any:
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


def _check(quantized: Quantized, row: Row, layers: Mapping[str, Any]) -> dict[str, Any]:
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


def _requested(quantized: Quantized, row: Row) -> Applied:
    if row.spec is None:
        return row.data_type or None
    return converted_spec(row.spec, quantized.strategy.refine)


def _applied_weight(quantized: Quantized, row: Row, layers: Mapping[str, Any]) -> tuple[Applied, str]:
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


def _applied_value(quantized: Quantized, row: Row, layers: Mapping[str, Any]) -> tuple[Applied, str]:
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


def _stray_quantizers(quantized: Quantized, layers: Mapping[str, Any]) -> list[str]:
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
