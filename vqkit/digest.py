"""Content digests, the only place where vqkit hashes anything; and the list of code that decides numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

LENGTH = 16
NUMERIC = (
    "digest.py",
    "environment.py",
    "bench",
    "execution/requantize.py",
    "evaluation",
    "execution/in_memory.py",
    "execution/run_api.py",
    "export",
    "graph",
    "models",
    "primitives",
    "qat",
    "quantization",
    "search/engine.py",
    "search/layer_sensitivity.py",
    "search/probe.py",
    "search/questions.py",
    "strategy",
    "sweeps",
    "_data/strategies",
)
"""Packages and files of vqkit that can change a number of a run or a cache."""
VIEWS = (
    "__init__.py",
    "_lazy.py",
    "_moved.py",
    "_registered.py",
    "_version.py",
    "errors.py",
    "files.py",
    "limits.py",
    "process_cache.py",
    "statistics.py",
    "tables.py",
    "cli",
    "comparison",
    "examples",
    "evaluation/preview.py",
    "execution",
    "plots",
    "runs",
    "search",
    "strategy/explain.py",
    "strategy/json_schema.py",
    "sweeps/notebook.py",
    "sweeps/resolve.py",
    "sweeps/screen.py",
    "sweeps/spec.py",
    "targets",
    "vitis",
    "widgets",
    "py.typed",
    "_data/notebooks",
    "_data/strategies/schema.json",
)
"""What only runs, records, compares, draws, explains or writes; of two entries the longer one counts."""
DISTRIBUTIONS = ("tensorflow", "keras", "numpy")
"""What else computes the numbers."""
SOURCES = (".py", ".cc", ".json")


def of_bytes(data: bytes) -> str:
    """Digest of raw bytes, as `LENGTH` hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()[:LENGTH]


def canonical_json(value: Any) -> str:
    """JSON text that is the same for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def of_json(value: Any) -> str:
    """Digest of a JSON value, independent of key order."""
    return of_bytes(canonical_json(value).encode())


def of_array(array: Any) -> str:
    """Digest of an array: dtype, shape and bytes."""
    a = np.ascontiguousarray(array)
    h = hashlib.sha256(f"{a.dtype.str}{a.shape}".encode())
    # An object array has no bytes of its own; the others are read where they lie, also in a file.
    h.update(a.reshape(-1).view(np.uint8).data if a.size and a.dtype.kind != "O" else a.tobytes())
    return h.hexdigest()[:LENGTH]


def of_arrays(arrays: Mapping[str, Any]) -> str:
    """Digest of named arrays, independent of their order."""
    return of_json({name: of_array(a) for name, a in arrays.items()})


def of_file(path: str | Path) -> str:
    """Digest of a file's bytes, read in blocks; of a folder: of its files and their names."""
    if Path(path).is_dir():
        files = sorted(f for f in Path(path).rglob("*") if f.is_file())
        return of_json({f.relative_to(path).as_posix(): of_file(f) for f in files})
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()[:LENGTH]


def is_numeric(name: str) -> bool | None:
    """Whether a file of this package can change a number.

    Args:
        name: of the file, relative to the package, with slashes.

    Returns:
        What `NUMERIC` and `VIEWS` say; None where neither knows the file.
    """
    known = [(e, numeric) for entries, numeric in ((NUMERIC, True), (VIEWS, False)) for e in entries]
    fits = [(len(e), numeric) for e, numeric in known if name == e or name.startswith(f"{e}/")]
    return max(fits)[1] if fits else None


def sources(package: Path) -> dict[str, str]:
    """The files that decide numbers, and their digests; what no list knows might do so, and is among them.

    Args:
        package: folder of the package; the shipped strategies lie in it or, in a checkout, beside it.

    Returns:
        Name relative to the package -> digest.
    """
    found = {f.relative_to(package).as_posix(): f for f in package.rglob("*") if f.suffix in SOURCES}
    beside = package.parent / "strategies"
    if not (package / "_data").is_dir() and beside.is_dir():
        found |= {f"_data/strategies/{f.name}": f for f in beside.glob("*.json")}
    return {name: of_file(found[name]) for name in sorted(found) if is_numeric(name) is not False}


@cache
def code_digest() -> str:
    """Digest of all that decides a number besides its inputs: this package's sources, and what they stand on.

    Every cache and every run's key holds it.
    """
    versions = {name: version(name) for name in DISTRIBUTIONS}
    return of_json({"sources": sources(Path(__file__).resolve().parent), "versions": versions})
