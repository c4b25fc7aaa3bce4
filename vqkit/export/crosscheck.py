"""The same inputs through the simulation and through real runtimes, in units of the last bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from vqkit.errors import CrossCheckError, ModelError, not_allowed
from vqkit.export.lowering import lower
from vqkit.export.steps import Program
from vqkit.primitives.qparams import QParams

Values = dict[str, np.ndarray]
RUNTIMES = ("onnxruntime", "litert", "integer")
OUTPUT_BITS = 8


class Bound(NamedTuple):
    """How far a runtime may be from the simulation.

    Attributes:
        codes: units of a tensor's last bit.
        share: part of a tensor's elements that must be within `codes`.
    """

    codes: int
    share: float


_COLUMNS = ["runtime", "tensor", "elements", "different", "beyond_1", "within", "max_codes"]
EXACT, NEAR = Bound(0, 1.0), Bound(1, 0.99)


@dataclass(frozen=True, eq=False)
class CrossCheck:
    """What came of a cross-check; prints itself and shows itself in a notebook.

    Attributes:
        table: a pandas table, one row for each runtime and tensor in graph order: elements, different
            (share), beyond_1 (share more than one unit away), within (share inside the bound), max_codes
            (largest difference in units of the last bit).
        bounds: runtime -> the bound it is held to.
        metrics: name -> number, for the run's record: for each runtime top-1 agreement of each sample with
            the simulation, share of output elements within one unit, largest difference.
        first: runtime -> first tensor outside its bound; absent where there is none.
        notes: runtime -> what to know about its file.
        samples: number of samples.
    """

    table: Any
    bounds: Mapping[str, Bound]
    metrics: Mapping[str, float]
    first: Mapping[str, str]
    notes: Mapping[str, tuple[str, ...]]
    samples: int

    def __str__(self) -> str:
        return "\n".join([*self.summary(), self.table.to_string(index=False)])

    def summary(self) -> list[str]:
        """One line for each runtime."""
        return [self._line(runtime) for runtime in self.bounds]

    def _line(self, runtime: str) -> str:
        m, (codes, share) = self.metrics, self.bounds[runtime]
        words = [
            f"{runtime}: output within 1 unit in {m[f'{runtime}_output_within_1']:.4%}",
            f"largest difference {m[f'{runtime}_output_max']:g}",
            *(
                [f"top-1 agreement {m[f'{runtime}_top1_agreement']:.4%}"]
                if f"{runtime}_top1_agreement" in m
                else []
            ),
            f"bound {codes} code{'' if codes == 1 else 's'} in {share:.2%}",
            f"DEPARTS at {self.first[runtime]}" if runtime in self.first else "holds",
            *self.notes.get(runtime, ()),
        ]
        return ", ".join(words)

    def to_json(self) -> dict[str, Any]:
        """Bounds, metrics, first departures and the table as JSON values."""
        return {
            "samples": self.samples, "bounds": {k: list(v) for k, v in self.bounds.items()},
            "metrics": dict(self.metrics), "first": dict(self.first),
            "notes": {k: list(v) for k, v in self.notes.items()},
            "table": [{str(k): v for k, v in row.items()} for row in self.table.to_dict("records")],
        }  # fmt: skip

    def _repr_html_(self) -> str:
        lines = "".join(f"<div>{line}</div>" for line in self.summary())
        return lines + str(self.table.to_html(index=False, float_format="{:.6g}".format))


@dataclass(frozen=True, eq=False)
class Witness:
    """One runtime, ready to run.

    Attributes:
        run: from input name -> array to tensor name -> values; outputs are named "output i".
        bound: what it is held to.
        notes: what to know about it.
    """

    run: Callable[[Values], Values]
    bound: Bound
    notes: tuple[str, ...] = ()


def cross_check(
    quantized: Any, inputs: Any, runtimes: Sequence[str] = RUNTIMES, *, batch_size: int = 32,
    bounds: Mapping[str, Bound | tuple[int, float]] | None = None, strict: bool = True,
    int32_biases: bool = False, layers: bool = True,
    onnx: Mapping[str, Any] | None = None, tflite: Mapping[str, Any] | None = None, progress: bool = False,
) -> CrossCheck:  # fmt: skip
    """Run the exports of a quantized model beside its simulation.

    Args:
        quantized: a `Quantized`.
        inputs: samples, arrays of shape (n, …) nested as the model's inputs.
        runtimes: of "onnxruntime", "litert" and "integer".
        batch_size: samples at once.
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
        ModelError: unknown runtime, or a layer that a runtime does not have.
    """
    from vqkit.export.accumulator import with_int32_biases
    from vqkit.export.witnesses import MAKERS, simulation
    from vqkit.flow.data import batches
    from vqkit.graph.keras_io import named_inputs

    unknown = [r for r in runtimes if r not in RUNTIMES]
    if unknown:
        raise ModelError(not_allowed("runtimes", unknown[0], RUNTIMES, what="runtime"))
    program = with_int32_biases(lower(quantized)) if int32_biases else lower(quantized)
    options = {"onnxruntime": dict(onnx or {}), "litert": dict(tflite or {}), "integer": {}}
    witnesses = {r: MAKERS[r](quantized, program, layers, options[r]) for r in runtimes}
    held = {r: Bound(*(bounds or {}).get(r, w.bound)) for r, w in witnesses.items()}
    tally = _Tally(quantized, program, held)
    simulate = simulation(quantized, layers, program if int32_biases else None)
    for batch in _shown(batches(inputs, batch_size=batch_size), progress):
        given = {k: np.asarray(v) for k, v in named_inputs(quantized.graph, batch).items()}
        truth = simulate(given)
        for runtime, witness in witnesses.items():
            tally.add(runtime, truth, witness.run(given))
    result = tally.result({r: w.notes for r, w in witnesses.items()})
    if strict and result.first:
        raise CrossCheckError(_message(result) + _way_out(program), result)
    return result


def _way_out(program: Program) -> str:
    adding = [s for s in program.steps if s.constants.get("kernel") is not None and s.sums is None]
    floats = [s for s in program.quantizers if not s.attrs["params"].spec.pow2]
    if not adding or not floats:
        return ""
    return (". The simulation adds floats here; with integer_arithmetic in the strategy's refine pipeline it "
            "adds integers, as the runtimes do")  # fmt: skip


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


@dataclass(eq=False)
class _Count:
    elements: int = 0
    different: int = 0
    outside: int = 0
    beyond_one: int = 0
    largest: float = 0.0


@dataclass(eq=False)
class _Tally:
    """Adds up differences batch by batch."""

    quantized: Any
    program: Program
    bounds: Mapping[str, Bound]
    counts: dict[tuple[str, str], _Count] = field(default_factory=dict)
    agree: dict[str, list[int]] = field(default_factory=dict)
    samples: int = 0
    scales: dict[str, float] = field(default_factory=dict)

    def add(self, runtime: str, truth: Values, found: Values) -> None:
        """Compare one batch."""
        for tensor, expected in truth.items():
            if tensor in found:
                self._compare(runtime, tensor, expected, found[tensor])
        first = next(k for k in truth if k.startswith("output"))
        agree = self.agree.setdefault(runtime, [0, 0])
        agree[1] += len(truth[first])
        if truth[first].ndim == 2 and truth[first].shape[1] > 1:
            agree[0] += int(np.sum(truth[first].argmax(-1) == found[first].argmax(-1)))
        else:
            agree[0] = -1

    def _compare(self, runtime: str, tensor: str, expected: np.ndarray, got: np.ndarray) -> None:
        codes = np.abs(got.astype(np.float64) - expected.astype(np.float64)) / self._unit(tensor, expected)
        # A value on a grid is q * step in float32: whole codes up to its rounding.
        codes = np.rint(codes) if self._grid(tensor) is not None else codes
        count, bound = self.counts.setdefault((runtime, tensor), _Count()), self.bounds[runtime]
        count.elements += codes.size
        count.different += int(np.sum(codes > 0))
        count.outside += int(np.sum(codes > max(bound.codes, _float_slack(self._grid(tensor)))))
        count.beyond_one += int(np.sum(codes > 1))
        count.largest = max(count.largest, float(codes.max(initial=0)))

    def _grid(self, tensor: str) -> QParams | None:
        if tensor.startswith("output"):
            return self.program.grids.get(self.program.outputs[tensor])
        params: QParams = self.quantized.encodings[tensor]
        return params

    def _unit(self, tensor: str, expected: np.ndarray) -> Any:
        grid = self._grid(tensor)
        if grid is not None:
            return np.where(grid.scale > 0, grid.scale, 1).astype(np.float64)
        if self.program.producers[self.program.outputs[tensor]].kind == "softmax":
            return 2.0**-OUTPUT_BITS
        # The unit of the first batch serves all.
        largest = float(np.abs(expected).max(initial=0)) or 1.0
        return self.scales.setdefault(tensor, largest * 2.0**-OUTPUT_BITS)

    def result(self, notes: Mapping[str, tuple[str, ...]]) -> CrossCheck:
        """The table and the numbers."""
        import pandas as pd

        rows: list[tuple[Any, ...]] = []
        first: dict[str, str] = {}
        metrics: dict[str, float] = {}
        for (runtime, tensor), c in sorted(self.counts.items(), key=lambda item: self._order(item[0])):
            within = 1 - c.outside / max(c.elements, 1)
            n = max(c.elements, 1)
            rows.append((runtime, tensor, c.elements, c.different / n, c.beyond_one / n, within, c.largest))
            if within < self.bounds[runtime].share:
                first.setdefault(runtime, tensor)
        for runtime in self.bounds:
            metrics |= self._metrics(runtime)
        table = pd.DataFrame(rows, columns=_COLUMNS)
        samples = max((n for _, n in self.agree.values()), default=0)
        return CrossCheck(table, self.bounds, metrics, first, notes, samples)

    def _order(self, key: tuple[str, str]) -> tuple[int, int]:
        runtime, tensor = key
        rows = [s.row for s in self.program.quantizers]
        return list(self.bounds).index(runtime), rows.index(tensor) if tensor in rows else len(rows)

    def _metrics(self, runtime: str) -> dict[str, float]:
        outputs = [c for (r, t), c in self.counts.items() if r == runtime and t.startswith("output")]
        elements = sum(c.elements for c in outputs)
        agree, samples = self.agree.get(runtime, [-1, 0])
        found = {
            f"{runtime}_output_within_1": 1 - sum(c.beyond_one for c in outputs) / max(elements, 1),
            f"{runtime}_output_max": max((c.largest for c in outputs), default=0.0),
        }
        return found | ({f"{runtime}_top1_agreement": agree / samples} if agree >= 0 and samples else {})


def _float_slack(grid: QParams | None) -> float:
    """An output in float (softmax, tanh) may differ in its last places where its inputs are equal."""
    return 0.0 if grid is not None else 2.0**-8
