"""The integer interpreter: its arithmetic by hand and by search, and whole models against the simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.exported import quantized, samples, simulated
from vqkit.errors import ModelError
from vqkit.export.integer import IntegerModel
from vqkit.export.integer.fixed import (
    Fixed,
    aligned,
    binary_share,
    convolve,
    convolve_transposed,
    dyadic,
    matmul,
    shifted,
)
from vqkit.primitives import affine
from vqkit.primitives.kernels import average_pool_scale
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import QuantizerSpec, RoundMode

POF2S = "Pof2SQuantizer"


# --- arithmetic ---


@given(st.integers(-(2**22), 2**22), st.integers(-8, 30), st.sampled_from(RoundMode))
def test_shifting_is_rounding_the_quotient(code: int, shift: int, mode: RoundMode) -> None:
    quotient = np.ldexp(np.float64(code), -shift)
    floor = np.floor(quotient)
    expected = {
        RoundMode.HALF_UP: np.floor(quotient + 0.5),
        RoundMode.HALF_TO_EVEN: np.rint(quotient),
        RoundMode.HALF_AWAY: np.where(quotient - floor == 0.5, floor + (quotient > 0), np.rint(quotient)),
    }[mode]
    assert shifted(np.asarray(code), shift, mode) == expected


@given(
    st.integers(-(2**20), 2**20),
    st.integers(-6, 12),
    st.integers(2, 8),
    st.integers(-6, 12),
    st.sampled_from(RoundMode),
    st.booleans(),
)
def test_requantizing_is_the_simulations_quantizer(
    code: int, pos: int, bits: int, target: int, mode: RoundMode, unsigned: bool
) -> None:
    spec = QuantizerSpec(POF2S, bit_width=bits, round_mode=mode, unsigned=unsigned)
    params = QParams(spec, -1, 1, target)
    x = Fixed(np.asarray(code, np.int64), pos)
    codes = np.clip(shifted(x.codes, pos - target, mode), spec.q_min, spec.q_max)
    expected = affine.own_kernel(x.values, params.f_min, params.f_max, params.pos, spec)
    assert Fixed(codes, target).values == expected


@given(st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=5), st.integers(-20, 20))
def test_binary_fractions_are_found_exactly(codes: list[int], pos: int) -> None:
    values = np.ldexp(np.asarray(codes, np.float64), -pos).astype(np.float32)
    found = dyadic(values)
    assert found is not None
    np.testing.assert_array_equal(found.values, values)


def test_a_tenth_is_no_short_fraction() -> None:
    assert dyadic(np.float32(0.1), bits=12) is None


def test_alignment_is_exact() -> None:
    (a, b), pos = aligned(Fixed(np.asarray([3]), 1), Fixed(np.asarray([5]), np.asarray([4])))
    assert (a, b, pos) == (24, 5, 4)


def test_products_beyond_float64_stay_exact() -> None:
    x, w = np.full((1, 3), 2**30 + 1), np.full((3, 1), 2**29 + 1)
    assert matmul(x, w)[0, 0] == 3 * (2**30 + 1) * (2**29 + 1)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 2),
    st.sampled_from(["", "dw", "2"]),
)
def test_convolution_is_its_definition(seed: int, side: int, stride: int, dilation: int, form: str) -> None:
    rng = np.random.default_rng(seed)
    groups = {"": 1, "dw": 4, "2": 2}[form]
    x = rng.integers(-128, 128, (2, 7, 6, 4))
    w = rng.integers(-128, 128, (side, side, 4 if form == "dw" else 4 // groups, 2))
    strides, dilations = (stride, stride), (dilation, dilation)
    got = convolve(x, w, strides, dilations, groups, depthwise=form == "dw")
    reach = (side - 1) * dilation + 1
    rows, columns = (7 - reach) // stride + 1, (6 - reach) // stride + 1
    assert got.shape[:3] == (2, rows, columns)
    for i in range(rows):
        for j in range(columns):
            seen = x[:, i * stride : i * stride + reach : dilation, j * stride : j * stride + reach : dilation]
            if form == "dw":
                expected = np.einsum("nhwc,hwcm->ncm", seen, w).reshape(2, -1)
            elif form == "2":
                halves = [np.einsum("nhwc,hwco->no", seen[..., 2 * g : 2 * g + 2], w[..., g : g + 1]) for g in (0, 1)]
                expected = np.concatenate(halves, -1)
            else:
                expected = np.einsum("nhwc,hwco->no", seen, w)
            np.testing.assert_array_equal(got[:, i, j], expected)


def test_transposed_convolution_spreads_each_element() -> None:
    x, w = np.zeros((1, 2, 2, 1), np.int64), np.arange(9).reshape(3, 3, 1, 1)
    x[0, 1, 0, 0] = 2
    got = convolve_transposed(x, w, (2, 2))
    expected = np.zeros((5, 5))
    expected[2:5, 0:3] = 2 * np.arange(9).reshape(3, 3)
    np.testing.assert_array_equal(got[0, ..., 0], expected)


@pytest.mark.parametrize("side", range(1, 17))
def test_pool_in_integers_rounds_as_the_simulation_for_every_sum(side: int) -> None:
    """For windows side x 1 … side x 25, all sums of 8-bit codes and all shifts that keep 8 bits."""
    for other in range(1, 26):
        area, factor = side * other, average_pool_scale(side, other)
        share = binary_share(factor, area)
        assert share is not None
        k, n = share
        sums = np.arange(-128 * area, 127 * area + 1)
        floats = sums.astype(np.float32) / np.float32(area) * np.float32(factor)
        for finer in range(-3, 5):
            simulated_codes = np.clip(np.floor(floats * np.float32(2.0**finer) + np.float32(0.5)), -128, 127)
            codes = np.clip(shifted(sums * k, n - finer, RoundMode.HALF_UP), -128, 127)
            np.testing.assert_array_equal(codes, simulated_codes)


# --- whole models ---


NAMES = (
    "residual",
    "depthwise",
    "depth_multiplier",
    "concat",
    "shared_layer",
    "two_inputs",
    "two_outputs",
    "nested",
    "lone_batch_norm",
    "transposed",
    "activations",
    "fused_activations",
    "one_channel",
)
SOFT = {
    "activations": {"swish_conv", "tanh_conv", "hard", "softmax"},
    "fused_activations": {"head"},
    "transposed": {"sigmoid"},
}


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_is_the_simulations(name: str) -> None:
    run, expected = IntegerModel(quantized(name))(samples(name)), simulated(name)
    assert set(run.values) | {k for k in expected if k.startswith("model output")} == set(expected)
    for tensor, value in run.values.items():
        np.testing.assert_array_equal(value, expected[tensor], err_msg=tensor)


@pytest.mark.parametrize(
    "overrides",
    [
        {"weight_bit": 4, "activation_bit": 4},
        {"weight_per_channel": True},
        {"activation_symmetry": False},
        {"activation_unsigned": True, "activation_symmetry": False},
    ],
    ids=lambda o: "-".join(o),
)
def test_other_grids(overrides: dict[str, object]) -> None:
    q = quantized("residual", "pof2s", **overrides)
    run, expected = IntegerModel(q)(samples("residual")), simulated("residual", "pof2s", **overrides)
    for tensor, value in run.values.items():
        np.testing.assert_array_equal(value, expected[tensor], err_msg=tensor)
        spec = q.encodings[tensor].spec
        assert spec.q_min <= run.codes[tensor].min() <= run.codes[tensor].max() <= spec.q_max


def test_what_is_left_to_the_host_is_named() -> None:
    assert IntegerModel(quantized("residual"))(samples("residual")).in_float == ()
    run = IntegerModel(quantized("activations"))(samples("activations"))
    assert "softmax" in run.in_float
    assert "last_conv" not in run.in_float


def test_sums_stay_below_their_bound() -> None:
    model = IntegerModel(quantized("residual"))
    run, table = model(samples("residual")), model.exactness().set_index("layer")
    assert table.exact_in_float32.all()
    assert set(run.largest) == set(table.index)
    for layer, largest in run.largest.items():
        assert np.log2(max(largest, 1)) <= table.bits[layer] + 0.1


def test_a_float_scale_is_refused() -> None:
    with pytest.raises(ModelError, match=r"float scale.*pof2s"):
        IntegerModel(quantized("residual", "fsx"))
