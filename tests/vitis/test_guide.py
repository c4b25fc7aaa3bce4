"""Every code example of the original's guide (UG1414 2.5, and its README), with the import line changed.

Where the guide prints what its own tool refuses (`calib_step`, `plot_model`, old names of quantizers, a dict
without braces), the test says so.
"""

from __future__ import annotations

import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import vqkit as vq
from tests.support.vitis_models import IMAGES, LABELS, MyCustomLayer, mnist_cnn, with_custom_layer
from vqkit.vitis import vitis_inspect, vitis_quantize

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*HDF5.*"),
    # Keras 3 warns of its own default where a dataset is fitted, as the guide does.
    pytest.mark.filterwarnings("ignore:.*shuffle=True.*"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with float_model.h5 and float_custom.h5."""
    folder = tmp_path_factory.mktemp("guide")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*HDF5.*")
        mnist_cnn().save(folder / "float_model.h5")
        with_custom_layer().save(folder / "float_custom.h5")
    return folder


@pytest.fixture(autouse=True)
def here(files, tmp_path, monkeypatch):
    """A working directory of its own with the float models in it."""
    for file in files.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


calib_dataset = tf.data.Dataset.from_tensor_slices((IMAGES[..., None].astype("float32"), LABELS)).batch(4)
eval_dataset = train_dataset = calib_dataset


def compiled(model):
    model.compile(
        optimizer=keras.optimizers.RMSprop(),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(),
        metrics=[keras.metrics.SparseTopKCategoricalAccuracy()],
    )
    return model


def test_quick_start_quantize_save_load_evaluate_dump(here):
    float_model = tf.keras.models.load_model("float_model.h5")
    quantizer = vitis_quantize.VitisQuantizer(float_model, quantize_strategy="pof2s")
    quantized_model = quantizer.quantize_model(calib_dataset=calib_dataset)
    quantized_model.save("quantized_model.h5")

    model = keras.models.load_model("./quantized_model.h5")
    x = IMAGES[..., None].astype("float32")
    np.testing.assert_array_equal(model(x), quantized_model(x))

    compiled(quantized_model)
    loss, _ = quantized_model.evaluate(eval_dataset, verbose=0)
    assert np.isfinite(loss)

    dump_dataset = calib_dataset.unbatch().batch(1).take(1)
    vitis_quantize.VitisQuantizer.dump_model(quantized_model, dataset=dump_dataset)
    assert (here / "dump_results" / "dump_results_0" / "quant_relu1.bin").stat().st_size == 12 * 12 * 4


def test_post_training_with_steps_and_batch_size():
    """The guide writes `calib_step`, which its tool refuses; 100 steps are more than the data hold."""
    float_model = tf.keras.models.load_model("float_model.h5")
    quantizer = vitis_quantize.VitisQuantizer(float_model)
    with pytest.warns(UserWarning, match="calib_steps=100: the data hold 2 batches; all of them are used"):
        quantized_model = quantizer.quantize_model(calib_dataset=IMAGES, calib_step=100, calib_batch_size=10)
    wanted = vq.quantize(float_model, "pof2s", IMAGES[..., None].astype("float32"), batch_size=10)
    assert quantizer.quantized.encodings == wanted.encodings
    x = IMAGES[:2, :, :, None].astype("float32")
    np.testing.assert_array_equal(quantized_model(x), wanted.model(x))


def test_fast_finetuning():
    quantizer = vitis_quantize.VitisQuantizer(tf.keras.models.load_model("float_model.h5"))
    quantizer.quantize_model(
        calib_dataset=calib_dataset,
        calib_step=None,
        calib_batch_size=None,
        include_fast_ft=True,
        fast_ft_epochs=1,
    )
    assert any("fast_ft" in line for line in quantizer.quantized.report)


def test_loading_and_evaluating():
    vitis_quantize.VitisQuantizer(tf.keras.models.load_model("float_model.h5")).quantize_model(
        calib_dataset=calib_dataset
    ).save("quantized_model.h5")
    with vitis_quantize.quantize_scope():
        quantized_model = tf.keras.models.load_model("quantized_model.h5")
    quantized_model.compile(
        loss=tf.keras.losses.SparseCategoricalCrossentropy(),
        metrics=[keras.metrics.SparseTopKCategoricalAccuracy()],
    )
    quantized_model.evaluate(eval_dataset, verbose=0)


def test_dumping_the_simulation_results(here):
    vitis_quantize.VitisQuantizer(tf.keras.models.load_model("float_model.h5")).quantize_model(
        calib_dataset=calib_dataset
    ).save("quantized_model.h5")
    quantized_model = keras.models.load_model("./quantized_model.h5")
    dump_dataset = IMAGES[:1]
    vitis_quantize.VitisQuantizer.dump_model(quantized_model, dump_dataset, output_dir="./dump_results")
    weights, first = here / "dump_results" / "dump_results_weights", here / "dump_results" / "dump_results_0"
    for name in ("quant_conv1_kernel", "quant_conv1_bias"):
        assert (weights / f"{name}.bin").is_file()
        assert (weights / f"{name}.txt").is_file()
    assert (first / "quant_conv2_relu.bin").is_file()
    assert not list(first.glob("*_float*"))
    vitis_quantize.VitisQuantizer.dump_model(quantized_model, dump_dataset, "./dump_results", dump_float=True)
    assert (first / "dense_softmax_float.txt").is_file()


def test_keyword_arguments_of_a_partial_quantization():
    """The original never returns from this example."""
    model = tf.keras.models.load_model("float_model.h5")
    quantizer = vitis_quantize.VitisQuantizer(model)
    quantizer.quantize_model(
        calib_dataset, input_layers=["conv2"], bias_bit=32, activation_bit=32, weight_per_channel=True
    )
    plan = quantizer.quantized.plan
    assert plan["conv2/kernel"].spec.per_channel
    assert (plan["conv2/bias"].spec.bit_width, plan["conv2_relu/output"].spec.bit_width) == (32, 32)
    assert "conv1/kernel" not in {row.name for row in plan.quantized}


def test_configuring_by_set_quantize_strategy(here):
    quantizer = vitis_quantize.VitisQuantizer(tf.keras.models.load_model("float_model.h5"))
    quantizer.dump_quantize_strategy(dump_file="my_quantize_strategy.json", verbose=0)
    dumped = json.loads((here / "my_quantize_strategy.json").read_text())
    dumped["quantize_registry_config"]["user_quantize_config"]["weight_bit"] = 6
    (here / "my_quantize_strategy.json").write_text(json.dumps(dumped))
    quantizer.set_quantize_strategy(new_quantize_strategy="my_quantize_strategy.json")
    quantizer.quantize_model(calib_dataset)
    assert quantizer.quantized.plan["conv1/kernel"].spec.bit_width == 6


@pytest.mark.parametrize("strategy", ["fs", "fsx"])
def test_float_scales(strategy):
    model = tf.keras.models.load_model("float_model.h5")
    quantizer = vitis_quantize.VitisQuantizer(model, quantize_strategy=strategy)
    kwargs = {"weight_bit": 6}
    quantizer.quantize_model(calib_dataset=calib_dataset, calib_step=3, calib_batch_size=10, **kwargs)
    spec = quantizer.quantized.plan["conv1/kernel"].spec
    assert (spec.bit_width, spec.pow2) == (6, False)


def test_custom_layers():
    float_model = tf.keras.models.load_model("float_custom.h5", custom_objects={"MyCustomLayer": MyCustomLayer})
    quantizer = vitis_quantize.VitisQuantizer(float_model, custom_objects={"MyCustomLayer": MyCustomLayer})
    quantized_model = quantizer.quantize_model(
        calib_dataset=calib_dataset, calib_step=3, calib_batch_size=10, add_shape_info=True
    )
    assert quantizer.quantized.plan["mine/w"].spec is None
    assert quantizer.shape_info["mine"] == [(None, 8)]
    quantized_model.save("quantized.h5")
    with vitis_quantize.quantize_scope({"MyCustomLayer": MyCustomLayer}):
        loaded = tf.keras.models.load_model("quantized.h5")
    x = IMAGES[..., None].astype("float32")
    np.testing.assert_array_equal(loaded(x), quantized_model(x))


@pytest.mark.parametrize("as_file", [False, True])
def test_a_custom_layer_with_a_custom_strategy(here, as_file):
    """The guide's dict lacks braces around each quantizer; its names are those of release 2.0."""
    quantizers = {
        "quantizer_type": "LastValueQuantPosQuantizer",
        "quantizer_params": {"bit_width": 8, "method": 1, "round_mode": 0},
    }
    my_quantize_strategy = {
        "quantize_registry_config": {
            "layer_quantize_config": [
                {
                    "layer_type": "__main__.MyCustomLayer",
                    "quantizable_weights": ["w", "b"],
                    "weight_quantizers": [quantizers, quantizers],
                    "quantizable_outputs": ["0"],
                    "output_quantizers": [quantizers],
                }
            ]
        }
    }
    given = my_quantize_strategy
    if as_file:
        (here / "my_quantize_strategy.json").write_text(json.dumps(my_quantize_strategy))
        given = "./my_quantize_strategy.json"
    custom = {"MyCustomLayer": MyCustomLayer}
    model = tf.keras.models.load_model("float_custom.h5", custom_objects=custom)
    quantizer = vitis_quantize.VitisQuantizer(model, custom_objects=custom, custom_quantize_strategy=given)
    quantizer.quantize_model(calib_dataset=calib_dataset, calib_step=3, calib_batch_size=10)
    plan = quantizer.quantized.plan
    assert plan["mine/w"].spec.pow2
    assert plan["mine/b"].spec.bit_width == 8
    assert plan["mine/output"].spec is not None
    # The dict is left as it was; the original empties it.
    assert quantizers["quantizer_type"] == "LastValueQuantPosQuantizer"


def test_inspecting_a_float_model(here, capsys):
    """The guide writes `plot_model`, its tool takes `plot`."""
    model = tf.keras.models.load_model("float_model.h5")
    inspector = vitis_inspect.VitisInspector(target="DPUCADF8H_ISA0")
    found = inspector.inspect_model(
        model,
        plot_model=True,
        plot_file="model.svg",
        dump_results=True,
        dump_results_file="inspect_results.txt",
        verbose=0,
    )
    assert [row.layer for row in found.on_cpu] == ["dense_softmax"]
    assert "softmax is computed in float" in (here / "inspect_results.txt").read_text()
    assert "<svg" in (here / "model.svg").read_text()
    out = capsys.readouterr().out
    assert "on the DPU" in out
    assert "DPUCADF8H_ISA0" in out


def test_the_inspection_script():
    """`mnist_cnn_inspect.py` of the original's examples."""
    inspector = vitis_inspect.VitisInspector(target="DPUCZDX8G_ISA1_B4096")
    inspector.inspect_model(
        mnist_cnn(),
        input_shape=[1, 14, 14, 1],
        dump_model=True,
        dump_model_file="inspect_model.h5",
        plot=True,
        plot_file="model.svg",
        dump_results=True,
        dump_results_file="inspect_results.txt",
        verbose=0,
    )
    assert vq.load_model("inspect_model.h5").input_shape == (1, 14, 14, 1)


def test_the_partial_quantization_script(here):
    """`candidate_layer_quantize.py` of the original's examples."""
    loaded_model = mnist_cnn()
    quantizer = vitis_quantize.VitisQuantizer(loaded_model, "pof2s")
    quant_model = quantizer.quantize_model(
        calib_dataset=IMAGES, input_layers=["relu1"], output_layers=["flatten"], ignore_layers=["pool1"]
    )
    quant_model.save("quantized.h5")
    with vitis_quantize.quantize_scope():
        quantized_model = tf.keras.models.load_model("quantized.h5")
        quantized_model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        quantized_model.evaluate(IMAGES, LABELS, verbose=0)
    vitis_quantize.VitisQuantizer.dump_model(quant_model, IMAGES[0:1], "./dump_results", dump_float=True)
    names = {p.stem for p in (here / "dump_results" / "dump_results_weights").glob("*.bin")}
    assert "quant_conv2_kernel" in names
    # In front of the start layer nothing is quantized: floats only.
    assert "quant_conv1_kernel" not in names
    assert "quant_conv1_kernel_float" in names


class PRelu(keras.layers.Layer):
    """Of `mnist_cnn_ptq_custom_layer.py`."""

    def build(self, input_shape):
        self.alpha = self.add_weight(shape=input_shape[1:], name="alpha", initializer="zeros", trainable=True)

    def call(self, inputs, training=None, mask=None):  # noqa: ARG002
        return tf.nn.relu(inputs) - self.alpha * tf.nn.relu(-inputs)


class MultiInput(keras.layers.Layer):
    """Of the same script."""

    def __init__(self, name="multi_input", scale=2, **kwargs):
        super().__init__(name=name, **kwargs)
        self.scale = scale

    def call(self, inputs, training=None, mask=None):  # noqa: ARG002
        return inputs[0] + inputs[1] * self.scale

    def get_config(self):
        return {"name": self.name, "scale": self.scale}


def test_the_custom_layer_script():
    """`mnist_cnn_ptq_custom_layer.py` of the original's examples, with its JSON of float-scale names."""
    inputs = tf.keras.Input((14, 14, 1))
    x = tf.keras.layers.Conv2D(4, (3, 3))(inputs)
    x = PRelu(name="param_relu")(x)
    x = MultiInput(scale=4)([tf.keras.layers.Conv2D(4, (3, 3))(x), tf.keras.layers.Conv2D(4, (3, 3))(x)])
    x = tf.keras.layers.Dense(10, activation="sigmoid")(tf.keras.layers.Flatten()(x))
    loaded_model = tf.keras.Model(inputs=inputs, outputs=x)
    custom_objects = {"PRelu": PRelu, "MultiInput": MultiInput}
    params = {"bit_width": 8, "method": 1, "round_mode": 1}
    quantizer = {"quantizer_type": "LastValueQuantFsQuantizer", "quantizer_params": params}
    my_quantize_strategy = {
        "quantize_registry_config": {
            "layer_quantize_config": [
                {
                    "layer_type": "__main__.PRelu",
                    "quantizable_weights": ["alpha"],
                    "weight_quantizers": [quantizer],
                    "quantizable_outputs": ["0"],
                    "output_quantizers": [quantizer],
                }
            ]
        }
    }
    quant_model = vitis_quantize.VitisQuantizer(
        loaded_model, "pof2s", custom_objects=custom_objects, custom_quantize_strategy=my_quantize_strategy
    ).quantize_model(calib_dataset=IMAGES)
    quant_model.save("quantized.h5")
    with vitis_quantize.quantize_scope():
        quantized_model = tf.keras.models.load_model("quantized.h5", custom_objects=custom_objects)
        quantized_model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        quantized_model.evaluate(IMAGES, LABELS, verbose=0)
    vitis_quantize.VitisQuantizer.dump_model(quant_model, IMAGES[0:1], "./dump_results", dump_float=True)


# --- quantization-aware training ---


def test_quick_start_training(here):
    model = tf.keras.models.load_model("float_model.h5")
    quantizer = vitis_quantize.VitisQuantizer(model)
    qat_model = quantizer.get_qat_model()
    compiled(qat_model)
    qat_model.fit(train_dataset, verbose=0)
    vitis_quantize.VitisQuantizer.get_deploy_model(qat_model).save(here / "quantized_model.h5")
    tf.keras.models.load_model("quantized_model.h5")


def test_training_with_thresholds_saving_and_deploying(here):
    """The guide's checkpoint folder gets the suffix that Keras 3 asks for."""
    model = tf.keras.models.load_model("float_model.h5")
    quantizer = vitis_quantize.VitisQuantizer(model, quantize_strategy="pof2s_tqt")
    model = quantizer.get_qat_model(init_quant=True, calib_dataset=calib_dataset)
    compiled(model)
    checkpoint = keras.callbacks.ModelCheckpoint(
        filepath="./quantize_train.keras", save_best_only=True, monitor="sparse_top_k_categorical_accuracy"
    )
    model.fit(train_dataset, callbacks=[checkpoint], verbose=0)
    model.save("qat_model.h5")
    with vitis_quantize.quantize_scope():
        trained = tf.keras.models.load_model("qat_model.h5", compile=False)
    quantized_model = vitis_quantize.VitisQuantizer.get_deploy_model(trained)
    quantized_model.save("quantized_model.h5")
    compiled(quantized_model)
    assert np.isfinite(quantized_model.evaluate(eval_dataset, verbose=0)[0])
    assert (here / "quantize_train.keras").is_file()
    x = IMAGES[..., None].astype("float32")
    wanted = vq.deploy_model(model).model
    np.testing.assert_array_equal(quantized_model(x), wanted(x))
    vitis_quantize.VitisQuantizer.dump_model(quantized_model, IMAGES[:1])


def test_training_with_batch_norm():
    """The arguments that the guide lists for `get_qat_model`."""
    quantizer = vitis_quantize.VitisQuantizer(tf.keras.models.load_model("float_model.h5"))
    qat_model = quantizer.get_qat_model(
        init_quant=True, calib_dataset=calib_dataset, train_with_bn=True, freeze_bn_delay=2
    )
    compiled(qat_model).fit(train_dataset, verbose=0)
    deployed = vitis_quantize.VitisQuantizer.get_deploy_model(qat_model)
    assert not [layer for layer in deployed.layers if "Norm" in type(layer).__name__]
