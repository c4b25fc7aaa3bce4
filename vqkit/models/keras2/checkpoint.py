"""The weights of a SavedModel of Keras 2: a checkpoint, whose graph of objects says whose each is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from vqkit.errors import ModelError
from vqkit.models.keras2.rebuild import LayerParts, RebuiltModel
from vqkit.models.keras2.weights import (
    ONLY_TRAINING,
    attribute,
    counts,
    finalize,
    refuse,
    set_variable,
    weighted,
)

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
# Other ways to the same variables, and what is no layer.
_OTHER_WAYS = re.compile(
    r"^(layer-\d+|layers|variables|trainable_variables|non_trainable_variables|regularization_losses|keras_api|"
    r"signatures|metrics|layer_metrics|optimizer|save_counter|\d+)$"
)

# Where the vocabulary can be read, the configuration has them too.
_OF_LOOKUPS = ("idf_weights", "num_documents")


def from_checkpoint(made: RebuiltModel, path: Path) -> None:
    """Set the weights from the checkpoint of a SavedModel.

    Args:
        made: the model to fill.
        path: folder of the SavedModel.

    Raises:
        ModelError: keys or shapes of weights differ, or the checkpoint claims more than it holds.
    """
    import tensorflow as tf

    folder = path / "variables"
    reader = tf.train.load_checkpoint(str(folder / "variables"))
    shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    claimed = sum(int(np.prod(s)) * types[k].size for k, s in shapes.items() if types[k] != tf.string)
    held = sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
    if claimed > held:
        raise ModelError(
            f"{path}: its checkpoint claims {claimed} bytes, its files have {held}: it is damaged. Save it again"
        )
    done: set[int] = set()
    for way, key in _ways(reader.get_tensor(_GRAPH)).items():
        if ONLY_TRAINING.match(way[-1]) or way[-1] in _OF_LOOKUPS:
            continue
        if way[-1] == "summary" and counts(live := _at(made, made.model, way[:-1])):
            live.summary = reader.get_tensor(key)
            continue
        variable = _at(made, made.model, way)
        if not hasattr(variable, "assign") or id(variable) in done:
            refuse(path, f"{'/'.join(way)!r} has no counterpart")
        done.add(id(variable))
        set_variable(variable, reader.get_tensor(key), path)
    left = [v.path for v in made.model.weights if id(v) not in done]
    if left:
        refuse(path, f"nothing is stored for {left}")
    finalize(made.model)


def _ways(stored: bytes) -> dict[tuple[str, ...], str]:
    """Names of attributes that lead from the model to each variable -> its key in the checkpoint.

    Keys take the shortest way, such as `variables/7`, which says nothing about the layer.
    """
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    nodes = TrackableObjectGraph.FromString(stored).nodes
    found: dict[tuple[str, ...], str] = {}
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], int]] = (
        [((c.local_name,), c.node_id) for c in nodes[0].children if c.local_name.startswith("layer_with_weights-")]
        if nodes
        else []
    )
    while waiting:
        way, number = waiting.pop(0)
        if number in seen or number >= len(nodes):
            continue
        seen.add(number)
        for held in nodes[number].attributes:
            if held.name == "VARIABLE_VALUE":
                found[way] = held.checkpoint_key
        in_list = way[-1] == "cells"
        waiting += [
            ((*way, c.local_name), c.node_id)
            for c in nodes[number].children
            if (in_list and c.local_name.isdecimal()) or not _OTHER_WAYS.match(c.local_name)
        ]
    return found


def _at(made: RebuiltModel, owner: Any, steps: tuple[str, ...]) -> Any:
    """What a path of attributes leads to; `layer_with_weights-<n>` is the n-th layer with weights."""
    for step in steps:
        if step.startswith("layer_with_weights-"):
            parts = made.parts.get(id(owner))
            parts = parts or [LayerParts(x.name, type(x).__name__, x) for x in owner.layers]
            layers = list({id(p.live): p.live for p in parts if weighted(p)}.values())
            number = int(step.rpartition("-")[2])
            owner = layers[number] if number < len(layers) else None
        elif isinstance(owner, list | tuple) and step.isdecimal():
            owner = owner[int(step)] if int(step) < len(owner) else None
        else:
            owner = attribute(owner, step)
        if owner is None:
            return None
    return owner
