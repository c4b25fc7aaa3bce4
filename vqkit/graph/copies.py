"""Copies of a user's layers: read a live layer into a graph layer, make a live layer of our own of that.

Beside `keras_io` the only module that touches private parts of Keras: a live Lambda's code is trusted.
"""

from __future__ import annotations

from typing import Any

from vqkit.errors import ModelError
from vqkit.graph.ir import Graph, Layer, Value
from vqkit.graph.keras_layers import (
    assign_weights,
    build_without_drawing,
    copied_lambda,
    lambda_config,
    objects_within,
    variables,
    weights_of,
    with_code,
)
from vqkit.graph.state import give, give_random_state, give_saved, has_users_part, saved_of, unsaved


def read_layer(operation: Any, name: str) -> Layer:
    """A graph layer with its own copy of an operation's configuration and weights.

    Args:
        operation: a Keras layer or operation.
        name: its name in the graph.

    Returns:
        The layer; `weights` keys are variable names, made unique by their parent's name where needed.
    """
    from keras import Layer as KerasLayer

    if not isinstance(operation, KerasLayer):
        return Layer(name, type(operation), {}, source=operation, is_op=True)
    config = _config_of(operation, name)
    return Layer(
        name,
        type(operation),
        config,
        weights_of(operation),
        operation.get_build_config(),
        source=operation,
        read=config,
        saved=saved_of(operation),
    )


def _config_of(operation: Any, name: str) -> dict[str, Any]:
    from keras.layers import Lambda

    try:
        return dict(operation.get_config())
    except Exception as error:
        if type(operation) is Lambda:
            return lambda_config(operation)
        raise ModelError(
            f"layer {name!r} ({type(operation).__name__}) cannot say how it was made: {_first_words(error)}. "
            "Give it a get_config() that returns the arguments of its constructor"
        ) from error


def _first_words(error: Exception) -> str:
    """Keras ends some messages with a page of example code."""
    return " ".join(str(error).partition("Example:")[0].split()).rstrip(".")


def make_live(layer: Layer, *, name: str | None = None) -> Any:
    """A live Keras object of our own for a graph layer, built and with its weights assigned.

    Args:
        layer: the graph layer.
        name: its Keras name; the layer's own by default ("/" is not allowed there).

    Returns:
        A new Keras layer or operation.

    Raises:
        ModelError: the layer's class cannot be copied from its config.
    """
    if layer.is_op:
        return _copy_operation(layer.source, name or layer.name)
    live = _saved_and_loaded(layer, name or layer.name)
    if _is_whole(layer):
        give(layer.source, live)
    return live


def _is_whole(layer: Layer) -> bool:
    """Whether a layer is what was read, though with other weights perhaps: no pass gave it other settings."""
    read = layer.read
    return (
        read is not None
        and type(layer.source) is layer.cls
        and all(k in read and read[k] is v for k, v in layer.config.items())
    )


def not_saved(graph: Graph) -> list[str]:
    """What layers hold that Keras does not save with them: a line for each such layer, for people."""
    lines = []
    for layer in graph.layers.values():
        if not layer.is_op and _is_whole(layer) and has_users_part(layer.source):
            names = unsaved(layer.source, _saved_and_loaded(layer, layer.name))
            if names:
                lines.append(
                    f"layer {layer.name!r} holds {', '.join(names)}, which neither its get_config() nor its "
                    "saved variables give: the quantized model has it, a saved one will not"
                )
    return lines


def _saved_and_loaded(layer: Layer, name: str) -> Any:
    """A copy with all that Keras saves of a layer."""
    live = _from_config(layer, name)
    if layer.called is not None and not live.built:
        _build_by_call(live, layer.called)
    elif layer.build is not None and not live.built:
        build_without_drawing(live, dict(layer.build))
    if _is_whole(layer):
        give_saved(live, layer.saved)
        give_random_state(layer.source, live)
    if layer.weights:
        assign_weights(live, layer.weights)
    if layer.saved is not None and layer.saved.variables:
        give_saved(live, layer.saved)  # What is made of the weights.
    return live


def _build_by_call(live: Any, called: Any) -> None:
    import keras

    args, kwargs = keras.tree.map_structure(
        lambda v: keras.KerasTensor(v.shape, v.dtype) if isinstance(v, Value) else v, called
    )
    live(*args, **kwargs)
    live._inbound_nodes, live._outbound_nodes = [], []


def _copy_operation(operation: Any, name: str) -> Any:
    # copy.copy() would go through Keras' serialization, which not every operation survives.
    fresh = object.__new__(type(operation))
    fresh.__dict__.update(operation.__dict__)
    fresh._inbound_nodes, fresh._outbound_nodes = [], []
    fresh.name = name
    return fresh


def _from_config(layer: Layer, name: str) -> Any:
    from keras.layers import Lambda
    from keras.saving import custom_object_scope
    from keras.src.saving.serialization_lib import SafeModeScope

    if layer.cls is Lambda and layer.read is not None:
        return copied_lambda(layer.source, name)
    try:
        # The layer already lives in this process, so its own code (an activation's function) is trusted.
        with SafeModeScope(False), custom_object_scope(objects_within(layer.source)):
            return layer.cls.from_config(with_code(layer) | {"name": name})  # type: ignore[attr-defined]
    except Exception as error:
        raise ModelError(
            f"layer {layer.name!r} ({layer.kind}) cannot be copied from its config: {error}. "
            "Give it get_config()/from_config() that round-trip"
        ) from error


def make_all_live(graph: Graph) -> dict[str, Any]:
    """Layer name -> live Keras object, for every layer of the graph."""
    return {name: make_live(layer) for name, layer in graph.layers.items()}


class LiveGraph:
    """Live layers of a graph, and what their variables hold.

    Args:
        graph: what they are made from.

    Attributes:
        live: layer name -> live object.
        loaded: the graph whose weights were assigned last.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = self.loaded = graph
        self.live = make_all_live(graph)
        self._held = {(name, k): w for name, layer in graph.layers.items() for k, w in layer.weights.items()}

    def load(self, graph: Graph) -> None:
        """Assign all weights of a graph; those that are held already stay.

        Args:
            graph: the same but for numbers.
        """
        for name, layer in graph.layers.items():
            fresh = {k: w for k, w in layer.weights.items() if self._held.get((name, k)) is not w}
            if fresh:
                found = variables(self.live[name], layer.weights)
                for key, weight in fresh.items():
                    found[key].assign(weight)
                    self._held[name, key] = weight
        self.loaded = graph

    def forget(self) -> None:
        """Assume nothing about what the variables hold: somebody else has assigned them."""
        self._held.clear()
