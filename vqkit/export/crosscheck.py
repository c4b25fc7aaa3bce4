"""The same inputs through the simulation and through real runtimes, in units of the last bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import CrossCheckError, DataError, ModelError, not_allowed
from vqkit.export.crosscheck_result import CrossCheck, Tolerance, Values, Witness
from vqkit.export.lowering import lower
from vqkit.export.program import Program

if TYPE_CHECKING:
    from vqkit.quantization.quantized import Quantized

RUNTIMES = ("onnxruntime", "litert", "integer")
FILES = ("keras", "h5", "saved_model")
"""Files that hold the simulation itself: written, read again and run."""


def cross_check(
    quantized: Quantized,
    inputs: Any,
    runtimes: Sequence[str] | None = None,
    *,
    also: Sequence[str] = (),
    batch_size: int = 32,
    bounds: Mapping[str, Tolerance | tuple[int, float]] | None = None,
    strict: bool = True,
    int32_biases: bool = False,
    layers: bool = True,
    onnx: Mapping[str, Any] | None = None,
    tflite: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> CrossCheck:
    """Run the exports of a quantized model beside its simulation.

    Args:
        quantized: a `Quantized`.
        inputs: samples, arrays of shape (n, …) nested as the model's inputs.
        runtimes: of "onnxruntime", "litert" and "integer", and of the files "keras", "h5" and "saved_model",
            which are written, read again and run; one that cannot compute the model is an error. None: the
            first three, those that can.
        also: further ones, left out where they cannot compute the model; `skipped` says why.
        batch_size: samples at once; a model with a fixed batch size is run in that.
        bounds: runtime -> (codes, share), where it shall be held to another bound than the stated one: every
            element equal for the integer interpreter and for exact ONNX, of power-of-two grids whose sums
            float32 holds or with the strategy's `integer_arithmetic`, else at most one code in 99 % of each
            tensor's elements.
        strict: raise where a bound does not hold.
        int32_biases: compare with biases at the nearest multiple of the accumulator's step, as an integer
            runtime has them, in the simulation and in all files. On float scales the simulation has others,
            and that is most of what LiteRT departs by.
        layers: compare every quantized tensor; outputs alone when False.
        onnx: options of `to_onnx`.
        tflite: options of `to_tflite`.
        progress: show a progress bar over the batches.

    Returns:
        The differences. An output's unit is the step of its grid; of a softmax 2**-8, of another output in
        float 2**-8 of its largest simulated magnitude.

    Raises:
        CrossCheckError: a bound does not hold; the first layer that departs is named, `result` has the table.
        ModelError: unknown runtime, or a layer that a runtime does not have; where none was asked for, if no
            runtime has all layers.
        DataError: no sample, or with a fixed batch size no full batch.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, activation="relu")])
        >>> images = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
        >>> quantized = vqkit.quantize(model, "pof2s", images)
        >>> float(vqkit.cross_check(quantized, images, ["integer"]).table["max_codes"].max())
        0.0
    """
    from vqkit.export.crosscheck_result import DifferenceSums
    from vqkit.export.runtimes import simulation

    asked, further = ((), RUNTIMES) if runtimes is None else (tuple(runtimes), tuple(also))
    for name in (*asked, *further):
        if name not in (*RUNTIMES, *FILES):
            raise ModelError(not_allowed("runtimes", name, (*RUNTIMES, *FILES), what="runtime"))
    program = _program(quantized, int32_biases)
    options = {"onnxruntime": dict(onnx or {}), "litert": dict(tflite or {})}
    witnesses, skipped = _witnesses(quantized, program, layers, options, asked, further)
    held = {r: Tolerance(*(bounds or {}).get(r, w.bound)) for r, w in witnesses.items()}
    lowered = program if isinstance(program, Program) else None
    tally = DifferenceSums(quantized, lowered, held)
    simulate = simulation(quantized, layers, lowered if int32_biases else None)
    left_out = 0
    for given in _shown(_batches(quantized, inputs, batch_size), progress):
        if isinstance(given, int):
            left_out += given
            continue
        truth = simulate(given)
        for runtime, witness in witnesses.items():
            tally.add(runtime, truth, witness.run(given))
    result = tally.result({r: w.notes for r, w in witnesses.items()}, skipped, left_out)
    if strict and result.first:
        raise CrossCheckError(_message(result) + ("" if lowered is None else _way_out(lowered)), result)
    return result


def _program(quantized: Quantized, int32_biases: bool) -> Program | ModelError:
    """The lowered model, or why it has no lowered form; the files that hold the simulation need none."""
    from vqkit.export.program import with_int32_biases

    try:
        program = lower(quantized)
    except ModelError as error:
        return error
    return with_int32_biases(program) if int32_biases else program


def _witnesses(
    quantized: Quantized,
    program: Program | ModelError,
    layers: bool,
    options: Mapping[str, Any],
    asked: Sequence[str],
    further: Sequence[str],
) -> tuple[dict[str, Witness], dict[str, str]]:
    """The runtimes that can compute the model, and why others cannot."""
    from vqkit.export.runtimes import MAKERS, file_witness

    found: dict[str, Witness] = {}
    skipped: dict[str, str] = {}
    for name in dict.fromkeys((*asked, *further)):
        try:
            if name in FILES:
                found[name] = file_witness(quantized, name)
            elif isinstance(program, ModelError):
                raise program
            else:
                found[name] = MAKERS[name](quantized, program, layers, options.get(name, {}))
        except ModelError as error:
            if name in asked:
                raise
            skipped[name] = str(error)
    if not found:
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items()) or "no runtime was named"
        raise ModelError(f"cross_check: nothing to compare: {reasons}")
    return found, skipped


def _batches(quantized: Quantized, inputs: Any, batch_size: int) -> Iterator[Values | int]:
    """Inputs by name in the model's types; for a batch that is not of its fixed size, the size alone."""
    from vqkit.graph.keras_layers import named_inputs
    from vqkit.quantization.data import batches

    graph = quantized.graph
    fixed = next((n for v in graph.inputs.values() if (n := graph.values[v].shape[0]) is not None), None)
    seen = False
    for batch in batches(inputs, batch_size=batch_size if fixed is None else fixed):
        named = {k: np.asarray(v) for k, v in named_inputs(graph, batch).items()}
        size = len(next(iter(named.values())))
        if fixed is not None and size != fixed:
            yield size
            continue
        seen = True
        yield {k: v.astype(graph.values[graph.inputs[k]].dtype, copy=False) for k, v in named.items()}
    if not seen:
        raise DataError(f"cross_check: the model's batch size is {fixed}, and no batch has that many samples")


def _way_out(program: Program) -> str:
    adding = [s for s in program.steps if s.constants.get("kernel") is not None and s.sums is None]
    floats = [s for s in program.quantizers if not s.attrs["params"].spec.pow2]
    if not adding or not floats:
        return ""
    return (
        ". The simulation adds floats here; with integer_arithmetic in the strategy's refine pipeline it "
        "adds integers, as the runtimes do"
    )


def _shown(source: Iterator[Any], show: bool) -> Any:
    if not show:
        return source
    from tqdm.auto import tqdm

    return tqdm(source, desc="cross-checking", unit="batch")


def _message(result: CrossCheck) -> str:
    lines = []
    for runtime, tensor in result.first.items():
        row = result.table[(result.table.runtime == runtime) & (result.table.tensor == tensor)].iloc[0]
        codes, share = result.bounds[runtime]
        lines.append(
            f"{runtime} departs from the simulation, first at {tensor}: {row.within:.4%} of its elements are "
            f"within {codes} codes, {share:.2%} are required; "
            f"the largest difference is {row.max_codes:g} codes"
        )
    return "; ".join(lines)
