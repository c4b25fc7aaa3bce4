"""The runtimes of a cross-check, each as a function from inputs to values by tensor name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import ModelError
from vqkit.export.crosscheck_result import EXACT, NEAR, Values, Witness
from vqkit.export.program import Program, Step, live_with_biases, output_names

if TYPE_CHECKING:
    from vqkit.quantization.quantized import Quantized

Maker = Callable[["Quantized", Program, bool, Mapping[str, Any]], Witness]


def simulation(quantized: Quantized, layers: bool, program: Program | None = None) -> Callable[[Values], Values]:
    """The quantized Keras model with its quantized tensors in sight.

    Args:
        quantized: a `Quantized`.
        layers: give the quantized tensors as well as the outputs.
        program: take the biases from this program.

    Returns:
        From input name -> array to plan row name, and "output" or "output_i", -> values.
    """
    from vqkit.graph.ir import Node
    from vqkit.graph.keras_io import compiled, replay

    rows = quantized.rows
    live = quantized.live if program is None else live_with_biases(quantized, program)

    def observe(inputs: Mapping[str, Any]) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def hook(node: Node, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
            if layers and node.layer in rows:
                seen[rows[node.layer].name] = outputs[0]
            return outputs

        from keras import tree

        flat = tree.flatten(replay(quantized.graph, live, inputs, hook))
        names = output_names(quantized.graph.inputs, len(flat))
        return seen | dict(zip(names, flat, strict=True))

    run = compiled(quantized.graph, observe)
    return lambda inputs: {k: np.asarray(v) for k, v in run(inputs).items()}


def onnxruntime(quantized: Quantized, program: Program, layers: bool, options: Mapping[str, Any]) -> Witness:
    """ONNX Runtime: outputs from the file as it is exported, the rest from a copy with more outputs."""
    from vqkit.export.onnx import OnnxSession, to_onnx

    plain = OnnxSession(to_onnx(quantized, program=program, **options).model)
    seen = to_onnx(quantized, program=program, intermediate=True, **options) if layers else None
    session = _rewritten_or_not(OnnxSession, seen.model) if seen is not None else None

    def run(inputs: Values) -> Values:
        found = plain(inputs)
        if seen is not None and session is not None:
            inner = session(inputs, list(dict.fromkeys(t for t, _ in seen.tensors.values())))
            found |= {
                row: np.moveaxis(inner[t], 1, -1) if first else inner[t] for row, (t, first) in seen.tensors.items()
            }
        return found

    exact = options.get("rounding", "exact") == "exact"
    return Witness(run, EXACT if exact and sums_are_exact(quantized, program) else NEAR)


def _rewritten_or_not(session: Callable[..., Any], copy: Any) -> Any:
    """A session of a copy with more outputs: as it stands where rewriting it fails (1.32: Gemm behind an attention)."""
    try:
        return session(copy)
    except ModelError:
        return session(copy, optimize=False)


def litert(quantized: Quantized, program: Program, layers: bool, options: Mapping[str, Any]) -> Witness:
    """LiteRT with its default kernels, likewise."""
    from vqkit.export.tflite import signed_grid, to_tflite
    from vqkit.export.tflite.flatbuffer import LiteRtSession

    made = to_tflite(quantized, program=program, **options)
    plain = LiteRtSession(made.content)
    seen = to_tflite(quantized, program=program, intermediate=True, **options) if layers else None
    session = LiteRtSession(seen.content) if seen is not None else None

    def run(inputs: Values) -> Values:
        found = plain(inputs)
        if seen is not None and session is not None:
            inner = session(inputs)
            for row, name in seen.tensors.items():
                scale, zero = signed_grid(quantized.encodings[row])
                found[row] = (inner[name].astype(np.int32) - zero).astype(np.float32) * np.float32(scale)
        return found

    notes = []
    if made.in_float:
        notes.append(f"in float: {', '.join(made.in_float)}")
    if made.lowest_weights:
        notes.append(f"{sum(made.lowest_weights.values())} weights of -128")
    return Witness(run, NEAR, tuple(notes))


def integer(quantized: Quantized, program: Program, layers: bool, _: Mapping[str, Any]) -> Witness:
    """The integer interpreter."""
    from vqkit.export.integer import IntegerModel

    model = IntegerModel(quantized, program=program)

    def run(inputs: Values) -> Values:
        found = model(inputs)
        return {**(found.values if layers else {}), **found.outputs}

    return Witness(run, EXACT if sums_are_exact(quantized, program) else NEAR)


def file_witness(quantized: Quantized, format: str) -> Witness:
    """A file that holds the simulation, written to a folder of its own, read again and run; outputs alone.

    Args:
        quantized: a `Quantized`.
        format: "keras", "h5" or "saved_model".
    """
    from keras import tree

    from vqkit.graph.ir import map_refs

    model, graph = _read_again(quantized, format), quantized.graph
    names = {v: k for k, v in graph.inputs.items()}

    def run(inputs: Values) -> Values:
        import tensorflow as tf

        given = {k: tf.convert_to_tensor(v, graph.values[graph.inputs[k]].dtype) for k, v in inputs.items()}
        flat = tree.flatten(model(map_refs(lambda r: given[names[r.id]], graph.input_struct)))
        outputs = output_names(graph.inputs, len(flat))
        return {k: np.asarray(v) for k, v in zip(outputs, flat, strict=True)}

    return Witness(run, EXACT)


def _read_again(quantized: Quantized, format: str) -> Callable[[Any], Any]:
    import tempfile
    from pathlib import Path

    import tensorflow as tf

    from vqkit.export.files import write_keras, write_saved_model
    from vqkit.models import load_model

    with tempfile.TemporaryDirectory() as folder:
        if format == "saved_model":
            write_saved_model(quantized, Path(folder, "model"))
            loaded = tf.saved_model.load(str(Path(folder, "model")))
            return lambda given: loaded.serve(given)  # keeps its variables alive
        path = Path(folder, f"model.{format}")
        write_keras(quantized, path)
        model = load_model(path)
    run: Callable[[Any], Any] = tf.function(lambda given: model(given, training=False))
    return run


MAKERS: Mapping[str, Maker] = {"onnxruntime": onnxruntime, "litert": litert, "integer": integer}


def sums_are_exact(quantized: Quantized, program: Program) -> bool:
    """Whether float32 holds every sum of the simulation, so that runtimes must be equal bit for bit."""
    from vqkit.export.integer import IntegerModel

    later = _quantized_later(program)
    if any(_inexact(s) and later.intersection(s.outputs) for s in program.steps):
        return False
    if any(s.sums is not None for s in program.steps):
        adding = [s for s in program.steps if s.kind in _ADDING and s.output in later]
        return all(s.sums is not None for s in adding)
    if not all(r.spec.pow2 for r in quantized.plan.quantized):
        return False
    table = IntegerModel(quantized, program=program).exactness()
    sums = sum(s.kind in ("conv", "dense", "conv_transpose") for s in program.steps)
    return bool(table.exact_in_float32.all()) and len(table) == sums


_ADDING = ("conv", "dense", "conv_transpose", "avg_pool", "global_avg")
_APPROXIMATE = ("unary", "softmax", "log_softmax", "affine")


def _inexact(step: Step) -> bool:
    return step.kind in _APPROXIMATE or bool(step.attrs.get("inexact"))


def _quantized_later(program: Program) -> set[int]:
    """Values that a quantizer reads, or something does that a quantizer reads."""
    found: set[int] = set()
    for step in reversed(program.steps):
        if step.kind == "quantize" or found.intersection(step.outputs):
            found.update(step.values)
    return found
