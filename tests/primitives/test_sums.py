"""The cheap search for a position decides as defined: the least exact sum, the first of equals."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cases import POF2S, Array
from vqkit.primitives import mse, ops, reference
from vqkit.primitives import ops as least
from vqkit.primitives import spec as grid
from vqkit.primitives.spec import Method, QuantizerSpec, RoundMode

MSE = QuantizerSpec(POF2S, method=Method.MIN_MSE)
SHAPES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy": lambda rng, n: rng.standard_t(1.2, n),
    "sparse": lambda rng, n: rng.normal(size=n) * (rng.uniform(size=n) < 0.01),
    "on the grid": lambda rng, n: rng.integers(-128, 128, n) / 16.0,
    "halves": lambda rng, n: rng.integers(-256, 256, n) / 32.0,
    "tiny": lambda rng, n: rng.normal(size=n) * 1e-20,
    "zeros": lambda rng, n: 0 * rng.normal(size=n),
}


def sample(kind: str, n: int, seed: int) -> Array:
    return SHAPES[kind](np.random.default_rng(seed), n).astype(np.float32)


def defined(x: Array, spec: QuantizerSpec) -> float:
    return float(reference.position(x, *reference.value_range(x, spec), spec))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(SHAPES)),
    st.integers(1, 2000),
    st.integers(0, 9),
    st.integers(2, 12),
    st.sampled_from(list(RoundMode)),
    st.booleans(),
)
def test_a_weight_gets_the_defined_position(kind, n, seed, bits, rounding, narrow) -> None:
    spec = MSE.with_(bit_width=bits, round_mode=rounding, narrow_range=narrow)
    x = sample(kind, n, seed)
    found = ops.choose(x, spec)
    assert float(found.pos) == defined(x, spec)


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_a_compiled_search_gets_the_defined_position(kind: str, large: bool) -> None:
    spec = MSE.with_(bit_width=4)

    @tf.function(input_signature=[tf.TensorSpec([None])], autograph=False)
    def run(x):
        return ops.position(x, *ops.value_range(x, spec), spec, large=large)

    for seed in range(5):
        x = sample(kind, 3000, seed)
        assert float(run(x)) == defined(x, spec)


def test_more_values_than_may_be_added_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(least, "WHOLE", 100)
    x = sample("heavy", 3000, 0)
    f_min, f_max = ops.value_range(tf.constant(x), MSE)
    assert float(ops.position(tf.constant(x), f_min, f_max, MSE, large=False)) == defined(x, MSE)


def test_sums_of_pieces_are_the_sums_of_the_whole() -> None:
    x = sample("normal", 2 * mse.PIECE + 17, 0)
    spec, offsets = grid.for_errors(MSE), mse.FIRST + mse.REST
    exact = mse.error_sums(x, spec, 4.0, offsets, exact=True)
    np.testing.assert_allclose(mse.error_sums(x, spec, 4.0, offsets), exact, rtol=mse.MARGIN / 10)
    lost = [x - np.clip(np.floor(x * s + 0.5), -128, 127) / s for s in np.float32(2.0) ** (4 + np.arange(5))]
    np.testing.assert_allclose(exact, [np.square(v.astype(np.float64)).sum() for v in lost], rtol=1e-12)
