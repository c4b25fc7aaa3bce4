"""Calibration: statistics of each tensor, in one pass over the batches.

Observe each tensor of a graph batch by batch: facts about data, no decision.

Mode "quantized" observes each tensor on what is already quantized before it, as the reference does;
mode "float" observes the float graph, so that the facts serve any strategy on the same graph.

What is observed of one tensor in a batch, in compiled code: alone, or as a part of a larger function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from vqkit.errors import DataError, not_allowed
from vqkit.graph.execute import PartitionedRunner, Values, Visit
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import tensors
from vqkit.primitives.histogram import ChannelHistograms, Histogram, histogram_for
from vqkit.primitives.native import traced_here
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import Method, QuantizerSpec
from vqkit.quantization.layer_kinds import Signs
from vqkit.quantization.plan import QuantizedRow

Watch = Callable[[Any, Any, Any], tuple[Any, Any]]
"""Of a tensor, its facts from the batch before, and whether there was one: its successor and its facts."""
Observer = Callable[[Any, int], Any]
"""Of the value in front of a quantizer and the number of the batch: what later layers see."""


class Statistic(StrEnum):
    """What has to be observed for a quantizer."""

    POSITION = "position"
    RUNNING = "running"
    HISTOGRAM = "histogram"


@dataclass(eq=False)
class TensorStatistics:
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

    def add(self, facts: np.ndarray) -> None:
        """Add what a watch found in one batch: range ends, and position where there is one."""
        for kept, found in zip((self.f_min, self.f_max, self.pos), facts, strict=False):
            kept.append(found)


def how(spec: QuantizerSpec, *, vitis_compat: bool) -> Statistic:
    """What must be observed for a quantizer.

    With `vitis_compat` a float-scale MIN_MSE is a min/max range, as in the reference.
    """
    if spec.method in (Method.MIN_KL, Method.PERCENTILE):
        return Statistic.HISTOGRAM
    if spec.pow2:
        return Statistic.POSITION
    if spec.method is Method.MIN_MSE and not vitis_compat:
        return Statistic.HISTOGRAM
    return Statistic.RUNNING


def observe(
    x: Any, spec: QuantizerSpec, seen: TensorStatistics, quantized: bool, compat: bool, nonnegative: bool = False
) -> Any:
    """Add one batch of a tensor to what was seen of it.

    Args:
        x: float32 tensor, shape (batch, …).
        spec: its quantizer.
        seen: facts of the batches before; extended.
        quantized: whether to give back the quantized values.
        compat: observe as the reference does.
        nonnegative: whether x is known to be.

    Returns:
        x, or its values on the grid that the batch decided. Where a histogram is needed always x.
    """
    import tensorflow as tf

    if how(spec, vitis_compat=compat) is Statistic.HISTOGRAM:
        seen.histogram = seen.histogram or histogram_for(spec, vitis_compat=compat)
        # The tensor's own memory: `numpy()` would copy it.
        seen.histogram.add(np.asarray(x))
        return x
    large = exceeds_cache(x.shape, x.shape[0])
    run = watch(spec, x.shape.rank, compat=compat, quantized=quantized, large=large, nonnegative=nonnegative)
    nothing = np.zeros(_ones(spec, x.shape), np.float32)
    ends = [seen.f_min[-1], seen.f_max[-1]] if seen.f_min else [nothing, nothing]
    values, facts = run(x, tf.constant(np.stack(ends), tf.float32), tf.constant(bool(seen.f_min)))
    seen.add(facts.numpy())
    return values


def _ones(spec: QuantizerSpec, shape: Any) -> tuple[int, ...]:
    axis = spec.channel_axis % len(shape)
    return tuple(n if i == axis else 1 for i, n in enumerate(shape)) if spec.per_channel else ()


def exceeds_cache(shape: Any, batch: int | None) -> bool:
    """Whether a search over a tensor of this shape goes piece by piece.

    Args:
        shape: of the tensor, batch included; sizes may be None.
        batch: samples in a batch, as far as is known.
    """
    from vqkit.primitives.ops import WHOLE

    sizes = [batch, *shape[1:]]
    return None in sizes or prod(sizes) > WHOLE


def watch(
    spec: QuantizerSpec, rank: int, *, compat: bool, quantized: bool, large: bool, nonnegative: bool = False
) -> Watch:
    """A compiled function that observes a tensor of a batch; the same one for all tensors that it fits.

    Args:
        spec: the tensor's quantizer; needs no histogram.
        rank: of the tensor.
        compat: observe as the reference does.
        quantized: whether later layers see quantized values.
        large: whether to search piece by piece; changes the time it takes only.
        nonnegative: whether the tensor is known to be; changes the time it takes only.

    Returns:
        The function. Its facts have shape (2 or 3, …): range ends, and position of a pow-2 scale. A position
        does not depend on the batches before.
    """
    one_rank = rank if spec.per_channel else None
    if how(spec, vitis_compat=compat) is Statistic.RUNNING:
        return _shaped(_running(spec, one_rank, compat, quantized, nonnegative))
    piecewise = large and spec.method is Method.MIN_MSE
    return _shaped(_positioned(spec, one_rank, compat, quantized, piecewise, nonnegative))


def _shaped(function: Any) -> Watch:
    def run(x: Any, before: Any, started: Any) -> tuple[Any, Any]:
        values, facts = function(x, before, started)
        values.set_shape(x.shape)
        return values, facts

    return run


def _part(function: Callable[..., Any], rank: int | None, *, whole: bool) -> Any:
    """Traced once; a larger function copies it, or calls it as a whole where copying takes long."""
    import tensorflow as tf

    shape = [None] * rank if rank is not None else None
    ends = [None] * (1 + (rank or 0))
    signature = [tf.TensorSpec(shape), tf.TensorSpec(ends), tf.TensorSpec([], tf.bool)]
    attributes = {"_noinline": True} if whole else None
    return traced_here(function, signature, experimental_attributes=attributes)


@lru_cache(maxsize=256)
def _positioned(
    spec: QuantizerSpec, rank: int | None, compat: bool, quantized: bool, large: bool, nonnegative: bool
) -> Any:
    """Range, position and (where wanted) fake-quantized values."""
    import tensorflow as tf

    from vqkit.primitives.kernels import pow2_values
    from vqkit.primitives.ops import position, value_range

    def run(x: Any, before: Any, started: Any) -> tuple[Any, Any]:
        del before, started
        flat = tf.reshape(x, [-1]) if rank is None else x
        f_min, f_max = value_range(flat, spec, nonnegative=nonnegative)
        pos = position(flat, f_min, f_max, spec, vitis_compat=compat, large=large)
        values = pow2_values(x, spec, f_min, pos) if quantized else x
        return values, tf.stack([f_min, f_max, pos])

    return _part(run, rank, whole=spec.method is Method.MIN_MSE)


@lru_cache(maxsize=256)
def _running(spec: QuantizerSpec, rank: int | None, compat: bool, quantized: bool, nonnegative: bool) -> Any:
    """The range over all batches so far."""
    import tensorflow as tf

    from vqkit.primitives.ops import fake_quantize, running_range, value_range

    def run(x: Any, before: Any, started: Any) -> tuple[Any, Any]:
        flat = tf.reshape(x, [-1]) if rank is None else x
        found = tf.stack(value_range(flat, spec, nonnegative=nonnegative))
        used, kept = running_range(before, found, spec, started, vitis_compat=compat)
        return fake_quantize(x, spec, used[0], used[1]) if quantized else x, kept

    return _part(run, rank, whole=False)


def grid_values(x: Any, spec: QuantizerSpec, seen: TensorStatistics, number: int) -> Any:
    """A batch on the grid that was decided when it was observed before; not for a compat moving average.

    Args:
        x: float32 tensor.
        spec: its quantizer.
        seen: facts.
        number: of the batch, from 0.
    """
    facts = (seen.f_min, seen.f_max, seen.pos) if spec.pow2 else (seen.f_min, seen.f_max)
    return on_grid(x, QParams(spec, *(f[number] for f in facts)))


def on_grid(x: Any, params: QParams) -> Any:
    """A tensor on a grid that is decided; compiled once for each spec, whatever the numbers.

    Args:
        x: float32 tensor.
        params: its quantizer with range and position.
    """
    import tensorflow as tf

    spec = params.spec
    numbers = [tf.constant(n) for n in (params.f_min, params.f_max, params.pos) if n is not None]
    return _quantizer(rounding_only(spec), x.shape.rank if spec.per_channel else None)(x, *numbers)


@lru_cache(maxsize=256)
def _quantizer(spec: QuantizerSpec, rank: int | None) -> Any:
    """Values on the grid of a range (and position); per channel the rank is known."""
    import tensorflow as tf

    from vqkit.primitives.ops import fake_quantize

    def run(x: Any, *numbers: Any) -> Any:
        flat = tf.reshape(x, [-1]) if rank is None else x
        return tf.reshape(fake_quantize(flat, spec, *numbers), tf.shape(x))

    free = None if rank is None else [None] * rank
    signature = [tf.TensorSpec(free), *[tf.TensorSpec(free or [])] * (3 if spec.pow2 else 2)]
    return traced_here(run, signature)


def rounding_only(spec: QuantizerSpec) -> QuantizerSpec:
    """The part of a quantizer that says how values are rounded, not how its range is chosen."""
    return spec.with_(method=Method.NON_OVERFLOW, method_percentile=100.0)


class Mode(StrEnum):
    """On what the tensors are observed."""

    QUANTIZED = "quantized"
    FLOAT = "float"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Facts about every quantized value.

    Attributes:
        tensors: plan row name -> facts.
        batches: how many batches were seen.
        samples: how many samples were seen.
        mode: on what they were observed.
    """

    tensors: Mapping[str, TensorStatistics]
    batches: int
    samples: int
    mode: Mode


def calibrate(
    graph: Graph,
    rows: Mapping[str, QuantizedRow],
    live: Mapping[str, Any],
    batches: Iterable[Any],
    *,
    mode: str = "quantized",
    vitis_compat: bool = False,
) -> Calibration:
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
    calibrator = Calibrator(graph, rows, live, checked(mode) is Mode.QUANTIZED, vitis_compat)
    size = observe_batches((entering(graph, batch) for batch in batches), calibrator.run, calibrator.observers)
    return Calibration(calibrator.observed, *size, Mode(mode))


def checked(mode: str) -> Mode:
    """The calibration mode of this name.

    Raises:
        DataError: there is none.
    """
    if mode not in set(Mode):
        raise DataError(not_allowed("calibration", mode, [m.value for m in Mode]))
    return Mode(mode)


def entering(graph: Graph, batch: Any) -> tuple[int, Values]:
    """Number of samples of a batch, and its tensors by value id of the graph's inputs."""
    inputs = tensors(graph, batch)
    return int(next(iter(inputs.values())).shape[0]), {graph.inputs[name]: x for name, x in inputs.items()}


def observe_batches(
    source: Iterable[tuple[int, Any]],
    run: Callable[[Any, Callable[[Any, Any], Any]], Any],
    observers: Mapping[Any, Observer],
) -> tuple[int, int]:
    """Observe the values in front of quantizers, batch by batch: one pass over the data.

    Args:
        source: for each batch the number of its samples, and what `run` takes.
        run: runs one batch: calls a visit with each place and the value there, and goes on with what that gives.
        observers: place -> what observes the value, float32; elsewhere it is passed on.

    Returns:
        Number of batches and of samples.

    Raises:
        DataError: there was no batch.
    """
    count = samples = 0

    def visit(place: Any, x: Any) -> Any:
        x = as_float(x)
        return observers[place](x, count) if place in observers else x

    for size, batch in source:
        run(batch, visit)
        count, samples = count + 1, samples + size
    if not count:
        raise DataError("calibration data: no batch was given; pass at least one")
    return count, samples


class Calibrator:
    """Runs batch after batch, each in one compiled function that observes all that needs no histogram.

    Args:
        graph: with fake-quantize layers inserted.
        rows: fake-quantize layer name -> plan row.
        live: layer name -> live object.
        quantized: whether later layers see quantized values.
        compat: observe as the reference does.
        aside: names of fake-quantize layers that are left to an observer, like those that want a histogram.

    Attributes:
        observers: fake-quantize layer name -> observer of the value in front of it, where one is left to it.
    """

    def __init__(
        self,
        graph: Graph,
        rows: Mapping[str, QuantizedRow],
        live: Mapping[str, Any],
        quantized: bool,
        compat: bool,
        aside: Iterable[str] = (),
    ) -> None:
        self.graph, self.rows, self.quantized, self.compat = graph, rows, quantized, compat
        self._live, self._signs = live, Signs(graph)
        self._runner: PartitionedRunner | None = None
        alone = {fq for fq, row in rows.items() if how(row.spec, vitis_compat=compat) is Statistic.HISTOGRAM}
        self.observers = {fq: self._observer(fq, rows[fq]) for fq in rows if fq in alone | set(aside)}
        self.restart()

    def restart(self) -> None:
        """Forget what was observed; what is compiled stays."""
        self._observed = {row.name: TensorStatistics() for row in self.rows.values()}
        self._facts: list[dict[str, Any]] = []
        self._before: dict[str, Any] = {}

    def run(self, values: Values, visit: Visit) -> None:
        """Run one batch.

        Args:
            values: value id -> tensor, of the graph's inputs.
            visit: called in front of a quantizer that is left to an observer.
        """
        runner = self._runner = self._runner or self._made(next(iter(values.values())).shape[0])
        before = self._before or {fq: self._nothing(fq) for fq in runner.watched}
        self._before = runner.run(values, visit, before=before, started=bool(self._before))[1]
        self._facts.append(self._before)

    @property
    def observed(self) -> dict[str, TensorStatistics]:
        """Plan row name -> facts so far."""
        for facts in self._facts:
            for fq, found in facts.items():
                self._observed[self.rows[fq].name].add(found.numpy())
        self._facts = []
        return self._observed

    def _observer(self, fq: str, row: QuantizedRow) -> Observer:
        never_negative = self._signs.before(fq)
        return lambda x, _: observe(x, row.spec, self._observed[row.name], self.quantized, self.compat, never_negative)

    def _made(self, count: int) -> PartitionedRunner:
        shapes = {fq: self.graph.values[self.graph.node(fq).inputs[0]].shape for fq in self.rows}
        # One function for small and large tensors alike: compiling a second one costs more than it saves.
        large = any(exceeds_cache(shape, count) for shape in shapes.values())
        inside = {
            fq: self._watch(fq, row, len(shapes[fq]), large)
            for fq, row in self.rows.items()
            if fq not in self.observers
        }
        return PartitionedRunner(self.graph, self._live, self.observers, inside)

    def _watch(self, fq: str, row: QuantizedRow, rank: int, large: bool) -> Watch:
        found = watch(
            row.spec,
            rank,
            compat=self.compat,
            quantized=self.quantized,
            large=large,
            nonnegative=self._signs.before(fq),
        )
        return lambda x, before, started: found(as_float(x), before, started)

    def _nothing(self, fq: str) -> Any:
        """The facts before the first batch."""
        import tensorflow as tf

        size = 3 if self.rows[fq].spec.pow2 else 2
        return tf.zeros([size, *self.graph.layers[fq].config["grid_shape"]])


def as_float(x: Any) -> Any:
    """Half precision, and integers that Keras takes for floats, as FakeQuantize sees them."""
    import tensorflow as tf

    return x if x.dtype == tf.float32 else tf.cast(x, tf.float32)
