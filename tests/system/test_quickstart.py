"""The embedded default: a net that learns, data that do not leak, a sweep of the promised width."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vqkit.sweeps import quickstart
from vqkit.sweeps.spec import Sweep


def test_the_splits_are_fixed_and_disjoint() -> None:
    data = quickstart.quickstart_data()
    assert (data.n_calib, data.n_eval) == (200, 597)
    assert data.digest == quickstart.quickstart_data().digest
    x, _ = quickstart._digits()
    np.testing.assert_array_equal(data.x_calib, x[: quickstart.N_CALIB])
    np.testing.assert_array_equal(data.x_eval, x[quickstart.N_TRAIN :])
    assert Counter(data.y_eval.tolist()).keys() == set(range(10))


def test_the_sweep_has_the_promised_axes() -> None:
    points = Sweep.from_dict(quickstart.quickstart_sweep()).points()
    assert len(points) == 32
    assert len({p["name"] for p in points}) == 32
    assert max(len(p["name"]) for p in points) <= 42, "the leaderboard cuts longer names"
    assert {p["strategy"] for p in points} == {"pof2s", "pof2s_tqt", "fs", "fsx"}
    assert {p["weight_bit"] for p in points} == {8, 6, 4, 3}
    assert {p["weight_per_channel"] for p in points} == {False, True}
    assert len({str(p.get("input_layers")) for p in points}) == 3
    default_cover = {(p["strategy"], p["weight_bit"]) for p in points if "input_layers" not in p}
    assert len(default_cover) == 16


def test_the_net_learns_the_digits(quickstart_model_path: Path) -> None:
    import keras

    model = keras.saving.load_model(quickstart_model_path)
    data = quickstart.quickstart_data()
    predicted = model.predict(data.x_eval, verbose=0).argmax(-1)
    assert np.mean(predicted == data.y_eval) >= 0.97
    kinds = Counter(type(layer).__name__ for layer in model.layers)
    assert kinds["DepthwiseConv2D"] >= 1
    assert kinds["BatchNormalization"] >= 1
    assert kinds["Add"] == 1
    assert {"stem", "block1_dw", "block2_add", "head"} <= {layer.name for layer in model.layers}


def test_the_start_layers_exist(quickstart_model_path: Path) -> None:
    import keras

    names = {layer.name for layer in keras.saving.load_model(quickstart_model_path).layers}
    points = quickstart.quickstart_sweep()["variants"]
    starts = {name for p in points for name in p.get("input_layers", [])}
    assert len(starts) == 2
    assert starts <= names


def test_a_trained_net_is_kept_and_a_new_recipe_gets_a_new_file(
    quickstart_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = quickstart_model_path.parent
    before = quickstart_model_path.stat().st_mtime_ns
    assert quickstart.quickstart_model(cache) == quickstart_model_path
    assert quickstart_model_path.stat().st_mtime_ns == before
    monkeypatch.setattr(quickstart, "version", lambda _: "another")
    assert f"quickstart-{quickstart._recipe_digest()}.keras" != quickstart_model_path.name
    assert [p for p in cache.iterdir() if p.suffix != ".keras"] == [], "scratch was left behind"


def test_channel_gains_are_spread_so_that_one_scale_per_tensor_hurts(quickstart_model_path: Path) -> None:
    import keras

    model = keras.saving.load_model(quickstart_model_path)
    norm = model.get_layer("block1_dw_bn")
    kernel = np.abs(model.get_layer("block1_dw").get_weights()[0]).max((0, 1, 3))
    folded = kernel * np.abs(norm.gamma) / np.sqrt(norm.moving_variance + norm.epsilon)
    assert folded.max() / np.median(folded) > 4
