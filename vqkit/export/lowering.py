"""From a quantized model to plain steps, layer class by layer class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import ModelError
from vqkit.export.float_layers import Masks, form_serves, put_masks, put_traced
from vqkit.export.layers import FORMS, TAKES_INTEGERS
from vqkit.export.program import Constant, Program, Shape, Step, Sums, int32_codes, output_names
from vqkit.graph.ir import Layer, Node, Ref, refs
from vqkit.graph.passes.match import activation_name
from vqkit.graph.passes.simplify import WEIGHTED
from vqkit.graph.state import recurrent_states
from vqkit.quantization.solve import bake

if TYPE_CHECKING:
    from vqkit.quantization.quantized import Quantized


def lower(quantized: Quantized) -> Program:
    """The steps of a quantized model, with its weights on their grids.

    Args:
        quantized: a `Quantized`.

    Returns:
        The program.

    Raises:
        ModelError: a layer has no form in the runtimes; it is named, with what to do.
    """
    return _Lowering(quantized).program()


class LoweringContext:
    """What a form sees of one call of a layer, and where it puts its steps.

    Attributes:
        layer: the Keras layer.
        config: its configuration.
        node: the call.
    """

    def __init__(self, lowering: _Lowering, node: Node) -> None:
        self._lowering, self.node = lowering, node
        self.layer: Layer = lowering.graph.layer_of(node)
        self.config: Mapping[str, Any] = self.layer.config
        given = _flat((node.args, *_tensors(node.kwargs)))
        self.is_value = [isinstance(a, Ref) for a in given]
        as_given = self.layer.kind in TAKES_INTEGERS
        self.operands = [
            a if not isinstance(a, Ref) else a.id if as_given else lowering.in_float32(a.id) for a in given
        ]
        self.last: int | Constant = self.operands[0]
        self._made = 0

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    def shape(self, value: Any = None) -> Shape:
        """Shape of a value; of the first operand by default."""
        value = self.last if value is None else value
        return value.value.shape if isinstance(value, Constant) else self._lowering.shapes[value]

    @property
    def out_shape(self) -> Shape:
        """Shape of the node's output."""
        return self._lowering.shapes[self.node.output]

    def constant(self, tensor: str) -> Constant | None:
        """One of the layer's weights, None where it has no such weight."""
        return self._lowering.constant(self.layer, tensor)

    def number(self, role: str, value: Any) -> Constant:
        """A fixed array of this call that is no weight."""
        return Constant(f"{self.name}/{role}", np.asarray(value, np.float32))

    def argument(self, name: str, position: int, default: Any = None) -> Any:
        """An argument of an operation: as called, else as the operation was made, else the default."""
        if name in self.node.kwargs:
            return self.node.kwargs[name]
        if len(self.node.args) > position:
            return self.node.args[position]
        return getattr(self.layer.source, name, default)

    def put(
        self,
        kind: str,
        *,
        inputs: tuple[int | Constant, ...] | None = None,
        shape: Shape | None = None,
        constants: Mapping[str, Constant | None] | None = None,
        **attrs: Any,
    ) -> None:
        """Append a step that reads the last one; `shape` where it differs from the node's output shape."""
        self._made += 1
        given = {k: c for k, c in (constants or {}).items() if c is not None}
        inputs = (self.last,) if inputs is None else inputs
        output = self._lowering.value(self.out_shape if shape is None else shape)
        self._lowering.steps.append(
            Step(
                kind,
                self.name if self._made == 1 else f"{self.name}.{self._made}",
                inputs,
                output,
                attrs,
                given,
                self.layer.name,
            )
        )
        self.last = output

    def refuse(self, why: str, way_out: str) -> ModelError:
        """The error for a call that the layer's form does not have."""
        return NoLoweringError(f"layer {self.name!r} ({self.layer.kind}) cannot be exported: {why}. {way_out}")


class NoLoweringError(ModelError):
    """A call that a layer's form does not have; it is traced instead."""


class _Lowering:
    def __init__(self, quantized: Quantized) -> None:
        self.quantized, self.graph = quantized, quantized.graph
        self.baked = bake(quantized.corrected, quantized.encodings, quantized.plan)
        self.known = {r.name: r for r in quantized.plan.quantized if r.is_weight}
        self.shapes: dict[int, Shape] = {v: tuple(x.shape) for v, x in self.graph.values.items()}
        given = set(self.graph.inputs.values())
        self.dtypes = {v: x.dtype if v in given else "float32" for v, x in self.graph.values.items()}
        self.steps: list[Step] = []
        self._casts: dict[tuple[int, str], int] = {}
        self.masks: Masks = {}
        self.traced: set[int] = set()
        """Values of traced calls and quantizers: their types are what they are, not what Keras states."""
        self.reshaped: set[int] = set()
        """Values of another shape than Keras states."""
        self._constants: dict[str, Constant] = {}

    def value(self, shape: Shape, dtype: str = "float32") -> int:
        fresh = max(self.shapes) + 1
        self.shapes[fresh], self.dtypes[fresh] = tuple(shape), dtype
        return fresh

    def in_float32(self, value: int) -> int:
        """The value as float32, the type in which forms compute; an input may have another."""
        return self.in_type(value, "float32")

    def in_type(self, value: int, dtype: str) -> int:
        """The value in a type."""
        if self.dtypes[value] == dtype:
            return value
        if (value, dtype) not in self._casts:
            self._casts[value, dtype] = self._cast(value, dtype)
        return self._casts[value, dtype]

    def type_of(self, value: int) -> str:
        """The type that a value has in the Keras model."""
        return self.dtypes[value] if value in self.traced else self.graph.values[value].dtype

    def _cast(self, value: int, dtype: str) -> int:
        name = next((k for k, v in self.graph.inputs.items() if v == value), None)
        name = next(s.name for s in self.steps if value in s.outputs) if name is None else name
        output = self.value(self.shapes[value])
        self.dtypes[output] = dtype
        self.steps.append(Step("cast", f"{name}/{dtype}", (value,), output, {"dtype": dtype}))
        return output

    def constant(self, layer: Layer, tensor: str) -> Constant | None:
        name = f"{layer.name}/{tensor}"
        if tensor not in layer.weights:
            return None
        if name not in self._constants:
            weights = self.baked.layers[layer.name].weights
            params = self.quantized.encodings[name] if name in self.known else None
            self._constants[name] = Constant(name, np.asarray(weights[tensor], np.float32), params)
        return self._constants[name]

    def program(self) -> Program:
        for name, value in self.graph.inputs.items():
            if self.dtypes[value] not in INPUT_TYPES:
                raise ModelError(
                    f"input {name!r} cannot be exported: it is {self.dtypes[value]}. Allowed: "
                    f"{', '.join(INPUT_TYPES)}; or export keras or saved_model"
                )
        for node in self.graph.nodes:
            self._visit(node)
        inputs, outputs = dict(self.graph.inputs), self._outputs()
        return Program(self.graph.name, inputs, outputs, tuple(self.steps), self.shapes, self.dtypes)

    def _visit(self, node: Node) -> None:
        layer = self.graph.layer_of(node)
        _refuse_strange(node, layer)
        if node.layer in self.quantized.rows:
            row = self.quantized.rows[node.layer]
            source = self.in_float32(node.inputs[0])
            attrs = {"params": self.quantized.encodings[row.name]}
            self.steps.append(Step("quantize", node.name, (source,), node.output, attrs, {}, layer.name, row.name))
            self.traced.add(node.output)
            if source in self.reshaped:
                self.reshaped.add(node.output)
                self.shapes[node.output] = self.shapes[source]
            put_masks(self, node)
            return
        _refuse_type(node, layer, self.graph.values[node.output].dtype)
        form: Callable[[LoweringContext], None] | None = FORMS.get(layer.kind)
        if form is None or not form_serves(self, node):
            put_traced(self, node)
            return
        site, before = LoweringContext(self, node), len(self.steps)
        try:
            form(site)
            if layer.kind in WEIGHTED or layer.kind in _FUSING:
                _activate(site)
        except NoLoweringError:
            del self.steps[before:]
            put_traced(self, node)
            return
        if len(self.steps) == before:
            site.put("identity")
        self.steps[-1] = replace(self.steps[-1], output=node.output, sums=self._sums(layer))
        put_masks(self, node)

    def _sums(self, layer: Layer) -> Sums | None:
        if "multiplier" not in layer.weights:
            return None
        found = {k: layer.weights[k] for k in ("weight_scale", "unit", "multiplier")}
        bias = self.constant(layer, "bias")
        codes = None if bias is None else int32_codes(bias.value, found["unit"])
        scale = np.float32(layer.weights["output_scale"])
        return Sums(**found, output_scale=scale, bias=codes, wide=bool(layer.config.get("wide")))

    def _outputs(self) -> dict[str, int]:
        ids = self.graph.outputs
        names = output_names(self.graph.inputs, len(ids))
        found = [v if v in self.traced else self.in_type(v, self.graph.values[v].dtype) for v in ids]
        return dict(zip(names, found, strict=True))


INPUT_TYPES = ("float32", "float64", "float16", "uint8", "int8", "int16", "int32", "int64", "bool")
"""Types that an input may have; inside all is float32."""

_FUSING = ("Conv1D", "Conv3D", "SeparableConv1D", "SeparableConv2D", "DepthwiseConv1D")


def _activate(site: LoweringContext) -> None:
    if activation_name(site.layer) != "linear":
        FORMS["Activation"](site)


def _refuse_strange(node: Node, layer: Layer) -> None:
    where = f"layer {node.name!r} ({layer.kind}) cannot be exported"
    if layer.config.get("data_format") == "channels_first":
        raise ModelError(
            f"{where}: it is channels_first. Build the model with channels_last; its ONNX file "
            "is channels_first inside all the same"
        )
    if layer.source is not None and recurrent_states(layer.source):
        raise ModelError(
            f"{where}: it is stateful, and a file keeps nothing from one batch to the next. "
            "Build it with stateful=False, or export keras or saved_model"
        )


def _refuse_type(node: Node, layer: Layer, dtype: str) -> None:
    where = f"layer {node.name!r} ({layer.kind}) cannot be exported"
    if dtype in ("float16", "bfloat16"):
        raise ModelError(
            f"{where}: it computes in {dtype}, and the files compute in float32 and integers. "
            "Quantize a copy of the model in float32 (docs/export.md, Types), or export keras "
            "or saved_model"
        )


def _tensors(kwargs: Mapping[str, Any]) -> list[Any]:
    return [v for v in kwargs.values() if any(True for _ in refs(v))]


def _flat(structure: Any) -> list[Any]:
    if isinstance(structure, (list, tuple)):
        return [leaf for item in structure for leaf in _flat(item)]
    return [structure]
