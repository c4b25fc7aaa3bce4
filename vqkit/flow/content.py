"""What a model and its data are, as digests, and the float outputs that they address on disk."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vqkit import digest
from vqkit.files import DiskCache
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
        k: [layer.kind, repr(sorted(layer.config.items())), layer.state, digest.of_arrays(layer.weights)]
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
        self._cache = DiskCache(None if folder is None else Path(folder, "float"))
        self._name = f"{model}-{data}-{here()}.npz"
        self._found: Any = None

    def get(self, compute: Callable[[], Any]) -> Any:
        """The outputs, computed where nobody has yet.

        Args:
            compute: gives arrays, nested as the model's outputs.
        """
        from keras import tree

        if self._found is None:
            kept = self._cache.arrays(self._name)
            self._found = None if kept is None else _nested(kept)
        if self._found is None:
            self._found = compute()
            if isinstance(self._found, np.ndarray | list | dict):
                self._cache.keep_arrays(self._name, _flat(self._found))
        return tree.map_structure(np.array, self._found)


def _flat(outputs: Any) -> dict[str, np.ndarray]:
    if isinstance(outputs, np.ndarray):
        return {"": outputs}
    items = outputs.items() if isinstance(outputs, dict) else enumerate(outputs)
    kind = "key" if isinstance(outputs, dict) else "item"
    return {f"{kind}:{k}": v for k, v in items}


def _nested(found: dict[str, np.ndarray]) -> Any:
    if list(found) == [""]:
        return found[""]
    named = {k.partition(":")[2]: v for k, v in found.items()}
    return named if all(k.startswith("key:") for k in found) else list(named.values())


@cache
def here() -> str:
    """Digest of the code that computes and of what it runs on: a convolution's last bits depend on both."""
    return digest.of_json([digest.code_digest(), *_processor()])


def _processor() -> list[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8", errors="replace").splitlines() if info.is_file() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return [platform.system(), platform.machine(), flags]
