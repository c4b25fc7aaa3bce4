"""Ways in which a file on disk can be damaged; each takes the path of a whole one."""

from __future__ import annotations

import io
import json
import os
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


def zeros(path: Path) -> None:
    """Of its length, and never flushed before the machine went down."""
    path.write_bytes(bytes(path.stat().st_size))


def a_number(path: Path) -> None:
    """JSON, of another type."""
    path.write_text("3")


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


def unreadable(path: Path) -> None:
    """A link to itself: what nobody can open, root neither."""
    path.unlink()
    path.symlink_to(path)


def pipe(path: Path) -> None:
    """A pipe in its place: who opens it waits for a writer."""
    path.unlink()
    os.mkfifo(path)


DAMAGES: tuple[Callable[[Path], None], ...] = (
    cut,
    flipped,
    empty,
    zeros,
    garbage,
    foreign,
    another_kind,
    a_number,
    folder,
    dangling,
    unreadable,
    pipe,
)
