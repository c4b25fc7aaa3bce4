"""What one process observed of the float model, another need not observe again."""

from __future__ import annotations

import subprocess
import sys

import keras
import pytest

from tests.bench.test_bench import data_for
from tests.support import zoo
from tests.support.custom_layers import Square
from vqkit.bench import Bench, cache
from vqkit.strategy import Strategy

FIRST = """
import sys
from tests.support import zoo
from tests.bench.test_bench import data_for
from vqkit.bench import Bench

model = zoo.build("residual")
bench = Bench(model, data_for(model), cache=sys.argv[1])
bench.observe(["pof2s", "fsx"], batch_size=5)
assert bench._facts.passes > 0
"""


def encodings(bench, strategy, **settings):
    found = bench.quantize(strategy, calibration="float", batch_size=5, **settings)
    return {k: p.to_json() for k, p in found.encodings.items()}, found.report


def test_a_second_process_observes_nothing(tmp_path):
    subprocess.run([sys.executable, "-c", FIRST, tmp_path], check=True, timeout=120)
    model = zoo.build("residual")
    bench, alone = Bench(model, data_for(model), cache=tmp_path), Bench(model, data_for(model))
    for strategy in ("pof2s", "fsx", Strategy.builtin("fsx").with_kwargs(activation_method=3)):
        assert encodings(bench, strategy) == encodings(alone, strategy)
    assert bench._facts.passes == 0
    assert alone._facts.passes == 2
    # Another width is observed, and added to what lies there.
    narrow = Strategy.builtin("pof2s").with_kwargs(activation_bit=5)
    assert encodings(bench, narrow) == encodings(alone, narrow)
    assert bench._facts.passes == 1
    later = Bench(model, data_for(model), cache=tmp_path)
    for strategy in ("pof2s", narrow):
        assert encodings(later, strategy) == encodings(alone, strategy)
    assert later._facts.passes == 0


@pytest.mark.parametrize("compat", [False, True])
def test_facts_come_back_as_they_were(tmp_path, compat):
    model = zoo.build("depthwise")
    first, second, alone = (Bench(model, data_for(model), cache=c) for c in (tmp_path, tmp_path, None))
    ways = [
        Strategy.builtin("pof2s"),
        Strategy.builtin("fsx"),
        Strategy.builtin("fsx").with_kwargs(activation_method=0, input_method=0),
    ]
    for strategy in ways:
        for bench in (first, second):
            assert encodings(bench, strategy, vitis_compat=compat) == encodings(alone, strategy, vitis_compat=compat)
    assert second._facts.passes == 0


def test_other_data_batches_or_code_and_spoiled_files_are_observed_anew(tmp_path, monkeypatch):
    model = zoo.build("residual")

    def passes(data, batch_size=5):
        bench = Bench(model, data, cache=tmp_path)
        bench.quantize("pof2s", calibration="float", batch_size=batch_size)
        return bench._facts.passes

    data = data_for(model)
    assert passes(data) == 1
    assert passes(data) == 0
    assert passes(data, batch_size=6) == 1
    assert passes(data_for(model, n_calib=11)) == 1
    for file in (tmp_path / "observed").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert passes(data) == 1
    assert passes(data) == 0
    monkeypatch.setattr(cache, "here", lambda: "another version")
    assert passes(data) == 1


def test_nothing_is_kept_of_code_that_no_digest_covers(tmp_path):
    inputs = keras.Input((4, 4, 3))
    outputs = keras.layers.Flatten()(Square()(keras.layers.Conv2D(2, 3)(inputs)))
    model = keras.Model(inputs, outputs)
    bench = Bench(model, data_for(model), cache=tmp_path)
    bench.evaluate(bench.quantize("pof2s", calibration="float"))
    bench.float_evaluation()
    assert not list(tmp_path.iterdir())
    assert bench._facts.passes == 1
