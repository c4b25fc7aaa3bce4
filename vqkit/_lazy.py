"""Public names of a package that are imported on first use, because most of what they need is heavy."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

LAST = "0.3"
"""The version with which names that have moved go."""


def _at(home: str, name: str) -> Any:
    """A name of a module, or a module of a package."""
    module = import_module(home)
    return getattr(module, name) if hasattr(module, name) else import_module(f"{home}.{name}")


def names_of(
    package: str, homes: Mapping[str, str], moved: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package (PEP 562).

    Args:
        package: its `__name__`.
        homes: public name -> module below the package, or "" for a name that is itself a module there.
        moved: name that was public -> module below the package; it works, with a DeprecationWarning.

    Returns:
        Two functions to be bound to these names in the package.
    """

    def getattribute(name: str) -> Any:
        if name not in homes and moved and name in moved:
            say = f"{package}.{name} is {package}.{moved[name]}.{name} now; the old name goes with vqkit {LAST}"
            warnings.warn(say, DeprecationWarning, stacklevel=2)
            return getattr(import_module(f"{package}.{moved[name]}"), name)
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        value = _at(f"{package}.{home}", name) if home else import_module(f"{package}.{name}")
        setattr(sys.modules[package], name, value)
        return value

    def directory() -> list[str]:
        # No submodules and imports: what completion in a notebook offers is what is public.
        return sorted({*homes, *(n for n in vars(sys.modules[package]) if n.startswith("__"))})

    return getattribute, directory
