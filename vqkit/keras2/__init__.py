"""Model files that Keras 2 wrote, rebuilt as models of Keras 3: `.h5`, `.keras` and SavedModel folders.

    archive      what a file holds: its architecture, and a way to its weights
    rebuild      the architecture, called layer by layer
    layers       one layer's configuration in the words of Keras 3
    activations  functions that Keras 3 defines otherwise
    weights      the layouts of weights, found again in the rebuilt model
    checkpoint   the same for a SavedModel
    functions    `tf.…` functions and operators (TFOpLambda) as operations of Keras 3
    raw_ops      the same for graph operations of TensorFlow before 2.4 (TensorFlowOpLayer)

Everything is read as data: no pickle, no bytecode and no function of a graph is executed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    from vqkit.keras2.archive import read
    from vqkit.keras2.rebuild import rebuild

    archive = read(path)
    if archive is None:
        return None
    made = rebuild(archive.architecture, custom_objects, str(path))
    archive.assign(made)
    if made.renamed:
        told = ", ".join(f"{old!r} is now {new!r}" for old, new in made.renamed.items())
        warnings.warn(
            f"{path}: Keras 3 takes no layer name with a slash; a strategy must use the new names: {told}",
            UserWarning,
            stacklevel=2,
        )
    return made.model
