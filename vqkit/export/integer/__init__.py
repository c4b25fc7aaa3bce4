"""A quantized model executed in integers by numpy: the third witness beside the simulation and the runtimes.

Power-of-two scales only. Products and sums are integers, grids differ by shifts, and each quantizer drops
bits, rounding as the strategy says (half up on the DPU), then saturates. What a DPU leaves to its host
(softmax, tanh, …) runs in Keras on the dequantized values.

Where it must equal the simulation: the simulation adds in float32, which is exact in any order while every
partial sum has at most 24 bits. `exactness` bounds the sums of each layer from its weights. Beyond that
bound the simulation rounds and may be one code off at a tie; this module does not.

A DPU's average pool is k / 2**n times the sum, the simulation's is float32(float32(sum / area) * factor).
`tests/export/integer/test_integer.py` goes through every sum of 8-bit codes for each window: both round to
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import ModelError
from vqkit.export.float_layers import KIND
from vqkit.export.integer.fixed import Fixed, Ints, TooWideError, bound, shifted
from vqkit.export.integer.ops import RULES, constant, positions
from vqkit.export.lowering import lower
from vqkit.export.program import Constant, Program, Step, codes_of
from vqkit.graph.ir import Node, map_refs
from vqkit.graph.keras_io import at_inference
from vqkit.primitives import affine
from vqkit.primitives.qparams import QParams

if TYPE_CHECKING:
    from vqkit.quantization.quantized import Quantized

FLOAT32_EXACT = 2.0**24
INT32 = 2.0**31
_SUMS = ("conv", "dense", "conv_transpose")


@dataclass(frozen=True, eq=False)
class IntegerRun:
    """What one execution gave.

    Attributes:
        codes: plan row name -> integers of that tensor, int64, zero point included.
        values: plan row name -> what they stand for, float32.
        outputs: output name -> float32.
        largest: layer -> largest absolute accumulator that was met, in units of the accumulator.
        in_float: names of steps that had no integer form.
    """

    codes: Mapping[str, Ints]
    values: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    largest: Mapping[str, float]
    in_float: tuple[str, ...]


class IntegerModel:
    """A quantized model in integers.

    Args:
        quantized: a `Quantized` all of whose scales are powers of two.
        program: the lowered model, if it is at hand.

    Raises:
        ModelError: a quantizer has a float scale (it is named), or a layer has no plain form.
    """

    def __init__(self, quantized: Quantized, *, program: Program | None = None) -> None:
        self.quantized = quantized
        self.program = lower(quantized) if program is None else program
        self._makers = {v: n for n in quantized.graph.nodes for v in n.outputs}
        for row in quantized.plan.quantized:
            if not row.spec.pow2:
                raise ModelError(
                    f"integers: {row.name} has a float scale ({row.spec.quantizer_type}); the integer "
                    "interpreter needs power-of-two scales. Quantize with pof2s or pof2s_tqt"
                )

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> IntegerRun:
        """Run a batch.

        Args:
            inputs: input name -> float32 array, batch first.

        Returns:
            Codes and values of every quantized tensor, and the outputs.
        """
        run = _Execution(self, inputs)
        for step in self.program.steps:
            # A layer that ran as a whole leaves its other steps without their operands.
            if step.output not in run.known and all(v in run.known for v in step.values):
                run.step(step)
        outputs = {name: run.floats(v) for name, v in self.program.outputs.items()}
        return IntegerRun(run.codes, run.values, outputs, run.largest, tuple(run.in_float))

    def exactness(self) -> Any:
        """How large sums can get.

        Returns:
            A pandas table, one row for each layer that adds products: the bound on the accumulator in bits,
            whether float32 holds it exactly whatever the order of adding, and whether int32 does.
        """
        import pandas as pd

        rows = [self._bound(s) for s in self.program.steps if s.kind in _SUMS]
        return pd.DataFrame(
            [r for r in rows if r is not None], columns=["layer", "bits", "exact_in_float32", "fits_int32"]
        )

    def _bound(self, step: Step) -> tuple[str, float, bool, bool] | None:
        grid, kernel = self.program.grids.get(step.values[0]), constant(step.constants["kernel"])
        if grid is None or kernel is None:
            return None
        top = np.asarray(max(-grid.spec.q_min, grid.spec.q_max), np.int64)
        rank = kernel.codes.ndim
        axes = tuple(range(rank - 2 if step.attrs.get("depthwise") else rank - 1))
        largest = bound(top, kernel.codes, axis=(0, 1, 3) if step.kind == "conv_transpose" else axes)
        bias = constant(step.constants["bias"]) if "bias" in step.constants else None
        if bias is not None:
            # In units of the accumulator, or of the bias where that is finer.
            pos = int(np.max(positions(grid))) + np.max(kernel.pos)
            used = np.any(bias.codes)
            finest = max(pos, np.max(bias.pos)) if used else pos
            largest = largest * 2.0 ** float(finest - pos)
            largest += float(np.max(np.abs(bias.codes) * 2.0 ** (finest - np.asarray(bias.pos, np.float64))))
        bits = np.log2(max(largest, 1))
        return step.layer, round(float(bits), 1), largest < FLOAT32_EXACT, largest < INT32


class _Execution:
    """Values on their way through one execution: fixed point where possible, else float32."""

    def __init__(self, model: IntegerModel, inputs: Mapping[str, np.ndarray]) -> None:
        self.model, self.program = model, model.program
        self.known: dict[int, Fixed | np.ndarray] = {}
        self.codes: dict[str, Ints] = {}
        self.values: dict[str, np.ndarray] = {}
        self.largest: dict[str, float] = {}
        self.in_float: list[str] = []
        for name, value in self.program.inputs.items():
            given = np.asarray(inputs[name])
            self.known[value] = given.astype(self.program.dtypes[value])

    def floats(self, value: int) -> np.ndarray:
        """A value as float32."""
        known = self.known[value]
        return known.values if isinstance(known, Fixed) else known

    def step(self, step: Step) -> None:
        """Execute one step; where it has no integer form, all that its layer gives."""
        if step.kind == "quantize":
            self._quantize(step)
            return
        given = [f for o in step.inputs if (f := self._fixed(o)) is not None]
        known = len(given) == len(step.inputs) and step.kind in RULES
        try:
            fixed = RULES[step.kind](step, given) if known else None
        except TooWideError:
            fixed = None
        if fixed is None:
            self.in_float.append(step.name)
            self._in_float(step)
            return
        if step.kind in _SUMS:
            self.largest[step.layer] = max(self.largest.get(step.layer, 0.0), float(np.abs(fixed.codes).max(initial=0)))
        self.known[step.output] = fixed

    def _fixed(self, operand: int | Constant) -> Fixed | None:
        if isinstance(operand, Constant):
            return constant(operand)
        known = self.known[operand]
        return known if isinstance(known, Fixed) else None

    def _quantize(self, step: Step) -> None:
        params: QParams = step.attrs["params"]
        spec, pos, zero = params.spec, positions(params), params.zero_point.astype(np.int64)
        source = self.known[step.values[0]]
        try:
            codes = _requantized(source, params, pos) if isinstance(source, Fixed) else None
        except TooWideError:
            codes = None
        if codes is None:
            on_grid = affine.own_kernel(self.floats(step.values[0]), params.f_min, params.f_max, params.pos, spec)
            codes = codes_of(on_grid, params) - zero
        fixed = Fixed(codes, pos)
        self.known[step.output] = fixed
        self.codes[step.row], self.values[step.row] = codes + zero, fixed.values

    def _in_float(self, step: Step) -> None:
        """The step as the simulation computes it: its activation function, or the whole Keras layer."""
        if step.kind == "cast":
            self.known[step.output] = self.floats(step.values[0]).astype(step.attrs["dtype"])
            return
        if step.kind == KIND:
            from keras.ops import convert_to_tensor

            found = step.attrs["traced"].run(*(convert_to_tensor(self.floats(v)) for v in step.values))
            self.known |= {v: np.asarray(y) for v, y in zip(step.outputs, found, strict=True)}
            return
        made = self.model._makers.get(step.output)
        function = _FUNCTIONS.get(step.kind)
        if function is not None and made is not None and step.values[0] not in made.inputs:
            self.known[step.output] = np.asarray(function(self.floats(step.values[0]), step.attrs))
            return
        self._layer(self._node(step) if made is None else made)

    def _node(self, step: Step) -> Node:
        """The call of a layer that a step is a part of: its last step gives what the layer gives."""
        later = self.program.steps[self.program.steps.index(step) :]
        return next(self.model._makers[s.output] for s in later if s.output in self.model._makers)

    def _layer(self, node: Node) -> None:
        from keras import ops, tree

        live = self.model.quantized.live[node.layer]
        args, kwargs = map_refs(lambda r: ops.convert_to_tensor(self.floats(r.id)), (node.args, dict(node.kwargs)))
        found = tree.flatten(live(*args, **at_inference(live, kwargs)))
        self.known |= {v: np.asarray(y) for v, y in zip(node.outputs, found, strict=True)}


def _requantized(source: Fixed, params: QParams, pos: Any) -> Ints:
    """Codes on another grid, less their zero point, with bits dropped as the strategy rounds."""
    spec, zero = params.spec, params.zero_point.astype(np.int64)
    # Rounding counts from the lowest code on an asymmetric grid.
    first = Fixed(np.asarray(0 if spec.symmetry else spec.q_min - zero, np.int64), pos)
    finest = np.maximum(source.pos, pos)
    above = shifted(source.at(finest) - first.at(finest), finest - pos, spec.round_mode)
    return np.clip(above + first.codes, spec.q_min - zero, spec.q_max - zero)


def _unary(x: np.ndarray, attrs: Mapping[str, Any]) -> Any:
    import keras

    name = {"swish": "silu"}.get(attrs["function"], attrs["function"])
    more = {"alpha": attrs["alpha"]} if name == "elu" else {}
    return keras.activations.get(name)(keras.ops.convert_to_tensor(x), **more)


def _relu(x: np.ndarray, attrs: Mapping[str, Any]) -> Any:
    from keras import activations

    return activations.relu(x, attrs["slope"], attrs["max_value"], attrs["threshold"])


def _softmax(name: str) -> Callable[[np.ndarray, Mapping[str, Any]], Any]:
    def function(x: np.ndarray, attrs: Mapping[str, Any]) -> Any:
        from keras import activations

        return activations.get(name)(x, axis=attrs["axis"])

    return function


_FUNCTIONS: Mapping[str, Callable[[np.ndarray, Mapping[str, Any]], Any]] = {
    "unary": _unary,
    "relu": _relu,
    "softmax": _softmax("softmax"),
    "log_softmax": _softmax("log_softmax"),
}
"""Activations behind sums in one layer: sums are integers, and this function of them is computed in float."""
