"""Loading model files: vqkit's layers are known, failures say what is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.support import zoo
from vqkit.errors import ModelError
from vqkit.models import load_model
from vqkit.quantization import quantize

ROOT = Path(__file__).resolve().parents[2]


def test_a_quantized_model_computes_the_same_in_another_process(tmp_path):
    model = zoo.build("residual")
    x = zoo.batch(model, 8)
    quantized = quantize(model, "pof2s", x).model
    quantized.save(tmp_path / "q.keras")
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys, numpy as np, vqkit as vq\n"
        "model = vq.load_model(sys.argv[1] + '/q.keras')\n"
        "np.save(sys.argv[1] + '/y.npy', model(np.load(sys.argv[1] + '/x.npy')))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), quantized(x))


def test_code_in_a_file_is_not_run(tmp_path):
    x = keras.Input((3,))
    keras.Model(x, keras.layers.Lambda(lambda t: t * 2, name="twice")(x)).save(tmp_path / "code.keras")
    with pytest.raises(ModelError, match="Lambda layer holds code, which is not run"):
        load_model(tmp_path / "code.keras")


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"none\.keras: no such file"):
        load_model(tmp_path / "none.keras")
    (tmp_path / "broken.keras").write_bytes(b"no zip")
    with pytest.raises(ModelError, match=r"broken\.keras: Keras cannot load the model: ValueError"):
        load_model(tmp_path / "broken.keras")
