"""Make the files of this folder with Keras 2 (`tf_keras`); needs TensorFlow and tf_keras 2.21, see README.md.

    python make.py

Every model is random and tiny; `expected.npz` holds one input and the output that Keras 2 computes for each.
"""

from __future__ import annotations

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers
from tf_keras.src import backend

HERE = Path(__file__).parent


def depthwise():
    """What Keras 2 writes for plain layers: `groups` in depthwise and transposed convolutions, axis lists."""
    x = i = keras.Input((8, 8, 3), name="image")
    x = layers.ZeroPadding2D(1, name="pad")(x)
    x = layers.DepthwiseConv2D(3, use_bias=False, name="dw")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(6.0, name="relu6")(x)
    x = layers.Conv2D(4, 1, name="pw")(x)
    x = layers.LeakyReLU(0.1, name="leaky")(x)
    x = layers.Conv2DTranspose(3, 2, strides=2, name="up")(x)
    x = layers.SeparableConv2D(4, 3, activation="relu", name="sep")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(i, layers.Dense(3, activation="softmax", name="head")(x), name="depthwise")


def operators():
    """TensorFlow functions and Python operators in a functional model: TFOpLambda, SlicingOpLambda."""
    i = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="conv")(tf.cast(i, tf.float32) / 2.0 - 1.0)
    gate = layers.ReLU(6.0, name="gate_relu6")(x + 3.0) * (1.0 / 6.0)
    x = tf.nn.relu(x) * gate
    y = tf.nn.relu6(layers.Conv2D(4, 1, name="side")(x[:, ::2, ::2, :]))
    y = tf.image.resize(y, (8, 8), method="nearest")
    x = tf.concat([x, y], axis=-1)
    x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    x = tf.math.subtract(1.0, tf.nn.max_pool2d(x, 2, 2, "VALID"))
    x = tf.reduce_mean(x, axis=[1, 2])
    x = tf.reshape(x, (-1, 8))
    left, right = tf.split(x, 2, axis=-1)
    x = tf.math.maximum(left, tf.math.tanh(-right)) + tf.squeeze(tf.expand_dims(right, 1), axis=[1])
    return keras.Model(i, tf.nn.softmax(layers.Dense(3, name="head")(x)), name="operators")


def shared():
    """A layer called twice, a model in the model with operators inside, a mapping of outputs."""
    inner_in = keras.Input((4,), name="inner_in")
    inner = keras.Model(inner_in, layers.Dense(4, name="inner_dense")(inner_in) * 0.5 + inner_in, name="inner")
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    dense = layers.Dense(4, activation="relu", name="shared_dense")
    x = inner(dense(a)) + inner(dense(b))
    y = layers.Add(name="sum")([x, tf.abs(a)])
    return keras.Model([a, b], [layers.Dense(2, name="first")(y), tf.sigmoid(x)], name="shared")


def recurrent():
    """`time_major` of recurrent layers."""
    i = keras.Input((5, 3), name="steps")
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True, name="lstm"), name="both")(i)
    x = layers.GRU(3, name="gru")(x)
    return keras.Model(i, layers.Dense(2, name="head")(x), name="recurrent")


def sequential():
    """A Sequential model."""
    return keras.Sequential(
        [
            layers.Conv2D(4, 3, activation="relu", input_shape=(8, 8, 3), name="conv"),
            layers.DepthwiseConv2D(3, name="dw"),
            layers.BatchNormalization(name="bn"),
            layers.Flatten(name="flat"),
            layers.Dropout(0.5, name="drop"),
            layers.Dense(3, name="head"),
        ],
        name="sequential",
    )


def raw_operations():
    """What TensorFlow before 2.4 wrote for functions: TensorFlowOpLayer."""
    i = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="conv")(i)
    gate = layers.ReLU(6.0, name="gate_relu6")(x + 3.0) * (1.0 / 6.0)
    x = tf.nn.relu(x) * gate
    x = tf.concat([x, tf.nn.relu6(x)], axis=-1)
    x = tf.reduce_mean(x, axis=[1, 2])
    return keras.Model(i, layers.Dense(3, name="head")(x), name="raw_operations")


def randomize(model):
    rng = np.random.default_rng(0)
    model.set_weights(
        [
            rng.uniform(0.5, 1.5, w.shape).astype("float32")
            if "variance" in w.name or "gamma" in w.name
            else rng.normal(0, 0.3, w.shape).astype("float32")
            for w in model.weights
        ]
    )


def batch(model):
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=(2, *t.shape[1:])).astype("float32") for t in model.inputs]
    return arrays[0] if len(arrays) == 1 else arrays


def main():
    expected = {}

    def note(name, model):
        x = batch(model)
        for k, a in enumerate(x if isinstance(x, list) else [x]):
            expected[f"{name}/x{k}"] = a
        y = model.predict(x, verbose=0)
        for k, a in enumerate(y if isinstance(y, list) else [y]):
            expected[f"{name}/y{k}"] = a

    for build in (depthwise, operators, shared, recurrent, sequential):
        model = build()
        randomize(model)
        note(build.__name__, model)
        model.save(HERE / f"{build.__name__}.h5")
        if build in (depthwise, operators):
            model.save(HERE / f"{build.__name__}.keras")
            model.save(HERE / f"{build.__name__}_saved_model", save_format="tf", save_traces=False)
    with tf.Graph().as_default(), tf.compat.v1.Session().as_default() as session:
        backend.set_session(session)
        model = raw_operations()
        randomize(model)
        note("raw_operations", model)
        model.save(HERE / "raw_operations.h5")
    np.savez_compressed(HERE / "expected.npz", **expected)


if __name__ == "__main__":
    main()
