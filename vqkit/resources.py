"""Where the shipped strategies and notebooks lie, installed or in a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vqkit.errors import VqkitError


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
