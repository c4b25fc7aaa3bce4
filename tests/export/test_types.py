"""Every type of input and computation in every format: what leaves agrees, what does not says why."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import vqkit
from vqkit.errors import ModelError
from vqkit.export.crosscheck import FILES, RUNTIMES
from vqkit.export.lowering import INPUT_TYPES

L = keras.layers
REFUSED = {
    ("bfloat16 input", "onnx"): ("input 'image'", "is bfloat16"),
    ("bfloat16 input", "tflite"): ("input 'image'", "is bfloat16"),
    **{
        (kind, format): ("layer 'hidden' (Dense)", f"computes in {kind.removeprefix('mixed_')}", "in float32")
        for kind in ("mixed_float16", "mixed_bfloat16", "float16")
        for format in ("onnx", "tflite")
    },
    ("bfloat16", "onnx"): ("input 'image'", "is bfloat16"),
    ("bfloat16", "tflite"): ("input 'image'", "is bfloat16"),
    ("bfloat16", "h5"): ("layer 'hidden'", "bfloat16", ".h5"),
}
"""What is computed and the format that does not have it -> words of its sentence."""
WORDS = ("uint8", "int64", "float32")
POLICIES = ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16")


@cache
def of_all_types() -> tuple[Any, dict[str, np.ndarray]]:
    """One model with an input of each type, each with layers of its own; quantized, and samples."""
    keras.utils.set_random_seed(0)
    inputs, outputs, rng = [], [], np.random.default_rng(0)
    x: dict[str, np.ndarray] = {}
    for dtype in INPUT_TYPES:
        i = keras.Input((6,), dtype=dtype, name=f"as_{dtype}")
        y = L.Rescaling(1 / 100, -0.5)(i)
        outputs.append(L.Dense(2, activation="relu")(y))
        inputs.append(i)
        x[i.name] = _values(dtype, rng)
    for dtype in WORDS:
        i = keras.Input((5,), dtype=dtype, name=f"words_{dtype}")
        outputs.append(L.Flatten()(L.Embedding(9, 3)(i)))
        inputs.append(i)
        x[i.name] = rng.integers(0, 9, (16, 5)).astype(dtype)
    i = keras.Input((6,), dtype="float64", name="doubles")
    outputs.append(L.Softmax(dtype="float64")(L.Dense(4, activation="relu", dtype="float64")(i)))
    x[i.name] = rng.normal(size=(16, 6))
    model = keras.Model([*inputs, i], outputs)
    return vqkit.quantize(model, "pof2s", list(x.values())), x


def _values(dtype: str, rng: np.random.Generator) -> np.ndarray:
    if dtype == "bool":
        return rng.random((16, 6)) < 0.5
    if dtype.startswith("float"):
        return rng.normal(0, 50, (16, 6)).astype(dtype)
    return rng.integers(0, 200 if dtype != "int8" else 128, (16, 6)).astype(dtype)


def test_every_type_of_input_agrees_in_every_format() -> None:
    q, x = of_all_types()
    found = vqkit.cross_check(q, list(x.values()), [*RUNTIMES, *FILES])
    assert found.first == {}
    assert found.skipped == {}
    for runtime, table in found.table.groupby("runtime"):
        compared = [t for t in table.tensor if "/" not in t]
        assert len(compared) == len(INPUT_TYPES) + len(WORDS) + 1, runtime


def test_files_keep_the_types_of_inputs_and_outputs(tmp_path: Path) -> None:
    import onnx
    from ai_edge_litert.interpreter import Interpreter

    q, x = of_all_types()
    model = onnx.load(vqkit.export(q, tmp_path / "m.onnx"))
    types = {i.name: onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in model.graph.input}
    assert types == {k: v.dtype for k, v in x.items()}
    made = [onnx.helper.tensor_dtype_to_np_dtype(o.type.tensor_type.elem_type) for o in model.graph.output]
    assert made == [np.dtype(o.dtype) for o in q.model.outputs]
    lite = Interpreter(str(vqkit.export(q, tmp_path / "m.tflite")))
    assert {i["name"]: np.dtype(i["dtype"]) for i in lite.get_input_details()} == types


def test_the_integers_of_a_dump_are_the_simulations(tmp_path: Path) -> None:
    q, x = of_all_types()
    folder = vqkit.export(q, tmp_path / "ints", "ints", dataset=[[v[:4] for v in x.values()]])
    entries = json.loads((folder / "dump.json").read_text())["folders"]["dump_results_0"]
    assert len(entries) == sum(not r.is_weight for r in q.plan.quantized)


def half(i: Any, kind: str) -> Any:
    """Layers that compute in 16 bits, or read an input of them."""
    policy = None if kind.endswith("input") else kind
    y = L.Dense(4, activation="relu", dtype=policy, name="hidden" if i.name == "image" else None)(i)
    return L.Dense(2, dtype=policy)(y)


def image(kind: str, name: str = "image") -> Any:
    return keras.Input((6,), dtype="float32" if "mixed" in kind else kind.removesuffix(" input"), name=name)


KINDS = [*POLICIES, "bfloat16 input"]
X = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_bits_are_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    i = image(kind)
    q = vqkit.quantize(keras.Model(i, half(i, kind)), "pof2s", X)
    for format in (f for k, f in REFUSED if k == kind):
        with pytest.raises(ModelError) as error:
            vqkit.export(q, tmp_path / f"m.{format}", format)
        assert all(w in str(error.value) for w in REFUSED[kind, format]), str(error.value)
    with pytest.raises(ModelError, match=r"nothing to compare: onnxruntime: .*16"):
        vqkit.cross_check(q, X)


def test_files_that_hold_the_simulation_have_sixteen_bits(tmp_path: Path) -> None:
    inputs = [image(kind, f"i_{n}") for n, kind in enumerate(KINDS)]
    model = keras.Model(inputs, [half(i, kind) for i, kind in zip(inputs, KINDS, strict=True)])
    q = vqkit.quantize(model, "pof2s", [X] * len(KINDS))
    found = vqkit.cross_check(q, [X] * len(KINDS), ["keras", "saved_model"], also=["onnxruntime"])
    assert found.metrics["keras_output_max"] == found.metrics["saved_model_output_max"] == 0
    assert "16" in found.skipped["onnxruntime"]
    folder = vqkit.export(q, tmp_path / "ints", "ints", dataset=[[X] * len(KINDS)])
    assert (folder / "dump.json").is_file()


def test_the_copy_in_float32_that_the_page_makes_leaves() -> None:
    keras.utils.set_random_seed(0)
    i = keras.Input((6,))
    y = L.Dense(4, activation="relu", dtype="mixed_float16")(i)
    net = keras.Model(i, L.Dense(2, dtype="mixed_float16")(y))
    page = Path(__file__).parents[2].joinpath("docs", "export.md").read_text("utf-8")
    code = page.partition("## Types")[2].partition("```python\n")[2].partition("```")[0]
    space: dict[str, Any] = {"keras": keras, "net": net}
    exec(code, space)
    x = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
    q = vqkit.quantize(space["copy"], "pof2s", x)
    assert vqkit.cross_check(q, x, ["onnxruntime", "litert"]).first == {}
