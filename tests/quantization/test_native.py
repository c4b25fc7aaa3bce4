"""A quantized model computes with vqkit's own operations here, and is saved without them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import zoo
from vqkit.bench.structure import Structure
from vqkit.evaluation import in_one_function
from vqkit.graph.keras_io import lower
from vqkit.primitives import native
from vqkit.quantization import quantize

CASES = [("residual", "pof2s"), ("residual", "fsx"), ("depthwise", "pof2s_tqt"), ("depthwise", "fs")]


@pytest.fixture(scope="module", autouse=True)
def available() -> None:
    if native.native().library is None:
        pytest.skip(native.native().told)


def run(code: str, **where: Any) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **where)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module", params=["pof2s", "fsx"])
def quantized(request: pytest.FixtureRequest) -> Any:
    model = zoo.residual()
    return quantize(model, request.param, zoo.batch(model, 8), batch_size=4).model


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Specs that our operations were asked for while something was traced."""
    found: list[Any] = []
    for name in ("values", "framework_values"):
        real = getattr(native, name)

        def noted(x: Any, spec: Any, *rest: Any, real: Any = real) -> Any:
            found.append(spec)
            return real(x, spec, *rest)

        monkeypatch.setattr(native, name, noted)
    return found


def test_predict_and_evaluate_use_them(quantized: Any, asked: list[Any]) -> None:
    x = zoo.batch(quantized, 4)
    expected = quantized(x)
    assert not asked
    quantized.compile(loss="mse")
    np.testing.assert_array_equal(quantized.predict(x, batch_size=4, verbose=0), expected)
    used = len(asked)
    assert used > 3
    assert quantized.evaluate(x, expected, batch_size=4, verbose=0) == 0
    assert len(asked) == 2 * used


def test_one_function_and_the_evaluation_of_variants_use_them(quantized: Any, asked: list[Any]) -> None:
    x = zoo.batch(quantized, 4)
    np.testing.assert_array_equal(in_one_function(quantized, x)(x), quantized(x))
    used = len(asked)
    assert used > 3
    Structure(lower(quantized)).evaluator()
    assert len(asked) == 2 * used


def test_a_model_that_is_jit_compiled_does_without(quantized: Any, asked: list[Any]) -> None:
    x = zoo.batch(quantized, 4)
    quantized.compile(loss="mse", jit_compile=True)
    np.testing.assert_allclose(quantized.predict(x, batch_size=4, verbose=0), quantized(x), atol=1e-4)
    assert not asked


def test_a_saved_model_runs_where_nobody_knows_them(quantized: Any, tmp_path: Path) -> None:
    x = zoo.batch(quantized, 4)
    quantized.compile(loss="mse")
    expected = quantized.predict(x, batch_size=4, verbose=0)
    quantized.export(str(tmp_path / "exported"), verbose=False)
    tf.saved_model.save(quantized, str(tmp_path / "saved"))
    np.save(tmp_path / "x.npy", x)
    code = (
        "import numpy as np, sys, tensorflow as tf\n"
        "x = np.load('x.npy')\n"
        "for folder in ('exported', 'saved'):\n"
        "    serve = tf.saved_model.load(folder).signatures['serving_default']\n"
        "    (y,) = serve(tf.constant(x)).values()\n"
        "    np.save(f'{folder}.npy', y)\n"
        "assert 'vqkit' not in sys.modules\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    run(code, cwd=tmp_path, env=environment)
    for folder in ("exported", "saved"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{folder}.npy"), expected)


def answers(model: str, strategy: str) -> dict[str, Any]:
    """What a quantization decides and what its model answers, as JSON values."""
    net = zoo.build(model)
    x = zoo.batch(net, 24)
    found = quantize(net, strategy, x[:16], batch_size=8)
    outputs = in_one_function(found.model, x)(x)
    return {
        "encodings": {name: params.to_json() for name, params in found.encodings.items()},
        "outputs": np.asarray(outputs).tobytes().hex(),
    }


@pytest.mark.parametrize(("model", "strategy"), CASES)
def test_nothing_changes_without_them(model: str, strategy: str) -> None:
    code = f"""
import json
from tests.quantization.test_native import answers
print(json.dumps(answers({model!r}, {strategy!r})))
"""
    told = run(code, cwd=Path(__file__).parents[2], env={**os.environ, native.SWITCH: "0"})
    assert json.loads(told.splitlines()[-1]) == json.loads(json.dumps(answers(model, strategy)))
