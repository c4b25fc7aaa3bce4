"""A trainable model: it starts as the quantized one, learns, survives its files, and is deployed as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.support import zoo
from vqkit.errors import DataError, ModelError
from vqkit.evaluation import predict
from vqkit.primitives.spec import QuantizerType
from vqkit.qat import Distillation, DistillationData, QATAdam, QATModel, deploy_model, qat_model
from vqkit.quantization import quantize
from vqkit.strategy import Strategy

NO_ADJUSTMENT = dict.fromkeys(
    ("adjust_dpu_sigmoid", "adjust_dpu_shift_cut", "adjust_dpu_shift_bias", "adjust_dpu_shift_read"), False
)


def chosen(name: str, **kwargs: Any) -> Strategy:
    plain = NO_ADJUSTMENT if name.startswith("pof2s") else {}
    return Strategy.builtin(name).with_kwargs(**plain, **kwargs)


def flat(model: Any, x: Any) -> list[np.ndarray]:
    return keras.tree.flatten(predict(model, x))


def assert_same_outputs(a: Any, b: Any, x: Any) -> None:
    for one, other in zip(flat(a, x), flat(b, x), strict=True):
        np.testing.assert_array_equal(one, other)


def rows(plan: Any) -> list[str]:
    return sorted(str(r.to_json()) for r in plan.rows)


def trained(model: QATModel, teacher: keras.Model, x: np.ndarray, *, first: int = 0, epochs: int = 2) -> QATModel:
    if not model.compiled:
        model.compile(QATAdam(1e-3), Distillation())
    data = DistillationData(teacher, x, batch_size=8, first_epoch=first)
    model.fit(data, initial_epoch=first, epochs=epochs, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize(
    ("name", "strategy"),
    [*((name, "pof2s_tqt") for name in zoo.NAMES), ("residual", "fsx"), ("concat", "fs")],
)
def test_untrained_it_is_the_quantized_model_before_and_after_deployment(name, strategy):
    net = zoo.build(name)
    x = zoo.batch(net, 8)
    kept = [np.array(w) for w in net.get_weights()]
    plain = quantize(net, chosen(strategy, weight_bit=5), x)
    model = qat_model(net, chosen(strategy, weight_bit=5), x)
    assert_same_outputs(model, plain.model, x)
    deployed = deploy_model(model)
    assert_same_outputs(deployed.model, plain.model, x)
    assert deployed.encodings == plain.encodings
    assert rows(deployed.plan) == rows(plain.plan)
    assert set(model.quantizers) == {r.name for r in plain.plan.quantized}
    for before, after in zip(kept, net.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("strategy", ["pof2s_tqt", "pof2s", "fsx"])
def test_it_learns_and_what_was_learned_is_what_is_deployed(strategy, tmp_path):
    net = zoo.build("conv_bn_relu")
    x = zoo.batch(net, 24)
    # Ranges that clip too much leave something to learn; those of MIN_KL 24 samples cannot better.
    narrow = {"activation_method": "PERCENTILE", "activation_method_percentile": 70.0}
    more = {"pof2s_tqt": {"weight_per_channel": True}, "fsx": narrow}
    given = chosen(strategy, weight_bit=4, activation_bit=4, **more.get(strategy, {}))
    model = qat_model(net, given, x)
    before = {k: q.params for k, q in model.quantizers.items()}
    loss = Distillation()
    first = float(loss(predict(net, x), predict(model, x)))
    trained(model, net, x, epochs=8)
    assert float(loss(predict(net, x), predict(model, x))) < first
    deployed = deploy_model(model)
    assert_same_outputs(deployed.model, model, x)
    assert deployed.audit()["ok"].all()
    if strategy == "pof2s_tqt":
        assert any(before[k].pos.tobytes() != e.pos.tobytes() for k, e in deployed.encodings.items())
        assert {e.spec.quantizer_type for e in deployed.encodings.values()} == {QuantizerType.POF2S}
    if strategy == "pof2s":
        assert {k: e.pos for k, e in before.items()} == {k: e.pos for k, e in deployed.encodings.items()}
    if strategy == "fsx":
        assert any(before[k].f_max.tobytes() != e.f_max.tobytes() for k, e in deployed.encodings.items())

    path = tmp_path / "trained.keras"
    model.save(path)
    again = keras.saving.load_model(path)
    assert_same_outputs(again, model, x)
    assert deploy_model(again).encodings == deployed.encodings
    assert rows(deploy_model(again).plan) == rows(deployed.plan)


def test_training_can_be_cut_in_two_and_gives_the_same(tmp_path):
    """Through a .keras file, and through a .weights.h5 file into a model that was made anew."""
    net = zoo.build("conv_bn_relu")
    x = zoo.batch(net, 16)

    def start() -> QATModel:
        model = qat_model(net, chosen("pof2s_tqt", weight_bit=4), x)
        model.compile(QATAdam(1e-2), Distillation())
        return model

    whole = trained(start(), net, x, epochs=4).get_weights()
    half = trained(start(), net, x, epochs=2)
    file, weights = tmp_path / "half.keras", tmp_path / "half.weights.h5"
    half.save(file)
    half.save_weights(weights)
    resumed = trained(keras.saving.load_model(file), net, x, first=2, epochs=4)
    fresh = start()
    fresh.optimizer.build(fresh.trainable_variables)
    fresh.load_weights(weights)
    fresh = trained(fresh, net, x, first=2, epochs=4)
    for other in (resumed.get_weights(), fresh.get_weights()):
        for a, b in zip(whole, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_mixed_precision_model_trains_in_it_with_its_quantizers_in_float32(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        net = zoo.build("conv_bn_relu")
    finally:
        keras.config.set_dtype_policy(before)
    x = zoo.batch(net, 16)
    model = qat_model(net, chosen("pof2s_tqt"), x)
    assert model.get_layer("conv").layer.compute_dtype == "bfloat16"
    assert {q.compute_dtype for q in model.quantizers.values()} == {"float32"}
    trained(model, net, x, epochs=1)
    assert_same_outputs(deploy_model(model).model, model, x)
    assert deploy_model(model).audit()["ok"].all()
    model.save(tmp_path / "m.keras")
    assert_same_outputs(keras.saving.load_model(tmp_path / "m.keras"), model, x)


def test_half_precision_trains_with_a_scaled_loss():
    """float16 gradients are below its smallest number without the scale."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        net = zoo.build("conv_bn_relu")
    finally:
        keras.config.set_dtype_policy(before)
    x = zoo.batch(net, 16)
    model = qat_model(net, chosen("pof2s_tqt", weight_bit=4), x)
    assert model.get_layer("conv").layer.compute_dtype == "float16"
    model.compile(keras.optimizers.LossScaleOptimizer(QATAdam(1e-2), initial_scale=1024.0), Distillation())
    kernel = np.array(model.get_layer("conv").layer.kernel)
    thresholds = [np.array(q.log_threshold) for q in model.quantizers.values()]
    trained(model, net, x, epochs=2)
    assert np.any(np.array(model.get_layer("conv").layer.kernel) != kernel)
    pairs = zip(thresholds, model.quantizers.values(), strict=True)
    assert any(np.any(a != np.array(q.log_threshold)) for a, q in pairs)
    assert all(np.all(np.isfinite(w)) for w in model.get_weights())
    assert_same_outputs(deploy_model(model).model, model, x)


def test_training_that_was_killed_goes_on_from_its_backup(tmp_path):
    """Keras' `BackupAndRestore`: the epoch that was under way is run again, from its beginning."""
    net = zoo.build("conv_bn_relu")
    x = zoo.batch(net, 16)

    def run(*callbacks: Any, first: int = 0) -> QATModel:
        model = qat_model(net, chosen("pof2s_tqt", weight_bit=4), x)
        model.compile(QATAdam(1e-2), Distillation())
        data = DistillationData(net, x, batch_size=8, first_epoch=first)
        model.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=list(callbacks))
        return model

    class Killed(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            del batch, logs
            if self.model.optimizer.iterations == 5:
                raise KeyboardInterrupt

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        run(backup, Killed())
    resumed = run(keras.callbacks.BackupAndRestore(tmp_path / "backup"), first=2)
    for a, b in zip(run().get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_calibration_ranges_come_from_training():
    net = zoo.build("conv_bn_relu")
    x = zoo.batch(net, 16)
    model = qat_model(net, "pof2s_tqt", init_quant=False)
    with pytest.raises(ModelError, match="quant_image/input has no range yet"):
        deploy_model(model)
    trained(model, net, x, epochs=1)
    assert_same_outputs(deploy_model(model).model, model, x)
    with pytest.raises(DataError, match="needs calib_data"):
        qat_model(net, "pof2s_tqt")


def test_only_a_trainable_model_is_deployed():
    with pytest.raises(ModelError, match="expected a model from qat_model, got Functional"):
        deploy_model(zoo.build("residual"))


def test_it_starts_from_what_the_refine_pipeline_made_of_the_weights():
    net = zoo.build("residual")
    x = zoo.batch(net, 16)
    strategy = chosen("pof2s_tqt", weight_bit=4, include_fast_ft=True, fast_ft_epochs=2)
    assert_same_outputs(qat_model(net, strategy, x), quantize(net, strategy, x).model, x)


def test_thresholds_have_a_rate_of_their_own():
    """Adam's first step is the learning rate, whatever the gradient."""
    net = zoo.build("conv_bn_relu")
    x = zoo.batch(net, 8)
    moved = {}
    for factor in (50.0, 0.0):
        model = qat_model(net, chosen("pof2s_tqt", weight_bit=3), x)
        before = {v.path: np.array(v.numpy()) for v in model.trainable_variables}
        model.compile(QATAdam(1e-3, threshold_factor=factor), "mse")
        model.fit(x, predict(net, x), batch_size=8, epochs=1, verbose=0)
        step = {v.path: np.max(np.abs(v.numpy() - before[v.path])) for v in model.trainable_variables}
        moved[factor] = {
            name: max(s for p, s in step.items() if p.endswith(name)) for name in ("kernel", "log_threshold")
        }
    np.testing.assert_allclose(moved[50.0]["log_threshold"], 0.05, rtol=1e-2)
    np.testing.assert_allclose([m["kernel"] for m in moved.values()], 1e-3, rtol=1e-2)
    assert moved[0.0]["log_threshold"] == 0
    again = keras.optimizers.deserialize(keras.optimizers.serialize(QATAdam(1e-3, threshold_factor=7)))
    assert (again.threshold_factor, float(again.learning_rate)) == (7.0, np.float32(1e-3))


def test_distillation_is_the_divergence_from_the_teacher_in_logits_and_in_probabilities():
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(2, 6, 5)).astype(np.float32)
    p, q = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (teacher, student))
    wanted = np.mean(np.sum(p * np.log(p / q), axis=-1))
    np.testing.assert_allclose(Distillation()(teacher, student), wanted, rtol=1e-5)
    np.testing.assert_allclose(Distillation(from_logits=False)(p, q), wanted, rtol=1e-5)
    assert float(Distillation(temperature=3.0)(teacher, teacher)) == 0
    hot = [z / 3 for z in (teacher, student)]
    np.testing.assert_allclose(Distillation(temperature=3.0)(teacher, student), 9 * Distillation()(*hot), rtol=1e-5)
    with pytest.raises(DataError, match="temperature must be above 0, got 0"):
        Distillation(temperature=0)


def epoch(data: DistillationData) -> tuple[np.ndarray, np.ndarray]:
    parts = [data[i] for i in range(len(data))]
    data.on_epoch_end()
    return np.concatenate([x for x, _ in parts]), np.concatenate([np.asarray(y) for _, y in parts])


def test_distillation_data_answer_for_each_input_and_come_in_an_order_of_the_epoch():
    net = zoo.build("conv_bn_relu")
    x = zoo.batch(net, 10)
    plain = DistillationData(net, x, batch_size=4, shuffle=False)
    assert [len(plain[i][0]) for i in range(len(plain))] == [4, 4, 2]
    for given, wanted in zip(epoch(plain), (x, predict(net, x)), strict=True):
        np.testing.assert_array_equal(given, wanted)
    data = DistillationData(net, x, batch_size=4, seed=3)
    first, second = epoch(data)[0], epoch(data)[0]
    assert np.any(first != second)
    np.testing.assert_array_equal(np.sort(first, axis=0), np.sort(x, axis=0))
    later = DistillationData(net, x, batch_size=4, seed=3, first_epoch=1)
    np.testing.assert_array_equal(epoch(later)[0], second)


def test_changed_inputs_get_new_answers():
    net = zoo.build("conv_bn_relu")
    x = zoo.batch(net, 10)

    def shift(batch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return batch + rng.normal(size=(len(batch), 1, 1, 1)).astype(np.float32)

    data = DistillationData(net, x, batch_size=5, shuffle=False, augment=shift)
    changed, answers = epoch(data)
    assert np.all(changed != x)
    np.testing.assert_allclose(answers, predict(net, changed), atol=1e-6)
    again = DistillationData(net, x, batch_size=5, shuffle=False, augment=shift)
    np.testing.assert_array_equal(epoch(again)[0], changed)
    assert np.any(epoch(again)[0] != changed)


def test_a_model_trained_in_one_process_is_read_in_another(tmp_path: Path):
    import subprocess
    import sys

    net = zoo.build("conv_bn_relu")
    x = zoo.batch(net, 8)
    model = qat_model(net, chosen("pof2s_tqt"), x)
    model.save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", x)
    code = (
        "import numpy as np, keras, vqkit.qat, sys; from vqkit.qat import deploy_model\n"
        f"m = keras.saving.load_model({str(tmp_path / 'm.keras')!r})\n"
        f"x = np.load({str(tmp_path / 'x.npy')!r})\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, deploy_model(m).model(x))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), deploy_model(model).model(x))
