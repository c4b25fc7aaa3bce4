"""Observe each tensor of a graph batch by batch: facts about data, no decision.

Mode "quantized" observes each tensor on what is already quantized before it, as the reference does;
mode "float" observes the float graph, so that the facts serve any strategy on the same graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np

from vqkit.errors import DataError, not_allowed
from vqkit.flow.plan import Row
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import input_signature, keeping_mask, replay, tensors
from vqkit.primitives.histogram import ChannelHistograms, Histogram, histogram_for
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType

EMA_DECAY = 0.999


class Mode(StrEnum):
    """On what the tensors are observed."""

    QUANTIZED = "quantized"
    FLOAT = "float"


class How(StrEnum):
    """What has to be observed for a quantizer."""

    POSITION = "position"
    RUNNING = "running"
    HISTOGRAM = "histogram"


@dataclass(eq=False)
class Observed:
    """Facts about one tensor.

    Attributes:
        f_min: lower range end of each batch (running for float scales), float32, () or channel shape.
        f_max: upper range end, likewise.
        pos: position of each batch, for power-of-two quantizers.
        histogram: of the values, where the method needs one.
    """

    f_min: list[np.ndarray] = field(default_factory=list)
    f_max: list[np.ndarray] = field(default_factory=list)
    pos: list[np.ndarray] = field(default_factory=list)
    histogram: Histogram | ChannelHistograms | None = None


@dataclass(frozen=True, eq=False)
class Calibration:
    """Facts about every quantized value.

    Attributes:
        tensors: plan row name -> facts.
        batches: how many batches were seen.
        samples: how many samples were seen.
        mode: on what they were observed.
    """

    tensors: Mapping[str, Observed]
    batches: int
    samples: int
    mode: Mode


def how(spec: QuantizerSpec, *, vitis_compat: bool) -> How:
    """What must be observed for a quantizer.

    With `vitis_compat` a float-scale MIN_MSE is a min/max range, as in the reference.
    """
    if spec.method in (Method.MIN_KL, Method.PERCENTILE):
        return How.HISTOGRAM
    if spec.pow2:
        return How.POSITION
    if spec.method is Method.MIN_MSE and not vitis_compat:
        return How.HISTOGRAM
    return How.RUNNING


def calibrate(graph: Graph, rows: Mapping[str, Row], live: Mapping[str, Any], batches: Iterable[Any], *,
              mode: str = "quantized", vitis_compat: bool = False) -> Calibration:  # fmt: skip
    """Run batches through the graph and observe the value in front of each fake-quantize layer.

    Args:
        graph: with fake-quantize layers inserted.
        rows: fake-quantize layer name -> plan row.
        live: layer name -> live object; its weights are those to calibrate with.
        batches: inputs of the model, each of shape (batch, …).
        mode: "quantized" or "float".
        vitis_compat: observe as the reference does.

    Returns:
        The facts.

    Raises:
        DataError: there was no batch, or the mode is unknown.
    """
    if mode not in set(Mode):
        raise DataError(not_allowed("calibration", mode, [m.value for m in Mode]))
    step = Step(graph, rows, live, mode == Mode.QUANTIZED, vitis_compat)
    count = samples = 0
    for batch in batches:
        samples += step(batch)
        count += 1
    if count == 0:
        raise DataError("calibration data: no batch was given; pass at least one")
    return Calibration(step.observed, count, samples, Mode(mode))


class Step:
    """One compiled pass over a batch; ranges that run over batches are passed in and out."""

    def __init__(self, graph: Graph, rows: Mapping[str, Row], live: Mapping[str, Any], quantized: bool,
                 compat: bool) -> None:  # fmt: skip
        import tensorflow as tf

        self.graph, self.rows, self.quantized, self.compat = graph, rows, quantized, compat
        self.observed = {row.name: Observed() for row in rows.values()}
        self._stats: dict[str, tuple[Any, ...]] = {}
        self._state: dict[str, tuple[Any, Any]] = {}
        self._incoming: Mapping[str, Any] = {}
        self._outgoing: dict[str, tuple[Any, Any]] = {}
        self._seen = 0
        self._live = {**live, **{name: self._observer(name, row) for name, row in rows.items()}}
        signature = [input_signature(graph), self._state_signature()]
        step = tf.function(self._trace, input_signature=signature, autograph=False)
        self._run = step.get_concrete_function()

    def _state_signature(self) -> dict[str, Any]:
        import tensorflow as tf

        self._state = {
            fq: (tf.zeros(self._grid(fq)), tf.zeros(self._grid(fq)))
            for fq, row in self.rows.items()
            if _how_of(row, self.compat) is How.RUNNING
        }
        return {k: tuple(tf.TensorSpec(t.shape, tf.float32) for t in pair) for k, pair in self._state.items()}

    def _grid(self, fq: str) -> tuple[int, ...]:
        return tuple(self.graph.layers[fq].config["grid_shape"])

    def __call__(self, batch: Any) -> int:
        inputs = tensors(self.graph, batch)
        stats, state = self._run(inputs, self._state)
        self._state = (
            state if self._seen or not _averages(self.rows) else _first_average(self.rows, stats, state)
        )
        self._seen += 1
        for fq, facts in stats.items():
            self._keep(fq, facts)
        return int(next(iter(inputs.values())).shape[0])

    def _keep(self, fq: str, facts: tuple[Any, ...]) -> None:
        row, arrays = self.rows[fq], [np.asarray(f) for f in facts]
        assert row.spec is not None
        seen, kind = self.observed[row.name], _how_of(row, self.compat)
        if kind is How.HISTOGRAM:
            seen.histogram = seen.histogram or histogram_for(row.spec, vitis_compat=self.compat)
            seen.histogram.add(arrays[0])
            return
        if kind is How.RUNNING:
            arrays = [np.asarray(s) for s in self._state[fq]]
        seen.f_min.append(arrays[0])
        seen.f_max.append(arrays[1])
        if kind is How.POSITION:
            seen.pos.append(arrays[2])

    def _trace(self, inputs: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[Any, Any]:
        self._stats, self._outgoing = {}, {}
        self._incoming = state
        replay(self.graph, self._live, inputs)
        return self._stats, self._outgoing

    def _observer(self, fq: str, row: Row) -> Callable[[Any], Any]:
        import keras

        assert row.spec is not None
        spec, kind = row.spec, _how_of(row, self.compat)
        observe = {How.POSITION: self._position, How.RUNNING: self._running, How.HISTOGRAM: self._values}[
            kind
        ]
        # Half precision, and integers that Keras takes for floats, are observed as FakeQuantize sees them.
        return keeping_mask(lambda x: observe(fq, spec, keras.ops.cast(x, "float32")))

    def _position(self, fq: str, spec: QuantizerSpec, x: Any) -> Any:
        f_min, f_max, pos, quantized = _positioned(spec, x.shape.rank, self.compat)(x)
        self._stats[fq] = (f_min, f_max, pos)
        quantized.set_shape(x.shape)
        return quantized if self.quantized else x

    def _running(self, fq: str, spec: QuantizerSpec, x: Any) -> Any:
        import tensorflow as tf

        from vqkit.primitives import ops

        f_min, f_max = ops.value_range(x, spec)
        old_min, old_max = self._incoming[fq]
        if spec.quantizer_type is QuantizerType.MAFS:
            new = (_average(old_min, f_min), _average(old_max, f_max))
        else:
            new = (tf.minimum(old_min, f_min), tf.maximum(old_max, f_max))
        self._stats[fq], self._outgoing[fq] = (f_min, f_max), new
        return ops.fake_quantize(x, spec, *new) if self.quantized else x

    def _values(self, fq: str, spec: QuantizerSpec, x: Any) -> Any:
        del spec
        self._stats[fq] = (x,)
        return x


@lru_cache(maxsize=256)
def _positioned(spec: QuantizerSpec, rank: int, compat: bool) -> Any:
    """Range, position and fake-quantized values of a tensor; traced once for all tensors of a spec."""
    import tensorflow as tf

    from vqkit.primitives import ops

    def run(x: Any) -> tuple[Any, ...]:
        f_min, f_max = ops.value_range(x, spec)
        pos = ops.position(x, f_min, f_max, spec, vitis_compat=compat)
        return f_min, f_max, pos, ops.fake_quantize(x, spec, f_min, f_max, pos)

    return tf.function(run, input_signature=[tf.TensorSpec([None] * rank)], autograph=False)


def _how_of(row: Row, compat: bool) -> How:
    assert row.spec is not None
    return how(row.spec, vitis_compat=compat)


def _average(old: Any, new: Any) -> Any:
    return old * EMA_DECAY + new * (1 - EMA_DECAY)


def _averages(rows: Mapping[str, Row]) -> list[str]:
    return [k for k, r in rows.items() if r.spec is not None and r.spec.quantizer_type is QuantizerType.MAFS]


def _first_average(rows: Mapping[str, Row], stats: Any, state: Any) -> dict[str, Any]:
    """A moving average starts at the first batch, not at zero."""
    return {**state, **{k: tuple(stats[k]) for k in _averages(rows) if k in state}}
