"""The vocabulary of a lookup layer, which Keras 2 keeps beside the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import ModelError

if TYPE_CHECKING:
    import keras

_KINDS = ("StringLookup", "IntegerLookup", "TextVectorization")


def is_lookup(live: Any) -> bool:
    """Whether a layer holds a vocabulary.

    Args:
        live: a layer.
    """
    import keras

    return isinstance(live, tuple(getattr(keras.layers, kind) for kind in _KINDS))


def learned(live: Any) -> bool:
    """Whether a layer holds a vocabulary that Keras 2 counts as a weight.

    Args:
        live: a layer.
    """
    table = _table_of(live)
    return is_lookup(live) and (table.input_vocabulary is None or table.output_mode == "tf_idf")


def config_of_lookup(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without the path of a vocabulary: no other file is read.

    Args:
        kind: class name.
        config: of a layer of any class.
    """
    if kind not in _KINDS:
        return config
    if isinstance(config.get("vocabulary"), str):
        config = {**config, "vocabulary": None}
    if config.get("max_tokens") is None:
        # TensorFlow 2.4 pads to nothing.
        config = {k: v for k, v in config.items() if k != "pad_to_max_tokens"}
    return config


def set_vocabulary(live: Any, folder: Path | None, idf: np.ndarray | None) -> None:
    """Set what a `.keras` file holds for a lookup layer.

    Args:
        live: the layer, without a vocabulary or with that of its configuration.
        folder: with its `vocabulary.txt`; None where the configuration holds it.
        idf: a weight for each word, where its output mode is "tf_idf".
    """
    if folder is None:
        return
    inner = _table_of(live)
    words: list[Any] = (folder / "vocabulary.txt").read_text("utf-8").split("\n")
    if inner.vocabulary_dtype != "string":
        words = [int(word) for word in words]
    if idf is None:
        inner.set_vocabulary(words)
    else:
        inner.set_vocabulary(words, idf_weights=idf[: len(words)])


def refuse_without_vocabulary(model: keras.Model, path: Path) -> None:
    """Raise where a lookup layer of a model knows no word.

    Args:
        model: rebuilt, with its weights.
        path: of the file, for the message.

    Raises:
        ModelError: there is one; it names the layer.
    """
    for live in model._flatten_layers(include_self=False, recursive=True):
        if is_lookup(live) and int(_table_of(live).lookup_table.size()) == 0:
            kind = type(live).__name__
            raise ModelError(
                f"{path}: layer {live.name!r} ({kind}): its vocabulary is not in the file as data: Keras 2 wrote "
                "the path of another file, which is not read, or put it into a graph, which is not run. Where it "
                f"was made, build the layer as {kind}(vocabulary=layer.get_vocabulary()) and save the model as .keras"
            )


def _table_of(live: Any) -> Any:
    return getattr(live, "_lookup_layer", live)
