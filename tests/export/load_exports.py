"""Runs in a fresh process: loads each export, runs it on the same samples, keeps outputs and a dump.

python load_exports.py FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

import numpy as np


def main(folder: Path) -> None:
    """Write `<format>.npy` for each file in the folder, and the dump `theirs`."""
    x = np.load(folder / "x.npy")

    from vqkit.export.onnx import OnnxSession

    session = OnnxSession(folder / "m.onnx")
    np.save(folder / "onnx.npy", session({session.inputs[0]: x})["output"])

    from vqkit.export.tflite.flatbuffer import LiteRtSession

    np.save(folder / "tflite.npy", LiteRtSession(folder / "m.tflite")({"image": x})["output"])

    import tensorflow as tf

    import vqkit
    from vqkit.evaluation import predict

    for name in ("keras", "h5"):
        np.save(folder / f"{name}.npy", predict(vqkit.load_model(folder / f"m.{name}"), x))
    import keras

    from vqkit.vitis import vitis_quantize

    model = keras.models.load_model(folder / "m.keras")
    vitis_quantize.VitisQuantizer.dump_model(model, x[:2], str(folder / "theirs"))

    loaded = tf.saved_model.load(str(folder / "saved"))  # Its functions live as long as it does.
    np.save(folder / "saved_model.npy", np.asarray(loaded.serve(x)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
