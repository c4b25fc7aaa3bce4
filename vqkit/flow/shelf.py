"""What was observed of the float model, on disk: another process with the same model and data reads it.

A file for each tensor, addressed by what the tensor is made of, by the batches, and by the code and the
machine that computed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vqkit import digest
from vqkit.files import Arrays, DiskCache
from vqkit.flow import content
from vqkit.flow.observers import Observed
from vqkit.primitives.histogram import Histogram

Stream = tuple[Any, ...]
_Found = tuple[dict[str, Observed], tuple[int, int]]

LISTS = ("f_min", "f_max", "pos")


class Shelf:
    """Facts of tensors, written by any process and read by any.

    Args:
        folder: shared by processes; None keeps nothing.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._cache = DiskCache(None if folder is None else Path(folder, "observed"))
        self._read: dict[Path, tuple[tuple[int, int], _Found | None]] = {}

    def get(self, value: str, stream: Stream, observer: Any) -> tuple[Observed, tuple[int, int]] | None:
        """What is known of a tensor.

        Args:
            value: digest of what the tensor is made of.
            stream: identifies the batches.
            observer: what decides which facts are recorded; has a `repr` of its own.

        Returns:
            The facts, and how many batches and samples they come from; None where nobody has put them here.
        """
        found = self._now(_name(value, stream))
        name = digest.of_bytes(repr(observer).encode())
        return None if found is None or name not in found[0] else (found[0][name], found[1])

    def put(self, value: str, stream: Stream, facts: Mapping[Any, Observed], size: tuple[int, int]) -> None:
        """Add what was observed of a tensor.

        Args:
            value: as in `get`.
            stream: as in `get`.
            facts: observer -> facts. Those of channels' histograms are left out, which are large.
            size: how many batches and samples.
        """
        whole = {o: s for o, s in facts.items() if s.histogram is None or isinstance(s.histogram, Histogram)}
        if self._cache.folder is None or not whole:
            return
        file = _name(value, stream)
        named = {digest.of_bytes(repr(o).encode()): seen for o, seen in whole.items()}
        before = self._kept(file)
        every = named if before is None else {**before[0], **named}
        arrays = {f"{name}.{k}": a for name, seen in every.items() for k, a in _flat(seen).items()}
        self._cache.keep_arrays(file, {**arrays, "size": np.array(size)})

    def _now(self, file: str) -> _Found | None:
        """What a file holds now; another process may have added to it."""
        path = self._cache.path(file)
        if path is None:
            return None
        try:
            stamp = (path.stat().st_ino, path.stat().st_mtime_ns)
        except OSError:
            return None
        if self._read.get(path, (None, None))[0] != stamp:
            self._read[path] = stamp, self._kept(file)
        return self._read[path][1]

    def _kept(self, file: str) -> _Found | None:
        """What a file holds; None where there is none, or one that cannot be read, which is written again."""
        by_name: dict[str, Arrays] = {}
        arrays = self._cache.arrays(file)
        if arrays is None:
            return None
        batches, samples = arrays.pop("size").tolist()
        for key, array in arrays.items():
            name, _, what = key.partition(".")
            by_name.setdefault(name, {})[what] = array
        return {name: _observed(parts) for name, parts in by_name.items()}, (batches, samples)


def _name(value: str, stream: Stream) -> str:
    return f"{digest.of_bytes(repr((value, stream, content.here())).encode())}.npz"


def _flat(seen: Observed) -> Arrays:
    found = {k: np.stack(getattr(seen, k)) for k in LISTS if getattr(seen, k)}
    return found if not isinstance(seen.histogram, Histogram) else {**found, **seen.histogram.to_arrays()}


def _observed(arrays: Arrays) -> Observed:
    lists = {k: list(arrays.pop(k)) for k in LISTS if k in arrays}
    return Observed(**lists, histogram=Histogram.of_arrays(arrays) if arrays else None)
