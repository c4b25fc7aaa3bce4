"""A diagnosis names what was planted, leaves a net without fault alone, and writes a strategy that repairs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.search.test_commands import call
from tests.search.test_sensitivity import data_for
from vqkit import Data, diagnose, load_model
from vqkit.cli import Exit
from vqkit.cli.console import what_to_do
from vqkit.errors import RecordError
from vqkit.runs.store import Store
from vqkit.search.diagnosis import Kind
from vqkit.search.diagnosis.investigation import diagnose_run, divided
from vqkit.search.diagnosis.tensors import Alternative, explanation
from vqkit.search.engine import Engine
from vqkit.strategy import Strategy
from vqkit.sweeps.quickstart import quickstart_data


@pytest.fixture(scope="module")
def net(quickstart_model_path):
    return load_model(quickstart_model_path)


def test_a_net_without_fault_has_nothing_to_repair(net):
    found = diagnose(net, quickstart_data(), "int8")
    assert found.causes == ()
    assert (found.repairs, found.applied, found.interrupted) == ((), (), False)
    assert found.strategy == Strategy.builtin("int8")
    assert str(found).startswith("Nothing to repair: accuracy 9")


def test_the_layer_whose_bias_has_too_few_bits_is_named_and_repaired(net, tmp_path):
    told: list[str] = []
    strategy = Strategy.builtin("int8").with_name_rules({"block1_pw": {"bias_bit": 3}})
    found = diagnose(net, quickstart_data(), strategy, say=told.append)
    assert (found.cause.kind, found.cause.tensor, found.cause.everywhere) == (Kind.BITS, "block1_pw/bias", False)
    assert "the bias of block1_pw has 3 bits" in found.sentence
    assert found.cause.share > 0.5
    first = found.repairs[0]
    assert first.helps
    assert first.name == "block1_pw: biases 16 bits"
    assert found.after.value > found.before.value + 0.1
    assert "each tensor alone" in told
    paths = found.save(tmp_path / "here")
    assert [p.name for p in paths] == ["strategy.json", "diagnosis.png", "diagnosis.json"]
    assert Strategy.load(paths[0]) == found.strategy
    written = json.loads(paths[2].read_text("utf-8"))
    assert written["causes"][0]["tensor"] == "block1_pw/bias"
    assert written["repairs"][0]["gain"] == pytest.approx(first.measured.value - found.before.value)
    # What is written is what was measured.
    judged, _ = divided(quickstart_data(), 500, 0)
    assert Engine(net, judged).measure(Strategy.load(paths[0])).value == found.after.value


def test_calibration_samples_of_another_kind_are_named_and_no_strategy_is_changed(net):
    data = quickstart_data()
    dark = replace(data, x_calib=data.x_calib / 20, digest="")
    found = diagnose(net, dark, "int8")
    assert found.cause.kind is Kind.CALIBRATION
    assert found.cause.kind.of_data
    assert found.samples.apart
    assert found.after.value > found.before.value + 0.5
    assert found.applied == ()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda d: {"x_eval": 2 * d.x_eval - 1}, Kind.EVALUATION),
        (lambda d: {"y_eval": np.roll(d.y_eval, 1)}, Kind.LABELS),
    ],
)
def test_what_the_float_model_fails_on_is_the_evaluation_samples_fault(net, change, kind):
    data = quickstart_data()
    found = diagnose(net, replace(data, digest="", **change(data)), "int8")
    assert [c.kind for c in found.causes] == [kind]
    assert found.repairs == ()


@pytest.mark.slow
def test_without_labels_the_tensor_is_found_by_noise(net):
    strategy = Strategy.builtin("int8").with_name_rules({"head": {"weight_bit": 2}})
    found = diagnose(net, replace(quickstart_data(), y_eval=None, digest=""), strategy)
    assert (found.cause.kind, found.cause.tensor) == (Kind.BITS, "head/kernel")
    assert found.after.value > found.before.value


@pytest.mark.slow
def test_interrupted_it_says_what_is_known(net, monkeypatch):
    asked = []

    def measure(self, strategy):
        asked.append(strategy)
        if len(asked) > 4:
            raise KeyboardInterrupt
        return original(self, strategy)

    original = Engine.measure
    monkeypatch.setattr(Engine, "measure", measure)
    found = diagnose(net, quickstart_data(), Strategy.builtin("int8").with_name_rules({"block1_pw": {"bias_bit": 3}}))
    assert found.interrupted
    assert found.cause.tensor == "block1_pw/bias"
    assert "Interrupted" in str(found)


def test_a_change_without_more_bits_explains_if_it_is_worth_a_bit():
    method = Alternative("MIN_MSE", None, {}, None)
    spread = Alternative("per channel", Kind.SPREAD, {}, None)
    wider = Alternative("8 bits", Kind.BITS, {}, None, wider=True)
    assert explanation(1.0, {method: 0.2, spread: 0.01, wider: 0.001}) is spread
    assert explanation(1.0, {method: 0.2, spread: 0.15, wider: 0.001}) is method
    assert explanation(1.0, {method: 0.3, spread: 0.9, wider: 0.001}) is wider
    assert explanation(1.0, {method: 0.3, spread: 0.01, wider: 0.001}, narrow=True) is wider
    assert explanation(1.0, {method: 0.9, wider: 0.8}) is None


def test_samples_that_are_judged_by_do_not_calibrate():
    x = np.arange(90, dtype="float32")[:, None]
    judged, spare = divided(Data("numbers", x[:40], x, np.arange(90)), 50, 0)
    assert len(judged.x_eval) == 50
    assert len(spare) == 40
    assert set(judged.x_eval[:, 0]).isdisjoint(spare[:, 0])
    assert np.array_equal(judged.x_eval[:, 0], judged.y_eval)
    assert divided(Data("few", x[:2], x[:2], np.arange(2)), 50, 0)[1] is None


@pytest.mark.slow
def test_a_bad_run_says_what_to_do_and_the_command_does_it(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = ("quickstart", 'layer_config={"block1_pw": {"bias_bit": 3}}', "-s", "int8", "--no-track", "--warm")
    assert call(monkeypatch, "run", *args, "--runs", "here") == Exit.OK
    last = capsys.readouterr().out.strip().splitlines()[-1]
    (record,) = Store.at("here").records()
    assert f"vqkit diagnose {record.key} --runs here" in last
    assert last == what_to_do(record, Path("here"))
    fine = replace(record, metrics={**record.metrics, "accuracy": record.metrics["float_accuracy"]})
    assert what_to_do(fine, Path("runs")) == what_to_do(None, Path("runs")) == ""
    assert call(monkeypatch, "diagnose", record.key, "--runs", "here", "--images", "200") == Exit.OK
    out = capsys.readouterr().out
    assert "the bias of block1_pw has 3 bits" in out
    assert Path("here", "diagnosed", record.key, "strategy.json").is_file()


def test_what_is_no_finished_run_is_refused(tmp_path):
    with pytest.raises(RecordError):
        diagnose_run("nothing", tmp_path)


def test_a_regression_without_fault(tiny):
    model = tiny("conv_bn_relu")
    data = data_for(model, 60)
    answers = model.predict(data.x_eval, verbose=0)
    noise = np.random.default_rng(0).normal(0, 0.3 * answers.std(axis=0), answers.shape)
    found = diagnose(model, replace(data, y_eval=(answers + noise).astype("float32"), digest=""), "int16x8")
    assert (found.before.measure.name, found.causes) == ("mae", ())
