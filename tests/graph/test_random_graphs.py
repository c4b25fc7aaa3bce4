"""Properties of the optimize passes and of quantization, on random functional models.

`VQKIT_EXAMPLES=500 pytest tests/graph/test_random_graphs.py` searches longer.
"""

from __future__ import annotations

import os

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings

from tests.support import programs, zoo
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import lower, raise_model
from vqkit.graph.passes import equalize, simplify
from vqkit.graph.passes import simplify as fold
from vqkit.quantization import quantize

EXAMPLES = int(os.environ.get("VQKIT_EXAMPLES", "0"))
PASSES = (
    simplify.remove_dropout,
    simplify.ops_to_layers,
    simplify.separate_activations,
    fold.fold_batch_norm,
    fold.batch_norm_to_depthwise,
    equalize.equalize,
    lambda g: equalize.equalize(g, through_relu6=True),
)
IDEMPOTENT = PASSES[:5]


def short(*names):
    """A program that applies the operations one after another."""
    return programs.Program((2,), tuple(programs.Step(n, 0, 0, 2) for n in names), 1, 0)


# Found by longer searches: passes lost track of nodes that they had just changed, and split a shared layer's
# activation off behind one call only.
FOUND = (
    short("dropout", "dropout", "conv"),
    short("conv", "norm", "norm", "relu"),
    programs.Program((2,), (programs.Step("conv", 0, 0, 1), programs.Step("again", 0, 0, 0)), 1, 0, skipped=2),
)


def found(test):
    for program in FOUND:
        test = example(program=program)(test)
    return test


def examples(few):
    return settings(
        max_examples=EXAMPLES or few,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def leaves(outputs):
    return [np.asarray(t) for t in keras.tree.flatten(outputs)]


def called(model, x):
    return leaves(model(x, training=False))


def state(model):
    nodes = {layer.name: len(layer._inbound_nodes) for layer in model.layers}
    return nodes, str(model.get_config()), [w.numpy() for w in model.weights]


def same(one: Graph, other: Graph) -> bool:
    shape = lambda g: [(n.name, n.layer, g.kind(n), n.inputs, n.outputs) for n in g.nodes]  # noqa: E731
    if shape(one) != shape(other):
        return False
    pairs = ((layer.weights, other.layers[name].weights) for name, layer in one.layers.items())
    return all(a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a) for a, b in pairs)


@examples(30)
@found
@given(program=programs.PROGRAMS)
def test_passes_one_after_another_keep_the_function(program):
    model = programs.build(program)
    x, before = zoo.batch(model), state(model)
    wanted, graph = called(model, x), lower(model)
    graph.candidates = programs.candidates(program, graph)
    for rewrite in PASSES:
        changed = rewrite(graph)
        if same(changed, graph):
            continue
        for got, want in zip(called(raise_model(changed), x), wanted, strict=True):
            np.testing.assert_allclose(got, want, atol=1e-4 * max(np.ptp(want), 1e-6), rtol=0)
        graph = changed
    for now, was in zip(state(model), before, strict=True):
        np.testing.assert_equal(now, was)


@examples(60)
@found
@given(program=programs.PROGRAMS)
def test_each_pass_changes_nothing_the_second_time(program):
    graph = lower(programs.build(program))
    for rewrite in IDEMPOTENT:
        for start in (graph, fold.fold_batch_norm(simplify.separate_activations(graph))):
            once = rewrite(start)
            assert same(rewrite(once), once)


@examples(30)
@found
@given(program=programs.PROGRAMS)
def test_equalization_settles(program):
    graph = fold.fold_batch_norm(simplify.separate_activations(lower(programs.build(program))))
    settled = equalize.equalize(graph, steps=100)
    more = equalize.equalize(settled, steps=1)
    for name, layer in settled.layers.items():
        for key, array in layer.weights.items():
            np.testing.assert_allclose(more.layers[name].weights[key], array, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("strategy", ["pof2s", "fsx"])
@examples(6)
@found
@given(program=programs.PROGRAMS)
def test_quantizing_leaves_the_float_model_alone_and_passes_the_audit(strategy, program):
    model = programs.build(program)
    x, before = zoo.batch(model), state(model)
    quantized = quantize(model, strategy, x, batch_size=2)
    assert quantized.audit()["ok"].all()
    for array in called(quantized.model, x):
        assert np.isfinite(array).all()
    for now, was in zip(state(model), before, strict=True):
        np.testing.assert_equal(now, was)
    reached = {r.layer for r in quantized.plan.rows} | {o for r in quantized.plan.rows for o in r.origin}
    assert {n.name for n in lower(model).nodes} <= reached
