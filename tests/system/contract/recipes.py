"""A tiny functional model around each layer class of Keras.

`build("Conv2D")` stands the layer between two Dense layers wherever its tensors are floats, so that
quantizers have to be placed around it. `NAMES` are the classes with a recipe; `IMPOSSIBLE` those that
cannot stand in a functional model, with the reason. A class in neither fails `test_layers.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

L = keras.layers

Call = Callable[..., Any]


class Spec(NamedTuple):
    """An input of a recipe: shape without batch, dtype, and the end of the range of its values."""

    shape: tuple[int | None, ...]
    dtype: str = "float32"
    high: int = 4


VECTOR, SEQUENCE, IMAGE, CUBE = Spec((6,)), Spec((5, 6)), Spec((8, 8, 3)), Spec((4, 4, 4, 2))
FILM, VOLUME_FILM = Spec((3, 6, 6, 2)), Spec((2, 4, 4, 4, 2))
LINE_FILM, TOKENS, WORDS = Spec((3, 6, 2)), Spec((5,), "int32"), Spec((1,), "string")
WAVE = Spec((600,))

IMPOSSIBLE = {
    "Layer": "base class without a call()",
    "Wrapper": "base class without a call()",
    "Equalization": "a symbolic call gives its own input back, which Keras calls a cycle",
    "InputLayer": "stands in every model, as its input",
    "FlaxLayer": "needs the JAX backend",
    "JaxLayer": "needs the JAX backend",
    "RandomShear": "its config does not round-trip, so Keras cannot copy or load it: see test_random_shear",
    "TorchModuleWrapper": "needs the Torch backend",
    "TFSMLayer": "wraps a SavedModel folder, so it has no config to copy it from: see test_saved_model_layer",
}

# One input of the given kind; the keywords are the layer's.
_PLAIN: dict[str, tuple[Spec, dict[str, Any]]] = {
    "Activation": (IMAGE, {"activation": "tanh"}),
    "ActivityRegularization": (VECTOR, {"l2": 0.1}),
    "AdaptiveAveragePooling1D": (SEQUENCE, {"output_size": 2}),
    "AdaptiveAveragePooling2D": (IMAGE, {"output_size": 2}),
    "AdaptiveAveragePooling3D": (CUBE, {"output_size": 2}),
    "AdaptiveMaxPooling1D": (SEQUENCE, {"output_size": 2}),
    "AdaptiveMaxPooling2D": (IMAGE, {"output_size": 2}),
    "AdaptiveMaxPooling3D": (CUBE, {"output_size": 2}),
    "AlphaDropout": (VECTOR, {"rate": 0.5}),
    "AugMix": (IMAGE, {"value_range": (0, 1)}),
    "AutoContrast": (IMAGE, {"value_range": (0, 1)}),
    "AveragePooling1D": (SEQUENCE, {"pool_size": 2}),
    "AveragePooling2D": (IMAGE, {"pool_size": 3}),
    "AveragePooling3D": (CUBE, {"pool_size": 2}),
    "BatchNormalization": (IMAGE, {}),
    "CenterCrop": (IMAGE, {"height": 4, "width": 4}),
    "ContrastLimitedAdaptiveHistogramEqualization": (
        IMAGE,
        {"value_range": (0, 1), "tile_grid_size": (2, 2)},
    ),
    "Conv1D": (SEQUENCE, {"filters": 3, "kernel_size": 2}),
    "Conv1DTranspose": (SEQUENCE, {"filters": 3, "kernel_size": 2}),
    "Conv2D": (IMAGE, {"filters": 3, "kernel_size": 2}),
    "Conv2DTranspose": (IMAGE, {"filters": 4, "kernel_size": 2}),
    "Conv3D": (CUBE, {"filters": 3, "kernel_size": 2}),
    "Conv3DTranspose": (CUBE, {"filters": 3, "kernel_size": 2}),
    "ConvLSTM1D": (LINE_FILM, {"filters": 2, "kernel_size": 2}),
    "ConvLSTM2D": (FILM, {"filters": 2, "kernel_size": 2}),
    "ConvLSTM3D": (VOLUME_FILM, {"filters": 2, "kernel_size": 2}),
    "Cropping1D": (SEQUENCE, {}),
    "Cropping2D": (IMAGE, {"cropping": 1}),
    "Cropping3D": (CUBE, {}),
    "CutMix": (IMAGE, {}),
    "Dense": (VECTOR, {"units": 3}),
    "DepthwiseConv1D": (SEQUENCE, {"kernel_size": 2}),
    "DepthwiseConv2D": (IMAGE, {"kernel_size": 2, "depth_multiplier": 2}),
    "Discretization": (VECTOR, {"bin_boundaries": [-1.0, 0.0, 1.0]}),
    "Dropout": (VECTOR, {"rate": 0.5}),
    "ELU": (VECTOR, {}),
    "EinsumDense": (SEQUENCE, {"equation": "abc,cd->abd", "output_shape": (None, 4), "bias_axes": "d"}),
    "Flatten": (IMAGE, {}),
    "GaussianDropout": (VECTOR, {"rate": 0.5}),
    "GaussianNoise": (VECTOR, {"stddev": 0.5}),
    "GlobalAveragePooling1D": (SEQUENCE, {}),
    "GlobalAveragePooling2D": (IMAGE, {}),
    "GlobalAveragePooling3D": (CUBE, {}),
    "GlobalMaxPooling1D": (SEQUENCE, {}),
    "GlobalMaxPooling2D": (IMAGE, {}),
    "GlobalMaxPooling3D": (CUBE, {}),
    "GroupNormalization": (IMAGE, {"groups": 3}),
    "GRU": (SEQUENCE, {"units": 3, "return_sequences": True}),
    "Identity": (VECTOR, {}),
    "LayerNormalization": (VECTOR, {}),
    "LeakyReLU": (IMAGE, {"negative_slope": 0.1}),
    "Masking": (SEQUENCE, {}),
    "MaxPooling1D": (SEQUENCE, {}),
    "MaxPooling2D": (IMAGE, {}),
    "MaxPooling3D": (CUBE, {}),
    "MelSpectrogram": (WAVE, {"fft_length": 64, "sequence_stride": 32, "num_mel_bins": 8}),
    "MixUp": (IMAGE, {}),
    "Normalization": (VECTOR, {"mean": [0.5] * 6, "variance": [4.0] * 6}),
    "PReLU": (VECTOR, {}),
    "Permute": (IMAGE, {"dims": (2, 1, 3)}),
    "RMSNormalization": (VECTOR, {}),
    "RandAugment": (IMAGE, {"value_range": (0, 1)}),
    "RandomBrightness": (IMAGE, {"factor": 0.5}),
    "RandomColorDegeneration": (IMAGE, {"factor": 0.5}),
    "RandomColorJitter": (IMAGE, {"brightness_factor": 0.5}),
    "RandomContrast": (IMAGE, {"factor": 0.5}),
    "RandomCrop": (IMAGE, {"height": 4, "width": 4}),
    "RandomElasticTransform": (IMAGE, {}),
    "RandomErasing": (IMAGE, {}),
    "RandomFlip": (IMAGE, {}),
    "RandomGaussianBlur": (IMAGE, {}),
    "RandomGrayscale": (IMAGE, {}),
    "RandomHue": (IMAGE, {"factor": 0.5, "value_range": (0, 1)}),
    "RandomInvert": (IMAGE, {}),
    "RandomPerspective": (IMAGE, {}),
    "RandomPosterization": (IMAGE, {"factor": 4}),
    "RandomRotation": (IMAGE, {"factor": 0.5}),
    "RandomSaturation": (IMAGE, {"factor": 0.5}),
    "RandomSharpness": (IMAGE, {"factor": 0.5}),
    "RandomTranslation": (IMAGE, {"height_factor": 0.2, "width_factor": 0.2}),
    "RandomZoom": (IMAGE, {"height_factor": 0.2}),
    "ReLU": (IMAGE, {}),
    "RepeatVector": (VECTOR, {"n": 3}),
    "Rescaling": (IMAGE, {"scale": 0.5, "offset": 1.0}),
    "Reshape": (VECTOR, {"target_shape": (2, 3)}),
    "Resizing": (IMAGE, {"height": 6, "width": 6}),
    "STFTSpectrogram": (Spec((200, 1)), {"frame_length": 32}),
    "SeparableConv1D": (SEQUENCE, {"filters": 3, "kernel_size": 2}),
    "SeparableConv2D": (IMAGE, {"filters": 3, "kernel_size": 2}),
    "SimpleRNN": (SEQUENCE, {"units": 3}),
    "Softmax": (VECTOR, {}),
    "Solarization": (IMAGE, {"value_range": (0, 1)}),
    "SpatialDropout1D": (SEQUENCE, {"rate": 0.5}),
    "SpatialDropout2D": (IMAGE, {"rate": 0.5}),
    "SpatialDropout3D": (CUBE, {"rate": 0.5}),
    "UnitNormalization": (VECTOR, {}),
    "UpSampling1D": (SEQUENCE, {}),
    "UpSampling2D": (IMAGE, {}),
    "UpSampling3D": (CUBE, {}),
    "ZeroPadding1D": (SEQUENCE, {}),
    "ZeroPadding2D": (IMAGE, {}),
    "ZeroPadding3D": (CUBE, {}),
    # integers and words
    "CategoryEncoding": (TOKENS, {"num_tokens": 4}),
    "Hashing": (TOKENS, {"num_bins": 4, "output_mode": "one_hot"}),
    "IntegerLookup": (TOKENS, {"vocabulary": [1, 2, 3]}),
    "StringLookup": (WORDS, {"vocabulary": ["a", "b"], "output_mode": "multi_hot"}),
    "TextVectorization": (
        WORDS,
        {"vocabulary": ["a", "b"], "output_mode": "tf_idf", "idf_weights": [0.3, 0.7]},
    ),
}
_MERGES = ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract")
_OWN: dict[str, tuple[tuple[Spec, ...], Call]] = {}


def _recipe(*specs: Spec) -> Callable[[Call], Call]:
    def keep(call: Call) -> Call:
        _OWN[call.__name__] = (specs, call)
        return call

    return keep


@_recipe(SEQUENCE, SEQUENCE)
def Dot(a: Any, b: Any) -> Any:  # noqa: N802
    return L.Dot(axes=2)([a, b])


@_recipe(SEQUENCE, SEQUENCE)
def Attention(a: Any, b: Any) -> Any:  # noqa: N802
    return L.Attention(use_scale=True)([a, b], return_attention_scores=True)


@_recipe(SEQUENCE, SEQUENCE)
def AdditiveAttention(a: Any, b: Any) -> Any:  # noqa: N802
    return L.AdditiveAttention()([a, b])


@_recipe(SEQUENCE, SEQUENCE)
def MultiHeadAttention(a: Any, b: Any) -> Any:  # noqa: N802
    return L.MultiHeadAttention(2, 3)(query=a, value=b, key=b, return_attention_scores=True)


@_recipe(SEQUENCE)
def GroupedQueryAttention(a: Any) -> Any:  # noqa: N802
    return L.GroupQueryAttention(3, 2, 1)(a, a)


@_recipe(TOKENS)
def Embedding(a: Any) -> Any:  # noqa: N802
    return L.LSTM(3)(L.Embedding(4, 3, mask_zero=True)(a))


@_recipe(TOKENS)
def ReversibleEmbedding(a: Any) -> Any:  # noqa: N802
    layer = L.ReversibleEmbedding(4, 3)
    return layer(L.Dense(3)(layer(a)), reverse=True)


@_recipe(TOKENS, TOKENS)
def HashedCrossing(a: Any, b: Any) -> Any:  # noqa: N802
    first = L.Lambda(lambda t: t[:, :1], output_shape=(1,), name="first")
    return L.HashedCrossing(5, output_mode="one_hot")((first(a), first(b)))


@_recipe(SEQUENCE)
def LSTM(a: Any) -> Any:  # noqa: N802
    return L.LSTM(3, return_state=True)(a)


@_recipe(SEQUENCE, Spec((3,)), Spec((3,)))
def RNN(a: Any, h: Any, c: Any) -> Any:  # noqa: N802
    return L.RNN(L.LSTMCell(3), return_sequences=True)(a, initial_state=[h, c])


@_recipe(VECTOR, Spec((3,)))
def GRUCell(a: Any, h: Any) -> Any:  # noqa: N802
    return L.GRUCell(3)(a, [h])


@_recipe(VECTOR, Spec((3,)), Spec((3,)))
def LSTMCell(a: Any, h: Any, c: Any) -> Any:  # noqa: N802
    return L.LSTMCell(3)(a, [h, c])


@_recipe(VECTOR, Spec((3,)))
def SimpleRNNCell(a: Any, h: Any) -> Any:  # noqa: N802
    return L.SimpleRNNCell(3)(a, [h])


@_recipe(SEQUENCE)
def StackedRNNCells(a: Any) -> Any:  # noqa: N802
    return L.RNN(L.StackedRNNCells([L.GRUCell(3), L.SimpleRNNCell(2)]))(a)


@_recipe(SEQUENCE)
def Bidirectional(a: Any) -> Any:  # noqa: N802
    return L.Bidirectional(L.LSTM(3, return_sequences=True))(a)


@_recipe(FILM)
def TimeDistributed(a: Any) -> Any:  # noqa: N802
    return L.TimeDistributed(L.Conv2D(3, 2))(a)


@_recipe(IMAGE)
def SpectralNormalization(a: Any) -> Any:  # noqa: N802
    return L.SpectralNormalization(L.Conv2D(3, 2))(a)


@_recipe(VECTOR)
def Lambda(a: Any) -> Any:  # noqa: N802
    return L.Lambda(lambda t: t * 2.0)(a)


@_recipe(IMAGE)
def Pipeline(a: Any) -> Any:  # noqa: N802
    return L.Pipeline([L.RandomFlip(), L.Rescaling(0.5)])(a)


@_recipe(IMAGE, Spec((2, 4)), Spec((2,)))
def MaxNumBoundingBoxes(image: Any, boxes: Any, labels: Any) -> Any:  # noqa: N802
    data = {"images": image, "bounding_boxes": {"boxes": boxes, "labels": labels}}
    return L.MaxNumBoundingBoxes(3, bounding_box_format="xyxy")(data)


NAMES = tuple(sorted([*_PLAIN, *_MERGES, *_OWN]))
# Keras refuses to load these as long as safe_mode is on, whoever saved them.
UNSAFE = {
    "Lambda": "holds Python code",
    "HashedCrossing": "its recipe needs a Lambda",
}


def classes() -> Mapping[str, type]:
    """Every layer class that `keras.layers` offers, by its own name (aliases fall together)."""
    found = (getattr(L, n) for n in dir(L))
    return {c.__name__: c for c in found if isinstance(c, type) and issubclass(c, L.Layer)}


def build(name: str, *, after: bool = True) -> keras.Model:
    """A functional model around the layer, with random weights.

    Args:
        name: one of `NAMES`.
        after: put Dense layers behind it too.
    """
    specs, call = _ingredients(name)
    return around(call, *specs, name=f"around_{name.lower()}", after=after)


def _ingredients(name: str) -> tuple[tuple[Spec, ...], Call]:
    if name in _OWN:
        return _OWN[name]
    if name in _MERGES:
        return (SEQUENCE, SEQUENCE), lambda *tensors: getattr(L, name)()(list(tensors))
    spec, config = _PLAIN[name]
    return (spec,), lambda t: getattr(L, name)(**config)(t)


def around(call: Call, *specs: Spec, name: str = "around", after: bool = True) -> keras.Model:
    """A model that calls `call` between Dense layers.

    Args:
        call: takes one tensor for each spec, returns a nest of tensors.
        specs: the inputs.
        name: of the model.
        after: put Dense layers behind it too.
    """
    inputs = [keras.Input(s.shape, dtype=s.dtype, name=f"in{i}") for i, s in enumerate(specs)]
    before = [_dense(t, f"before{i}", t.shape[-1]) for i, t in enumerate(inputs)]
    results = keras.tree.flatten(call(*before))
    outputs = [_dense(t, f"after{i}", 2) if after else t for i, t in enumerate(results)]
    return keras.Model(_single(inputs), _single(outputs), name=name)


def _single(items: list[Any]) -> Any:
    return items if len(items) > 1 else items[0]


def _dense(tensor: Any, name: str, units: int | None) -> Any:
    takes = tensor.dtype == "float32" and len(tensor.shape) > 1 and tensor.shape[-1] is not None
    return L.Dense(units, name=name)(tensor) if takes else tensor


def batch(model: keras.Model, n: int = 4, *, seed: int = 0, high: int = 4) -> Any:
    """Random inputs of a model, a list of arrays in its order (or one array).

    Args:
        model: built; free axes get size 5.
        n: samples.
        seed: of the values.
        high: integers are below it.
    """
    rng = np.random.default_rng(seed)
    arrays = [_values(t, n, rng, high) for t in model.inputs]
    return _single(arrays)


def _values(tensor: Any, n: int, rng: np.random.Generator, high: int) -> np.ndarray:
    shape = (n, *(5 if s is None else s for s in tensor.shape[1:]))
    if tensor.dtype == "string":
        return rng.choice(np.array(["a", "b", "a b"], object), shape)
    if "int" in tensor.dtype:
        return rng.integers(0, high, shape).astype(tensor.dtype)
    if tensor.dtype == "bool":
        return rng.random(shape) < 0.5
    return rng.normal(size=shape).astype(tensor.dtype)
