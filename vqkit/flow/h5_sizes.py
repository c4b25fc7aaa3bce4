"""What an HDF5 file claims to hold must fit into it: one damaged number would otherwise fill the memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from vqkit.errors import ModelError


def check_sizes(path: Path) -> None:
    """Raise where an attribute or an uncompressed array claims more bytes than the whole file has.

    Args:
        path: of the file.

    Raises:
        ModelError: naming the place.
        OSError: it is no HDF5 file.
    """
    import h5py

    most = path.stat().st_size

    def look(name: str, thing: Any) -> None:
        for key in thing.attrs:
            attribute = thing.attrs.get_id(key)
            claimed = attribute.get_space().get_simple_extent_npoints() * attribute.get_type().get_size()
            _hold(path, f"{name or '/'}@{key}", claimed, most)
        if isinstance(thing, h5py.Dataset) and thing.chunks is None:
            _hold(path, name, math.prod(thing.shape or ()) * thing.dtype.itemsize, most)

    with h5py.File(path, "r") as file:
        look("", file)
        file.visititems(look)


def _hold(path: Path, where: str, claimed: int, most: int) -> None:
    if claimed > most:
        raise ModelError(
            f"{path}: {where} claims {claimed} bytes, the file has {most}: it is damaged. Save it again"
        )
