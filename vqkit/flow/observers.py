"""What is observed of one tensor in a batch, in compiled code: alone, or as a part of a larger function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from vqkit.primitives.histogram import ChannelHistograms, Histogram, histogram_for
from vqkit.primitives.native import traced_here
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import Method, QuantizerSpec

Watch = Callable[[Any, Any, Any], tuple[Any, Any]]
"""Of a tensor, its facts from the batch before, and whether there was one: its successor and its facts."""


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

    def add(self, facts: np.ndarray) -> None:
        """Add what a watch found in one batch: range ends, and position where there is one."""
        for kept, found in zip((self.f_min, self.f_max, self.pos), facts, strict=False):
            kept.append(found)


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


def observe(x: Any, spec: QuantizerSpec, seen: Observed, quantized: bool, compat: bool,
            nonnegative: bool = False) -> Any:  # fmt: skip
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

    if how(spec, vitis_compat=compat) is How.HISTOGRAM:
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
    from vqkit.primitives.least import WHOLE

    sizes = [batch, *shape[1:]]
    return None in sizes or prod(sizes) > WHOLE


def watch(spec: QuantizerSpec, rank: int, *, compat: bool, quantized: bool, large: bool,
          nonnegative: bool = False) -> Watch:  # fmt: skip
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
    if how(spec, vitis_compat=compat) is How.RUNNING:
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
def _positioned(spec: QuantizerSpec, rank: int | None, compat: bool, quantized: bool, large: bool,
                nonnegative: bool) -> Any:  # fmt: skip
    """Range, position and (where wanted) fake-quantized values."""
    import tensorflow as tf

    from vqkit.primitives import kernels, ops

    def run(x: Any, before: Any, started: Any) -> tuple[Any, Any]:
        del before, started
        flat = tf.reshape(x, [-1]) if rank is None else x
        f_min, f_max = ops.value_range(flat, spec, nonnegative=nonnegative)
        pos = ops.position(flat, f_min, f_max, spec, vitis_compat=compat, large=large)
        values = kernels.pow2_values(x, spec, f_min, pos) if quantized else x
        return values, tf.stack([f_min, f_max, pos])

    return _part(run, rank, whole=spec.method is Method.MIN_MSE)


@lru_cache(maxsize=256)
def _running(spec: QuantizerSpec, rank: int | None, compat: bool, quantized: bool, nonnegative: bool) -> Any:
    """The range over all batches so far."""
    import tensorflow as tf

    from vqkit.primitives import ops

    def run(x: Any, before: Any, started: Any) -> tuple[Any, Any]:
        flat = tf.reshape(x, [-1]) if rank is None else x
        found = tf.stack(ops.value_range(flat, spec, nonnegative=nonnegative))
        used, kept = ops.running_range(before, found, spec, started, vitis_compat=compat)
        return ops.fake_quantize(x, spec, used[0], used[1]) if quantized else x, kept

    return _part(run, rank, whole=False)


def grid_values(x: Any, spec: QuantizerSpec, seen: Observed, number: int) -> Any:
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

    from vqkit.primitives import ops

    def run(x: Any, *numbers: Any) -> Any:
        flat = tf.reshape(x, [-1]) if rank is None else x
        return tf.reshape(ops.fake_quantize(flat, spec, *numbers), tf.shape(x))

    free = None if rank is None else [None] * rank
    signature = [tf.TensorSpec(free), *[tf.TensorSpec(free or [])] * (3 if spec.pow2 else 2)]
    return traced_here(run, signature)


def rounding_only(spec: QuantizerSpec) -> QuantizerSpec:
    """The part of a quantizer that says how values are rounded, not how its range is chosen."""
    return spec.with_(method=Method.NON_OVERFLOW, method_percentile=100.0)
