"""Models deeper than Python's recursion limit, which quantizers make of models that were not."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest

from vqkit.graph.keras_io import lower, raise_model, room_for
from vqkit.models import load_model


def test_a_model_too_deep_for_keras_is_built_saved_and_loaded(tmp_path):
    limit = sys.getrecursionlimit()
    x = y = keras.Input((4,), name="x")
    for i in range(limit + 50):
        y = keras.layers.ReLU(name=f"r{i}")(y)
    with pytest.raises(RecursionError):
        keras.Model(x, y)
    with room_for(limit + 50):
        model = keras.Model(x, y)
    raised = raise_model(lower(model))
    raised.save(tmp_path / "deep.keras")
    loaded = load_model(tmp_path / "deep.keras")
    assert sys.getrecursionlimit() == limit
    assert len(loaded.layers) == limit + 51
    values = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
    np.testing.assert_array_equal(loaded(values), np.maximum(values, 0))


def test_the_limit_is_only_raised_and_comes_back():
    limit = sys.getrecursionlimit()
    with room_for(limit):
        assert sys.getrecursionlimit() > limit
    with room_for(0):
        assert sys.getrecursionlimit() >= limit
    assert sys.getrecursionlimit() == limit
