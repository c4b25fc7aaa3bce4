"""Positions for many widths from one count are those that the values give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqkit.primitives import reference
from vqkit.primitives import spec as grid
from vqkit.primitives.counting import Counted
from vqkit.primitives.histogram import FIRST_BINS, Histogram
from vqkit.primitives.mse import best_of
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType, RoundMode

FINE = 8


def counted(histogram: Histogram, x: np.ndarray) -> Counted:
    counts = histogram.add(x, fine=FINE).counts
    assert counts is not None
    return Counted(counts, histogram.width / FINE, histogram.doubt)


def spec_of(bits: int, **more: object) -> QuantizerSpec:
    return QuantizerSpec(quantizer_type=QuantizerType.POF2S, bit_width=bits, method=Method.MIN_MSE, **more)


def values(seed: int, n: int = 4000) -> np.ndarray:
    draw = np.random.default_rng(seed)
    shapes = (
        draw.standard_normal,
        lambda n: draw.standard_t(2, n),
        lambda n: draw.uniform(-1, 1, n),
        lambda n: np.maximum(draw.standard_normal(n), 0),
        lambda n: draw.laplace(size=n),
    )
    return (shapes[seed % len(shapes)](n) * 10.0 ** draw.uniform(-5, 5)).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10_000), bits=st.integers(2, 9), even=st.booleans(), narrow=st.booleans())
def test_the_exact_answer_is_among_those_left(seed: int, bits: int, even: bool, narrow: bool) -> None:
    rounding = RoundMode.HALF_TO_EVEN if even else RoundMode.HALF_UP
    spec = spec_of(bits, round_mode=rounding, narrow_range=narrow)
    histogram = Histogram()
    for x in (values(seed), values(seed) * np.float32(1.7)):
        found = counted(histogram, x)
        ends = reference.value_range(x, spec)
        start = reference.position(x, *ends, spec.with_(method=Method.NON_OVERFLOW))
        offsets = found.best_offsets(spec, float(start))
        assert reference.position(x, *ends, spec) - start in offsets
        assert start + best_of(x, grid.for_errors(spec), start, offsets) == reference.position(x, *ends, spec)


@pytest.mark.parametrize("bits", [4, 5, 6, 7, 8])
def test_most_tensors_are_answered(bits: int) -> None:
    answers = []
    for seed in range(50):
        x, spec = values(seed, 50_000), spec_of(bits)
        start = reference.position(x, *reference.value_range(x, spec), spec.with_(method=Method.NON_OVERFLOW))
        answers.append(counted(Histogram(), x).best_offsets(spec, float(start)))
    assert sum(len(a) == 1 for a in answers) >= 40


def test_equal_errors_are_not_decided() -> None:
    x = np.array([1, -0.5, 0.25, 0], np.float32)
    assert counted(Histogram(), x).best_offsets(spec_of(8), 2.0) == [0, 1, 2, 3, 4]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_parts_add_up_to_exact_bins(seed: int) -> None:
    coarse, fine = Histogram(), Histogram()
    for factor in (1, 3, 0.2, 40):
        x = values(seed) * np.float32(factor)
        whole, parts = coarse.add(x), fine.add(x, fine=FINE)
        assert whole.counts is not None
        assert parts.counts is not None
        np.testing.assert_array_equal(parts.counts.reshape(2, -1, FINE).sum(axis=2), whole.counts)
    np.testing.assert_array_equal(fine.counts_by_sign, coarse.counts_by_sign)
    assert len(fine.edges) - 1 >= FIRST_BINS
