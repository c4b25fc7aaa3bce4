"""vqkit's own layers, known to Keras as soon as both are imported, while nothing heavy is imported for it.

`keras.saving.load_model` finds a class under its registered name only. Until the module that defines it is
imported, a stand-in is registered there, which imports it when a file names it.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

HOMES = {
    "graph.passes.layers": (
        "AttentionBias",
        "CarryMask",
        "EqualizedReLU",
        "InlineActivation",
        "Projection",
        "VitisAveragePooling2D",
        "VitisGlobalAveragePooling2D",
        "VitisSigmoid",
    ),
    "quantization.layers": (
        "FakeQuantize",
        "RoundToType",
        "QuantizedModel",
    ),
    "quantization.refine.integer_arithmetic": (
        "IntegerAveragePooling2D",
        "IntegerConv2D",
        "IntegerDense",
        "IntegerDepthwiseConv2D",
        "IntegerGlobalAveragePooling2D",
    ),
    "qat.batch_norm": ("FoldedBatchNorm",),
    "qat.recipes": (
        "Distillation",
        "RelativeError",
    ),
    "qat.layers": (
        "LearnedQuantize",
        "QuantizedWeights",
    ),
    "qat.model": ("QATModel",),
    "qat.callbacks": ("QATAdam",),
}
"""Module below vqkit -> the classes in it that files hold."""

BARE = ("QuantizedModel",)
"""Models whose class an .h5 file holds by its bare name."""


def _stand_in(name: str, module: str) -> type:
    """A class that Keras takes for the layer's, and that makes the layer."""

    def from_config(cls: type, config: Mapping[str, Any], custom_objects: Any = None) -> Any:
        del cls
        make = getattr(importlib.import_module(module), name).from_config
        if custom_objects and "custom_objects" in inspect.signature(make).parameters:
            return make(dict(config), custom_objects=custom_objects)
        # A scope would hide the one around it, so there is none where Keras hands nothing on.
        scope = sys.modules["keras"].saving.custom_object_scope
        with scope(custom_objects) if custom_objects else nullcontext():
            return make(dict(config))

    return type(name, (), {"from_config": classmethod(from_config), "__module__": __name__})


def _register() -> None:
    known = sys.modules["keras"].saving.get_custom_objects()
    for home, names in HOMES.items():
        for name in names:
            for key in (f"vqkit>{name}", *((name,) if name in BARE else ())):
                known.setdefault(key, _stand_in(name, f"vqkit.{home}"))


class _WhenKerasComes(importlib.abc.MetaPathFinder):
    """Finds Keras as anybody would, and has the names registered after it is imported.

    It stays until then: others ask where Keras is without importing it, as TensorFlow does.
    """

    _asking = False

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """As `importlib` asks."""
        del path, target
        if fullname != "keras" or self._asking:
            return None
        self._asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def then_register(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                _register()

            spec.loader.exec_module = then_register  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Let Keras know vqkit's layers: now, or when it is imported."""
    if hasattr(sys.modules.get("keras"), "saving"):
        _register()
    else:
        sys.meta_path.insert(0, _WhenKerasComes())
