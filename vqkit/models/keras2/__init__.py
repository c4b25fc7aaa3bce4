"""Model files that Keras 2 wrote, rebuilt as models of Keras 3: `.h5`, `.keras` and SavedModel folders.

    archive     what a Keras 2 file holds
    checkpoint  the weights of a SavedModel of Keras 2
    layers      one layer as Keras 2 wrote it, made live by Keras 3
    lookups     the vocabulary of a lookup layer, which Keras 2 keeps beside the weights
    operations  TFOpLambda and TensorFlowOpLayer of Keras 2 as Keras 3 operations
    rebuild     an architecture of Keras 2 as a Keras 3 model
    unsaid      what a version of Keras 2 takes as an argument and does not write
    weights     the weights of a Keras 2 file, put into the model rebuilt from it

Everything is read as data: no pickle, no bytecode and no function of a graph is executed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqkit.models.keras2.lookups import refuse_without_vocabulary
from vqkit.models.keras2.unsaid import tell_what_is_unsaid

__all__ = ["load"]


def load(path: Path, custom_objects: Mapping[str, Any]) -> Any | None:
    """The model of a file that Keras 2 wrote.

    Args:
        path: a `.h5` or `.keras` file, or a SavedModel folder.
        custom_objects: class name -> class; name of a Lambda layer -> its function.

    Returns:
        A functional or Sequential model of Keras 3, or None where the file is not of Keras 2.

    Raises:
        ModelError: the file holds something that cannot be rebuilt; the message says what, and the way out.
    """
    from vqkit.models.keras2.archive import read
    from vqkit.models.keras2.rebuild import rebuild

    archive = read(path)
    if archive is None:
        return None
    made = rebuild(archive.architecture, custom_objects, str(path))
    archive.assign(made)
    refuse_without_vocabulary(made.model, path)
    tell_what_is_unsaid(archive.architecture, archive.version, path)
    if made.renamed:
        told = ", ".join(f"{old!r} is now {new!r}" for old, new in made.renamed.items())
        warnings.warn(
            f"{path}: Keras 3 takes no layer name with a slash; a strategy must use the new names: {told}",
            UserWarning,
            stacklevel=2,
        )
    return made.model
