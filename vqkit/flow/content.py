"""What a model and its data are, as digests, and the float outputs that they address on disk."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vqkit import digest
from vqkit.flow.data import map_inputs
from vqkit.graph.ir import Graph


def graph_digest(graph: Graph) -> str:
    """Digest of a graph: operations, configurations and weights.

    Args:
        graph: any.

    Returns:
        Equal for graphs that compute the same.
    """
    layers = {
        k: [layer.kind, repr(sorted(layer.config.items())), digest.of_arrays(layer.weights)]
        for k, layer in graph.layers.items()
    }
    nodes = [[n.name, n.layer, repr(n.args), repr(sorted(n.kwargs.items())), n.outputs] for n in graph.nodes]
    ends = [list(graph.inputs.items()), repr(graph.input_struct), repr(graph.output_struct)]
    return digest.of_json([layers, nodes, ends])


class Digests:
    """Digests of arrays as they are now, for they may change in place; one that is read-only is read once."""

    def __init__(self) -> None:
        self._read_only: dict[tuple[Any, ...], tuple[np.ndarray, str]] = {}

    def of(self, x: Any) -> str:
        """Digest of single or multi-input data.

        Args:
            x: numpy array, or a list, tuple or mapping of arrays.
        """
        return digest.of_json(map_inputs(lambda a, _: self._of_array(a), x))

    def _of_array(self, array: np.ndarray) -> str:
        if array.flags.writeable:
            return digest.of_array(array)
        # Two views of the same values are one array; it is held, so that its place is not given to another.
        place = (array.ctypes.data, array.shape, array.strides, array.dtype.str)
        if place not in self._read_only:
            self._read_only[place] = array, digest.of_array(array)
        return self._read_only[place][1]


class Outputs:
    """Outputs of the float model on the evaluation data, in memory and on disk.

    Args:
        folder: where they lie; None for memory only.
        model: digest of the model.
        data: digest of the data.
    """

    def __init__(self, folder: str | Path | None, model: str, data: str) -> None:
        self._path = None if folder is None else Path(folder, "float", f"{model}-{data}.npz")
        self._found: Any = None

    def get(self, compute: Callable[[], Any]) -> Any:
        """The outputs, computed where nobody has yet.

        Args:
            compute: gives arrays, nested as the model's outputs.
        """
        from keras import tree

        if self._found is None and self._path is not None and self._path.is_file():
            self._found = _read(self._path)
        if self._found is None:
            self._found = compute()
            if self._path is not None and isinstance(self._found, np.ndarray | list | dict):
                write_npz(self._path, _flat(self._found))
        return tree.map_structure(np.array, self._found)


def _flat(outputs: Any) -> dict[str, np.ndarray]:
    if isinstance(outputs, np.ndarray):
        return {"": outputs}
    items = outputs.items() if isinstance(outputs, dict) else enumerate(outputs)
    kind = "key" if isinstance(outputs, dict) else "item"
    return {f"{kind}:{k}": v for k, v in items}


def _read(path: Path) -> Any:
    with np.load(path, allow_pickle=False) as file:
        found = {k: file[k] for k in file.files}
    if list(found) == [""]:
        return found[""]
    named = {k.partition(":")[2]: v for k, v in found.items()}
    return named if all(k.startswith("key:") for k in found) else list(named.values())


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays to an `.npz` file in one move, so that no reader sees half of it.

    Args:
        path: where to.
        arrays: name -> array.
    """
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(buffer.getvalue())
    os.replace(part, path)
