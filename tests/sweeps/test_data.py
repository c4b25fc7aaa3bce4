"""Every kind of calibration data gives the batches of `keras.Model.predict`; bad data are named errors."""

from __future__ import annotations

import numpy as np
import pytest

from vqkit.errors import DataError
from vqkit.quantization.data import batches

X = np.arange(10 * 4, dtype=np.float32).reshape(10, 4)
Y = np.arange(10)


def cut(x: np.ndarray, n: int) -> list[np.ndarray]:
    return [x[i : i + n] for i in range(0, len(x), n)]


def assert_batches(got, expected) -> None:
    got = list(got)
    assert len(got) == len(expected)
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_array_equal(g, e)
        assert g.dtype == e.dtype


def test_array_is_cut_and_the_last_batch_is_shorter():
    assert_batches(batches(X, batch_size=4), cut(X, 4))
    assert [len(b) for b in batches(np.zeros((70, 2), "float32"))] == [32, 32, 6]
    assert_batches(batches(X, batch_size=4, steps=2), cut(X, 4)[:2])


def test_multi_input_keeps_its_container():
    got = list(batches([X, X + 1], batch_size=8))
    assert [type(b) for b in got] == [list, list]
    np.testing.assert_array_equal(got[1][1], X[8:] + 1)
    got = list(batches({"a": X, "b": Y}, batch_size=8))
    assert list(got[0]) == ["a", "b"]
    np.testing.assert_array_equal(got[1]["b"], Y[8:])
    assert isinstance(next(batches((X, X), batch_size=8)), list)


def test_float64_becomes_float32_and_integers_stay():
    assert next(batches(X.astype("float64"))).dtype == np.float32
    assert next(batches(X.astype("float16"))).dtype == np.float32
    assert next(batches(X.astype("uint8"))).dtype == np.uint8
    assert next(batches(X > 3)).dtype == np.bool_


def test_generators_and_iterables_lose_their_labels():
    assert_batches(batches((b, 0) for b in cut(X, 5)), cut(X, 5))
    assert_batches(batches((b, 0, 1) for b in cut(X, 5)), cut(X, 5))
    assert_batches(batches(iter(cut(X, 5)), steps=1), cut(X, 5)[:1])
    first = next(batches([[a, a]][0] for a in cut(X, 5)))
    assert isinstance(first, list)
    assert len(first) == 2


def test_endless_generator_stops_after_steps():
    def forever():
        while True:
            yield X

    assert len(list(batches(forever(), steps=3))) == 3


def test_tf_dataset_and_pydataset():
    import keras
    import tensorflow as tf

    ds = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    assert_batches(batches(ds), cut(X, 4))
    named = tf.data.Dataset.from_tensor_slices({"a": X, "b": Y}).batch(4)
    np.testing.assert_array_equal(list(batches(named))[2]["b"], Y[8:])
    assert len(list(batches(ds.repeat(), steps=7))) == 7
    with pytest.raises(DataError, match="give steps"):
        batches(ds.repeat())
    assert_batches(batches(tf.constant(X), batch_size=4), cut(X, 4))

    class Pairs(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return X[4 * i : 4 * i + 4], Y[4 * i : 4 * i + 4]

    assert_batches(batches(Pairs()), cut(X, 4))
    with pytest.raises(DataError, match=r"unbatched: call \.batch"):
        list(batches(tf.data.Dataset.from_tensor_slices(X), shapes=(None, 4)))


def spoiled(value: float) -> np.ndarray:
    x = X.copy()
    x[7, 2] = value
    return x


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (None, {}, "None is not a dataset"),
        (7, {}, "int is not a dataset"),
        ("images", {}, "not a dataset"),
        ([], {}, "empty list"),
        ([1.0, 2.0], {}, r"data\[0\]: float is not an array"),
        (np.float32(3), {}, "single number"),
        (np.zeros((0, 4)), {}, "no batch"),
        (iter(()), {}, "no batch"),
        (spoiled(np.nan), {}, r"batch 1: 1 of 40 values are NaN or Inf"),
        (spoiled(np.inf), {"batch_size": 5}, r"batch 2: 1 of 20"),
        (X.astype("float64") * 1e300, {}, "NaN or Inf"),
        (np.array([1j]), {}, "type complex128 is not allowed"),
        (X.astype("complex64"), {}, "type complex64"),
        ([X, X[:3]], {}, r"different numbers of samples: \[10, 3\]"),
        (X, {"steps": 3}, "steps=3 asks for more than the 1 batches"),
        (X, {"steps": 0}, "steps: 0 is not allowed"),
        (X, {"batch_size": 2.0}, "batch_size: 2.0 is not allowed"),
        (X, {"shapes": (None, 5)}, r"shape \(10, 4\) does not fit the model's input \(None, 5\)$"),
        ([X], {"shapes": [(None, 4), (None, 4)]}, "1 inputs given, the model takes 2"),
        ({"a": X}, {"shapes": {"b": (None, 4)}}, r"inputs \['a'\] given, the model takes \['b'\]"),
        (iter([(X, 1, 2, 3)]), {}, "a tuple of 4"),
    ],
)
def test_bad_data_is_an_error(data, options, message):
    with pytest.raises(DataError, match=message):
        list(batches(data, **options))


def test_a_generator_read_twice_is_an_error_not_an_empty_calibration():
    generator = (b for b in cut(X, 5))
    assert len(list(batches(generator))) == 2
    with pytest.raises(DataError, match="already read"):
        list(batches(generator))
