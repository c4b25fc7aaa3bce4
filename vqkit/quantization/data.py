"""`Data`, and any data as checked batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np

from vqkit import digest as digests
from vqkit.errors import DataError

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Arrays: TypeAlias = "np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]"
"""Samples of a model with one input, or of each of its inputs."""
Samples: TypeAlias = "Arrays | tf.data.Dataset | keras.utils.PyDataset | Iterable[Any] | Callable[[], Iterable[Any]]"
"""What `batches` reads."""

# No choice of samples explains more, where one part holds whole numbers and the other fractions.
APART = 16
_UNIT_PIECE = 1 << 20


def same_unit(calib: Any, other: Any, names: tuple[str, str]) -> None:
    """Raise where two parts of one data set are certainly not prepared alike.

    Certain are: whole numbers beside fractions at most a sixteenth as large (0..255 beside 0..1), and an
    unsigned type beside negative fractions. Everything else may be a choice of samples.

    Args:
        calib: inputs, one array or a list or dict of them, before they are converted to a common type.
        other: likewise.
        names: what the message calls the two parts.

    Raises:
        DataError: naming both types and ranges.
    """
    for at, a, b in _pairs(calib, other):
        if _apart(a, b) or _apart(b, a):
            one, two = (f"{n}{at} is {_told(x)}" for n, x in zip(names, (a, b), strict=True))
            raise DataError(f"{one}, but {two}: they are not on one scale. Prepare both as the model wants them")


def _pairs(calib: Any, other: Any) -> list[tuple[str, np.ndarray, np.ndarray]]:
    if isinstance(calib, Mapping) and isinstance(other, Mapping):
        found = [(f"[{k!r}]", calib[k], other[k]) for k in calib if k in other]
    elif isinstance(calib, (list, tuple)) and isinstance(other, (list, tuple)):
        found = [(f"[{i}]", *pair) for i, pair in enumerate(zip(calib, other, strict=False))]
    else:
        found = [("", calib, other)]
    arrays = [(at, np.asarray(a), np.asarray(b)) for at, a, b in found]
    return [(at, a, b) for at, a, b in arrays if a.dtype.kind in "fiub" and b.dtype.kind in "fiub"]


def _apart(whole: np.ndarray, fractions: np.ndarray) -> bool:
    if fractions.dtype.kind != "f" or _whole(fractions) or not _whole(whole):
        return False
    if whole.dtype.kind == "u" and _range(fractions)[0] < 0:
        return True
    largest, reach = (max(map(abs, _range(a))) for a in (whole, fractions))
    return bool(np.isfinite(largest) and largest >= APART * reach)


def _whole(array: np.ndarray) -> bool:
    """Piece by piece, because the first piece nearly always decides."""
    if array.dtype.kind != "f":
        return True
    flat = array.reshape(-1)
    pieces = (flat[i : i + _UNIT_PIECE] for i in range(0, flat.size, _UNIT_PIECE))
    return all(bool(np.all(p == np.floor(p))) for p in pieces)


def _range(array: np.ndarray) -> tuple[float, float]:
    return (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)


def _told(array: np.ndarray) -> str:
    low, high = _range(array)
    return f"{array.dtype} in {low:.6g}..{high:.6g}"


EVAL_BATCH = 100
"""Samples evaluated at once: few enough that a layer finds in the cache what the one before it wrote."""
_PIECE = 1 << 22

Shape = tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class Data:
    """Calibration and evaluation data in memory, with an identity.

    Attributes:
        name: for people.
        x_calib: unlabelled inputs, `(n, ...)`; a list or dict of arrays for several inputs.
        x_eval: inputs, as `x_calib`.
        y_eval: labels, `(n, ...)`; None where there are none: a run is then compared with the float model's outputs.
        ref: what `load_data` was given; JSON.
        digest: digest of the arrays; computed when not given.
        y_calib: class numbers of the calibration samples, `(n,)`, where they are known; read only by a
            threshold search with `threshold_search_loss` "labels".
        weights_eval: how much each labelled sample counts, `(n,)`, from 0; None where they count alike.
        class_names: of the class numbers, where they are known.

    Example:
        >>> import numpy as np, vqkit
        >>> images = np.zeros((10, 8, 8, 3), "float32")
        >>> data = vqkit.Data("zeros", x_calib=images[:4], x_eval=images[4:], y_eval=np.zeros(6, int))
        >>> len(data.x_calib), len(data.x_eval)
        (4, 6)
    """

    name: str
    x_calib: Any
    x_eval: Any
    y_eval: Any
    ref: Any = None
    digest: str = ""
    y_calib: Any = None
    weights_eval: Any = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in self._fields:
            where = f"{self.name}/{field}"
            value = map_inputs(lambda a, at, w=where: clean(a, w + at), getattr(self, field))
            same_length(value, where)
            object.__setattr__(self, field, value)
        same_unit(self.x_calib, self.x_eval, (f"{self.name}/x_calib", f"{self.name}/x_eval"))
        if self.y_eval is not None and self.n_eval != len(leaves(self.y_eval)[0]):
            raise DataError(f"{self.name}: {self.n_eval} images and {len(leaves(self.y_eval)[0])} labels")
        if self.y_calib is not None and self.n_calib != len(leaves(self.y_calib)[0]):
            raise DataError(f"{self.name}: {self.n_calib} calibration images and {len(leaves(self.y_calib)[0])} labels")
        if self.weights_eval is not None:
            own = checked_weights(self.weights_eval, self.n_eval, f"{self.name}/weights_eval")
            object.__setattr__(self, "weights_eval", own)
        if not self.digest:
            object.__setattr__(self, "digest", self._content())

    @property
    def _fields(self) -> tuple[str, ...]:
        known = [name for name in ("y_eval", "y_calib", "weights_eval") if getattr(self, name) is not None]
        return ("x_calib", "x_eval", *known)

    @property
    def n_calib(self) -> int:
        """Number of calibration samples."""
        return len(leaves(self.x_calib)[0])

    @property
    def n_eval(self) -> int:
        """Number of labelled samples."""
        return len(leaves(self.x_eval)[0])

    def _content(self) -> str:
        parts = {name: getattr(self, name) for name in self._fields}
        return digests.of_json({k: map_inputs(lambda a, _: digests.of_array(a), v) for k, v in parts.items()})


def batches(data: Samples, *, batch_size: int = 32, steps: int | None = None, shapes: Any = None) -> Iterator[Any]:
    """Yield model inputs batch by batch, without labels, checked.

    The positions that calibration chooses depend on how the images are batched, so the rules are fixed:

    * array (numpy, tensor, anything with `__array__`): cut along axis 0 by `batch_size`, the last is shorter;
    * list, tuple or dict of arrays: the inputs of a multi-input model, cut alike; the container is kept;
    * `tf.data.Dataset`: must be batched already, as for `predict`; `batch_size` is not used;
    * keras `PyDataset` / `Sequence`: item by item in order; `batch_size` is not used;
    * any other iterable or generator: each item is one batch; a generator can be read only once;
    * a function without arguments: what it gives, one of the above, so that a generator can be read again;
    * a *tuple* out of one of the last three is `(x, y)` or `(x, y, sample_weight)`: only `x` is used;
      a list or dict out of them is a multi-input `x`.

    Floating-point values become float32, the type the model computes in (a float64 beyond float32 is then
    Inf, an error). Integers and booleans keep their type; the model's own input decides about them.

    Args:
        data: one of the above.
        batch_size: samples per batch where the data are cut here.
        steps: number of batches; None means all.
        shapes: input shapes with the batch axis first (`model.input_shape`), in the container of the inputs;
            None leaves the shape unchecked.

    Returns:
        Iterator over batches: an array `(n, ...)`, or a list / dict of them.

    Raises:
        DataError: no batch at all, fewer than `steps`, endless without `steps`, unequal lengths, NaN or Inf,
            a type or shape the model cannot take.

    Example:
        >>> import numpy as np, vqkit
        >>> [len(batch) for batch in vqkit.batches(np.zeros((5, 2), "float32"), batch_size=2)]
        [2, 2, 1]
    """
    _check_count("batch_size", batch_size)
    if steps is not None:
        _check_count("steps", steps)
    source = _source(data, batch_size, endless_ok=steps is not None)
    return _checked(source, steps, shapes)


Labelled = tuple[Any, Any, "np.ndarray | None"]
"""Inputs, labels, and weights of the samples where they have any."""


def labelled_batches(
    data: Samples,
    y: Any = None,
    weights: Any = None,
    *,
    batch_size: int = EVAL_BATCH,
    check: Callable[[Any, str], None],
) -> Iterator[Labelled]:
    """Yield checked inputs with labels and weights, batch by batch; one batch is held at a time.

    Args:
        data: what `batches` takes; where `y` is not given, a data set, or a function that gives an iterable, whose
            batches are (x, y) or (x, y, sample_weight).
        y: labels of the same samples, an array or a list or dict of them.
        weights: of the samples, shape (n,).
        batch_size: samples per batch where the data are cut here.
        check: refuses inputs that the model cannot take; it is given their place for messages.

    Raises:
        DataError: as in `batches`; or a batch has no labels, or another number of them.
    """
    if y is None and (_is_array(data) or isinstance(data, (list, tuple, Mapping))):
        raise DataError("data: there are no labels: give y, or a data set whose batches are (x, y)")
    given = (
        _given_beside(data, y, weights, batch_size)
        if y is not None
        else _source(data, batch_size, endless_ok=False, part=_with_labels)
    )
    count = 0
    for count, (x, labels, w) in enumerate(given, start=1):
        where = f"batch {count}"
        inputs = map_inputs(lambda a, at, w=where: clean(a, w + at), x)
        n = same_length(inputs, where)
        check(inputs, where)
        own = map_inputs(lambda a, _: np.asarray(a), labels)
        if any(a.ndim == 0 or len(a) != n for a in leaves(own)):
            raise DataError(f"{where}: {n} inputs, labels of shape {[a.shape for a in leaves(own)]}")
        yield inputs, own, None if w is None else checked_weights(w, n, where)
    if count == 0:
        raise DataError("the data hold no batch (an empty dataset, or a generator that was already read)")


def _given_beside(data: Samples, y: Any, weights: Any, batch_size: int) -> Iterator[Labelled]:
    """Labels and weights that are arrays, cut like the inputs."""
    start = 0
    for x in batches(data, batch_size=batch_size):
        end = start + len(leaves(x)[0])
        labels = map_inputs(lambda a, _, s=start, e=end: a[s:e], y)
        yield x, labels, None if weights is None else weights[start:end]
        start = end
    if start != len(leaves(y)[0]):
        raise DataError(f"evaluation data: {start} inputs, {len(leaves(y)[0])} labels")


def checked_weights(weights: Any, n: int, where: str = "sample_weight") -> np.ndarray:
    """Weights of samples, float64 of shape (n,).

    Raises:
        DataError: another shape, or a weight that is negative or no number.
    """
    found = np.asarray(weights, np.float64)
    found = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    if found.shape != (n,) or not np.all(np.isfinite(found)) or np.any(found < 0):
        raise DataError(
            f"{where}: sample weights of shape {found.shape}; a finite one from 0 is needed for each of {n} samples"
        )
    return found


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise DataError(f"{name}: {value!r} is not allowed. Allowed: a whole number from 1")


def _checked(source: Iterable[Any], steps: int | None, shapes: Any) -> Iterator[Any]:
    count = 0
    for count, item in enumerate(islice(source, steps), start=1):
        batch = map_inputs(lambda a, where, n=count: clean(a, f"batch {n}{where}"), item)
        same_length(batch, f"batch {count}")
        if shapes is not None:
            check_shapes(batch, shapes, f"batch {count}")
        yield batch
    if count == 0:
        raise DataError("the data hold no batch (an empty dataset, or a generator that was already read)")
    if steps is not None and count < steps:
        raise DataError(f"steps={steps} asks for more than the {count} batches that the data hold")


def _source(
    data: Samples | None, batch_size: int, *, endless_ok: bool, part: Callable[[Any], Any] | None = None
) -> Iterable[Any]:
    part = part or _without_labels
    if data is None or isinstance(data, (str, bytes)):
        raise DataError(
            f"data: {data!r} is not a dataset. Allowed: arrays, a batched tf.data.Dataset, "
            "a keras PyDataset or an iterable of batches"
        )
    if _is_array(data) or isinstance(data, (list, tuple, Mapping)):
        return _cut(data, batch_size)
    if hasattr(data, "element_spec"):
        return _from_tf(data, endless_ok, part)
    if hasattr(data, "__getitem__") and hasattr(data, "num_batches"):
        return _from_pydataset(data, endless_ok, part)
    if isinstance(data, Iterable):
        return map(part, data)
    if callable(data):
        return _source(data(), batch_size, endless_ok=endless_ok, part=part)
    raise DataError(f"data: {type(data).__name__} is not a dataset that can be read")


def _is_array(value: Any) -> TypeGuard[np.ndarray]:
    return hasattr(value, "__array__") and hasattr(value, "shape")


def map_inputs(function: Callable[..., Any], inputs: Any) -> Any:
    """Apply `function(array, where)` to each array of single or multi-input data, keeping list or dict.

    Args:
        function: called with the array and the text that locates it, e.g. `"['image']"` or `""`.
        inputs: array, list / tuple of arrays, or mapping name -> array.

    Returns:
        The results: one, a list, or a dict.

    Raises:
        DataError: an empty container.
    """
    if isinstance(inputs, Mapping):
        result: Any = {k: function(v, f"[{k!r}]") for k, v in inputs.items()}
    elif isinstance(inputs, (list, tuple)):
        result = [function(v, f"[{i}]") for i, v in enumerate(inputs)]
    else:
        return function(inputs, "")
    if not result:
        raise DataError("data: an empty list, tuple or dict holds no input")
    return result


def leaves(inputs: Any) -> list[Any]:
    """The arrays of single or multi-input data, in order."""
    if isinstance(inputs, Mapping):
        return list(inputs.values())
    return list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]


def _is_text(array: np.ndarray) -> bool:
    objects = array.dtype.kind == "O"
    return array.dtype.kind in "US" or (objects and all(isinstance(v, (str, bytes)) for v in array.flat))


def clean(value: Any, where: str) -> np.ndarray:
    """One array in the type the model takes, known to be finite.

    Args:
        value: array or tensor of any real type or of text, at least one axis.
        where: names the array in messages.

    Returns:
        float32 for floating point, else the given type; same shape.

    Raises:
        DataError: not an array of numbers or text, no sample axis, no samples, NaN or Inf.
    """
    if not _is_array(value):
        raise DataError(f"{where}: {type(value).__name__} is not an array")
    array = np.asarray(value)
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
    if array.dtype.kind not in "fiub" and not _is_text(array):
        raise DataError(f"{where}: type {array.dtype} is not allowed. Allowed: floating point, integer, boolean, text")
    if array.ndim == 0 or array.size == 0:
        raise DataError(f"{where}: shape {array.shape} holds no samples")
    bad = 0 if array.dtype.kind != "f" else _not_finite(array)
    if bad:
        raise DataError(f"{where}: {bad} of {array.size} values are NaN or Inf (as float32)")
    return array


def _not_finite(array: np.ndarray) -> int:
    """How many values are NaN or Inf, counted piece by piece: the array may lie in a file."""
    piece = max(1, _PIECE * len(array) // array.size)
    return sum(int(np.sum(~np.isfinite(array[i : i + piece]))) for i in range(0, len(array), piece))


def same_length(inputs: Any, where: str) -> int:
    """Number of samples that all inputs share.

    Raises:
        DataError: the inputs differ in length.
    """
    lengths = [len(a) for a in leaves(inputs)]
    if len(set(lengths)) != 1:
        raise DataError(f"{where}: the inputs have different numbers of samples: {lengths}")
    return lengths[0]


def check_shapes(inputs: Any, shapes: Any, where: str, *, whole: bool = False) -> None:
    """Raise unless the batch fits the model's input shapes.

    Args:
        inputs: a batch.
        shapes: one shape with the batch axis first, or a list / dict of them.
        where: names the batch in messages.
        whole: it is a whole set of samples, which is cut into batches of the model's size later.

    Raises:
        DataError: wrong number or names of inputs, wrong rank or size.
    """
    for name, array, taken in _paired(inputs, shapes, where):
        shape = (None, *taken[1:]) if whole else taken
        if not _fits(array.shape, shape):
            hint = " (the data look unbatched: call .batch(n) first)" if _fits(array.shape, shape[1:]) else ""
            raise DataError(f"{where}{name}: shape {array.shape} does not fit the model's input {shape}{hint}")


def _fits(given: tuple[int, ...], allowed: Shape) -> bool:
    return len(given) == len(allowed) and all(a is None or a == g for g, a in zip(given, allowed, strict=True))


def _paired(inputs: Any, shapes: Any, where: str) -> list[tuple[str, np.ndarray, Shape]]:
    if isinstance(inputs, Mapping) and isinstance(shapes, Mapping):
        if set(inputs) != set(shapes):
            raise DataError(f"{where}: inputs {sorted(inputs)} given, the model takes {sorted(shapes)}")
        return [(f"[{k!r}]", inputs[k], tuple(shapes[k])) for k in shapes]
    known = _shape_list(shapes)
    given = leaves(inputs)
    if len(given) != len(known):
        raise DataError(f"{where}: {len(given)} inputs given, the model takes {len(known)}")
    return [(f"[{i}]" if len(known) > 1 else "", a, s) for i, (a, s) in enumerate(zip(given, known, strict=True))]


def _shape_list(shapes: Any) -> list[Shape]:
    if isinstance(shapes, Mapping):
        return [tuple(s) for s in shapes.values()]
    single = not any(isinstance(s, (tuple, list)) for s in shapes)
    return [tuple(shapes)] if single else [tuple(s) for s in shapes]


def _cut(data: Arrays, batch_size: int) -> Iterator[Any]:
    # Converted batch by batch: a float64 set is never copied as a whole.
    arrays = map_inputs(_as_array, data)
    n = same_length(arrays, "data")
    for start in range(0, n, batch_size):
        yield map_inputs(lambda a, _, s=start: a[s : s + batch_size], arrays)


def _as_array(value: Any, where: str) -> np.ndarray:
    if not _is_array(value):
        raise DataError(
            f"data{where}: {type(value).__name__} is not an array. "
            "A list, tuple or dict holds the arrays of a multi-input model; pass samples as one array"
        )
    array = np.asarray(value)
    if array.ndim == 0:
        raise DataError(f"data{where}: a single number has no samples")
    return array


def _without_labels(item: Any) -> Any:
    if isinstance(item, tuple):
        if not 1 <= len(item) <= 3:
            raise DataError(f"data: a tuple of {len(item)} came out; (x,), (x, y) or (x, y, sample_weight) can be read")
        return item[0]
    return item


def _with_labels(item: Any) -> Labelled:
    if not isinstance(item, tuple) or not 2 <= len(item) <= 3:
        raise DataError("data: a batch without labels came out; (x, y) or (x, y, sample_weight) is needed")
    return item[0], item[1], item[2] if len(item) == 3 else None


def _from_tf(data: tf.data.Dataset, endless_ok: bool, part: Callable[[Any], Any]) -> Iterator[Any]:
    if int(data.cardinality()) == -1 and not endless_ok:
        raise DataError("data: the dataset repeats without end; give steps")
    return map(part, data.as_numpy_iterator())


def _from_pydataset(data: keras.utils.PyDataset, endless_ok: bool, part: Callable[[Any], Any]) -> Iterator[Any]:
    n = data.num_batches
    if n is None and not endless_ok:
        raise DataError("data: the PyDataset has no length; give steps")
    indices: Iterable[int] = iter(int, 1) if n is None else range(n)
    return (part(data[i]) for i, _ in enumerate(indices))
