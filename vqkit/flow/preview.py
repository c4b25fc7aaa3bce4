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

from vqkit.flow.data import batches
from vqkit.flow.fixed_size import in_size
from vqkit.flow.plan import Plan, Row
from vqkit.flow.quality import decibel
from vqkit.graph.ir import Graph, Node
from vqkit.graph.keras_io import make_all_live, replay, tensors
from vqkit.primitives import ops
from vqkit.primitives.choose import choose
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import QuantizerSpec

KEPT_VALUES = 1 << 14


@dataclass(frozen=True, eq=False)
class Cost:
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
    _costs: dict[tuple[str, QuantizerSpec], Cost] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, graph: Graph, data: Any, *, samples: int = 32, kept: int = KEPT_VALUES) -> Preview:
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

    def cost(self, row: Row) -> Cost | None:
        """The cost of a row's quantizer; computed once for each tensor and quantizer.

        Returns:
            None where the row has no quantizer, or it stands on an axis that was not kept.

        Raises:
            ValueError: the tensor cannot be quantized so (not finite, or negative under unsigned codes).
        """
        if row.spec is None:
            return None
        key = (row.name, row.spec)
        if key not in self._costs:
            kept, spec = self.tensor(row), self._on_kept(row)
            if kept is None or spec is None:
                return None
            self._costs[key] = cost_of(kept, spec)
        return self._costs[key]

    def costs(self, rows: Iterable[Row]) -> dict[str, Cost]:
        """Costs of many rows, by name; rows that have none are absent."""
        found = {row.name: self.cost(row) for row in rows}
        return {name: cost for name, cost in found.items() if cost is not None}

    def _on_kept(self, row: Row) -> QuantizerSpec | None:
        """The quantizer for the kept (rows, channels) of a value, whose last axis alone survives."""
        spec = row.spec
        assert spec is not None
        if row.is_weight or not spec.per_channel:
            return spec
        value = self.value_of(row)
        rank = 0 if value is None else len(self.graph.values[value].shape)
        return spec.with_(channel_axis=-1) if spec.channel_axis in (-1, rank - 1) else None


def cost_of(values: np.ndarray, spec: QuantizerSpec) -> Cost:
    """Decide a quantizer on values and measure its noise there.

    Args:
        values: float32, any shape.
        spec: the quantizer.

    Raises:
        ValueError: as `primitives.choose`.
    """
    qparams = choose(values, spec)
    return Cost(qparams, own_sqnr(values, qparams))


def own_sqnr(values: np.ndarray, qparams: QParams) -> float:
    """Signal to the noise of a grid on values, dB.

    Args:
        values: float32, any shape.
        qparams: the grid.
    """
    error = ops.fake_quantize_numpy(values, qparams) - values
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
