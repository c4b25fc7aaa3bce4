"""The preview says what quantizing on the same samples would decide, without running anything again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support import zoo
from vqkit.evaluation.preview import Preview, changed_rows, cost_of, error_curve, thinned
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType
from vqkit.quantization import quantize
from vqkit.quantization.plan import Role
from vqkit.quantization.prepare import prepare
from vqkit.strategy import Strategy


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        ("pof2s", {}),
        ("pof2s", {"weight_method": "MIN_KL", "activation_method": "PERCENTILE", "weight_per_channel": True}),
        ("fsx", {"weight_bit": 4}),
        ("fs", {"input_bit": 6, "weight_symmetry": False}),
    ],
)
def test_decides_what_quantizing_decides(tiny: Callable[[str], Any], base: str, changes: dict[str, Any]) -> None:
    model, strategy = tiny("residual"), Strategy.builtin(base).with_kwargs(**changes)
    x = zoo.batch(model, 8)
    prepared = prepare(model, strategy)
    preview = Preview.of(prepared.graph, x, samples=8)
    assert preview.samples == 8
    costs = preview.costs(prepared.plan.rows)
    assert set(costs) == {r.name for r in prepared.plan.quantized}
    done = quantize(model, strategy, x, batch_size=8, calibration="float")
    for name, cost in costs.items():
        decided = done.calibrated[name]
        assert np.array_equal(np.ravel(cost.qparams.scale), np.ravel(decided.scale)), name
        assert np.array_equal(np.ravel(cost.qparams.zero_point), np.ravel(decided.zero_point)), name


def test_noise_is_that_of_the_tensor_alone(tiny: Callable[[str], Any]) -> None:
    model = tiny("residual")
    prepared = prepare(model, Strategy.builtin("pof2s"))
    preview = Preview.of(prepared.graph, zoo.batch(model, 4))
    row = next(r for r in prepared.plan.quantized if r.role is Role.WEIGHT)
    cost, w = preview.cost(row), preview.tensor(row)
    assert cost is not None
    assert w is not None
    step = float(cost.qparams.scale)
    q = np.clip(np.floor(w / step + 0.5), -128, 127) * step
    wanted = 10 * np.log10(np.sum(w.astype(float) ** 2) / np.sum((q - w).astype(float) ** 2))
    assert cost.sqnr_db == pytest.approx(wanted, abs=1e-6)
    assert preview.cost(row) is cost  # computed once


def test_changed_rows_are_those_whose_quantizer_changed(tiny: Callable[[str], Any]) -> None:
    model, strategy = tiny("residual"), Strategy.builtin("pof2s")
    plans = [prepare(model, s).plan for s in (strategy, strategy.with_kwargs(weight_bit=4))]
    changed = changed_rows(*plans)
    assert {r.role for r in changed} == {Role.WEIGHT}
    assert len(changed) == sum(r.role is Role.WEIGHT for r in plans[0].quantized)
    assert changed_rows(plans[0], plans[0]) == []


def test_what_is_kept_has_the_extremes() -> None:
    x = np.random.default_rng(3).normal(size=(64, 9, 9, 8)).astype(np.float32)
    kept = thinned(x, 1000, np.random.default_rng(0))
    assert kept.shape[1] == 8
    assert kept.size <= 1000 + 2 * 8
    assert (kept.min(), kept.max()) == (x.min(), x.max())
    assert np.array_equal(thinned(x, x.size, np.random.default_rng(0)), x.reshape(-1, 8))


@pytest.mark.parametrize("kind", [QuantizerType.POF2S, QuantizerType.FS, QuantizerType.TQT])
@pytest.mark.parametrize("per_channel", [False, True])
def test_the_curve_passes_through_every_pick(kind: QuantizerType, per_channel: bool) -> None:
    x = np.random.default_rng(1).standard_t(3, size=(200, 4)).astype(np.float32)
    spec = QuantizerSpec(kind, bit_width=6, per_channel=per_channel)
    curve = error_curve(x, spec)
    methods = [Method.NON_OVERFLOW] if kind is QuantizerType.TQT else list(Method)
    assert list(curve.picks) == [m.name for m in methods]
    for name, (place, ratio) in curve.picks.items():
        assert ratio == cost_of(x, spec.with_(method=Method[name])).sqnr_db
        assert curve.x.min() <= place <= curve.x.max()
        if spec.pow2 and not per_channel:
            assert ratio == curve.sqnr_db[list(curve.x).index(place)]
    if spec.pow2 and not per_channel and kind is not QuantizerType.TQT:
        assert curve.picks["MIN_MSE"][1] >= max(r for _, r in curve.picks.values()) - 1e-9
