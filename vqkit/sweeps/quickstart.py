"""The embedded default of `vqkit sweep quickstart`: data, a net trained here, and the sweep over it.

The net is small enough to train in seconds and hard enough to teach. Its channel gains start spread over a
factor of 64, as folded depthwise weights of trained MobileNets are, so that one scale for a whole tensor
loses the quiet channels and every choice a strategy makes (bits, per-channel, equalization, start layer)
shows in the accuracy.
"""

from __future__ import annotations

import itertools
import logging
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit import digest
from vqkit.files import whole, writing
from vqkit.quantization.data import Data
from vqkit.sweeps.spec import Sweep

if TYPE_CHECKING:
    import keras

__all__ = ["as_sweep", "quickstart_data", "quickstart_model", "quickstart_sweep"]

_log = logging.getLogger(__name__)
N_TRAIN = 1200
N_CALIB = 200
EPOCHS = 30
BATCH_SIZE = 50
SEED = 0
START_LAYERS = ("block2_dw", "block3_dw")


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Shuffled digits: images (1797, 8, 8, 1) float32 in 0..1, labels (1797,)."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    order = np.random.default_rng(SEED).permutation(len(raw.target))
    return (raw.images[order, :, :, None] / 16).astype(np.float32), raw.target[order]


def quickstart_data() -> Data:
    """Scikit-learn's handwritten digits: 200 calibration images of the training split, 597 to evaluate."""
    x, y = _digits()
    return Data(name="digits", x_calib=x[:N_CALIB], x_eval=x[N_TRAIN:], y_eval=y[N_TRAIN:], ref="digits")


def quickstart_sweep() -> dict[str, Any]:
    """The sweep: 4 strategies, 4 weight widths, per channel or not, and two later start layers.

    Not the full grid: each factor is varied where it has something to say. The points are listed, not spanned
    by axes, because each gets a short name for the leaderboard.

    Returns:
        A sweep definition as a sweep file would hold it, 32 variants.
    """
    return {
        "name": "quickstart",
        "model": "quickstart",
        "data": "digits",
        "mode": "list",
        "variants": [_named(*point) for point in _points()],
    }


def as_sweep(sweep: Sweep | Mapping[str, Any] | str | Path) -> Sweep:
    """A sweep from a `Sweep`, its content, the path of a sweep file, or "quickstart".

    Raises:
        SweepError: it is not valid.
    """
    if isinstance(sweep, Sweep):
        return sweep
    if isinstance(sweep, Mapping):
        return Sweep.from_dict(sweep)
    if str(sweep) == "quickstart":
        return Sweep.from_dict(quickstart_sweep(), source="quickstart")
    return Sweep.load(sweep)


def _points() -> Iterator[tuple[str, int, bool, str | None]]:
    """Strategy, weight bits, per channel, start layer."""
    for bits in (8, 6, 4, 3):
        for strategy, both in (("pof2s", True), ("pof2s_tqt", False), ("fs", False), ("fsx", True)):
            own = strategy.startswith("fs")
            yield strategy, bits, own, None
            if both:
                yield strategy, bits, not own, None
    for strategy, per_channel, start in itertools.product(("pof2s", "fsx"), (False, True), START_LAYERS):
        yield strategy, 4, per_channel, start


def _named(strategy: str, bits: int, per_channel: bool, start: str | None) -> dict[str, Any]:
    name = f"{strategy} {bits} bit, per {'channel' if per_channel else 'tensor'}"
    point = {"strategy": strategy, "weight_bit": bits, "weight_per_channel": per_channel}
    if start is None:
        return {"name": name, **point}
    return {"name": f"{name}, from {start}", **point, "input_layers": [start]}


def quickstart_model(cache_dir: str | Path) -> Path:
    """Path of the trained float model; trains it on first use and keeps it.

    Args:
        cache_dir: folder for the file; made when missing. The name carries the digest of this module and of
            the versions that decide the weights, so an old file is never taken for a new one.

    Returns:
        Path of a `.keras` file.
    """
    path = Path(cache_dir) / f"quickstart-{_recipe_digest()}.keras"
    if not _is_whole(path):
        model = _trained()
        with writing(path), whole(path) as part:
            model.save(part)
    return path


def _is_whole(path: Path) -> bool:
    """Whether the file is there and as it was written; damage is said, and the net is trained again."""
    if not path.exists():
        return False
    try:
        with zipfile.ZipFile(path) as packed:
            damaged = packed.testzip()
    # A zip file can be damaged in more ways than zipfile has exceptions of its own for.
    except Exception as e:
        damaged = f"{type(e).__name__}: {e}"
    if damaged is not None:
        _log.warning("cache: %s: cannot be read: %s; the net is trained again", path, damaged)
    return damaged is None


def _recipe_digest() -> str:
    versions = {name: version(name) for name in ("keras", "numpy", "scikit-learn", "tensorflow")}
    return digest.of_json({"source": digest.of_file(__file__), "versions": versions})


def _trained() -> keras.Model:
    """The net after training; seeds are local, so the caller's random state is untouched."""
    import keras

    x, y = (a[:N_TRAIN] for a in _digits())
    net = _build()
    _spread_channel_gains(net)
    # Trained through a second model on the same layers: the one that is saved carries no optimizer.
    trainer = keras.Model(net.inputs, net.outputs)
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, EPOCHS * N_TRAIN // BATCH_SIZE)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(keras.optimizers.Adam(schedule), loss)
    rng = np.random.default_rng(SEED)
    order = np.concatenate([rng.permutation(N_TRAIN) for _ in range(EPOCHS)])
    trainer.fit(x[order], y[order], batch_size=BATCH_SIZE, shuffle=False, verbose=0)
    return net


def _build() -> keras.Model:
    from keras import Input, Model, layers

    image = Input((8, 8, 1), name="image")
    x = _relu(_conv(image, "stem", filters=16, size=3), "stem")
    x = _relu(_depthwise(x, "block1_dw"), "block1_dw")
    x = _relu(_conv(x, "block1_pw", filters=32), "block1_pw")
    y = _relu(_depthwise(x, "block2_dw"), "block2_dw")
    y = _conv(y, "block2_pw", filters=32)
    x = _relu(layers.Add(name="block2_add")([x, y]), "block2")
    x = _relu(_depthwise(x, "block3_dw", strides=2), "block3_dw")
    x = _relu(_conv(x, "block3_pw", filters=64), "block3_pw")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = layers.Dense(10, kernel_initializer=_he("head"), name="head")(x)
    return Model(image, logits, name="quickstart")


def _conv(x: Any, name: str, *, filters: int, size: int = 1) -> Any:
    from keras import layers

    conv = layers.Conv2D(filters, size, padding="same", use_bias=False, kernel_initializer=_he(name), name=name)
    return layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(conv(x))


def _depthwise(x: Any, name: str, *, strides: int = 1) -> Any:
    from keras import layers

    conv = layers.DepthwiseConv2D(
        3, strides, padding="same", use_bias=False, depthwise_initializer=_he(name), name=name
    )
    return layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(conv(x))


def _relu(x: Any, name: str) -> Any:
    from keras import layers

    return layers.ReLU(name=f"{name}_relu")(x)


def _he(layer_name: str) -> Any:
    from keras.initializers import HeNormal

    return HeNormal(seed=int(digest.of_bytes(layer_name.encode())[:7], 16))


def _spread_channel_gains(net: keras.Model) -> None:
    """Draw each batch norm's gain log-uniformly: over 2**±3 after depthwise convolutions, 2**±1 elsewhere."""
    from keras.layers import BatchNormalization

    rng = np.random.default_rng(SEED)
    for layer in net.layers:
        if isinstance(layer, BatchNormalization):
            octaves = 3 if "_dw" in layer.name else 1
            layer.gamma.assign(np.exp2(rng.uniform(-octaves, octaves, layer.gamma.shape)).astype(np.float32))
