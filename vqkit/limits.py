"""How much memory a file from others may ask for, and what it may not hold; asked before anything is taken.

A file may claim fifty times its own size (and 64 MB in any case), and at most half of the free memory. Who
trusts a file that says more sets `VQKIT_FILE_MEMORY`, in bytes.
"""

from __future__ import annotations

import math
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, NoReturn

from vqkit.errors import DataError, ModelError, RecordError

OPTION = "VQKIT_FILE_MEMORY"
_TIMES, _LEAST, _SHARE = 50, 64 << 20, 0.5
# Text becomes objects of some twenty times its size.
_TEXT = 4 << 20
Refusal = type[ModelError] | type[DataError] | type[RecordError]


class MemoryBudget:
    """What one file may claim.

    Attributes:
        path: of the file, or of a folder.
        size: bytes that it has.
        most: bytes that it may claim.
    """

    def __init__(self, path: Path, error: Refusal = ModelError) -> None:
        """The room for a file.

        Args:
            path: an existing file or folder.
            error: raised where the file claims more.

        Raises:
            ModelError: `VQKIT_FILE_MEMORY` is no number of bytes (or `error`, where that is another).
        """
        self.path, self.error = path, error
        check_regular(path, error)
        files = [f for f in path.rglob("*") if f.is_file()] if path.is_dir() else [path]
        self.size = sum(f.stat().st_size for f in files)
        self.most = self._most()

    def _most(self) -> int:
        import psutil

        given = os.environ.get(OPTION)
        if given:
            try:
                return int(float(given))
            except ValueError as e:
                raise self.error(f"{OPTION}={given!r} in the environment: give a number of bytes, as 8e9") from e
        share = int(psutil.virtual_memory().available * _SHARE)
        return min(share, max(_LEAST, _TIMES * self.size))

    def hold(self, claimed: int, what: str) -> None:
        """Raise where a part of the file claims more memory than it may.

        Args:
            claimed: bytes that reading it would take.
            what: the part, for the message.
        """
        if claimed > self.most:
            raise self.error(
                f"{self.path}: {what} claims {_readable(claimed)}, the file has {_readable(self.size)}; at "
                f"most {_readable(self.most)} are taken for it (fifty times its size, half of the free "
                f"memory). If you trust it, set {OPTION} in the environment to what it may take, in bytes"
            )

    def hold_text(self, claimed: int, what: str) -> None:
        """The same for JSON, which takes many times its size when it is read."""
        if claimed > max(_TEXT, self.size, int(os.environ.get(OPTION) is not None) * self.most):
            self.hold(claimed * 20, what)

    def refuse(self, why: str) -> NoReturn:
        """Raise the error for this file."""
        raise self.error(f"{self.path}: {why}")


def _readable(size: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"


def check_regular(path: Path, error: Refusal) -> None:
    """Raise where a path, or something in a folder, is a pipe, a socket or a device: who opens it may wait for ever.

    Args:
        path: an existing file or folder.
        error: the exception to raise.
    """
    for found in (path, *path.rglob("*")) if path.is_dir() else (path,):
        mode = found.stat().st_mode if found.exists() else stat.S_IFREG
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise error(f"{found}: is a pipe, a socket or a device, not a file")


def check_zip(path: Path, room: MemoryBudget) -> None:
    """Raise where the members of a zip archive unpack to more than it may claim.

    Args:
        path: an archive (another file is left to its reader).
        room: of the archive.

    Raises:
        ModelError: it does (or the room's own error).
        BadZipFile: it is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        room.hold(sum(m.file_size for m in members), "its content, unpacked,")
        for member in members:
            name = member.filename.replace("\\", "/")
            if name.endswith(".json"):
                room.hold_text(member.file_size, name)
            elif name.endswith((".h5", ".hdf5")):
                with archive.open(member) as opened, _seekable(member, opened) as source:
                    check_h5(source, room, f"{name}: ")


@contextmanager
def _seekable(member: zipfile.ZipInfo, opened: IO[bytes]) -> Iterator[IO[bytes]]:
    """A compressed member as a file: going back in it would unpack it from its start each time."""
    if member.compress_type == zipfile.ZIP_STORED:
        yield opened
        return
    with tempfile.TemporaryFile() as unpacked:
        shutil.copyfileobj(opened, unpacked, 1 << 20)
        unpacked.seek(0)
        yield unpacked


def check_h5(source: Any, room: MemoryBudget, prefix: str = "") -> None:
    """Raise where an HDF5 file reads another file, or claims what it does not hold.

    Args:
        source: its path, or the opened file.
        room: of the file, or of the archive that it is in.
        prefix: before the places in messages.

    Raises:
        ModelError: a link, external storage or a virtual dataset; an array that was never written; or more
            bytes than the file may claim.
        OSError: it is no HDF5 file.
    """
    import h5py

    with h5py.File(source, "r") as file:
        _Check(room, prefix).group(file)


class _Check:
    """Walks an HDF5 file without reading its arrays."""

    def __init__(self, room: MemoryBudget, prefix: str) -> None:
        self._room, self._prefix, self._total = room, prefix, 0

    def group(self, root: Any) -> None:
        import h5py

        seen, waiting = set(), [("/", root)]
        while waiting:
            name, thing = waiting.pop()
            place = h5py.h5o.get_info(thing.id)
            if (place.fileno, place.addr) in seen:
                continue
            seen.add((place.fileno, place.addr))
            self._attributes(name, thing)
            if isinstance(thing, h5py.Dataset):
                self._dataset(name, thing)
            elif isinstance(thing, h5py.Group):
                for key in thing:
                    inside = f"{name.rstrip('/')}/{key}"
                    if not isinstance(thing.get(key, getlink=True), h5py.HardLink):
                        self._refuse(inside, "is a link to another place or file, which is not followed")
                    waiting.append((inside, thing[key]))

    def _refuse(self, name: str, why: str) -> NoReturn:
        self._room.refuse(f"{self._prefix}{name} {why}. Keras writes no such file: save the model again")

    def _attributes(self, name: str, thing: Any) -> None:
        for key in thing.attrs:
            attribute = thing.attrs.get_id(key)
            count, kind = attribute.get_space().get_simple_extent_npoints(), attribute.get_type()
            self._hold_stored(f"{name}@{key}", count * kind.get_size())
            if count > 1 and kind.detect_class(_vlen()):
                # Each text may be the same long one.
                self._room.hold(count * self._room.size, f"{self._prefix}{name}@{key}")

    def _dataset(self, name: str, data: Any) -> None:
        import h5py

        if data.external:
            self._refuse(name, "is stored in another file, which is not read")
        if data.is_virtual:
            self._refuse(name, "is a virtual dataset, made of other files, which are not read")
        claimed = math.prod(data.shape or ()) * data.dtype.itemsize
        if h5py.check_vlen_dtype(data.dtype) or h5py.check_string_dtype(data.dtype):
            claimed = max(claimed, math.prod(data.shape or ()) * self._room.size)
        if data.chunks is None:
            self._hold_stored(name, math.prod(data.shape or ()) * data.dtype.itemsize)
        self._total += claimed
        at_once = math.prod(data.chunks) * data.dtype.itemsize if data.chunks else 0
        self._room.hold(max(at_once, claimed), f"{self._prefix}{name}")
        self._room.hold(self._total, f"{self._prefix}its arrays together")
        if claimed and not _written(data):
            self._refuse(name, f"claims {_readable(claimed)} that were never written")

    def _hold_stored(self, name: str, claimed: int) -> None:
        """What is not compressed cannot be larger than the file."""
        if self._room.size < claimed:
            # In an archive the file may be compressed as a whole.
            if self._prefix:
                self._room.hold(claimed, f"{self._prefix}{name}")
                return
            self._room.refuse(
                f"{name.lstrip('/') or '/'} claims {claimed} bytes, the file has {self._room.size}: it is "
                "damaged. Save it again"
            )


def _vlen() -> int:
    import h5py

    return int(h5py.h5t.VLEN)


def _written(data: Any) -> bool:
    """Whether every part of an array is in the file; what is not would be read as zeros."""
    if data.chunks is None:
        return bool(data.id.get_storage_size() > 0)
    expected = math.prod(-(-n // c) for n, c in zip(data.shape, data.chunks, strict=True))
    return bool(data.id.get_num_chunks() >= expected)


def check_arrays(path: Path | BinaryIO, room: MemoryBudget) -> None:
    """Raise where the arrays of an `.npz` file claim more than it may, or more than their member holds.

    Args:
        path: an existing file, or the opened one.
        room: of the file.

    Raises:
        DataError: they do (the room's own error).
        ValueError, BadZipFile: it is a damaged archive (what is none is left to its reader).
    """
    if not zipfile.is_zipfile(path):
        return
    from numpy.lib import format as npy

    readers: dict[tuple[int, int], Callable[..., Any]] = {
        (1, 0): npy.read_array_header_1_0,
        (2, 0): npy.read_array_header_2_0,
    }
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        room.hold(sum(m.file_size for m in members), "its content, unpacked,")
        for member in members:
            with archive.open(member) as opened:
                reader = readers.get(npy.read_magic(opened)) if member.filename.endswith(".npy") else None
                if reader is None:
                    continue
                shape, _, dtype = reader(opened)
            claimed = math.prod(shape) * dtype.itemsize
            if claimed > member.file_size and not dtype.hasobject:
                room.refuse(f"{member.filename} claims {claimed} bytes, {member.file_size} are there: it is damaged")
