"""Every function of `keras.ops`, and every operator, between the layers of a functional model."""

from __future__ import annotations

import keras
import pytest

from tests.system.contract import operations
from tests.system.contract.check import STRATEGIES, assert_plan_covers, quantize_save_load
from vqkit.quantization import quantize

ALL = {**operations.EXPRESSIONS, **operations.WRITTEN}
LOADABLE = [n for n in ALL if n not in operations.UNLOADABLE]
GROUPS = [tuple(LOADABLE[i : i + 24]) for i in range(0, len(LOADABLE), 24)]


def test_every_function_has_an_expression_or_a_reason() -> None:
    known = {*operations.EXPRESSIONS, *operations.excused()}
    assert set(operations.public()) - known == set(), "add an expression to tests/system/contract/operations.py"
    assert known - set(operations.public()) == set()


@pytest.mark.parametrize("group", GROUPS, ids=lambda g: f"{g[0]}...{g[-1]}")
def test_plan_names_every_operation(group: tuple[str, ...]) -> None:
    model = operations.build({n: ALL[n] for n in group})
    for strategy in STRATEGIES:
        assert_plan_covers(model, strategy)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS, ids=lambda g: f"{g[0]}...{g[-1]}")
def test_quantize_predict_save_load(group: tuple[str, ...], tmp_path) -> None:
    model = operations.build({n: ALL[n] for n in group})
    for strategy in STRATEGIES:
        quantize_save_load(model, strategy, operations.batch(), tmp_path)


@pytest.mark.parametrize("name", operations.UNLOADABLE)
def test_quantized_where_keras_cannot_load_even_the_float_model(name: str, tmp_path) -> None:
    model = operations.build({name: ALL[name]})
    quantize(model, "fsx", operations.batch())
    model.save(tmp_path / "float.keras")
    with pytest.raises(TypeError):
        keras.saving.load_model(tmp_path / "float.keras")
