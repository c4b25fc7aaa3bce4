"""From a float model and a strategy to a model that is trained with its quantization in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import keras

import vqkit.graph.layers  # noqa: F401  Registers what a saved model may hold.
from vqkit.errors import DataError
from vqkit.flow.instrument import instrument
from vqkit.flow.layers import FakeQuantize, grid_shape
from vqkit.flow.plan import Plan, Row
from vqkit.flow.prepared import as_strategy, prepare
from vqkit.flow.ptq import quantize
from vqkit.flow.solve import Encodings, solve_weights
from vqkit.graph.ir import Graph, Layer
from vqkit.graph.keras_io import make_live, raise_model
from vqkit.primitives.spec import QuantizerType
from vqkit.strategy import Strategy
from vqkit.train.learned import Estimate, LearnedQuantize
from vqkit.train.wrappers import QuantizedWeights


@keras.saving.register_keras_serializable(package="vqkit")
class QATModel(keras.Model):
    """A functional model with quantizers that learn, and what `deploy_model` needs to know about it.

    Args:
        inputs: as of `keras.Model`.
        outputs: likewise.
        name: of the model.
        recipe: JSON: strategy, selected layers, and which of the user's layers each node came from.
    """

    def __init__(self, inputs: Any, outputs: Any, name: str | None = None, **kwargs: Any) -> None:
        recipe = kwargs.pop("recipe", {})
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        self._recipe = recipe

    @property
    def recipe(self) -> dict[str, Any]:
        """What `deploy_model` needs to know, as JSON."""
        return dict(self._recipe)

    def get_config(self) -> dict[str, Any]:
        """With the recipe."""
        return {**super().get_config(), "recipe": self.recipe}

    @property
    def quantizers(self) -> dict[str, LearnedQuantize]:
        """Plan row name -> the quantizer that stands for it, in graph order."""
        found = [q for layer in self.layers for q in _quantizers_of(layer)]
        return {q.tensor: q for q in found}


def _quantizers_of(layer: Any) -> list[LearnedQuantize]:
    if isinstance(layer, LearnedQuantize):
        return [layer]
    return list(getattr(layer, "quantizers", ())) if isinstance(layer, QuantizedWeights) else []


def qat_model(
    model: Any,
    strategy: Any,
    calib_data: Any = None,
    *,
    init_quant: bool = True,
    batch_size: int = 32,
    steps: int | None = None,
    calibration: str = "quantized",
    vitis_compat: bool = False,
    progress: bool = False,
    calib_labels: Any = None,
) -> QATModel:
    """A trainable Keras model that computes what the quantized one will: `compile` and `fit` as usual.

    The float model is first taken through the strategy's optimize pipeline (batch norm folded, channels
    equalized) on copies of its layers. Every tensor of the plan then gets a quantizer that learns.

    Args:
        model: a built functional or Sequential Keras model; it is not changed.
        strategy: a `Strategy`, or the name or path of one.
        calib_data: inputs to calibrate on, as `quantize` takes them; needed with `init_quant`.
        init_quant: start from ranges of a calibration, and from weights as the refine pipeline (bias
            correction, fast finetuning, …) leaves them. Otherwise weights start at their own range,
            and values at that of the first training batch.
        batch_size: samples in a calibration batch, for arrays.
        steps: number of calibration batches; all by default.
        calibration: "quantized" or "float", as of `quantize`.
        vitis_compat: with the reference's mistakes.
        progress: show a progress bar over the calibration batches.
        calib_labels: labels of the calibration samples, as of `quantize`.

    Returns:
        The model to train; `deploy_model` makes a `Quantized` of it afterwards.

    Raises:
        DataError: `init_quant` without calibration data.
        ModelError: the model cannot be read.
        StrategyError: the strategy does not fit the model.
    """
    strategy = as_strategy(strategy)
    if init_quant and calib_data is None:
        raise DataError(
            "qat_model: init_quant=True calibrates and needs calib_data; pass it, or init_quant=False"
        )
    if init_quant:
        start = quantize(model, strategy, calib_data, batch_size=batch_size, steps=steps,
                         calibration=calibration, vitis_compat=vitis_compat, progress=progress,
                         calib_labels=calib_labels)  # fmt: skip
        graph, rows, plan, encodings = start.corrected, start.rows, start.plan, start.calibrated
        report = start.report
    else:
        prepared = prepare(model, strategy, vitis_compat=vitis_compat)
        plan = prepared.plan
        graph, rows = instrument(prepared.graph, plan)
        encodings, report = solve_weights(graph, plan, vitis_compat=vitis_compat), prepared.report
    make = partial(QATModel, recipe=_recipe(graph, strategy, report, calibration, vitis_compat))
    trainable: QATModel = raise_model(graph, _live(graph, rows, plan, encodings), make)
    return trainable


def _recipe(
    graph: Graph, strategy: Any, report: Iterable[str], calibration: str, vitis_compat: bool
) -> dict[str, Any]:
    candidates = None if graph.candidates is None else sorted(graph.candidates)
    return {
        "strategy": {"name": strategy.name, **_text(strategy)},
        "calibration": calibration,
        "vitis_compat": vitis_compat,
        "candidates": candidates,
        "report": list(report),
        "origins": {n.name: list(n.origin) for n in graph.nodes},
    }  # fmt: skip


def _text(strategy: Any) -> dict[str, Any]:
    """The strategy as what it changes in its built-in, which keeps who said what; else as a whole."""
    short = {"base": strategy.base, "overrides": strategy.overrides()}
    return short if strategy_of(short).digest == strategy.digest else {"document": strategy.dump(verbose=2)}


def strategy_of(saved: Mapping[str, Any]) -> Any:
    """The strategy that a recipe carries."""
    if "document" in saved:
        return Strategy.from_dict(saved["document"], saved["name"])
    return Strategy.builtin(saved["base"]).with_overrides(saved["overrides"])


def _live(graph: Graph, rows: Mapping[str, Row], plan: Plan, encodings: Encodings) -> dict[str, Any]:
    """Live layers of the trainable model."""
    weights: dict[str, list[Row]] = {}
    for row in plan.quantized:
        if row.is_weight:
            weights.setdefault(row.layer, []).append(row)
    return {name: _live_layer(layer, rows, weights, encodings) for name, layer in graph.layers.items()}


def _live_layer(layer: Layer, rows: Mapping[str, Row], weights: Mapping[str, list[Row]],
                encodings: Encodings) -> Any:  # fmt: skip
    if layer.name in rows:
        return _of_value(layer, rows[layer.name], encodings)
    inner = make_live(layer)
    if layer.name not in weights:
        return inner
    quantizers = {row.tensor: _of_weight(layer, row, encodings) for row in weights[layer.name]}
    return QuantizedWeights(inner, quantizers, name=layer.name)


def _of_value(layer: Layer, row: Row, encodings: Encodings) -> LearnedQuantize:
    assert layer.cls is FakeQuantize
    assert row.spec is not None
    shape, known = layer.config["grid_shape"], row.name in encodings
    estimate = Estimate.NEVER if known else Estimate.ALWAYS if _only_observed(row) else Estimate.FIRST
    learned = LearnedQuantize(row.spec, shape, row.name, estimate, name=layer.name)
    if known:
        learned.assign(encodings[row.name])
    return learned


def _only_observed(row: Row) -> bool:
    """A Pof2S position does not learn; without calibration it follows the data, as in the reference."""
    assert row.spec is not None
    return row.spec.quantizer_type is QuantizerType.POF2S


def _of_weight(layer: Layer, row: Row, encodings: Encodings) -> LearnedQuantize:
    assert row.spec is not None
    shape = grid_shape(row.spec, layer.weights[row.tensor].shape)
    learned = LearnedQuantize(row.spec, shape, row.name, name=f"{row.tensor}_quantizer".replace("/", "_"))
    learned.assign(encodings[row.name])
    return learned
