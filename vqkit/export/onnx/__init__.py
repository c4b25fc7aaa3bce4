"""A quantized model as an ONNX file, and ONNX files run.

A quantized model as an ONNX file.

Runs ONNX models; the only module that imports `onnxruntime`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import ModelError, missing_package, not_allowed
from vqkit.export.golden import encodings_of
from vqkit.export.lowering import lower
from vqkit.export.onnx import float_math, float_moves, float_windows, floats, ops  # noqa: F401  They register the writers.
from vqkit.export.onnx.graph import FIRST, LAST, Builder, Writer
from vqkit.export.program import Program, Shape

if TYPE_CHECKING:
    from vqkit.export.onnx.graph import ModelProto
    from vqkit.quantization.quantized import Quantized

DEFAULT_OPSET = 21
ROUNDINGS = ("exact", "qdq")


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """An ONNX model with what is needed to compare it.

    Attributes:
        model: the `onnx.ModelProto`.
        tensors: plan row name -> (tensor name, whether its channels come first).
    """

    model: Any
    tensors: Mapping[str, tuple[str, bool]]


def to_onnx(
    quantized: Quantized,
    *,
    opset: int = DEFAULT_OPSET,
    rounding: str = "exact",
    intermediate: bool = False,
    program: Program | None = None,
) -> OnnxModel:
    """Write a quantized model as an ONNX graph.

    Args:
        quantized: a `Quantized`.
        opset: version of the operator set; 11 and later. int16 and int4 need 21, per-channel pairs 13: older
            ones get floats with the same values.
        rounding: "exact" puts the simulation's rounding in front of each QuantizeLinear, so that the graph
            computes what the simulation computes; "qdq" writes bare pairs, which integer runtimes fuse and
            which round ties to even: one code apart at ties.
        intermediate: give every quantized tensor as an output as well.
        program: the lowered model, if it is at hand.

    Returns:
        The model.

    Raises:
        ModelError: a layer has no form in ONNX, or `onnx` is missing.
    """
    if rounding not in ROUNDINGS:
        raise ModelError(not_allowed("rounding", rounding, ROUNDINGS))
    program = lower(quantized) if program is None else program
    builder = Builder(opset)
    builder.reserve(program.outputs)
    writer = Writer(program, builder, exact=rounding == "exact")
    writer.write()
    outputs = {}
    for name, value in program.outputs.items():
        source = writer.read(value, LAST)
        outputs[builder.output(source, name)] = (program.shapes[value], program.dtypes[value])
    tensors = {
        s.row: (writer.names[s.output, writer.home[s.output]], writer.home[s.output] == FIRST)
        for s in program.quantizers
    }
    model = builder.model(
        graph_name=program.name,
        inputs={k: (program.shapes[v], program.dtypes[v]) for k, v in program.inputs.items()},
        outputs=outputs,
        values=_seen(writer) if intermediate else None,
        metadata={"vqkit.encodings": json.dumps(encodings_of(quantized)), "vqkit.rounding": rounding},
    )
    return OnnxModel(model, tensors)


def _seen(writer: Writer) -> dict[str, tuple[Shape, str]]:
    """Every quantized tensor: its name -> shape and dtype, in its layout."""
    found = {}
    for step in writer.program.quantizers:
        layout, shape = writer.home[step.output], writer.program.shapes[step.output]
        laid = (shape[0], shape[-1], *shape[1:-1]) if layout == FIRST else shape
        found[writer.names[step.output, layout]] = (laid, "float32")
    return found


def write_onnx(quantized: Quantized, path: Path, **options: Any) -> None:
    """Write the file; options as `to_onnx`."""
    from vqkit.files import write_bytes

    write_bytes(path, to_onnx(quantized, **options).model.SerializeToString(deterministic=True))


class OnnxSession:
    """An ONNX model ready to run on the CPU.

    Args:
        model: an `onnx.ModelProto`, or the path of a file.
        optimize: let the runtime rewrite the graph, as it does by default.
    """

    def __init__(self, model: ModelProto | str | Path, *, optimize: bool = True) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ModelError(missing_package("onnxruntime", "onnx")) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        source = str(model) if isinstance(model, (str, Path)) else model.SerializeToString()
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a class for each of its status codes, of no common base
            raise ModelError(f"ONNX Runtime cannot run the file: {error}") from error
        self.inputs = [i.name for i in self._session.get_inputs()]
        self.outputs = [o.name for o in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Values of the outputs.

        Args:
            inputs: input name -> array with the batch first.
            outputs: names; all by default.

        Returns:
            Output name -> array.

        Raises:
            ModelError: the runtime stops; its message is given.
        """
        names = self.outputs if outputs is None else list(outputs)
        if not names:
            return {}  # to the runtime no names are all names
        try:
            found = self._session.run(names, dict(inputs))
        except Exception as error:  # likewise
            raise ModelError(f"ONNX Runtime stops: {error}") from error
        return dict(zip(names, found, strict=True))
