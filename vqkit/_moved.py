"""Old places of names that documents and notebooks import: they work until 0.3, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from vqkit._lazy import LAST

# Old module below vqkit -> the modules in which its names are now.
MOVED: dict[str, tuple[str, ...]] = {
    "flow": ("bench", "quantization", "evaluation", "evaluation.noise", "targets", "models", "quantization.prepare"),
    "flow.data": ("quantization.data",),
    "flow.integer_layers": ("quantization.refine.integer_arithmetic",),
    "flow.layers": ("quantization.layers",),
    "flow.models": ("models",),
    "flow.observers": ("quantization.calibrate",),
    "flow.plan": ("quantization.plan",),
    "flow.quantized_model": ("quantization.layers",),
    "graph.layers": ("graph.passes.layers",),
    "train": ("qat",),
    "train.batch_norm": ("qat.batch_norm",),
    "train.learned": ("qat.layers",),
    "train.wrappers": ("qat.layers",),
    "keras2": ("models.keras2",),
    "experiment": ("runs",),
    "experiment.compare": ("comparison.leaderboard",),
    "experiment.difference": ("comparison.difference",),
    "experiment.flipped": ("comparison.samples",),
    "experiment.quickstart": ("sweeps.quickstart",),
    "experiment.records": ("runs.records",),
    "experiment.runset": ("comparison.runset",),
    "experiment.source": ("sweeps.source",),
    "experiment.store": ("runs.store",),
    "experiment.sweep": ("sweeps.spec", "sweeps.document"),
    "export.dump": ("export.golden",),
    "primitives.grid": ("primitives.spec",),
    "resources": ("files",),
    "widgets.dashboard": ("widgets.watch",),
}
# Names that were public in vqkit itself -> the module in which they are.
NAMES = dict.fromkeys(
    ("title", "changes", "record", "score", "workbench", "keep_figure", "first_samples", "worst_tensors", "run_inputs"),
    "execution.run_api",
)


class _Old(ModuleType):
    """A module that is no longer there; each name is looked up where it is now."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        homes = MOVED[self.__name__.removeprefix("vqkit.")]
        for home in homes:
            module = importlib.import_module(f"vqkit.{home}")
            if hasattr(module, name):
                say = f"{self.__name__}.{name} is vqkit.{home}.{name} now; the old name goes with vqkit {LAST}"
                warnings.warn(say, DeprecationWarning, stacklevel=2)
                return getattr(module, name)
        where = ", ".join(f"vqkit.{h}" for h in homes) or "parts with names of their own, see docs/architecture.md"
        raise AttributeError(f"module {self.__name__!r} is {where} now and has no attribute {name!r}")


class _OldNames(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname.removeprefix("vqkit.") not in MOVED or not fullname.startswith("vqkit."):
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Old(spec.name, f"Old place of names: {MOVED[spec.name.removeprefix('vqkit.')]}.")

    def exec_module(self, module: ModuleType) -> None:
        pass


def install() -> None:
    """Let the import system find the old names, also where empty folders of theirs are left."""
    if not any(isinstance(f, _OldNames) for f in sys.meta_path):
        sys.meta_path.insert(0, _OldNames())
