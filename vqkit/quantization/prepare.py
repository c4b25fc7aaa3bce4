"""A model and a strategy as a prepared graph with its plan, and FakeQuantize put in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.digest import of_json
from vqkit.errors import ModelError, StrategyError
from vqkit.graph.ir import Graph, Layer
from vqkit.graph.keras_io import lower
from vqkit.graph.keras_layers import inner_kinds
from vqkit.graph.passes import optimize, to_device_form
from vqkit.graph.passes.select import leave_float, select
from vqkit.quantization.layer_kinds import refuse_rounded_grids, rounding_layer
from vqkit.quantization.plan import FloatRow, Plan, QuantizedRow
from vqkit.quantization.planner import resolve
from vqkit.strategy import Strategy, resolve_name_or_path

if TYPE_CHECKING:
    import keras

QUANTIZERS = ("FakeQuantize", "LearnedQuantize")


@dataclass(frozen=True, eq=False)
class PreparedModel:
    """A model ready to be quantized.

    Attributes:
        optimized: float graph after the optimize pipeline; computes what the user's model computes.
        graph: the same in the device's form; what the plan is about.
        plan: every tensor's decision.
        report: what each pass did.
    """

    optimized: Graph
    graph: Graph
    plan: Plan
    report: tuple[str, ...]


def prepare(model: keras.Model, strategy: Strategy, *, vitis_compat: bool = False) -> PreparedModel:
    """Lower, optimize and plan.

    Args:
        model: a built functional or Sequential Keras model; it is not changed.
        strategy: what is wanted.
        vitis_compat: with the reference's mistakes.

    Returns:
        The prepared model.

    Raises:
        ModelError: the model cannot be read.
        StrategyError: a layer name is unknown, or an override reaches nothing.
    """
    return planned(graphs(lower(model), strategy, vitis_compat=vitis_compat), strategy, vitis_compat)


@dataclass(frozen=True, eq=False)
class Graphs:
    """What the passes make of a model; the same for all strategies with the same `graphs_key`.

    Attributes:
        selected: the user's model with the candidates marked.
        optimized: after the optimize pipeline.
        device: in the device's form.
        report: what each pass did.
    """

    selected: Graph
    optimized: Graph
    device: Graph
    report: tuple[str, ...]

    @cached_property
    def kinds(self) -> list[str]:
        """Class names of all layers, and of custom layers inside layers."""
        layers = [layer for graph in (self.selected, self.device) for layer in graph.layers.values()]
        return [kind for layer in layers for kind in (layer.kind, *sorted(inner_kinds(layer)))]


def graphs(lowered: Graph, strategy: Strategy, *, vitis_compat: bool = False) -> Graphs:
    """Select, optimize and convert a model, as a strategy's pipelines say.

    Args:
        lowered: the user's model.
        strategy: gives the part of the model and the pipelines.
        vitis_compat: with the reference's mistakes.

    Returns:
        The graphs that a plan can be made on.

    Raises:
        ModelError: the model is quantized already, or a weight is NaN or Inf.
        StrategyError: a layer name is unknown.
    """
    _check_float(lowered)
    _check_weights(lowered)
    graph = select(
        lowered,
        input_layers=strategy.input_layers,
        output_layers=strategy.output_layers,
        ignore_layers=strategy.ignore_layers,
        vitis_compat=vitis_compat,
    )
    whole, ignored = graph, () if vitis_compat else strategy.ignore_layers
    if ignored:
        whole = select(lowered, input_layers=strategy.input_layers, output_layers=strategy.output_layers)

    def leave(some: Graph) -> Graph:
        return leave_float(some, lowered, ignored) if ignored else some

    extra = strategy.extra_layers and not vitis_compat
    optimized = optimize(whole, strategy.optimize, vitis_compat=vitis_compat, leave=leave, extra_layers=extra)
    device = to_device_form(leave(optimized.graph), strategy.quantize, vitis_compat=vitis_compat)
    return Graphs(graph, optimized.graph, device.graph, (*lowered.notes, *optimized.report, *device.report))


def _check_float(graph: Graph) -> None:
    # Quantizing on top would measure the difference to a model that has lost its precision before.
    found = [name for name, layer in graph.layers.items() if layer.kind in QUANTIZERS]
    if found:
        raise ModelError(
            f"layer {found[0]!r} is a quantizer of vqkit: the model is quantized already. Quantize the float "
            "model it was made from; to write a quantized model in another format, vqkit.export it or its run"
        )
    for name, layer in graph.layers.items():
        mode = getattr(layer.source, "quantization_mode", None)
        if mode is not None:
            raise ModelError(
                f"layer {name!r} is quantized already, by Keras ({mode}). Quantize the float model it was made from"
            )


def _check_weights(graph: Graph) -> None:
    for name, layer in graph.layers.items():
        for weight, value in layer.weights.items():
            array = np.asarray(value)
            bad = int(np.sum(~np.isfinite(array))) if array.dtype.kind == "f" else 0
            if bad:
                raise ModelError(
                    f"layer {name!r}: {bad} of {array.size} values of {weight!r} are NaN or Inf; the training"
                    " diverged or the file is damaged"
                )


def graphs_key(strategy: Strategy, vitis_compat: bool) -> str:
    """Digest of everything that `graphs` reads from a strategy."""
    parts = {
        "layers": [strategy.input_layers, strategy.output_layers, strategy.ignore_layers],
        "optimize": strategy.optimize.model_dump(mode="json"),
        "quantize": strategy.quantize.model_dump(mode="json"),
        "vitis_compat": vitis_compat,
        "extra_layers": strategy.extra_layers,
    }
    return of_json(parts)


def planned(made: Graphs, strategy: Strategy, vitis_compat: bool) -> PreparedModel:
    """Plan a strategy on its graphs.

    Args:
        made: from `graphs` with a strategy of the same `graphs_key`.
        strategy: what is wanted.
        vitis_compat: with the reference's mistakes.

    Returns:
        The prepared model.

    Raises:
        StrategyError: the strategy names what the model has not, or an override reaches nothing.
    """
    if not vitis_compat:
        _refuse_unknown(strategy, made)
    plan = resolve(strategy, made.device, vitis_compat=vitis_compat)
    refuse_rounded_grids(plan.quantized, made.device)
    return PreparedModel(made.optimized, made.device, plan, made.report)


def _refuse_unknown(strategy: Strategy, made: Graphs) -> None:
    """Raise where the strategy names layers, classes, variables or outputs that the model does not have."""
    graph = made.selected
    names = [name for g in (graph, made.device) for name in (*g.inputs, *(n.layer for n in g.nodes))]
    problems = strategy.unknown_names(dict.fromkeys(names))
    problems += strategy.unknown_types(made.kinds, _offered_kinds())
    for kind in dict.fromkeys(layer.kind for layer in graph.layers.values()):
        variables = [w for layer in graph.layers.values() if layer.kind == kind for w in layer.weights]
        nodes = [n for n in graph.nodes if graph.kind(n) == kind]
        inputs, outputs = max(len(n.inputs) for n in nodes), max(len(n.outputs) for n in nodes)
        problems += strategy.unknown_tensors(kind, variables, inputs, outputs)
    if problems:
        raise StrategyError("; ".join(problems[:3]))


def _offered_kinds() -> set[str]:
    import keras

    return {name for name in dir(keras.layers) if name[:1].isupper()}


def make_plan(strategy: Strategy | str | Path, model: keras.Model, *, vitis_compat: bool = False) -> Plan:
    """What a strategy would do to each tensor of a model, before anything runs.

    Args:
        strategy: a `Strategy`, or the name or path of one.
        model: a built functional or Sequential Keras model.
        vitis_compat: as the reference would do.

    Returns:
        The plan: a table that prints, with `.to_frame()` and `.to_json()`.

    Example:
        >>> import keras, vqkit
        >>> model = keras.Sequential([keras.Input((8, 8, 3), name="image"), keras.layers.Conv2D(4, 3, name="conv")])
        >>> [row.tensor for row in vqkit.make_plan("pof2s", model).quantized]
        ['input', 'kernel', 'bias', 'output']
    """
    return prepare(model, as_strategy(strategy), vitis_compat=vitis_compat).plan


def as_strategy(strategy: Strategy | str | Path) -> Strategy:
    """The strategy itself, or the one that a name or path stands for."""
    return strategy if isinstance(strategy, Strategy) else resolve_name_or_path(strategy)


def instrument(graph: Graph, plan: Plan) -> tuple[Graph, dict[str, QuantizedRow]]:
    """Insert a `FakeQuantize` wherever the plan quantizes a value, a `RoundToType` where it has 16 bits.

    Args:
        graph: the graph the plan was made on.
        plan: its rows.

    Returns:
        The new graph, and fake-quantize layer name -> plan row.

    Raises:
        StrategyError: a per-channel quantizer stands on an axis of unknown size.
    """
    graph = graph.copy()
    typed = {
        row.value: graph.insert_after(row.value, rounding_layer(graph, row), origin=row.origin).output
        for row in plan.typed
        if row.value is not None
    }
    rows: dict[str, QuantizedRow] = {}
    for row in plan.quantized:
        if row.value is not None:
            layer = _layer(graph, row)
            readers = None if row.readers is None else set(row.readers)
            graph.insert_after(typed.get(row.value, row.value), layer, only=readers, origin=row.origin)
            rows[layer.name] = row
    return graph, rows


def _layer(graph: Graph, row: QuantizedRow) -> Layer:
    from vqkit.quantization.layers import FakeQuantize, grid_shape

    assert row.value is not None
    try:
        shape = grid_shape(row.spec, graph.values[row.value].shape)
    except ValueError as error:
        raise StrategyError(f"{row.name}: {error}") from error
    # TensorFlow takes the layer's name for a scope, where the "@" of a second call is not allowed.
    name = graph.unique(row.quantizer.replace("@", "_"))
    return Layer(name, FakeQuantize, {"spec": row.spec, "grid_shape": shape})


def rounding_rows(graph: Graph, plan: Plan) -> dict[str, FloatRow]:
    """Name of each inserted `RoundToType` -> its plan row.

    Args:
        graph: with these layers inserted.
        plan: its rows.
    """
    readers = graph.consumers()
    return {readers[r.value][0].layer: r for r in plan.typed if r.value is not None}


def passing_through(live: Mapping[str, Any], *names: Iterable[str]) -> dict[str, Any]:
    """The live layers, the named ones replaced by the identity: what makes the float graph again.

    Layers that add integers compute in floats.

    Args:
        live: layer name -> live object.
        names: of inserted layers.
    """
    floats = {name: getattr(layer, "in_float", layer) for name, layer in live.items()}
    return {**floats, **dict.fromkeys((n for some in names for n in some), _identity)}


def _identity(x: Any) -> Any:
    return x
