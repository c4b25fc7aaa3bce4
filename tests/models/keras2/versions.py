"""Files that real versions of Keras 2 wrote, of every layer class, against what these versions computed.

    python -m tests.models.keras2.versions        all of them, some minutes

The archives lie in `tests/models/legacy`; its README says how they were made.
"""

from __future__ import annotations

import io
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

LEGACY = Path(__file__).resolve().parents[2] / "models" / "legacy"
ARCHIVES = sorted(p.stem for p in LEGACY.glob("*.zip"))


class Version:
    """The files of one archive."""

    def __init__(self, name: str) -> None:
        self.archive = zipfile.ZipFile(LEGACY / f"{name}.zip")
        with np.load(io.BytesIO(self.archive.read("expected.npz"))) as arrays:
            self._arrays = {k: arrays[k] for k in arrays.files}
        self.names = list(dict.fromkeys(k.split("/")[0] for k in self._arrays))

    def files(self, name: str) -> list[str]:
        """Members of a model: one for each kind of file."""
        tops = dict.fromkeys(m.split("/")[0] for m in self.archive.namelist())
        return [t for t in tops if t in (f"{name}.h5", f"{name}.keras", f"{name}_saved_model")]

    def wrong(self, file: str, folder: Path) -> str | None:
        """What is wrong with a model loaded from a file; None where it computes what Keras 2 computed."""
        from vqkit.models import load_model

        members = [m for m in self.archive.namelist() if m.split("/")[0] == file]
        self.archive.extractall(folder, members)
        model = load_model(folder / file)
        name = file.removesuffix("_saved_model").split(".")[0]
        own = {k.split("/")[1]: v for k, v in self._arrays.items() if k.startswith(f"{name}/")}
        inputs = [v for k, v in own.items() if k[0] == "x" and k[1:].isdigit()]
        expected = [v for k, v in own.items() if not (k[0] == "x" and k[1:].isdigit())]
        inputs = [_text(v) if v.dtype.kind == "U" else v for v in inputs]
        given: Any = inputs[0] if len(inputs) == 1 else inputs
        outputs = model(given, training=False)
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        for ours, theirs in zip(outputs, expected, strict=True):
            array = np.asarray(ours, "f8")
            if array.shape != theirs.shape:
                return f"{file}: shape {array.shape}, {theirs.shape} in Keras 2"
            # Sums in another order, on another machine.
            apart = np.abs(array - theirs).max() / max(1, np.abs(theirs).max())
            if not apart < 2e-6:
                return f"{file}: {apart:.1e} apart"
        return None


def _text(array: np.ndarray) -> Any:
    import tensorflow as tf

    return tf.constant(array.astype(str))


def one_of_each() -> dict[str, list[str]]:
    """Archive -> model files: nets from each, every layer class from one that has it, of few files first."""
    versions = {name: Version(name) for name in ARCHIVES}
    taken: dict[str, list[str]] = {name: [] for name in ARCHIVES}
    for model in sorted({m for v in versions.values() for m in v.names}):
        have = [name for name, v in versions.items() if model in v.names]
        chosen = have if "_" not in model else [min(have, key=lambda name: len(taken[name]))]
        for name in chosen:
            taken[name] += versions[name].files(model)
    return taken


def main() -> int:
    """Load them all and say which are wrong."""
    warnings.simplefilter("ignore")
    bad = 0
    for name in ARCHIVES:
        version = Version(name)
        files = [f for model in version.names for f in version.files(model)]
        with tempfile.TemporaryDirectory() as folder:
            told = []
            for file in files:
                try:
                    told.append(version.wrong(file, Path(folder)))
                except Exception as error:
                    told.append(f"{file}: {type(error).__name__}: {error}")
        found = [t for t in told if t]
        print(f"{name}: {len(files)} files, {len(found)} wrong", *found, sep="\n  ", flush=True)
        bad += len(found)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
