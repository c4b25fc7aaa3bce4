"""Every layer class that Keras offers is quantized, passed through, or left float with a reason."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.system.contract import recipes
from tests.system.contract.check import STRATEGIES, assert_plan_covers, leaves, quantize_save_load
from vqkit.errors import ModelError
from vqkit.quantization import quantize


def test_every_layer_class_has_a_recipe_or_a_reason() -> None:
    known = {*recipes.NAMES, *recipes.IMPOSSIBLE}
    assert set(recipes.classes()) - known == set(), "add a recipe to tests/system/contract/recipes.py"
    assert known - set(recipes.classes()) == set()
    assert set(recipes.UNSAFE) <= set(recipes.NAMES)


@pytest.mark.parametrize("name", recipes.NAMES)
def test_plan_names_every_layer_and_every_reason(name: str) -> None:
    model = recipes.build(name)
    for strategy in STRATEGIES:
        assert_plan_covers(model, strategy)


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes.NAMES)
def test_quantize_predict_save_load(name: str, tmp_path) -> None:
    model = recipes.build(name)
    x = recipes.batch(model)
    for strategy in STRATEGIES:
        quantize_save_load(model, strategy, x, tmp_path, safe_mode=name not in recipes.UNSAFE)


@pytest.mark.parametrize("name", recipes.UNSAFE)
def test_keras_refuses_to_load_code_in_safe_mode(name: str, tmp_path) -> None:
    model = recipes.build(name)
    quantize(model, "fs", recipes.batch(model)).model.save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="safe_mode=False"):
        keras.saving.load_model(tmp_path / "m.keras")


@pytest.mark.parametrize("name", [n for n in recipes.NAMES if n.startswith("Random")][::5])
def test_augmentation_is_off_while_calibrating(name: str) -> None:
    model = recipes.build(name)
    x = recipes.batch(model)
    first, second = (quantize(model, "fsx", x) for _ in range(2))
    assert {k: v.to_json() for k, v in first.encodings.items()} == {k: v.to_json() for k, v in second.encodings.items()}


def masked_model(steps: int) -> keras.Model:
    x = keras.Input((steps, 3))
    y = keras.layers.Dense(3, name="mix")(keras.layers.Masking()(x))
    y = keras.layers.LSTM(2, name="lstm")(y)
    return keras.Model(x, keras.layers.Dense(2, name="head")(y))


def test_masks_pass_through_quantizers_while_calibrating_and_after() -> None:
    """Masked steps are zeros, which change neither range nor error; so they must change nothing at all."""
    padded, short = masked_model(4), masked_model(2)
    short.set_weights(padded.get_weights())
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype("float32")
    longer = np.concatenate([x, np.zeros_like(x)], axis=1)
    with_mask, without = quantize(padded, "pof2s", longer), quantize(short, "pof2s", x)
    head = lambda q: [v.to_json() for k, v in q.encodings.items() if k.startswith(("head", "quant_lstm"))]  # noqa: E731
    assert len(head(with_mask)) == 4
    assert head(with_mask) == head(without)
    np.testing.assert_array_equal(leaves(with_mask.model(longer))[0], leaves(without.model(x))[0])


@keras.saving.register_keras_serializable(package="vqkit_tests")
class TwoDense(keras.layers.Layer):
    """A layer of layers that Keras numbers anew in each copy."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.first, self.second = keras.layers.Dense(4), keras.layers.Dense(6)

    def build(self, shape: tuple[int, ...]) -> None:
        self.first.build(shape)
        self.second.build((*shape[:-1], 4))

    def call(self, x: object) -> object:
        return self.second(self.first(x))


def test_custom_layer_of_layers(tmp_path) -> None:
    model = recipes.around(lambda t: TwoDense(name="both")(t), recipes.VECTOR)
    for strategy in STRATEGIES:
        assert_plan_covers(model, strategy)
        quantize_save_load(model, strategy, recipes.batch(model), tmp_path)


def test_saved_model_layer(tmp_path) -> None:
    inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    inner.export(tmp_path / "inner", verbose=False)
    layer = keras.layers.TFSMLayer(str(tmp_path / "inner"))
    model = recipes.around(lambda t: layer(t), recipes.VECTOR)
    quantized = quantize(model, "fsx", recipes.batch(model))
    assert np.isfinite(leaves(quantized.model(recipes.batch(model)))[0]).all()


def test_random_shear_is_named_as_what_keras_itself_cannot_load(tmp_path) -> None:
    model = recipes.around(keras.layers.RandomShear(x_factor=0.5, name="shear"), recipes.IMAGE)
    model.save(tmp_path / "float.keras")
    with pytest.raises(TypeError, match="RandomShear"):
        keras.saving.load_model(tmp_path / "float.keras")
    with pytest.raises(ModelError, match="'shear'"):
        quantize(model, "fsx", recipes.batch(model))


def test_layer_without_round_trip_is_named() -> None:
    class Odd(keras.layers.Layer):
        def __init__(self, size: int, **kwargs: object) -> None:
            super().__init__(**kwargs)
            self.size = size

        def call(self, x: object) -> object:
            return x

        def get_config(self) -> dict[str, object]:
            return {"name": self.name}

    model = recipes.around(lambda t: Odd(3, name="odd")(t), recipes.VECTOR)
    with pytest.raises(ModelError, match="'odd'"):
        quantize(model, "fsx", recipes.batch(model))
