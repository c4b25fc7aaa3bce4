"""Every position adjustment on positions set by hand; what is expected was computed by hand.

ip, op, wp, bp: positions of input, output, weight and bias of a layer.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from tests.support import zoo
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import QuantizerType
from vqkit.quantization.prepare import instrument, prepare
from vqkit.quantization.refine import converted_spec, refine
from vqkit.strategy import Strategy

layers = keras.layers
STEPS = (
    "adjust_dpu_sigmoid",
    "adjust_dpu_shift_read",
    "adjust_dpu_shift_cut",
    "adjust_dpu_shift_bias",
    "adjust_dpu_shift_write",
    "adjust_dpu_shift_swish",
    "adjust_dpu_shift_bias_leakyrelu",
    "align_concat",
    "align_pool",
)


class Bench:
    """A prepared model whose positions are set by hand."""

    def __init__(self, model: keras.Model, **kwargs: Any) -> None:
        self.strategy = Strategy.builtin("pof2s").with_kwargs(**dict.fromkeys(STEPS, False), **kwargs)
        self.prepared = prepare(model, self.strategy)
        self.graph, self.rows = instrument(self.prepared.graph, self.prepared.plan)

    def encodings(self, positions: dict[str, Any], default: int = 4) -> dict[str, QParams]:
        rows = {r.name: r for r in self.prepared.plan.quantized}
        assert set(positions) <= set(rows), sorted(rows)
        return {
            name: QParams(row.spec, 0.0, 0.0, np.asarray(positions.get(name, default), np.float32))
            for name, row in rows.items()
        }

    def refined(self, step: str, positions: dict[str, Any], *, compat: bool = False, **config: Any):
        """What one step changes, and its report."""
        before = self.encodings(positions)
        changed = self.strategy.with_kwargs(**{step: True}, **config).refine
        after, report = refine(self.graph, self.rows, before, changed, vitis_compat=compat)
        assert len(report) >= sum(after[k] != before[k] for k in before)
        return {k: float(after[k].pos) for k in before if after[k] != before[k]}, report


def model_of(*blocks: Any, shape: tuple[int, ...] = (8, 8, 2)) -> keras.Model:
    x = y = keras.Input(shape, name="x")
    for block in blocks:
        y = block(y)
    return keras.Model(x, y, name="net")


@pytest.fixture(scope="module")
def conv() -> Bench:
    return Bench(model_of(layers.Conv2D(3, 3, name="conv")))


@pytest.mark.parametrize(
    ("wp", "ip", "op", "changes", "compat"),
    [
        (5, 4, 3, {}, {}),  # shift 6
        (20, 4, 8, {}, {}),  # 16, the most
        (20, 5, 8, {"conv/kernel": 19}, {"conv/kernel": 19}),  # 17 -> 16: wp = 16 + 8 - 5
        (4, 4, 8, {}, {}),  # 0, the least
        (2, 4, 8, {"conv/output": 6}, {"conv/kernel": 4}),  # -2 -> 0: op = wp + ip; compat: wp = op - ip
    ],
)
def test_shift_cut_lies_in_0_to_16(conv, wp, ip, op, changes, compat):
    given = {"conv/kernel": wp, "quant_x/input": ip, "conv/output": op}
    assert conv.refined("adjust_dpu_shift_cut", given)[0] == changes
    assert conv.refined("adjust_dpu_shift_cut", given, compat=True)[0] == compat


@pytest.mark.parametrize(
    ("bp", "changes", "compat"),
    [
        (10, {}, {}),  # wp + ip = 12, shift_cut = 7: shift 2 within -9..16
        (21, {}, {}),  # -9, the least: -(16 - 7)
        (23, {"conv/bias": 21}, {"conv/bias": 21}),  # -11 -> -9
        (-4, {}, {}),  # 16, the most
        (-6, {}, {"conv/bias": -4}),  # 18 -> 16 would saturate the bias; compat does it
    ],
)
def test_shift_bias_lies_above_minus_16_plus_shift_cut_and_below_16(conv, bp, changes, compat):
    given = {"conv/kernel": 8, "quant_x/input": 4, "conv/output": 5, "conv/bias": bp}
    found, report = conv.refined("adjust_dpu_shift_bias", given)
    assert found == changes
    assert any("would saturate" in line for line in report) == (bp == -6)
    assert conv.refined("adjust_dpu_shift_bias", given, compat=True)[0] == compat


def test_the_least_shift_of_the_bias_is_never_above_0(conv):
    # shift_cut = 8 + 12 - 3 = 17: -(16 - 17) = 1, but the bound stays 0.
    given = {"conv/kernel": 8, "quant_x/input": 12, "conv/output": 3, "conv/bias": 21}
    assert conv.refined("adjust_dpu_shift_bias", given)[0] == {"conv/bias": 20}


@pytest.fixture(scope="module")
def leaky() -> Bench:
    return Bench(
        model_of(
            layers.Conv2D(3, 3, name="conv"),
            layers.LeakyReLU(0.1, name="leaky"),
            layers.Conv2D(3, 3, name="plain"),
        )
    )


@pytest.mark.parametrize(
    ("bp", "changes"),
    [
        (12, {}),  # wp + ip = 12: shift 0, the least in front of a LeakyReLU
        (14, {"conv/bias": 12}),  # -2 -> 0
        (-4, {}),
    ],
)
def test_shift_bias_in_front_of_leaky_relu_lies_in_0_to_16(leaky, bp, changes):
    given = {
        "conv/kernel": 8,
        "quant_x/input": 4,
        "leaky/output": 5,
        "conv/bias": bp,
        "plain/kernel": 8,
        "plain/output": 5,
        "plain/bias": 14,
    }
    found, report = leaky.refined("adjust_dpu_shift_bias_leakyrelu", given)
    assert found == changes
    assert all(line.startswith("adjust_dpu_shift_bias_leakyrelu: conv/") for line in report)


@pytest.fixture(scope="module")
def gate() -> Bench:
    return Bench(model_of(layers.Conv2D(3, 3, activation="swish", name="conv")))


@pytest.mark.parametrize(
    ("ip", "op", "changes", "compat"),
    [
        (0, 7, {}, {}),
        (-1, 6, {"conv/output": 0, "conv_swish/output": 7}, {"conv/output": 0, "conv_swish/output": 7}),
        (15, 9, {}, {}),
        (16, 9, {"conv/output": 15}, {}),  # the upper limit is 3.5's
    ],
)
def test_sigmoid_has_input_0_to_15_and_output_from_7(gate, ip, op, changes, compat):
    given = {"conv/output": ip, "conv_swish/output": op}
    assert gate.refined("adjust_dpu_sigmoid", given)[0] == changes
    assert gate.refined("adjust_dpu_sigmoid", given, compat=True)[0] == compat


@pytest.mark.parametrize(
    ("ip0", "ip1", "op", "changes"),
    [
        (4, 7, 3, {}),  # 8
        (4, 7, 12, {"conv_swish_mul/output": 11}),  # -1 -> 0
        (9, 12, 6, {}),  # 15
        (9, 12, 4, {"conv_swish_mul/output": 6}),  # 17 -> 15
    ],
)
def test_shift_swish_lies_in_0_to_15(gate, ip0, ip1, op, changes):
    given = {"conv/output": ip0, "conv_swish/output": ip1, "conv_swish_mul/output": op}
    assert gate.refined("adjust_dpu_shift_swish", given)[0] == changes


def joined(kind: type, *after: Any) -> Bench:
    x = keras.Input((8, 8, 2), name="x")
    a, b, c = (layers.Conv2D(2, 1, name=name)(x) for name in "abc")
    y = kind(name="join")([a, b, c])
    for block in after:
        y = block(y)
    return Bench(keras.Model(x, y, name="net"))


@pytest.fixture(scope="module")
def add() -> Bench:
    return joined(layers.Add)


@pytest.mark.parametrize(
    ("a", "b", "c", "changes"),
    [
        (3, 18, 5, {}),  # 15 apart
        (3, 19, 5, {"b/output": 18}),  # 16 apart: the highest comes down
        (-9, 19, 8, {"b/output": 6}),  # only the highest, as the original does
    ],
)
def test_shift_read_keeps_inputs_15_apart(add, a, b, c, changes):
    assert add.refined("adjust_dpu_shift_read", {"a/output": a, "b/output": b, "c/output": c})[0] == changes


@pytest.mark.parametrize(
    ("op", "changes"),
    [
        (18, {}),
        (19, {"join/output": 18}),  # min(ip) + 15
        (-12, {}),
        (-13, {"join/output": -12}),  # min(ip) - 15
    ],
)
def test_shift_write_keeps_output_within_15_of_the_lowest_input(add, op, changes):
    given = {"a/output": 3, "b/output": 7, "c/output": 5, "join/output": op}
    assert add.refined("adjust_dpu_shift_write", given)[0] == changes


def test_align_concat_puts_inputs_and_output_at_the_lowest_position():
    bench = joined(layers.Concatenate)
    given = {"a/output": 6, "b/output": 2, "c/output": 5, "join/output": 3}
    found = bench.refined("align_concat", given)[0]
    assert found == {"a/output": 2, "c/output": 2, "join/output": 2}
    assert bench.refined("align_pool", given)[0] == {}


@pytest.mark.parametrize(
    ("pool", "config"),
    [
        (layers.MaxPooling2D, {}),
        (layers.AveragePooling2D, {"pool_size": 2}),
        (layers.GlobalAveragePooling2D, {}),
    ],
)
def test_align_pool_puts_input_and_output_at_the_lower_position(pool, config):
    bench = Bench(model_of(layers.Conv2D(3, 3, name="conv"), pool(name="pool", **config)))
    assert bench.refined("align_pool", {"conv/output": 6, "pool/output": 4})[0] == {"conv/output": 4}
    assert bench.refined("align_pool", {"conv/output": 3, "pool/output": 4})[0] == {"pool/output": 3}


def test_a_layer_that_cannot_be_adjusted_does_not_stop_the_others():
    """The original returns at the first layer that lacks a position, here the one without bias."""
    bench = Bench(model_of(layers.Conv2D(3, 3, use_bias=False, name="first"), layers.Conv2D(3, 3, name="second")))
    given = {
        "first/kernel": 8,
        "first/output": 5,
        "second/kernel": 8,
        "second/output": 5,
        "second/bias": 30,
        "quant_x/input": 4,
    }
    found, report = bench.refined("adjust_dpu_shift_bias", given)
    assert found == {"second/bias": 13 + 8}  # wp + ip = 13, shift_cut = 8: shift -8
    assert "adjust_dpu_shift_bias: first lacks a per-tensor position: left as it is" in report
    assert bench.refined("adjust_dpu_shift_bias", given, compat=True)[0] == {}


def test_all_steps_are_run_by_name(conv):
    form = type(conv.strategy.refine).model_fields
    switches = {n for n in form if n.startswith(("adjust_", "align_"))}
    assert switches == set(STEPS)


def tqt(bit_width: int, *, convert: bool) -> Any:
    more = {"convert_to_pof2s_quantize_strategy": convert}
    return Strategy.builtin("pof2s_tqt").with_kwargs(weight_bit=bit_width, **more)


@pytest.mark.parametrize("bit_width", [2, 3, 4, 6, 8, 12, 16])
def test_trained_thresholds_become_positions_at_every_width(bit_width):
    """pos = bit_width - 1 - ceil(log2 threshold); the original takes every width for 8 bits."""
    model = zoo.build("conv_bn_relu")
    prepared = prepare(model, tqt(bit_width, convert=True))
    graph, rows = instrument(prepared.graph, prepared.plan)
    row = next(r for r in prepared.plan.quantized if r.tensor == "kernel")
    assert row.spec.quantizer_type is QuantizerType.TQT
    threshold = 3  # log2
    before = {row.name: QParams(row.spec, 0, 0, np.float32(bit_width - 1 - threshold))}
    config = tqt(bit_width, convert=True).refine
    after, _ = refine(graph, rows, before, config)
    assert after[row.name].spec.quantizer_type is QuantizerType.POF2S
    assert float(after[row.name].pos) == bit_width - 1 - threshold
    compat, _ = refine(graph, rows, before, config, vitis_compat=True)
    assert float(compat[row.name].pos) == 7 - threshold


@pytest.mark.parametrize("bit_width", [4, 8, 16])
def test_positions_become_float_ranges_at_every_width(bit_width):
    """The range of a signed grid; the original takes every width for 8 bits."""
    strategy = Strategy.builtin("pof2s").with_kwargs(weight_bit=bit_width, convert_to_fs_quantize_strategy=True)
    prepared = prepare(zoo.build("conv_bn_relu"), strategy)
    graph, rows = instrument(prepared.graph, prepared.plan)
    row = next(r for r in prepared.plan.quantized if r.tensor == "kernel")
    before = {row.name: QParams(row.spec, 0, 0, np.float32(5))}
    after = refine(graph, rows, before, strategy.refine)[0][row.name]
    half = 2 ** (bit_width - 1)
    assert (float(after.f_min), float(after.f_max)) == (-half / 32, (half - 1) / 32)
    assert after.spec == converted_spec(row.spec, strategy.refine)
    assert after.spec.quantizer_type is QuantizerType.FS
    assert float(after.scale) == 1 / 32
    compat = refine(graph, rows, before, strategy.refine, vitis_compat=True)[0][row.name]
    assert (float(compat.f_min), float(compat.f_max)) == (-4, 127 / 32)
