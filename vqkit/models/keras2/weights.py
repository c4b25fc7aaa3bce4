"""The weights of a model file of Keras 2, put into the model rebuilt from it.

Two layouts: `.h5`, a list of arrays for each layer by name; `.keras`, groups numbered by class in the order
of the layers. A SavedModel's is in `checkpoint`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import keras
import numpy as np

from vqkit.errors import ModelError
from vqkit.models.keras2.lookups import is_lookup, learned, set_vocabulary
from vqkit.models.keras2.rebuild import LayerParts, RebuiltModel
from vqkit.models.loading import reason

# A variable of a Keras 2 layer that has another attribute name in Keras 3.
_RENAMED = {
    "depthwise_kernel": "kernel",
    "sn_u": "vector_u",
    "mean": "adapt_mean",
    "variance": "adapt_variance",
}
_KNOWN = frozenset((
    "kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "recurrent_kernel", "embeddings",
    "alpha",
    "depthwise_kernel", "pointwise_kernel", "mean", "variance", "scale",
))  # fmt: skip
# What batch renormalization learned besides; only training reads it.
ONLY_TRAINING = re.compile(r"^(renorm_\w+|moving_stddev)$")
_ASIDE = {"optimizer", "_metrics", "metrics", "compiled_metrics"}
_GATES = {"CuDNNLSTM": 4, "CuDNNGRU": 3}
Arrays = list[tuple[str, np.ndarray]]


def from_h5(file: Any, made: RebuiltModel, path: Path) -> None:
    """Set the weights from an open `.h5` file.

    Args:
        file: `h5py.File`.
        made: the model to fill.
        path: for messages.

    Raises:
        ModelError: layers, numbers or shapes of weights differ.
    """
    groups = file["model_weights"]
    parts = {p.name: p for p in made.parts[id(made.model)]}
    lookups = {name for name, part in parts.items() if is_lookup(part.live)}
    names = [name for name in _names(groups, "layer_names") if name not in lookups]
    stored = {name: _arrays(groups[name], name, path) for name in names}
    live = {name for name, p in parts.items() if weighted(p) and name not in lookups}
    left = {name for name, arrays in stored.items() if arrays and (name not in parts or parts[name].live)}
    if left != live:
        refuse(path, f"weights of {sorted(left ^ live)} have no counterpart")
    for name in live:
        _fill(parts[name], stored[name], made, path)


def _fill(part: LayerParts, arrays: Arrays, made: RebuiltModel, path: Path) -> None:
    """One layer, or one model within the model, from its list of arrays."""
    arrays = [(label, array) for label, array in arrays if not ONLY_TRAINING.match(_base(label))]
    summaries = [array for label, array in arrays if _base(label) == "summary"]
    counted = [leaf.live for leaf in _leaves(part, made) if counts(leaf.live)]
    if summaries and len(summaries) == len(counted):
        arrays = [(label, array) for label, array in arrays if _base(label) != "summary"]
        for live, summary in zip(counted, summaries, strict=True):
            live.summary = summary
    arrays = _of_cudnn(part.kind, arrays)
    variables = _by_layer(part, arrays, made) or _in_order(part, made)
    if len(arrays) != len(variables):
        refuse(path, f"layer {part.name!r} has {len(arrays)} weights, Keras 3 has {len(variables)}")
    for variable, (label, array) in zip(variables, arrays, strict=True):
        ours, theirs = variable.path.rpartition("/")[2], _base(label)
        if theirs in _KNOWN and ours in _KNOWN and ours not in (theirs, _RENAMED.get(theirs)):
            refuse(path, f"layer {part.name!r}: weight {label!r} meets {variable.path!r}")
        set_variable(variable, array, path)
    for layer in _leaves(part, made):
        finalize(layer.live)


def counts(live: Any) -> bool:
    """Whether a layer learned bins: in Keras 3 they are no weight.

    Args:
        live: a layer.
    """
    return isinstance(live, keras.layers.Discretization) and live.num_bins is not None


def weighted(part: LayerParts) -> bool:
    """Whether a layer has weights in Keras 2.

    Args:
        part: of the rebuilt model.
    """
    if part.live is None:
        return False
    inside = part.live.layers if isinstance(part.live, keras.Model) else [part.live]
    return bool(part.live.weights) or any(counts(live) or learned(live) for live in inside)


def _base(label: str) -> str:
    """`dense_1/kernel_3:0` -> `kernel`: TensorFlow numbers what is made twice in one graph."""
    return re.sub(r"_\d+$", "", label.rpartition("/")[2].split(":")[0])


def _leaves(part: LayerParts, made: RebuiltModel) -> list[LayerParts]:
    """The layers of a model, and of the models in it, in the file's order; a layer is its own."""
    if id(part.live) not in made.parts:
        return [part]
    return [leaf for p in made.parts[id(part.live)] if p.live is not None for leaf in _leaves(p, made)]


def _in_order(part: LayerParts, made: RebuiltModel) -> list[Any]:
    """The variables as an `.h5` file lists them: those that train, then the others."""
    leaves = [leaf.live for leaf in _leaves(part, made)]
    listed = [v for live in leaves for v in live.trainable_weights]
    listed += [v for live in leaves for v in live.non_trainable_weights]
    return list({id(v): v for v in listed}.values())


def _by_layer(part: LayerParts, arrays: Arrays, made: RebuiltModel) -> list[Any] | None:
    """The variables in the order of `arrays`, found by the layers' names in the labels, or None."""
    leaves = {leaf.name: leaf for leaf in _leaves(part, made)}
    if id(part.live) not in made.parts or len(leaves) < len(_leaves(part, made)):
        return None
    left = {name: [*p.live.trainable_weights, *p.live.non_trainable_weights] for name, p in leaves.items()}
    found = []
    for label, _ in arrays:
        folders = label.split("/")[:-1]
        owner = next(
            (n for k in range(len(folders), 0, -1) for j in range(k) if (n := "/".join(folders[j:k])) in leaves),
            None,
        )
        if owner is None or not left[owner]:
            return None
        found.append(left[owner].pop(0))
    return found if not any(left.values()) else None


def _of_cudnn(kind: str, arrays: Arrays) -> Arrays:
    """Weights of a layer for cuDNN in the layout of the plain one: gates transposed, two biases."""
    gates = _GATES.get(kind)
    if gates is None or len(arrays) != 3:
        return arrays
    (kernel, a), (recurrent, r), (bias, b) = arrays
    a = np.concatenate([g.T.reshape(g.shape, order="F") for g in np.split(a, gates, axis=1)], axis=1)
    r = np.concatenate([g.T for g in np.split(r, gates, axis=1)], axis=1)
    b = np.sum(np.split(b, 2), axis=0) if kind == "CuDNNLSTM" else b.reshape(2, -1)
    return [(kernel, a), (recurrent, r), (bias, b)]


def _names(group: Any, key: str) -> list[str]:
    """A list in the attributes of a group, which is cut into pieces where it is long."""
    if key in group.attrs:
        return [_text(n) for n in group.attrs[key]]
    pieces: list[str] = []
    while f"{key}{len(pieces)}" in group.attrs:
        pieces.append(f"{key}{len(pieces)}")
    return [_text(n) for piece in pieces for n in group.attrs[piece]]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _arrays(group: Any, layer: str, path: Path) -> Arrays:
    labels = _names(group, "weight_names")
    for label in labels:
        if label not in group:
            refuse(path, f"weight {label!r} of layer {layer!r} is named, but not in the file")
        if labels.count(label) > 1:
            refuse(path, f"several weights of layer {layer!r} have the name {label!r}; one alone was stored")
    return [(label, np.asarray(group[label])) for label in labels]


def finalize(live: Any) -> None:
    """Derive anew what layers derive from their weights (Normalization, Discretization).

    Args:
        live: a layer or a model.
    """
    if is_lookup(live):
        return
    if hasattr(live, "finalize_state"):
        live.finalize_state()
    for inner in live.layers if isinstance(live, keras.Model) else _layers_in(live):
        finalize(inner)


def set_variable(variable: Any, array: np.ndarray, path: Path) -> None:
    """Set a variable.

    Args:
        variable: of a layer of Keras 3.
        array: of its shape.
        path: for messages.

    Raises:
        ModelError: the shapes differ.
    """
    if tuple(variable.shape) != array.shape:
        refuse(path, f"{variable.path!r} has shape {tuple(variable.shape)}, the file {array.shape}")
    variable.assign(array)


def refuse(path: Path, why: str) -> NoReturn:
    """Raise the error of weights that do not fit the model.

    Args:
        path: of the file.
        why: place and reason.

    Raises:
        ModelError: always.
    """
    raise ModelError(
        f"{path}: its weights do not fit the model rebuilt from it: {why}. Build the model anew in Keras 3 "
        "and copy the weights layer by layer with set_weights"
    )


# --- .keras ---


def from_groups(file: Any, made: RebuiltModel, path: Path, assets: Callable[[str], Any]) -> None:
    """Set the weights from the `model.weights.h5` of a `.keras` file.

    Args:
        file: `h5py.File`.
        made: the model to fill.
        path: for messages.
        assets: folder in the archive -> a folder with what the layer stored there, or None.

    Raises:
        ModelError: groups, numbers or shapes of weights differ.
    """
    found = dict(_groups_of_vars(file))
    reader = _Groups(found, made, path, assets)
    reader.model(made.model, "")
    left = sorted({place for place, group in found.items() if len(group)} - reader.read)
    if left:
        refuse(path, f"{left[0]!r} has no counterpart")
    missing = [v.path for v in made.model.weights if id(v) not in reader.filled]
    if missing:
        refuse(path, f"nothing is stored for {missing}")


def _groups_of_vars(file: Any) -> list[tuple[str, Any]]:
    """Place of a layer -> the group of its variables, which may be empty."""
    found = []

    def look(name: str, group: Any) -> None:
        # On Windows a whole path is one name: `layers\\dense`.
        place, _, last = name.replace("\\", "/").rpartition("/")
        if last == "vars" and hasattr(group, "keys") and not _ASIDE & set(place.split("/")):
            found.append((place, group))

    file.visititems(look)
    return found


def _snake_case(name: str) -> str:
    """A class name as Keras names a group: `MaxPooling2D` -> `max_pooling2d`."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


class _Groups:
    """Finds the groups of a model's layers; notes what it read."""

    def __init__(self, found: Mapping[str, Any], made: RebuiltModel, path: Path, assets: Any) -> None:
        self._found, self._made, self._path, self._assets = found, made, path, assets
        self.read: set[str] = set()
        self.filled: set[int] = set()
        self._done: set[int] = set()

    def model(self, model: Any, place: str) -> None:
        """The layers of a model, by class and number."""
        parts = self._made.parts.get(id(model)) or [
            LayerParts(x.name, type(x).__name__, x) for x in model.layers if type(x).__name__ != "InputLayer"
        ]
        # Keras 2.12 and 2.13 list every layer that has weights twice.
        twice = f"{place}_layer_checkpoint_dependencies/"
        old = any(name.startswith(twice) for name in self._found)
        folder, count = (twice if old else f"{place}layers/"), dict[str, int]()
        for part in parts:
            # Later ones do not count a layer that they met before, in a model within the model.
            if not old and part.live is not None and id(part.live) in self._done:
                continue
            name = _snake_case(part.kind)
            number = count.get(name, 0)
            count[name] = number + 1 + (old and weighted(part))
            if part.live is not None:
                self._any(part.live, f"{folder}{name}_{number}" if number else f"{folder}{name}", part.kind)

    def _any(self, live: Any, place: str, kind: str) -> None:
        if id(live) in self._done:
            return
        self._done.add(id(live))
        if isinstance(live, keras.Model):
            self.model(live, f"{place}/")
        else:
            self._layer(live, place, kind)

    def _layer(self, live: Any, place: str, kind: str = "") -> None:
        """A layer's own variables, what it stored beside them, and the layers in it."""
        group = self._found.get(place)
        if is_lookup(live):
            # A TextVectorization stores the same again, for the lookup in it.
            self.read |= {place, f"{place}/_lookup_layer"}
            idf = np.asarray(group["idf_weights"]) if group is not None and "idf_weights" in group else None
            set_vocabulary(live, self._assets(place), idf)
            return
        if group is not None and len(group):
            self.read.add(place)
            self._own(live, group, kind)
        inner = {name[len(place) + 1 :].split("/")[0] for name in self._found if name.startswith(f"{place}/")}
        for step in sorted(inner):
            child = attribute(live, step)
            if isinstance(child, list | tuple):
                self._list(child, f"{place}/{step}")
            elif isinstance(child, keras.layers.Layer):
                self._any(child, f"{place}/{step}", type(child).__name__)

    def _list(self, layers: Any, place: str) -> None:
        count: dict[str, int] = {}
        for live in layers:
            name = _snake_case(type(live).__name__)
            number = count[name] = count.get(name, -1) + 1
            self._any(live, f"{place}/{name}_{number}" if number else f"{place}/{name}", type(live).__name__)

    def _own(self, live: Any, group: Any, kind: str) -> None:
        store = {key: np.asarray(group[key]) for key in sorted(group, key=int)}
        if counts(live):
            live.summary = store["0"]
            live.finalize_state()
            return
        if isinstance(live, keras.layers.BatchNormalization):
            # Behind the moving averages: what batch renormalization learned.
            kept = len(live.weights)
            store = {key: array for key, array in store.items() if int(key) < kept}
        try:
            live.load_own_variables(store)
        except Exception as error:
            refuse(self._path, f"layer {live.name!r}{f' ({kind})' if kind else ''}: {reason(error)}")
        inner = {id(v) for layer in _layers_in(live) for v in layer.weights}
        self.filled |= {id(v) for v in live.weights if id(v) not in inner}


def _layers_in(live: Any) -> Iterator[Any]:
    """The layers that a layer holds, at any depth."""
    for value in vars(live).values():
        for child in value if isinstance(value, list | tuple) else [value]:
            if isinstance(child, keras.layers.Layer) and child is not live:
                yield child


def attribute(owner: Any, step: str) -> Any:
    """An attribute of a layer by the name that Keras 2 gives it; None where there is none.

    Args:
        owner: a layer.
        step: the name.
    """
    renamed = _RENAMED.get(step, step)
    return getattr(owner, renamed if hasattr(owner, renamed) else step, None)
