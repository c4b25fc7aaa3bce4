"""Batch norm on the fly: it starts as the folded layer, follows the batch, freezes, is folded at the end."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from tests.support import zoo
from vqkit.errors import StrategyError
from vqkit.evaluation import predict
from vqkit.qat import QATAdam, deploy_model, qat_model
from vqkit.qat.batch_norm import FoldedBatchNorm
from vqkit.quantization import quantize
from vqkit.strategy import Strategy


def chosen(delay: int = -1, **kwargs: Any) -> Strategy:
    names = ("sigmoid", "shift_cut", "shift_bias", "shift_read")
    off = {f"adjust_dpu_{name}": False for name in names}
    return Strategy.builtin("pof2s_tqt").with_kwargs(train_with_bn=True, freeze_bn_delay=delay, **off, **kwargs)


@pytest.mark.parametrize("name", ["depthwise", "transposed"])
def test_it_starts_as_the_folded_layer(name):
    net = zoo.build(name)
    x = zoo.batch(net, 16)
    plain = quantize(net, chosen().with_kwargs(train_with_bn=False), x)
    model = qat_model(net, chosen(), x)
    assert any(isinstance(layer, FoldedBatchNorm) for layer in model.layers)
    last = [r for r in plain.plan.quantized if not r.is_weight][-1]
    step = float(plain.encodings[last.name].scale)
    np.testing.assert_allclose(predict(model, x), predict(plain.model, x), atol=2.01 * step)
    deployed = deploy_model(model)
    np.testing.assert_array_equal(predict(deployed.model, x), predict(model, x))
    kinds = {deployed.graph.kind(n) for n in deployed.graph.nodes}
    assert "BatchNormalization" not in kinds


def test_it_follows_the_batch_until_it_is_frozen_and_is_deployed_as_it_stands(tmp_path):
    net = zoo.build("conv_bn_relu")
    x, wide = zoo.batch(net, 16), 3 * zoo.batch(net, 16, seed=1)
    model = qat_model(net, chosen(2), x)
    norm = next(layer for layer in model.layers if isinstance(layer, FoldedBatchNorm))
    kept = norm.moving_variance.numpy()
    # On the batch it was measured on, batch statistics and moving ones are the same.
    np.testing.assert_allclose(norm(x, training=True), norm(x), atol=0.15)
    assert np.max(np.abs(np.asarray(norm(wide, training=True)) - np.asarray(norm(wide)))) > 0.3
    seen = np.array(norm.moving_variance.numpy())
    assert np.all(seen > kept)
    np.testing.assert_allclose(norm(wide, training=True), norm(wide), atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance.numpy(), seen, rtol=1e-6)
    model.compile(QATAdam(1e-3), "mse")
    before = norm.gamma.numpy().copy()
    model.fit(x, predict(net, x), batch_size=8, epochs=1, verbose=0)
    assert np.any(norm.gamma.numpy() != before)
    np.testing.assert_array_equal(predict(deploy_model(model).model, x), predict(model, x))
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(predict(again, x), predict(model, x))
    assert deploy_model(again).encodings == deploy_model(model).encodings


def test_it_needs_measured_statistics():
    with pytest.raises(StrategyError, match="train_with_bn: batch norm starts from measured statistics"):
        qat_model(zoo.build("conv_bn_relu"), chosen(), init_quant=False)
