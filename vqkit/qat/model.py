"""From a float model and a strategy to a model that is trained with its quantization in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

import vqkit.graph.passes.layers  # noqa: F401  Registers what a saved model may hold.
from vqkit.errors import DataError, StrategyError
from vqkit.graph.copies import make_live
from vqkit.graph.ir import Graph, Layer
from vqkit.graph.keras_io import lower, raise_model
from vqkit.graph.passes.simplify import KERNEL, WEIGHTED
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import QuantizerType
from vqkit.qat.batch_norm import FoldedBatchNorm, Statistics, measured
from vqkit.qat.layers import Estimate, LearnedQuantize, QuantizedWeights
from vqkit.quantization.data import batches
from vqkit.quantization.float_model import in_size
from vqkit.quantization.layers import grid_shape
from vqkit.quantization.plan import Plan, QuantizedRow
from vqkit.quantization.prepare import as_strategy, instrument, prepare
from vqkit.quantization.ptq import quantize
from vqkit.quantization.quantized import Quantized
from vqkit.quantization.solve import Encodings, solve_weights
from vqkit.strategy import Strategy


def beginning(strategy: Strategy, start: Any) -> Any:
    """The strategy to calibrate with.

    Args:
        strategy: that will be trained under.
        start: another `Strategy`, or its name or path.

    Returns:
        `start` as a `Strategy`.

    Raises:
        StrategyError: it rewrites the model in another way.
    """
    first = as_strategy(start)
    for name in ("optimize", "quantize"):
        own, other = (getattr(s, name).model_dump() for s in (strategy, first))
        for key, value in own.items():
            if key != "freeze_bn_delay" and other[key] != value:
                raise StrategyError(
                    f"qat_model: start: {first.name} has {key}={other[key]!r}, {strategy.name} {value!r}; "
                    "both must rewrite the model in the same way"
                )
    return first


def taken_over(found: Quantized, plan: Plan) -> tuple[Mapping[str, QuantizedRow], Encodings]:
    """What was decided under one plan, for the quantizers of another one.

    Args:
        found: the result under the first plan.
        plan: of the strategy to train under.

    Returns:
        Fake-quantize layer name -> row of `plan`, and row name -> decision.

    Raises:
        StrategyError: the plans quantize other tensors, or a tensor on grids of different kinds.
    """
    wanted = {row.name: row for row in plan.quantized}
    odd = sorted(wanted.keys() ^ found.calibrated.keys())
    if odd:
        raise StrategyError(f"qat_model: start: {odd[0]} is quantized under one of the two strategies only")
    decided = {}
    for name, row in wanted.items():
        params = found.calibrated[name]
        for of in ("pow2", "bit_width", "per_channel", "channel_axis", "unsigned"):
            first, own = getattr(params.spec, of), getattr(row.spec, of)
            if first != own:
                raise StrategyError(f"qat_model: start: {name} has {of} {first}, to be trained with {own}")
        decided[name] = QParams(row.spec, params.f_min, params.f_max, params.pos)
    return {layer: wanted[row.name] for layer, row in found.rows.items()}, decided


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
    model: keras.Model,
    strategy: Strategy,
    calib_data: Any = None,
    *,
    init_quant: bool = True,
    batch_size: int = 32,
    steps: int | None = None,
    calibration: str = "quantized",
    vitis_compat: bool = False,
    progress: bool = False,
    calib_labels: Any = None,
    start: Any = None,
) -> QATModel:
    """A trainable Keras model that computes what the quantized one will: `compile` and `fit` as usual.

    With `train_with_bn` batch norm stays alive while it trains: it is folded anew at every step, with the
    statistics of the batch until `freeze_bn_delay` steps are done (-1: to the end).

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
        start: a strategy to calibrate with instead: weights and positions start where it leaves them. Trained
            thresholds begin nearer to their goal from "pof2s" (least squared error) than from ranges without
            overflow. Its optimize section and its tensors must be those of `strategy`.

    Returns:
        The model to train; `deploy_model` makes a `Quantized` of it afterwards.

    Raises:
        DataError: `init_quant` without calibration data.
        ModelError: the model cannot be read.
        StrategyError: the strategy does not fit the model.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
        >>> trained = vqkit.qat_model(model, "pof2s_tqt", x)
        >>> trained.compile("sgd", "mse")
        >>> history = trained.fit(x, np.zeros((16, 3)), verbose=0)
    """
    strategy = as_strategy(strategy)
    if init_quant and calib_data is None:
        raise DataError("qat_model: init_quant=True calibrates and needs calib_data; pass it, or init_quant=False")
    if start is not None and not init_quant:
        raise StrategyError("qat_model: start is a strategy to calibrate with; it needs init_quant=True")
    with_norm = strategy.optimize.train_with_bn
    if with_norm and not init_quant:
        raise StrategyError("train_with_bn: batch norm starts from measured statistics; it needs init_quant=True")
    norms: dict[str, Statistics] = {}
    if init_quant:
        folding = strategy.with_kwargs(train_with_bn=False) if with_norm else strategy
        if folding.refine.integer_arithmetic:  # It begins at deployment, when the scales stand still.
            folding = folding.with_kwargs(integer_arithmetic=False)
        data = calib_data
        if with_norm:
            data = list(in_size(batches(calib_data, batch_size=batch_size, steps=steps), model))
        first = folding if start is None else beginning(folding, start)
        found = quantize(
            model,
            first,
            iter(data) if with_norm else data,
            batch_size=batch_size,
            steps=None if with_norm else steps,
            calibration=calibration,
            vitis_compat=vitis_compat,
            progress=progress,
            calib_labels=calib_labels,
        )
        graph, rows, plan, encodings = found.corrected, found.rows, found.plan, found.calibrated
        report = found.report
        norms = measured(graph, found.live, data, _folded_norms(model, graph)) if with_norm else {}
        if start is not None:
            plan = prepare(model, folding, vitis_compat=vitis_compat).plan
            rows, encodings = taken_over(found, plan)
    else:
        prepared = prepare(model, strategy, vitis_compat=vitis_compat)
        plan = prepared.plan
        graph, rows = instrument(prepared.graph, plan)
        encodings, report = solve_weights(graph, plan, vitis_compat=vitis_compat), prepared.report
    maker = _Maker(graph, rows, plan, encodings, norms, strategy.quantize.freeze_bn_delay)
    make = partial(QATModel, recipe=_recipe(graph, strategy, report, calibration, vitis_compat))
    trainable: QATModel = raise_model(graph, maker.live(), make)
    return trainable


def _recipe(
    graph: Graph, strategy: Strategy, report: Iterable[str], calibration: str, vitis_compat: bool
) -> dict[str, Any]:
    candidates = None if graph.candidates is None else sorted(graph.candidates)
    return {
        "strategy": {"name": strategy.name, **_text(strategy)},
        "calibration": calibration,
        "vitis_compat": vitis_compat,
        "candidates": candidates,
        "report": list(report),
        "origins": {n.name: list(n.origin) for n in graph.nodes},
    }


def _text(strategy: Strategy) -> dict[str, Any]:
    """The strategy as what it changes in its built-in, which keeps who said what; else as a whole."""
    short = {"base": strategy.base, "overrides": strategy.overrides()}
    return short if strategy_of(short).digest == strategy.digest else {"document": strategy.dump(verbose=2)}


def strategy_of(saved: Mapping[str, Any]) -> Any:
    """The strategy that a recipe carries."""
    if "document" in saved:
        return Strategy.from_dict(saved["document"], saved["name"])
    return Strategy.builtin(saved["base"]).with_overrides(saved["overrides"])


def _folded_norms(model: keras.Model, graph: Graph) -> dict[str, Mapping[str, Any]]:
    """Layer name -> configuration of the batch norm that was folded into it."""
    layers = lower(model).layers
    found = {}
    for node in graph.nodes:
        for name in node.origin[1:]:
            if name in layers and layers[name].kind == "BatchNormalization" and graph.kind(node) in WEIGHTED:
                found[node.layer] = layers[name].config
    return found


@dataclass(frozen=True, eq=False)
class _Maker:
    """Makes the live layers of the trainable model."""

    graph: Graph
    rows: Mapping[str, QuantizedRow]
    plan: Plan
    encodings: Encodings
    norms: Mapping[str, Statistics]
    freeze_delay: int

    def live(self) -> dict[str, Any]:
        weights: dict[str, list[QuantizedRow]] = {}
        for row in self.plan.quantized:
            if row.is_weight:
                weights.setdefault(row.layer, []).append(row)
        return {name: self._layer(layer, weights.get(name, ())) for name, layer in self.graph.layers.items()}

    def _layer(self, layer: Layer, weights: Sequence[QuantizedRow]) -> Any:
        if layer.name in self.rows:
            return self._of_value(layer, self.rows[layer.name])
        if not weights:
            return make_live(layer)
        quantizers = {row.tensor: self._of_weight(layer, row) for row in weights}
        if layer.name in self.norms:
            return self._with_norm(layer, quantizers, self.norms[layer.name])
        return QuantizedWeights(make_live(layer), quantizers, name=layer.name)

    def _with_norm(self, layer: Layer, quantizers: Mapping[str, Any], seen: Statistics) -> FoldedBatchNorm:
        bare = layer.with_(config={"use_bias": False}, weights={KERNEL: layer.weights[KERNEL]})
        made = FoldedBatchNorm(
            make_live(bare),
            quantizers,
            len(seen.mean),
            seen.config["epsilon"],
            seen.config["momentum"],
            self.freeze_delay,
            name=layer.name,
        )
        made.assign(seen, layer.weights["bias"])
        return made

    def _of_value(self, layer: Layer, row: QuantizedRow) -> LearnedQuantize:
        shape, known = layer.config["grid_shape"], row.name in self.encodings
        # A Pof2S position does not learn; without calibration it follows the data, as in the reference.
        follows = row.spec.quantizer_type is QuantizerType.POF2S
        estimate = Estimate.NEVER if known else Estimate.ALWAYS if follows else Estimate.FIRST
        learned = LearnedQuantize(row.spec, shape, row.name, estimate, name=layer.name)
        if known:
            learned.assign(self.encodings[row.name])
        return learned

    def _of_weight(self, layer: Layer, row: QuantizedRow) -> LearnedQuantize:
        shape = grid_shape(row.spec, layer.weights[row.tensor].shape)
        name = f"{layer.name}_{row.tensor}_quantizer".replace("/", "_")
        learned = LearnedQuantize(row.spec, shape, row.name, name=name)
        learned.assign(self.encodings[row.name])
        return learned
