"""A TFLite flatbuffer in the making, its schema and its interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vqkit.errors import ModelError, missing_package
from vqkit.export.program import Shape

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import SubGraphT

_MISSING = missing_package("ai-edge-litert", "tflite")


def schema() -> Any:
    """The module of generated classes of a TFLite flatbuffer.

    Raises:
        ModelError: the package is missing.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise ModelError(_MISSING) from error
    return schema_py_generated


class LiteRtSession:
    """A TFLite model ready to run on the CPU.

    Args:
        model: the file's bytes, or its path.
        kernels: "default" (with XNNPACK), "builtin" (without), or "reference".
    """

    def __init__(self, model: bytes | str | Path, *, kernels: str = "default") -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ImportError as error:
            raise ModelError(_MISSING) from error
        resolver = {
            "default": OpResolverType.AUTO,
            "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            "reference": OpResolverType.BUILTIN_REF,
        }[kernels]
        source = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
        try:
            self._interpreter = Interpreter(**source, experimental_op_resolver_type=resolver, num_threads=1)
            signature = self._interpreter.get_signature_list()["serving_default"]
            self._runner = self._interpreter.get_signature_runner("serving_default")
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"LiteRT cannot run the file: {error}") from error
        self.inputs, self.outputs = list(signature["inputs"]), list(signature["outputs"])

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Values of the outputs.

        Args:
            inputs: input name -> array with the batch first.

        Returns:
            Output name -> array.

        Raises:
            ModelError: the runtime stops; its message is given.
        """
        try:
            return {k: np.array(v) for k, v in self._runner(**inputs).items()}
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"LiteRT stops: {error}") from error


_TYPES = {
    **{k: k.upper() for k in ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64")},
    "bool": "BOOL",
}
# The oldest version of each operator that knows int8 and what is used here.
_VERSIONS = {
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 5,
    "ADD": 2,
    "SUB": 2,
    "MUL": 2,
    "MAX_POOL_2D": 2,
    "CONCATENATION": 2,
    "PAD": 2,
    "RELU": 2,
    "RELU6": 2,
    "TRANSPOSE": 2,
    "MINIMUM": 2,
    "MAXIMUM": 2,
    "STRIDED_SLICE": 2,
    "RESIZE_NEAREST_NEIGHBOR": 3,
    "RESIZE_BILINEAR": 3,
    "TRANSPOSE_CONV": 3,
    "DEQUANTIZE": 2,
    "LEAKY_RELU": 2,
    "REDUCE_MAX": 2,
    "MEAN": 2,
    "QUANTIZE": 2,
}


class TfliteBuilder:
    """A TFLite graph in the making."""

    def __init__(self) -> None:
        self.s = schema()
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[tuple[str, int], int] = {}
        self._inner: list[Any] = []
        self._buffers: list[Any] = [self.s.BufferT()]
        self._names: dict[str, int] = {}
        self._constants: dict[tuple[str, bytes, str], int] = {}

    def tensor(
        self,
        name: str,
        shape: Shape,
        dtype: str,
        *,
        data: np.ndarray | None = None,
        scale: Any = None,
        zero_point: Any = 0,
        axis: int = 0,
    ) -> int:
        """Append a tensor; returns its index.

        Args:
            name: made unique.
            shape: free axes are None.
            dtype: numpy name.
            data: of a constant.
            scale: of its grid, one number or one for each channel; None for none.
            zero_point: code of 0.
            axis: of the channels.
        """
        t = self.s.TensorT()
        t.name, t.type = self._unique(name), getattr(self.s.TensorType, _TYPES[dtype])
        t.shape = [1 if n is None else int(n) for n in shape]
        if any(n is None for n in shape):
            t.shapeSignature = [-1 if n is None else int(n) for n in shape]
        t.buffer = 0
        if data is not None:
            buffer = self.s.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            t.buffer = len(self._buffers)
            self._buffers.append(buffer)
        if scale is not None:
            q = self.s.QuantizationParametersT()
            q.scale = np.asarray(scale, np.float32).reshape(-1)
            q.zeroPoint = np.broadcast_to(np.asarray(zero_point, np.int64), q.scale.shape).copy()
            q.quantizedDimension = axis
            t.quantization = q
        self._tensors.append(t)
        return len(self._tensors) - 1

    def constant(self, name: str, data: npt.ArrayLike, dtype: str | None = None) -> int:
        """A constant without a grid; an equal one of that name is used again."""
        array = np.asarray(data, dtype)
        key = (name, array.tobytes(), str(array.dtype))
        if key not in self._constants:
            self._constants[key] = self.tensor(name, array.shape, str(array.dtype), data=array)
        return self._constants[key]

    def cast(self, x: int, y: int) -> int:
        """A CAST from one tensor to the type of another; returns the other."""
        types = {"inDataType": self._tensors[x].type, "outDataType": self._tensors[y].type}
        return self.op("CAST", [x], [y], "CastOptions", **types)

    def op(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], options: str = "", **values: Any) -> int:
        """Append an operator; returns its first output.

        Args:
            kind: name of the builtin operator.
            inputs: tensor indices; -1 for one that is left out.
            outputs: tensor indices.
            options: name of its options' class, without the final T.
            **values: attributes of the options.
        """
        operator = self.s.OperatorT()
        operator.opcodeIndex = self._code_of(kind, _VERSIONS.get(kind, 1))
        operator.inputs, operator.outputs = np.asarray(inputs, np.int32), np.asarray(outputs, np.int32)
        if options:
            operator.builtinOptionsType = getattr(self.s.BuiltinOptions, options)
            operator.builtinOptions = getattr(self.s, f"{options}T")()
            for key, value in values.items():
                setattr(operator.builtinOptions, key, value)
        self._operators.append(operator)
        return int(outputs[0])

    def _code_of(self, kind: str, version: int) -> int:
        return self._codes.setdefault((kind, version), len(self._codes))

    def graft(self, content: bytes, inputs: Mapping[str, int], name: str) -> list[int]:
        """Take over the graph of another file, its loops and branches too.

        Args:
            content: the file.
            inputs: name of an input in its signature -> the tensor that takes its place.
            name: what its tensors are named after.

        Returns:
            The tensors that are its outputs, "…_0" first.
        """
        model = self.s.ModelT.InitFromObj(self.s.Model.GetRootAs(content, 0))
        kinds = {v: k for k, v in vars(self.s.BuiltinOperator).items() if isinstance(v, int)}
        codes = [self._code_of(kinds[c.builtinCode], c.version) for c in model.operatorCodes]
        first = len(self._inner)
        for graph in model.subgraphs:
            for tensor in graph.tensors:
                data = model.buffers[tensor.buffer].data
                tensor.buffer = 0
                if data is not None and len(data):
                    tensor.buffer = len(self._buffers)
                    self._buffers.append(_buffer(self.s, data))
            for operator in graph.operators:
                operator.opcodeIndex = codes[operator.opcodeIndex]
                _renumber(operator.builtinOptions, first)
        self._inner += model.subgraphs[1:]
        (signature,) = model.signatureDefs
        given = {m.tensorIndex: inputs[m.name.decode()] for m in signature.inputs}
        place = self._joined(model.subgraphs[0], given, name)
        made = {int(m.name.decode().rpartition("_")[2]): m.tensorIndex for m in signature.outputs}
        return [place[made[i]] for i in range(len(made))]

    def _joined(self, graph: SubGraphT, given: Mapping[int, int], name: str) -> Mapping[int, int]:
        """Append tensors and operators of a graph; returns its number of a tensor -> ours."""
        place: dict[int, int] = {-1: -1, **given}
        for i, tensor in enumerate(graph.tensors):
            if i not in given:
                place[i] = len(self._tensors)
                tensor.name = self._unique(f"{name}/{tensor.name.decode()}")
                self._tensors.append(tensor)
        for operator in graph.operators:
            for side in ("inputs", "outputs", "intermediates"):
                old = getattr(operator, side)
                if old is not None:
                    setattr(operator, side, np.asarray([place[int(i)] for i in old], np.int32))
            self._operators.append(operator)
        return place

    def shape(self, tensor: int) -> Shape:
        """Shape of a tensor, free axes None."""
        t = self._tensors[tensor]
        signature = t.shape if t.shapeSignature is None else t.shapeSignature
        return tuple(None if n < 0 else int(n) for n in signature)

    def activation(self, word: str) -> int:
        """Number of a fused activation: NONE, RELU, RELU6."""
        return int(getattr(self.s.ActivationFunctionType, word))

    def padding(self, word: str) -> int:
        """Number of a padding: same, valid."""
        return int(getattr(self.s.Padding, word.upper()))

    def finish(
        self, name: str, inputs: Mapping[str, int], outputs: Mapping[str, int], metadata: Mapping[str, bytes]
    ) -> bytes:
        """The file.

        Args:
            name: of the graph.
            inputs: signature name -> tensor.
            outputs: signature name -> tensor.
            metadata: key -> content.
        """
        import flatbuffers

        model, graph = self.s.ModelT(), self.s.SubGraphT()
        graph.name, graph.tensors, graph.operators = name, self._tensors, self._operators
        graph.inputs = np.asarray(list(inputs.values()), np.int32)
        graph.outputs = np.asarray(list(outputs.values()), np.int32)
        model.version, model.description, model.subgraphs = 3, "vqkit", [graph, *self._inner]
        model.operatorCodes = [self._code(*key) for key in self._codes]
        model.signatureDefs = [self._signature(inputs, outputs)]
        model.metadata = []
        for key, content in metadata.items():
            entry, buffer = self.s.MetadataT(), self.s.BufferT()
            buffer.data = np.frombuffer(content, np.uint8)
            entry.name, entry.buffer = key, len(self._buffers)
            self._buffers.append(buffer)
            model.metadata.append(entry)
        model.buffers = self._buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _code(self, kind: str, version: int) -> Any:
        code = self.s.OperatorCodeT()
        code.builtinCode = getattr(self.s.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = version
        return code

    def _signature(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Any:
        signature = self.s.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        for attribute, tensors in (("inputs", inputs), ("outputs", outputs)):
            maps = []
            for key, tensor in tensors.items():
                entry = self.s.TensorMapT()
                entry.name, entry.tensorIndex = key, tensor
                maps.append(entry)
            setattr(signature, attribute, maps)
        return signature

    def _unique(self, name: str) -> str:
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return name if not count else self._unique(f"{name}_{count}")


def _buffer(schema: Any, data: np.ndarray) -> Any:
    made = schema.BufferT()
    made.data = data
    return made


def _renumber(options: Any, first: int) -> None:
    """The graphs of loops and branches, which another file counts from its own first graph."""
    for key in ("condSubgraphIndex", "bodySubgraphIndex", "thenSubgraphIndex", "elseSubgraphIndex"):
        if hasattr(options, key):
            setattr(options, key, getattr(options, key) + first)
