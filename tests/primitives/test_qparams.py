"""Decided numbers: convention, codes, JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.support.cases import FS, POF2S, TQT
from vqkit.primitives import choose as numpy_choice
from vqkit.primitives import reference
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import QuantizerSpec, QuantizerType

X = np.random.default_rng(2).normal(0.7, 1.3, size=(50, 4)).astype(np.float32)


@pytest.mark.parametrize("kind", [POF2S, TQT, FS])
@pytest.mark.parametrize("symmetry", [True, False])
@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("framework", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_codes_lie_on_the_grid_and_come_back(
    kind: QuantizerType, symmetry: bool, unsigned: bool, per_channel: bool, framework: bool, bits: int
) -> None:
    spec = QuantizerSpec(
        kind,
        bits,
        symmetry=symmetry,
        unsigned=unsigned,
        per_channel=per_channel,
        use_framework_quant=framework,
    )
    x = np.abs(X) if unsigned else X
    qp = numpy_choice.choose(x, spec)
    codes = reference.quantize(x, qp)
    assert codes.dtype == np.int64
    assert codes.min() >= spec.q_min
    assert codes.max() <= spec.q_max
    out = reference.fake_quantize(x, qp)
    np.testing.assert_allclose(reference.dequantize(codes, qp), out, rtol=1e-6, atol=float(np.max(qp.scale)) * 0.01)
    if spec.pow2:
        np.testing.assert_array_equal(reference.dequantize(codes, qp), out)
        np.testing.assert_array_equal(qp.scale, 2.0**-qp.pos)
    np.testing.assert_array_equal(reference.quantize(out, qp), codes)


def test_zero_is_always_on_the_grid() -> None:
    qp = numpy_choice.choose(X, QuantizerSpec(FS, symmetry=False))
    assert reference.fake_quantize(np.float32([0]), qp) == 0
    assert reference.dequantize(qp.zero_point, qp) == 0


@pytest.mark.parametrize("kind", [POF2S, FS])
@pytest.mark.parametrize("per_channel", [False, True])
def test_json_round_trip(kind: QuantizerType, per_channel: bool) -> None:
    qp = numpy_choice.choose(X, QuantizerSpec(kind, 5, 1, 2, per_channel=per_channel))
    text = json.dumps(qp.to_json())
    again = QParams.from_json(json.loads(text))
    assert again == qp
    assert hash(again) == hash(qp)
    assert again.spec == qp.spec
    np.testing.assert_array_equal(again.f_min, qp.f_min)
    assert '"method": "MIN_MSE"' in text


def test_a_position_belongs_to_a_pow2_scale() -> None:
    with pytest.raises(ValueError, match="Pof2SQuantizer needs a position"):
        QParams(QuantizerSpec(POF2S), np.float32(-1), np.float32(1))
    with pytest.raises(ValueError, match="FSQuantizer has a float scale and takes no position"):
        QParams(QuantizerSpec(FS), np.float32(-1), np.float32(1), np.float32(3))
