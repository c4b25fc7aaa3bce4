"""Calibration sets larger than memory: a stream is read once, batch by batch, and nothing of it is held."""

from __future__ import annotations

import weakref

import numpy as np
import tensorflow as tf

from tests.support import zoo
from vqkit import digest
from vqkit.quantization import Data, quantize

BATCHES, BATCH = 12, 4


def encodings(quantized):
    return {k: p.to_json() for k, p in quantized.encodings.items()}


class Counted:
    """Generates batches and counts those that somebody still holds."""

    def __init__(self, images):
        self.images, self.read, self.most, self._alive = images, 0, 0, []

    def __iter__(self):
        for i in range(0, len(self.images), BATCH):
            batch = self.images[i : i + BATCH].copy()
            self._alive = [r for r in self._alive if r() is not None] + [weakref.ref(batch)]
            self.most, self.read = max(self.most, len(self._alive)), self.read + 1
            yield batch
            del batch


def images():
    return zoo.batch(zoo.build("residual"), BATCHES * BATCH)


def test_a_stream_is_read_once_and_not_held():
    x, model = images(), zoo.build("residual")
    for strategy in ("pof2s", "fsx"):
        source = Counted(x)
        streamed = quantize(model, strategy, iter(source))
        assert source.read == BATCHES
        assert source.most <= 3
        assert encodings(streamed) == encodings(quantize(model, strategy, x, batch_size=BATCH))


def test_steps_stop_an_endless_stream():
    x, model = images(), zoo.build("residual")
    endless = tf.data.Dataset.from_tensor_slices(x).repeat().batch(BATCH)
    streamed = quantize(model, "pof2s", endless, steps=3)
    assert encodings(streamed) == encodings(quantize(model, "pof2s", x[: 3 * BATCH], batch_size=BATCH))


def test_an_array_in_a_file_is_cut_there(tmp_path):
    x, model = images(), zoo.build("residual")
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    streamed = quantize(model, "pof2s", mapped, batch_size=BATCH)
    assert encodings(streamed) == encodings(quantize(model, "pof2s", x, batch_size=BATCH))
    data = Data("file", mapped, mapped, np.zeros(len(x)))
    assert np.shares_memory(data.x_calib, mapped)
    assert data.digest == Data("memory", x, x, np.zeros(len(x))).digest
    assert digest.of_array(mapped) == digest.of_array(x)
