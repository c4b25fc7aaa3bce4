"""Three ways to round, with their float32 artefacts."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vqkit.primitives import kernels, reference
from vqkit.primitives.spec import RoundMode

HALVES = np.arange(-4, 4.5, 0.5, dtype=np.float32)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (RoundMode.HALF_TO_EVEN, [-4, -4, -3, -2, -2, -2, -1, 0, 0, 0, 1, 2, 2, 2, 3, 4, 4]),
        (RoundMode.HALF_UP, [-4, -3, -3, -2, -2, -1, -1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4]),
        (RoundMode.HALF_AWAY, [-4, -4, -3, -3, -2, -2, -1, -1, 0, 1, 1, 2, 2, 3, 3, 4, 4]),
    ],
)
def test_ties(mode: RoundMode, expected: list[int]) -> None:
    np.testing.assert_array_equal(reference.round_(HALVES, mode), expected)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        (RoundMode.HALF_UP, 0.49999997, 1.0),
        (RoundMode.HALF_UP, 8388609.0, 8388610.0),
        (RoundMode.HALF_AWAY, -0.49999997, -1.0),
        (RoundMode.HALF_AWAY, 0.49999997, 0.0),
        (RoundMode.HALF_TO_EVEN, 8388609.0, 8388609.0),
    ],
)
def test_float32_artefacts_are_the_references(mode: RoundMode, value: float, expected: float) -> None:
    assert reference.round_(value, mode) == expected
    assert kernels.round_(tf.constant(value), mode).numpy() == expected


@pytest.mark.parametrize("mode", RoundMode)
@given(x=hnp.arrays(np.float32, 64, elements=st.floats(width=32, allow_nan=False, allow_subnormal=False)))
def test_tensorflow_rounds_as_numpy(mode: RoundMode, x: np.ndarray) -> None:
    np.testing.assert_array_equal(kernels.round_(tf.constant(x), mode), reference.round_(x, mode))
