"""A model with a fixed batch size is calibrated, evaluated, compared and trained in that size."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

import vqkit
from vqkit.errors import DataError, ModelError
from vqkit.qat.recipes import DistillationData

L = keras.layers
R = np.random.default_rng(0)


def net(size: int | None) -> keras.Model:
    """Two inputs."""
    keras.utils.set_random_seed(1)
    a = keras.Input((8, 8, 3), batch_size=size, name="a")
    b = keras.Input((4,), batch_size=size, name="b")
    y = L.Activation("relu", name="r")(L.BatchNormalization(name="n")(L.Conv2D(4, 3, name="c")(a)))
    return keras.Model([a, b], L.Dense(3, name="d")(L.Concatenate(name="m")([L.Flatten(name="f")(y), b])))


def inputs(n: int, seed: int = 0) -> list[np.ndarray]:
    r = np.random.default_rng(seed)
    return [r.normal(size=(n, 8, 8, 3)).astype("float32"), r.normal(size=(n, 4)).astype("float32")]


@pytest.mark.parametrize("size", [1, 4])
def test_it_gives_what_the_free_model_gives_in_batches_of_that_size(size: int) -> None:
    fixed, free = net(size), net(None)
    free.set_weights(fixed.get_weights())
    x = inputs(12)
    q, p = vqkit.quantize(fixed, "pof2s", x), vqkit.quantize(free, "pof2s", x, batch_size=size)
    assert {k: v.to_json() for k, v in q.encodings.items()} == {k: v.to_json() for k, v in p.encodings.items()}
    more, labels = inputs(10, seed=1), np.arange(10) % 3
    got, want = vqkit.evaluate(q, more, labels), vqkit.evaluate(p.model, more, labels)
    assert got.n == 10
    np.testing.assert_allclose(got.predictions, want.predictions, atol=1e-6)
    name = next(r.name for r in q.plan.quantized if not r.is_weight)
    few = [a[:3] for a in more]
    for a, b in zip(vqkit.tensor_values(q, few, [name])[name], vqkit.tensor_values(p, few, [name])[name], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_bench_gives_the_same_and_says_what_is_left_out() -> None:
    model, x, more = net(4), inputs(10), inputs(7, seed=1)
    data = vqkit.Data("d", x, more, np.arange(7) % 3)
    bench = vqkit.Bench(model, data)
    for calibration in ("float", "quantized"):
        q = vqkit.quantize(model, "fsx", x, calibration=calibration)
        line = "model 'functional' takes batches of 4: the last 2 of 10 samples fill none, left out"
        assert [r for r in q.report if "left out" in r] == [line.replace("functional", model.name)]
        other = bench.quantize("fsx", calibration=calibration)
        assert other.report == q.report
        alone, together = vqkit.evaluate(q.model, more, data.y_eval), bench.evaluate(other)
        assert len(together.predictions) == 7
        np.testing.assert_array_equal(alone.predictions, together.predictions)
        assert vqkit.sqnr(q, more).equals(bench.sqnr(other, more))
    assert len(bench.float_evaluation().predictions) == 7


def test_batches_of_other_sizes_are_cut_anew() -> None:
    model, x = net(4), inputs(12)
    parts = [[a[:5] for a in x], [a[5:6] for a in x], [a[6:] for a in x]]
    whole, cut = vqkit.quantize(model, "pof2s", x), vqkit.quantize(model, "pof2s", iter(parts))
    assert {k: v.to_json() for k, v in whole.encodings.items()} == {k: v.to_json() for k, v in cut.encodings.items()}


def test_fewer_samples_than_a_batch_are_refused() -> None:
    with pytest.raises(DataError, match="takes batches of exactly 4 samples, the data hold 3"):
        vqkit.quantize(net(4), "pof2s", inputs(3))


def test_two_sizes_are_refused() -> None:
    a, b = keras.Input((3,), batch_size=2), keras.Input((3,), batch_size=4)
    model = keras.Model([a, b], [L.Dense(2)(a), L.Dense(2)(b)])
    with pytest.raises(DataError, match=r"fixed batch sizes \[2, 4\]"):
        vqkit.quantize(model, "pof2s", [np.ones((4, 3), "float32")] * 2)


def test_training_with_quantization() -> None:
    x = keras.Input((6,), batch_size=4)
    y = keras.ops.reshape(L.Dense(5, activation="relu")(x), (4, 5))  # The size is built in.
    model = keras.Model(x, L.Dense(2, name="head")(y))
    images = R.normal(size=(11, 6)).astype("float32")
    student = vqkit.qat_model(model, "pof2s_tqt", images)
    data = DistillationData(model, images)
    assert len(data) == 2
    student.compile("adam", "mse")
    student.fit(data, shuffle=False, verbose=0)
    from vqkit.qat import deploy_model

    deployed = deploy_model(student)
    assert vqkit.evaluate(deployed.model, images, np.zeros(11, int)).n == 11


def test_a_stateful_layer_keeps_its_state_out_of_the_check(tmp_path: Path) -> None:
    x = keras.Input((5, 3), batch_size=2)
    model = keras.Model(x, L.Dense(2)(L.LSTM(3, stateful=True)(x)))
    images = R.normal(size=(4, 5, 3)).astype("float32")
    # Somewhere within a sequence, as after any call.
    model(images[:2])
    before = [np.array(v) for v in model.layers[1].states]
    quantized = vqkit.quantize(model, "fs", images)
    with pytest.raises(ModelError, match=r"'lstm.*' .LSTM. cannot be exported: it is stateful"):
        vqkit.export(quantized, tmp_path / "m.onnx")
    for a, b in zip(before, model.layers[1].states, strict=True):
        np.testing.assert_array_equal(a, b)
