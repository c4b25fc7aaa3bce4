"""Pools, products and sums on power-of-two grids: LiteRT's codes are those of the integer interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vqkit
from tests.support.zoo import randomize
from vqkit.export.integer.fixed import Fixed
from vqkit.export.integer.ops import RULES
from vqkit.export.program import Constant, Program, Step
from vqkit.export.tflite import TfliteWriter
from vqkit.export.tflite.flatbuffer import LiteRtSession
from vqkit.export.tflite.rounding import signed_grid
from vqkit.graph.passes.device import average_pool_scale
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import QuantizerSpec, QuantizerType, RoundMode

ALL = np.arange(-128, 128)
HALF_UP, HALF_TO_EVEN = RoundMode.HALF_UP, RoundMode.HALF_TO_EVEN


def grid(pos: int, *, zero: int = 0, bits: int = 8, unsigned: bool = False, mode: RoundMode = HALF_UP) -> QParams:
    """The grid of a position; its code of 0 is `zero`."""
    spec = QuantizerSpec(QuantizerType.POF2S, bit_width=bits, symmetry=zero == 0, unsigned=unsigned, round_mode=mode)
    low, high = ((q - zero) * 2.0**-pos for q in (spec.q_min, spec.q_max))
    return QParams(spec, np.float32(low), np.float32(high), np.float32(pos))


def litert(
    kind: str, values: Sequence[np.ndarray], grids: Sequence[QParams], **attrs: Any
) -> tuple[Step, np.ndarray, tuple[str, ...]]:
    """A step between quantizers, run by LiteRT.

    Args:
        kind: of the step.
        values: what it reads, on grids.
        grids: of the values and, last, of the result.
        **attrs: of the step; `activation="relu"` puts a ReLU behind it, `shape` is the result's, `constants` too.

    Returns:
        The step, the codes of its result, and what ran in float.
    """
    relu, shape, constants = attrs.pop("activation", ""), attrs.pop("shape"), attrs.pop("constants", {})
    n = len(values)
    steps = [Step("quantize", f"q{i}", (i,), n + i, {"params": g}, row=f"q{i}") for i, g in enumerate(grids[:-1])]
    made = Step(kind, "made", tuple(range(n, 2 * n)), 2 * n, attrs, constants, layer="made")
    last, end = made, 2 * n
    if relu:
        end += 1
        last = Step("relu", "relu", (2 * n,), end, {"slope": 0.0, "threshold": 0.0, "max_value": None})
    steps += [
        made,
        *([last] if relu else []),
        Step("quantize", "end", (end,), end + 1, {"params": grids[-1]}, row="end"),
    ]
    shapes = {i + k * n: (None, *v.shape[1:]) for i, v in enumerate(values) for k in (0, 1)}
    shapes |= dict.fromkeys(range(2 * n, end + 2), (None, *shape))
    program = Program(
        "one",
        {f"in{i}": i for i in range(n)},
        {"output": end + 1},
        tuple(steps),
        shapes,
        dict.fromkeys(shapes, "float32"),
    )
    writer = TfliteWriter(program, "keep", exact=True)
    writer.write()
    content = writer.b.finish("one", writer.inputs, {"codes": writer.integers[end + 1]}, {})
    given = {f"in{i}": v.astype(np.float32) for i, v in enumerate(values)}
    codes = LiteRtSession(content)(given)["codes"].astype(int) - signed_grid(grids[-1])[1]
    return made, codes, tuple(writer.in_float)


def on_grid(steps: Any, params: QParams) -> np.ndarray:
    """Integers as multiples of a grid's step, cut off where it ends."""
    zero = int(params.zero_point)
    return np.clip(steps, params.spec.q_min - zero, params.spec.q_max - zero) * float(params.scale)


def expected(step: Step, values: Sequence[np.ndarray], grids: Sequence[QParams], *, relu: bool = False) -> np.ndarray:
    """What the integer interpreter gives, in steps of the result's grid."""
    fixed = [
        Fixed(np.rint(v / float(g.scale)).astype(np.int64), int(g.pos)) for v, g in zip(values, grids, strict=False)
    ]
    made = RULES[step.kind](step, fixed)
    assert made is not None
    return rounded(made.codes, 2.0 ** -float(made.pos), grids[-1], relu=relu)


def rounded(codes: np.ndarray, unit: float, params: QParams, *, relu: bool = False) -> np.ndarray:
    """Whole numbers of a unit as steps of a grid; ties as it says."""
    exact = np.maximum(codes, 0) if relu else codes
    exact = exact.astype(np.float64) * (unit / float(params.scale))
    steps = np.floor(exact + 0.5) if params.spec.round_mode == HALF_UP else np.rint(exact)
    return np.rint(on_grid(steps, params) / float(params.scale)).astype(int)


def pairs(a: QParams, b: QParams) -> list[np.ndarray]:
    """Every code of one grid with every code of another, as values."""
    x, y = np.meshgrid(ALL, ALL)
    return [on_grid(v.reshape(1, -1), g) for v, g in ((x, a), (y, b))]


GRIDS: Mapping[str, Mapping[str, Any]] = {
    "signed": {},
    "shifted": {"zero": -37},
    "unsigned": {"unsigned": True},
    "4 bits": {"bits": 4},
    "to even": {"mode": HALF_TO_EVEN},
}


@pytest.mark.parametrize("activation", ["", "relu"])
@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("pos", range(-4, 13, 2))
def test_products_of_all_codes(pos: int, kind: str, activation: str) -> None:
    grids = [grid(5), grid(4, zero=11), grid(pos, **GRIDS[kind])]
    values = pairs(*grids[:2])
    step, codes, in_float = litert("binary", values, grids, function="mul", shape=(65536,), activation=activation)
    np.testing.assert_array_equal(codes, expected(step, values, grids, relu=bool(activation)))
    assert not in_float


@pytest.mark.parametrize("function", ["add", "sub"])
@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("second", [-12, -6, 0, 10])
@pytest.mark.parametrize("pos", [-11, -7, -1, 1, 9])
def test_sums_of_all_codes(pos: int, second: int, kind: str, function: str) -> None:
    grids = [grid(0), grid(second), grid(pos, **GRIDS[kind])]
    values = pairs(*grids[:2])
    step, codes, _ = litert("binary", values, grids, function=function, shape=(65536,))
    np.testing.assert_array_equal(codes, expected(step, values, grids))


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("pos", range(-9, 14, 2))
def test_codes_that_join_others_on_another_grid(pos: int, kind: str) -> None:
    grids = [grid(2), grid(pos, zero=3), grid(pos, **GRIDS[kind])]
    values = [on_grid(ALL[None], g) for g in grids[:2]]
    step, codes, _ = litert("concat", values, grids, axis=1, shape=(512,))
    np.testing.assert_array_equal(codes, expected(step, values, grids))


@settings(max_examples=60, deadline=None)
@given(
    window=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    finer=st.integers(-4, 1),
    kind=st.sampled_from([k for k in GRIDS if k != "to even"]),
    device=st.booleans(),
    whole=st.booleans(),
    seed=st.integers(0, 99),
)
def test_pools_of_any_window(
    window: tuple[int, int], finer: int, kind: str, device: bool, whole: bool, seed: int
) -> None:
    area, grids = int(np.prod(window)), [grid(3), grid(3 + finer, **GRIDS[kind])]
    x = _windows_with_ties(window, seed)
    values = [on_grid(x, grids[0])]
    attrs = {"factor": average_pool_scale(*window) if device else None}
    if whole:
        _, codes, in_float = litert("global_avg", values, grids, keepdims=False, shape=(x.shape[-1],), **attrs)
    else:
        attrs |= {"window": window, "strides": window, "dilations": (1, 1), "padding": "valid", "pads": ((0, 0),) * 2}
        _, codes, in_float = litert("avg_pool", values, grids, shape=(1, 1, x.shape[-1]), **attrs)
    sums = x.sum(axis=(1, 2))
    share = Fraction(attrs["factor"] or 1).limit_denominator(2**20) / area
    exact = [share * int(s) / Fraction(float(grids[1].scale / grids[0].scale)) for s in sums.ravel()]
    steps = np.asarray([int((v + Fraction(1, 2)) // 1) for v in exact])
    want = on_grid(steps, grids[1]) / float(grids[1].scale)
    np.testing.assert_array_equal(codes.ravel(), want)
    assert not in_float


def _windows_with_ties(window: tuple[int, int], seed: int) -> np.ndarray:
    """Codes of 500 windows, a channel each, whose sums are dense around zero and reach both ends."""
    area, random = int(np.prod(window)), np.random.default_rng(seed)
    sums = np.concatenate([np.arange(-200, 200), random.integers(-128 * area, 127 * area, 100)])
    sums = np.clip(sums, -128 * area, 127 * area)
    low = sums // area
    x = low[:, None] + (np.arange(area) < (sums - low * area)[:, None])
    return random.permuted(x, axis=1).T.reshape(1, *window, -1)


@settings(max_examples=60, deadline=None)
@given(
    pos=st.integers(-4, 8),
    kind=st.sampled_from(list(GRIDS)),
    weight=st.integers(-1, 9),
    finer=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_dense_layers_with_negative_results(pos: int, kind: str, weight: int, finer: int, seed: int) -> None:
    # A part of the sum's unit decides nothing where bits are dropped and ties go up.
    finer = finer if weight + 2 > pos and kind != "to even" else 0
    random, grids = np.random.default_rng(seed), [grid(2, zero=7), grid(pos, **GRIDS[kind])]
    w = grid(weight)
    values = [on_grid(random.integers(-128, 128, (64, 9)), grids[0])]
    kernel, bias = (
        on_grid(random.integers(-128, 128, (9, 16)), w),
        random.integers(-999, 999, 16) * 2.0 ** -(2 + weight + finer),
    )
    constants = {"kernel": Constant("k", kernel.astype(np.float32), w), "bias": Constant("b", bias.astype(np.float32))}
    step, codes, _ = litert("dense", values, grids, constants=constants, shape=(16,))
    np.testing.assert_array_equal(codes, expected(step, values, grids))


def gated(side: int) -> keras.Model:
    """A block with squeeze-and-excite whose inner values have both signs."""
    layers, i = keras.layers, keras.Input((side, side, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same")(i)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(8, 1, activation="hard_sigmoid")(layers.Conv2D(4, 1)(gate))
    y = layers.Multiply()([x, gate])
    y = layers.Multiply()([y, layers.Conv2D(8, 1)(x)])
    y = layers.Add()([layers.AveragePooling2D(3, 1)(y), layers.Cropping2D(1)(x)])
    y = layers.Concatenate()([layers.UpSampling2D(2)(y), layers.UpSampling2D(2, interpolation="bilinear")(y)])
    y = layers.Conv2D(6, 1)(layers.AveragePooling2D(3, 2, padding="same")(y))
    z = layers.Reshape((-1, 6))(layers.AveragePooling2D((5, 2), (1, 2), padding="same")(y))
    z = layers.AveragePooling1D(3, 2, padding="same")(z)
    return keras.Model(i, [layers.Dense(3)(layers.GlobalAveragePooling2D()(y)), layers.Dense(3)(layers.Flatten()(z))])


@pytest.mark.parametrize("side", [6, 7])
def test_gates_and_pools_of_negative_values_are_the_simulation(side: int) -> None:
    model, x = gated(side), np.random.default_rng(side).normal(size=(32, side, side, 3)).astype(np.float32)
    randomize(model, seed=side)
    quantized = vqkit.quantize(model, "pof2s", x)
    table = vqkit.cross_check(quantized, x, ["litert"], bounds={"litert": (0, 1.0)}).table
    assert table.tensor.str.startswith("multiply").any()
