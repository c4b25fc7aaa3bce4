"""Each defect of the reference: corrected by default, reproduced with `vitis_compat`."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.support.cases import FS, POF2S, TQT
from vqkit.primitives import ops
from vqkit.primitives.histogram import Histogram, choose_from_histogram
from vqkit.primitives.kl import without_spikes
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType, RoundMode

HEAVY = np.random.default_rng(3).laplace(size=(4000, 8)).astype(np.float32)
CLIPPING = [Method.MIN_KL, Method.PERCENTILE]


def error(x: np.ndarray, qp: QParams) -> float:
    return float(np.sum(np.square(x - ops.fake_quantize_numpy(x, qp), dtype=np.float64)))


def collected(spec: QuantizerSpec, *batches: np.ndarray, vitis_compat: bool = False) -> QParams:
    seen = Histogram(vitis_compat=vitis_compat)
    for batch in batches:
        seen.add(batch)
    return choose_from_histogram(seen, spec, vitis_compat=vitis_compat)


@pytest.mark.parametrize("method", CLIPPING)
def test_kl_and_percentile_for_pof2s(method: Method) -> None:
    spec = QuantizerSpec(POF2S, 4, method, method_percentile=99.0)
    plain = ops.choose(HEAVY, spec.with_(method=Method.NON_OVERFLOW))
    clipped = ops.choose(HEAVY, spec)
    assert clipped.pos > plain.pos
    assert error(HEAVY, clipped) < error(HEAVY, plain)
    with pytest.raises(ValueError, match=f"Invalid method: {method.name}"):
        ops.choose(HEAVY, spec, vitis_compat=True)


@pytest.mark.parametrize("method", [Method.MIN_MSE, *CLIPPING])
def test_every_method_for_tqt(method: Method) -> None:
    spec = QuantizerSpec(TQT, 4, method, method_percentile=99.0)
    assert error(HEAVY, ops.choose(HEAVY, spec)) < error(HEAVY, ops.choose(HEAVY, spec.with_(method=0)))
    with pytest.raises(ValueError, match=f"TQTQuantizer: Invalid method: {method.name}"):
        ops.choose(HEAVY, spec, vitis_compat=True)


def test_per_channel_tqt() -> None:
    x = HEAVY * np.float32(2.0 ** np.arange(8))
    spec = QuantizerSpec(TQT, per_channel=True)
    found = ops.choose(x, spec)
    alone = [ops.choose(x[:, i], spec.with_(per_channel=False)).pos for i in range(8)]
    np.testing.assert_array_equal(found.pos[0], alone)
    with pytest.raises(ValueError, match="per_channel is not supported"):
        ops.choose(x, spec, vitis_compat=True)


@pytest.mark.parametrize("method", CLIPPING)
@pytest.mark.parametrize("per_channel", [False, True])
def test_float_scale_weights_keep_a_range(method: Method, per_channel: bool) -> None:
    """The reference never reads the histogram of a weight: it becomes zero."""
    spec = QuantizerSpec(FS, 8, method, per_channel=per_channel)
    found = ops.choose(HEAVY, spec)
    assert np.all(found.f_max > 0)
    assert error(HEAVY, found) < 0.1 * np.sum(np.square(HEAVY))
    lost = ops.choose(HEAVY, spec.with_(use_framework_quant=True), vitis_compat=True)
    np.testing.assert_array_equal(ops.fake_quantize_numpy(HEAVY, lost), np.zeros_like(HEAVY))


@pytest.mark.parametrize("symmetry", [True, False])
@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("kind", QuantizerType)
def test_all_zero_tensors_stay_zero(kind: QuantizerType, method: Method, symmetry: bool) -> None:
    spec, zeros = QuantizerSpec(kind, method=method, symmetry=symmetry), np.zeros((3, 4), np.float32)
    qp = ops.choose(zeros, spec)
    np.testing.assert_array_equal(ops.fake_quantize_numpy(zeros, qp), zeros)
    assert np.all(np.isfinite([qp.scale, qp.zero_point]))
    if kind == QuantizerType.FS and method == Method.NON_OVERFLOW:
        compat = ops.choose(zeros, spec, vitis_compat=True)
        assert np.isnan(ops.fake_quantize_numpy(zeros, compat, vitis_compat=True)).all()


def test_one_zero_channel_stays_zero() -> None:
    x = HEAVY * np.float32([1, 0, 1, 1, 1, 1, 1, 1])
    for framework in (False, True):
        spec = QuantizerSpec(FS, per_channel=True, use_framework_quant=framework)
        out = ops.fake_quantize_numpy(x, ops.choose(x, spec))
        np.testing.assert_array_equal(out[:, 1], 0)
        assert np.all(np.isfinite(out))


def test_kl_uses_the_bit_width() -> None:
    batches = [HEAVY, 2 * HEAVY]
    specs = [QuantizerSpec(FS, bits, Method.MIN_KL) for bits in (3, 8)]
    narrow, wide = (collected(s, *batches) for s in specs)
    assert narrow.f_max != wide.f_max
    same = [collected(s, *batches, vitis_compat=True) for s in specs]
    assert same[0].f_max == same[1].f_max


def test_min_mse_gives_each_channel_its_own_offset() -> None:
    rng = np.random.default_rng(0)
    x = np.stack([rng.uniform(-1, 1, 5000), rng.laplace(size=5000)], axis=-1).astype(np.float32)
    spec = QuantizerSpec(POF2S, 4, Method.MIN_MSE, per_channel=True)
    start = ops.choose(x, spec.with_(method=Method.NON_OVERFLOW)).pos
    found, shared = ops.choose(x, spec), ops.choose(x, spec, vitis_compat=True)
    assert len(set((found.pos - start).ravel())) == 2
    assert len(set((shared.pos - start).ravel())) == 1
    for i in range(2):
        assert found.pos[0, i] == ops.choose(x[:, i], spec.with_(per_channel=False)).pos
    assert error(x, found) < error(x, shared)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("symmetry", [True, False])
def test_float_scale_min_mse_searches(symmetry: bool, per_channel: bool) -> None:
    spec = QuantizerSpec(FS, 4, Method.MIN_MSE, symmetry=symmetry, per_channel=per_channel)
    plain = spec.with_(method=Method.NON_OVERFLOW)
    assert error(HEAVY, ops.choose(HEAVY, spec)) < 0.7 * error(HEAVY, ops.choose(HEAVY, plain))
    compat = ops.choose(HEAVY, spec, vitis_compat=True)
    np.testing.assert_array_equal(compat.f_max, ops.choose(HEAVY, plain, vitis_compat=True).f_max)


def test_histogram_keeps_values_below_the_first_edge() -> None:
    first, second = np.float32([2.0, 3.0]), np.float32([0.5, 2.5])
    ours, theirs = Histogram(), Histogram(vitis_compat=True)
    for seen in (ours, theirs):
        seen.add(first)
        seen.add(second)
    assert ours.counts.sum() == 4
    assert theirs.counts.sum() == 3


@pytest.mark.parametrize("method", CLIPPING)
@pytest.mark.parametrize(
    ("options", "sign"),
    [({"symmetry": False}, 1), ({"symmetry": False}, -1), ({"unsigned": True}, 1)],
    ids=["asymmetric positive", "asymmetric negative", "unsigned"],
)
def test_one_sided_data_get_one_sided_ranges(method: Method, options: dict[str, bool], sign: int) -> None:
    x = sign * np.abs(HEAVY)
    spec = QuantizerSpec(FS, 8, method, method_percentile=99.5, **options)
    qp = collected(spec, x)
    near, far = sorted([qp.f_min, qp.f_max], key=abs)
    assert near == 0
    assert far * sign > 0
    compat = collected(spec, x, vitis_compat=True)
    assert compat.f_min == -compat.f_max
    assert qp.scale < 0.6 * compat.scale


def test_percentile_100_reaches_the_largest_value() -> None:
    """The reference reads the lower edge of the bin."""
    spec = QuantizerSpec(FS, 8, Method.PERCENTILE, method_percentile=100.0)
    assert collected(spec, HEAVY).f_max == np.abs(HEAVY).max()
    seen = Histogram(vitis_compat=True)
    seen.add(HEAVY)
    seen.add(HEAVY)
    assert seen.percentile(99.9999) < np.abs(HEAVY).max()


def test_a_single_channel() -> None:
    """The reference squeezes the range to a scalar, which its kernel refuses."""
    x = HEAVY[:, :1]
    for framework in (False, True):
        spec = QuantizerSpec(FS, per_channel=True, use_framework_quant=framework)
        one = spec.with_(per_channel=False)
        out = ops.fake_quantize_numpy(x, ops.choose(x, spec))
        np.testing.assert_allclose(out, ops.fake_quantize_numpy(x, ops.choose(x, one)), rtol=1e-6)


@pytest.mark.parametrize(
    "change", [{"bit_width": 32}, {"bit_width": 1}, {"round_mode": RoundMode.HALF_TO_EVEN}], ids=str
)
def test_what_the_framework_kernel_cannot_do_the_own_kernel_does(change: dict[str, int]) -> None:
    spec = QuantizerSpec(FS, use_framework_quant=True).with_(**change)
    qp = ops.choose(HEAVY, spec)
    own = ops.choose(HEAVY, spec.with_(use_framework_quant=False))
    np.testing.assert_array_equal(ops.fake_quantize_numpy(HEAVY, qp), ops.fake_quantize_numpy(HEAVY, own))
    with pytest.raises(ValueError, match=r"the framework kernel supports HALF_UP and 2\.\.16 bits"):
        ops.choose(HEAVY, spec, vitis_compat=True)
    with pytest.raises(ValueError, match="the framework kernel supports"):
        ops.fake_quantize(tf.constant(HEAVY), spec, qp.f_min, qp.f_max, vitis_compat=True)


def test_a_position_does_not_depend_on_a_logarithm() -> None:
    """floor(-log(x) / log(2)) in float32 misses some powers of two; exponent bits do not."""
    spec = QuantizerSpec(POF2S, per_channel=True)
    exponents = np.arange(-40, 41)
    x = np.ldexp(np.float32(127), -exponents)[None, :]
    np.testing.assert_array_equal(ops.choose(x, spec).pos[0], exponents)
    assert np.any(ops.choose(x, spec, vitis_compat=True).pos[0] != exponents)


def test_kl_is_not_led_astray_by_a_constant_channel() -> None:
    """A dead channel fills one bin; the reference then clips at a fraction of the range."""
    rng = np.random.default_rng(0)
    alive = np.abs(rng.laplace(size=200_000)).astype(np.float32)
    constant = np.full(400_000, 0.11, np.float32)
    thresholds = {}
    for compat in (True, False):
        seen = Histogram(vitis_compat=compat)
        seen.add(np.concatenate([alive, constant]))
        thresholds[compat] = seen.kl(8)
    undisturbed = Histogram()
    undisturbed.add(alive)
    assert thresholds[True] < 0.5 * undisturbed.kl(8)
    assert thresholds[False] > 0.75 * undisturbed.kl(8)


def test_only_lone_bins_count_as_spikes() -> None:
    smooth = np.linspace(1000, 10, 300).astype(np.int64)
    np.testing.assert_array_equal(without_spikes(smooth), smooth)
    spiked = smooth.copy()
    spiked[150] *= 50
    cut = without_spikes(spiked)
    assert cut[150] <= 8 * smooth[130]
    np.testing.assert_array_equal(np.delete(cut, 150), np.delete(smooth, 150))
