"""The float graph beside the user's model: compared, and run in its fixed batch size.

Both run the same operations on the same weights, so they differ by rounding at most: an operation may sum in
another order from one call to the next. A layer whose copy lost something differs by much more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import DataError, ModelError
from vqkit.graph.copies import make_all_live, not_saved
from vqkit.graph.ir import Graph, Node, map_refs, refs
from vqkit.graph.keras_io import replay, tensors
from vqkit.graph.passes.simplify import WEIGHTED
from vqkit.graph.state import recurrent_states
from vqkit.quantization.data import check_shapes, leaves, map_inputs

if TYPE_CHECKING:
    import keras

SAMPLES = 4
BOUND = 1e-4
"""Of the largest magnitude of a tensor. A float32 sum of n numbers in another order moves by up to n · 6e-8
of the sum of their magnitudes, and a deep net amplifies it; `benchmarks/float_check.py` says what is seen."""


def check_float(model: keras.Model, graph: Graph, batch: Any) -> list[str]:
    """Compare the graph that was read from a model with the model itself, on a few samples.

    Args:
        model: the user's; nothing in it changes.
        graph: from `lower(model)`.
        batch: inputs, arrays of shape (n, …); the first few samples are used, all where the size is fixed.

    Returns:
        Lines for the report: what a saved model will lack, and a model that is random at inference.

    Raises:
        ModelError: they differ; it names the first layer where they part. Or the model cannot be called,
            because a layer multiplies integers by its weights.
    """
    given = tensors(graph, _few(graph, batch))
    copies = make_all_live(graph)
    users = {name: layer.source for name, layer in graph.layers.items()}
    own = _called(lambda: model(_nested(graph, given), training=False), graph, users)
    ours = _outputs(lambda: replay(graph, copies, given), copies)
    notes = not_saved(graph)
    if all(map(_alike, own, ours)):
        return notes
    if not all(map(_alike, own, _outputs(lambda: model(_nested(graph, given), training=False), users))):
        return [
            *notes,
            f"model {graph.name!r} gives other values each time it is called with the same inputs",
        ]
    raise ModelError(_parting(graph, copies, given, own, ours))


def _called(run: Callable[[], Any], graph: Graph, live: Mapping[str, Any]) -> list[np.ndarray]:
    """Outputs of the user's model. Keras builds convolutions of integers, and TensorFlow does not compute them."""
    try:
        return _outputs(run, live)
    except (TypeError, ValueError) as error:
        for node in graph.nodes:
            kind, given = graph.kind(node), next((graph.values[r.id].dtype for r in refs(node.args)), "float32")
            if kind in WEIGHTED and "float" not in given:
                raise ModelError(
                    f"model {graph.name!r} cannot be called: {kind} {node.layer!r} is given {given}, and its kernel is "
                    "a float. Make its input a float: keras.Input(..., dtype='float32'), or a Rescaling layer in front"
                ) from error
        raise


def _few(graph: Graph, batch: Any) -> Any:
    fixed = any(graph.values[v].shape[:1] not in ((), (None,)) for v in graph.inputs.values())
    return batch if fixed or len(leaves(batch)[0]) <= SAMPLES else map_inputs(lambda a, _: a[:SAMPLES], batch)


def _nested(graph: Graph, given: Mapping[str, Any]) -> Any:
    names = {v: k for k, v in graph.inputs.items()}
    return map_refs(lambda r: given[names[r.id]], graph.input_struct)


def _outputs(run: Any, live: Mapping[str, Any]) -> list[np.ndarray]:
    """Outputs as arrays. What layers assign while they run is dropped: moving states, random states.

    Stateful recurrent layers begin a sequence, wherever their last call left them.
    """
    import keras

    states = [v for layer in live.values() for v in recurrent_states(layer)]
    with keras.StatelessScope([(v, keras.ops.zeros(v.shape, v.dtype)) for v in states]):
        return [_array(t) for t in keras.tree.flatten(run())]


def _array(t: Any) -> np.ndarray:
    import keras

    array = np.asarray(keras.ops.convert_to_numpy(t))
    return array if array.dtype.kind in "biufcOSU" else array.astype(np.float32)


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and distance(a, b) <= BOUND


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference, of the largest magnitude; infinite where one is NaN or Inf, or text differs."""
    if a.dtype.kind not in "fc":
        return 0.0 if np.array_equal(a, b) else float("inf")
    finite = np.isfinite(a)
    if not (np.array_equal(finite, np.isfinite(b)) and np.array_equal(a[~finite], b[~finite], equal_nan=True)):
        return float("inf")
    x, y = (v[finite].astype(np.complex128 if a.dtype.kind == "c" else np.float64) for v in (a, b))
    if not x.size or np.array_equal(x, y):
        return 0.0
    scale = max(float(np.abs(x).max()), float(np.abs(y).max()))
    return float(np.abs(x - y).max()) / scale


def _parting(
    graph: Graph,
    copies: Mapping[str, Any],
    given: Mapping[str, Any],
    own: list[np.ndarray],
    ours: list[np.ndarray],
) -> str:
    by_node: list[dict[str, list[np.ndarray]]] = []
    users = {name: layer.source for name, layer in graph.layers.items()}
    for live in (users, copies):
        seen: dict[str, list[np.ndarray]] = {}

        def keep(node: Node, outputs: tuple[Any, ...], seen: dict[str, list[np.ndarray]] = seen) -> Any:
            seen[node.name] = [_array(t) for t in outputs]
            return outputs

        _outputs(lambda live=live, keep=keep: replay(graph, live, given, keep), live)
        by_node.append(seen)
    worst = max(distance(a, b) if a.shape == b.shape else float("inf") for a, b in zip(own, ours, strict=True))
    head = f"model {graph.name!r}: vqkit's copy of it computes other values (by {worst:.1g} of the largest)"
    for node in graph.nodes:
        if not all(map(_alike, *(seen[node.name] for seen in by_node))):
            layer = graph.layers[node.layer]
            return (
                f"{head}. They part first at layer {node.name!r} ({layer.kind}), which holds something "
                "beyond its config and weights that the copy does not have. Give its class get_config() and "
                "save_own_variables()/load_own_variables() that give all of it, or replace the layer"
            )
    return (
        f"{head}, though each layer computes the same: the model's calls do not say all that it does. This "
        "is a fault of vqkit; please report it with the model's summary"
    )


def arranged(model: keras.Model, batch: Any) -> Any:
    """Inputs by name in the structure that a model takes; others as they are.

    Args:
        model: a functional Keras model, or another one, which is given what there is.
        batch: arrays or tensors, or a dict of them by the names of the model's inputs.

    Raises:
        DataError: the names are not those of the model's inputs.
    """
    own = getattr(model, "inputs", None) or []
    if not isinstance(batch, Mapping) or not own or isinstance(model.input, Mapping):
        return batch
    names = [t.name for t in own]
    if set(batch) != set(names):
        raise DataError(f"inputs {', '.join(map(str, batch))} are given, the model takes {', '.join(names)}")
    return [batch[name] for name in names] if len(names) > 1 else batch[names[0]]


def check_inputs(model: keras.Model, inputs: Any, where: str) -> None:
    """Raise unless inputs, of any number of samples, fit a model's.

    Args:
        model: a built Keras model.
        inputs: arrays, in the structure of the model's inputs or by their names.
        where: names them in messages.

    Raises:
        DataError: wrong number or names of inputs, wrong rank or size.
    """
    shapes = getattr(model, "input_shape", None)
    if isinstance(inputs, Mapping) and not isinstance(shapes, Mapping) and getattr(model, "inputs", None):
        shapes = {t.name: tuple(t.shape) for t in model.inputs}
    if shapes is not None:
        check_shapes(inputs, shapes, where, whole=True)


def size_of(model: keras.Model | Graph) -> int | None:
    """The batch size that a graph or a Keras model is made for; None where any will do.

    Args:
        model: a `Graph`, or a Keras model.

    Raises:
        DataError: its inputs have several, so that no data fit.
    """
    if isinstance(model, Graph):
        shapes = [model.values[v].shape for v in model.inputs.values()]
    else:
        shapes = [tuple(t.shape) for t in getattr(model, "inputs", None) or ()]
    sizes = sorted({shape[0] for shape in shapes if shape and shape[0] is not None})
    if len(sizes) > 1:
        raise DataError(f"model {model.name!r}: its inputs have the fixed batch sizes {sizes}, which no data fit")
    return sizes[0] if sizes else None


def in_size(
    source: Iterable[Any], model: keras.Model | Graph, *, pad: bool = False, tell: Callable[[str], None] | None = None
) -> Iterator[Any]:
    """Batches in the size that a model is made for.

    Args:
        source: batches of any size: arrays, or lists or dicts of them.
        model: a `Graph`, or a Keras model; where its size is free, the batches stay as they are.
        pad: fill the last batch with its last sample; otherwise what fills none is left out.
        tell: called with a line for the report where samples were left out.

    Raises:
        DataError: without `pad`, the data do not fill one batch.
    """
    size = size_of(model)
    return iter(source) if size is None else _cut(source, size, pad, model.name, tell)


def whole(labels: Any, model: keras.Model | Graph) -> Any:
    """Labels of the samples that `in_size` gives; None stays None."""
    size = None if labels is None else size_of(model)
    return labels if size is None else labels[: len(labels) // size * size]


def _cut(source: Iterable[Any], size: int, pad: bool, name: str, tell: Callable[[str], None] | None) -> Iterator[Any]:
    from keras import tree

    held, count, made, n = None, 0, 0, 0
    for batch in source:
        n += len(leaves(batch)[0])
        held = batch if held is None else tree.map_structure(lambda *a: np.concatenate(a), held, batch)
        count = len(leaves(held)[0])
        for start in range(0, count - size + 1, size):
            made += 1
            yield tree.map_structure(lambda a, at=start: a[at : at + size], held)
        rest = count % size
        held = tree.map_structure(lambda a, k=rest: a[len(a) - k :], held) if rest else None
    if held is not None and pad:
        missing = size - len(leaves(held)[0])
        yield tree.map_structure(lambda a: np.concatenate([a, np.repeat(a[-1:], missing, axis=0)]), held)
    elif not made:
        raise DataError(f"model {name!r} takes batches of exactly {size} samples, the data hold {n}")
    elif held is not None and tell is not None:
        tell(f"model {name!r} takes batches of {size}: the last {n % size} of {n} samples fill none, left out")
