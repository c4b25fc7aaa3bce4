"""The table of thresholds: by step, from before training to its end, going on where training goes on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.support import zoo
from vqkit.errors import ModelError
from vqkit.evaluation import predict
from vqkit.qat import QATAdam, ThresholdLog, qat_model


def test_thresholds_are_logged_by_step_and_training_goes_on_in_the_same_count(tmp_path):
    net = zoo.build("conv_bn_relu")
    x = zoo.batch(net, 20)
    model = qat_model(net, "pof2s_tqt", x)
    start = {k: float(q.log2_threshold) for k, q in model.quantizers.items()}
    model.compile(QATAdam(1e-3), "mse")
    log = ThresholdLog(every=2)
    y = predict(net, x)
    model.fit(x, y, batch_size=4, epochs=1, verbose=0, callbacks=[log])
    table = log.to_frame()
    assert list(table.columns) == ["step", "tensor", "log2_threshold", "position"]
    assert sorted(table.step.unique()) == [0, 2, 4, 5]
    first, last = (table[table.step == s].set_index("tensor") for s in (0, 5))
    assert first.log2_threshold.to_dict() == start
    assert last.log2_threshold.to_dict() == {k: float(q.log2_threshold) for k, q in model.quantizers.items()}
    assert last.position.to_dict() == {k: float(q.position) for k, q in model.quantizers.items()}
    np.testing.assert_array_equal(first.position, 7 - np.ceil(first.log2_threshold.astype(np.float32)))
    model.fit(x, y, batch_size=4, epochs=1, verbose=0, callbacks=[log])
    assert sorted(log.to_frame().step.unique()) == [0, 2, 4, 5, 6, 8, 10]
    log.to_csv(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "t.csv"), log.to_frame())
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_only_a_trainable_model_has_thresholds():
    net = zoo.build("conv_bn_relu")
    net.compile("sgd", "mse")
    x = zoo.batch(net, 4)
    with pytest.raises(ModelError, match="'conv_bn_relu' is no model from qat_model"):
        net.fit(x, predict(net, x), verbose=0, callbacks=[ThresholdLog()])
    with pytest.raises(ModelError, match="every must be at least 1, got 0"):
        ThresholdLog(0)
