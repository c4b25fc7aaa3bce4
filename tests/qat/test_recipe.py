"""What helps training on few images: features, changed images, steps that fit a variable, a warm start."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from tests.support import zoo
from vqkit.errors import DataError, ModelError
from vqkit.evaluation import predict
from vqkit.qat import (
    Distillation,
    DistillationData,
    QATAdam,
    RelativeError,
    ThresholdLog,
    deploy_model,
    flips_and_shifts,
    qat_model,
    warm_cosine,
    with_features,
)
from vqkit.quantization import Data
from vqkit.strategy import Strategy
from vqkit.sweeps.qat import quantized_by
from vqkit.sweeps.variant import Settings

FOUR = Strategy.builtin("pof2s_tqt").with_kwargs(weight_bit=4)


def test_features_teach_the_model_that_they_were_taken_from():
    net = zoo.build("conv_bn_relu")
    x = zoo.batch(net, 16)
    model = qat_model(net, FOUR, x)
    names = [next(n.name for n in net.layers if isinstance(n, keras.layers.ReLU))]
    teacher, student = with_features(net, names), with_features(model, names)
    wanted, given = predict(teacher, x), predict(student, x)
    np.testing.assert_array_equal(wanted[0], predict(net, x))
    first = float(RelativeError()(wanted[1], given[1]))
    assert first == pytest.approx(np.mean((given[1] - wanted[1]) ** 2) / np.mean(wanted[1] ** 2), rel=1e-5)
    first += float(Distillation()(wanted[0], given[0]))
    student.compile(QATAdam(warm_cosine(2e-2, 40, 5), 1.0, relative=True), [Distillation(), RelativeError()])
    log = ThresholdLog(20, model)
    data = DistillationData(teacher, x, batch_size=16)
    student.fit(data, epochs=40, shuffle=False, verbose=0, callbacks=[log])
    given = predict(student, x)
    assert float(RelativeError()(wanted[1], given[1]) + Distillation()(wanted[0], given[0])) < first
    assert sorted(log.to_frame().step.unique()) == [0, 20, 40]
    np.testing.assert_array_equal(predict(deploy_model(model).model, x), predict(student, x)[0])
    changed, answers = DistillationData(teacher, x, augment=flips_and_shifts(1))[0]
    for a, b in zip(answers, predict(teacher, changed), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_features_are_layers_that_are_there_and_called_once():
    net = zoo.build("conv_bn_relu")
    with pytest.raises(ModelError, match="did you mean"):
        with_features(net, [net.layers[1].name + "x"])
    layer = keras.layers.Dense(3, name="twice")
    i = keras.Input((3,))
    with pytest.raises(ModelError, match="called 2 times"):
        with_features(keras.Model(i, layer(layer(i))), ["twice"])
    conv, norm = (
        next(n.name for n in net.layers if isinstance(n, kind))
        for kind in (keras.layers.Conv2D, keras.layers.BatchNormalization)
    )
    x = zoo.batch(net, 4)
    model = qat_model(net, FOUR.with_kwargs(include_cle=False), x)
    with pytest.raises(ModelError, match=f"'{conv}' was merged with '{norm}'; name that one"):
        with_features(model, [conv])
    wanted, given = (predict(with_features(m, [norm]), x)[1] for m in (net, model))
    assert float(RelativeError()(wanted, given)) < 0.1
    with pytest.raises(ModelError, match="2 outputs"):
        with_features(zoo.build("two_outputs"), [])


def test_images_are_mirrored_and_moved_and_nothing_else():
    x = np.arange(2 * 6 * 7 * 1, dtype=np.float32).reshape(2, 6, 7, 1)
    seen = set()
    for seed in range(40):
        changed = flips_and_shifts(1)(x, np.random.default_rng(seed))
        wide = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
        for image, padded in zip(changed, wide, strict=True):
            views = {
                (t, k, m): padded[t : t + 6, k : k + 7][:, :: -1 if m else 1]
                for t in range(3)
                for k in range(3)
                for m in (0, 1)
            }
            same = [key for key, view in views.items() if np.array_equal(view, image)]
            assert same
            seen.add(same[0])
    assert len(seen) == 18
    np.testing.assert_array_equal(flips_and_shifts(0, flip=False)(x, np.random.default_rng(0)), x)
    with pytest.raises(DataError, match="more than 6 pixels, got shape"):
        flips_and_shifts(6)(x, np.random.default_rng(0))
    with pytest.raises(DataError, match="0 or more, got -1"):
        flips_and_shifts(-1)


def test_relative_steps_are_shares_of_the_variable():
    """Adam's first step is the rate, whatever the gradient."""
    values = {"big": np.full(4, 50.0), "small": np.full(4, 0.02), "zero": np.zeros(4)}
    variables = [keras.Variable(v.astype("float32"), name=k) for k, v in values.items()]
    variables.append(keras.Variable(np.full(4, 50.0, "float32"), name="log_threshold"))
    optimizer = QATAdam(1e-3, 5.0, relative=True)
    optimizer.apply(list(np.ones((4, 4), np.float32)), variables)
    moved = [float(np.max(np.abs(v.numpy() - s))) for v, s in zip(variables, [50, 0.02, 0, 50], strict=True)]
    np.testing.assert_allclose(moved, [0.05, 2e-5, 1e-6, 5e-3], rtol=1e-2)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.relative


def test_the_rate_rises_and_falls():
    rate = [float(warm_cosine(2.0, 100, 10)(s)) for s in (0, 5, 10, 55, 100)]
    np.testing.assert_allclose(rate, [0, 1, 2, 1, 0], atol=1e-6)
    np.testing.assert_allclose([float(warm_cosine(2.0, 100)(s)) for s in (0, 50)], [2, 1], atol=1e-6)
    with pytest.raises(DataError, match="got 100"):
        warm_cosine(1.0, 100, 100)


def test_a_fused_activation_belongs_to_its_layer():
    i = keras.Input((6, 6, 2))
    y = keras.layers.Conv2D(3, 3, activation="relu", name="conv")(i)
    net = keras.Model(i, keras.layers.Dense(2)(keras.layers.Flatten()(y)))
    x = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype("float32")
    wanted, given = (predict(with_features(m, ["conv"]), x)[1] for m in (net, qat_model(net, "pof2s_tqt", x)))
    assert given.min() == 0
    assert float(RelativeError()(wanted, given)) < 0.01


def test_a_sweep_can_say_all_of_it():
    net = zoo.build("conv_bn_relu")
    x = zoo.batch(net, 12)
    said: dict[str, Any] = {
        "epochs": 2,
        "learning_rate": 1e-2,
        "threshold_factor": 1.0,
        "batch_size": 6,
        "relative": True,
        "features": [next(n.name for n in net.layers if isinstance(n, keras.layers.ReLU))],
        "shifts": 1,
        "flips": True,
        "warmup": 1,
    }
    data = Data("few", x, x, np.zeros(12, int))
    kernels = []
    for given in (said, said, {**said, "shifts": 0}):
        made = quantized_by(Settings(qat=given), net, FOUR, data)
        kernels.append(made.corrected.layers["conv"].weights["kernel"])
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.any(kernels[0] != kernels[2])
