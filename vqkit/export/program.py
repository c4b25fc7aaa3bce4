"""A quantized graph as plain steps: the few dozen operations that every runtime has.

Keras says the same thing in many ways (a fused activation, a ReLU layer, `keras.ops.relu`); here each thing
is said once, with explicit padding, so that a writer needs one function for each kind of step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.graph.copies import make_live
from vqkit.primitives import spec
from vqkit.primitives.qparams import QParams

if TYPE_CHECKING:
    from vqkit.quantization.quantized import Quantized

Shape = tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class Constant:
    """A weight, bias or fixed number.

    Attributes:
        name: `<layer>/<tensor>`, unique in the model.
        value: float32, as the simulation uses it.
        params: its quantizer; None where it is a float.
    """

    name: str
    value: np.ndarray
    params: QParams | None = None

    @cached_property
    def codes(self) -> np.ndarray:
        """Integers of a quantized constant, int64, zero point included."""
        assert self.params is not None
        return codes_of(self.value, self.params)


def codes_of(value: np.ndarray, params: QParams) -> np.ndarray:
    """The integers that stand for values which lie on a grid.

    Args:
        value: float32, on the grid of `params`.
        params: the quantizer that put it there.

    Returns:
        int64, shape of `value`: q of `value = (q - zero_point) * scale`.
    """
    step = np.asarray(params.scale, np.float64)
    steps = np.divide(value, step, out=np.zeros(np.shape(value)), where=step > 0)
    # Above 24 bits the highest code is no float32; its value is that of the code above it.
    return np.clip(np.rint(steps) + params.zero_point, params.spec.q_min, params.spec.q_max).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Sums:
    """What a step in integers multiplies by (the strategy's `integer_arithmetic`).

    Attributes:
        weight_scale: step of the weights, float32, one or one for each output channel.
        unit: step of the sum, likewise.
        multiplier: from the sum to the output's codes, likewise.
        output_scale: step of the output.
        bias: in units of the sum, int32; None without a bias.
        wide: sums may pass 2**24.
    """

    weight_scale: np.ndarray
    unit: np.ndarray
    multiplier: np.ndarray
    output_scale: np.float32
    bias: np.ndarray | None
    wide: bool


def int32_codes(
    bias: np.ndarray, unit: Any, lift: float = 0.0, rounded: Callable[[np.ndarray], np.ndarray] = np.rint
) -> np.ndarray:
    """A bias in units of the sum.

    Args:
        bias: float32.
        unit: step of the sum, float32, one or one for each channel.
        lift: added to the bias first.
        rounded: from numbers of units to whole ones.
    """
    codes = rounded((bias.astype(np.float64) + lift) / unit)
    return np.clip(codes, -(2.0**31), 2.0**31 - 1).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Step:
    """One operation on values.

    Attributes:
        kind: what it does; see `KINDS`.
        name: of the node it comes from; unique together with `output`.
        inputs: value ids; a constant operand is a `Constant`.
        output: value id.
        attrs: what the kind needs, in Keras' layout (channels last).
        constants: role -> constant.
        layer: name of the Keras layer.
        row: plan row of a quantize step.
        sums: how a weighted step or pool computes in integers; None where it adds floats.
        also: value ids of further outputs.
    """

    kind: str
    name: str
    inputs: tuple[int | Constant, ...]
    output: int
    attrs: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, Constant] = field(default_factory=dict)
    layer: str = ""
    row: str = ""
    sums: Sums | None = None
    also: tuple[int, ...] = ()

    @property
    def outputs(self) -> tuple[int, ...]:
        """Ids of all that it makes."""
        return (self.output, *self.also)

    @property
    def values(self) -> tuple[int, ...]:
        """Ids of the values it reads."""
        return tuple(v for v in self.inputs if isinstance(v, int))


@dataclass(frozen=True, eq=False)
class Program:
    """All steps of a quantized model.

    Attributes:
        name: the model's name.
        inputs: input name -> value id.
        outputs: output name -> value id.
        steps: in topological order.
        shapes: value id -> shape, batch first.
        dtypes: value id -> dtype.
        encodings: value id of a quantized value -> its quantizer.
    """

    name: str
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    steps: tuple[Step, ...]
    shapes: Mapping[int, Shape]
    dtypes: Mapping[int, str]

    @cached_property
    def producers(self) -> dict[int, Step]:
        """Value id -> the step that makes it."""
        return {v: s for s in self.steps for v in s.outputs}

    @cached_property
    def readers(self) -> dict[int, list[Step]]:
        """Value id -> the steps that read it."""
        found: dict[int, list[Step]] = {v: [] for v in self.shapes}
        for step in self.steps:
            for v in dict.fromkeys(step.values):
                found[v].append(step)
        return found

    @cached_property
    def grids(self) -> dict[int, QParams]:
        """Value id -> the grid its values lie on, where they lie on one."""
        found: dict[int, QParams] = {}
        for step in self.steps:
            given = [found.get(v) for v in step.values]
            if step.kind == "quantize":
                found[step.output] = step.attrs["params"]
            elif _keeps(step) and given and given[0] is not None and _per_tensor(given[0]):
                found.update(dict.fromkeys(step.outputs, given[0]))
        return found

    @property
    def quantizers(self) -> Iterator[Step]:
        """The quantize steps, in order."""
        return (s for s in self.steps if s.kind == "quantize")


def output_names(inputs: Iterable[str], count: int) -> list[str]:
    """Names of a model's outputs in every file: "output", or "output_0" and so on; none is an input's.

    Args:
        inputs: names of the inputs.
        count: number of outputs.
    """
    names, taken = ["output"] if count == 1 else [f"output_{i}" for i in range(count)], set(inputs)
    while taken & set(names):
        names = [f"{name}_" for name in names]
    return names


def _keeps(step: Step) -> bool:
    return step.kind in KEEPS_GRID or bool(step.attrs.get("moves"))


def _per_tensor(params: QParams) -> bool:
    return not params.spec.per_channel


KEEPS_GRID = ("max_pool", "global_max", "pad", "crop", "reshape", "transpose", "repeat", "identity", "cast")
"""Steps whose outputs are some of their inputs (or zeros): a tensor on a grid stays on it."""


def framework(params: QParams) -> bool:
    """Whether TensorFlow's own fake-quant op computes this quantizer."""
    return spec.framework_kernel(params.spec)


def with_int32_biases(program: Program) -> Program:
    """The program with each bias at the nearest multiple of its accumulator's step.

    On power-of-two grids most biases are such multiples already. On float scales they move by at most half a
    step of the accumulator.

    Args:
        program: from `lower`.

    Returns:
        A new program; moved biases have no quantizer of their own any more.
    """
    steps = tuple(_moved(program, s) for s in program.steps)
    return replace(program, steps=steps)


def _moved(program: Program, step: Step) -> Step:
    bias, kernel = step.constants.get("bias"), step.constants.get("kernel")
    grid = program.grids.get(step.values[0]) if step.values else None
    if bias is None or kernel is None or kernel.params is None or grid is None:
        return step
    scales = np.asarray(kernel.params.scale, np.float64).reshape(-1)
    if scales.size not in (1, bias.value.size) or not np.all(scales > 0):
        return step
    unit = float(grid.scale) * scales
    value = (np.rint(bias.value.astype(np.float64) / unit) * unit).astype(np.float32)
    if np.array_equal(value, bias.value):
        return step
    return replace(step, constants={**step.constants, "bias": Constant(bias.name, value)})


def live_with_biases(quantized: Quantized, program: Program) -> Mapping[str, Any]:
    """The live layers of a quantized model with a program's biases; the model keeps its own.

    Args:
        quantized: a `Quantized`.
        program: whose biases.

    Returns:
        Layer name -> live object.
    """
    live = dict(quantized.live)
    for step in program.steps:
        bias = step.constants.get("bias")
        if bias is None:
            continue
        old = live[step.layer]
        if np.array_equal(np.asarray(old.bias), bias.value):
            continue
        layer = quantized.graph.layers[step.layer]
        live[step.layer] = make_live(layer)
        live[step.layer].set_weights([np.asarray(w) for w in old.get_weights()])
        live[step.layer].bias.assign(bias.value)
    return live
