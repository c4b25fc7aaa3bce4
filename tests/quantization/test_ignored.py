"""An ignored layer keeps its batch norm and its activation in float, and the rest is no worse for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import vqkit
from tests.support.zoo import randomize
from vqkit import Strategy, quantize

Build = Callable[[], keras.Model]


def conv(x: Any, name: str, depthwise: bool = False, **options: Any) -> Any:
    if depthwise:
        return layers.DepthwiseConv2D(3, padding="same", name=name, **options)(x)
    return layers.Conv2D(8, 3, padding="same", name=name, **options)(x)


def chain(depthwise: bool, inline: bool, norm: str) -> keras.Model:
    """Three convolutions; the middle one with a batch norm behind, in front, or none, and an activation."""
    i = keras.Input((8, 8, 3), name="image")
    x = layers.ReLU(name="a_relu")(layers.BatchNormalization(name="a_bn")(conv(i, "a")))
    if norm == "before":
        x = layers.BatchNormalization(name="b_bn")(x)
    x = conv(x, "b", depthwise, **({"activation": "relu"} if inline else {}))
    if norm == "behind":
        x = layers.BatchNormalization(name="b_bn")(x)
    x = x if inline else layers.ReLU(name="b_relu")(x)
    x = layers.ReLU(name="c_relu")(layers.BatchNormalization(name="c_bn")(conv(x, "c")))
    return keras.Model(i, layers.Dense(5, name="head")(layers.GlobalAveragePooling2D(name="pool")(x)))


def dense(inline: bool) -> keras.Model:
    i = keras.Input((24,), name="image")
    x = layers.Dense(16, activation="relu", name="a")(i)
    x = layers.Dense(16, name="b", activation="relu" if inline else None)(x)
    if not inline:
        x = layers.ReLU(name="b_relu")(layers.BatchNormalization(name="b_bn")(x))
    return keras.Model(i, layers.Dense(5, name="head")(x))


def residual() -> keras.Model:
    i = keras.Input((8, 8, 3), name="image")
    x = layers.ReLU(name="a_relu")(layers.BatchNormalization(name="a_bn")(conv(i, "a")))
    y = layers.BatchNormalization(name="b_bn")(conv(x, "b"))
    x = layers.ReLU(name="b_relu")(layers.Add(name="add")([x, y]))
    return keras.Model(i, layers.Dense(5, name="head")(layers.Flatten(name="flat")(conv(x, "c"))))


def shared() -> keras.Model:
    i = keras.Input((8, 8, 3), name="image")
    x, twice = conv(i, "a", activation="relu"), layers.Conv2D(8, 3, padding="same", name="b")
    x = layers.ReLU(name="r2")(twice(layers.ReLU(name="r1")(twice(x))))
    return keras.Model(i, layers.Dense(5, name="head")(layers.GlobalAveragePooling2D(name="pool")(x)))


NETS: dict[str, Build] = {
    **{
        f"{'depthwise' if d else 'conv'}, {'inline' if i else 'layer'}, norm {n}": (
            lambda d=d, i=i, n=n: chain(d, i, n)
        )
        for d in (False, True)
        for i, n in ((False, "behind"), (True, "none"), (False, "before"))
    },
    "dense": lambda: dense(False),
    "dense, inline": lambda: dense(True),
    "residual": residual,
    "shared": shared,
}


def made(kind: str, seed: int = 0) -> tuple[keras.Model, np.ndarray]:
    model = NETS[kind]()
    randomize(model, seed=seed)
    x = np.random.default_rng(seed).normal(size=(64, *model.inputs[0].shape[1:])).astype(np.float32)
    return model, x


def noise(model: keras.Model, strategy: Strategy, x: np.ndarray) -> tuple[float, Any]:
    found = quantize(model, strategy, x)
    want = model.predict(x, verbose=0)
    lost = want - found.model.predict(x, verbose=0)
    return float(10 * np.log10(np.square(want).mean() / np.square(lost).mean())), found


PLAIN = "depthwise, layer, norm behind"


@pytest.mark.parametrize(("kind", "base"), [*((kind, "pof2s") for kind in sorted(NETS)), (PLAIN, "fsx"), (PLAIN, "fs")])
def test_what_is_ignored_takes_its_batch_norm_and_activation_along(kind: str, base: str) -> None:
    model, x = made(kind)
    strategy = Strategy.builtin(base)
    whole, all_of_it = noise(model, strategy, x)
    left, found = noise(model, strategy.with_kwargs(ignore_layers=["b"]), x)
    apart = {"b_bn"} if "before" in kind else {"b_relu"} if kind == "residual" else set()
    along = {"b", "b_bn", "b_relu", "r1", "r2"} - apart
    assert not along & {r.layer for r in found.plan.quantized}
    assert len(found.plan.quantized) < len(all_of_it.plan.quantized)
    # What both have in common is no noisier; at the output chance may add or cancel a little.
    before, after = (vqkit.sqnr(q, x).set_index(["layer", "tensor"])["sqnr_db"] for q in (all_of_it, found))
    common = before.index.intersection(after.index)
    assert np.nanmedian((after - before)[common].replace([np.inf, -np.inf], np.nan).fillna(0)) > -0.1
    assert left > whole - 1


@pytest.mark.parametrize("name", ["a_bn", "a_relu", "c", "pool", "image"])
def test_ignoring_any_layer_adds_no_noise_source(name: str) -> None:
    model, x = made(PLAIN)
    strategy = Strategy.builtin("pof2s").with_kwargs(ignore_layers=[name])
    count = len(vqkit.make_plan("pof2s", model).quantized)
    left, found = noise(model, strategy, x)
    assert len(found.plan.quantized) <= count
    assert left > 20
    assert found.graph.candidates is not None
    assert name not in found.graph.candidates


def test_a_narrow_depthwise_convolution_is_worth_ignoring() -> None:
    strategy = Strategy.builtin("pof2s").with_kwargs(weight_bit=5)
    for seed in range(2):
        model, x = made(PLAIN, seed)
        gain = noise(model, strategy.with_kwargs(ignore_layers=["b"]), x)[0] - noise(model, strategy, x)[0]
        assert gain > 0


def test_an_ignored_layer_keeps_its_function() -> None:
    i = keras.Input((8, 8, 3), name="image")
    x = layers.ReLU(6.0, name="r")(conv(i, "a"))
    x = layers.Activation("sigmoid", name="s")(conv(x, "b"))
    model = keras.Model(i, conv(x, "c"))
    plain = Strategy.builtin("pof2s").with_kwargs(convert_relu6_to_relu=True)
    graph = quantize(model, plain.with_kwargs(ignore_layers=["r", "s"]), np.ones((4, 8, 8, 3), np.float32)).graph
    assert graph.layers["r"].config["max_value"] == 6
    assert graph.layers["s"].kind == "Activation"
    graph = quantize(model, plain, np.ones((4, 8, 8, 3), np.float32)).graph
    assert graph.layers["r"].config["max_value"] is None


def test_compat_leaves_the_batch_norm_outside_as_the_original() -> None:
    model, x = made("conv, layer, norm behind")
    strategy = Strategy.builtin("pof2s").with_kwargs(ignore_layers=["b"])
    plan = vqkit.make_plan(strategy, model, vitis_compat=True)
    assert any(r.layer == "b_bn" and r.spec is not None for r in plan.rows)
    assert all(r.spec is None for r in vqkit.make_plan(strategy, model).rows if r.layer in ("b", "b_bn", "b_relu"))
    assert not np.isnan(quantize(model, strategy, x).model.predict(x, verbose=0)).any()


def test_weights_of_a_shared_layer_are_those_that_its_call_in_the_selected_part_wants() -> None:
    shared = layers.Dense(4, name="shared")
    x = keras.Input((4,), name="image")
    middle = layers.ReLU(name="middle")(shared(x))
    model = keras.Model(x, layers.Dense(3, name="head")(layers.ReLU(name="end")(shared(middle))))
    strategy = vqkit.Strategy.builtin("pof2s").with_kwargs(input_layers=["middle"])
    quantized = vqkit.quantize(model, strategy, np.random.default_rng(0).normal(size=(16, 4)).astype("float32"))
    rows = {r.name: r.spec for r in quantized.plan.rows}
    assert rows["shared/output"] is None
    assert [name for name in ("shared/kernel", "shared/bias") if rows[name] is None] == []
    grid = quantized.encodings["shared/kernel"]
    codes = quantized.live["shared"].kernel.numpy() / grid.scale
    np.testing.assert_array_equal(codes, np.rint(codes))
    assert vqkit.make_plan(strategy, model, vitis_compat=True)["shared/kernel"].spec is None
