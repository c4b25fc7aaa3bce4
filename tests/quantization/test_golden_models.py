"""Every recorded run of the reference on whole models; what it completes matches, what it fails works."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import golden
from benchmarks.golden_parts import ir
from benchmarks.golden_parts.models import check_model, check_run, read
from vqkit.errors import ModelError

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FILES = sorted(GOLDEN.glob("model_*.json"))
RUNS = [(f.stem, name) for f in FILES for name in json.loads(f.read_text())["runs"]]


@pytest.fixture(scope="module")
def recorded():
    """Model name -> (recording, Keras model), read once."""
    cache = {}

    def get(stem):
        if stem not in cache:
            found = read(GOLDEN / f"{stem}.json")
            cache[stem] = found, ir.build(found.ir, found.arrays)
        return cache[stem]

    return get


@pytest.mark.parametrize(("stem", "name"), RUNS, ids=[f"{s}-{n}" for s, n in RUNS])
def test_recorded_run(recorded, stem, name):
    recording, model = recorded(stem)
    got = model(recording.inputs("eval"))
    for ours, want in zip(
        got if isinstance(got, list) else [got], ir.outputs(recording.arrays, "float_out"), strict=True
    ):
        np.testing.assert_allclose(ours, want, atol=2e-6 * max(1, np.abs(want).max()))
    run = check_run(recording, name, model, thorough=False)
    assert run.mismatches == []
    assert run.exact == run.checked > 0
    if "error" not in recording.runs[name]:
        assert run.flips == []


def layer(name, kind, inputs, **config):
    return {"name": name, "type": kind, "inputs": inputs, "config": config}


def described(*layers, outputs, shape=(6, 6, 3), **more):
    return {"name": "m", "input_shape": list(shape), "layers": list(layers), "outputs": outputs, **more}


def weights_of(model):
    """A model's weights as they are recorded, in the names of Keras 2."""
    rng, arrays = np.random.default_rng(0), {}
    for made in model.layers:
        for variable in made.weights:
            path = variable.path.removeprefix(f"{made.path}/")
            old = "depthwise_kernel" if path == "kernel" and "Depthwise" in type(made).__name__ else path
            arrays[f"float/{made.name}/{old}"] = rng.uniform(0.1, 1, variable.shape).astype(np.float32)
    return arrays


def test_the_reader_builds_inputs_outputs_calls_operations_and_any_layer():
    document = described(
        layer("sep", "SeparableConv2D", ["in"], filters=4, kernel_size=3, padding="same"),
        layer("dw", "DepthwiseConv2D", ["sep"], kernel_size=3, padding="same"),
        layer("leak", "LeakyReLU", ["dw"], alpha=0.2),
        layer("slope", "PReLU", ["leak"], shared_axes=[1, 2]),
        layer("twice", "Conv2D", ["slope"], filters=4, kernel_size=1),
        layer("again", "@call", ["in3"], layer="twice"),
        layer("three", "op.add_scalar", ["again"], value=3.0),
        layer("six", "op.relu6", ["three"]),
        layer("part", "op.mul_scalar", ["six"], value=1 / 6),
        layer("half", "op.div", ["part", "twice"]),
        layer("sum", "op.add", ["half", "twice"]),
        layer("both", "op.concat", ["sum", "part"], axis=-1),
        layer("gap", "GlobalAveragePooling2D", ["both"]),
        layer("rnn", "LSTM", ["in2"], units=5),
        layer("both_ways", "Bidirectional", ["in2"], layer={"class_name": "GRU", "config": {"units": 2}}),
        layer("bn", "BatchNormalization", ["rnn"], axis=[1]),
        layer("cat", "Concatenate", ["gap", "bn", "both_ways"]),
        outputs=["cat", "part"],
        extra_inputs={"in2": [7, 3], "in3": [6, 6, 4]},
    )
    blank = ir.build(document, None)
    arrays = weights_of(blank)
    rng = np.random.default_rng(1)
    for name, shape in {"eval": (6, 6, 3), "eval/in2": (7, 3), "eval/in3": (6, 6, 4)}.items():
        arrays[name] = rng.normal(size=(5, *shape)).astype(np.float32)
    model = ir.build(document, arrays)
    x = ir.inputs(document, arrays, "eval", 4)
    assert [a.shape[0] for a in x] == [4, 4, 4]
    assert [tuple(o.shape) for o in model(x)] == [(4, 8 + 5 + 4), (4, 6, 6, 4)]
    for made in model.layers:
        recorded = [v for k, v in arrays.items() if k.startswith(f"float/{made.name}/")]
        for variable, want in zip(made.weights, recorded, strict=True):
            np.testing.assert_array_equal(variable, want)
    conv = model.get_layer("twice")
    part = np.clip(conv(x[2]) + 3, 0, 6) / 6
    np.testing.assert_allclose(model(x)[1], part, rtol=1e-5)


def test_weights_that_are_not_the_layers_are_refused():
    document = described(layer("c", "Conv2D", ["in"], filters=4, kernel_size=3), outputs=["c"])
    kernel = np.zeros((3, 3, 3, 4), np.float32)
    for wrong in (
        {"float/c/kernel": kernel},
        {"float/c/kernel": kernel.T, "float/c/bias": np.zeros(4, np.float32)},
        {"float/c/kernel": kernel, "float/c/bias": np.zeros(4, np.float32), "float/c/more": kernel},
    ):
        with pytest.raises(ModelError, match=r"c: recorded weights .* are not those of the layer"):
            ir.build(document, wrong)


def spoiled(folder, stem, change):
    """A copy of a recording with a change, checked by the script a user runs."""
    data = json.loads((GOLDEN / f"{stem}.json").read_text())
    change(data)
    (folder / f"{stem}.json").write_text(json.dumps(data))
    shutil.copy(GOLDEN / f"{stem}.npz", folder)


def test_an_unknown_layer_type_is_a_line_and_no_crash(tmp_path, capsys):
    def change(data):
        data["ir"]["layers"][1]["type"] = "SpatialDropout2Dx"

    spoiled(tmp_path, "model_t_spdrop", change)
    assert golden.main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "not compared, 2 runs: sd: layer type 'SpatialDropout2Dx' is not known" in said
    assert "listed exceptions    1" in said


def test_refused_strategies_and_failing_runs_do_not_stop_the_script(tmp_path, capsys):
    """A strategy that both sides refuse is an exception; one that the reference completed is a mismatch."""

    def change(data):
        runs, good = data["runs"], data["runs"]["pof2s/nofold"]
        runs.clear()
        runs["pof2s_tqt/wmse"] = {"kwargs": {"weight_method": 1}, "error": "ValueError: no\n such method"}
        runs["pof2s/typo"] = {"kwargs": {"weight_bits": 4}, "error": "ValueError: Invalid configs"}
        runs["pof2s/refused"] = {**good, "kwargs": {"weight_bits": 4}}
        runs["pof2s/newer"] = {**good, "kwargs": {"_seed": 4}}
        runs["pof2s/nofold"] = good

    spoiled(tmp_path, "model_t_densebn", change)
    found = {run.name.partition(" ")[2]: run for run in check_model(tmp_path / "model_t_densebn.json")}
    failing = {name for name, run in found.items() if run.mismatches}
    assert failing == {"pof2s/refused"}
    assert "weight_bits" in found["pof2s/refused"].mismatches[0]
    assert found["pof2s_tqt/wmse"].exact == found["pof2s_tqt/wmse"].checked == 2
    assert "weight_method: value 'MIN_MSE' is not allowed" in found["pof2s_tqt/wmse"].flips[0]
    assert "_seed" in found["pof2s/newer"].flips[0]
    assert found["pof2s/nofold"].exact == found["pof2s/nofold"].checked > 20
    assert golden.main([str(tmp_path)]) == 1
    assert "MISMATCH: model_t_densebn pof2s/refused: StrategyError" in capsys.readouterr().out


def test_every_mismatch_is_printed_with_file_run_and_tensor(tmp_path, capsys):
    def change(data):
        data["runs"] = {"fsx/nofold_m0": data["runs"]["fsx/nofold_m0"]}
        for stage in ("info_calibrated", "info_final"):
            for entries in data["runs"]["fsx/nofold_m0"][stage].values():
                for entry in entries.values():
                    for end in {"min_var", "max_var"} & entry.keys():
                        entry[end] = (5 * np.asarray(entry[end])).tolist()

    spoiled(tmp_path, "model_t_densebn", change)
    assert golden.main([str(tmp_path)]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "MISMATCH" in line]
    assert len(lines) > golden.SHOWN
    assert any("model_t_densebn fsx/nofold_m0: final d2/linear max_var" in line for line in lines)


def test_a_wrongly_read_float_model_is_a_mismatch(tmp_path):
    def change(data):
        data["ir"]["layers"][2]["type"] = "ReLU"
        data["ir"]["layers"][2]["config"] = {"max_value": 0.1}
        data["runs"].clear()

    spoiled(tmp_path, "model_t_densebn", change)
    (run,) = check_model(tmp_path / "model_t_densebn.json")
    assert "float output 0" in run.mismatches[0]
