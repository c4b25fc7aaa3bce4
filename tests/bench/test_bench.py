"""A bench gives bit for bit what quantizing and evaluating anew gives; what variants share is done once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.support import zoo
from vqkit import digest
from vqkit.bench import Bench
from vqkit.bench.cache import Digests
from vqkit.errors import StrategyError
from vqkit.evaluation import evaluate
from vqkit.evaluation.noise import sqnr, tensor_values
from vqkit.files import DiskCache
from vqkit.quantization import Data, quantize
from vqkit.quantization.data import map_inputs
from vqkit.strategy import Strategy


def data_for(model, n_calib=12, n_eval=30):
    x = zoo.batch(model, n_calib + n_eval)
    first, rest = (map_inputs(lambda a, _, s=s: a[s], x) for s in (slice(n_calib), slice(n_calib, None)))
    labels = np.random.default_rng(1).integers(0, 3, n_eval)
    return Data("random", first, rest, labels)


def variants():
    pof2s, fsx, tqt = (Strategy.builtin(n) for n in ("pof2s", "fsx", "pof2s_tqt"))
    return {
        "pof2s": pof2s,
        "six bits": pof2s.with_kwargs(activation_bit=6, weight_bit=5),
        "min max": pof2s.with_kwargs(activation_method=0),
        "no equalization": pof2s.with_kwargs(include_cle=False),
        "tqt": tqt,
        "fsx": fsx,
        "fsx percentile": fsx.with_kwargs(activation_method=3),
        "fsx range": fsx.with_kwargs(activation_method=0, input_method=0),
        "fsx mse": fsx.with_kwargs(activation_method=1, input_method=1),
        "bias correction": pof2s.with_kwargs(include_bias_corr=True),
        "fine-tuned": pof2s.with_kwargs(include_fast_ft=True, fast_ft_epochs=1),
        "pof2s again": pof2s,
    }


def assert_same(bench, model, strategy, **settings):
    data = bench.data
    fresh = quantize(model, strategy, data.x_calib, batch_size=5, **settings)
    shared = bench.quantize(strategy, batch_size=5, **settings)
    assert {k: p.to_json() for k, p in shared.encodings.items()} == {k: p.to_json() for k, p in fresh.encodings.items()}
    assert shared.report == fresh.report
    want = evaluate(fresh.model, data.x_eval, data.y_eval)
    got = bench.evaluate(shared)
    np.testing.assert_array_equal(got.predictions, want.predictions)
    assert got.metrics == want.metrics
    few = map_inputs(lambda a, _: a[:7], data.x_eval)
    pd.testing.assert_frame_equal(bench.sqnr(shared, few), sqnr(fresh, few), check_exact=True)
    pd.testing.assert_frame_equal(bench.audit(shared), fresh.audit())
    names = [r.name for r in shared.plan.quantized]
    want_values, got_values = tensor_values(fresh, few, names), bench.tensor_values(shared, few, names)
    assert list(got_values) == list(want_values)
    for name, pair in want_values.items():
        np.testing.assert_array_equal(got_values[name], pair)
    return fresh, shared


@pytest.mark.parametrize("calibration", ["quantized", "float"])
def test_every_variant_is_what_quantizing_anew_gives(calibration):
    model = zoo.build("residual")
    bench = Bench(model, data_for(model))
    kept = {}
    for name, strategy in variants().items():
        kept[name] = assert_same(bench, model, strategy, calibration=calibration)
    for fresh, shared in kept.values():
        for a, b in zip(shared.model.weights, fresh.model.weights, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
        assert shared.audit()["ok"].all()
    assert set(bench.traces.values()) == {1}


def test_old_plans_make_room_for_new_ones(monkeypatch):
    monkeypatch.setattr("vqkit.bench.KEPT_PLANS", 2)
    model = zoo.build("residual")
    bench = Bench(model, data_for(model))
    asked = [Strategy.builtin("pof2s").with_kwargs(activation_bit=bits) for bits in (8, 7, 6)]
    for strategy in (*asked, asked[0]):
        assert_same(bench, model, strategy)
    assert [digest for digest, _ in bench._plans] == [asked[2].digest, asked[0].digest]


def partial(*names):
    pof2s = Strategy.builtin("pof2s")
    changes = ({}, {"activation_bit": 6})
    return [pof2s.with_kwargs(input_layers=[name], **more) for name in names for more in changes]


@pytest.mark.parametrize("calibration", ["quantized", "float"])
def test_partial_models_share_their_float_part(calibration):
    model = zoo.build("residual")
    bench = Bench(model, data_for(model))
    for strategy in partial("conv2", "pool"):
        assert_same(bench, model, strategy, calibration=calibration)
    kinds = [key[0] for key in bench._activations.kept]
    assert kinds.count("float part") == 6
    # Before each start, and before the first tensor that six bits change.
    assert kinds.count("calibration") == 4
    assert set(bench.traces.values()) == {1}
    small = Bench(model, bench.data, memory_limit=1000)
    assert_same(small, model, partial("conv2")[0], calibration=calibration)
    assert len(small._activations) == 0


def many_ways():
    """Methods, widths, scales and granularities over two prepared graphs."""
    pof2s, fsx, fs = (Strategy.builtin(name) for name in ("pof2s", "fsx", "fs"))
    found = [pof2s.with_kwargs(activation_method=m, activation_bit=b) for m in (0, 1, 2, 3) for b in (8, 6, 5, 4, 12)]
    found += [fsx.with_kwargs(activation_method=m, activation_bit=b) for m in (0, 1, 2, 3) for b in (8, 5)]
    found += [
        fs,
        pof2s.with_kwargs(activation_per_channel=True),
        pof2s.with_kwargs(activation_round_mode=0),
        pof2s.with_kwargs(activation_unsigned=True),
        Strategy.builtin("pof2s_tqt"),
    ]
    return found


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("name", ["residual", "depthwise"])
def test_one_pass_serves_all_methods_and_widths(name, compat):
    model = zoo.build(name)
    together, alone = Bench(model, data_for(model)), Bench(model, data_for(model))
    strategies = [s for s in many_ways() if fits(alone, s, compat)]
    assert len(strategies) > (8 if compat else 25)
    together.observe(strategies, vitis_compat=compat, batch_size=5)
    passes = together._facts.passes
    assert passes <= len(together._graphs)
    for strategy in strategies:
        one, other = (
            b.quantize(strategy, calibration="float", vitis_compat=compat, batch_size=5) for b in (together, alone)
        )
        assert {k: p.to_json() for k, p in one.encodings.items()} == {
            k: p.to_json() for k, p in other.encodings.items()
        }
    assert together._facts.passes == passes
    assert alone._facts.passes > 5


def fits(bench, strategy, compat):
    """Whether a strategy can be carried out; the reference refuses some."""
    try:
        bench.quantize(strategy, calibration="float", vitis_compat=compat, batch_size=5)
    except (StrategyError, ValueError):
        return False
    return True


def test_float_facts_are_observed_once_for_each_way():
    model = zoo.build("residual")
    bench = Bench(model, data_for(model))
    fsx = Strategy.builtin("fsx").with_kwargs(weight_bit=6)
    for strategy in ("fsx", fsx, fsx.with_kwargs(activation_method=3), fsx.with_kwargs(activation_method=1)):
        bench.quantize(strategy, calibration="float")
    assert bench._facts.passes == 1
    bench.quantize(Strategy.builtin("fsx").with_kwargs(include_cle=False), calibration="float")
    assert bench._facts.passes == 2


def test_equal_beginnings_are_calibrated_once():
    model = zoo.build("residual")
    bench = Bench(model, data_for(model))
    first = bench.quantize("pof2s", batch_size=5)
    seen = bench._facts.visits
    strategy = Strategy.builtin("pof2s").with_overrides(
        {"/quantize_registry_config/layer_config": {"head": {"activation_bit": 6}}}
    )
    assert_same(bench, model, strategy)
    assert seen == len(first.rows)
    assert bench._facts.visits == seen + 1


@pytest.mark.parametrize("name", ["two_inputs", "two_outputs", "shared_layer", "nested", "activations"])
def test_any_shape_of_model(name):
    model = zoo.build(name)
    bench = Bench(model, data_for(model))
    for strategy in ("pof2s", "fs"):
        fresh = quantize(model, strategy, bench.data.x_calib)
        want = evaluate(fresh.model, bench.data.x_eval, bench.data.y_eval, metrics=[])
        got = bench.evaluate(bench.quantize(strategy), metrics=[])
        compare(got.predictions, want.predictions)


def compare(got, want):
    import keras

    for a, b in zip(keras.tree.flatten(got), keras.tree.flatten(want), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["conv_bn_relu", "two_outputs"])
def test_float_outputs_come_from_disk_in_the_next_process(tmp_path, name):
    model = zoo.build(name)
    data = data_for(model)
    want = evaluate(model, data.x_eval, data.y_eval, metrics=[]).predictions
    compare(Bench(model, data, cache=tmp_path).float_evaluation(metrics=[]).predictions, want)
    (path,) = (tmp_path / "float").iterdir()
    kept = DiskCache(path.parent)
    kept.keep_arrays(path.name, {k: a + 1 for k, a in kept.arrays(path.name).items()})
    found = Bench(zoo.build(name), data, cache=tmp_path).float_evaluation(metrics=[]).predictions
    assert type(found) is type(want)
    compare(found, [a + 1 for a in want] if isinstance(want, list) else want + 1)


def test_another_model_has_other_outputs_on_disk(tmp_path):
    model = zoo.build("conv_bn_relu")
    data = data_for(model)
    first = Bench(model, data, cache=tmp_path).float_evaluation()
    model.get_layer("head").bias.assign_add([0.0, 0.0, 0.5])
    second = Bench(model, data, cache=tmp_path).float_evaluation()
    assert len(list((tmp_path / "float").iterdir())) == 2
    np.testing.assert_allclose(second.predictions - first.predictions, [[0, 0, 0.5]] * 30, atol=1e-6)
    assert second.metrics == evaluate(model, data.x_eval, data.y_eval).metrics


@pytest.mark.parametrize("way", ["in place", "other data"])
def test_changed_data_are_noticed(way):
    model = zoo.build("residual")
    bench = Bench(model, data_for(model))
    partial = Strategy.builtin("pof2s").with_kwargs(input_layers=[model.layers[-3].name])
    for strategy in ("pof2s", "fsx", partial):
        bench.evaluate(bench.quantize(strategy, batch_size=5))
    before = bench.float_evaluation(metrics=[]).predictions
    if way == "in place":
        bench.data.x_calib[:] *= 3
        bench.data.x_eval[:] *= 3
    else:
        old = bench.data
        bench.data = Data("other", old.x_calib * 3, old.x_eval * 3, old.y_eval)
    for strategy in ("pof2s", "fsx", partial):
        assert_same(bench, model, strategy)
    after = bench.float_evaluation(metrics=[]).predictions
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, evaluate(model, bench.data.x_eval, bench.data.y_eval).predictions)


def test_read_only_data_are_digested_once(monkeypatch):
    model = zoo.build("conv_bn_relu")
    data = data_for(model)
    for part in (data.x_calib, data.x_eval):
        part.flags.writeable = False
    bench, read = Bench(model, data), []
    real = digest.of_array
    monkeypatch.setattr(digest, "of_array", lambda a: read.append(a.shape) or real(a))
    for strategy in ("pof2s", "fsx"):
        assert bench.evaluate(bench.quantize(strategy, batch_size=5)).n == 30
        bench.float_evaluation()
    assert [shape[0] for shape in read if shape[1:] == data.x_eval.shape[1:]].count(30) == 1
    assert [shape[0] for shape in read if shape[1:] == data.x_calib.shape[1:]].count(12) == 1


def test_views_of_read_only_values_are_one_array(monkeypatch):
    values = np.arange(20.0, dtype=np.float32).reshape(10, 2)
    values.flags.writeable = False
    digests, read = Digests(), []
    real = digest.of_array
    monkeypatch.setattr(digest, "of_array", lambda a: read.append(a.shape) or real(a))
    assert digests.of(values[:4]) == digests.of(values[:4]) != digests.of(values[4:8])
    assert len(read) == 2
    free = values.copy()
    before = digests.of(free)
    free[0] = 7
    assert digests.of(free) != before
