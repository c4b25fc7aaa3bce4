"""Every layer class of Keras and every function of `keras.ops` leaves as ONNX and agrees, or says why not.

The classes and functions are those that Keras offers, by `tests/contract`; a new one appears here by itself.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import keras
import pytest

import vqkit
from tests.export.agreement import Joint
from tests.system.contract import operations, recipes
from vqkit.export.lowering import lower

ROOT = Path(__file__).resolve().parents[2]
STRING = "it is string"
LAYERS = {
    "HashedCrossing": "SparseCross",
    "Hashing": "AsString",
    "IntegerLookup": "LookupTableFindV2",
    "MelSpectrogram": "RFFT",
    "StringLookup": STRING,
    "TextVectorization": STRING,
}
"""Layer class that does not leave -> what its error says."""
OPERATIONS = {
    "argpartition": "Where",
    "bincount": "number of bins",
    "bitwise_left_shift left_shift": "LeftShift",
    "bitwise_right_shift right_shift": "RightShift",
    "cholesky logdet": "Cholesky",
    "cross": "Cross",
    "cumprod nancumprod": "Cumprod",
    "ctc_decode": "CTCGreedyDecoder",
    "diag diagflat": "MatrixDiagV3",
    "diagonal": "MatrixDiagPartV3",
    "eigh": "SelfAdjointEigV2",
    "erfinv": "Erfinv",
    "fft fft2 ifft2 irfft polar": "Complex",
    "i0": "BesselI0",
    "in_top_k": "InTopKV2",
    "inv": "MatrixInverse",
    "istft rfft stft": "RFFT",
    "jvp": "TanhGrad",
    "lstsq matrix_rank pinv svd": "Svd",
    "lu_factor": "Lu",
    "nextafter": "NextAfter",
    "qr": "Qr",
    "searchsorted": "LowerBound",
    "segment_max": "UnsortedSegmentMax",
    "segment_min": "UnsortedSegmentMin",
    "segment_prod": "UnsortedSegmentProd",
    "segment_sum": "UnsortedSegmentSum",
    "slice_update": "XlaDynamicUpdateSlice",
    "slogdet": "LogMatrixDeterminant",
    "solve": "MatrixSolve",
    "cholesky_inverse solve_triangular": "MatrixTriangularSolve",
    "sparse_categorical_crossentropy": "SparseSoftmaxCrossEntropyWithLogits",
    "trace": "MatrixSetDiagV3",
    "view": "reads the bits",
    "ctc_loss": "TensorFlow does not trace it",
}
"""Functions of `keras.ops` that do not leave -> what their error says."""
REFUSED = {name: why for names, why in OPERATIONS.items() for name in names.split()}
ALL = {**operations.EXPRESSIONS, **operations.WRITTEN}
NOT_LOWERED = {"ctc_loss", "StringLookup", "TextVectorization"}
"""Refused before anything is written."""


def groups(names: list[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(names[i : i + size]) for i in range(0, len(names), size)]


class Expressions(Joint):
    """Expressions of `keras.ops` in one model."""

    def __init__(self, names: tuple[str, ...]) -> None:
        keras.utils.set_random_seed(1)
        self.model = operations.build({n: ALL[n] for n in names}, after=False)
        self.quantized = vqkit.quantize(self.model, "pof2s", self.batch(16, 0))
        self.program = lower(self.quantized)
        t = SimpleNamespace(
            **{k: keras.Input(s) for k, s in operations.SHAPES.items()}, n=keras.Input((6,), dtype="int32")
        )
        self.owner = [n for n in names for _ in keras.tree.flatten(ALL[n](t))]

    def batch(self, n: int, seed: int = 1) -> list:
        return operations.batch(n, seed)


def layers(names: tuple[str, ...] | list[str]) -> Joint:
    keras.utils.set_random_seed(1)
    return Joint({n: recipes.build(n, after=False) for n in names})


def test_reasons_are_for_classes_and_functions_that_keras_has() -> None:
    assert set(LAYERS) - set(recipes.NAMES) == set()
    assert set(REFUSED) - set(ALL) == set()


@pytest.mark.parametrize(
    "group", groups([n for n in recipes.NAMES if n not in LAYERS], 40), ids=lambda g: f"{g[0]}...{g[-1]}"
)
def test_every_layer_class_agrees(group: tuple[str, ...]) -> None:
    assert layers(group).worst() == {}


@pytest.mark.parametrize("group", groups([n for n in ALL if n not in REFUSED], 90), ids=lambda g: f"{g[0]}...{g[-1]}")
def test_every_function_agrees(group: tuple[str, ...]) -> None:
    assert Expressions(group).worst() == {}


def test_a_refusal_names_layer_and_reason() -> None:
    listed = {**LAYERS, **REFUSED}
    found = layers([n for n in LAYERS if n not in NOT_LOWERED]).refusals()
    found |= Expressions(tuple(n for n in REFUSED if n not in NOT_LOWERED)).refusals()
    for name in NOT_LOWERED:
        with pytest.raises(vqkit.errors.ModelError) as error:
            lower(vqkit.quantize(*_single(name)))
        found[name] = str(error.value)
    assert set(found) == set(listed)
    assert {n: found[n] for n, why in listed.items() if why not in found[n]} == {}
    assert all("cannot be exported" in sentence and "saved_model" in sentence for sentence in found.values())


def _single(name: str) -> tuple:
    if name in LAYERS:
        model = recipes.build(name)
        return model, "pof2s", recipes.batch(model)
    return operations.build({name: ALL[name]}), "pof2s", operations.batch()


def test_the_document_lists_what_does_not_leave() -> None:
    text = (ROOT / "docs" / "export.md").read_text("utf-8")
    for what, names in (("layers", LAYERS), ("functions", REFUSED)):
        listed = text.partition(f"<!-- not in ONNX: {what} -->")[2].partition(".\n")[0]
        assert [w.strip(" `\n") for w in listed.split(",")] == sorted(names)
