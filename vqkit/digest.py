"""Content digests: the only place where vqkit hashes anything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

LENGTH = 16


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
