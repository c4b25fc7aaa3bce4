"""The border to Keras: lower a model to a graph, raise a graph to a model, run it.

With `copies` the only module that touches private parts of Keras (`_nodes_by_depth`, node arguments,
`_functional`, input and output structures); `tests/graph/test_keras_io.py` holds their contract.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from vqkit.errors import ModelError
from vqkit.graph.copies import make_all_live, read_layer
from vqkit.graph.ir import Graph, Layer, Node, Ref, Value, in_scopes, map_refs
from vqkit.graph.keras_layers import check_shapes, is_custom, named_inputs
from vqkit.primitives.native import traced_here

if TYPE_CHECKING:
    import keras

SPARE = 1000
"""Frames of everything else."""

DEEPEST = 5000
"""Layers on one way in a file: more would let its nesting, which somebody else wrote, exhaust the C stack."""


@contextlib.contextmanager
def room_for(layers: int) -> Iterator[None]:
    """Let Python recurse so deep that a chain of so many layers can be walked.

    Args:
        layers: in the model; on one way there are at most as many.
    """
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, layers + SPARE))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


Hook = Callable[[Node, tuple[Any, ...]], tuple[Any, ...]]


def lower(model: keras.Model) -> Graph:
    """Read a Keras model into a graph of our own, without touching the model.

    Args:
        model: a built functional or Sequential `keras.Model`; nested ones are inlined, their layers named
            `<inner model>.<layer>`.

    Returns:
        The graph; weights are copied.

    Raises:
        ModelError: the model is not built, or is subclassed (its `call` is Python code, not a graph).
    """
    functional = _functional_of(model, model.name if hasattr(model, "name") else repr(model))
    reader = _ModelReader(functional)
    return reader.graph


def _functional_of(model: keras.Model, name: str) -> Any:
    from keras import Model, Sequential
    from keras.src.models.functional import Functional

    if isinstance(model, Sequential):
        if not model.built or getattr(model, "_functional", None) is None:
            raise ModelError(
                f"model {name!r} has no input shape yet: add keras.Input as its first layer, or call it once"
            )
        return model._functional
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    if isinstance(model, Model):
        raise ModelError(
            f"model {name!r} is subclassed ({type(model).__name__}): its call() is Python code that cannot "
            "be read as a graph. Make it functional: x = keras.Input(shape); keras.Model(x, model.call(x)) "
            "works when call() uses only Keras layers and keras.ops"
        )
    raise ModelError(f"expected a keras.Model, got {type(model).__name__}")


class _ModelReader:
    """Walks a functional model; nested models share the value numbering."""

    def __init__(self, model: keras.Model) -> None:
        from keras import tree

        self._tree = tree
        self._next = 0
        self._ids: dict[int, int] = {}
        self._count: dict[str, int] = {}
        self._names: dict[tuple[int, str], str] = {}
        self.graph = Graph(model.name, {}, None, None)
        self._reserved = {operation.name for operation in model.operations}
        for tensor in model.inputs:
            self.graph.inputs[tensor._keras_history.operation.name] = self._value(tensor)
        self.graph.input_struct = tree.map_structure(self._ref, model._inputs_struct)
        self._walk(model, self._ids, "")
        self.graph.output_struct = tree.map_structure(self._ref, model._outputs_struct)
        self.graph.prune()

    def _value(self, tensor: Any) -> int:
        number, self._next = self._next, self._next + 1
        self.graph.values[number] = Value(tuple(tensor.shape), str(tensor.dtype))
        self._ids[id(tensor)] = number
        return number

    def _ref(self, tensor: Any) -> Ref:
        return Ref(self._ids[id(tensor)])

    def _walk(self, model: keras.Model, ids: dict[int, int], prefix: str) -> None:
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if not node.is_input:
                    self._visit(node, ids, prefix)

    def _visit(self, node: Any, ids: dict[int, int], prefix: str) -> None:
        read = {id(tensor) for tensor in node.input_tensors}
        args, kwargs = node.arguments.fill_in({k: Ref(ids[k]) for k in read & ids.keys()})
        operation = node.operation
        if _is_model(operation):
            self._inline(node, args, kwargs, ids, prefix)
            return
        name = self._name(operation, prefix)
        if name not in self.graph.layers:
            self.graph.layers[name] = self._with_call(read_layer(operation, name), args, kwargs)
        calls = self._count[name] = self._count.get(name, 0) + 1
        outputs = []
        for tensor in node.outputs:
            number = self._value(tensor)
            ids[id(tensor)] = number
            outputs.append(number)
        label = name if calls == 1 else f"{name}@{calls}"
        # Keras records mask=None for "not given"; passing it on would switch mask propagation off.
        kwargs = {k: v for k, v in kwargs.items() if not (k == "mask" and v is None)}
        self.graph.nodes.append(Node(label, name, tuple(args), kwargs, tuple(outputs), (name,)))

    def _name(self, operation: Any, prefix: str) -> str:
        """One name for each layer, of characters that TensorFlow takes in a graph."""
        key = id(operation), prefix
        if key not in self._names:
            own = prefix + operation.name
            # Names that need no change are not taken from their owners.
            others = () if own == in_scopes(own) and not prefix else self._reserved
            name = self._names[key] = self.graph.unique(own, others)
            if name != own:
                self.graph.notes += (
                    f"layer {own!r} is called {name!r} here: TensorFlow takes letters, digits and _.-> in a "
                    "graph, each name once",
                )
        return self._names[key]

    def _with_call(self, layer: Layer, args: Any, kwargs: Any) -> Layer:
        """A custom layer without `build` gets its variables from being called."""
        from keras.layers import Layer as KerasLayer

        if layer.is_op or not is_custom(layer.cls) or layer.cls.build is not KerasLayer.build:  # type: ignore[attr-defined]
            return layer
        return layer.with_(called=map_refs(lambda r: self.graph.values[r.id], (tuple(args), dict(kwargs))))

    def _inline(self, node: Any, args: Any, kwargs: Any, ids: dict[int, int], prefix: str) -> None:
        inner = _functional_of(node.operation, prefix + node.operation.name)
        given = [r for r in self._tree.flatten((args, kwargs)) if isinstance(r, Ref)]
        inner_ids = {id(t): r.id for t, r in zip(inner.inputs, given, strict=False)}
        if len(inner_ids) != len(inner.inputs):
            raise ModelError(
                f"nested model {prefix + node.operation.name!r}: "
                f"{len(given)} inputs given, {len(inner.inputs)} expected"
            )
        self._walk(inner, inner_ids, f"{prefix}{node.operation.name}.")
        for outer, tensor in zip(node.outputs, inner.outputs, strict=True):
            ids[id(outer)] = self._ids[id(outer)] = inner_ids[id(tensor)]


def _is_model(operation: Any) -> bool:
    from keras import Model

    return isinstance(operation, Model)


def replay(
    graph: Graph,
    live: Mapping[str, Any],
    inputs: Mapping[str, Any],
    hook: Hook | None = None,
    *,
    symbolic: bool = False,
) -> Any:
    """Run the graph on tensors, at inference as `predict` does.

    Args:
        graph: what to run.
        live: layer name -> live object, from `make_all_live`.
        inputs: input name -> tensor, shape as in `graph.values`.
        hook: called after each node with its outputs; returns the outputs to use.
        symbolic: the tensors are symbolic: layers are called as the user called them.

    Returns:
        The outputs, nested as the model's.
    """
    values = {graph.inputs[name]: tensor for name, tensor in inputs.items()}
    # At the root of a graph, TensorFlow takes fewer names than inside a model.
    with nullcontext() if symbolic else _scope():
        for node in graph.nodes:
            args, kwargs = map_refs(lambda r: values[r.id], (node.args, dict(node.kwargs)))
            operation = live[node.layer]
            outputs = _flat(operation(*args, **(kwargs if symbolic else at_inference(operation, kwargs))))
            if hook is not None:
                outputs = hook(node, outputs)
            values.update(zip(node.outputs, outputs, strict=True))
    return map_refs(lambda r: values[r.id], graph.output_struct)


def _scope() -> Any:
    import tensorflow as tf

    return tf.name_scope("model")


def at_inference(operation: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a call as `predict` makes it.

    Keras records a layer's own default, so an augmentation layer called on its own would augment.

    Args:
        operation: the live layer or operation.
        kwargs: as recorded.

    Returns:
        The arguments, with `training` off where the layer knows it.
    """
    return {**kwargs, "training": False} if getattr(operation, "_call_has_training_arg", False) else kwargs


def mask_of(x: Any) -> Any:
    """The Keras mask that a tensor carries; None without one."""
    from keras.src.backend import get_keras_mask

    return get_keras_mask(x)


def masked(x: Any, mask: Any) -> Any:
    """The tensor, carrying a Keras mask where one is given."""
    from keras.src.backend import set_keras_mask

    if mask is not None:
        set_keras_mask(x, mask)
    return x


def name_operation(outputs: Any, name: str, inputs: Any) -> Any:
    """Name the operation that made symbolic tensors, in a model that is not built yet.

    Args:
        outputs: what it gave, nested.
        name: its new name.
        inputs: what it read; where it gives one of them back, it made nothing and nothing is named.

    Returns:
        The outputs.
    """
    from keras import KerasTensor, tree

    given = {id(t) for t in tree.flatten(inputs)}
    made = [t for t in tree.flatten(outputs) if isinstance(t, KerasTensor) and id(t) not in given]
    if made:
        made[0]._keras_history.operation.name = name
    return outputs


def _flat(outputs: Any) -> tuple[Any, ...]:
    from keras import tree

    return tuple(tree.flatten(outputs))


def raise_model(graph: Graph, live: Mapping[str, Any] | None = None, make: Callable[..., Any] | None = None) -> Any:
    """An ordinary functional Keras model that computes the graph.

    Args:
        graph: what to build.
        live: live objects to build it from; new ones by default.
        make: called with inputs, outputs and name; `keras.Model` by default.

    Returns:
        A `keras.Model` with the graph's input names and nesting.
    """
    import keras

    live = make_all_live(graph) if live is None else live
    tensors = {
        name: keras.Input(
            shape=graph.values[v].shape[1:],
            batch_size=graph.values[v].shape[0],
            dtype=graph.values[v].dtype,
            name=name,
        )
        for name, v in graph.inputs.items()
    }
    outputs = replay(graph, live, tensors, symbolic=True)
    by_id = {graph.inputs[name]: t for name, t in tensors.items()}
    inputs = map_refs(lambda r: by_id[r.id], graph.input_struct)
    with room_for(len(graph.nodes)):
        return (make or keras.Model)(inputs, outputs, name=in_scopes(graph.name))


def input_signature(graph: Graph) -> dict[str, Any]:
    """Input name -> `tf.TensorSpec`, for functions that take a batch by input name."""
    import tensorflow as tf

    return {name: tf.TensorSpec(graph.values[v].shape, graph.values[v].dtype) for name, v in graph.inputs.items()}


def compiled(graph: Graph, function: Callable[[dict[str, Any]], Any]) -> Callable[[Any], Any]:
    """A function of the graph's inputs, traced once for batches of any size.

    Args:
        graph: whose inputs.
        function: takes input name -> tensor; runs in graph mode.

    Returns:
        A function of a batch, nested as the model's inputs.
    """
    run = traced_here(function, [input_signature(graph)])
    return lambda batch: run(tensors(graph, batch))


def tensors(graph: Graph, batch: Any) -> dict[str, Any]:
    """A batch as tensors by input name, in the graph's dtypes.

    Raises:
        DataError: inputs of other names, another number of them, or a shape that the model does not take.
    """
    import tensorflow as tf

    named = named_inputs(graph, batch)
    check_shapes(graph, named)
    return {k: tf.convert_to_tensor(v, graph.values[graph.inputs[k]].dtype) for k, v in named.items()}
