"""Calibration shared by variants.

Calibration for many variants: each tensor is observed once for each way of observing it.

Facts are remembered by what the tensor is made of (`value_digests`) and how it is observed, so a variant pays for
those tensors only that no variant before it has observed alike. In "float" mode that is next to nothing after
the first variant of a prepared graph; in "quantized" mode it is the part behind the first tensor that is
decided differently, and the run begins there where the values at that place are still kept.

Observe one tensor for many quantizers at once: one count of its values serves methods and bit widths.

Each quantizer's facts are the ones that `observe` gives it on the float model, to the bit.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqkit.bench.cache import ActivationCache, StatisticsCache
from vqkit.graph.execute import PartitionedRunner, Values, Visit, crossing_values
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import mask_of
from vqkit.primitives import reference
from vqkit.primitives.affine import Array
from vqkit.primitives.counting import Counted, Distances
from vqkit.primitives.histogram import Batch, Histogram
from vqkit.primitives.kernels import v4_is_exact
from vqkit.primitives.mse import FIRST, REST, best_of
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType, for_errors
from vqkit.quantization.calibrate import (
    Calibration,
    Mode,
    Observer,
    Statistic,
    TensorStatistics,
    entering,
    grid_values,
    how,
    observe,
    observe_batches,
)
from vqkit.quantization.layer_kinds import Signs
from vqkit.quantization.plan import QuantizedRow

FINE = 8
"""Parts of a histogram's bin in which searches for positions count."""


@dataclass(frozen=True, eq=False)
class WantedStatistics:
    """Statistics that are wanted of one tensor.

    Attributes:
        spec: for which quantizer.
        seen: where they go.
        compat: whether to observe as the reference does.
    """

    spec: QuantizerSpec
    seen: TensorStatistics
    compat: bool

    @property
    def counts_all(self) -> bool:
        """Whether one histogram of the whole tensor is wanted, its bins starting at 0."""
        whole = not (self.compat or self.spec.per_channel)
        return whole and how(self.spec, vitis_compat=self.compat) is Statistic.HISTOGRAM

    @property
    def from_extremes(self) -> bool:
        """Whether extremes and counts of the whole tensor are enough."""
        if self.compat or self.spec.per_channel or how(self.spec, vitis_compat=False) is Statistic.HISTOGRAM:
            return False
        searched = self.spec.pow2 and self.spec.method is Method.MIN_MSE
        return not searched or v4_is_exact(for_errors(self.spec))


class SharedObserver:
    """Observes one tensor of the float model for all quantizers that want statistics of it.

    Args:
        wanted: for which quantizers.
    """

    def __init__(self, wanted: Sequence[WantedStatistics]) -> None:
        self._alone = [w for w in wanted if not (w.counts_all or w.from_extremes)]
        self._ranged: dict[QuantizerSpec, list[WantedStatistics]] = {}
        for w in wanted:
            if w.from_extremes:
                self._ranged.setdefault(w.spec.with_(method=Method.NON_OVERFLOW), []).append(w)
        counting = [w for w in wanted if w.counts_all]
        self._histogram, self._distances = Histogram(), Distances()
        for w in counting:
            w.seen.histogram = self._histogram
        self._searched = sum(map(_searched, wanted))
        self._counts = bool(counting) or self._searched > 1

    def __call__(self, x: Any, number: int) -> Any:
        """Observe one batch, and pass it on.

        Args:
            x: float32 tensor, shape (batch, …).
            number: of the batch; whatever it is, facts are added to those of the batches before.
        """
        del number
        for w in self._alone:
            observe(x, w.spec, w.seen, False, w.compat)
        if self._counts:
            self._add_counted(np.asarray(x).reshape(-1))
            return x
        for alike in self._ranged.values():
            for w in alike:
                observe(x, w.spec, w.seen, False, False)
        return x

    def _add_counted(self, flat: Array) -> None:
        batch = self._histogram.add(flat, fine=FINE if self._searched else 1)
        counted = self._counted(batch)
        for plain, alike in self._ranged.items():
            f_min, f_max = reference.range_from_extremes(batch.low, batch.high, plain)
            if not plain.pow2:
                for w in alike:
                    w.seen.add(_running(np.array([f_min, f_max]), w))
                continue
            start = reference.position(flat, f_min, f_max, plain)
            for w in alike:
                pos = _position(w.spec, flat, start, counted) if w.spec.method is Method.MIN_MSE else start
                w.seen.add(np.array([f_min, f_max, pos]))

    def _counted(self, batch: Batch) -> Counted | None:
        if batch.counts is None or not self._searched:
            return None
        return Counted(batch.counts, self._histogram.width / FINE, self._histogram.doubt, self._distances)


def _searched(w: WantedStatistics) -> bool:
    return w.from_extremes and w.spec.pow2 and w.spec.method is Method.MIN_MSE


def _running(found: Array, w: WantedStatistics) -> Array:
    seen = w.seen
    before = np.array([seen.f_min[-1], seen.f_max[-1]]) if seen.f_min else np.zeros(2, np.float32)
    return reference.running_range(before, found, w.spec, bool(seen.f_min))[1]


def _position(spec: QuantizerSpec, flat: Array, start: Array, counted: Counted | None) -> Array:
    rounding = for_errors(spec)
    offsets = FIRST + REST if counted is None else counted.best_offsets(rounding, float(start))
    return reference.clip_position(start + np.float32(best_of(flat, rounding, start, offsets)))


Stream = tuple[Any, ...]
Key = tuple[Any, ...]
Keys = dict[str, Key]


def observer(spec: QuantizerSpec, compat: bool) -> tuple[Any, ...]:
    """What decides which facts are recorded of a tensor: alike for methods that read the same histogram."""
    kind = how(spec, vitis_compat=compat)
    if kind is Statistic.HISTOGRAM:
        channels = (spec.channel_axis,) if spec.per_channel and not compat else ()
        return (kind, channels, compat)
    return (kind, spec.with_(method_percentile=100.0), compat)


def passing(spec: QuantizerSpec, mode: str, compat: bool) -> str:
    """What a fake-quantize layer does to its input while calibrating; "" where it passes it on."""
    if mode == Mode.FLOAT or how(spec, vitis_compat=compat) is Statistic.HISTOGRAM:
        return ""
    return repr(observer(spec, compat))


@dataclass(frozen=True, eq=False)
class CalibrationRequest:
    """One variant to calibrate.

    Attributes:
        graph: with fake-quantize layers inserted.
        rows: fake-quantize layer name -> plan row.
        digests: value id -> what it is made of while calibrating.
        runner: runs the graph with the right weights.
        stream: identifies the batches.
        quantized: whether later layers see quantized values.
        compat: observe as the reference does.
    """

    graph: Graph
    rows: Mapping[str, QuantizedRow]
    digests: Mapping[int, str]
    runner: PartitionedRunner
    stream: Stream
    quantized: bool
    compat: bool

    def digest_before(self, fq: str) -> str:
        """What the value in front of a fake-quantize layer is made of."""
        return self.digests[self.graph.node(fq).inputs[0]]

    def entering(self, batch: Any) -> tuple[int, Values]:
        """The samples of a batch, and its values by id."""
        return entering(self.graph, batch)

    def at(self, i: int) -> list[str]:
        """What the values are made of that partition i and later ones read from before, in order."""
        return sorted(self.digests[v] for v in self.reads(i))

    def reads(self, i: int) -> list[int]:
        """Ids of the values that partition i and later ones read from before."""
        return crossing_values(self.graph, self.runner.parts[i].begin, outputs=False)


class SharedCalibration:
    """Calibration shared by variants: the statistics observed so far, by content.

    Args:
        activations: keeps values at the places where variants part.
        statistics_cache: keeps facts of the float model for other processes; none by default.

    Attributes:
        passes: number of runs over the calibration data; a run that begins in the middle counts as one.
        visits: number of tensors observed, all batches counted once.
    """

    def __init__(self, activations: ActivationCache, statistics_cache: StatisticsCache | None = None) -> None:
        self.passes = self.visits = 0
        self._activations, self._statistics_cache = activations, statistics_cache or StatisticsCache(None)
        self._known: dict[tuple[Any, ...], TensorStatistics] = {}
        self._seen: dict[Stream, tuple[int, int]] = {}

    def calibrate(self, request: CalibrationRequest, batches: Iterable[Any]) -> Calibration:
        """The facts of one variant, observed now as far as they are not known.

        Args:
            request: what to observe.
            batches: inputs of the model; read only where something is missing.

        Returns:
            What `calibrate` gives.
        """
        keys = self._keys(request)
        self._observe([(request, keys)], batches)
        found = {row.name: self._known[keys[fq]] for fq, row in request.rows.items()}
        mode = Mode.QUANTIZED if request.quantized else Mode.FLOAT
        return Calibration(found, *self._seen[request.stream], mode)

    def observe(self, requests: Sequence[CalibrationRequest], batches: Iterable[Any]) -> None:
        """Record what several variants need to know of the float model, in as few passes as can be.

        Args:
            requests: on the same batches; none of them quantized.
            batches: inputs of the model; read once for each pass.
        """
        self._observe([(request, self._keys(request)) for request in requests], batches)

    def _observe(self, asked: Sequence[tuple[CalibrationRequest, Keys]], batches: Iterable[Any]) -> None:
        while left := [(r, keys) for r, keys in asked if not all(self._knows(r, key) for key in keys.values())]:
            wanted: dict[Hashable, dict[Key, WantedStatistics]] = {}
            for request, keys in left:
                for fq, key in keys.items():
                    if key not in self._known:
                        wish = WantedStatistics(request.rows[fq].spec, TensorStatistics(), request.compat)
                        wanted.setdefault(_group(request, key), {}).setdefault(key, wish)
            self._pass(*max(left, key=lambda each: len({key[0] for key in each[1].values()})), wanted, batches)

    def _pass(
        self,
        request: CalibrationRequest,
        keys: Keys,
        wanted: Mapping[Hashable, Mapping[Key, WantedStatistics]],
        batches: Iterable[Any],
    ) -> None:
        """One pass over the batches, from the last place where nothing is missing."""
        parts, signs = request.runner.parts, Signs(request.graph)
        observers: dict[str, Observer] = {}
        fresh: dict[Key, TensorStatistics] = {}
        left, stops = dict(wanted), list[int]()
        for i, part in enumerate(parts):
            if not part.chosen:
                continue
            key = keys[part.chosen]
            wishes = left.pop(_group(request, key), None)
            if wishes:
                stops.append(i)
                fresh.update({k: wish.seen for k, wish in wishes.items()})
                observers[part.chosen] = _observer(list(wishes.values()), request, signs.before(part.chosen))
            elif request.quantized:
                observers.update(_passing(request, part.chosen, fresh.get(key) or self._known[key]))
        begin, kept = self._resume(request, stops[0])
        keep = begin < stops[0] and any(not part.chosen for part in parts[: stops[0]])
        here: list[dict[str, Any] | None] = []

        def run(values: Values, visit: Visit) -> None:
            start = begin
            if keep:
                values, start = request.runner.run(values, visit, begin=begin, end=stops[0])[0], stops[0]
                crossing = {request.digests[v]: values[v] for v in request.reads(start)}
                here.append(None if any(mask_of(x) is not None for x in crossing.values()) else crossing)
            request.runner.run(values, visit, begin=start, end=stops[-1] + 1)

        size = observe_batches(map(request.entering, batches) if kept is None else kept, run, observers)
        if kept is None:
            self._seen[request.stream] = size
        if keep and None not in here:
            self._activations.put(self._place(request, stops[0]), [x for x in here if x is not None])
        self._known.update(fresh)
        self.passes += 1
        self.visits += len(fresh)
        if not request.quantized:
            self._keep(fresh)

    def _resume(self, request: CalibrationRequest, last: int) -> tuple[int, Iterable[tuple[int, Values]] | None]:
        """The partition to begin at, and what is there batch by batch; None where the batches are to be read."""
        for i in range(last, 0, -1):
            kept = self._activations.get(self._place(request, i))
            if kept is not None:
                return i, [(0, {v: values[request.digests[v]] for v in request.reads(i)}) for values in kept]
        return 0, None

    def _place(self, request: CalibrationRequest, i: int) -> tuple[Any, ...]:
        return ("calibration", request.stream, *request.at(i))

    def _knows(self, request: CalibrationRequest, key: Key) -> bool:
        """Whether a tensor's facts are here; those of the float model also from another process."""
        if key not in self._known and not request.quantized:
            value, seen_as, stream = key
            found = self._statistics_cache.get(value, stream, seen_as)
            if found is not None:
                self._known[key], self._seen[stream] = found
        return key in self._known

    def _keep(self, keys: Iterable[Key]) -> None:
        by_tensor: dict[tuple[str, Stream], dict[Any, TensorStatistics]] = {}
        for value, seen_as, stream in keys:
            by_tensor.setdefault((value, stream), {})[seen_as] = self._known[value, seen_as, stream]
        for (value, stream), facts in by_tensor.items():
            self._statistics_cache.put(value, stream, facts, self._seen[stream])

    def _keys(self, request: CalibrationRequest) -> Keys:
        return {fq: self._key(request, fq) for fq in request.rows}

    def _key(self, request: CalibrationRequest, fq: str) -> Key:
        spec = request.rows[fq].spec
        # There a moving average quantizes its first batch with another range than it keeps: it is run again.
        again = request.quantized and request.compat and spec.quantizer_type is QuantizerType.MAFS
        own = (object(),) if again else ()
        return (request.digest_before(fq), observer(spec, request.compat), request.stream, *own)


def _group(request: CalibrationRequest, key: Key) -> Hashable:
    """What is observed together: on the float model, all that is wanted of a tensor."""
    return key if request.quantized else key[0]


def _observer(wanted: list[WantedStatistics], request: CalibrationRequest, never_negative: bool) -> Observer:
    if not request.quantized:
        return SharedObserver(wanted)
    (w,) = wanted
    return lambda x, _: observe(x, w.spec, w.seen, True, w.compat, never_negative)


def _passing(request: CalibrationRequest, fq: str, seen: TensorStatistics) -> dict[str, Observer]:
    """What gives later layers the grid that is known of a tensor; none where its values are passed on."""
    spec = request.rows[fq].spec
    if how(spec, vitis_compat=request.compat) is Statistic.HISTOGRAM:
        return {}
    return {fq: lambda x, number: grid_values(x, spec, seen, number)}
