"""Ways in which a file on disk can be damaged; each takes the path of a whole one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np


def cut(path: Path) -> None:
    """The writer's disk was full."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flipped(path: Path) -> None:
    """One bit in the middle is another."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    """Made, and never written."""
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    """Something else altogether."""
    path.write_bytes(bytes(np.random.default_rng(0).integers(0, 256, 999, dtype=np.uint8)))


def foreign(path: Path) -> None:
    """Well formed, and of something else."""
    if path.suffix == ".json":
        path.write_text(json.dumps({"other": [1, 2]}))
    else:
        buffer = io.BytesIO()
        np.savez(buffer, other=np.zeros((2, 3)))
        path.write_bytes(buffer.getvalue())


def another_kind(path: Path) -> None:
    """Well formed, of another kind of value."""
    if path.suffix == ".json":
        path.write_text("[null, 3]")
    else:
        buffer = io.BytesIO()
        np.save(buffer, np.zeros(3))
        path.write_bytes(buffer.getvalue())


def folder(path: Path) -> None:
    """A folder in its place."""
    path.unlink()
    path.mkdir()


def dangling(path: Path) -> None:
    """A link to nowhere."""
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


DAMAGES: tuple[Callable[[Path], None], ...] = (
    cut,
    flipped,
    empty,
    garbage,
    foreign,
    another_kind,
    folder,
    dangling,
)
