"""Arguments of float layers, combined by code: ranks, axes, strides, masks, states, slopes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import keras
import numpy as np
import pytest

from tests.export.agreement import Joint
from tests.system.contract.recipes import Spec, around

L, K = keras.layers, keras.ops
SHAPES = {2: (6,), 3: (5, 6), 4: (5, 4, 6), 5: (3, 4, 5, 2)}
Part = tuple[str, Callable[[Any], Any], tuple[int | None, ...]]


_NO_ACTIVATION = ("get", "serialize", "deserialize", "threshold")
"""Of `keras.activations`: the last one takes further arguments."""


def normalizations() -> Iterator[Part]:
    for rank, shape in SHAPES.items():
        for axis in range(1, rank):
            yield (
                f"batch {rank} {axis}",
                L.BatchNormalization(axis=axis, scale=axis > 1, center=rank != 3),
                shape,
            )
            yield f"layer {rank} {axis}", L.LayerNormalization(axis=axis), shape
            yield f"unit {rank} {axis}", L.UnitNormalization(axis=axis), shape
            groups = 1 if axis % 2 else -1
            yield f"group {rank} {axis}", L.GroupNormalization(groups, axis=axis), shape
        axes = list(range(1, rank))
        yield f"layer {rank} all", L.LayerNormalization(axis=axes), shape
        yield f"statistics {rank}", L.Normalization(mean=0.5, variance=3.0), shape
        mean, variance = np.linspace(-1, 1, shape[-1]), np.linspace(0.5, 2, shape[-1])
        yield f"inverse {rank}", L.Normalization(mean=mean, variance=variance, invert=True), shape


def activations() -> Iterator[Part]:
    for name in sorted(n for n in dir(keras.activations) if not n.startswith("_")):
        if callable(getattr(keras.activations, name)) and name not in _NO_ACTIVATION:
            yield name, L.Activation(name), (4, 6)
            yield f"dense {name}", L.Dense(4, activation=name), (6,)
    for slope, top, threshold in product((0.0, 0.25), (None, 1.0), (0.0, 0.5)):
        yield (
            f"relu {slope} {top} {threshold}",
            L.ReLU(negative_slope=slope, max_value=top, threshold=threshold),
            (4, 6),
        )
    for shared in (None, [1], [1, 2], [2]):
        yield f"prelu {shared}", L.PReLU(shared_axes=shared, alpha_initializer="random_uniform"), (5, 4, 6)
    for axis in (1, 2, -1, (1, 2)):
        yield f"softmax {axis}", L.Softmax(axis=axis), (5, 4, 6)
    yield "elu layer", L.ELU(0.3), (6,)
    yield "leaky layer", L.LeakyReLU(0.01), (6,)
    for approximate in (False, True):
        yield f"gelu {approximate}", lambda t, a=approximate: K.gelu(t, approximate=a), (6,)


def windows() -> Iterator[Part]:
    for rank, padding, strides in product((1, 2, 3), ("same", "valid"), (1, 2)):
        shape = (*(7, 6, 5)[:rank], 4)
        more = {"padding": padding, "strides": strides}
        yield f"max {rank} {more}", getattr(L, f"MaxPooling{rank}D")(2, **more), shape
        yield f"avg {rank} {more}", getattr(L, f"AveragePooling{rank}D")(3, **more), shape
        yield f"conv {rank} {more}", getattr(L, f"Conv{rank}D")(4, 3, groups=2, **more), shape
        for kernel in (1, 3):
            made = getattr(L, f"Conv{rank}DTranspose")(3, kernel, **more)
            yield f"transposed {rank} {kernel} {more}", made, shape
        if rank < 3:
            yield f"depthwise {rank} {more}", getattr(L, f"DepthwiseConv{rank}D")(3, **more), shape
        if strides == 1:
            yield (
                f"dilated {rank} {padding}",
                getattr(L, f"Conv{rank}D")(3, 2, dilation_rate=2, **more),
                shape,
            )
    yield "causal", L.Conv1D(3, 3, padding="causal", dilation_rate=2), (7, 4)
    yield "extra", L.Conv2DTranspose(3, 2, strides=3, output_padding=1), (4, 5, 3)
    for mode, size in product(("nearest", "bilinear", "bicubic", "lanczos3"), ((3, 7), (9, 4))):
        yield f"size {mode} {size}", L.Resizing(*size, interpolation=mode), (5, 6, 3)
        yield f"up {mode} {size}", L.UpSampling2D((2, 3), interpolation=mode), (4, 3, 2)


def recurrent() -> Iterator[Part]:
    for kind, whole, back in product(("LSTM", "GRU", "SimpleRNN"), (False, True), (False, True)):
        more = {"return_sequences": whole, "go_backwards": back}
        yield f"{kind} {more}", getattr(L, kind)(3, **more), (5, 4)
        masked = lambda t, kind=kind, more=more: getattr(L, kind)(3, **more)(L.Masking()(K.relu(t)))  # noqa: E731
        yield f"masked {kind} {more}", masked, (5, 4)
    for kind, merge in product(("LSTM", "GRU"), ("concat", "sum", "mul", "ave", None)):
        both = L.Bidirectional(getattr(L, kind)(3, return_sequences=merge != "ave"), merge_mode=merge)
        yield f"both {kind} {merge}", both, (5, 4)
    yield "state", L.LSTM(3, return_state=True, return_sequences=True), (None, 4)
    yield "state gru", L.GRU(3, return_state=True, reset_after=False, use_bias=False), (None, 4)
    yield "hard", L.LSTM(3, activation="relu", recurrent_activation="hard_sigmoid"), (5, 4)
    yield "unrolled", L.GRU(3, unroll=True, return_sequences=True), (4, 4)
    yield "distributed", L.TimeDistributed(L.Dense(3)), (5, 4)
    yield "convolved", L.ConvLSTM1D(2, 2, return_sequences=True, padding="same"), (3, 5, 2)


def moves() -> Iterator[Part]:
    cuts = [
        np.s_[:, ::2],
        np.s_[:, ::-1],
        np.s_[..., -1],
        np.s_[:, None, 1:],
        np.s_[:, -3:],
        np.s_[:, 1, None],
        np.s_[:, :, 1:-1:2],
        np.s_[:, 3:0:-1, -2],
        np.s_[..., None],
    ]
    for cut in cuts:
        yield f"cut {cut}", lambda t, cut=cut: t[cut], (5, 6)
    for axis in (1, 2, -1):
        yield f"split {axis}", lambda t, axis=axis: K.split(t, [1, 3], axis=axis), (6, 5)
        yield f"stack {axis}", lambda t, axis=axis: K.stack([t, t + 1.0], axis=axis), (6, 5)
        yield f"mean {axis}", lambda t, axis=axis: K.mean(t, axis=axis, keepdims=True), (6, 5)
        yield f"sum {axis}", lambda t, axis=axis: K.sum(t, axis=axis), (6, 5)
        yield f"take {axis}", lambda t, axis=axis: K.take(t, [0, 3, 3], axis=axis), (6, 5)
        yield f"repeat {axis}", lambda t, axis=axis: K.repeat(t, 2, axis=axis), (6, 5)
    for equation in ("abc,abd->acd", "abc,adc->abd", "abc,abc->ab", "abc,dbc->abd"):
        yield f"einsum {equation}", lambda t, e=equation: K.einsum(e, t, t), (4, 5)
    for axes in ((1, 1), (2, 2), ((1, 2), (1, 2))):
        yield f"dot {axes}", lambda t, axes=axes: _dot(t, axes), (4, 5)
    yield "free sizes", lambda t: K.transpose(t, (0, 2, 1)) * 2.0, (None, 5)
    yield "reshape", lambda t: L.Reshape((-1, 2))(t), (4, 6)
    yield "pad", lambda t: K.pad(t, ((0, 0), (2, 1), (0, 3)), "reflect"), (4, 6)
    yield "embedded", lambda t: L.Embedding(9, 4)(K.cast(K.abs(t) * 3, "int32") % 9), (5,)


def _dot(t: Any, axes: Any) -> Any:
    if isinstance(axes[0], tuple):
        return K.tensordot(t, t, axes=axes)
    return L.Dot(axes=axes, normalize=True)([t, t])


GROUPS = {
    "normalizations": normalizations,
    "activations": activations,
    "windows": windows,
    "recurrent": recurrent,
    "moves": moves,
}


def joint(parts: list[Part]) -> Joint:
    """The parts behind one shared quantized layer each; batch norms and all weights filled at random."""
    keras.utils.set_random_seed(3)
    models = {}
    for name, call, shape in parts:
        models[name] = around(call, Spec(shape), after=False, name=f"part_{len(models)}")
    rng = np.random.default_rng(3)
    for model in models.values():
        for variable in model.weights:
            positive = "variance" in variable.path or "gamma" in variable.path
            drawn = rng.uniform(0.5, 1.5, variable.shape) if positive else rng.normal(0, 0.5, variable.shape)
            if variable.dtype == "float32" and "count" not in variable.path:
                variable.assign(drawn)
    return Joint(models)


SHARE = 6
"""Of each kind the tests take every sixth; `benchmarks/onnx_combinations.py` takes all."""


@pytest.mark.parametrize("group", GROUPS)
def test_combinations_agree(group: str) -> None:
    assert joint(list(GROUPS[group]())[len(group) % SHARE :: SHARE]).worst() == {}


def test_an_older_operator_set_agrees_or_is_refused_by_name() -> None:
    parts = [*list(windows())[::16], *list(normalizations())[::16], *list(recurrent())[:1]]
    refused = joint(parts).refusals(opset=11)
    assert [*refused] == [parts[-1][0]]
    assert (
        "needs operator set 13, 11 was asked for. Set opset, or onnx_opset_version in the strategy, to 13"
        in refused[parts[-1][0]]
    )
    assert joint(parts[:-1]).worst(opset=11) == {}
