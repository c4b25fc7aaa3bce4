"""The old API's arguments: what each means, what is refused, and that it is a face over the same flow."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest

import vqkit as vq
from tests.support.vitis_models import IMAGES, LABELS, mnist_cnn
from vqkit.errors import DataError, ModelError, StrategyError
from vqkit.export.files import finalize
from vqkit.quantization import quantize
from vqkit.strategy.vocabulary import OLD_NAMES
from vqkit.vitis import VitisInspector, VitisQuantizer, arguments, vitis_quantize

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "strategy"
X = IMAGES[..., None].astype("float32")


@pytest.fixture(scope="module")
def model():
    return mnist_cnn()


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("strategy", ["pof2s", "pof2s_tqt", "fsx"])
def test_it_gives_what_the_flow_gives(model, strategy, compat):
    quantizer = VitisQuantizer(model, strategy, vitis_compat=compat)
    got = quantizer.quantize_model(X, 5, weight_bit=6)
    wanted = vq.quantize(
        model, vq.Strategy.builtin(strategy).with_kwargs(weight_bit=6), X, batch_size=5, vitis_compat=compat
    )
    assert quantizer.quantized.encodings == wanted.encodings
    np.testing.assert_array_equal(got(X), wanted.model(X))


def test_the_float_model_is_not_touched(model):
    before = [w.numpy() for w in model.weights]
    VitisQuantizer(model).quantize_model(X)
    for a, b in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_file_is_a_model(model, tmp_path):
    model.save(tmp_path / "m.keras")
    VitisQuantizer(tmp_path / "m.keras").quantize_model(X)


def test_every_old_name_is_taken(model):
    values = {"balance_method": "avg", "weight_threshold": 0.2}
    for old, new in OLD_NAMES.items():
        quantizer = VitisQuantizer(model)
        quantizer.optimize_model(**{old: values.get(old, False)})
        dumped = json.loads(quantizer.dump_quantize_strategy(None, verbose=1))
        assert next(s[new] for s in dumped.values() if new in s) == values.get(old, False), old


def test_keyword_arguments_stay_and_configs_are_read(model):
    """The original throws `configs` away."""
    quantizer = VitisQuantizer(model)
    quantizer.optimize_model({"weight_bit": 5}, cle_steps=3)
    quantizer.quantize_model(X)
    assert quantizer.quantized.plan["conv1/kernel"].spec.bit_width == 5
    assert quantizer.strategy.optimize.cle_steps == 3


def test_a_second_call_optimizes_anew(model):
    """The original keeps the optimized model of its first call."""
    quantizer = VitisQuantizer(model)
    quantizer.quantize_model(X)
    quantizer.quantize_model(X, include_cle=False)
    assert (
        quantizer.quantized.encodings
        == vq.quantize(model, vq.Strategy.builtin("pof2s").with_kwargs(include_cle=False), X).encodings
    )


def test_optimize_model_computes_the_same_without_batch_norm(model):
    optimized = VitisQuantizer(model).optimize_model()
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in optimized.layers)
    np.testing.assert_allclose(optimized(X), model(X), atol=1e-5)


def test_the_analysed_model_and_what_its_quantizers_saw(model):
    """The original crashes here."""
    analysed, info = VitisQuantizer(model).get_analysed_model(X, batch_size=4)
    np.testing.assert_allclose(analysed(X), model(X), atol=1e-5)
    assert info["quant_image"]["input"]["type"] == "input"
    assert info["conv1"]["kernel"]["type"] == "weight"
    seen = info["quant_image"]["input"]["info"]
    assert seen["max_var"] <= 1
    assert seen["quant_pos_var"] == 6


def test_dumps_are_those_of_the_original(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for verbose in (0, 1, 2, 3):
        quantizer = VitisQuantizer(model)
        told = quantizer.dump_quantize_strategy(verbose=verbose)
        assert told == (tmp_path / "quantize_strategy.json").read_text()
        wanted = json.loads((GOLDEN / f"pof2s_v{min(verbose, 2)}_default.json").read_text())
        assert json.loads(told) == wanted


def test_steps_of_a_dataset_without_end():
    def endless():
        while True:
            yield X[:2], LABELS[:2]

    quantizer = VitisQuantizer(mnist_cnn())
    quantizer.quantize_model(endless(), calib_steps=3)
    assert (
        quantizer.quantized.encodings
        == vq.quantize(mnist_cnn(), "pof2s", np.tile(X[:2], (3, 1, 1, 1)), batch_size=2).encodings
    )


class Images(keras.utils.PyDataset):
    """A keras Sequence."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return X[index * 4 : index * 4 + 4], LABELS[:4]


def test_a_sequence(model):
    quantizer = VitisQuantizer(model)
    with pytest.warns(UserWarning, match="calib_steps=9: the data hold 3 batches"):
        quantizer.quantize_model(calib_dataset=Images(), calib_steps=9, calib_batch_size=77)
    assert quantizer.quantized.encodings == vq.quantize(model, "pof2s", X, batch_size=4).encodings


def test_verbose_says_more(model, capsys):
    VitisQuantizer(model).quantize_model(X)
    assert capsys.readouterr().out == ""
    VitisQuantizer(model).quantize_model(X, verbose=1)
    brief = capsys.readouterr().out
    assert "tensors quantized" in brief
    VitisQuantizer(model).quantize_model(X, verbose=2)
    assert len(capsys.readouterr().out) > len(brief) + 200


@pytest.mark.parametrize("shape", [[14, 14, 1], (None, 14, 14, 1), "?,14,14,1", {"image": [14, 14, 1]}, [[14, 14, 1]]])
def test_input_shape_closes_open_sizes(shape):
    x = keras.Input((None, None, 1), name="image")
    y = keras.layers.Conv2D(2, 3, name="conv")(x)
    net = keras.Model(x, keras.layers.GlobalAveragePooling2D(name="pool")(y))
    fixed = arguments.with_input_shape(net, shape)
    assert fixed.input_shape == (None, 14, 14, 1)
    np.testing.assert_array_equal(fixed(X), net(X))
    got = VitisQuantizer(net).quantize_model(X, input_shape=shape)
    assert got.input_shape == (None, 14, 14, 1)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([15, 14, 1], "does not fit the input 'image'"),
        ([[14, 14, 1], [3]], "2 shapes given"),
        ({"picture": [14, 14, 1]}, "no input 'picture'"),
    ],
)
def test_an_input_shape_that_does_not_fit(model, shape, message):
    with pytest.raises(ModelError, match=message):
        VitisQuantizer(model).quantize_model(X, input_shape=shape)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda q: q.quantize_model(), DataError, "calib_dataset is needed"),
        (
            lambda q: q.quantize_model(X, wieght_bit=4),
            StrategyError,
            r"wieght_bit.*did you mean 'weight_bit'",
        ),
        (lambda q: q.quantize_model(X, ignore_layers=["conv3"]), StrategyError, "conv3"),
        (lambda q: q.quantize_model(X, calib_steps=2, calib_step=3), StrategyError, "the same argument"),
        (lambda q: q.quantize_model(X, configs=[1]), StrategyError, "configs: a dict is expected, got list"),
        (lambda q: q.set_quantize_strategy("none.json"), StrategyError, r"none\.json: no such file"),
        (lambda q: q.set_quantize_strategy(3), StrategyError, "a dict or the path of a JSON file"),
        (lambda q: q.dump_model(mnist_cnn(), X), ModelError, "is not quantized"),
    ],
)
def test_what_is_refused_says_why(model, call, error, message):
    with pytest.raises(error, match=message):
        call(VitisQuantizer(model))


def test_unknown_strategies_are_named(model):
    with pytest.raises(StrategyError, match="did you mean 'pof2s_tqt'"):
        VitisQuantizer(model, "pof2_tqt")


# --- inspector ---


def test_targets(tmp_path):
    (tmp_path / "arch.json").write_text('{"target": "DPUCZDX8G_ISA1_B4096"}')
    assert VitisInspector(str(tmp_path / "arch.json")).target == "DPUCZDX8G_ISA1_B4096"
    assert VitisInspector("0x101000016010407").target == "0x101000016010407"
    assert VitisInspector().target is None
    with pytest.raises(StrategyError, match=r"did you mean 'DPUCZDX8G_ISA1_B4096'"):
        VitisInspector("CZDX8G_ISA1_B4096")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(StrategyError, match=r"an arch\.json of a DPU is expected"):
        VitisInspector(str(tmp_path / "other.json"))


def test_the_inspector_is_a_face_over_inspect(model, capsys):
    found = VitisInspector().inspect_model(model, verbose=1, fold_conv_bn=False)
    wanted = vq.inspect(model, vq.Strategy.builtin("pof2s").with_kwargs(fold_conv_bn=False))
    assert found == wanted
    assert str(found) in capsys.readouterr().out


def test_one_import_line_is_enough():
    assert vitis_quantize.VitisQuantizer is VitisQuantizer


# --- finalize ---


@pytest.mark.filterwarnings("ignore:.*HDF5.*")
@pytest.mark.parametrize(
    ("output_format", "file"),
    [("h5", "quantized_model.h5"), ("keras", "quantized_model.keras"), ("tf", "quantized_model")],
)
def test_the_strategy_decides_what_is_written(model, output_format, file, tmp_path):
    quantizer = VitisQuantizer(model)
    got = quantizer.quantize_model(X, output_format=output_format, output_dir=str(tmp_path / "results"))
    assert [p.name for p in (tmp_path / "results").iterdir()] == [file]
    path = tmp_path / "results" / file
    if output_format == "tf":
        import tensorflow as tf

        loaded = tf.saved_model.load(str(path))  # its variables live as long as it does
        np.testing.assert_array_equal(loaded.serve(X), got(X))
    else:
        np.testing.assert_array_equal(vq.load_model(path)(X), got(X))


def test_whoever_hands_over_one_model_writes_it_and_runs_into_their_folder(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    strategy = vq.build_strategy("pof2s", {"output_format": "keras", "output_dir": "made/here"})
    path = Path("made/here/quantized_model.keras")
    quantized = vq.quantize(model, strategy, X)
    np.testing.assert_array_equal(vq.load_model(path)(X), quantized.model(X))
    path.unlink()
    trained = vq.qat_model(model, strategy, X)
    vq.deploy_model(trained)
    assert path.is_file()
    path.unlink()
    quantize(model, strategy, X)
    assert not path.exists()
    assert finalize(quantized, "run") == Path("run/here/quantized_model.keras")


def test_the_operator_set_is_the_strategys(model, tmp_path):
    onnx = pytest.importorskip("onnx")
    quantizer = VitisQuantizer(model)
    quantizer.set_quantize_strategy({"finalize_pipeline_config": {"output_dir": str(tmp_path)}})
    for opset in (11, 13):
        quantizer.quantize_model(X, output_format="onnx", onnx_opset_version=opset)
        written = onnx.load(tmp_path / "quantized_model.onnx")
        assert {d.domain: d.version for d in written.opset_import}[""] == opset


def test_nothing_is_written_by_default(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    VitisQuantizer(model).quantize_model(X)
    assert list(tmp_path.iterdir()) == []


# --- training, and what judges ---


def test_what_training_cannot_start_from_says_why(model):
    with pytest.raises(DataError, match="calib_dataset is needed"):
        VitisQuantizer(model).get_qat_model(init_quant=True)
    with pytest.raises(ModelError, match="expected a model from qat_model"):
        VitisQuantizer.get_deploy_model(model)


@pytest.mark.parametrize("strategy", ["pof2s", "fsx"])
def test_training_starts_from_a_calibration_under_every_strategy(model, strategy):
    """Untrained, the model computes what the calibrated one computes before refinement."""
    quantizer = VitisQuantizer(model, strategy)
    trainable = quantizer.get_qat_model(init_quant=True, calib_dataset=X, calib_batch_size=4)
    deployed = vq.deploy_model(trainable)
    wanted = vq.quantize(model, strategy, X, batch_size=4)
    assert deployed.encodings == wanted.encodings
    np.testing.assert_array_equal(VitisQuantizer.get_deploy_model(trainable)(X), wanted.model(X))


@pytest.mark.parametrize("one_hot", [False, True])
def test_a_loss_searches_on_the_evaluation_set(model, one_hot):
    """The original crashes with a TypeError."""
    labels = keras.utils.to_categorical(LABELS, 10) if one_hot else LABELS
    loss = keras.losses.CategoricalCrossentropy() if one_hot else "sparse_categorical_crossentropy"
    quantizer = VitisQuantizer(model)
    metric = "categorical_accuracy" if one_hot else "sparse_categorical_accuracy"
    quantizer.quantize_model(X[:6], 6, loss=loss, metrics=[metric], eval_dataset=(X, labels), activation_bit=3)
    wanted = vq.quantize(
        model,
        vq.Strategy.builtin("pof2s").with_kwargs(
            activation_bit=3, include_threshold_search=True, threshold_search_loss="labels"
        ),
        X[:6],
        batch_size=6,
        search_data=X,
        calib_labels=LABELS,
    )
    assert quantizer.quantized.encodings == wanted.encodings
    assert any("threshold_search" in line for line in quantizer.quantized.report)
    assert quantizer.evaluation["float"].keys() == quantizer.evaluation["quantized"].keys() != set()


@pytest.mark.parametrize("loss", [keras.losses.mean_squared_error, keras.losses.KLDivergence(), "kl", "mse"])
def test_losses_against_the_float_model_need_no_labels_to_agree(loss):
    from vqkit.vitis.arguments import search_loss

    assert search_loss(loss) in ("mse", "kl")


def test_evaluation_sets_of_every_kind_are_read_alike():
    import tensorflow as tf

    from vqkit.vitis.arguments import read_labelled

    dataset = tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(5)
    for given in (dataset, (X, LABELS), [(X[:5], LABELS[:5]), (X[5:], LABELS[5:])].__iter__()):
        read = read_labelled(given, 5)
        np.testing.assert_array_equal(read.x, X)
        np.testing.assert_array_equal(read.classes, LABELS)
    assert len(read_labelled(Images(), 5).x) == 12


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"loss": "mse"}, DataError, "need eval_dataset"),
        ({"eval_dataset": (X, LABELS)}, DataError, "used with loss or metrics only"),
        ({"loss": "mse", "eval_dataset": X}, DataError, "labels are missing"),
        ({"loss": "hinge", "eval_dataset": (X, LABELS)}, StrategyError, "'hinge' is not allowed"),
    ],
)
def test_a_loss_that_cannot_judge_says_why(model, kwargs, error, message):
    with pytest.raises(error, match=message):
        VitisQuantizer(model).quantize_model(X, **kwargs)
