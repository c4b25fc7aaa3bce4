"""An expression for each function of `keras.ops` that a user may write between layers.

Each takes `t`, whose attributes are tensors of a model: `t.v` (n, 6), `t.m` (n, 4, 6), `t.q` (n, 4, 4),
`t.i` an image (n, 4, 4, 4), `t.p` a positive (n, 6), `t.n` integers (n, 6) below 4.
`NO_NODE` are the functions that make no node of a model, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np

K = keras.ops

Expression = Callable[[SimpleNamespace], Any]


def _words(text: str) -> list[str]:
    return text.split()


SHAPES = {"v": (6,), "m": (4, 6), "q": (4, 4), "i": (4, 4, 4), "p": (6,)}

_OF_VECTOR = _words(
    "abs absolute angle arcsinh arctan argmax argmin argsort cbrt ceil celu copy cos cosh cumprod cumsum "
    "deg2rad diff elu erf erfc exp exp2 expm1 fabs flip floor gelu glu hard_shrink hard_sigmoid hard_silu "
    "hard_swish hard_tanh i0 imag isfinite isinf isnan isneginf isposinf isreal log_sigmoid log_softmax "
    "logsumexp nan_to_num nancumprod nancumsum ndim negative normalize nanargmax nanargmin rad2deg real "
    "relu relu6 rms_normalization round selu sigmoid sign signbit silu sin sinc sinh soft_shrink softmax "
    "softplus softsign sort sparse_plus sparse_sigmoid sparsemax square squareplus stop_gradient swish "
    "tan tanh tanh_shrink trapezoid trunc ones_like zeros_like empty_like view conj conjugate "
    "layer_normalization leaky_relu ravel isclose"
)
_OF_POSITIVE = _words("log log10 log1p log2 reciprocal rsqrt sqrt")
_OF_SMALL = _words("arccos arccosh arcsin arctanh erfinv")
_OF_TWO = _words(
    "add arctan2 divide divide_no_nan equal floor_divide fmax fmin fmod greater greater_equal heaviside "
    "hypot less less_equal logaddexp logaddexp2 maximum minimum mod multiply nextafter not_equal subtract "
    "true_divide allclose inner isclose outer tensordot vdot"
)
_OF_INTEGERS = _words(
    "bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor left_shift right_shift"
)
_OF_BOOLEANS = _words("logical_and logical_or logical_xor")
_REDUCTIONS = _words(
    "all amax amin any average count_nonzero max mean median min nanmax nanmean nanmin nanprod nanstd "
    "nansum nanvar prod ptp std sum var"
)
_OF_SQUARES = _words("cholesky_inverse det diagonal eigh inv logdet matrix_rank pinv qr slogdet svd trace tril triu")


def _plain(name: str, *attributes: str, **keywords: Any) -> Expression:
    return lambda t: getattr(K, name)(*(getattr(t, a) for a in attributes), **keywords)


EXPRESSIONS: dict[str, Expression] = {
    **{n: _plain(n, "v") for n in _OF_VECTOR},
    **{n: _plain(n, "p") for n in _OF_POSITIVE},
    **{n: (lambda t, n=n: getattr(K, n)(t.v * 0.0 + (1.5 if n == "arccosh" else 0.25))) for n in _OF_SMALL},
    **{n: _plain(n, "v", "p") for n in _OF_TWO},
    **{n: _plain(n, "n", "n") for n in _OF_INTEGERS},
    **{n: (lambda t, n=n: getattr(K, n)(t.v > 0, t.p > 1)) for n in _OF_BOOLEANS},
    **{n: _plain(n, "m", axis=-1) for n in _REDUCTIONS},
    **{n: (lambda t, n=n: getattr(K, n)(_definite(t))) for n in _OF_SQUARES},
    "adaptive_average_pool": lambda t: K.adaptive_average_pool(t.i, (2, 2), data_format="channels_last"),
    "adaptive_max_pool": lambda t: K.adaptive_max_pool(t.i, (2, 2), data_format="channels_last"),
    "append": lambda t: K.append(t.v, t.p, axis=-1),
    "argpartition": lambda t: K.argpartition(t.v, 2),
    "array_split": lambda t: K.array_split(t.v, 4, axis=-1),
    "average_pool": lambda t: K.average_pool(t.i, 2),
    "batch_normalization": lambda t: K.batch_normalization(t.v, np.zeros(6, "float32"), np.ones(6, "float32"), -1),
    "binary_crossentropy": lambda t: K.binary_crossentropy(K.cast(t.p > 1, "float32"), K.sigmoid(t.v)),
    "bincount": lambda t: K.bincount(t.n, minlength=4),
    "bitwise_invert": lambda t: K.bitwise_invert(t.n),
    "bitwise_not": lambda t: K.bitwise_not(t.n),
    "broadcast_to": lambda t: K.broadcast_to(K.mean(t.v), (2, 3)),
    "cast": lambda t: K.cast(t.n, "float32"),
    "categorical_crossentropy": lambda t: K.categorical_crossentropy(K.one_hot(t.n[:, 0], 6), K.softmax(t.v)),
    "cdist": lambda t: K.cdist(t.m, t.m),
    "cholesky": lambda t: K.cholesky(_definite(t)),
    "clip": lambda t: K.clip(t.v, -1.0, 1.0),
    "concatenate": lambda t: K.concatenate([t.v, t.p], axis=-1),
    "conv": lambda t: K.conv(t.i, np.ones((2, 2, 4, 3), "float32")),
    "convert_to_tensor": lambda t: K.convert_to_tensor(t.v),
    "ctc_decode": lambda t: K.ctc_decode(K.softmax(t.m), K.sum(t.n, axis=-1) * 0 + 4),
    "ctc_loss": lambda t: K.ctc_loss(t.n[:, :2] * 0 + 1, t.m, t.n[:, 0] * 0 + 1, t.n[:, 0] * 0 + 4),
    "cross": lambda t: K.cross(t.m[..., :3], t.m[..., 3:]),
    "depth_to_space": lambda t: K.depth_to_space(t.i, 2),
    "depthwise_conv": lambda t: K.depthwise_conv(t.i, np.ones((2, 2, 4, 1), "float32")),
    "diag": lambda t: K.diag(t.v[0]),
    "diagflat": lambda t: K.diagflat(t.v[0]),
    "digitize": lambda t: K.digitize(t.v, np.array([-1.0, 0.0, 1.0], "float32")),
    "dot": lambda t: K.dot(t.m, t.v[0]),
    "dot_product_attention": lambda t: K.dot_product_attention(t.i, t.i, t.i),
    "dsplit": lambda t: K.dsplit(t.i, 2),
    "dstack": lambda t: K.dstack([t.m, t.m]),
    "einsum": lambda t: K.einsum("abc,adc->abd", t.m, t.m),
    "expand_dims": lambda t: K.expand_dims(t.v, 1),
    "extract_sequences": lambda t: K.extract_sequences(t.v, 3, 1),
    "fft": lambda t: K.fft((t.m, t.m)),
    "fft2": lambda t: K.fft2((t.q, t.q)),
    "fliplr": lambda t: K.fliplr(t.m),
    "flipud": lambda t: K.flipud(t.m),
    "full_like": lambda t: K.full_like(t.v, 2.0),
    "get_item": lambda t: K.get_item(t.m, (slice(None), 1, slice(0, 3))),
    "hsplit": lambda t: K.hsplit(t.m, 2),
    "hstack": lambda t: K.hstack([t.m, t.m]),
    "ifft2": lambda t: K.ifft2((t.q, t.q)),
    "in_top_k": lambda t: K.in_top_k(t.n[:, 0], t.v, 2),
    "irfft": lambda t: K.irfft((t.v, t.p)),
    "istft": lambda t: K.istft(K.stft(K.concatenate([t.v] * 8, axis=-1), 16, 8, 16), 16, 8, 16),
    "jvp": lambda t: K.jvp(keras.activations.tanh, (t.v,), (t.p,)),
    "ldexp": lambda t: K.ldexp(t.v, t.n),
    "logical_not": lambda t: K.logical_not(t.v > 0),
    "lstsq": lambda t: K.lstsq(t.q[0], t.q[0]),
    "lu_factor": lambda t: K.lu_factor(_definite(t)[0]),
    "map": lambda t: K.map(keras.activations.relu, t.v),
    "matmul": lambda t: K.matmul(t.q, t.m),
    "max_pool": lambda t: K.max_pool(t.i, 2),
    "meshgrid": lambda t: K.meshgrid(t.v[0], t.p[0]),
    "moments": lambda t: K.moments(t.m, axes=[1]),
    "moveaxis": lambda t: K.moveaxis(t.m, 1, 2),
    "multi_hot": lambda t: K.multi_hot(t.n, 4),
    "norm": lambda t: K.norm(t.m, axis=-1),
    "one_hot": lambda t: K.one_hot(t.n, 4),
    "pad": lambda t: K.pad(t.m, ((0, 0), (1, 1), (0, 0))),
    "percentile": lambda t: K.percentile(t.m, 50, axis=-1),
    "polar": lambda t: K.real(K.polar(t.p, t.v)),
    "power": lambda t: K.power(t.p, t.v),
    "psnr": lambda t: K.psnr(t.v, t.p, 2.0),
    "quantile": lambda t: K.quantile(t.m, 0.5, axis=-1),
    "rearrange": lambda t: K.rearrange(t.m[0], "a b -> (a b)"),
    "repeat": lambda t: K.repeat(t.v, 2, axis=-1),
    "reshape": lambda t: K.reshape(t.m, (-1, 24)),
    "rfft": lambda t: K.rfft(t.v),
    "roll": lambda t: K.roll(t.v, 1, axis=-1),
    "rot90": lambda t: K.rot90(t.i, axes=(1, 2)),
    "saturate_cast": lambda t: K.saturate_cast(t.v, "int8"),
    "scatter": lambda t: K.scatter(t.n[0][:, None], t.v[0], (8,)),
    "scatter_update": lambda t: K.scatter_update(t.v[0], t.n[0][:, None], t.p[0]),
    "searchsorted": lambda t: K.searchsorted(K.sort(t.v[0]), t.p[0]),
    "segment_max": lambda t: K.segment_max(t.v[0], t.n[0], 4),
    "segment_min": lambda t: K.segment_min(t.v[0], t.n[0], 4),
    "segment_prod": lambda t: K.segment_prod(t.v[0], t.n[0], 4),
    "segment_sum": lambda t: K.segment_sum(t.v[0], t.n[0], 4),
    "select": lambda t: K.select([t.v > 0, t.p > 1], [t.v, t.p], 0.0),
    "separable_conv": lambda t: K.separable_conv(
        t.i, np.ones((2, 2, 4, 1), "float32"), np.ones((1, 1, 4, 3), "float32")
    ),
    "size": lambda t: K.size(t.v[0]),
    "slice": lambda t: K.slice(t.m[0], (0, 1), (2, 3)),
    "slice_update": lambda t: K.slice_update(t.m[0], (0, 1), t.q[0][:2, :2]),
    "solve": lambda t: K.solve(_definite(t), t.m),
    "solve_triangular": lambda t: K.solve_triangular(_definite(t), t.m, lower=True),
    "space_to_depth": lambda t: K.space_to_depth(t.i, 2),
    "sparse_categorical_crossentropy": lambda t: K.sparse_categorical_crossentropy(t.n[:, 0], K.softmax(t.v)),
    "split": lambda t: K.split(t.v, 3, axis=-1),
    "squeeze": lambda t: K.squeeze(K.expand_dims(t.v, 1), 1),
    "stack": lambda t: K.stack([t.v, t.p], axis=1),
    "stft": lambda t: K.stft(K.concatenate([t.v] * 8, axis=-1), 16, 8, 16),
    "swapaxes": lambda t: K.swapaxes(t.m, 1, 2),
    "take": lambda t: K.take(t.m, [0, 2], axis=1),
    "take_along_axis": lambda t: K.take_along_axis(t.v, t.n, axis=-1),
    "threshold": lambda t: K.threshold(t.v, 0.5, 0.0),
    "tile": lambda t: K.tile(t.v, (1, 2)),
    "top_k": lambda t: K.top_k(t.v, 2),
    "transpose": lambda t: K.transpose(t.m, (0, 2, 1)),
    "unstack": lambda t: K.unstack(t.m, axis=1),
    "vander": lambda t: K.vander(t.v[0], 3),
    "vectorized_map": lambda t: K.vectorized_map(keras.activations.relu, t.v),
    "vsplit": lambda t: K.vsplit(t.q[0], 2),
    "vstack": lambda t: K.vstack([t.v, t.p]),
    "where": lambda t: K.where(t.v > 0, t.v, t.p),
}
WRITTEN: dict[str, Expression] = {
    "x + y": lambda t: t.v + t.p,
    "x + 1": lambda t: t.v + 1.0,
    "1 - x": lambda t: 1.0 - t.v,
    "x * 2": lambda t: t.v * 2.0,
    "x / y": lambda t: t.v / t.p,
    "x @ y": lambda t: t.q @ t.m,
    "-x": lambda t: -t.v,
    "x ** 2": lambda t: t.v**2,
    "x // 2": lambda t: t.v // 2.0,
    "x % 2": lambda t: t.v % 2.0,
    "abs(x)": lambda t: abs(t.v),
    "x > y": lambda t: t.v > t.p,
    "x[:, 0]": lambda t: t.m[:, 0],
    "x[..., 1:3]": lambda t: t.m[..., 1:3],
    "x[:, None]": lambda t: t.v[:, None],
    "~(x > 0)": lambda t: ~(t.v > 0),
    "x + broadcast": lambda t: t.m + t.v[:, None],
    "add(x, x)": lambda t: K.add(t.v, t.v),
    "relu with keyword": lambda t: K.relu(x=t.v),
    "concatenate three": lambda t: K.concatenate([t.v, t.p, t.v], -1),
}
NO_NODE = {
    "arange array empty eye full geomspace identity linspace logspace ones tri zeros": "makes a constant",
    "bartlett blackman hamming hanning kaiser": "makes a constant",
    "convert_to_numpy custom_gradient dtype is_tensor shape": "makes no tensor of the model",
    "vectorize": "makes a function",
    "cond fori_loop scan switch while_loop": "takes Python functions that read tensors of their own",
    "associative_scan corrcoef fold gcd isin kron lcm nanmedian nanpercentile nanquantile unfold unravel_index": (
        "Keras 3.15 cannot trace it with a free batch size"
    ),
    "correlate": "takes two vectors without a batch",
    "eig": "complex results that no layer takes",
    "conv_transpose histogram view_as_complex view_as_real": "Keras 3.15 cannot run it under TensorFlow",
    "nonzero unique": "results of a size that no model can state",
}

# Keras cannot load even a float model that holds one of these, so no quantized one either.
UNLOADABLE = {
    "adaptive_average_pool": "its size is a list after loading",
    "adaptive_max_pool": "its size is a list after loading",
}


def _definite(t: SimpleNamespace) -> Any:
    """Well-conditioned symmetric matrices, shape (n, 4, 4)."""
    return K.matmul(t.q, K.transpose(t.q, (0, 2, 1))) + 3.0 * np.eye(4, dtype="float32")


def public() -> list[str]:
    """Names of all functions that `keras.ops` offers."""
    return sorted(n for n in dir(K) if not n.startswith("_") and callable(getattr(K, n)))


def excused() -> set[str]:
    """Names in `NO_NODE`."""
    return {name for names in NO_NODE for name in names.split()}


def build(expressions: dict[str, Expression], *, after: bool = True) -> keras.Model:
    """One model with an output for each expression, fed by Dense layers, and with Dense layers behind it."""
    inputs = {k: keras.Input(shape, name=k) for k, shape in SHAPES.items()}
    inputs["n"] = keras.Input((6,), dtype="int32", name="n")
    dense = {k: keras.layers.Dense(x.shape[-1], name=f"before_{k}")(inputs[k]) for k, x in inputs.items() if k != "n"}
    t = SimpleNamespace(**{**dense, "p": K.abs(dense["p"]) + 0.5, "n": inputs["n"]})
    results = [e(t) for e in expressions.values()]
    outputs = [_used(r, f"after_{i}") if after else r for i, r in enumerate(results)]
    return keras.Model(list(inputs.values()), outputs, name="operations")


def _used(result: Any, name: str) -> Any:
    tensors = keras.tree.flatten(result)
    first = tensors[0]
    if first.dtype == "float32" and len(first.shape) > 1 and first.shape[-1] is not None:
        tensors[0] = keras.layers.Dense(2, name=name)(first)
    return tensors


def batch(n: int = 4, seed: int = 0) -> list[np.ndarray]:
    """Inputs of a model of `build`, in its order."""
    rng = np.random.default_rng(seed)
    floats = [rng.normal(size=(n, *shape)).astype("float32") for shape in SHAPES.values()]
    return [*floats, rng.integers(0, 4, (n, 6)).astype("int32")]
