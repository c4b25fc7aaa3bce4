"""Files of vqkit and of runs: atomic writes, reads, locks, and where shipped folders lie.

A file appears by one rename, so a kill leaves the old one or the new one. A folder is held by a lock that the
kernel frees. A cache (`DiskCache`) may lose anything at any time: what cannot be read is computed again.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import numpy as np

from vqkit import digest
from vqkit.errors import RecordError, VqkitError
from vqkit.limits import MemoryBudget, check_arrays

LOCK = ".lock"
_CONTENT = "content digest"
_log = logging.getLogger(__name__)
Arrays = dict[str, np.ndarray]
Found = TypeVar("Found")


class UnwritableError(RecordError):
    """The machine refused to write: a read-only folder, a full disk."""


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Args:
        path: the file.

    Returns:
        Its value.

    Raises:
        RecordError: missing or not JSON.
    """
    try:
        with open_file(path) as file:
            return json.loads(file.read().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as e:
        raise RecordError(f"{path}: cannot be read: {_why(e)}") from e


def read_text(path: str | Path, *, most: int | None = None) -> str:
    """Text of a file for people to read, such as a log; what is no UTF-8 in it is replaced.

    Args:
        path: the file.
        most: its last so many bytes; None for all.

    Returns:
        The text; of a file that cannot be read, why.
    """
    try:
        with open_file(path) as file:
            if most is not None:
                file.seek(max(0, os.fstat(file.fileno()).st_size - most))
            return file.read().decode("utf-8", errors="replace")
    except OSError as e:
        return f"{path}: cannot be read: {_why(e)}"


def open_file(path: str | Path) -> BinaryIO:
    """A file opened for reading; what is none (a folder, a pipe, a device) is refused and not waited for.

    Args:
        path: the file, or a link to one.

    Raises:
        OSError: there is none, it is no regular file, or may not be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
            raise OSError(code, "is a folder" if stat.S_ISDIR(mode) else "is a pipe or a device, not a file", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_npz(path: str | Path, *, trusted: bool = False) -> Arrays:
    """Read the arrays of an `.npz` file; nothing in it is executed.

    Args:
        path: the file.
        trusted: of one's own, so that its arrays may take any memory; else what `limits` says.

    Returns:
        Name -> array.

    Raises:
        RecordError: missing, cut short, no arrays, or larger than that.
    """
    try:
        with open_file(path) as opened:
            if not trusted:
                check_arrays(opened, MemoryBudget(Path(path), RecordError))
                opened.seek(0)
            with np.load(opened, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
    except RecordError:
        raise
    # A file can be damaged in more ways than zipfile, zlib and numpy have exceptions of their own for.
    except Exception as e:
        raise RecordError(f"{path}: cannot be read: {_why(e)}") from e


def _why(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON by a temporary file and a rename, so that no reader ever sees half of it.

    Args:
        path: the file; its folder is made where it is missing.
        value: plain JSON, without NaN.

    Raises:
        UnwritableError: as `write_bytes`.
    """
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8, likewise.

    Args:
        path: the file.
        text: its content.

    Raises:
        UnwritableError: as `write_bytes`.
    """
    write_bytes(path, text.encode("utf-8"))


def write_npz(path: str | Path, arrays: Mapping[str, Any], *, compressed: bool = False) -> None:
    """Write arrays to an `.npz` file, likewise.

    Args:
        path: the file.
        arrays: name -> array.
        compressed: smaller and slower.

    Raises:
        UnwritableError: as `write_bytes`.
    """
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file by a temporary file beside it and a rename; others may read it.

    Args:
        path: the file; its folder is made where it is missing.
        data: its content.

    Raises:
        UnwritableError: the folder is read-only, the disk is full, …; the file is as it was.
    """
    with writing(path):
        _write_bytes(Path(path), data)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn the machine's refusal to write below a path into an error that says what to do.

    Args:
        path: what is being written.

    Raises:
        UnwritableError: in place of an `OSError`.
    """
    try:
        yield
    except OSError as e:
        raise UnwritableError(
            f"{path}: cannot be written: {e.strerror or e}. What was recorded before is safe; make room or "
            "make the folder writable, and give the same command again"
        ) from e


def _write_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A file or folder that another library writes: by its own name in a folder aside, then moved in place.

    Args:
        path: where it will be; its folder is made where it is missing.

    Returns:
        As context value: where to write it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / path.name
        yield part
        os.replace(part, path)


class DiskCache:
    """Results on disk, by name; what cannot be read back as it was written is a miss, said once in the log.

    Each file carries a digest of its content. What cannot be written is said alike, and is not kept.

    Args:
        folder: shared by processes; None keeps nothing.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._told: set[tuple[Path, str]] = set()

    def path(self, name: str) -> Path | None:
        """Where a result lies; None where nothing is kept.

        Args:
            name: of the file, with its suffix.
        """
        return None if self.folder is None else self.folder / name

    def arrays(self, name: str) -> Arrays | None:
        """Arrays that were kept.

        Args:
            name: of the file.

        Returns:
            Name -> array; None where there are none, or none that can be relied on.
        """
        return self._read(name, _arrays)

    def keep_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep arrays.

        Args:
            name: of the file.
            arrays: name -> array.
        """
        content = np.array(digest.of_arrays(arrays))
        self._write(name, lambda path: write_npz(path, {**arrays, _CONTENT: content}))

    def json(self, name: str) -> Any:
        """A JSON value that was kept.

        Args:
            name: of the file.

        Returns:
            The value; None where there is none, or none that can be relied on.
        """
        return self._read(name, _value)

    def keep_json(self, name: str, value: Any) -> None:
        """Keep a JSON value.

        Args:
            name: of the file.
            value: plain JSON, without NaN.
        """
        held = {_CONTENT: digest.of_json(value), "value": value}
        self._write(name, lambda path: write_json(path, held))

    def _read(self, name: str, read: Callable[[Path], Found]) -> Found | None:
        path = self.path(name)
        if path is None or not os.path.lexists(path):
            return None
        try:
            return read(path)
        except RecordError as e:
            self._tell(path, f"{e}; it is computed again")
            return None

    def _write(self, name: str, write: Callable[[Path], None]) -> None:
        path = self.path(name)
        if path is None:
            return
        try:
            write(path)
        except UnwritableError as e:
            self._tell(path, f"the result is not kept for later: {e}")

    def _tell(self, path: Path, message: str) -> None:
        if (path, message) not in self._told:
            self._told.add((path, message))
            _log.warning("cache: %s", message)


def _arrays(path: Path) -> Arrays:
    found = read_npz(path, trusted=True)
    written = found.pop(_CONTENT, None)
    if written is None or str(written) != digest.of_arrays(found):
        raise RecordError(f"{path}: its content is not what was written")
    return found


def _value(path: Path) -> Any:
    held = read_json(path)
    if not isinstance(held, dict) or held.get(_CONTENT) != digest.of_json(held.get("value")):
        raise RecordError(f"{path}: its content is not what was written")
    return held["value"]


@contextlib.contextmanager
def lock(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a folder for this process; the kernel frees it when the process dies, however it dies.

    Args:
        folder: made if missing; holds the file `.lock`.
        wait: block until it is free.

    Returns:
        As context value: whether the lock is held (always True when waiting).

    Raises:
        UnwritableError: the folder cannot be written.
    """
    import fcntl

    with contextlib.ExitStack() as stack:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what a full disk refused must not be tried again when the file is closed.
            f = stack.enter_context(open(folder / LOCK, "a+b", buffering=0))
            try:
                fcntl.flock(f, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                held = False
            if held:
                f.truncate(0)
                f.write(f"{os.getpid()} {socket.gethostname()}".encode())
        yield held


def holder(folder: Path) -> tuple[int, str] | None:
    """Process and machine that took a folder's lock last; whether they still hold it, `locked` tells.

    Args:
        folder: what `lock` was given.
    """
    try:
        pid, _, host = (folder / LOCK).read_text("utf-8").partition(" ")
        return int(pid), host
    except (OSError, ValueError):
        return None


def locked(folder: Path) -> bool:
    """Whether somebody holds a folder's lock at this moment.

    Args:
        folder: what `lock` was given.
    """
    import fcntl

    try:
        with open(folder / LOCK, "rb") as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def process_alive(pid: int) -> bool:
    """Whether a process of this machine exists.

    Args:
        pid: its number.
    """
    import psutil

    return pid > 0 and psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def resource_dir(kind: Literal["strategies", "notebooks"]) -> Path:
    """Find a shipped folder: a wheel carries it inside the package, a checkout beside it.

    Args:
        kind: which folder.

    Returns:
        An existing directory.

    Raises:
        VqkitError: the installation lacks it.
    """
    package = Path(__file__).resolve().parent
    places = (package / "_data" / kind, package.parent / kind)
    for place in places:
        if place.is_dir():
            return place
    raise VqkitError(f"the folder {kind!r} is neither in {places[0]} nor in {places[1]}; reinstall vqkit")
