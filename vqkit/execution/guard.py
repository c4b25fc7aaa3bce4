"""What a variant replaced in the modules of its process: monkeypatches are found, not undone."""

from __future__ import annotations

import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OWN = "vqkit"
_CALLABLE = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    type,
    classmethod,
    staticmethod,
    property,
)
_PLAIN = (dict, list, set)
# Modules whose contents are a memory: they grow by design and hold no rule.
_MEMORIES = (
    "vqkit.execution.warm.",
    "vqkit.execution.guard.",
    "vqkit.execution.switches.",
    "vqkit.process_cache.",
)
# What `%matplotlib inline`, in the first cell of a notebook, makes anew each time.
_CHANGING = ("matplotlib.pyplot._backend_mod", "matplotlib.pyplot.draw_if_interactive")
_MISSING = object()
Slot = tuple[Any, str, Any]


class Guard:
    """Remembers what every loaded module's functions, methods and classes are.

    Comparing takes some 20 ms for all of TensorFlow, because only identities are compared: of the object in
    its place and of the code it runs. For vqkit itself constants and the contents of tables count as well.
    Modules that are imported later join; they are looked through for objects that come from a notebook.
    """

    def __init__(self) -> None:
        self._slots: list[tuple[str, Slot]] = []
        self._codes: list[tuple[str, types.FunctionType, Any, Any]] = []
        self._tables: list[tuple[str, Any, Any]] = []
        self._modules: dict[str, types.ModuleType] = {}
        self._classes: set[int] = set()
        self._join(dict(sys.modules))

    def changes(self) -> list[str]:
        """Dotted names of what was replaced since, and of modules that are gone; at most a few."""
        found = [where for where, (holder, name, value) in self._slots if holder.get(name, _MISSING) is not value]
        found += [
            where
            for where, f, code, defaults in self._codes
            if f.__code__ is not code or f.__defaults__ is not defaults
        ]
        found += [where for where, table, before in self._tables if table != before]
        found += [name for name, module in self._modules.items() if sys.modules.get(name) is not module]
        return found + self._from_notebooks()

    def settle(self) -> None:
        """Take in the installed modules that were imported since, and forget the user's own.

        A fresh kernel would run the user's modules again, so the next variant must as well.
        """
        new = {name: m for name, m in list(sys.modules.items()) if name not in self._modules}
        for name in [name for name, module in new.items() if not _installed(module)]:
            if name != "__main__":
                del new[name]
                sys.modules.pop(name, None)
        self._join(new)

    def _join(self, modules: dict[str, types.ModuleType]) -> None:
        for name, module in modules.items():
            space = getattr(module, "__dict__", None)
            if name == "__main__" or not isinstance(space, dict):
                continue
            self._modules[name] = module
            for key, value in list(space.items()):
                self._watch(name, space, key, value)

    def _watch(self, module: str, space: dict[str, Any], key: str, value: Any) -> None:
        where = f"{module}.{key}"
        if where in _CHANGING:
            return
        own = module.split(".")[0] == OWN and not where.startswith(_MEMORIES)
        if isinstance(value, _CALLABLE) or (own and not key.startswith("__")):
            self._slots.append((where, (space, key, value)))
        if own and type(value) in _PLAIN and not key.startswith("__"):
            self._tables.append((where, value, value.copy()))
        if isinstance(value, types.FunctionType):
            self._codes.append((where, value, value.__code__, value.__defaults__))
        if isinstance(value, type) and value.__module__ == module and id(value) not in self._classes:
            self._classes.add(id(value))
            self._watch_class(where, value)

    def _watch_class(self, where: str, cls: type) -> None:
        for key, value in list(cls.__dict__.items()):
            if isinstance(value, _CALLABLE):
                self._slots.append((f"{where}.{key}", (cls.__dict__, key, value)))
            if isinstance(value, types.FunctionType):
                self._codes.append((f"{where}.{key}", value, value.__code__, value.__defaults__))

    def _from_notebooks(self) -> list[str]:
        new = [(n, m) for n, m in list(sys.modules.items()) if n not in self._modules and _installed(m)]
        return [
            f"{name}.{key}"
            for name, module in new
            for key, value in list(getattr(module, "__dict__", {}).items())
            if _made_in_notebook(value)
        ]


def _made_in_notebook(value: Any) -> bool:
    return isinstance(value, (types.FunctionType, type)) and value.__module__ == "__main__"


def _installed(module: Any) -> bool:
    """Whether a module belongs to Python, to a package or to vqkit, and not to the user's project."""
    file = getattr(module, "__file__", None)
    if file is None:
        # Built in, a namespace, or made on the fly by a library that is itself watched.
        return True
    return any(Path(file).is_relative_to(root) for root in _roots())


def _roots() -> Iterator[Path]:
    yield Path(__file__).resolve().parents[1]
    yield from {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
