"""Fingerprints of values; statistics and outputs on disk; activations in memory.

A file for each tensor, addressed by what the tensor is made of, by the batches, and by the code and the
machine that computed it.
"""

from __future__ import annotations

import platform
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vqkit import digest
from vqkit.files import Arrays, DiskCache
from vqkit.graph.ir import Graph, Layer, Node, map_refs
from vqkit.primitives.histogram import Histogram
from vqkit.quantization.calibrate import TensorStatistics
from vqkit.quantization.data import map_inputs


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


class OutputCache:
    """Cache of the float model's outputs on the evaluation data, in memory and on disk.

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
                self._cache.keep_arrays(self._name, _flat_inputs(self._found))
        return tree.map_structure(np.array, self._found)


def _flat_inputs(outputs: Any) -> dict[str, np.ndarray]:
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


Stream = tuple[Any, ...]
_Found = tuple[dict[str, TensorStatistics], tuple[int, int]]

LISTS = ("f_min", "f_max", "pos")


class StatisticsCache:
    """On-disk cache of calibration statistics, written by any process and read by any.

    Args:
        folder: shared by processes; None keeps nothing.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._cache = DiskCache(None if folder is None else Path(folder, "observed"))
        self._read: dict[Path, tuple[tuple[int, int], _Found | None]] = {}

    def get(self, value: str, stream: Stream, observer: Any) -> tuple[TensorStatistics, tuple[int, int]] | None:
        """What is known of a tensor.

        Args:
            value: digest of what the tensor is made of.
            stream: identifies the batches.
            observer: what decides which facts are recorded; has a `repr` of its own.

        Returns:
            The facts, and how many batches and samples they come from; None where nobody has put them here.
        """
        found = self._now(_name(value, stream))
        name = digest.of_bytes(repr(observer).encode())
        return None if found is None or name not in found[0] else (found[0][name], found[1])

    def put(self, value: str, stream: Stream, facts: Mapping[Any, TensorStatistics], size: tuple[int, int]) -> None:
        """Add what was observed of a tensor.

        Args:
            value: as in `get`.
            stream: as in `get`.
            facts: observer -> facts. Those of channels' histograms are left out, which are large.
            size: how many batches and samples.
        """
        whole = {o: s for o, s in facts.items() if s.histogram is None or isinstance(s.histogram, Histogram)}
        if self._cache.folder is None or not whole:
            return
        file = _name(value, stream)
        named = {digest.of_bytes(repr(o).encode()): seen for o, seen in whole.items()}
        before = self._kept(file)
        every = named if before is None else {**before[0], **named}
        arrays = {f"{name}.{k}": a for name, seen in every.items() for k, a in _flat(seen).items()}
        self._cache.keep_arrays(file, {**arrays, "size": np.array(size)})

    def _now(self, file: str) -> _Found | None:
        """What a file holds now; another process may have added to it."""
        path = self._cache.path(file)
        if path is None:
            return None
        try:
            stamp = (path.stat().st_ino, path.stat().st_mtime_ns)
        except OSError:
            return None
        if self._read.get(path, (None, None))[0] != stamp:
            self._read[path] = stamp, self._kept(file)
        return self._read[path][1]

    def _kept(self, file: str) -> _Found | None:
        """What a file holds; None where there is none, or one that cannot be read, which is written again."""
        by_name: dict[str, Arrays] = {}
        arrays = self._cache.arrays(file)
        if arrays is None:
            return None
        batches, samples = arrays.pop("size").tolist()
        for key, array in arrays.items():
            name, _, what = key.partition(".")
            by_name.setdefault(name, {})[what] = array
        return {name: _observed(parts) for name, parts in by_name.items()}, (batches, samples)


def _name(value: str, stream: Stream) -> str:
    return f"{digest.of_bytes(repr((value, stream, here())).encode())}.npz"


def _flat(seen: TensorStatistics) -> Arrays:
    found = {k: np.stack(getattr(seen, k)) for k in LISTS if getattr(seen, k)}
    return found if not isinstance(seen.histogram, Histogram) else {**found, **seen.histogram.to_arrays()}


def _observed(arrays: Arrays) -> TensorStatistics:
    lists = {k: list(arrays.pop(k)) for k in LISTS if k in arrays}
    return TensorStatistics(**lists, histogram=Histogram.of_arrays(arrays) if arrays else None)


Key = tuple[Any, ...]
Batches = list[dict[str, Any]]


class ActivationCache:
    """LRU cache of activations, bounded in bytes: the values that cross a cut of the graph, batch by batch.

    Args:
        limit: bytes that all of them may take.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._kept: OrderedDict[Key, tuple[int, Batches]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def kept(self) -> list[Key]:
        """The places whose values are kept."""
        return list(self._kept)

    def get(self, key: Key) -> Batches | None:
        """The values of each batch by digest; None where they are not known (any more)."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][1]

    def put(self, key: Key, batches: Batches) -> None:
        """Keep the values of a place, if they fit at all.

        Args:
            key: of the place.
            batches: for each batch digest -> tensor.
        """
        size = sum(nbytes(x) for values in batches for x in values.values())
        if size > self.limit or key in self._kept:
            return
        while self.bytes + size > self.limit:
            _, (freed, _) = self._kept.popitem(last=False)
            self.bytes -= freed
        self._kept[key] = (size, batches)
        self.bytes += size


def nbytes(x: Any) -> int:
    """Bytes of a tensor."""
    return int(x.dtype.size * x.shape.num_elements())


def value_digests(
    graph: Graph, tokens: Mapping[str, str], weight_digest: Callable[[np.ndarray], str]
) -> dict[int, str]:
    """Digest of each value from everything that decides it.

    Args:
        graph: its weights are those that are computed with.
        tokens: layer name -> what it does instead of what its class and weights say; "" where it passes its
            input on. For fake-quantize layers.
        weight_digest: digest of an array.

    Returns:
        Value id -> digest; comparable between graphs made of the same model.
    """
    found = {v: f"input:{name}" for name, v in graph.inputs.items()}
    layers = {k: _layer(layer, weight_digest) for k, layer in graph.layers.items() if k not in tokens}
    for node in graph.nodes:
        if tokens.get(node.layer) == "":
            found[node.output] = found[node.inputs[0]]
        else:
            made = _node(node, tokens.get(node.layer) or layers[node.layer], found)
            found.update({v: f"{made}:{i}" for i, v in enumerate(node.outputs)})
    return found


def _layer(layer: Layer, weight_digest: Callable[[np.ndarray], str]) -> str:
    weights = [(k, weight_digest(w)) for k, w in layer.weights.items()]
    return repr((layer.name, layer.kind, sorted(layer.config.items()), layer.state, weights))


def _node(node: Node, what: str, found: Mapping[int, str]) -> str:
    args: Any = map_refs(lambda r: found[r.id], (node.args, sorted(node.kwargs.items())))
    return digest.of_bytes(repr((what, args)).encode())
