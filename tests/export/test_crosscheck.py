"""The cross-check: what it counts, what it calls an error, and that a broken export does not pass."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import vqkit
from tests.support.exported import quantized, samples
from vqkit.errors import CrossCheckError, DataError, ModelError
from vqkit.examples import TASKS
from vqkit.export import crosscheck_result, runtimes
from vqkit.export.crosscheck_result import Tolerance, Witness
from vqkit.export.onnx import OnnxSession, to_onnx


def test_all_runtimes_hold_their_bounds() -> None:
    q = quantized("residual")
    found = vqkit.cross_check(q, samples("residual")["image"], batch_size=7)
    assert found.samples == 16
    assert found.first == {}
    assert found.bounds == {
        "onnxruntime": Tolerance(0, 1.0),
        "litert": Tolerance(1, 0.99),
        "integer": Tolerance(0, 1.0),
    }
    rows = [r.name for r in q.plan.quantized if not r.is_weight]
    for runtime, table in found.table.groupby("runtime"):
        assert set(table.tensor) == {*rows, "output"}
        if runtime != "litert":
            assert table.max_codes.max() == 0
    assert found.metrics["integer_output_max"] == 0
    assert found.metrics["onnxruntime_top1_agreement"] == 1
    assert "holds" in str(found)
    assert "<table" in found._repr_html_()


def test_a_copy_that_the_runtime_cannot_rewrite_is_run_as_it_stands() -> None:
    task = TASKS["sequences"]
    x = task.samples(24, 1).x
    q = vqkit.quantize(task.net(), "fsx", x)
    with pytest.raises(ModelError, match="ONNX Runtime cannot run the file"):
        OnnxSession(to_onnx(q, intermediate=True).model)
    found = vqkit.cross_check(q, x, ["onnxruntime"])
    assert set(found.table.tensor) == {*(r.name for r in q.plan.quantized if not r.is_weight), "output"}
    assert found.metrics["onnxruntime_output_within_1"] == 1.0


def wrong_at(row: str, codes: int, share: float):
    """The integer witness with `codes` added to a share of one tensor's elements."""

    def make(q, program, layers, options):
        good = runtimes.integer(q, program, layers, options)

        def run(inputs):
            found = dict(good.run(inputs))
            value = found[row].copy()
            hit = np.random.default_rng(0).random(value.shape) < share
            found[row] = value + hit * np.float32(codes * q.encodings[row].scale)
            return found

        return Witness(run, good.bound)

    return make


@pytest.mark.parametrize(("codes", "share"), [(1, 0.01), (5, 0.5)])
def test_the_first_tensor_that_departs_is_named(monkeypatch: pytest.MonkeyPatch, codes: int, share: float) -> None:
    monkeypatch.setitem(runtimes.MAKERS, "integer", wrong_at("conv1_relu/output", codes, share))
    q, x = quantized("residual"), samples("residual")["image"]
    with pytest.raises(CrossCheckError, match=rf"first at conv1_relu/output.*largest difference is {codes} codes") as e:
        vqkit.cross_check(q, x, ["integer"])
    result = e.value.result
    row = result.table.set_index("tensor").loc["conv1_relu/output"]
    assert 0.5 * share < row.different < 1.5 * share
    assert result.first == {"integer": "conv1_relu/output"}
    assert vqkit.cross_check(q, x, ["integer"], strict=False).first == result.first
    generous = vqkit.cross_check(q, x, ["integer"], bounds={"integer": (codes, 1.0)})
    assert generous.first == {}


def test_a_wrong_scale_in_the_file_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from vqkit.export import tflite

    honest = tflite.signed_grid
    monkeypatch.setattr(tflite, "signed_grid", lambda p: (honest(p)[0] * 1.1, honest(p)[1]))
    with pytest.raises(CrossCheckError, match="litert departs"):
        vqkit.cross_check(quantized("depthwise"), samples("depthwise")["image"], ["litert"], layers=False)


def test_mistakes_are_named() -> None:
    with pytest.raises(ModelError, match="did you mean 'litert'"):
        vqkit.cross_check(quantized("residual"), samples("residual")["image"], ["litter"])
    with pytest.raises(ModelError, match="float scale"):
        vqkit.cross_check(quantized("residual", "fsx"), samples("residual")["image"], ["integer"])


def test_outputs_alone() -> None:
    found = vqkit.cross_check(quantized("two_inputs"), list(samples("two_inputs").values()), layers=False)
    assert set(found.table.tensor) == {"output"}


def test_a_softmax_is_counted_in_256ths() -> None:
    found = vqkit.cross_check(quantized("fused_activations"), samples("fused_activations")["image"], ["onnxruntime"])
    assert found.metrics["onnxruntime_output_max"] < 0.01
    assert crosscheck_result.OUTPUT_BITS == 8


def test_order_and_progress(capsys: pytest.CaptureFixture[str]) -> None:
    q = quantized("residual")
    found = vqkit.cross_check(q, samples("residual")["image"], ["integer"], progress=True)
    assert list(found.table.tensor)[:2] == ["quant_image/input", "stem_relu/output"]
    assert "cross-checking" in capsys.readouterr().err


def test_int32_biases_explain_float_scales() -> None:
    q, x = quantized("residual", "fsx"), samples("residual")["image"]
    before = [np.asarray(w) for w in q.model.get_weights()]
    plain = vqkit.cross_check(q, x, ["litert"], strict=False).table
    aligned = vqkit.cross_check(q, x, ["litert", "onnxruntime"], strict=False, int32_biases=True).table
    there = aligned[aligned.runtime == "litert"]
    assert 0 <= there.different.sum() < 0.5 * plain.different.sum()
    assert aligned[aligned.runtime == "onnxruntime"].max_codes.max() <= 1
    for old, new in zip(before, q.model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_result_is_json() -> None:
    import json

    found = vqkit.cross_check(quantized("residual"), samples("residual")["image"], ["integer"])
    value = json.loads(json.dumps(found.to_json()))
    assert value["metrics"]["integer_output_max"] == 0
    assert value["table"][0]["tensor"] == "quant_image/input"


def test_layers_and_inputs_called_output_and_several_outputs() -> None:
    x = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
    i = keras.Input((6,), name="output")
    hidden = keras.layers.Dense(4, activation="relu", name="output_0")(i)
    for made in (keras.layers.Dense(3, name="output_")(hidden), [hidden, i]):
        q = vqkit.quantize(keras.Model(i, made), "pof2s", x)
        found = vqkit.cross_check(q, x)
        assert (found.first, found.skipped) == ({}, {})
        assert found.metrics["onnxruntime_output_max"] == 0


def test_a_fixed_batch_size_is_kept_and_what_fills_none_is_said() -> None:
    i = keras.Input(batch_shape=(2, 4, 4, 3))
    y = keras.layers.Flatten()(keras.layers.Conv2D(2, 3)(i))
    x = np.random.default_rng(0).normal(size=(7, 4, 4, 3)).astype("float32")
    q = vqkit.quantize(keras.Model(i, keras.layers.Dense(3)(y)), "pof2s", x[:6], batch_size=2)
    found = vqkit.cross_check(q, x, also=())
    assert (found.samples, found.first, found.skipped) == (6, {}, {})
    assert all("1 samples not compared, which fill no batch" in notes for notes in found.notes.values())
    with pytest.raises(DataError, match="batch size is 2"):
        vqkit.cross_check(q, x[:1])


def test_runtimes_that_cannot_are_left_out_with_the_reason_unless_asked_for() -> None:
    q, x = quantized("residual", "fsx"), samples("residual")["image"]
    found = vqkit.cross_check(q, x, strict=False)
    assert list(found.bounds) == ["onnxruntime", "litert"]
    assert "float scale" in found.skipped["integer"]
    assert found.summary()[-1].startswith("integer: not compared: ")
    assert "float scale" in found.to_json()["skipped"]["integer"]


def test_grids_that_share_no_64_bits_are_computed_in_float() -> None:
    i = keras.Input((4,))
    model = keras.Model(i, keras.layers.Dense(2)(keras.layers.Dense(3)(i)))
    model.layers[1].kernel.assign(np.full((4, 3), 1e-25))
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    q = vqkit.quantize(model, "pof2s", x)
    assert vqkit.cross_check(q, x, ["integer"], strict=False).table.max_codes.max() <= 1
