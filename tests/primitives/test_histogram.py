"""Histograms: what is counted where, how they grow, and which ranges follow from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.support.cases import FS, POF2S
from vqkit.primitives.counting import count_by_sign
from vqkit.primitives.histogram import (
    FIRST_BINS,
    MOST_BINS,
    ChannelHistograms,
    Histogram,
    choose_from_histogram,
    histogram_for,
    range_from_threshold,
)
from vqkit.primitives.spec import Method, QuantizerSpec

FLOATS = st.floats(-100, 100, width=32, allow_subnormal=False)
NORMAL = np.random.default_rng(0).normal(size=(3, 4000)).astype(np.float32)


@given(
    x=hnp.arrays(np.float32, 50, elements=FLOATS),
    first=st.floats(0, 50, width=32),
    width=st.floats(0.0625, 20, width=32),
)
def test_counts_are_numpys(x: np.ndarray, first: float, width: float) -> None:
    edges = (first + width * np.arange(9)).astype(np.float32)
    np.testing.assert_array_equal(count_by_sign(np.abs(x), edges)[0], np.histogram(np.abs(x), edges)[0])


@given(batches=st.lists(hnp.arrays(np.float32, st.integers(1, 30), elements=FLOATS), min_size=1, max_size=6))
def test_no_value_is_lost(batches: list[np.ndarray]) -> None:
    seen = Histogram()
    for batch in batches:
        seen.add(batch)
    x = np.concatenate(batches)
    assert seen.total == x.size
    assert seen.abs_max == np.abs(x).max()
    if np.any(x):
        assert seen.edges[0] == 0
        assert seen.edges[-1] >= np.abs(x).max()
        positive, negative = np.histogram(x[x >= 0], seen.edges)[0], np.histogram(-x[x < 0], seen.edges)[0]
        assert np.abs(np.cumsum(seen.counts_by_sign - [positive, negative], axis=1)).max() <= x.size
        np.testing.assert_array_equal(seen.counts_by_sign.sum(axis=1), [np.sum(x >= 0), np.sum(x < 0)])


def test_bins_keep_their_width_while_growing() -> None:
    seen = Histogram()
    seen.add([1.0, -0.25])
    seen.add([1.5])
    assert len(seen.counts) == FIRST_BINS * 3 // 2
    np.testing.assert_array_equal(seen.edges, np.float32(np.arange(3073) / 2048))
    np.testing.assert_array_equal(np.flatnonzero(seen.counts_by_sign[0]), [2047, 3071])
    np.testing.assert_array_equal(np.flatnonzero(seen.counts_by_sign[1]), [512])


def test_the_number_of_bins_is_bounded_by_joining_neighbours() -> None:
    seen = Histogram()
    for power in range(0, 40, 4):
        seen.add(NORMAL * np.float32(2.0**power))
    assert len(seen.counts) <= MOST_BINS
    assert seen.counts.sum() == 10 * NORMAL.size
    once = Histogram()
    once.add(np.concatenate([NORMAL.ravel() * np.float32(2.0**p) for p in range(0, 40, 4)]))
    np.testing.assert_allclose(seen.percentile(95), once.percentile(95), rtol=2e-3)


def test_zeros_before_the_first_value_are_kept() -> None:
    seen = Histogram()
    seen.add(np.zeros(5))
    assert (seen.percentile(99), seen.kl(8), seen.total) == (0, 0, 5)
    seen.add([2.0])
    assert seen.counts[0] == 5
    assert seen.counts[-1] == 1


def test_order_of_batches_matters_only_through_the_bin_width() -> None:
    forward, backward = Histogram(), Histogram()
    for a, b in zip(NORMAL, NORMAL[::-1], strict=True):
        forward.add(a)
        backward.add(b)
    np.testing.assert_allclose(forward.percentile(99.9), backward.percentile(99.9), rtol=5e-3)


@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0, 99.9, 100.0])
def test_percentile_holds_its_share(percent: float) -> None:
    seen = Histogram()
    seen.add(NORMAL)
    threshold = seen.percentile(percent)
    share = np.mean(np.abs(NORMAL) <= threshold) * 100
    assert percent <= share < percent + 0.1 or share == 100 == percent


def test_values_stand_for_the_tensor() -> None:
    seen = Histogram()
    seen.add(NORMAL)
    values, counts = seen.values()
    width = seen.edges[1]
    assert counts.sum() == NORMAL.size
    np.testing.assert_allclose(np.sort(np.repeat(values, counts)), np.sort(NORMAL, axis=None), atol=float(width))


@pytest.mark.parametrize("bad", [[], [np.nan], [1.0, np.inf], [-np.inf, 0.0]])
def test_only_finite_values(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="a histogram needs finite values"):
        Histogram().add(np.float32(bad))


def test_an_empty_histogram_decides_nothing() -> None:
    for read in (lambda h: h.percentile(99), lambda h: h.kl(8)):
        with pytest.raises(ValueError, match="no batch was added"):
            read(Histogram())


@pytest.mark.parametrize(
    ("options", "low", "high", "expected"),
    [
        ({}, -4.0, 9.0, (-2.0 * 128 / 127, 2.0)),
        ({"narrow_range": True}, -4.0, 9.0, (-2.0, 2.0)),
        ({"symmetry": False}, -4.0, 9.0, (-2.0, 2.0)),
        ({"symmetry": False}, -0.5, 9.0, (-0.5, 2.0)),
        ({"symmetry": False}, 1.0, 9.0, (0.0, 2.0)),
        ({"unsigned": True}, 1.0, 9.0, (0.0, 2.0)),
    ],
)
def test_range_from_threshold(options: dict[str, bool], low: float, high: float, expected: tuple[float, float]) -> None:
    spec = QuantizerSpec(FS, **options)
    np.testing.assert_allclose(range_from_threshold(2.0, low, high, spec), expected, rtol=1e-7)
    assert range_from_threshold(2.0, low, high, spec, vitis_compat=True) == (-2.0, 2.0)


def test_non_overflow_from_a_histogram_is_the_range_seen() -> None:
    seen = Histogram()
    for batch in NORMAL:
        seen.add(batch)
    found = choose_from_histogram(seen, QuantizerSpec(POF2S, symmetry=False))
    assert (found.f_min, found.f_max) == (NORMAL.min(), NORMAL.max())


@pytest.mark.parametrize("kind", [POF2S, FS])
@pytest.mark.parametrize("method", Method)
def test_channels_are_decided_alone(kind: str, method: Method) -> None:
    spec = QuantizerSpec(kind, 4, method, per_channel=True, channel_axis=0)
    together = histogram_for(spec)
    assert isinstance(together, ChannelHistograms)
    x = NORMAL * np.float32([[1], [0], [20]])
    for batch in np.split(x, 4, axis=1):
        together.add(batch)
    found = choose_from_histogram(together, spec)
    assert found.f_max.shape == (3, 1)
    for i in range(3):
        alone = Histogram()
        for batch in np.split(x[i], 4):
            alone.add(batch)
        one = choose_from_histogram(alone, spec.with_(per_channel=False))
        assert (found.f_min[i, 0], found.f_max[i, 0]) == (one.f_min, one.f_max)
        assert kind == FS or found.pos[i, 0] == one.pos


def test_batches_must_have_the_same_channels() -> None:
    seen = ChannelHistograms(QuantizerSpec(FS, per_channel=True))
    seen.add(np.ones((2, 3)))
    with pytest.raises(ValueError, match="the first batch had 3 channels, this one 4"):
        seen.add(np.ones((2, 4)))


def test_vitis_compat_counts_the_whole_tensor() -> None:
    assert isinstance(histogram_for(QuantizerSpec(FS, per_channel=True), vitis_compat=True), Histogram)


@pytest.mark.parametrize("compat", [True, False])
@settings(deadline=None)
@given(
    values=hnp.arrays(np.float32, st.integers(1, 400), elements=st.floats(-8, 8, width=32, allow_subnormal=False)),
    growth=st.floats(0.125, 30, width=32),
)
def test_bins_hold_what_a_search_of_the_edges_puts_there(compat: bool, values: np.ndarray, growth: float) -> None:
    seen = Histogram(vitis_compat=compat)
    seen.add(values)
    seen.add(values * np.float32(growth))
    if len(seen.edges) < 2:
        return
    for sign, part in enumerate((values[values >= 0], -values[values < 0])):
        expected = np.histogram(part, seen.edges)[0]
        np.testing.assert_array_equal(count_by_sign(values, seen.edges)[sign], expected)


def test_values_on_edges_and_one_ulp_beside_them() -> None:
    edges = np.linspace(0, 3, 2049).astype(np.float32)
    x = np.concatenate([edges, np.nextafter(edges, np.float32(9)), np.nextafter(edges, np.float32(-9))])
    x = x[x >= 0]
    np.testing.assert_array_equal(count_by_sign(x, edges)[0], np.histogram(x, edges)[0])


@pytest.mark.parametrize("low", [-3.0, 0.0])
@pytest.mark.parametrize("fine", [1, 8])
def test_blocks_zeros_and_values_beyond_the_edges(low: float, fine: int) -> None:
    draw = np.random.default_rng(3)
    x = np.clip(draw.normal(size=200_001), low, 4).astype(np.float32)
    x[::5], x[1::7] = 0.0, -0.0
    edges = np.linspace(0, 2.5, 2049).astype(np.float32)
    counts = count_by_sign(x, edges, fine).reshape(2, -1, fine).sum(axis=2)
    np.testing.assert_array_equal(counts[0], np.histogram(x[x >= 0], edges)[0])
    np.testing.assert_array_equal(counts[1], np.histogram(-x[x < 0], edges)[0])


@pytest.mark.parametrize("bins", [5, 3000, 1 << 15, 1 << 20])
@pytest.mark.parametrize("reach", [2.0**-120, 1.0, 3e30])
def test_parts_of_bins_of_any_width(bins: int, reach: float) -> None:
    edges = (np.arange(bins + 1) * (reach / bins)).astype(np.float32)
    x = (np.random.default_rng(bins).uniform(-1, 1, 5000) * float(edges[-1])).astype(np.float32)
    parts, size = count_by_sign(x, edges, 4), np.abs(x.astype(np.float64))
    np.testing.assert_array_equal(parts.reshape(2, bins, 4).sum(axis=(0, 2)), np.histogram(np.abs(x), edges)[0])
    middles = np.repeat((np.arange(4 * bins) + 0.5) * (float(edges[-1]) / (4 * bins)), parts.sum(axis=0))
    doubt = float(edges[-1]) * (0.125 / bins + 1e-6)
    np.testing.assert_allclose(middles, np.sort(size), rtol=0, atol=doubt)
