"""What one compiled function observes of a batch is what each tensor shows when it is observed alone."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.support import zoo
from vqkit.graph.copies import make_all_live
from vqkit.graph.keras_io import lower
from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType
from vqkit.quantization.calibrate import Calibrator, TensorStatistics, entering, observe, observe_batches
from vqkit.quantization.layer_kinds import Signs
from vqkit.quantization.prepare import instrument, prepare
from vqkit.strategy import Strategy

STRATEGIES = {
    "positions by error": ("pof2s", {}),
    "positions without overflow": ("pof2s", {"activation_method": 0, "input_method": 0}),
    "widest range": ("fsx", {"activation_method": 0, "input_method": 0}),
    "histograms": ("fsx", {}),
}


def facts(step: Calibrator, batches):
    observe_batches((entering(step.graph, batch) for batch in batches), step.run, step.observers)
    return {
        name: [np.stack(found) for found in (seen.f_min, seen.f_max, seen.pos) if found]
        + ([] if seen.histogram is None else [seen.histogram.counts, seen.histogram.edges])
        for name, seen in step.observed.items()
    }


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("compat", [True, False])
@pytest.mark.parametrize("case", sorted(STRATEGIES))
def test_together_as_alone(case: str, compat: bool, quantized: bool) -> None:
    name, changes = STRATEGIES[case]
    model = zoo.build("residual")
    x = zoo.batch(model, 10)
    prepared = prepare(model, Strategy.builtin(name).with_kwargs(**changes), vitis_compat=compat)
    graph, rows = instrument(prepared.graph, prepared.plan)
    live = make_all_live(graph)
    batches = [x[:4], x[4:8] * 3, x[8:]]
    together = facts(Calibrator(graph, rows, live, quantized, compat), batches)
    alone = facts(Calibrator(graph, rows, live, quantized, compat, aside=rows), batches)
    assert list(together) == [row.name for row in rows.values()]
    for tensor, found in together.items():
        assert len(found) >= 2
        for one, other in zip(found, alone[tensor], strict=True):
            np.testing.assert_array_equal(one, other)


def test_batches_of_any_size_go_through_a_sum_with_a_constant() -> None:
    """Keras says of such a sum that it has one sample, as the constant has."""
    x = keras.Input((4, 3))
    places = keras.layers.Embedding(4, 3)(np.arange(4)[None])
    added = keras.layers.Add()([keras.layers.Dense(3)(x), places])
    assert added.shape[0] == 1
    model = keras.Model(x, keras.layers.Dense(2)(added))
    prepared = prepare(model, Strategy.builtin("fsx"))
    graph, rows = instrument(prepared.graph, prepared.plan)
    data = np.random.default_rng(0).normal(size=(10, 4, 3)).astype("float32")
    found = facts(Calibrator(graph, rows, make_all_live(graph), False, False), [data[:4], data[4:8], data[8:]])
    counts, edges = found[f"{model.layers[-1].name}/output"][-2:]
    outputs = np.asarray(model(data))
    assert counts.sum() == outputs.size
    assert edges[-1] >= np.abs(outputs).max() * (1 - 1e-6)


def test_a_second_round_starts_anew() -> None:
    model = zoo.build("residual")
    prepared = prepare(model, Strategy.builtin("fsx").with_kwargs(activation_method=0, input_method=0))
    graph, rows = instrument(prepared.graph, prepared.plan)
    step, x = Calibrator(graph, rows, make_all_live(graph), True, False), zoo.batch(model, 8)
    wide = facts(step, [x * 5])
    step.restart()
    narrow = facts(step, [x])
    assert all(w[1][-1] > n[1][-1] for w, n in zip(wide.values(), narrow.values(), strict=True))


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("compat", [True, False])
@pytest.mark.parametrize("kind", [QuantizerType.POF2S, QuantizerType.FS, QuantizerType.MAFS])
@settings(max_examples=15, deadline=None)
@given(
    values=arrays(np.float32, (3, 2, 2), elements=st.floats(0, 1e6, width=32)),
    symmetry=st.booleans(),
    bits=st.integers(2, 16),
)
def test_the_least_value_of_a_tensor_that_is_never_negative_is_not_needed(
    kind: QuantizerType, compat: bool, per_channel: bool, values: np.ndarray, symmetry: bool, bits: int
) -> None:
    spec = QuantizerSpec(
        quantizer_type=kind,
        bit_width=8 if compat else bits,
        method=Method.NON_OVERFLOW,
        symmetry=symmetry or compat,
        per_channel=per_channel,
    )
    told, asked = TensorStatistics(), TensorStatistics()
    x = tf.constant(values)
    one = observe(x, spec, told, True, compat, nonnegative=True)
    other = observe(x, spec, asked, True, compat)
    np.testing.assert_array_equal(one, other)
    for found, wanted in zip((told.f_min, told.f_max, told.pos), (asked.f_min, asked.f_max, asked.pos), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_signs_of_layers() -> None:
    x = keras.Input((4, 4, 2))
    values = {
        "relu": keras.layers.ReLU()(x),
        "leaky": keras.layers.ReLU(negative_slope=0.1)(x),
        "raised": keras.layers.ReLU(threshold=0.5)(x),
        "enlarged": keras.layers.UpSampling2D(interpolation="bilinear")(keras.layers.ReLU()(x)),
        "overshooting": keras.layers.UpSampling2D(interpolation="bicubic")(keras.layers.ReLU()(x)),
        "sum": keras.layers.Add()([keras.layers.ReLU()(x), keras.activations.sigmoid(x)]),
        "mixed": keras.layers.Add()([keras.layers.ReLU()(x), x]),
    }
    graph = lower(keras.Model(x, values))
    signs = Signs(graph)
    found = {name: signs.value(ref.id) for name, ref in graph.output_struct.items()}
    assert found == {
        "relu": True,
        "leaky": False,
        "raised": True,
        "enlarged": True,
        "overshooting": False,
        "sum": False,
        "mixed": False,
    }
