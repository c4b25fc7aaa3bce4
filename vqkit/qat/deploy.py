"""From a trained model to the `Quantized` that is evaluated, recorded and exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vqkit.errors import ModelError
from vqkit.graph.copies import read_layer
from vqkit.graph.ir import Graph, Layer
from vqkit.graph.keras_io import lower
from vqkit.primitives.qparams import QParams
from vqkit.primitives.reference import value_range
from vqkit.qat.batch_norm import FoldedBatchNorm
from vqkit.qat.layers import LearnedQuantize, QuantizedWeights
from vqkit.qat.model import QATModel, strategy_of
from vqkit.quantization.plan import Plan, Row
from vqkit.quantization.planner import resolve
from vqkit.quantization.prepare import instrument
from vqkit.quantization.quantized import Quantized
from vqkit.quantization.refine import refine
from vqkit.quantization.refine.integer_arithmetic import in_integers
from vqkit.quantization.refine.outside import lines, weights_outside
from vqkit.quantization.solve import Encodings

if TYPE_CHECKING:
    import keras


def deploy_model(model: keras.Model) -> Quantized:
    """Fix what training has arrived at: weights on their grids, trained thresholds as positions.

    The plan is made anew from the strategy that the model carries, every quantizer's range becomes the
    decision for its tensor, the strategy's conversion and device adjustments run, and the result is audited.
    As `vqkit.deploy_model` it also writes the file that the strategy's finalize section asks for.

    Args:
        model: from `qat_model`, trained or not, also after it was saved and loaded; it is not changed.

    Returns:
        A `Quantized` whose float weights (`corrected`) are the trained ones.

    Raises:
        ModelError: it is no such model, or a tensor has no range yet.
        AuditError: what was planned is not what the model applies.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> x, y = np.random.default_rng(0).normal(size=(16, 4)).astype("float32"), np.arange(16) % 3
        >>> trained = vqkit.qat_model(model, "pof2s", x)
        >>> trained.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> history = trained.fit(x, y, verbose=0)
        >>> vqkit.deploy_model(trained).model.output_shape
        (None, 3)
    """
    if not isinstance(model, QATModel):
        raise ModelError(f"deploy_model: expected a model from qat_model, got {type(model).__name__}")
    recipe = model.recipe
    strategy = replace(strategy_of(recipe["strategy"]), name=recipe["strategy"]["name"])
    compat = bool(recipe["vitis_compat"])
    bare = _unwrap(model, recipe)
    plan = resolve(strategy, bare.graph, vitis_compat=compat)
    graph, rows = instrument(bare.graph, plan)
    trained = _encodings(bare, plan)
    refined, adjusted = refine(graph, rows, trained, strategy.refine, vitis_compat=compat)
    notes: tuple[str, ...] = ()
    if strategy.refine.integer_arithmetic:
        form = in_integers(graph, graph, rows, plan, refined)
        graph, notes = form.corrected, form.report
    beyond = tuple(lines(weights_outside(graph, plan, refined), plan))
    result = Quantized(
        plan,
        refined,
        trained,
        strategy,
        graph,
        graph,
        bare.graph,
        rows,
        (*recipe["report"], *adjusted, *notes, *beyond),
        {},
        recipe["calibration"],
        compat,
        beyond,
    )
    result.audit()
    return result


@dataclass(frozen=True, eq=False)
class _Bare:
    """A trained model without its quantizers.

    Attributes:
        graph: trained float weights.
        of_weights: row name -> quantizer.
        of_values: value id -> the quantizers that stood on it.
    """

    graph: Graph
    of_weights: Mapping[str, LearnedQuantize]
    of_values: Mapping[int, list[LearnedQuantize]]


def _unwrap(model: QATModel, recipe: Mapping[str, Any]) -> _Bare:
    graph = lower(model)
    of_weights: dict[str, LearnedQuantize] = {}
    for name, layer in list(graph.layers.items()):
        if isinstance(layer.source, QuantizedWeights):
            graph.layers[name] = _inner(layer.source, name)
            of_weights |= {q.tensor: q for q in layer.source.quantizers}
    of_values: dict[int, list[LearnedQuantize]] = {}
    for node in [n for n in graph.nodes if isinstance(graph.layer_of(n).source, LearnedQuantize)]:
        node = graph.node(node.name)
        of_values.setdefault(node.inputs[0], []).append(graph.layer_of(node).source)
        graph.bypass(node)
    names = _first_names(graph, of_values)
    graph.nodes = [replace(n, name=names.get(n.name, n.name)) for n in graph.nodes]
    graph.nodes = [replace(n, origin=tuple(recipe["origins"].get(n.name, n.origin))) for n in graph.nodes]
    graph.candidates = None if recipe["candidates"] is None else set(recipe["candidates"])
    return _Bare(graph, of_weights, of_values)


def _inner(wrapper: QuantizedWeights, name: str) -> Layer:
    """The layer inside, with the batch norm that trained with it folded in."""
    layer = read_layer(wrapper.layer, name)
    if not isinstance(wrapper, FoldedBatchNorm):
        return layer
    return layer.with_(config={"use_bias": True}, weights=wrapper.folded_weights())


def _first_names(graph: Graph, of_values: Mapping[int, list[LearnedQuantize]]) -> dict[str, str]:
    """Nodes under another name than in the plan: reading a model again may number a layer's calls anew."""
    layers = {n.name: n.layer for n in graph.nodes}
    stood = [(n, q.tensor.rpartition("/")[0]) for n in graph.nodes for v in n.outputs for q in of_values.get(v, ())]
    return {node.name: name for node, name in stood if layers.get(name) == node.layer}


def _encodings(bare: _Bare, plan: Plan) -> Encodings:
    return {row.name: _decision(bare, row) for row in plan.quantized}


def _decision(bare: _Bare, row: Row) -> QParams:
    if row.is_weight:
        params = bare.of_weights[row.name].params
        if not params.spec.pow2:
            return params
        f_min, f_max = value_range(bare.graph.layers[row.layer].weights[row.tensor], params.spec)
        return QParams(params.spec, f_min, f_max, params.pos)
    assert row.value is not None
    named = [q for q in bare.of_values.get(row.value, ()) if q.tensor == row.name]
    if len(named) != 1:
        raise ModelError(f"{row.name}: the model has {len(named)} quantizers for this tensor, the plan has one")
    return named[0].params
