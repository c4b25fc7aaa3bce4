"""Sensitivities are the numbers of quantize and evaluate, and are not sought twice."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.support import zoo
from vqkit.errors import DataError, RecordError
from vqkit.evaluation import evaluate
from vqkit.evaluation.noise import decibel
from vqkit.quantization import Data, quantize
from vqkit.quantization.prepare import prepare
from vqkit.search import Sensitivity, sensitivity
from vqkit.search.engine import OutputSums, kl
from vqkit.search.questions import questions, strategy_for, units
from vqkit.strategy import Strategy
from vqkit.sweeps.variant import Settings

SETTINGS = Settings(batch_size=8)


def data_for(model, n=40):
    x = zoo.batch(model, n)
    y = np.arange(n) % 3
    return Data("random", zoo.batch(model, 16, seed=1), x, y)


def one_by_one(model, data, base, question, settings=SETTINGS):
    """The answer as a user would get it."""
    made = quantize(model, strategy_for(base, question), data.x_calib, **settings.for_quantize)
    result = evaluate(made.model, data.x_eval, data.y_eval)
    reference = evaluate(model, data.x_eval, data.y_eval)
    tally = OutputSums()
    tally.add(result.predictions, reference.predictions, data.y_eval)
    assert tally.numbers()["accuracy"] == result.metrics["accuracy"]
    return tally.numbers()


@pytest.mark.parametrize(
    ("name", "base", "modes"),
    [
        ("residual", "fsx", ("only", "all_but")),
        ("fused_activations", "pof2s", ("only",)),
        ("depthwise", "pof2s_tqt", ("only",)),
    ],
)
def test_same_numbers_as_asking_one_by_one(tiny, name, base, modes):
    model, strategy = tiny(name), Strategy.builtin(base)
    data = data_for(model)
    found = sensitivity(model, data, strategy, bits=(3,), modes=modes, settings=SETTINGS)
    asked = questions(units(prepare(model, strategy)), (3,), ("weights", "activations", "both"), modes)
    assert [(r["layer"], r["kind"], r["bits"], r["mode"]) for r in found.rows] == [
        (q.unit.layer, q.kind, q.bits, q.mode) for q in asked
    ]
    for i in range(0, len(asked), 4):
        assert {k: found.rows[i][k] for k in ("accuracy", "sqnr_db", "kl")} == one_by_one(
            model, data, strategy, asked[i]
        )


@pytest.mark.parametrize("changes", [{"calibration": "float"}, {"vitis_compat": True}])
def test_values_are_observed_behind_the_weights_that_calibration_has(tiny, changes):
    """Float calibration has float ones, and so has the reference where a weight is decided by a histogram."""
    model, strategy = tiny("conv_bn_relu"), Strategy.builtin("fsx").with_kwargs(weight_method="MIN_KL")
    data, settings = data_for(model), Settings(batch_size=8, **changes)
    compat = settings.vitis_compat
    found = sensitivity(model, data, strategy, bits=(3,), kinds=("both",), settings=settings)
    asked = questions(units(prepare(model, strategy, vitis_compat=compat)), (3,), ("both",), ("only",))
    assert [q.unit.layer for q in asked] == [row["layer"] for row in found.rows]
    for row, question in zip(found.rows, asked, strict=True):
        answer = one_by_one(model, data, strategy, question, settings)
        assert {k: row[k] for k in answer} == answer


def test_a_mask_is_heard_of_behind_every_cut():
    layers = keras.layers
    ids = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(11, 8, mask_zero=True, name="words")(ids)
    x = layers.Dense(8, activation="relu", name="first")(x)
    x = layers.Dense(6, name="second")(x)
    model = keras.Model(ids, layers.Dense(3, name="head")(layers.GlobalAveragePooling1D(name="mean")(x)))
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 7, (56, 1))
    words = rng.integers(1, 11, (56, 6)).astype("int32") * (np.arange(6) < lengths)
    data = Data("padded", words[40:], words[:40], np.arange(40) % 3)
    strategy = Strategy.builtin("fsx")
    prepared = prepare(model, strategy)
    assert "mask" in prepared.graph.node("mean").kwargs
    asked = questions(units(prepared), (3,), ("both",), ("only",))
    assert [q.unit.layer for q in asked] == ["first", "second", "head"]
    found = sensitivity(model, data, strategy, bits=(3,), kinds=("both",), settings=SETTINGS)
    for row, question in zip(found.rows, asked, strict=True):
        answer = one_by_one(model, data, strategy, question)
        assert {k: row[k] for k in answer} == answer


def test_the_batches_do_not_count(tiny, monkeypatch):
    model, found = tiny("residual"), []
    for size in (16, 40):
        monkeypatch.setattr("vqkit.search.engine.EVAL_BATCH", size)
        found.append(sensitivity(model, data_for(model), "fsx", bits=(2,), settings=SETTINGS).table)
    in_parts, at_once = found
    assert in_parts["accuracy"].equals(at_once["accuracy"])
    for measure in ("sqnr_db", "kl"):
        # The sums are those of the batches, one after the other.
        np.testing.assert_allclose(in_parts[measure], at_once[measure], rtol=1e-6)
    assert in_parts["kl"].nunique() > 1


def test_how_many_batches_are_held_does_not_count(tiny, monkeypatch):
    model, found = tiny("residual"), []
    monkeypatch.setattr("vqkit.search.engine.EVAL_BATCH", 9)
    for kept in (1, 1 << 28):
        monkeypatch.setattr("vqkit.search.probe.KEPT", kept)
        found.append(sensitivity(model, data_for(model), "pof2s", bits=(3,), settings=SETTINGS).table)
    one_by_one, all_at_once = found
    assert one_by_one.equals(all_at_once)


def test_table_ranking_and_file(tiny, tmp_path):
    model = tiny("conv_bn_relu")
    found = sensitivity(model, data_for(model), "fsx", bits=(8, 2), kinds=("weights",), cache=tmp_path)
    assert tuple(found.table.columns) == ("layer", "kind", "bits", "mode", "accuracy", "sqnr_db", "kl")
    assert set(found.table["bits"]) == {8, 2}
    ranked = found.ranked("kl")
    assert list(ranked["kl"]) == sorted(ranked["kl"], reverse=True)
    assert set(ranked["bits"]) == {2}
    assert Sensitivity.from_json(found.to_json()).rows == found.rows
    with pytest.raises(RecordError, match="measure"):
        found.ranked("kll")
    assert "conv" in str(found)


def test_kept_answers_are_not_sought_again(tiny, tmp_path, monkeypatch):
    model = tiny("conv_bn_relu")
    first = sensitivity(model, data_for(model), "fsx", bits=(4,), kinds=("weights",), cache=tmp_path)
    (kept,) = tmp_path.glob("sensitivity/*.json")
    assert first.context == kept.stem

    def never(*_args, **_kwargs):
        raise AssertionError("asked again")

    monkeypatch.setattr("vqkit.search.probe.can_probe", never)
    again = sensitivity(model, data_for(model), "fsx", bits=(4,), kinds=("weights",), cache=tmp_path)
    assert again.rows == first.rows


def test_unknown_kinds_and_modes_are_errors(tiny):
    model = tiny("conv_bn_relu")
    for wrong in ({"kinds": ("weight",)}, {"modes": ("all",)}, {"bits": ()}, {"bits": (0,)}):
        with pytest.raises(DataError):
            sensitivity(model, data_for(model), "fsx", **wrong)


def test_kl_of_logits_and_of_probabilities():
    logits = np.array([[1.0, 2.0, 0.0]])
    p = np.exp(logits) / np.exp(logits).sum()
    other = np.array([[0.0, 2.5, 0.5]])
    q = np.exp(other) / np.exp(other).sum()
    by_hand = float(np.sum(p * np.log(p / q)))
    assert kl(logits, other)[0] == pytest.approx(by_hand, rel=1e-12)
    assert kl(p, q)[0] == pytest.approx(by_hand, rel=1e-12)
    assert kl(np.array([[0.25]]), np.array([[0.5]]))[0] == pytest.approx(0.25 * np.log(0.5) + 0.75 * np.log(1.5))
    assert decibel(1.0, 0.0) == float("inf")
