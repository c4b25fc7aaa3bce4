"""Calibration shared by variants.

Calibration for many variants: each tensor is observed once for each way of observing it.

Facts are remembered by what the tensor is made of (`value_fingerprints`) and how it is observed, so a variant pays for
those tensors only that no variant before it has observed alike. In "float" mode that is next to nothing after
the first variant of a prepared graph; in "quantized" mode it is the part behind the first tensor that is
decided differently, and the run begins there where the values at that place are still kept.

Observe one tensor for many quantizers at once: one count of its values serves methods and bit widths.

Each quantizer's facts are the ones that `observe` gives it on the float model, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqkit.bench.cache import ActivationCache, StatisticsCache
from vqkit.graph.execute import Partition, PartitionedRunner
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import mask_of, tensors
from vqkit.primitives import reference
from vqkit.primitives.affine import Array
from vqkit.primitives.counting import Counted, Distances
from vqkit.primitives.histogram import Batch, Histogram
from vqkit.primitives.kernels import v4_is_exact
from vqkit.primitives.mse import FIRST, REST, best_of
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType, for_errors
from vqkit.quantization.calibrate import Calibration, Mode, Statistic, TensorStatistics, grid_values, how, observe
from vqkit.quantization.data import leaves
from vqkit.quantization.layer_kinds import Signs
from vqkit.quantization.plan import Row

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
    """Shared observer: one tensor of the float model and all statistics that are wanted of it.

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

    def add(self, x: Any) -> None:
        """Observe one batch.

        Args:
            x: float32 tensor, shape (batch, …).
        """
        for w in self._alone:
            observe(x, w.spec, w.seen, False, w.compat)
        if self._counts:
            self._add_counted(np.asarray(x).reshape(-1))
            return
        for alike in self._ranged.values():
            for w in alike:
                observe(x, w.spec, w.seen, False, False)

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
    rows: Mapping[str, Row]
    digests: Mapping[int, str]
    runner: PartitionedRunner
    stream: Stream
    quantized: bool
    compat: bool

    def digest_before(self, fq: str) -> str:
        """What the value in front of a fake-quantize layer is made of."""
        return self.digests[self.graph.node(fq).inputs[0]]

    @property
    def first(self) -> dict[str, str]:
        """What an observed value is made of -> the first fake-quantize layer behind such a value."""
        return {self.digest_before(fq): fq for fq in reversed(list(self.rows))}

    def entering(self, batch: Any) -> tuple[int, dict[int, Any]]:
        """The samples of a batch, and its values by id."""
        inputs = tensors(self.graph, batch)
        return len(leaves(inputs)[0]), {self.graph.inputs[name]: x for name, x in inputs.items()}


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
        keys = {fq: self._key(request, fq) for fq in request.rows}
        missing = [fq for fq, key in keys.items() if not self._knows(request, key)]
        if missing:
            _CalibrationPass(request, keys, self._known, self._activations, set(missing)).over(batches, self._seen)
            self.passes += 1
            self.visits += len(missing)
            if not request.quantized:
                self._keep({keys[fq] for fq in missing})
        count, samples = self._seen[request.stream]
        found = {row.name: self._known[keys[fq]] for fq, row in request.rows.items()}
        return Calibration(found, count, samples, Mode.QUANTIZED if request.quantized else Mode.FLOAT)

    def observe(self, requests: Sequence[CalibrationRequest], batches: Iterable[Any]) -> None:
        """Record what several variants need to know of the float model, in as few passes as can be.

        Args:
            requests: on the same batches; none of them quantized.
            batches: inputs of the model; read once for each pass.
        """
        left = list(requests)
        while left:
            missing = {request: self._missing(request) for request in left}
            left = [request for request in left if missing[request]]
            if not left:
                return
            widest = max(left, key=lambda r: len(r.first))
            wanted: dict[str, dict[Key, WantedStatistics]] = {}
            for request in left:
                for key, wish in missing[request].items():
                    wanted.setdefault(key[0], {}).setdefault(key, wish)
            self._pass_over(widest, wanted, batches)

    def _missing(self, request: CalibrationRequest) -> dict[Key, WantedStatistics]:
        found = {}
        for fq, row in request.rows.items():
            key = self._key(request, fq)
            if not self._knows(request, key):
                assert row.spec is not None
                found[key] = WantedStatistics(row.spec, TensorStatistics(), request.compat)
        return found

    def _pass_over(
        self, request: CalibrationRequest, wanted: Mapping[str, Mapping[Key, WantedStatistics]], batches: Iterable[Any]
    ) -> None:
        here = {fq: wanted[digest] for digest, fq in request.first.items() if digest in wanted}
        tensors_ = {fq: SharedObserver(list(wishes.values())) for fq, wishes in here.items()}

        def visit(fq: str, x: Any) -> Any:
            import tensorflow as tf

            if fq in tensors_:
                tensors_[fq].add(tf.cast(x, tf.float32))
            return x

        count = samples = 0
        for batch in batches:
            n, values = request.entering(batch)
            request.runner.run(values, visit)
            count, samples = count + 1, samples + n
        self._seen[request.stream] = (count, samples)
        for wishes in here.values():
            self._known.update({key: wish.seen for key, wish in wishes.items()})
        self._keep(key for wishes in here.values() for key in wishes)
        self.passes += 1
        self.visits += sum(len(wishes) for wishes in here.values())

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

    def _key(self, request: CalibrationRequest, fq: str) -> tuple[Any, ...]:
        row = request.rows[fq]
        assert row.spec is not None
        # There a moving average quantizes its first batch with another range than it keeps: it is run again.
        average = row.spec.quantizer_type is QuantizerType.MAFS
        again = request.quantized and request.compat and average
        own = (object(),) if again else ()
        return (request.digest_before(fq), observer(row.spec, request.compat), request.stream, *own)


class _CalibrationPass:
    """One pass over the batches, from the last place where nothing is missing."""

    def __init__(
        self,
        request: CalibrationRequest,
        keys: Mapping[str, Key],
        known: dict[Key, TensorStatistics],
        activations: ActivationCache,
        missing: set[str],
    ) -> None:
        self._request, self._keys, self._known, self._activations = request, keys, known, activations
        self._missing, self._signs = missing, Signs(request.graph)
        self._fresh = {keys[fq]: TensorStatistics() for fq in missing}
        parts = request.runner.parts
        self._first = {keys[part.chosen]: part.chosen for part in reversed(parts) if part.chosen in missing}
        stops = [i for i, part in enumerate(parts) if part.chosen in missing]
        self._part, self._end = stops[0], stops[-1] + 1

    def over(self, batches: Iterable[Any], seen: dict[Stream, tuple[int, int]]) -> None:
        begin, kept = self._resume()
        here: list[dict[str, Any] | None] | None = None
        if begin < self._part and self._worth_keeping():
            here = []
        count = samples = 0
        for number, (n, values) in enumerate(self._starts(batches, kept)):
            if here is not None:
                values = self._play(values, number, begin, self._part)
                here.append(self._named(values))
            self._play(values, number, begin if here is None else self._part, self._end)
            count, samples = count + 1, samples + n
        if kept is None:
            seen[self._request.stream] = (count, samples)
        if here is not None and all(x is not None for x in here):
            self._activations.put(self._place(self._part), [x for x in here if x is not None])
        self._known.update(self._fresh)

    def _starts(self, batches: Iterable[Any], kept: Any) -> Iterable[tuple[int, dict[int, Any]]]:
        if kept is not None:
            crossing = self._crossing(kept[0])
            for values in kept[1]:
                yield 0, {v: values[self._request.digests[v]] for v in crossing}
            return
        yield from map(self._request.entering, batches)

    def _resume(self) -> tuple[int, Any]:
        for i in range(self._part, 0, -1):
            kept = self._activations.get(self._place(i))
            if kept is not None:
                return i, (i, kept)
        return 0, None

    def _place(self, i: int) -> tuple[Any, ...]:
        digests = sorted(self._request.digests[v] for v in self._crossing(i))
        return ("calibration", self._request.stream, *digests)

    def _crossing(self, i: int) -> list[int]:
        return crossing(self._request.graph, self._request.runner.parts, i)

    def _worth_keeping(self) -> bool:
        return any(not part.chosen for part in self._request.runner.parts[: self._part])

    def _named(self, values: dict[int, Any]) -> dict[str, Any] | None:
        wanted = {self._request.digests[v]: values[v] for v in self._crossing(self._part)}
        return None if any(mask_of(x) is not None for x in wanted.values()) else wanted

    def _play(self, values: dict[int, Any], number: int, begin: int, end: int) -> dict[int, Any]:
        return self._request.runner.run(values, lambda fq, x: self._visit(fq, x, number), begin=begin, end=end)[0]

    def _visit(self, fq: str, x: Any, number: int) -> Any:
        import tensorflow as tf

        request, key = self._request, self._keys[fq]
        spec = request.rows[fq].spec
        assert spec is not None
        x = tf.cast(x, tf.float32)
        if self._first.get(key) == fq:
            seen, never_negative = self._fresh[key], self._signs.before(fq)
            return observe(x, spec, seen, request.quantized, request.compat, never_negative)
        seen = self._fresh.get(key) or self._known[key]
        if not request.quantized or how(spec, vitis_compat=request.compat) is Statistic.HISTOGRAM:
            return x
        return grid_values(x, spec, seen, number)


def crossing(graph: Graph, parts: list[Partition], i: int) -> list[int]:
    """Ids of the values that are made before partition i (or given) and read from it on."""
    made = {*graph.inputs.values(), *(v for part in parts[:i] for n in part.nodes for v in n.outputs)}
    read = [v for part in parts[i:] for v in part.reads]
    return sorted(v for v in dict.fromkeys(read) if v in made)
