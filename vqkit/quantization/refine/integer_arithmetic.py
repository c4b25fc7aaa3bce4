"""Layers that add integers, as a DPU does.

The strategy's `integer_arithmetic`: layers between float-scale grids add integers, as the runtimes do.

Fake-quantized floats are added in float32, in an order that differs from one runtime to the next; now and
then that flips a code, and later layers multiply the difference. Integer sums have no order. Power-of-two
grids need none of this: their float32 sums are integers times a power of two.

Layers that add up integers and scale the sum once, as the kernels of integer runtimes do.

What they read lies on a grid, so its codes are known; sums of products of codes are the same in any order.

    sum    = Σ (code of input) · (code of weight) + round(bias / (input_scale · weight_scale))
    result = round_half_even(float32(sum) · multiplier) · output_scale
    multiplier = input_scale · weight_scale / output_scale   in float32

The quantizer behind clips the result. LiteRT's XNNPACK kernels and ONNX Runtime's QLinearConv compute so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import keras
import numpy as np

from vqkit.errors import StrategyError
from vqkit.graph.ir import Graph, Layer, Node
from vqkit.graph.passes.match import activation_name
from vqkit.graph.passes.simplify import KERNEL
from vqkit.primitives.qparams import QParams
from vqkit.quantization.layer_kinds import KEEPS_GRID
from vqkit.quantization.plan import Plan, QuantizedRow
from vqkit.quantization.solve import Encodings

KEY = "integer_arithmetic"
SCALES = ("input_scale", "weight_scale", "unit", "multiplier", "output_scale")
"""Variables of such layers besides kernel and bias; `unit` is the step of the sum."""
BITS = 8
_EXACT_FLOAT32 = 2.0**24
_POOLS = ("AveragePooling2D", "GlobalAveragePooling2D")
# A channel without weights has no step; this share of the output's step holds its bias.
_DEAD_SHARE = 2.0**-8


@dataclass(frozen=True, eq=False)
class InIntegerForm:
    """A graph whose layers compute in integers where they can.

    Attributes:
        graph: with float weights as they were quantized.
        corrected: the same with the weights that refinement corrected.
        report: what was done, and which layers were left.
    """

    graph: Graph
    corrected: Graph
    report: tuple[str, ...]


def in_integers(
    graph: Graph, corrected: Graph, rows: Mapping[str, QuantizedRow], plan: Plan, encodings: Encodings
) -> InIntegerForm:
    """Let layers compute in integers: their input, weights and output lie on float-scale grids of <= 8 bits.

    Args:
        graph: with fake-quantize layers inserted.
        corrected: the same with corrected weights.
        rows: fake-quantize layer name -> plan row.
        plan: says which weights are quantized.
        encodings: the decisions.

    Returns:
        New graphs and a report.

    Raises:
        StrategyError: no layer can.
    """
    finder = _IntegerFinder(graph, rows, plan, encodings)
    found: dict[str, _Scales] = {}
    left: list[str] = []
    for node in finder.candidates():
        scales = finder.scales(node, corrected.layers[node.layer])
        if isinstance(scales, str):
            left.append(f"{KEY}: {node.layer} {scales}, added in floats")
        else:
            found[node.layer] = scales
    if not found:
        why = f" ({left[0].removeprefix(KEY + ': ')})" if left else ""
        raise StrategyError(
            f"{KEY}: no layer stands between float-scale grids of up to {BITS} bits{why}. Sums on "
            f"power-of-two grids are integers already: leave {KEY} out there"
        )
    report = (f"{KEY}: {len(found)} layers add integers", *left)
    return InIntegerForm(_swapped(graph, found), _swapped(corrected, found), report)


def _swapped(graph: Graph, found: Mapping[str, _Scales]) -> Graph:
    graph = graph.copy()
    for name, scales in found.items():
        graph.layers[name] = scales.put_in(graph.layers[name])
    return graph


@dataclass(frozen=True, eq=False)
class _Scales:
    """Numbers of one layer, named as its variables; `wide` as the layers say."""

    values: Mapping[str, np.ndarray]
    wide: bool

    def put_in(self, layer: Layer) -> Layer:

        config: dict[str, Any] = {}
        if layer.kind not in _POOLS:
            config = {"wide": self.wide, "channels": int(self.values["weight_scale"].size)}
        cls = globals()[f"Integer{layer.kind}"]
        return layer.with_(cls=cls, config=config, weights={**layer.weights, **self.values})


class _IntegerFinder:
    def __init__(self, graph: Graph, rows: Mapping[str, QuantizedRow], plan: Plan, encodings: Encodings) -> None:
        self.graph, self.rows, self.encodings = graph, rows, encodings
        self.calls, self.producers, self.consumers = graph.calls(), graph.producers(), graph.consumers()
        self.outputs = set(graph.outputs)
        self.weights = {(r.layer, r.tensor): r for r in plan.quantized if r.is_weight}

    def candidates(self) -> Iterator[Node]:
        """Calls of layers that have an integer form and something quantized about them."""
        import keras

        for node in self.graph.nodes:
            layer = self.graph.layer_of(node)
            if layer.cls is not getattr(keras.layers, layer.kind, None):
                continue
            weighted = layer.kind in ("Conv2D", "DepthwiseConv2D", "Dense")
            if (weighted and (layer.name, KERNEL) in self.weights) or layer.kind in _POOLS:
                yield node

    def scales(self, node: Node, layer: Layer) -> _Scales | str:
        """The numbers, or why there are none."""
        if self.calls[node.layer] > 1:
            return f"is called {self.calls[node.layer]} times"
        if layer.config.get("data_format") == "channels_first" or activation_name(layer) != "linear":
            return "has an activation or channels first"
        given, made = self._input(node.inputs[0]), self._output(node)
        if given is None or made is None:
            return f"has no quantized {'input' if given is None else 'output of its own'}"
        if not all(map(_fits, (given, made))):
            return f"has an input or output that is no float-scale grid of up to {BITS} bits per tensor"
        if layer.kind in _POOLS:
            return self._pool(node, layer, given, made)
        return self._weighted(node, layer, given, made)

    def _input(self, value: int) -> QParams | None:
        node = self.producers.get(value)
        if node is None:
            return None
        if node.layer in self.rows:
            return self.encodings[self.rows[node.layer].name]
        return self._input(node.inputs[0]) if self.graph.kind(node) in KEEPS_GRID else None

    def _output(self, node: Node) -> QParams | None:
        """The quantizer that alone reads a node, or its ReLU."""
        for _ in range(2):
            readers = self.consumers[node.output]
            if len(readers) != 1 or node.output in self.outputs:
                return None
            node = readers[0]
            if node.layer in self.rows:
                return self.encodings[self.rows[node.layer].name]
            if not _is_relu(self.graph.layer_of(node)):
                return None
        return None

    def _pool(self, node: Node, layer: Layer, given: QParams, made: QParams) -> _Scales | str:
        window = layer.config.get("pool_size") or self.graph.values[node.inputs[0]].shape[1:-1]
        window = (window, window) if isinstance(window, int) else tuple(window)
        if None in window or layer.config.get("padding", "valid") != "valid":
            return "has padding or a window of free size"
        return _numbers(given, np.asarray([1 / prod(window)], np.float32), made)

    def _weighted(self, node: Node, layer: Layer, given: QParams, made: QParams) -> _Scales | str:
        if layer.config.get("groups", 1) != 1 or (
            layer.kind == "Dense" and len(self.graph.values[node.inputs[0]].shape) != 2
        ):
            return "has groups or more than two axes"
        kernel, row = layer.weights[KERNEL], self.weights[layer.name, KERNEL]
        params = self.encodings[row.name]
        spec = params.spec
        if spec.pow2 or spec.bit_width > BITS or spec.unsigned or np.any(params.zero_point):
            return f"has a kernel that is no symmetric float-scale grid of up to {BITS} bits"
        scale = np.broadcast_to(np.asarray(params.scale, np.float32), kernel.shape)
        outputs = (
            scale.reshape(-1, prod(kernel.shape[-2:]))
            if layer.kind == "DepthwiseConv2D"
            else (scale.reshape(-1, kernel.shape[-1]))
        )
        if np.any(outputs != outputs[:1]):
            return "has weight scales that change inside an output channel"
        per_output = outputs[0] if spec.per_channel else outputs[0, :1]
        dead = np.float32(_DEAD_SHARE) * made.scale / given.scale
        per_output = np.where(per_output > 0, per_output, dead).astype(np.float32)
        codes = np.abs(kernel) / np.where(scale > 0, scale, 1)
        sums = (
            codes.sum(axis=(0, 1)).max()
            if layer.kind == "DepthwiseConv2D"
            else (codes.reshape(-1, kernel.shape[-1]).sum(axis=0).max())
        )
        bias = layer.weights.get("bias", np.zeros(1, np.float32))
        return _numbers(given, per_output, made, float(sums) * 2.0**BITS, bias)


def _numbers(given: QParams, weight: np.ndarray, made: QParams, sums: float = 0.0, bias: Any = 0.0) -> _Scales:
    """In float32 and in this order, as the runtimes do; `sums` is the largest sum without the bias."""
    unit = np.float32(given.scale) * weight
    wide = bool(sums + np.abs(bias / unit).max() >= _EXACT_FLOAT32)
    given_scale, step = np.float32(given.scale), np.float32(made.scale)
    numbers = (given_scale, weight, unit, unit / step, step)
    values = dict(zip(SCALES, numbers, strict=True))
    return _Scales({k: np.asarray(v, np.float32) for k, v in values.items()}, wide)


def _fits(params: QParams) -> bool:
    spec = params.spec
    return not (spec.pow2 or spec.per_channel or spec.bit_width > BITS) and bool(params.scale > 0)


def _is_relu(layer: Layer) -> bool:
    if layer.kind == "ReLU":
        c = layer.config
        plain = not c.get("negative_slope") and not c.get("threshold")
        return plain and "max_value" in c and c["max_value"] in (None, 6.0)
    if layer.kind == "Activation":
        return activation_name(layer) in ("relu", "relu6")
    return layer.kind in ("op:Relu", "op:Relu6")


INT32 = 2.0**31


class InIntegers:
    """What the layers share; mixed into a Keras layer that is linear and channels last.

    Attributes:
        wide: sums may pass 2**24, where float32 leaves out integers; they are added in float64.
    """

    wide: bool
    bias: Any
    use_bias: bool

    def add_scales(self: Any, channels: int) -> None:
        """The scale variables; `channels` of the output, 1 where one scale serves all."""
        for name in SCALES:
            shape = () if name in ("input_scale", "output_scale") else (channels,)
            made = self.add_weight(shape=shape, initializer="ones", trainable=False, name=name, dtype="float32")
            setattr(self, name, made)

    def codes(self: Any, inputs: Any) -> Any:
        """The input's codes, its zero point taken off."""
        codes = keras.ops.round(keras.ops.cast(inputs, "float32") / self.input_scale)
        return keras.ops.cast(codes, "float64") if self.wide else codes

    def weight_codes(self: Any, shape: tuple[int, ...]) -> Any:
        """The kernel's codes; `shape` lays the scales out beside it."""
        codes = keras.ops.round(self.kernel / keras.ops.reshape(self.weight_scale, shape))
        return keras.ops.cast(codes, "float64") if self.wide else codes

    def scaled(self: Any, total: Any) -> Any:
        """From a sum of products to the values of the output grid, not clipped yet."""
        ops = keras.ops
        # Whole numbers whatever way a backend adds: it may transform its input first.
        total = ops.round(total)
        if getattr(self, "bias", None) is not None:
            bias = ops.round(ops.cast(self.bias, "float64") / ops.cast(self.unit, "float64"))
            total = total + ops.cast(ops.clip(bias, -INT32, INT32 - 1), total.dtype)
        return ops.round(ops.cast(total, "float32") * self.multiplier) * self.output_scale


class _Weighted(InIntegers):
    """Layers with a kernel."""

    def __init__(self, *args: Any, wide: bool = False, channels: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.wide, self.channels = wide, channels

    def build(self: Any, input_shape: Any) -> None:
        """With the scales."""
        super().build(input_shape)  # type: ignore[misc]
        self.add_scales(self.channels)

    def get_config(self: Any) -> dict[str, Any]:
        """With the width of the sum and the number of scales."""
        return {**super().get_config(), "wide": self.wide, "channels": self.channels}  # type: ignore[misc]

    def in_float(self: Any, inputs: Any) -> Any:
        """What the layer computes without quantization."""
        return super().call(inputs)  # type: ignore[misc]

    # Keras' own layers save kernel and bias by name and nothing else.

    def save_own_variables(self: Any, store: Any) -> None:
        """All variables, by number."""
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self: Any, store: Any) -> None:
        """All variables, by number."""
        keras.layers.Layer.load_own_variables(self, store)


@keras.saving.register_keras_serializable(package="vqkit")
class IntegerConv2D(_Weighted, keras.layers.Conv2D):
    """A convolution of codes; `wide` and `channels` as `InIntegers` says."""

    registry_kind = "Conv2D"

    def call(self, inputs: Any) -> Any:
        """Shape as of the convolution."""
        return self.scaled(self.convolution_op(self.codes(inputs), self.weight_codes((-1,))))


@keras.saving.register_keras_serializable(package="vqkit")
class IntegerDepthwiseConv2D(_Weighted, keras.layers.DepthwiseConv2D):
    """A depthwise convolution of codes."""

    registry_kind = "DepthwiseConv2D"

    def call(self, inputs: Any) -> Any:
        """Shape as of the convolution."""
        shape = (1, 1) if self.channels == 1 else (-1, self.depth_multiplier)
        total = keras.ops.depthwise_conv(
            self.codes(inputs),
            self.weight_codes(shape),
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return self.scaled(total)


@keras.saving.register_keras_serializable(package="vqkit")
class IntegerDense(_Weighted, keras.layers.Dense):
    """A product of codes."""

    registry_kind = "Dense"

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Shape (batch, units)."""
        del training
        return self.scaled(keras.ops.matmul(self.codes(inputs), self.weight_codes((-1,))))


class _Pool(InIntegers, keras.layers.Layer):
    """Average pools: a sum of codes, the share of one element in the multiplier.

    Keras' own pools are closed for variables once they are made, so they are not the base.
    """

    wide = False
    options: tuple[str, ...] = ()

    def __init__(self, **kwargs: Any) -> None:
        own = {k: kwargs.pop(k) for k in self.options if k in kwargs}
        super().__init__(**{**kwargs, "trainable": False})
        self.own = own
        self.add_scales(1)
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """With what the pool was made with."""
        return {**super().get_config(), **self.own}


@keras.saving.register_keras_serializable(package="vqkit")
class IntegerGlobalAveragePooling2D(_Pool):
    """The sum of all codes of a channel, scaled once; options as of `GlobalAveragePooling2D`."""

    registry_kind = "GlobalAveragePooling2D"
    options = ("data_format", "keepdims")

    def call(self, inputs: Any) -> Any:
        """Shape as of the pool."""
        return self.scaled(self._reduced(keras.ops.sum, self.codes(inputs)))

    def in_float(self, inputs: Any) -> Any:
        """What the pool computes without quantization."""
        return self._reduced(keras.ops.mean, inputs)

    def _reduced(self, function: Any, x: Any) -> Any:
        return function(x, axis=(1, 2), keepdims=bool(self.own.get("keepdims")))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Spatial axes gone, or 1."""
        return keras.layers.GlobalAveragePooling2D(**self.own).compute_output_shape(input_shape)


@keras.saving.register_keras_serializable(package="vqkit")
class IntegerAveragePooling2D(_Pool):
    """The sum of the codes in a window, scaled once; options as of `AveragePooling2D`."""

    registry_kind = "AveragePooling2D"
    options = ("pool_size", "strides", "padding", "data_format")

    def call(self, inputs: Any) -> Any:
        """Shape as of the pool."""
        size = self.own["pool_size"]
        area = float(size[0] * size[1]) if isinstance(size, (list, tuple)) else float(size) ** 2
        return self.scaled(self.in_float(self.codes(inputs)) * area)

    def in_float(self, inputs: Any) -> Any:
        """What the pool computes without quantization."""
        size = self.own["pool_size"]
        return keras.ops.average_pool(inputs, size, self.own.get("strides") or size, "valid")

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As of the pool."""
        return keras.layers.AveragePooling2D(**self.own).compute_output_shape(input_shape)
