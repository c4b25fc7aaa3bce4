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
from vqkit.flow.stretches import Player
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import tensors
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
    """Observes batch after batch.

    Args:
        graph: with fake-quantize layers inserted.
        rows: fake-quantize layer name -> plan row.
        live: layer name -> live object.
        quantized: whether later layers see quantized values.
        compat: observe as the reference does.
        player: runs the graph; a new one by default.

    Attributes:
        observed: plan row name -> facts so far.
    """

    def __init__(self, graph: Graph, rows: Mapping[str, Row], live: Mapping[str, Any], quantized: bool,
                 compat: bool, player: Player | None = None) -> None:  # fmt: skip
        self.graph, self.rows, self.quantized, self.compat = graph, rows, quantized, compat
        self.observed = {row.name: Observed() for row in rows.values()}
        self._player = player or Player(graph, live, rows)

    def __call__(self, batch: Any) -> int:
        inputs = tensors(self.graph, batch)
        values = {self.graph.inputs[name]: x for name, x in inputs.items()}
        self._player.run(values, self.visit)
        return int(next(iter(inputs.values())).shape[0])

    def visit(self, fq: str, x: Any) -> Any:
        """Observe the value in front of a fake-quantize layer; gives what later layers see."""
        import tensorflow as tf

        row = self.rows[fq]
        assert row.spec is not None
        # Half precision, and integers that Keras takes for floats, are observed as FakeQuantize sees them.
        x = x if x.dtype == tf.float32 else tf.cast(x, tf.float32)
        return observe(x, row.spec, self.observed[row.name], self.quantized, self.compat)


def observe(x: Any, spec: QuantizerSpec, seen: Observed, quantized: bool, compat: bool) -> Any:
    """Add one batch of a tensor to what was seen of it.

    Args:
        x: float32 tensor, shape (batch, …).
        spec: its quantizer.
        seen: facts of the batches before; extended.
        quantized: whether to give back the quantized values.
        compat: observe as the reference does.

    Returns:
        x, or its values on the grid that the batch decided. Where a histogram is needed always x.
    """
    import tensorflow as tf

    kind = how(spec, vitis_compat=compat)
    if kind is How.HISTOGRAM:
        seen.histogram = seen.histogram or histogram_for(spec, vitis_compat=compat)
        seen.histogram.add(x.numpy())
        return x
    flat = x if spec.per_channel else _flat(x)
    if kind is How.POSITION:
        f_min, f_max, pos, values = _positioned(spec, flat.shape.rank, compat, quantized)(flat)
        for kept, found in zip((seen.f_min, seen.f_max, seen.pos), (f_min, f_max, pos), strict=True):
            kept.append(found.numpy())
        return tf.reshape(values, tf.shape(x)) if quantized else x
    batch, used = _running(spec, [v.numpy() for v in _ranged(spec, flat.shape.rank)(flat)], seen)
    seen.f_min.append(batch[0])
    seen.f_max.append(batch[1])
    return _quantized(x, flat, spec, used) if quantized else x


def _flat(x: Any) -> Any:
    import tensorflow as tf

    return tf.reshape(x, [-1])


def _quantized(x: Any, flat: Any, spec: QuantizerSpec, numbers: list[np.ndarray]) -> Any:
    import tensorflow as tf

    values = _quantizer(rounding_only(spec), flat.shape.rank)(flat, *(tf.constant(v) for v in numbers))
    return tf.reshape(values, tf.shape(x))


def grid_values(x: Any, spec: QuantizerSpec, seen: Observed, number: int) -> Any:
    """A batch on the grid that was decided when it was observed before; not for moving averages.

    Args:
        x: float32 tensor.
        spec: its quantizer.
        seen: facts.
        number: of the batch, from 0.
    """
    facts = (seen.f_min, seen.f_max, seen.pos) if spec.pow2 else (seen.f_min, seen.f_max)
    return _quantized(x, x if spec.per_channel else _flat(x), spec, [f[number] for f in facts])


def _running(spec: QuantizerSpec, batch: list[np.ndarray],
             seen: Observed) -> tuple[list[np.ndarray], list[np.ndarray]]:  # fmt: skip
    """The range over all batches so far, and the one to quantize this batch with.

    It is the widest, or a moving average, which starts at the first batch.
    """
    old = [seen.f_min[-1], seen.f_max[-1]] if seen.f_min else [np.zeros_like(v) for v in batch]
    if spec.quantizer_type is QuantizerType.MAFS:
        new = [_average(o, n) for o, n in zip(old, batch, strict=True)]
        return (new if seen.f_min else batch), new
    widest = [np.minimum(old[0], batch[0]), np.maximum(old[1], batch[1])]
    return widest, widest


@lru_cache(maxsize=256)
def _positioned(spec: QuantizerSpec, rank: int, compat: bool, quantized: bool) -> Any:
    """Range, position and (where wanted) fake-quantized values; traced once for all tensors of a spec."""
    import tensorflow as tf

    from vqkit.primitives import ops

    def run(x: Any) -> tuple[Any, ...]:
        f_min, f_max = ops.value_range(x, spec)
        pos = ops.position(x, f_min, f_max, spec, vitis_compat=compat)
        return f_min, f_max, pos, ops.fake_quantize(x, spec, f_min, f_max, pos) if quantized else pos

    return _traced(run, [tf.TensorSpec([None] * rank)])


@lru_cache(maxsize=256)
def _ranged(spec: QuantizerSpec, rank: int) -> Any:
    """Range of a tensor."""
    import tensorflow as tf

    from vqkit.primitives import ops

    return _traced(lambda x: ops.value_range(x, spec), [tf.TensorSpec([None] * rank)])


@lru_cache(maxsize=256)
def _quantizer(spec: QuantizerSpec, rank: int) -> Any:
    """Values on the grid of a range (and position)."""
    import tensorflow as tf

    from vqkit.primitives import ops

    number = tf.TensorSpec([None] * rank if spec.per_channel else [])
    signature = [tf.TensorSpec([None] * rank), *[number] * (3 if spec.pow2 else 2)]
    return _traced(lambda x, *numbers: ops.fake_quantize(x, spec, *numbers), signature)


def _traced(function: Callable[..., Any], signature: list[Any]) -> Any:
    import tensorflow as tf

    return tf.function(function, input_signature=signature, autograph=False).get_concrete_function()


def rounding_only(spec: QuantizerSpec) -> QuantizerSpec:
    """The part of a quantizer that says how values are rounded, not how its range is chosen."""
    return spec.with_(method=Method.NON_OVERFLOW, method_percentile=100.0)


def _average(old: Any, new: Any) -> Any:
    return old * np.float32(EMA_DECAY) + new * np.float32(1 - EMA_DECAY)
