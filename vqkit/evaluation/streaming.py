"""Metrics of a model over data of any length: one batch is held at a time, and what metrics need of those before it."""

from __future__ import annotations

import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vqkit.errors import DataError
from vqkit.evaluation.metric import Running
from vqkit.evaluation.tasks import Judge
from vqkit.quantization.data import Labelled, leaves

KEPT_BYTES = 1 << 26
"""Bytes of predictions, or of anything else that is kept of all samples, in memory; beyond it they lie in a file."""


class Kept:
    """Arrays one after the other: in memory up to a limit, then in a file without a name, which ends with the process.

    Args:
        limit: bytes in memory.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = KEPT_BYTES if limit is None else limit
        self._parts: list[NDArray[Any]] = []
        self._file: IO[bytes] | None = None
        self._bytes = self._n = 0

    def add(self, array: NDArray[Any]) -> None:
        """One more batch, shape (n, …).

        Raises:
            DataError: its samples have another shape or type than those before it.
        """
        like = self._parts[0] if self._parts else array
        if array.shape[1:] != like.shape[1:] or not np.can_cast(array.dtype, like.dtype, "same_kind"):
            raise DataError(f"a batch of {array.dtype} {array.shape} follows batches of {like.dtype} {like.shape}")
        own = np.ascontiguousarray(array, like.dtype)
        self._n, self._bytes = self._n + len(own), self._bytes + own.nbytes
        if self._file is None and self._bytes > self._limit:
            self._file = tempfile.TemporaryFile(prefix="vqkit-")  # noqa: SIM115 (maps of it live on)
            weakref.finalize(self, self._file.close)
            for part in self._parts:
                self._file.write(part.data)
            self._parts = [like[:0]]
        if self._file is None:
            self._parts.append(own)
        else:
            self._file.write(own.data)

    def array(self) -> NDArray[Any]:
        """All of them, shape (n, …); read from the file where they are there."""
        if self._file is None:
            return np.concatenate(self._parts)
        self._file.flush()
        like = self._parts[0]
        return np.memmap(self._file, like.dtype, "r", shape=(self._n, *like.shape[1:]))


@dataclass(eq=False)
class _Tally:
    """One metric, batch by batch."""

    judge: Judge
    running: Running | None
    sums: Any = 0.0
    n: int = 0
    samples: Kept = field(default_factory=Kept)

    def add(self, outputs: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any] | None) -> None:
        """One more batch; nothing where the metric needs all predictions at once."""
        if self.running is not None:
            self.running.add(outputs, labels, weights)
            return
        found = self.judge.metric.samples(outputs, labels, weights)
        if found is not None:
            self.sums = self.sums + found.sum(axis=0, dtype=np.float64)
            self.n += len(found)
            self.samples.add(found)


@dataclass(frozen=True, eq=False)
class Streamed:
    """What was found of all batches.

    Attributes:
        metrics: name -> value.
        n: number of samples.
        samples: name of a metric -> what each sample adds to it, shape (n, k).
    """

    metrics: Mapping[str, float]
    n: int
    samples: Mapping[str, NDArray[Any]]


Answers = Iterable[tuple[Sequence[NDArray[Any]], Sequence[NDArray[Any]], NDArray[Any] | None, Any]]
"""Outputs, their labels, the samples' weights and inputs, batch by batch."""


def streamed(answers: Answers, judges: Sequence[Judge], numbers: Callable[[Judge, Any, Any, Any], Any]) -> Streamed:
    """Metrics over batches.

    Args:
        answers: the outputs that are judged, their labels, and weights.
        judges: the metrics, and which output each of them judges.
        numbers: from a judge, outputs, labels and weights of all samples to numbers by name, for metrics that need
            them at once.

    Raises:
        DataError: a metric cannot judge by the labels; or samples with weights follow others without.
    """
    tallies = [_Tally(j, j.metric.running() if j.metric.running else None) for j in judges]
    needed = [j for j in judges if j.metric.parts is None and j.metric.running is None and not j.metric.asks]
    whole = {_judged(j): j for j in needed}
    outputs, labels, weights, n = {i: Kept() for i in whole}, {i: Kept() for i in whole}, Kept(), 0
    for values, right, w, x in answers:
        n += len(values[0])
        for tally in tallies:
            tally.add(values[tally.judge.output], right[tally.judge.output], w)
        for i, judge in whole.items():
            outputs[i].add(judge.metric.seen(values[judge.output], x))
            labels[i].add(right[judge.output])
        if whole and w is not None:
            weights.add(w)
    found: dict[str, float] = {}
    weighted = any(j.metric.weighted for j in judges)
    for tally in tallies:
        metric, at = tally.judge.metric, _judged(tally.judge)
        if tally.running is not None:
            found[metric.name] = tally.running.value()
        elif metric.parts is not None:
            found[metric.name] = float(metric.combined(tally.sums, tally.n))
        else:
            own, given = (kept[at].array() if at in whole else None for kept in (outputs, labels))
            found |= numbers(tally.judge, own, given, weights.array() if weighted and at in whole else None)
    samples = {t.judge.metric.name: t.samples.array() for t in tallies if t.n}
    return Streamed(found, n, samples)


def _judged(judge: Judge) -> tuple[int, int]:
    """What a metric looks at: an output, or what follows from it and the inputs."""
    return judge.output, id(judge.metric.scores)


def first_and_all(source: Iterator[Labelled], samples: int) -> tuple[list[Labelled], Iterator[Labelled]]:
    """The first batches of a source, and all of them, each given up when it has been read.

    Args:
        source: batches.
        samples: so many samples at least are in the first ones, unless there are fewer.
    """
    head: deque[Labelled] = deque()
    n = 0
    for batch in source:
        head.append(batch)
        n += len(leaves(batch[0])[0])
        if n >= samples:
            break

    def every() -> Iterator[Labelled]:
        while head:
            yield head.popleft()
        yield from source

    return list(head), every()
