"""The searched clip of a float scale."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.cases import FS
from vqkit.primitives import reference
from vqkit.primitives.histogram import Histogram, choose_from_histogram
from vqkit.primitives.mse import mse_range
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import Method, QuantizerSpec

X = np.random.default_rng(5).laplace(size=8000).astype(np.float32)


def error(x: np.ndarray, spec: QuantizerSpec, f_min: np.ndarray, f_max: np.ndarray) -> float:
    return float(np.sum(np.square(x - reference.fake_quantize(x, QParams(spec, f_min, f_max)), dtype=np.float64)))


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("framework", [False, True])
def test_nearly_as_good_as_trying_every_threshold(bits: int, framework: bool) -> None:
    spec = QuantizerSpec(FS, bits, use_framework_quant=framework)
    reach = np.abs(X).max()
    every = [reference.range_from_extremes(-t * reach, t * reach, spec) for t in np.linspace(0.02, 1, 491)]
    best = min(error(X, spec, *ends) for ends in every)
    assert error(X, spec, *mse_range(X, spec)) <= best * 1.01


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_two_ends_beat_one_share(bits: int, shift: float) -> None:
    spec = QuantizerSpec(FS, bits, symmetry=False)
    x = np.where(X > 0, 3 * X, X) + np.float32(shift)
    f_min, f_max = reference.value_range(x, spec)
    shared = min(error(x, spec, s * f_min, s * f_max) for s in np.linspace(0.05, 1, 96).astype(np.float32))
    assert error(x, spec, *mse_range(x, spec)) <= shared * 1.02


def test_a_range_is_clipped_only_where_that_helps() -> None:
    x = np.float32([-1.0, 0.0, 127 / 128])
    spec = QuantizerSpec(FS, 8, symmetry=False)
    assert mse_range(x, spec) == reference.value_range(x, spec)


def test_channels_are_searched_alone() -> None:
    x = np.stack([X, np.clip(X, -1, 1), np.zeros_like(X)], axis=-1)
    spec = QuantizerSpec(FS, 4, Method.MIN_MSE, per_channel=True)
    f_min, f_max = mse_range(x, spec)
    for i in range(3):
        assert (f_min[0, i], f_max[0, i]) == mse_range(x[:, i], spec.with_(per_channel=False))


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("symmetry", [True, False])
def test_a_histogram_decides_nearly_as_the_tensor(bits: int, symmetry: bool) -> None:
    spec = QuantizerSpec(FS, bits, Method.MIN_MSE, symmetry=symmetry)
    seen = Histogram()
    for batch in np.split(X, 4):
        seen.add(batch)
    found = choose_from_histogram(seen, spec)
    assert error(X, spec, found.f_min, found.f_max) <= error(X, spec, *mse_range(X, spec)) * 1.02
