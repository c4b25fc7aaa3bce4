"""Public names of a package that are imported on first use, because most of what they need is heavy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def names_of(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package (PEP 562).

    Args:
        package: its `__name__`.
        homes: public name -> module below the package, or "" for a name that is itself a module there.

    Returns:
        Two functions to be bound to these names in the package.
    """

    def getattribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        value = getattr(import_module(f"{package}.{home}"), name) if home else import_module(f"{package}.{name}")
        setattr(sys.modules[package], name, value)
        return value

    def directory() -> list[str]:
        # No submodules and imports: what completion in a notebook offers is what is public.
        return sorted({*homes, *(n for n in vars(sys.modules[package]) if n.startswith("__"))})

    return getattribute, directory
