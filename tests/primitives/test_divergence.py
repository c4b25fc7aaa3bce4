"""The KL search: equal to the definition written out with loops, and fast."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vqkit.primitives.kl import FIRST_WIDTH, best_width, divergences, exact_divergence


def looped(counts: np.ndarray, width: int, levels: int) -> float:
    """KL(width) from its definition, one bin at a time."""
    reference = [float(c) for c in counts[:width]]
    reference[-1] += float(sum(counts[width:]))
    members: dict[int, list[int]] = {}
    for i in range(width):
        members.setdefault(i * levels // width, []).append(i)
    new = [0.0] * width
    for group in members.values():
        used = [i for i in group if counts[i]]
        for i in used:
            new[i] = sum(float(counts[j]) for j in used) / len(used)
    total, new_total = sum(reference), sum(new)
    result = 0.0
    for p, q in zip(reference, new, strict=True):
        if p and not q:
            return float("inf")
        if p:
            result += p / total * np.log((p / total) / (q / new_total))
    return result


@settings(max_examples=60)
@given(
    counts=hnp.arrays(np.int64, st.integers(FIRST_WIDTH, 300), elements=st.integers(0, 50)),
    levels=st.sampled_from([4, 8, 64, 128]),
)
def test_divergences_are_the_definition(counts: np.ndarray, levels: int) -> None:
    counts[-1] += 1
    widths = np.unique(np.linspace(FIRST_WIDTH, len(counts), 5).astype(np.int64))
    for width, fast in zip(widths, divergences(counts, widths, levels), strict=True):
        if counts[:width].any():
            expected = looped(counts, int(width), levels)
            np.testing.assert_allclose(fast, expected, rtol=0, atol=1e-12)
            np.testing.assert_allclose(exact_divergence(counts, int(width), levels), expected, rtol=0, atol=1e-12)


@settings(max_examples=40)
@given(
    counts=hnp.arrays(np.int64, st.integers(FIRST_WIDTH + 1, 200), elements=st.integers(0, 4)),
    levels=st.sampled_from([8, 64]),
)
def test_the_last_minimum_wins(counts: np.ndarray, levels: int) -> None:
    kept = counts.copy()
    kept[0] = kept[1]
    widths = [w for w in range(FIRST_WIDTH, len(kept) + 1) if kept[:w].any()]
    if not widths:
        return
    exact = np.array([exact_divergence(kept, w, levels) for w in widths])
    assert best_width(counts, levels) == widths[len(widths) - 1 - int(np.argmin(exact[::-1]))]


def test_the_histogram_is_not_changed() -> None:
    counts = np.arange(400)
    best_width(counts, 128)
    np.testing.assert_array_equal(counts, np.arange(400))


@pytest.mark.parametrize(("bins", "levels"), [(100, 128), (2048, 2048), (2048, 1 << 15)])
def test_nothing_to_choose_keeps_every_bin(bins: int, levels: int) -> None:
    counts = np.random.default_rng(0).integers(0, 9, bins)
    assert best_width(counts, levels) == bins


def test_no_count_at_all() -> None:
    assert best_width(np.zeros(500, np.int64), 128) == 500


def test_candidates_that_keep_nothing() -> None:
    """Compat: 0 / 0 is not a number, and numpy's argmin takes it; the default skips such widths."""
    counts = np.zeros(500, np.int64)
    counts[300:] = 5
    assert best_width(counts, 128, vitis_compat=True) == 300
    assert best_width(counts, 128) == 500


@pytest.mark.parametrize(("bins", "limit"), [(2048, 0.050), (16384, 2.0)])
def test_speed_on_one_core(bins: int, limit: float) -> None:
    x = np.abs(np.random.default_rng(1).standard_t(4, 200_000))
    counts = np.histogram(x, bins)[0]
    times = []
    for _ in range(5):
        start = time.process_time()
        best_width(counts, 128)
        times.append(time.process_time() - start)
    assert min(times) < limit
