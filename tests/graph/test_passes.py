"""Optimize passes: the float function stays, a second run changes nothing, the input graph is untouched."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.support import zoo
from vqkit.graph.keras_io import lower, raise_model
from vqkit.graph.passes import device, equalize, simplify
from vqkit.graph.passes import simplify as fold

PASSES = {
    "remove_dropout": simplify.remove_dropout,
    "separate_activations": simplify.separate_activations,
    "ops_to_layers": simplify.ops_to_layers,
    "fold_batch_norm": fold.fold_batch_norm,
    "batch_norm_to_depthwise": fold.batch_norm_to_depthwise,
    "equalize": lambda g: equalize.equalize(g, steps=3),
    "all": lambda g: equalize.equalize(
        fold.batch_norm_to_depthwise(
            fold.fold_batch_norm(simplify.separate_activations(simplify.ops_to_layers(simplify.remove_dropout(g))))
        )
    ),
}


def run(model, x):
    return [np.asarray(t) for t in keras.tree.flatten(model(x))]


def kinds(graph):
    return [graph.kind(n) for n in graph.nodes]


def snapshot(graph):
    weights = {k: {w: a.copy() for w, a in layer.weights.items()} for k, layer in graph.layers.items()}
    return [(n.name, n.layer, n.inputs, n.outputs) for n in graph.nodes], weights


@pytest.mark.parametrize("name", zoo.NAMES)
@pytest.mark.parametrize("which", PASSES)
def test_function_is_preserved(name, which):
    model = zoo.build(name)
    x = zoo.batch(model)
    graph = lower(model)
    nodes, weights = snapshot(graph)
    rewritten = PASSES[which](graph)
    for got, want in zip(run(raise_model(rewritten), x), run(model, x), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4 * max(np.ptp(want), 1e-6), rtol=0)
    assert snapshot(graph)[0] == nodes
    for layer, arrays in weights.items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(graph.layers[layer].weights[key], array)


@pytest.mark.parametrize("name", zoo.NAMES)
@pytest.mark.parametrize("which", [p for p in PASSES if p not in ("equalize", "all")])
def test_idempotent(name, which):
    once = PASSES[which](lower(zoo.build(name)))
    twice = PASSES[which](once)
    assert snapshot(twice)[0] == snapshot(once)[0]
    for key, layer in once.layers.items():
        for weight, array in layer.weights.items():
            np.testing.assert_array_equal(twice.layers[key].weights[weight], array)


def test_equalization_settles():
    graph = fold.fold_batch_norm(simplify.separate_activations(lower(zoo.build("residual"))))
    settled = equalize.equalize(graph, steps=60)
    more = equalize.equalize(settled, steps=1)
    for key, layer in settled.layers.items():
        for weight, array in layer.weights.items():
            np.testing.assert_allclose(more.layers[key].weights[weight], array, rtol=1e-3, atol=1e-6)


def conv_relu_conv(relu):
    x = keras.Input((6, 6, 2))
    y = relu(keras.layers.Conv2D(3, 3, name="head")(x))
    model = keras.Model(x, keras.layers.Conv2D(2, 3, name="tail")(y))
    zoo.randomize(model, seed=3)
    head = model.get_layer("head")
    head.kernel.assign(head.kernel.numpy() * np.array([0.2, 1, 4], "float32"))
    return model


def test_conv_relu_layer_conv_is_equalized_and_left_alone_in_compat():
    graph = lower(conv_relu_conv(keras.layers.ReLU()))
    spread = lambda g: np.ptp(np.log(np.abs(g.layers["head"].weights["kernel"]).max((0, 1, 2))))  # noqa: E731
    assert spread(equalize.equalize(graph)) < 0.8 * spread(graph)
    assert equalize.equalize(graph, vitis_compat=True).layers["head"] is graph.layers["head"]


@pytest.mark.parametrize(
    "relu",
    [
        keras.layers.ReLU(6.0),
        keras.layers.ReLU(6.0, negative_slope=0.1),
        keras.layers.ReLU(threshold=1.0),
        keras.layers.Activation("tanh"),
        keras.layers.Activation("hard_sigmoid"),
        keras.layers.ELU(),
        keras.layers.SpatialDropout2D(0.2),
    ],
)
@pytest.mark.parametrize("through_relu6", [False, True])
def test_equalization_stops_at_activations_that_do_not_scale(relu, through_relu6):
    graph = lower(conv_relu_conv(relu))
    after = equalize.equalize(graph, through_relu6=through_relu6)
    plain_relu6 = getattr(relu, "max_value", None) == 6.0 and not relu.negative_slope
    assert (after.layers["head"] is graph.layers["head"]) is not (through_relu6 and plain_relu6)


@pytest.mark.parametrize(
    "act",
    [
        keras.layers.ReLU(negative_slope=0.1),
        keras.layers.LeakyReLU(negative_slope=0.3),
        keras.layers.PReLU(),
        keras.layers.PReLU(shared_axes=[1, 2]),
        keras.layers.Activation("leaky_relu"),
    ],
)
def test_equalization_across_slopes_is_exact_and_left_alone_in_compat(act):
    model = conv_relu_conv(act)
    graph = lower(model)
    after, x = equalize.equalize(graph), zoo.batch(model)
    assert after.layers["head"] is not graph.layers["head"]
    np.testing.assert_allclose(raise_model(after)(x), model(x), rtol=1e-5, atol=1e-5)
    assert equalize.equalize(graph, vitis_compat=True).layers["head"] is graph.layers["head"]


@pytest.mark.parametrize("function", ["tanh", "sigmoid", "relu6", "softmax"])
@pytest.mark.parametrize("inline", [True, False])
def test_compat_equalizes_across_any_activation_with_cle_to_relu6(function, inline):
    model = conv_with(function) if inline else conv_relu_conv(keras.layers.Activation(function))
    graph, x = lower(model), zoo.batch(model)
    assert equalize.equalize(graph, vitis_compat=True).layers["head"] is graph.layers["head"]
    after = equalize.equalize(graph, through_relu6=True, vitis_compat=True)
    assert np.abs(raise_model(after)(x) - model(x)).max() > 0.01
    right = equalize.equalize(graph, through_relu6=True)
    np.testing.assert_allclose(raise_model(right)(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", ["linear", "relu", "leaky_relu"])
def test_a_convolutions_own_activation_is_equalized_across(function):
    model = conv_with(function)
    graph, x = lower(model), zoo.batch(model)
    after = equalize.equalize(graph)
    assert after.layers["head"] is not graph.layers["head"]
    np.testing.assert_allclose(raise_model(after)(x), model(x), rtol=1e-5, atol=1e-5)


def conv_with(function):
    x = keras.Input((6, 6, 2))
    y = keras.layers.Conv2D(3, 3, activation=function, name="head")(x)
    model = keras.Model(x, keras.layers.Conv2D(2, 3, name="tail")(y))
    zoo.randomize(model, seed=3)
    head = model.get_layer("head")
    head.kernel.assign(head.kernel.numpy() * np.array([0.2, 1, 4], "float32"))
    return model


@pytest.mark.parametrize("balance", ["max", "avg"])
@pytest.mark.parametrize("compat", [True, False])
def test_the_threshold_asks_for_largest_magnitudes_whatever_is_balanced(balance, compat):
    """A net of small mean and large maximum was not equalized at all by "avg"."""
    graph = lower(conv_with("relu"))
    head, tail = (np.abs(graph.layers[n].weights["kernel"]) for n in ("head", "tail"))
    bias = np.abs(graph.layers["head"].weights["bias"])
    reach = np.maximum(head.max((0, 1, 2)), bias) + tail.max((0, 1, 3))
    assert np.sort(head.mean((0, 1, 2)) + tail.mean((0, 1, 3)))[-1] < np.sort(reach)[1]
    between = float(np.sort(reach)[:2].mean())
    after = equalize.equalize(graph, steps=1, balance=balance, threshold=between, vitis_compat=compat)
    factor = after.layers["head"].weights["kernel"] / graph.layers["head"].weights["kernel"]
    moved = ~np.isclose(factor[0, 0, 0], 1)
    np.testing.assert_array_equal(moved, reach >= between)


def test_equalized_scale_follows_the_formula():
    graph = lower(conv_relu_conv(keras.layers.ReLU()))
    head, tail = graph.layers["head"].weights, graph.layers["tail"].weights
    h = np.maximum(np.abs(head["kernel"]).max((0, 1, 2)), np.abs(head["bias"]))
    s = np.clip(np.sqrt(np.abs(tail["kernel"]).max((0, 1, 3)) / h), 0.1, 10)
    once = equalize.equalize(graph, steps=1)
    np.testing.assert_allclose(once.layers["head"].weights["kernel"], head["kernel"] * s, rtol=1e-6)
    np.testing.assert_allclose(once.layers["tail"].weights["kernel"], tail["kernel"] / s[:, None], rtol=1e-6)


def test_batch_norms_without_centre_or_scale_and_on_vectors_are_folded():
    x = keras.Input((5,))
    y = keras.layers.Dense(4, use_bias=False, name="a")(x)
    y = keras.layers.BatchNormalization(center=False, name="a_bn")(y)
    y = keras.layers.Dense(3, name="b")(y)
    y = keras.layers.BatchNormalization(scale=False, name="b_bn")(y)
    model = keras.Model(x, y)
    zoo.randomize(model, seed=1)
    graph = fold.fold_batch_norm(lower(model))
    assert [n.name for n in graph.nodes] == ["a", "b"]
    batch = zoo.batch(model)
    np.testing.assert_allclose(raise_model(graph)(batch), model(batch), atol=1e-5)


def test_depthwise_multiplier_is_folded():
    model = zoo.build("depth_multiplier")
    graph = fold.fold_batch_norm(lower(model))
    assert not [n for n in graph.nodes if graph.kind(n) == "BatchNormalization"]


def test_lone_batch_norms_on_images_become_depthwise_and_on_vectors_stay():
    graph = fold.batch_norm_to_depthwise(fold.fold_batch_norm(lower(zoo.build("lone_batch_norm"))))
    assert {n.name: graph.kind(n) for n in graph.nodes if n.name.startswith("bn")} == {
        "bn_first": "DepthwiseConv2D",
        "bn_plain": "DepthwiseConv2D",
        "bn_2d": "BatchNormalization",
    }


def device_graph(*functions, shape=(4, 4, 2)):
    x = keras.Input(shape)
    y = keras.layers.Conv2D(2, 1, name="conv")(x)
    for f in functions:
        y = f(y)
    model = keras.Model(x, y)
    zoo.randomize(model, seed=5)
    return model, lower(model)


def test_swish_becomes_gate_and_product():
    _, graph = device_graph(keras.layers.Activation("swish", name="act"))
    graph = device.sigmoids(graph)
    assert [(n.name, graph.kind(n)) for n in graph.nodes[1:]] == [
        ("act", "VitisSigmoid"),
        ("act_mul", "Multiply"),
    ]


@pytest.mark.parametrize(
    ("function", "compat", "behind"),
    [
        ("sigmoid", False, ["conv_sigmoid"]),
        ("sigmoid", True, ["conv_sigmoid"]),
        ("swish", True, ["conv_sigmoid", "conv_mul"]),
        ("silu", False, ["conv_sigmoid", "conv_mul"]),
        ("hard_silu", False, ["conv_sigmoid", "conv_mul"]),
        ("hard_silu", True, []),
        ("hard_sigmoid", False, ["conv_sigmoid"]),
        ("hard_sigmoid", True, []),
        ("tanh", False, []),
    ],
)
@pytest.mark.parametrize("some", [None, {"conv", "after"}])
def test_a_layers_own_sigmoid_and_swish_are_split_off_in_device_form(function, compat, behind, some):
    x = keras.Input((4, 4, 2))
    y = keras.layers.Conv2D(2, 1, activation=function, name="conv")(x)
    z = keras.layers.Conv2D(2, 1, name="after")(y)
    model = keras.Model(x, [z, y])
    zoo.randomize(model, seed=5)
    graph = lower(model)
    graph.candidates = some
    after = device.sigmoids(graph, vitis_compat=compat)
    assert [n.name for n in after.nodes] == ["conv", *behind, "after"]
    assert all(map(after.is_candidate, after.nodes))
    x = zoo.batch(model)
    gap = max(np.abs(a - b).max() for a, b in zip(raise_model(after)(x), model(x), strict=True))
    assert gap < (0.6 if behind else 1e-6)


def test_dropouts_are_removed_and_in_compat_the_plain_one_only():
    layers = keras.layers
    _, graph = device_graph(
        layers.SpatialDropout2D(0.2), layers.GaussianNoise(0.1), layers.Dropout(0.1), layers.AlphaDropout(0.1)
    )
    assert kinds(simplify.remove_dropout(graph)) == ["Conv2D"]
    assert kinds(simplify.remove_dropout(graph, vitis_compat=True)) == [
        "Conv2D",
        "SpatialDropout2D",
        "GaussianNoise",
        "AlphaDropout",
    ]


def test_hard_sigmoid_written_with_operators_is_recognized_by_its_constants():
    write = lambda offset: lambda y: keras.layers.ReLU(6.0)(y + offset) * (1 / 6)  # noqa: E731
    _, graph = device_graph(write(3.0))
    assert kinds(device.hard_sigmoid_patterns(graph)) == ["Conv2D", "VitisSigmoid"]
    _, other = device_graph(write(2.0))
    assert "VitisSigmoid" not in kinds(device.hard_sigmoid_patterns(other))
    assert kinds(device.hard_sigmoid_patterns(other, vitis_compat=True)) == ["Conv2D", "VitisSigmoid"]


def test_leaky_slopes():
    _, graph = device_graph(
        keras.layers.LeakyReLU(negative_slope=0.1, name="a"),
        keras.layers.LeakyReLU(negative_slope=0.3, name="b"),
    )
    graph = device.leaky_relus(graph)
    assert graph.layers["a"].config["negative_slope"] == 26 / 256
    assert graph.layers["b"].config["negative_slope"] == 0.3


@pytest.mark.parametrize(
    ("pool", "shape", "factor", "compat"),
    [
        (keras.layers.AveragePooling2D(3), (9, 9, 2), 63 / 64, 63 / 64),
        (keras.layers.GlobalAveragePooling2D(), (7, 1, 2), 49 * 21 / 1024, 49 * 21 / 1024),
        (keras.layers.AveragePooling2D((3, 2)), (8, 8, 2), None, 1.0),
        (keras.layers.AveragePooling2D((3, 2)), (3, 2, 2), 36 * 7 / 256, 36 * 7 / 256),
    ],
)
def test_average_pool_factors(pool, shape, factor, compat):
    from vqkit.primitives.kernels import average_pool_scale

    _, graph = device_graph(pool, shape=shape)
    name = graph.nodes[-1].layer
    expected = average_pool_scale(3, 2) if factor is None else factor
    assert device.average_pools(graph).layers[name].config["factor"] == pytest.approx(expected, rel=1e-7)
    assert device.average_pools(graph, vitis_compat=True).layers[name].config["factor"] == pytest.approx(
        compat, rel=1e-7
    )


def test_operations_of_a_model_called_twice_become_layers_at_both_calls():
    x = keras.Input((4,))
    inner_in = keras.Input((4,))
    inner = keras.Model(inner_in, keras.ops.relu(inner_in) + inner_in, name="inner")
    model = keras.Model(x, inner(inner(x)))
    graph = simplify.ops_to_layers(lower(model))
    assert sorted({graph.kind(n) for n in graph.nodes}) == ["Add", "ReLU"]
    data = np.linspace(-2, 2, 8, dtype="float32").reshape(2, 4)
    np.testing.assert_array_equal(raise_model(graph)(data), model(data))
