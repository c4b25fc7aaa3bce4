"""MIN_KL clips only where the squared error bears it: on any data, grid, width and number of batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vqkit.primitives import reference
from vqkit.primitives.choose import choose
from vqkit.primitives.histogram import Histogram, choose_from_histogram, histogram_for
from vqkit.primitives.kl import Grids, bearable, rms_errors
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType

MOST_DB = 3.0

Draw = np.random.Generator

DATA: dict[str, Callable[[Draw, int], np.ndarray]] = {
    "away from 0": lambda r, n: r.uniform(2, 10, n),
    "half to five": lambda r, n: r.uniform(0.5, 5, n),
    "pixels": lambda r, n: r.integers(40, 256, n),
    "below 0": lambda r, n: -r.uniform(2, 10, n),
    "normal": lambda r, n: r.normal(size=n),
    "far from 0": lambda r, n: r.normal(100, 0.01, n),
    "log-normal": lambda r, n: r.lognormal(0, r.uniform(0.1, 3), n),
    "two modes": lambda r, n: np.where(r.random(n) < 0.5, r.normal(5, 0.1, n), r.normal(-3, 0.2, n)),
    "modes of very different size": lambda r, n: np.where(r.random(n) < 0.01, 50, 1) * r.normal(1, 0.1, n),
    "constant": lambda r, n: np.full(n, r.normal()),
    "few values": lambda r, n: r.choice(r.normal(size=3), n),
    "zero and one": lambda r, n: r.integers(0, 2, n),
    "on a lattice": lambda r, n: r.integers(-100, 101, n) * 0.1,
    "sparse": lambda r, n: r.exponential(size=n) * (r.random(n) < 0.02),
    "after a relu": lambda r, n: np.maximum(r.normal(size=n), 0),
    "logits": lambda r, n: r.normal(-4, 4, n),
    "softmax": lambda r, n: (e := np.exp(r.normal(0, 3, n))) / e.sum(),
    "laplace": lambda r, n: r.laplace(size=n),
    "student": lambda r, n: r.standard_t(2, n),
    "cauchy": lambda r, n: r.standard_cauchy(n),
    "an outlier": lambda r, n: np.append(r.normal(size=n - 1), 100),
    "integers far apart": lambda r, n: 2.0 ** r.integers(-12, 12, n),
}


def noise(x: np.ndarray, params: QParams, axes: tuple[int, ...]) -> np.ndarray:
    lost = x.astype(np.float64) - reference.fake_quantize(x, params)
    return np.square(lost).mean(axis=axes)


@st.composite
def specs(draw: st.DrawFn) -> QuantizerSpec:
    kind = draw(st.sampled_from([QuantizerType.FS, QuantizerType.POF2S, QuantizerType.TQT]))
    return QuantizerSpec(
        kind,
        draw(st.integers(2, 16)),
        Method.MIN_KL,
        symmetry=draw(st.booleans()),
        per_channel=draw(st.booleans()),
        unsigned=draw(st.booleans()),
        narrow_range=draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(DATA)),
    size=st.one_of(st.integers(1, 40), st.integers(41, 4096)),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 37.0, 1e12]),
    spec=specs(),
    batches=st.integers(1, 4),
    seed=st.integers(0, 1 << 20),
)
@example("away from 0", 4096, 1.0, QuantizerSpec(QuantizerType.FS, 8, Method.MIN_KL), 1, 0)
@example("sparse", 300, 1.0, QuantizerSpec(QuantizerType.POF2S, 4, Method.MIN_KL, symmetry=False), 3, 1)
def test_never_more_than_3_db_below_min_max(
    kind: str, size: int, scale: float, spec: QuantizerSpec, batches: int, seed: int
) -> None:
    r = np.random.default_rng(seed)
    channels = 2 if spec.per_channel else 1
    x = np.stack([DATA[kind](r, size) for _ in range(channels)], axis=-1)
    x = (scale * x).astype(np.float32)
    if spec.unsigned and spec.symmetry:
        x = np.abs(x)
    seen = histogram_for(spec)
    for part in np.array_split(x, min(batches, size)):
        seen.add(part)
    axes = (0,) if spec.per_channel else (0, 1)
    found = noise(x, choose_from_histogram(seen, spec), axes)
    whole = noise(x, choose(x, spec.with_(method=Method.NON_OVERFLOW)), axes)
    assert np.all(found <= whole * 10 ** (MOST_DB / 10)), 10 * np.log10(found / whole)


@pytest.mark.parametrize("kind", sorted(DATA))
@pytest.mark.parametrize("quantizer", [QuantizerType.FS, QuantizerType.POF2S])
def test_within_3_db_of_the_least_error(kind: str, quantizer: QuantizerType) -> None:
    for seed, size in enumerate((30, 500, 4096, 50_000)):
        x = DATA[kind](np.random.default_rng(seed), size).astype(np.float32)
        for bits in (4, 8):
            spec = QuantizerSpec(quantizer, bits, Method.MIN_KL)
            found, least = (noise(x, choose(x, spec.with_(method=m)), (0,)) for m in (Method.MIN_KL, Method.MIN_MSE))
            assert found <= least * 10 ** (MOST_DB / 10), (size, bits)


def test_a_tail_is_still_clipped_where_that_pays() -> None:
    x = np.random.default_rng(0).laplace(size=100_000).astype(np.float32)
    for bits, share in ((4, 0.6), (6, 0.9)):
        found = choose(x, QuantizerSpec(QuantizerType.FS, bits, Method.MIN_KL))
        assert found.f_max < share * np.abs(x).max()


@settings(max_examples=40, deadline=None)
@given(spec=specs(), seed=st.integers(0, 1 << 20), size=st.integers(1, 300))
def test_errors_are_those_of_the_middles(spec: QuantizerSpec, seed: int, size: int) -> None:
    """Against the quantizer itself, value by value."""
    spec = spec.with_(bit_width=min(spec.bit_width, 8), per_channel=False)
    r = np.random.default_rng(seed)
    x = r.normal(r.normal(0, 5), 1, size).astype(np.float32)
    seen = Histogram()
    seen.add(np.abs(x) if spec.unsigned and spec.symmetry else x)
    ends = seen.abs_max * np.float32([0.3, 0.61, 1])
    f_min, f_max = reference.range_from_extremes(
        np.maximum(seen.seen_min, -ends), np.minimum(seen.seen_max, ends), spec
    )
    pos = reference.position(ends, f_min, f_max, spec) if spec.pow2 else None
    grids = Grids.of_ranges(f_min, f_max, pos, spec)
    middles, counts = seen.values()
    found = rms_errors(seen.counts_by_sign, seen.width, grids) * seen.width
    near = np.abs(middles) < seen.width
    if grids.step[-1] >= 2 * seen.width:
        middles, counts = middles[~near], counts[~near]
    for i, got in enumerate(found):
        one = QParams(spec, f_min[i], f_max[i], None if pos is None else pos[i])
        lost = counts * np.square(middles.astype(np.float64) - reference.fake_quantize(middles, one))
        wanted = np.sqrt(lost.sum() / max(counts.sum(), 1))
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5 * float(seen.abs_max))


def test_where_nothing_can_be_told_the_whole_range_stays() -> None:
    counts = np.zeros((2, 200), np.int64)
    counts[0, 199] = 7
    ends = np.linspace(0.5, 1, 9).astype(np.float32)
    steps = Grids(np.zeros(9), ends.astype(np.float64), 256)
    tiny = Grids(np.zeros(9), np.zeros(9), 256)
    for grids in (steps, tiny):
        assert bearable(counts, 1 / 200, grids).tolist() == [False] * 8 + [True]
