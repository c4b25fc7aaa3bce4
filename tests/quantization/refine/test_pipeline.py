"""What follows calibration is a table, to which a pass of one's own is added as a row."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support import zoo
from vqkit import Strategy, quantize
from vqkit.quantization.refine import pipeline
from vqkit.quantization.refine.pipeline import RefineInputs, RefinePass, RefineState, wanted


def without_bias(state: RefineState, given: RefineInputs) -> RefineState:
    corrected = state.corrected.copy()
    head = corrected.layers["head"]
    corrected.layers["head"] = head.with_(weights={**head.weights, "bias": 0 * head.weights["bias"]})
    return state.noted(["head has no bias"], corrected=corrected).applied(given)


def test_a_pass_of_ones_own_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.build("conv_bn_relu")
    assert np.any(model.get_layer("head").bias.numpy())
    monkeypatch.setattr(pipeline, "PIPELINE", (*pipeline.PIPELINE, RefinePass("", "own", without_bias)))
    quantized = quantize(model, "pof2s", zoo.batch(model, 8))
    assert "head has no bias" in quantized.report
    assert quantized.timings["own"] > 0
    np.testing.assert_array_equal(quantized.model.get_layer("head").bias.numpy(), 0)
    assert quantized.audit()["ok"].all()


def test_a_strategy_asks_for_passes_by_their_keys() -> None:
    plain, every = (
        Strategy.builtin("pof2s").with_kwargs(**{p.key: on for p in pipeline.PIPELINE if p.key}) for on in (False, True)
    )
    assert [p.key for p in wanted(plain.refine, vitis_compat=False)] == ["", ""]
    assert wanted(every.refine, vitis_compat=False) == list(pipeline.PIPELINE)
    left_out = set(pipeline.PIPELINE) - set(wanted(every.refine, vitis_compat=True))
    assert {p.key for p in left_out} == {"include_bias_corr", "include_block_reconstruction"}
