"""What each quantizer would cost on its own, fast enough to answer while a person moves a control.

The float model runs once over a small sample; of each value a part is kept. A quantizer is then decided and
applied on what is kept, so the answer needs no further run. It is the noise of this tensor alone, on float
inputs and before refinement; the noise of the running quantized model is `vqkit.sqnr`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vqkit.evaluation.noise import decibel
from vqkit.graph.copies import make_all_live
from vqkit.graph.ir import Graph, Node
from vqkit.graph.keras_io import replay, tensors
from vqkit.primitives.choose import choose
from vqkit.primitives.ops import fake_quantize_numpy
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType
from vqkit.quantization.data import Samples, batches
from vqkit.quantization.float_model import in_size
from vqkit.quantization.plan import FloatRow, Plan, QuantizedRow, Row

KEPT_VALUES = 1 << 14


@dataclass(frozen=True, eq=False)
class QuantizerCost:
    """One quantizer on its own.

    Attributes:
        qparams: the decision on what was kept.
        sqnr_db: signal to its own noise; infinite where it changes nothing.
    """

    qparams: QParams
    sqnr_db: float


@dataclass(frozen=True, eq=False)
class Preview:
    """Kept values of every tensor of a prepared graph.

    Attributes:
        graph: the prepared graph, with its weights.
        values: value id -> kept values, (rows, channels), float32.
        samples: how many samples were run.
        whole: ids of the values that were kept entirely.
    """

    graph: Graph
    values: Mapping[int, np.ndarray]
    samples: int
    whole: frozenset[int]
    _costs: dict[tuple[str, QuantizerSpec], QuantizerCost] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, graph: Graph, data: Samples, *, samples: int = 32, kept: int = KEPT_VALUES) -> Preview:
        """Run the float graph once.

        Args:
            graph: prepared.
            data: calibration data, as `vqkit.quantize` takes them; only the first batch is read.
            samples: of the batch, for arrays.
            kept: about how many values of each tensor to keep; the extremes are always among them.

        Returns:
            The preview.
        """
        batch = next(in_size(batches(data, batch_size=samples), graph))
        found: dict[int, np.ndarray] = {}
        whole: set[int] = set()
        rng = np.random.default_rng(0)

        def keep(value: int, tensor: Any) -> None:
            array = np.asarray(tensor)
            if array.dtype.kind == "f" and array.size:
                found[value] = thinned(array.astype(np.float32), kept, rng)
                if found[value].size == array.size:
                    whole.add(value)

        def hook(node: Node, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
            for value, tensor in zip(node.outputs, outputs, strict=True):
                keep(value, tensor)
            return outputs

        given = tensors(graph, batch)
        for name, value in graph.inputs.items():
            keep(value, given[name])
        replay(graph, make_all_live(graph), given, hook)
        count = int(next(iter(given.values())).shape[0])
        return cls(graph, found, count, frozenset(whole))

    def tensor(self, row: Row) -> np.ndarray | None:
        """The float values of a plan row: a weight as it is, a value as (rows, channels).

        Returns:
            float32; None where nothing was kept (no floating-point values).
        """
        if row.is_weight:
            return np.asarray(self.graph.layers[row.layer].weights[row.tensor], np.float32)
        value = self.value_of(row)
        return None if value is None else self.values.get(value)

    def value_of(self, row: Row) -> int | None:
        """Id of the graph value that a row is about; None for weights."""
        if row.value is not None or row.is_weight:
            return row.value
        node = next((n for n in self.graph.nodes if n.name == row.layer), None)
        return self.graph.inputs.get(row.layer) if node is None else node.output

    def cost(self, row: Row) -> QuantizerCost | None:
        """The cost of a row's quantizer; computed once for each tensor and quantizer.

        Returns:
            None where the row has no quantizer, or it stands on an axis that was not kept.

        Raises:
            ValueError: the tensor cannot be quantized so (not finite, or negative under unsigned codes).
        """
        if isinstance(row, FloatRow):
            return None
        key = (row.name, row.spec)
        if key not in self._costs:
            kept, spec = self.tensor(row), self._on_kept(row)
            if kept is None or spec is None:
                return None
            self._costs[key] = cost_of(kept, spec)
        return self._costs[key]

    def costs(self, rows: Iterable[Row]) -> dict[str, QuantizerCost]:
        """Costs of many rows, by name; rows that have none are absent."""
        found = {row.name: self.cost(row) for row in rows}
        return {name: cost for name, cost in found.items() if cost is not None}

    def _on_kept(self, row: QuantizedRow) -> QuantizerSpec | None:
        """The quantizer for the kept (rows, channels) of a value, whose last axis alone survives."""
        spec = row.spec
        if row.is_weight or not spec.per_channel:
            return spec
        value = self.value_of(row)
        rank = 0 if value is None else len(self.graph.values[value].shape)
        return spec.with_(channel_axis=-1) if spec.channel_axis in (-1, rank - 1) else None


def cost_of(values: np.ndarray, spec: QuantizerSpec) -> QuantizerCost:
    """Decide a quantizer on values and measure its noise there.

    Args:
        values: float32, any shape.
        spec: the quantizer.

    Raises:
        ValueError: as `primitives.choose`.
    """
    qparams = choose(values, spec)
    return QuantizerCost(qparams, own_sqnr(values, qparams))


def own_sqnr(values: np.ndarray, qparams: QParams) -> float:
    """Signal to the noise of a grid on values, dB.

    Args:
        values: float32, any shape.
        qparams: the grid.
    """
    error = fake_quantize_numpy(values, qparams) - values
    # No dot product: at this size BLAS starts threads, which wait for each other on a busy machine.
    signal, noise = (float(np.square(a, dtype=np.float64).sum()) for a in (values, error))
    return decibel(signal, noise)


def thinned(array: np.ndarray, kept: int, rng: np.random.Generator) -> np.ndarray:
    """Some rows of a tensor, those with its extremes always among them.

    Args:
        array: float32, (n, …, channels) or (n,).
        kept: about how many values.
        rng: which rows.

    Returns:
        (rows, channels), in the array's order; all rows where there are no more than `kept` values.
    """
    flat = array.reshape(-1, array.shape[-1] if array.ndim > 1 else 1)
    if flat.size <= kept:
        return flat
    count = max(1, kept // flat.shape[1])
    extremes = [int(k) // flat.shape[1] for k in (flat.argmin(), flat.argmax())]
    chosen = np.union1d(rng.choice(len(flat), min(count, len(flat)), replace=False), extremes)
    return flat[chosen]


def changed_rows(before: Plan, after: Plan) -> list[Row]:
    """The rows of the second plan whose quantizer is another than in the first."""
    old = {row.name: (row.spec, row.data_type) for row in before.rows}
    return [row for row in after.rows if old.get(row.name) != (row.spec, row.data_type)]


# Beyond these a search over many channels takes seconds, too long for a picture that follows a control.
MANY_CHANNELS = 8
SHARES = np.linspace(1.2, 0.1, 23)
AROUND = np.arange(-3, 7)


@dataclass(frozen=True, eq=False)
class SqnrCurve:
    """Signal-to-noise ratio of one tensor over the choice of its grid.

    Attributes:
        x: positions (power-of-two scales), or shares of the full range (float scales); per channel, positions
            are counted from the one that just avoids overflow.
        sqnr_db: the ratio at each x, dB.
        picks: method -> (x, dB) of its own choice.
        chosen: the method of the quantizer.
        x_label: what x is.
    """

    x: np.ndarray
    sqnr_db: np.ndarray
    picks: Mapping[str, tuple[float, float]]
    chosen: str
    x_label: str


def error_curve(values: np.ndarray, spec: QuantizerSpec) -> SqnrCurve:
    """Try grids around the one that covers the range, and let each method choose.

    Args:
        values: float32, any shape.
        spec: the quantizer; its method counts only for `chosen`.

    Returns:
        The curve. MIN_KL is left out for more than a few channels, where its search takes seconds.

    Raises:
        ValueError: as `primitives.choose`.
    """
    plain = choose(values, spec.with_(method=Method.NON_OVERFLOW))
    tried = [_moved(plain, step) for step in _steps(plain)]
    x = np.array([_place(q, plain) for q in tried])
    ratios = np.array([own_sqnr(values, q) for q in tried])
    order = np.argsort(x)
    picks = {}
    for method in _methods(spec, values.shape):
        cost = cost_of(values, spec.with_(method=method))
        picks[method.name] = (_place(cost.qparams, plain), cost.sqnr_db)
    return SqnrCurve(x[order], ratios[order], picks, spec.method.name, _label(plain))


def _methods(spec: QuantizerSpec, shape: tuple[int, ...]) -> list[Method]:
    if spec.quantizer_type is QuantizerType.TQT:
        return [Method.NON_OVERFLOW]
    channels = shape[spec.channel_axis] if spec.per_channel else 1
    slow = channels > MANY_CHANNELS and spec.method is not Method.MIN_KL
    return [m for m in Method if not (slow and m is Method.MIN_KL)]


def _steps(plain: QParams) -> np.ndarray:
    return AROUND if plain.spec.pow2 else SHARES


def _moved(plain: QParams, step: float) -> QParams:
    if plain.pos is not None:
        return QParams(plain.spec, plain.f_min, plain.f_max, plain.pos + np.float32(step))
    share = np.float32(step)
    return QParams(plain.spec, plain.f_min * share, plain.f_max * share)


def _place(chosen: QParams, plain: QParams) -> float:
    """Where a choice stands on the axis; per channel, the mean over the channels."""
    if chosen.pos is not None and plain.pos is not None:
        return float(chosen.pos if chosen.pos.ndim == 0 else np.mean(chosen.pos - plain.pos))
    widths = [np.asarray(q.f_max - q.f_min, np.float64) for q in (chosen, plain)]
    return float(np.mean(widths[0] / np.maximum(widths[1], np.finfo(np.float32).tiny)))


def _label(plain: QParams) -> str:
    if plain.pos is None:
        return "share of the full range"
    return "position (fractional bits)" if plain.pos.ndim == 0 else "position, from no overflow"
