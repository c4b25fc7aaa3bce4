"""An ONNX graph in the making: nodes, constants, layout.

Keras keeps channels last, ONNX's convolutions and pools want them first. A value is transposed where a step
needs the other layout and not before, and keeps the layout it has through steps that do not care.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import ModelError, missing_package
from vqkit.export.onnx.quantizers import Quantizing
from vqkit.export.program import Constant, Program, Step

if TYPE_CHECKING:
    from onnx import ModelProto as ModelProto

OLDEST_OPSET = 11
_NAMES = {"float32": "FLOAT", "float64": "DOUBLE"}
_INT4_OPSET = 21
_PER_CHANNEL_OPSET = 13
_RESIZE_LEAVES_OUT = 13


class Builder:
    """An ONNX graph in the making.

    Args:
        opset: version of the operator set.

    Raises:
        ModelError: `onnx` is missing, or does not know the opset.
    """

    def __init__(self, opset: int) -> None:
        try:
            import onnx
        except ImportError as error:
            raise ModelError(missing_package("onnx", "onnx")) from error
        newest = onnx.defs.onnx_opset_version()
        if not OLDEST_OPSET <= opset <= newest:
            raise ModelError(f"onnx_opset_version: {opset} is not allowed. Allowed: {OLDEST_OPSET} to {newest}")
        self.opset = opset
        self._onnx, self._nodes = onnx, list[Any]()
        self._outer = self._nodes
        self._constants: dict[str, Any] = {}
        self._names: dict[str, int] = {}

    # --- names and constants ---

    def fresh(self, name: str) -> str:
        """A name that nothing has yet, `name` if possible."""
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return name if count == 0 else self.fresh(f"{name}_{count}")

    def reserve(self, names: Iterable[str]) -> None:
        """Keep names of inputs and outputs for them; a layer may be called the same."""
        self._names.update(dict.fromkeys(names, 1))

    def constant(self, array: Any, name: str) -> str:
        """An initializer; an equal one of that name is used again."""
        array = np.asarray(array)
        known = self._constants.get(name)
        if known is not None:
            old = self._onnx.numpy_helper.to_array(known)
            if old.dtype == array.dtype and old.shape == array.shape and np.array_equal(old, array):
                return name
        name = self.fresh(name)
        self._constants[name] = self._onnx.numpy_helper.from_array(
            np.ascontiguousarray(array).reshape(array.shape), name
        )
        return name

    def integers(self, codes: np.ndarray, bits: int, unsigned: bool, name: str, *, packed: bool = False) -> str:
        """An initializer of integers in the narrowest type that holds them and that the opset has."""
        kind = self.integer_type(bits, unsigned, packed=packed)
        if kind in ("INT4", "UINT4"):
            name = self.fresh(name)
            data_type = getattr(self._onnx.TensorProto, kind)
            self._constants[name] = self._onnx.helper.make_tensor(name, data_type, codes.shape, codes.ravel().tolist())
            return name
        return self.constant(codes.astype(kind.lower()), name)

    def integer_type(self, bits: int, unsigned: bool, *, packed: bool = False) -> str:
        """Name of the narrowest ONNX type with that many bits; two to a byte only where `packed`.

        Activations are never packed: ONNX Runtime 1.32 refuses a ReLU in front of a QuantizeLinear to int4.
        """
        width = 4 if packed and bits <= 4 and self.opset >= _INT4_OPSET else next(w for w in (8, 16, 32) if bits <= w)
        return f"{'U' if unsigned else ''}INT{width}"

    def quantizes_to(self, bits: int) -> bool:
        """Whether QuantizeLinear of this opset makes integers of that many bits."""
        return bits <= 8 or (bits <= 16 and self.opset >= _INT4_OPSET)

    def dequantizes(self, bits: int, unsigned: bool, *, per_channel: bool) -> bool:
        """Whether DequantizeLinear of this opset reads such integers."""
        fits = self.quantizes_to(bits) or (bits > 16 and not unsigned)
        return fits and (not per_channel or self.opset >= _PER_CHANNEL_OPSET)

    # --- nodes ---

    def op(self, kind: str, inputs: Sequence[str], name: str, **attrs: Any) -> str:
        """Append a node with one output; returns the output's name."""
        return self.ops(kind, inputs, [name], **attrs)[0]

    def ops(self, kind: str, inputs: Sequence[str], names: Sequence[str], **attrs: Any) -> list[str]:
        """Append a node with an output for each name; returns their names."""
        outputs = [self.fresh(n) for n in names]
        attrs = {k: v for k, v in attrs.items() if v is not None}
        self._nodes.append(
            self._onnx.helper.make_node(kind, list(inputs), outputs, name=f"{kind}:{outputs[0]}", **attrs)
        )
        return outputs

    def with_axes(self, kind: str, x: str, axes: Sequence[int], name: str, *, since: int, **attrs: Any) -> str:
        """A node whose axes were an attribute before opset `since` and are an input from then on."""
        if self.opset < since:
            return self.op(kind, [x], name, axes=list(axes), **attrs)
        return self.op(
            kind,
            [x, self.constant(np.asarray(axes, np.int64), f"axes_{'_'.join(map(str, axes))}")],
            name,
            **attrs,
        )

    def cast(self, x: str, kind: str, name: str) -> str:
        """A node that changes the type, given in ONNX's word or numpy's."""
        return self.op("Cast", [x], name, to=self.type_of(kind))

    def absent(self) -> str:
        """Stands for an input of Resize that says nothing; until opset 13 an empty tensor does."""
        return "" if self.opset >= _RESIZE_LEAVES_OUT else self.constant(np.zeros(0, np.float32), "nothing")

    def rename(self, old: str, name: str) -> str:
        """The same value under a name of its own."""
        return self.op("Identity", [old], name)

    def output(self, old: str, name: str) -> str:
        """The same value under a name that `reserve` kept for it."""
        self._nodes.append(self._onnx.helper.make_node("Identity", [old], [name], name=f"Identity:{name}"))
        return name

    def subgraph(
        self,
        name: str,
        inputs: Mapping[str, tuple[Sequence[int | None], str]],
        write: Callable[[], Sequence[str]],
    ) -> Any:
        """A graph inside a node; it may read the values around it.

        Args:
            name: its name.
            inputs: name -> shape and dtype.
            write: appends its nodes; returns the names of its outputs.

        Returns:
            The graph, an attribute of Loop or If.
        """
        around, self._nodes = self._nodes, []
        try:
            # Each output needs a node of its own in the graph.
            outputs = [self.rename(o, f"{name}/out") for o in write()]
            helper = self._onnx.helper
            given = [self._info(k, *v) for k, v in inputs.items()]
            made = [helper.make_empty_tensor_value_info(o) for o in outputs]
            return helper.make_graph(self._nodes, name, given, made)
        finally:
            self._nodes = around

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Append nodes in front of the node whose subgraph is being written, so that all graphs read what they give."""
        inside, self._nodes = self._nodes, self._outer
        try:
            yield
        finally:
            self._nodes = inside

    def _info(self, name: str, shape: Sequence[int | None], dtype: str) -> Any:
        sizes = [f"{name}_{i}" if n is None else n for i, n in enumerate(shape)]
        return self._onnx.helper.make_tensor_value_info(name, self.type_of(dtype), sizes)

    def type_of(self, dtype: str) -> int:
        """ONNX' number of a type, given in its own word or numpy's."""
        return int(getattr(self._onnx.TensorProto, _NAMES.get(dtype, dtype.upper())))

    # --- the model ---

    def model(
        self,
        *,
        graph_name: str,
        inputs: Mapping[str, tuple[Sequence[int | None], str]],
        outputs: Mapping[str, tuple[Sequence[int | None], str]],
        metadata: Mapping[str, str],
        values: Mapping[str, tuple[Sequence[int | None], str]] | None = None,
    ) -> Any:
        """Check the graph and make a model of it.

        Args:
            graph_name: its name.
            inputs: name -> shape and dtype.
            outputs: name -> shape and dtype.
            metadata: key -> text.
            values: further values to be outputs, for looking at: name -> shape and dtype.

        Returns:
            The ONNX model.
        """
        helper = self._onnx.helper

        def info(name: str, shape: Sequence[int | None], dtype: str) -> Any:
            kind = self.type_of(dtype)
            free = ["batch", *(f"{name}_{i}" for i in range(1, len(shape)))]
            sizes = [word if n is None else n for n, word in zip(shape, free, strict=False)]
            return helper.make_tensor_value_info(name, kind, sizes)

        graph = helper.make_graph(
            self._nodes,
            graph_name,
            [info(k, *v) for k, v in inputs.items()],
            [info(k, *v) for k, v in {**outputs, **(values or {})}.items()],
            list(self._constants.values()),
        )
        opset = helper.make_opsetid("", self.opset)
        model = helper.make_model(
            graph,
            opset_imports=[opset],
            producer_name="vqkit",
            ir_version=helper.find_min_ir_version_for([opset]),
        )
        helper.set_model_props(model, dict(metadata))
        self._onnx.checker.check_model(model, full_check=True)
        if model.ByteSize() >= 2**31:
            size = model.ByteSize() / 2**30
            raise ModelError(f"an ONNX file holds 2 GiB, the model has {size:.1f} GiB")
        return model


LAST, FIRST = "last", "first"
FREE = {"quantize", "binary", "affine", "relu", "unary", "ceiling", "dpu_sigmoid", "identity",
        "round_to_type",
        "prelu", "concat", "pad", "crop"}  # fmt: skip
"""Steps that work in either layout."""
SPATIAL = {"conv", "conv_transpose", "max_pool", "avg_pool", "global_max", "global_avg", "resize"}
"""Steps that want channels first."""


class Writer:
    """Writes steps through a builder.

    Args:
        program: what to write.
        builder: the graph in the making.
        exact: see `onnx_quant`.
    """

    def __init__(self, program: Program, builder: Any, *, exact: bool) -> None:
        self.program, self.b, self.exact = program, builder, exact
        self.quant = Quantizing(builder, exact=exact)
        self.names: dict[tuple[int, str], str] = {}
        self.home: dict[int, str] = {}
        self.layout = LAST
        self.memo: dict[str, str] = {}

    def write(self) -> None:
        """All steps, in order."""
        for name, value in self.program.inputs.items():
            self.names[value, LAST] = self.b.fresh(name)
            self.home[value] = LAST
        for step in self.program.steps:
            self.layout = self._layout(step)
            made = WRITERS[step.kind](self, step)
            for value, name in zip(step.outputs, [made] if isinstance(made, str) else made, strict=True):
                layout = self.layout if self.rank(value) > 2 else LAST
                self.names[value, layout] = name
                self.home[value] = layout

    # --- values and their layout ---

    def rank(self, value: int) -> int:
        """Number of axes of a value."""
        return len(self.program.shapes[value])

    def _layout(self, step: Step) -> str:
        if step.kind in SPATIAL:
            return FIRST
        same_rank = all(self.rank(v) == self.rank(step.output) for v in step.values)
        if step.kind not in FREE or not same_rank or self.rank(step.output) < 3:
            return LAST
        return self.home[step.values[0]]

    def read(self, value: int, layout: str | None = None) -> str:
        """Name of a value in a layout; transposes it once where it has the other one."""
        layout = (self.layout if layout is None else layout) if self.rank(value) > 2 else LAST
        if (value, layout) not in self.names:
            other = self.names[value, self.home[value]]
            perm = self._perm(self.rank(value), layout)
            self.names[value, layout] = self.quant.moved(
                other,
                lambda x, name: self.b.op("Transpose", [x], name, perm=perm),
                f"{other}/channels_{layout}",
            )
        return self.names[value, layout]

    @staticmethod
    def _perm(rank: int, layout: str) -> list[int]:
        """From the other layout to this one."""
        if layout == FIRST:
            return [0, rank - 1, *range(1, rank - 1)]
        return [0, *range(2, rank), 1]

    def operand(self, operand: int | Constant, rank: int) -> str:
        """Name of a step's input, a constant laid out beside a value of that rank."""
        if isinstance(operand, Constant):
            return str(self.b.constant(self.beside(operand.value, rank), operand.name))
        return self.read(operand)

    def beside(self, array: np.ndarray, rank: int) -> np.ndarray:
        """An array that broadcasts from the right in Keras' layout, in the current layout."""
        array = np.asarray(array)
        if array.ndim == 0 or self.layout == LAST or rank < 3:
            return array
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        return np.moveaxis(array, -1, 1)

    def axis(self, axis: int, rank: int) -> int:
        """An axis of Keras' layout in the current one."""
        axis %= rank
        if self.layout == LAST or rank < 3 or axis == 0:
            return axis
        return 1 if axis == rank - 1 else axis + 1

    def spatial(self, rank: int) -> list[int]:
        """The axes between batch and channels in the current layout."""
        return list(range(2, rank)) if self.layout == FIRST else list(range(1, rank - 1))


Written = Callable[[Writer, Step], str | list[str]]
WRITERS: dict[str, Written] = {}
"""Kind of step -> what writes it and gives the name of its output, or the names of all."""


def writes(*kinds: str) -> Callable[[Written], Written]:
    """Register the writer of some kinds of steps."""

    def register(function: Written) -> Written:
        WRITERS.update(dict.fromkeys(kinds, function))
        return function

    return register
