"""Differences between a runtime and the simulation, added up batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vqkit import tables
from vqkit.errors import ModelError
from vqkit.export.program import Program
from vqkit.primitives.qparams import QParams

if TYPE_CHECKING:
    from vqkit.quantization.quantized import Quantized

Values = dict[str, np.ndarray]


class Tolerance(NamedTuple):
    """How far a runtime may be from the simulation.

    Attributes:
        codes: units of a tensor's last bit.
        share: part of a tensor's elements that must be within `codes`.
    """

    codes: int
    share: float


EXACT, NEAR = Tolerance(0, 1.0), Tolerance(1, 0.99)


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
        notes: runtime -> what to know about its file, and what of it was not compared.
        samples: number of samples.
        skipped: runtime -> why it was not compared.
    """

    table: Any
    bounds: Mapping[str, Tolerance]
    metrics: Mapping[str, float]
    first: Mapping[str, str]
    notes: Mapping[str, tuple[str, ...]]
    samples: int
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join([*self.summary(), tables.frame_table(self.table)])

    def summary(self) -> list[str]:
        """One line for each runtime, those that were not compared last."""
        left_out = [f"{runtime}: not compared: {why}" for runtime, why in self.skipped.items()]
        return [*(self._line(runtime) for runtime in self.bounds), *left_out]

    def _line(self, runtime: str) -> str:
        m, (codes, share) = self.metrics, self.bounds[runtime]
        words = [
            f"{runtime}: output within 1 unit in {m[f'{runtime}_output_within_1']:.4%}",
            f"largest difference {m[f'{runtime}_output_max']:g}",
            *([f"top-1 agreement {m[f'{runtime}_top1_agreement']:.4%}"] if f"{runtime}_top1_agreement" in m else []),
            f"bound {codes} code{'' if codes == 1 else 's'} in {share:.2%}",
            f"DEPARTS at {self.first[runtime]}" if runtime in self.first else "holds",
            *self.notes.get(runtime, ()),
        ]
        return ", ".join(words)

    def to_json(self) -> dict[str, Any]:
        """Bounds, metrics, first departures and the table as JSON values."""
        return {
            "samples": self.samples,
            "bounds": {k: list(v) for k, v in self.bounds.items()},
            "metrics": dict(self.metrics),
            "first": dict(self.first),
            "notes": {k: list(v) for k, v in self.notes.items()},
            "skipped": dict(self.skipped),
            "table": [{str(k): v for k, v in row.items()} for row in self.table.to_dict("records")],
        }

    def _repr_html_(self) -> str:
        lines = "".join(f"<div>{escape(line)}</div>" for line in self.summary())
        return lines + tables.frame_table(self.table, tables.html_table)


@dataclass(frozen=True, eq=False)
class Witness:
    """One runtime, ready to run.

    Attributes:
        run: from input name -> array to tensor name -> values; outputs are named "output i".
        bound: what it is held to.
        notes: what to know about it.
    """

    run: Callable[[Values], Values]
    bound: Tolerance
    notes: tuple[str, ...] = ()


OUTPUT_BITS = 8
_COLUMNS = ["runtime", "tensor", "elements", "different", "beyond_1", "within", "max_codes"]


@dataclass(eq=False)
class _Count:
    elements: int = 0
    different: int = 0
    outside: int = 0
    beyond_one: int = 0
    largest: float = 0.0


@dataclass(eq=False)
class DifferenceSums:
    """Adds up differences batch by batch.

    Args:
        quantized: the `Quantized` that is simulated.
        program: its lowered form; None where it has none.
        bounds: runtime -> what it is held to.
    """

    quantized: Quantized
    program: Program | None
    bounds: Mapping[str, Tolerance]
    counts: dict[tuple[str, str], _Count] = field(default_factory=dict)
    agree: dict[str, list[int]] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    missing: dict[str, set[str]] = field(default_factory=dict)

    def add(self, runtime: str, truth: Values, found: Values) -> None:
        """Compare one batch.

        Raises:
            ModelError: the runtime lacks an output, or gives another shape.
        """
        for tensor, expected in truth.items():
            if tensor in found:
                self._compare(runtime, tensor, expected, found[tensor])
            elif is_output(tensor):
                raise ModelError(f"{runtime}: its file has no {tensor!r}; it has {', '.join(found)}")
            else:
                self.missing.setdefault(runtime, set()).add(tensor)
        first = next(k for k in truth if is_output(k))
        agree = self.agree.setdefault(runtime, [0, 0])
        agree[1] += len(truth[first])
        if truth[first].ndim == 2 and truth[first].shape[1] > 1:
            agree[0] += int(np.sum(truth[first].argmax(-1) == found[first].argmax(-1)))
        else:
            agree[0] = -1

    def _compare(self, runtime: str, tensor: str, expected: np.ndarray, got: np.ndarray) -> None:
        if expected.shape != got.shape:
            raise ModelError(f"{runtime}: {tensor} has shape {got.shape}, the simulation's is {expected.shape}")
        difference = np.abs(got.astype(np.float64) - expected.astype(np.float64))
        # Equal infinities differ by nothing, a NaN beside a number by everything.
        same = (got == expected) | ((got != got) & (expected != expected))
        codes = np.where(same, 0, np.nan_to_num(difference, nan=np.inf)) / self._unit(tensor, expected)
        # A value on a grid is q * step in float32: whole codes up to its rounding.
        grid = self._grid(tensor)
        codes = np.rint(codes) if grid is not None else codes
        count, bound = self.counts.setdefault((runtime, tensor), _Count()), self.bounds[runtime]
        count.elements += codes.size
        count.different += int(np.sum(codes > 0))
        count.outside += int(np.sum(codes > max(bound.codes, _float_slack(grid))))
        count.beyond_one += int(np.sum(codes > 1))
        count.largest = max(count.largest, float(codes.max(initial=0)))

    def _grid(self, tensor: str) -> QParams | None:
        if is_output(tensor):
            return None if self.program is None else self.program.grids.get(self.program.outputs[tensor])
        params: QParams = self.quantized.encodings[tensor]
        return params

    def _unit(self, tensor: str, expected: np.ndarray) -> Any:
        grid = self._grid(tensor)
        if grid is not None:
            return np.where(grid.scale > 0, grid.scale, 1).astype(np.float64)
        if self.program is not None and _kind(self.program, self.program.outputs[tensor]) == "softmax":
            return 2.0**-OUTPUT_BITS
        # The unit of the first batch serves all.
        finite = np.abs(expected.astype(np.float64))
        largest = float(finite.max(initial=0, where=np.isfinite(finite))) or 1.0
        return self.scales.setdefault(tensor, largest * 2.0**-OUTPUT_BITS)

    def result(self, notes: Mapping[str, tuple[str, ...]], skipped: Mapping[str, str], left_out: int) -> CrossCheck:
        """The table and the numbers.

        Args:
            notes: runtime -> what to know about its file.
            skipped: runtime -> why it was not compared.
            left_out: samples that filled no batch.
        """
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
        said = {r: (*notes.get(r, ()), *self._not_compared(r, left_out)) for r in self.bounds}
        return CrossCheck(table, self.bounds, metrics, first, said, samples, skipped)

    def _not_compared(self, runtime: str, left_out: int) -> list[str]:
        missing = sorted(self.missing.get(runtime, ()))
        lines = [f"outputs alone: {len(missing)} quantized tensors not compared"] if missing else []
        return lines + ([f"{left_out} samples not compared, which fill no batch"] if left_out else [])

    def _order(self, key: tuple[str, str]) -> tuple[int, int]:
        runtime, tensor = key
        known = self.quantized.rows
        rows = [known[n.layer].name for n in self.quantized.graph.nodes if n.layer in known]
        return list(self.bounds).index(runtime), rows.index(tensor) if tensor in rows else len(rows)

    def _metrics(self, runtime: str) -> dict[str, float]:
        outputs = [c for (r, t), c in self.counts.items() if r == runtime and is_output(t)]
        elements = sum(c.elements for c in outputs)
        agree, samples = self.agree.get(runtime, [-1, 0])
        found = {
            f"{runtime}_output_within_1": 1 - sum(c.beyond_one for c in outputs) / max(elements, 1),
            f"{runtime}_output_max": max((c.largest for c in outputs), default=0.0),
        }
        return found | ({f"{runtime}_top1_agreement": agree / samples} if agree >= 0 and samples else {})


def is_output(tensor: str) -> bool:
    """Whether a name is that of an output; plan rows are "layer/tensor"."""
    return "/" not in tensor


def _kind(program: Program, value: int) -> str:
    """Kind of the step that makes a value, behind casts."""
    step = program.producers.get(value)
    while step is not None and step.kind in ("cast", "identity"):
        step = program.producers.get(step.values[0])
    return "" if step is None else step.kind


def _float_slack(grid: QParams | None) -> float:
    """An output in float (softmax, tanh) may differ in its last places where its inputs are equal."""
    return 0.0 if grid is not None else 2.0**-8
