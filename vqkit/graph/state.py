"""What a layer holds beyond its config and its weights: read it, give it to a copy, say what no file keeps.

Keras saves of a layer its config, its weights, and what it writes itself: variables of its own making
(`save_own_variables`) and files (`save_assets`), such as an adapted vocabulary. A layer may hold more than
that: arrays, numbers, functions and layers that were set on it after it was made.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from vqkit import digest


@dataclass(frozen=True, eq=False)
class Saved:
    """What a layer and the layers inside it write of themselves, in the order in which Keras walks them.

    Attributes:
        variables: number of the layer -> name -> array.
        files: number of the layer -> path below its folder -> content.
    """

    variables: Mapping[int, Mapping[str, np.ndarray]]
    files: Mapping[int, Mapping[str, bytes]]

    @cached_property
    def digest(self) -> str:
        """Equal for equal states; "" where there is none."""
        if not self.variables and not self.files:
            return ""
        arrays = {f"{i}/{k}": np.asarray(v) for i, own in self.variables.items() for k, v in own.items()}
        files = {f"{i}/{k}": digest.of_bytes(v) for i, own in self.files.items() for k, v in own.items()}
        return digest.of_json([digest.of_arrays(arrays), files])


def saved_of(layer: Any) -> Saved:
    """What a live layer writes of itself, beyond what every layer does.

    Args:
        layer: a Keras layer; only read.
    """
    variables: dict[int, dict[str, np.ndarray]] = {}
    files: dict[int, dict[str, bytes]] = {}
    for i, part in enumerate(_parts(layer)):
        if _writes(type(part), "load_own_variables"):
            store: dict[str, Any] = {}
            part.save_own_variables(store)
            variables[i] = {k: np.array(v) for k, v in store.items()}
        if _writes(type(part), "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                part.save_assets(folder)
                found = [p for p in sorted(Path(folder).rglob("*")) if p.is_file()]
                files[i] = {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}
    return Saved(variables, {i: own for i, own in files.items() if own})


def give_saved(live: Any, saved: Saved) -> None:
    """Let a copy read what its original wrote.

    Args:
        live: a built layer of the same structure.
        saved: from `saved_of` the original.
    """
    for i, part in enumerate(_parts(live)):
        if i in saved.variables:
            part.load_own_variables(dict(saved.variables[i]))
        if i in saved.files:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in saved.files[i].items():
                    path = Path(folder, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                part.load_assets(folder)


def has_users_part(layer: Any) -> bool:
    """Whether a layer, or one inside it, is of a class of the user's."""
    return any(map(_is_users, _parts(layer)))


def give_random_state(source: Any, live: Any) -> None:
    """Let a copy draw the random numbers that its original would draw next."""
    for part, copy in zip(_parts(source), _parts(live), strict=False):
        for seed, mine in zip(part._seed_generators, copy._seed_generators, strict=False):
            mine.state.assign(seed.state)


def recurrent_states(layer: Any) -> list[Any]:
    """The variables in which a layer, or one within it, keeps the end of a sequence for the next batch.

    Args:
        layer: a live Keras layer or operation.
    """
    import keras

    stateful = (p for p in _parts(layer) if getattr(p, "stateful", False) and getattr(p, "states", None))
    return [v for p in stateful for v in keras.tree.flatten(p.states)]


def _parts(layer: Any) -> list[Any]:
    flatten = getattr(layer, "_flatten_layers", None)
    return [layer] if flatten is None else list(flatten(include_self=True, recursive=True))


def _writes(cls: type, method: str) -> bool:
    """Whether a layer class has its own way; that of Keras' weighted layers writes nothing but weights."""
    found = getattr(cls, method, None)
    owner = getattr(found, "__qualname__", "").partition(".")[0]
    return found is not None and not (found.__module__.startswith("keras.") and owner in _PLAIN)


_PLAIN = ("BaseConv", "Dense", "EinsumDense", "Embedding", "KerasSaveable", "Layer", "Model")


# --- what no file keeps ---


def differences(source: Any, live: Any) -> Iterator[tuple[Any, str, Any, str]]:
    """Attributes in which a copy differs from its original.

    Args:
        source: a live Keras layer; only read.
        live: a copy, built and with the original's weights.

    Yields:
        The object of the copy, the attribute's name, the value it should have, and where it stands. The last
        is "" where nothing is lost for the user: in Keras' own layers, and where values cannot be compared.
    """
    yield from _differences(source, live, "", {id(source)})


def give(source: Any, live: Any) -> None:
    """Set what a copy lacks of its original, see `differences`."""
    for owner, name, value, _ in list(differences(source, live)):
        _set(owner, name, value)


def unsaved(source: Any, live: Any) -> list[str]:
    """Attributes of a layer, and of layers in it, that a copy made of what Keras saves does not have."""
    return [where for _, _, _, where in differences(source, live) if where]


def _set(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, dict):
        owner[name] = value
    elif isinstance(owner, list):
        owner[int(name)] = value
    elif not isinstance(owner, tuple):
        setattr(owner, name, value)


def _differences(source: Any, live: Any, where: str, seen: set[int]) -> Iterator[tuple[Any, str, Any, str]]:
    for name, value in list(vars(source).items()):
        if name in _machinery() or name.startswith("_self_"):
            continue
        at = f"{where}.{name}" if where else name
        if name not in vars(live):
            if not _is_tracked(value):
                yield live, name, _rebound(value, source, live), at if _is_users(source) else ""
        else:
            yield from _compared(value, vars(live)[name], (source, live, name), at, seen)


def _compared(
    value: Any, mine: Any, place: tuple[Any, Any, str], at: str, seen: set[int]
) -> Iterator[tuple[Any, str, Any, str]]:
    from keras import Layer, Model

    source, live, name = place
    if value is mine or id(value) in seen:
        return
    if _is_plain(value):
        if not _equal(value, mine):
            yield live, name, _copied(value), at if _is_users(source) else ""
    elif isinstance(value, Model):
        seen.add(id(value))
        if isinstance(mine, Model):
            for a, b in zip(value.layers, mine.layers, strict=False):
                yield from _compared(a, b, (value, mine, a.name), f"{at}.{a.name}", seen)
    elif isinstance(value, Layer) or _has_own_parts(value):
        seen.add(id(value))
        if type(value) is type(mine):
            yield from _differences(value, mine, at, seen)
    elif isinstance(value, list | tuple) and isinstance(mine, list | tuple) and len(value) == len(mine):
        seen.add(id(value))
        for i, (a, b) in enumerate(zip(value, mine, strict=True)):
            if not _is_plain(a):
                yield from _compared(a, b, (value, mine, str(i)), f"{at}[{i}]", seen)
    elif isinstance(value, Mapping) and isinstance(mine, Mapping) and set(value) == set(mine):
        seen.add(id(value))
        for k, a in value.items():
            yield from _compared(a, mine[k], (value, mine, k), f"{at}[{k!r}]", seen)
    elif not _is_tracked(value) and _is_shared(value, source) and not _refers_to_layers(value):
        yield live, name, _rebound(value, source, live), at if mine is None else ""


def _is_shared(value: Any, source: Any) -> bool:
    """Functions of the user's wherever they stand, other objects where a class of the user's holds them."""
    if isinstance(value, FunctionType | MethodType):
        return (value.__module__ or "").split(".")[0] not in ("keras", "vqkit")
    return _is_users(source) and _is_users(value)


def _is_users(owner: Any) -> bool:
    """What is Keras' or vqkit's is made anew from its config."""
    return type(owner).__module__.split(".")[0] not in ("keras", "vqkit")


def _is_plain(value: Any) -> bool:
    """Arrays, tensors, numbers, text, and collections of these."""
    import tensorflow as tf

    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic | Enum):
        return True
    if isinstance(value, np.ndarray) or (tf.is_tensor(value) and hasattr(value, "numpy") and not _is_tracked(value)):
        return True
    if isinstance(value, Mapping):
        return all(_is_plain(v) for v in value.values())
    return isinstance(value, list | tuple | set | frozenset) and all(_is_plain(v) for v in value)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and set(a) == set(b) and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and not hasattr(a, "dtype"):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, np.ndarray) or hasattr(a, "numpy"):
        try:
            x, y = np.asarray(a), np.asarray(b)
        except (TypeError, ValueError):
            return False
        return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
    try:
        return bool(a == b) or (a != a and b != b)
    except (TypeError, ValueError):
        return False


def _copied(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {k: _copied(v) for k, v in value.items()}
    return (
        type(value)(map(_copied, value))
        if type(value) in (list, tuple, set)
        else ([_copied(v) for v in value] if isinstance(value, list) else value)
    )


def _rebound(value: Any, source: Any, live: Any) -> Any:
    """A method of the original becomes the copy's."""
    if isinstance(value, MethodType) and value.__self__ is source:
        return MethodType(value.__func__, live)
    return _copied(value) if _is_plain(value) else value


def _is_tracked(value: Any) -> bool:
    """What Keras keeps as state of its own (these are the weights), and what only stands for a tensor."""
    import tensorflow as tf
    from keras import KerasTensor, Layer, Variable, tree

    kept = (KerasTensor, Layer, Variable, tf.Variable)
    return any(isinstance(v, kept) or (tf.is_tensor(v) and not hasattr(v, "numpy")) for v in tree.flatten(value))


def _has_own_parts(value: Any) -> bool:
    """An object of a class of the user's, made in Python."""
    simple = isinstance(value, type | ModuleType | FunctionType | MethodType | BuiltinFunctionType)
    return not simple and hasattr(value, "__dict__") and type(value).__module__.split(".")[0] not in _LIBRARIES


_LIBRARIES = ("keras", "vqkit", "tensorflow", "numpy", "builtins", "functools", "threading", "_thread")


def _refers_to_layers(value: Any) -> bool:
    """Whether a function closes over layers or variables: the copy's own closes over the copy's."""
    inner = getattr(value, "__func__", value)
    cells = [c.cell_contents for c in getattr(inner, "__closure__", None) or () if _filled(c)]
    return (isinstance(value, MethodType) and _is_tracked(value.__self__)) or any(map(_is_tracked, cells))


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


@cache
def _machinery() -> frozenset[str]:
    """Attributes that Keras needs to run any layer or model: names, nodes, traces, settings of training."""
    import keras

    x = keras.Input((1,), name="x")
    dense = keras.layers.Dense(1, name="y")
    models = [keras.Model(x, dense(x), name="m"), keras.Sequential([keras.Input((1,))], name="s")]
    found = {name for part in (keras.layers.Layer(), dense, *models) for name in vars(part)}
    kept = {*_DENSE_S_OWN, "_supports_masking"}
    return frozenset(found - kept)


_DENSE_S_OWN = (
    "_kernel", "activation", "bias", "bias_constraint", "bias_initializer", "bias_regularizer",
    "kernel_constraint", "kernel_initializer", "kernel_regularizer", "units", "use_bias",
)  # fmt: skip
