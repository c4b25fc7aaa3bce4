"""The inspector: what is on the device, what is not, why, the way out, and into how many parts it falls."""

from __future__ import annotations

import json
from typing import Any

import keras
import pytest
from keras import layers

from tests.support import zoo
from tests.support.custom_layers import Square
from vqkit.errors import StrategyError
from vqkit.graph.keras_io import lower
from vqkit.quantization import quantize
from vqkit.strategy import Strategy, vocabulary
from vqkit.targets import inspect
from vqkit.targets.target import KINDS, WAYS_BY_KIND

USER = "/quantize_registry_config/user_quantize_config"


def chain(*parts: Any, shape: tuple[int | None, ...] = (16, 16, 4)) -> keras.Model:
    """A model of these layers in a row, seeded."""
    x = y = keras.Input(shape, name="image")
    for part in parts:
        y = part(y)
    model = keras.Model(x, y, name="chain")
    zoo.randomize(model, seed=3)
    return model


def conv(name: str, **kwargs: Any) -> layers.Layer:
    return layers.Conv2D(4, 3, padding="same", name=name, **kwargs)


def pof2s(**kwargs: Any) -> Strategy:
    return Strategy.builtin("pof2s").with_kwargs(**kwargs)


def why(inspection, layer: str) -> tuple[str, str]:
    row = inspection[layer]
    assert row.device == "CPU"
    assert row.partition is None
    return row.reason, row.way_out


@pytest.mark.parametrize("strategy", ["pof2s", "pof2s_tqt"])
@pytest.mark.parametrize("name", ["conv_bn_relu", "residual", "depthwise", "concat", "two_inputs", "transposed"])
def test_what_the_device_was_made_for_is_on_it_in_one_partition(name, strategy):
    found = inspect(zoo.build(name), strategy)
    assert found.on_cpu == ()
    assert found.subgraphs == 1
    assert [row.reason for row in found.rows if row.reason] == []
    total = len(found.rows)
    layers_of = f"{total} of {total} layers of {found.model!r}"
    assert found.summary() == f"{layers_of} on the DPU under {strategy!r}, in 1 partition"


def test_device_kinds_are_those_of_the_registry_that_is_made_for_it():
    entries = vocabulary.builtin_document("pof2s")["quantize_registry_config"]["layer_quantize_config"]
    registry = {entry["layer_type"].rpartition(".")[2] for entry in entries}
    assert registry - KINDS == {"BatchNormalization", "VitisConvBN", "VitisDepthwiseConvBN"}
    assert KINDS - registry == set()
    assert set(WAYS_BY_KIND) & KINDS == set()


@pytest.mark.parametrize("name", zoo.NAMES)
@pytest.mark.parametrize("strategy", ["pof2s", "pof2s_tqt", "fs", "fsx"])
def test_every_layer_of_the_model_appears_and_each_on_the_cpu_has_reason_and_way_out(name, strategy):
    model = zoo.build(name)
    found = inspect(model, strategy)
    seen = {origin for row in found.rows for origin in row.model_layers}
    assert set(lower(model).layers) - seen == set()
    for row in found.rows:
        assert (row.device == "DPU") == (row.partition is not None)
        assert row.device == "DPU" or (row.reason and row.way_out)
    if strategy in ("fs", "fsx"):
        assert {row.device for row in found.rows} == {"CPU"}
        assert found.subgraphs == 0


@pytest.mark.parametrize(
    ("layer", "reason", "way_out"),
    [
        (layers.Softmax(name="x"), "the DPU has no layer Softmax", "leave it at the end"),
        (layers.LayerNormalization(name="x"), "the DPU has no layer LayerNormalization", "BatchNorm"),
        (layers.SeparableConv2D(4, 3, name="x"), "the DPU has no layer SeparableConv2D", "DepthwiseConv2D"),
        (Square(name="x"), "the DPU has no custom layer Square", "build it from layers that the DPU has"),
        (layers.Activation("tanh", name="x"), "tanh is computed in float", "train with relu"),
        (layers.LeakyReLU(0.3, name="x"), "slope 0.3; the device has 26/256 only", "train with slope 0.1"),
        (layers.ReLU(max_value=4, name="x"), "neither ReLU nor ReLU6", "train with ReLU or ReLU6"),
        (layers.ReLU(negative_slope=0.1, name="x"), "neither ReLU nor ReLU6", "train with ReLU or ReLU6"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_layers_that_the_device_does_not_have(layer, reason, way_out):
    found = inspect(chain(conv("before"), layers.MaxPooling2D(name="pool"), layer, conv("after")), "pof2s")
    assert found["x"].reason == reason
    assert way_out in found["x"].way_out
    assert found["x"].between
    assert found.subgraphs == 2
    assert found.partitions == (("before", "pool"), ("after",))


def test_an_activation_that_is_not_on_the_device_takes_its_convolution_along():
    found = inspect(chain(conv("a"), layers.LeakyReLU(0.3, name="leaky"), conv("b")), "pof2s")
    reason, way_out = why(found, "a")
    assert reason == "quantized only behind leaky, where slope 0.3; the device has 26/256 only"
    key = "/quantize_pipeline_config/no_quant_in_conv_act"
    assert way_out.endswith(f"; or set {key} to false")
    apart = Strategy.builtin("pof2s").with_value(key, False)
    found = inspect(chain(conv("a"), layers.LeakyReLU(0.3, name="leaky"), conv("b")), apart)
    assert {row.layer for row in found.on_cpu} == {"leaky"}


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ({"weight_bit": 4}, "its kernel has 4 bits, the device 8"),
        ({"weight_per_channel": True}, "its kernel has a scale for each channel, the device one"),
        ({"bias_bit": 16}, "its bias has 16 bits, the device 8"),
        ({"weight_symmetry": False}, "its kernel has a zero point, the device none"),
        ({"activation_bit": 16}, "its output has 16 bits, the device 8"),
    ],
)
def test_grids_that_the_device_does_not_have_name_the_rule_that_decided(override, reason):
    found = inspect(chain(conv("a"), conv("b")), pof2s(**override))
    said, way_out = why(found, "a")
    assert said == reason
    wanted = {"per_channel": "false", "symmetry": "true"}.get(next(iter(override)).partition("_")[2], "8")
    assert way_out == f"set {USER}/{next(iter(override))} to {wanted} (kwargs)"
    assert found.subgraphs == 0


def test_an_input_on_another_grid_is_told_at_its_reader():
    found = inspect(chain(conv("a"), conv("b")), pof2s(input_bit=4))
    assert why(found, "a") == (
        "reads an input of the model, which has 4 bits, the device 8",
        f"set {USER}/input_bit to 8 (kwargs)",
    )
    assert found["b"].device == "DPU"


def test_unsigned_codes_are_not_on_the_device():
    found = inspect(chain(conv("a"), layers.ReLU(name="relu")), pof2s(activation_unsigned=True))
    assert why(found, "relu")[0] == "its output has codes from 0, the device signed ones"
    assert why(found, "a")[0].startswith("quantized only behind relu")


def test_conversion_to_float_scales_takes_everything_off_the_device():
    found = inspect(chain(conv("a")), pof2s(convert_to_fs_quantize_strategy=True))
    assert why(found, "a") == (
        "its kernel has a float scale, where the device has powers of two",
        "set convert_to_fs_quantize_strategy to false",
    )
    assert why(inspect(chain(conv("a")), "fsx"), "a")[1] == "plan with pof2s or pof2s_tqt"


def test_first_and_last_layers_left_float_cost_no_partition():
    model = chain(conv("first"), conv("middle"), conv("last"))
    rules = {"first": "float32", "last": {"quantize": False}}
    strategy = Strategy.builtin("pof2s").with_value("/quantize_registry_config/layer_config", rules)
    found = inspect(model, strategy)
    where = "/quantize_registry_config/layer_config"
    assert why(found, "first") == (
        f"left float by with_value {where}/first",
        f"take {where}/first out of the strategy",
    )
    assert why(found, "last")[1] == f"take {where}/last/quantize out of the strategy"
    assert found.subgraphs == 1
    assert not any(row.between for row in found.rows)


def test_layers_outside_the_selected_part():
    found = inspect(chain(conv("a"), conv("b"), conv("c")), pof2s(ignore_layers=["b"]))
    assert why(found, "b")[0] == "not in the selected part of the model"
    assert "ignore_layers" in why(found, "b")[1]
    assert found.partitions == (("a",), ("c",))
    assert "1 on the CPU, 1 of them between layers on the DPU" in found.summary()


def test_a_layer_that_only_moves_values_stays_with_the_float_layer_before_it():
    found = inspect(chain(layers.Rescaling(2.0, name="scale"), layers.ZeroPadding2D(name="pad"), conv("a")), "pof2s")
    assert why(found, "pad") == ("reads scale, which is float", "give Rescaling an output quantizer")
    assert "images are prepared" in why(found, "scale")[1]
    assert found.partitions == (("a",),)
    assert not any(row.between for row in found.rows)


def test_device_forms():
    gate = chain(conv("a"), layers.Activation("swish", name="gate"))
    assert inspect(gate, "pof2s").on_cpu == ()
    off = inspect(gate, pof2s(convert_sigmoid_to_hard_sigmoid=False))
    assert why(off, "gate") == (
        "swish is computed in float",
        "set convert_sigmoid_to_hard_sigmoid and convert_hard_sigmoid_to_dpu_version to true",
    )
    leaky = chain(conv("a"), layers.LeakyReLU(0.1, name="leaky"))
    assert inspect(leaky, "pof2s").on_cpu == ()
    off = inspect(leaky, pof2s(convert_leaky_relu_to_dpu_version=False))
    assert why(off, "leaky")[1] == "set convert_leaky_relu_to_dpu_version to true"


def test_average_pools():
    pool = chain(conv("a"), layers.AveragePooling2D(2, name="pool"))
    assert inspect(pool, "pof2s")["pool"].reason == ""
    exact = inspect(pool, pof2s(convert_average_pooling2d_to_dpu_version=False))["pool"]
    assert exact.device == "DPU"
    assert exact.reason == "the device divides by a multiplication and a shift, this model exactly"
    large = chain(layers.AveragePooling2D((256, 2), name="pool"), shape=(256, 4, 3))
    assert why(inspect(large, "pof2s"), "pool") == (
        "window 256 x 2; the device averages up to 255 pixels on a side",
        "pool in two steps",
    )
    whole = chain(layers.GlobalAveragePooling2D(name="pool"), shape=(300, 4, 3))
    assert why(inspect(whole, "pof2s"), "pool")[0].startswith("window 300 x 4;")


def test_shifts_that_nothing_keeps_in_range_are_noted():
    found = inspect(chain(conv("a"), conv("b")), pof2s(adjust_dpu_shift_cut=False, adjust_dpu_shift_bias=False))
    assert found.on_cpu == ()
    assert found["a"].reason == "not ensured: the output's shift must lie in 0..16; the bias' shift must be at most 16"
    assert found["a"].way_out == "set adjust_dpu_shift_cut and adjust_dpu_shift_bias to true"
    assert "On the DPU, but:\n  a, b: not ensured" in str(found)


def test_batch_norm_and_dropout_that_stay():
    model = chain(conv("a"), layers.BatchNormalization(name="bn"), layers.Dropout(0.5, name="drop"), conv("b"))
    assert inspect(model, "pof2s").on_cpu == ()
    found = inspect(model, pof2s(fold_conv_bn=False, convert_bn_to_dwconv=False, remove_dropout=False))
    assert why(found, "bn")[1].startswith("set fold_conv_bn and convert_bn_to_dwconv to true")
    assert why(found, "drop")[1] == "set remove_dropout to true"


def test_compat_says_what_the_reference_leaves_float():
    model = zoo.build("shared_layer")
    assert why(inspect(model, "pof2s", vitis_compat=True), "encode")[1].startswith("plan without vitis_compat")


def branches(inner: layers.Layer) -> keras.Model:
    """conv → (inner, nothing) → add → conv."""
    x = keras.Input((8, 8, 4), name="image")
    y = conv("first")(x)
    z = conv("side")(inner(y))
    z = layers.Add(name="add")([y, z])
    return keras.Model(x, conv("last")(z), name="branches")


def test_a_way_over_the_cpu_beside_a_direct_one_costs_a_partition():
    """The Add waits for the CPU, so it cannot run in one go with the first convolution."""
    assert inspect(branches(layers.ReLU(name="inner")), "pof2s").partitions == (
        ("first", "inner", "side", "add", "last"),
    )
    found = inspect(branches(layers.Activation("tanh", name="inner")), "pof2s")
    assert found.partitions == (("first",), ("side", "add", "last"))
    assert found["inner"].between


def test_towers_that_meet_on_the_cpu_are_parts_of_their_own():
    a, b = keras.Input((8, 8, 4), name="a"), keras.Input((8, 8, 4), name="b")
    meet = layers.Subtract(name="minus")([conv("left")(a), conv("right")(b)])
    found = inspect(keras.Model([a, b], meet), "pof2s")
    assert found.partitions == (("left",), ("right",))


def test_inspection_agrees_with_the_quantized_model():
    """What is said to be on the device computes on int8 grids of powers of two."""
    model = zoo.build("activations")
    found, quantized = inspect(model, "pof2s"), quantize(model, "pof2s", zoo.batch(model, 16))
    for row in quantized.plan.quantized:
        if row.layer in {r.layer for r in found.rows if r.device == "DPU"}:
            params = quantized.encodings[row.name]
            assert params.spec.bit_width == 8
            assert params.pos.shape == ()
            assert float(params.pos) == round(float(params.pos))


def test_table_text_json_and_html():
    model = chain(conv("a"), layers.Softmax(name="x"), conv("b"))
    found = inspect(model, "pof2s")
    frame = found.to_frame()
    assert list(frame["device"]) == ["DPU", "CPU", "DPU"]
    assert frame["partition"].isna().tolist() == [False, True, False]
    text = str(found)
    assert text.startswith("2 of 3 layers of 'chain' on the DPU under 'pof2s', in 2 partitions; 1 on the CPU, 1 of")
    assert "On the CPU:\n  x: the DPU has no layer Softmax\n      -> leave it" in text
    data = json.loads(json.dumps(found.to_json()))
    assert data["subgraphs"] == 2
    assert data["rows"][1] == {
        "layer": "x",
        "kind": "Softmax",
        "device": "CPU",
        "partition": None,
        "between": True,
        "reason": "the DPU has no layer Softmax",
        "way_out": found["x"].way_out,
        "model_layers": ["x"],
    }
    assert ">Softmax</td>" in found._repr_html_()
    with pytest.raises(KeyError, match="nope"):
        found["nope"]


def test_an_unknown_target_is_an_error():
    with pytest.raises(StrategyError, match=r"target: value 'dpx' .*did you mean 'dpu'"):
        inspect(chain(conv("a")), "pof2s", "dpx")
