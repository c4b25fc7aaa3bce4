"""Models of vqkit load in a fresh process with `import vqkit` and Keras' or mlflow's own loader."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

import vqkit
from tests.support import custom_layers
from vqkit._registered import HOMES

L = keras.layers
ROOT = Path(__file__).resolve().parents[2]
X = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
CASES: dict[str, Callable[[], keras.Model]] = {}


def case(make: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
    CASES[make.__name__] = make
    return make


def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 3), name="image")
    y = L.BatchNormalization()(L.Conv2D(4, 3, name="c1")(x))
    y = L.AveragePooling2D(2)(L.Activation("relu", name="r1")(y))
    y = L.Activation("sigmoid")(L.Conv2D(4, 2, name="c2")(y))
    return keras.Model(x, L.Dense(3, name="head")(L.Flatten()(y)))


@case
def ptq() -> keras.Model:
    return vqkit.quantize(net(), "pof2s", X).model


@case
def partial() -> keras.Model:
    strategy = vqkit.Strategy.builtin("fsx").with_kwargs(input_layers=["c2"], output_layers=["head"])
    return vqkit.quantize(net(), strategy, X).model


@case
def integers() -> keras.Model:
    strategy = vqkit.Strategy.builtin("fsx").with_kwargs(integer_arithmetic=True)
    return vqkit.quantize(net(), strategy, X).model


@case
def qat() -> keras.Model:
    return vqkit.qat_model(net(), "pof2s_tqt", X)


@case
def qat_with_batch_norm() -> keras.Model:
    return vqkit.qat_model(net(), vqkit.Strategy.builtin("pof2s_tqt").with_kwargs(train_with_bn=True), X)


@case
def with_a_custom_layer() -> keras.Model:
    x = keras.Input((8, 8, 3))
    y = custom_layers.Square()(L.Conv2D(4, 3)(x))
    return vqkit.quantize(keras.Model(x, L.Dense(2)(L.Flatten()(y))), "fs", X).model


def fresh(code: str, *args: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


CODE = """
import sys
IMPORTS
import numpy as np
folder, names = sys.argv[1], sys.argv[2:]
x = np.load(f"{folder}/x.npy")
for name in names:
    objects = None
    if name == "with_a_custom_layer":
        from tests.support import custom_layers as custom
        objects = custom.CUSTOM_OBJECTS
    if name == "mlflow":
        import mlflow
        got = mlflow.pyfunc.load_model(f"{folder}/{name}").predict(x)
    else:
        got = keras.models.load_model(f"{folder}/{name}.keras", custom_objects=objects)(x, training=False)
    atol = 1e-5 if name == "mlflow" else 0
    assert np.allclose(got, np.load(f"{folder}/{name}.npy"), rtol=0, atol=atol), name
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    np.save(folder / "x.npy", X)
    for name, make in CASES.items():
        model = make()
        model.save(folder / f"{name}.keras")
        np.save(folder / f"{name}.npy", model(X, training=False))
    return folder


def test_with_keras_own_loader(saved: Path) -> None:
    fresh(CODE.replace("IMPORTS", "import vqkit, keras"), str(saved), *CASES)


def test_with_keras_imported_first_and_with_mlflow(saved: Path) -> None:
    mlflow = pytest.importorskip("mlflow.tensorflow")
    model = ptq()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.save_model(model, str(saved / "mlflow"))
    np.save(saved / "mlflow.npy", model(X, training=False))
    fresh(CODE.replace("IMPORTS", "import keras, vqkit"), str(saved), "ptq", "qat", "mlflow")


def test_every_registered_class_has_a_stand_in() -> None:
    pattern = re.compile(r'register_keras_serializable\(package="vqkit"\)\nclass (\w+)')
    package = Path(vqkit.__file__).parent
    found = {
        ".".join(p.relative_to(package).with_suffix("").parts): tuple(sorted(pattern.findall(p.read_text())))
        for p in package.rglob("*.py")
    }
    assert {k: v for k, v in found.items() if v} == {k: tuple(sorted(v)) for k, v in HOMES.items()}
