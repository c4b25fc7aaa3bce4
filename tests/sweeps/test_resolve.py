"""A sweep is checked on its real model and data before anything runs; what does the same runs once."""

from __future__ import annotations

import numpy as np
import pytest

from vqkit.errors import DataError, ModelError, SweepError
from vqkit.execution.runner import RunOptions, run_single, run_sweep, steps
from vqkit.runs.store import Status, Store
from vqkit.sweeps import notebook as notebooks
from vqkit.sweeps.resolve import resolve
from vqkit.sweeps.spec import Sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, its data, and a strategy file."""
    import keras

    from vqkit.strategy import Strategy

    path = tmp_path_factory.mktemp("project")
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 1), name="image")
    x = keras.layers.Conv2D(4, 3, activation="relu", name="c1")(image)
    x = keras.layers.Conv2D(4, 3, activation="relu", name="c2")(x)
    x = keras.layers.Flatten(name="flat")(x)
    keras.Model(image, keras.layers.Dense(3, name="head")(x)).save(path / "tiny.keras")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6, 6, 1)).astype("float32")
    np.savez(path / "set.npz", x_calib=x[:16], x_eval=x[16:], y_eval=rng.integers(0, 3, 24), flat=x[:, 0])
    Strategy.builtin("pof2s").with_kwargs(weight_bit=5).dump(path / "mine.json")
    return path


def sweep(folder, **more) -> Sweep:
    value = {"name": "s", "model": "tiny.keras", "data": {"npz": "set.npz"}, "batch_size": 8, **more}
    return Sweep.from_dict(value, base_dir=folder)


def test_data_of_a_model_with_a_fixed_batch_size_are_any_number_of_samples(folder, tmp_path):
    import keras

    net = keras.models.load_model(folder / "tiny.keras")
    config = net.get_config()
    config["layers"][0]["config"]["batch_shape"] = (4, 6, 6, 1)
    keras.Model.from_config(config).save(tmp_path / "fixed.keras")
    assert len(resolve(sweep(folder, model=str(tmp_path / "fixed.keras")), tmp_path).planned) == 1
    narrow = sweep(folder, model=str(tmp_path / "fixed.keras"), data={"npz": "set.npz", "x_calib": "flat"})
    with pytest.raises(DataError, match=r"x_calib: shape \(40, 6, 1\) does not fit"):
        resolve(narrow, tmp_path)


def test_keys_follow_content_and_nothing_else(folder, tmp_path):
    base = resolve(sweep(folder, axes={"weight_bit": [8, 4]}), tmp_path)
    keys = [p.variant.key for p in base.planned]
    assert len(set(keys)) == 2
    renamed = resolve(sweep(folder, name="other", axes={"weight_bit": [4, 8]}), tmp_path)
    assert [p.variant.key for p in renamed.planned] == keys[::-1]
    for change in (
        {"seed": 1},
        {"batch_size": 4},
        {"steps": 1},
        {"calibration": "float"},
        {"vitis_compat": True},
    ):
        other = resolve(sweep(folder, axes={"weight_bit": [8]}, **change), tmp_path)
        assert other.planned[0].variant.key not in keys
    fewer = resolve(sweep(folder, axes={"weight_bit": [8]}, data={"npz": "set.npz", "n_eval": 20}), tmp_path)
    assert fewer.planned[0].variant.key not in keys


def test_what_does_the_same_runs_once(folder, tmp_path):
    got = resolve(sweep(folder, axes={"strategy": ["pof2s", "fs"], "weight_bit": [None, 8, 5]}), tmp_path)
    assert [p.same_as for p in got.planned] == ["", "pof2s", "", "", "fs", ""]
    mine = resolve(sweep(folder, axes={"strategy": ["mine.json"]}), tmp_path)
    assert mine.planned[0].variant.key == got.planned[2].variant.key
    assert mine.planned[0].variant.base == str((folder / "mine.json").resolve())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"axes": {"weigth_bit": [8]}}, r"weigth_bit.*weight_bit"),
        (
            {"axes": {"weight_bit": [8, 33]}},
            r"1 of 2 variants cannot run; nothing was started\n  pof2s weight_bit=33",
        ),
        ({"axes": {"input_layers": [["c3"]]}}, r"'c3'.*(did you mean 'c[12]'|c1)"),
        ({"strategy": "fs", "axes": {"activation_bit": [4]}}, r"fs activation_bit=4.*activation_bit"),
        ({"strategy": "pof2"}, r"'pof2' is not allowed \(did you mean 'pof2s'"),
        ({"strategy": "none.json"}, r"'none\.json' is not allowed"),
        ({"steps": 3}, r"steps=3, but 16 images in batches of 8 give 2 steps"),
        ({"axes": {"batch_size": [0]}}, r"settings /batch_size: Input should be greater"),
        ({"axes": {"/quantize_registry_config/nothing": [1]}}, r"nothing"),
    ],
)
def test_variants_that_cannot_run_are_named_together(folder, tmp_path, more, message):
    with pytest.raises(SweepError, match=f"(?s){message}"):
        resolve(sweep(folder, **more), tmp_path)


def test_excluded_combinations_do_not_count(folder, tmp_path):
    axes = {"strategy": ["fs", "fsx"], "activation_bit": [None, 4]}
    rule = [{"strategy": "fs", "activation_bit": {"not": None}}]
    got = resolve(sweep(folder, axes=axes, exclude=rule), tmp_path)
    assert [p.variant.name for p in got.planned] == ["fs", "fsx", "fsx activation_bit=4"]


def test_model_and_data_must_fit(folder, tmp_path):
    with pytest.raises(ModelError, match=r"tinny\.keras: no such file"):
        resolve(sweep(folder, model="tinny.keras"), tmp_path)
    with pytest.raises(
        DataError, match=r"x_calib: shape \(40, 6, 1\) does not fit the model's input \(None, 6, 6, 1\)"
    ):
        resolve(sweep(folder, data={"npz": "set.npz", "x_calib": "flat"}), tmp_path)


@pytest.mark.slow
def test_a_real_sweep_from_file_to_records(folder, tmp_path):
    """The real notebook on a real model: one variant fails after validation, the others are measured."""
    runs = Store.at(tmp_path / "runs")
    resolved = resolve(sweep(folder, axes={"strategy": ["pof2s", "fsx"], "weight_bit": [8, 2]}), runs.cache)
    outcome = run_sweep(resolved, runs, RunOptions(jobs=2))
    assert [r.error for r in outcome.failed] == []
    by_name = {r.name: r for r in outcome.ran}
    for record in outcome.ran:
        folder_of = runs.variant_dir(record.key)
        assert record.metrics["float_accuracy"] + record.metrics["accuracy_delta"] == record.metrics["accuracy"]
        assert all((folder_of / path).exists() for path in record.artifacts.values())
        assert {"strategy", "plan", "encodings", "sqnr", "predictions", "notebook"} == set(record.artifacts)
        assert (folder_of / "plots" / "sqnr.png").stat().st_size > 1000
        with np.load(folder_of / "predictions.npz") as kept:
            assert float(np.mean(kept["predicted"] == kept["labels"])) == record.metrics["accuracy"]
    sqnr = {name: r.metrics["sqnr_output_db"] for name, r in by_name.items()}
    assert sqnr["pof2s weight_bit=8"] > sqnr["pof2s weight_bit=2"] + 6
    assert by_name["fsx weight_bit=8"].metrics["size_bytes"] > by_name["fsx weight_bit=2"].metrics["size_bytes"]
    assert [s.reason for s in steps(resolved, runs)] == ["finished"] * 4
    # What 8 bits give under pof2s is what the base gives.
    assert run_single(resolve(sweep(folder), runs.cache), runs).skipped[0].name == "pof2s weight_bit=8"
    other = resolve(sweep(folder, axes={"weight_bit": [5]}), runs.cache)
    assert run_single(other, runs).ran[0].sweep is None


@pytest.mark.slow
def test_a_strategy_file_changed_during_a_sweep_is_noticed(folder, tmp_path):
    """The parameter is bound, the content is another: the key that the notebook finds is not the run's."""
    from vqkit.strategy import Strategy

    runs = Store.at(tmp_path / "runs")
    file = folder / "changing.json"
    Strategy.builtin("pof2s").dump(file)
    resolved = resolve(sweep(folder, strategy="changing.json"), runs.cache)
    Strategy.builtin("pof2s").with_kwargs(weight_bit=4).dump(file)
    (record,) = run_sweep(resolved, runs).ran
    assert record.status is Status.FAILED
    assert record.error["type"] == "RecordError"
    assert "the notebook used strategy" in record.error["message"]


def test_all_steps_and_all_images_by_their_number_are_the_same_variant(folder, tmp_path):
    axes = {"steps": [None, 2, 1], "eval_images": [None, 24, 3]}
    found = resolve(sweep(folder, axes=axes), tmp_path)
    assert [bool(p.same_as) for p in found.planned] == [0, 1, 0, 1, 1, 1, 0, 1, 0]


def test_labels_that_cannot_be_judged_are_refused_unless_the_notebook_is_ones_own(folder, tmp_path):
    with np.load(folder / "set.npz") as kept:
        arrays = dict(kept)
    np.savez(folder / "from_one.npz", **{**arrays, "y_eval": arrays["y_eval"] + 1})
    other = sweep(folder, data={"npz": "from_one.npz"})
    with pytest.raises(DataError, match="from_one/y_eval: they go from 1 to 3, counted from 1"):
        resolve(other, tmp_path)
    own = tmp_path / "own.ipynb"
    own.write_bytes(notebooks.find("20_run_variant.ipynb").read_bytes())
    assert resolve(other, tmp_path, notebook=own).planned
