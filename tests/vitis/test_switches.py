"""No key of a built-in strategy is untested: each is turned, alone and in pairs, on graphs that nobody chose.

`python benchmarks/switches.py` walks all pairs; here a sample is drawn anew for every graph.
"""

from __future__ import annotations

import random

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.switch_parts.checks import faults, placed
from benchmarks.switch_parts.keys import NAMED, SECTIONS, combinations, switches
from tests.support import programs, zoo
from vqkit.errors import StrategyError
from vqkit.graph.keras_io import lower
from vqkit.quantization import quantize
from vqkit.quantization.planner import resolve
from vqkit.quantization.prepare import graphs
from vqkit.strategy import Strategy, vocabulary

layers, ops = keras.layers, keras.ops
STRATEGIES = ("pof2s", "pof2s_tqt", "fs", "fsx")
WALKS = {name: list(combinations(name)) for name in STRATEGIES}
# What these do shows only in training, or only together with the switch that they belong to.
ONLY_IN_TRAINING = {"freeze_bn_delay", "train_with_bn"}
# It speaks of a convolution and a batch norm that train together, and by default of a batch norm that has an
# entry, which in the float-scale strategies it has not.
OF_TRAINED_BATCH_NORMS = {"no_quant_in_conv_bn_act"}


def found(lowered, strategy, kwargs, compat, x, wanted):
    """What is wrong; None where the strategy may be and is refused.

    By default that is a key that reaches no quantizer, in compat what the reference refuses.
    """
    try:
        return list(faults(lowered, strategy, kwargs, compat=compat, x=x, wanted=wanted))
    except StrategyError as error:
        allowed = ("vitis_compat: ", "cannot be quantized") if compat else ("reached no quantizer",)
        return None if any(words in str(error) for words in allowed) else [str(error)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_key_has_a_turned_value_that_differs(strategy):
    document, turned = vocabulary.builtin_document(strategy), switches(strategy)
    user = document["quantize_registry_config"]["user_quantize_config"]
    given_values = {k: v for section in SECTIONS for k, v in document[section].items()} | user
    assert turned.keys() == given_values.keys() - set(NAMED)
    assert all(turned[k] != given_values[k] for k in turned)
    one = Strategy.builtin(strategy)
    assert all(one.with_kwargs(**{k: v}).dump() != one.dump() for k, v in turned.items())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_switches_on_the_zoo(strategy):
    rng = random.Random(strategy)
    for name in zoo.NAMES:
        model = zoo.build(name)
        lowered, x = lower(model), zoo.batch(model)
        wanted = [np.asarray(t) for t in keras.tree.flatten(model(x, training=False))]
        for kwargs in ({}, *rng.sample(WALKS[strategy], 2)):
            for compat in (True, False):
                inputs = x if kwargs else None
                assert not found(lowered, strategy, kwargs, compat, inputs, wanted), (name, kwargs, compat)


@settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(program=programs.PROGRAMS, strategy=st.sampled_from(STRATEGIES), data=st.data())
def test_switches_on_random_graphs(program, strategy, data):
    model = programs.build(program)
    lowered, x = lower(model), zoo.batch(model)
    wanted = [np.asarray(t) for t in keras.tree.flatten(model(x, training=False))]
    kwargs = data.draw(st.sampled_from(WALKS[strategy]))
    for compat in (True, False):
        assert not found(lowered, strategy, kwargs, compat, x, wanted), (kwargs, compat)


def rich():
    """A layer for every switch of the optimize and quantize pipelines."""
    x = i = keras.Input((12, 12, 3), name="in")
    x = layers.Conv2D(4, 3, activation="relu", name="c1")(x)
    x = layers.Conv2D(4, 1, activation="sigmoid", name="c2")(x)
    x = layers.Conv2D(4, 1, name="c3")(x)
    x = layers.ReLU(6.0, name="r6")(x)
    x = layers.DepthwiseConv2D(3, name="dw")(x)
    x = layers.BatchNormalization(name="bn1")(x)
    x = layers.LeakyReLU(negative_slope=0.1, name="leaky")(x)
    x = layers.AveragePooling2D(2, name="ap")(x)
    x = layers.Dropout(0.1, name="drop")(x)
    x = layers.BatchNormalization(name="bn2")(x)
    x = x + layers.Conv2D(4, 1, name="c4")(x)
    x = layers.Add(name="sum")([x, layers.Conv2D(4, 1, name="c5")(x)])
    x = layers.ReLU(name="sum_relu")(x)
    x = layers.ReLU(6.0, name="hs")(x + 3.0) * (1 / 6)
    x = layers.Flatten(name="flat")(x)
    model = keras.Model(i, layers.Dense(3, activation="softmax", name="fc")(x), name="rich")
    zoo.randomize(model, seed=11)
    kernels = [model.get_layer(n).kernel for n in ("c1", "c3")]
    for kernel in kernels:
        kernel.assign(kernel.numpy() * np.array([0.01, 0.2, 1, 4], "float32"))
    return model


def told(lowered, strategy, kwargs, compat):
    """Everything that is decided before data are seen."""
    chosen = Strategy.builtin(strategy).with_kwargs(**kwargs)
    made = graphs(lowered, chosen, vitis_compat=compat)
    plan = resolve(chosen, made.device, vitis_compat=compat)
    weights = {f"{n}/{k}": w.tolist() for n, layer in made.device.layers.items() for k, w in layer.weights.items()}
    nodes = [(n.name, made.device.kind(n), str(made.device.layer_of(n).config)) for n in made.device.nodes]
    return placed(plan), weights, nodes


@pytest.mark.parametrize("strategy", ["pof2s", "fsx"])
@pytest.mark.parametrize("compat", [True, False])
def test_every_switch_of_the_graph_does_something(strategy, compat):
    lowered, document = lower(rich()), vocabulary.builtin_document(strategy)
    keys = [k for section in SECTIONS[:2] for k in document[section]]
    plain, without = told(lowered, strategy, {}, compat), []
    for key in keys:
        if told(lowered, strategy, {key: switches(strategy)[key]}, compat) == plain:
            without.append(key)
    expected = ONLY_IN_TRAINING | (OF_TRAINED_BATCH_NORMS if strategy == "fsx" else set())
    assert set(without) | {"train_with_bn"} == expected


def ordinary():
    """No row of docs/defects.md is about a graph like this one."""
    x = i = keras.Input((10, 10, 3), name="in")
    x = layers.Conv2D(4, 3, activation="relu", name="c1")(x)
    x = layers.Conv2D(5, 3, name="c2")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Activation("relu", name="act")(x)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Conv2D(4, 1, activation="relu", name="c3")(x)
    x = layers.Add(name="add")([x, layers.Conv2D(4, 1, name="c4")(x)])
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    model = keras.Model(i, layers.Dense(3, name="fc")(x), name="ordinary")
    zoo.randomize(model, seed=12)
    return model


@pytest.mark.parametrize("strategy", ["pof2s", "fsx"])
def test_compat_is_the_default_where_nothing_is_to_correct(strategy):
    model = ordinary()
    lowered, x = lower(model), zoo.batch(model, 6)
    rng = random.Random(strategy)
    corrected = (
        "fold_",
        "_to_dwconv",
        "no_quant_in_",
        "_method",
        "_round_mode",
        "_per_channel",
        "_symmetry",
        "convert_to_fs",
        "fast_ft",
        "bias_corr",
        "use_framework",
        "train_with_bn",
    )
    walk = [k for k in WALKS[strategy] if not any(part in key for key in k for part in corrected)]
    start = {} if strategy == "pof2s" else {"input_method": 0, "activation_method": 0}
    for kwargs in rng.sample(walk, 20):
        assert told(lowered, strategy, kwargs, True) == told(lowered, strategy, kwargs, False), kwargs
    for kwargs in rng.sample(walk, 2):
        one, other = (
            quantize(model, Strategy.builtin(strategy).with_kwargs(**start, **kwargs), x, vitis_compat=c)
            for c in (True, False)
        )
        assert one.encodings.keys() == other.encodings.keys()
        for name, params in one.encodings.items():
            assert str(params.to_json()) == str(other.encodings[name].to_json()), (kwargs, name)
