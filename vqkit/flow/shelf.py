"""What was observed of the float model, on disk: another process with the same model and data reads it.

A file for each tensor, addressed by what the tensor is made of, by the batches, and by the code and the
machine that computed it.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from vqkit import digest
from vqkit.flow.content import write_npz
from vqkit.flow.observers import Observed
from vqkit.primitives.histogram import Histogram

Arrays = dict[str, np.ndarray]
Stream = tuple[Any, ...]
_Found = tuple[dict[str, Observed], tuple[int, int]]

LISTS = ("f_min", "f_max", "pos")


class Shelf:
    """Facts of tensors, written by any process and read by any.

    Args:
        folder: shared by processes; None keeps nothing.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._folder = None if folder is None else Path(folder, "observed")
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
        path = self._path(value, stream)
        if path is None:
            return None
        found = self._now(path)
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
        path = self._path(value, stream)
        whole = {o: s for o, s in facts.items() if s.histogram is None or isinstance(s.histogram, Histogram)}
        if path is None or not whole:
            return
        named = {digest.of_bytes(repr(o).encode()): seen for o, seen in whole.items()}
        before = _read(path)
        every = named if before is None else {**before[0], **named}
        arrays = {f"{name}.{k}": a for name, seen in every.items() for k, a in _flat(seen).items()}
        write_npz(path, {**arrays, "size": np.array(size)})

    def _now(self, path: Path) -> _Found | None:
        """What a file holds now; another process may have added to it."""
        try:
            stamp = (path.stat().st_ino, path.stat().st_mtime_ns)
        except OSError:
            return None
        if self._read.get(path, (None, None))[0] != stamp:
            self._read[path] = stamp, _read(path)
        return self._read[path][1]

    def _path(self, value: str, stream: Stream) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / f"{digest.of_bytes(repr((value, stream, _here())).encode())}.npz"


def _flat(seen: Observed) -> Arrays:
    found = {k: np.stack(getattr(seen, k)) for k in LISTS if getattr(seen, k)}
    return found if not isinstance(seen.histogram, Histogram) else {**found, **seen.histogram.to_arrays()}


def _read(path: Path) -> _Found | None:
    """What a file holds; None where there is none, or one that cannot be read, which is written again."""
    by_name: dict[str, Arrays] = {}
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            batches, samples = file["size"].tolist()
            for key in file.files:
                name, dot, what = key.partition(".")
                if dot:
                    by_name.setdefault(name, {})[what] = file[key]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    return {name: _observed(arrays) for name, arrays in by_name.items()}, (batches, samples)


def _observed(arrays: Arrays) -> Observed:
    lists = {k: list(arrays.pop(k)) for k in LISTS if k in arrays}
    return Observed(**lists, histogram=Histogram.of_arrays(arrays) if arrays else None)


@lru_cache(maxsize=1)
def _here() -> str:
    """Digest of the code that observes and of what it runs on: a convolution's last bits depend on both."""
    package = Path(__file__).resolve().parents[1]
    parts = [package / part for part in ("primitives", "graph", "flow")]
    files = sorted(f for part in parts for kind in ("*.py", "*.cc") for f in part.glob(kind))
    versions = [version(name) for name in ("tensorflow", "keras", "numpy")]
    return digest.of_json([[digest.of_file(f) for f in files], versions, *_processor()])


def _processor() -> list[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8", errors="replace").splitlines() if info.is_file() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return [platform.system(), platform.machine(), flags]
