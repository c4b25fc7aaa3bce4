# ruff: noqa
# It runs in the Python of TensorFlow 1.13 too.
"""Nets that are built as people build them, written by the TensorFlow (or Keras) that runs this; see make_layers.py."""

import os
import sys

import numpy as np
from make_layers import L, keras, layer, make, values


def base(name, frozen=False):
    i = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, name=name + "_conv", use_bias=False)(i)
    x = L.BatchNormalization(name=name + "_bn")(x)
    y = L.DepthwiseConv2D(3, padding="same", name=name + "_dw")(x)
    y = L.BatchNormalization(name=name + "_bn2")(y)
    x = L.Add(name=name + "_add")([x, L.ReLU(6.0, name=name + "_relu")(y)])
    model = keras.Model(i, L.Conv2D(5, 1, name=name + "_pw")(x), name=name)
    if frozen == "part":
        for l in model.layers[:3]:
            l.trainable = False
    elif frozen:
        model.trainable = False
    return model


def teachable():
    first = keras.Sequential([base("mobile"), L.GlobalAveragePooling2D(name="gap")], name="first")
    second = keras.Sequential(
        [
            L.Dense(6, activation="relu", input_shape=(5,), name="d1"),
            L.Dense(3, use_bias=False, activation="softmax", name="d2"),
        ],
        name="second",
    )
    return keras.Sequential([first, second], name="teachable")


def augmented():
    i = keras.Input((8, 8, 3))
    x = keras.Sequential([L.GaussianNoise(0.1), L.Dropout(0.1)], name="augment")(i)
    x = base("net")(x)
    x = L.GlobalAveragePooling2D()(x)
    head = keras.Sequential(
        [L.Dense(4, name="h1"), L.BatchNormalization(name="hb"), L.Dense(2, name="h2")], name="head"
    )
    return keras.Model(i, head(x), name="augmented")


def frozen():
    i = keras.Input((8, 8, 3))
    x = base("one", True)(i)
    y = base("two", "part")(i)
    x = L.Concatenate()([x, y])
    return keras.Model(i, L.Dense(2)(L.Flatten()(x)), name="frozen")


def slashes():
    i = keras.Input((8, 8, 3), name="in")
    x = L.Conv2D(4, 3, name="conv1/conv")(i)
    x = L.BatchNormalization(name="conv1/bn")(x)
    x = L.Activation("relu", name="conv1/relu")(x)
    x = L.Conv2D(4, 3, name="conv1_conv")(x)
    return keras.Model(i, L.Dense(2, name="out/a")(L.Flatten(name="out")(x)), name="slashes")


def twice():
    one, two = keras.Input((8, 8, 3), name="one"), keras.Input((8, 8, 3), name="two")
    inner = base("twin")
    dense = L.Dense(4, name="both")
    a, b = [dense(L.GlobalMaxPooling2D()(inner(t))) for t in (one, two)]
    return keras.Model([one, two], [L.Subtract()([a, b]), L.Dense(2)(a), b], name="twice")


def losses():
    i = keras.Input((6,))
    x = L.Dense(4, name="a")(i)
    y = L.Dense(6, name="b")(x)
    model = keras.Model(i, y, name="losses")
    loss = keras.backend.mean(keras.backend.square(i - y))
    model.add_loss(loss)
    model.add_metric(loss, name="m", aggregation="mean")
    return model


def words():
    return keras.Sequential(
        [
            L.Embedding(12, 4, input_length=5, mask_zero=True, name="e"),
            L.Bidirectional(L.LSTM(3, return_sequences=True), name="b"),
            L.GRU(4, name="g"),
            L.Dense(2, name="d"),
        ],
        name="words",
    )


def fixed():
    return keras.Sequential(
        [
            L.Conv2D(3, 3, batch_input_shape=(2, 8, 8, 3), name="c"),
            L.PReLU(name="p"),
            L.Flatten(name="f"),
            L.Dense(2, name="d"),
        ],
        name="fixed",
    )


def named():
    i = keras.Input((6,), name="input.1")
    x = L.Dense(4, name="_first")(i)
    x = L.Dense(4, name="second.layer")(x)
    return keras.Model(i, L.Dense(2, name="Third-One")(x), name="named")


def timed():
    i = keras.Input((3, 8, 8, 3))
    x = L.TimeDistributed(base("frame"), name="td")(i)
    x = L.TimeDistributed(L.GlobalAveragePooling2D(), name="gap")(x)
    return keras.Model(i, L.LSTM(3, name="l")(x), name="timed")


def cudnn(folder):
    """Layers that need a GPU to run: their files are written, and what LSTM and GRU compute with their weights."""
    expected, told = {}, []
    for kind, plain in (
        ("CuDNNLSTM", make("LSTM", 4, recurrent_activation="sigmoid")),
        ("CuDNNGRU", make("GRU", 4, reset_after=True, recurrent_activation="sigmoid")),
    ):
        name = kind.lower()
        try:
            i = keras.Input((7, 5))
            import tensorflow as tf  # the class has left tf.keras, not tf.compat

            model = keras.Model(i, getattr(tf.compat.v1.keras.layers, kind)(4, name="rnn")(i), name=name)
            rng = np.random.RandomState(5)
            model.set_weights([rng.normal(0, 0.4, w.shape).astype("float32") for w in model.get_weights()])
            model.save(os.path.join(folder, name + ".h5"))
            keras.backend.clear_session()
            i = keras.Input((7, 5))
            same = keras.Model(i, plain("rnn")(i))
            same.load_weights(os.path.join(folder, name + ".h5"))
            expected[name + "/x0"] = values((7, 5), "float32")
            expected[name + "/rnn"] = same.predict(expected[name + "/x0"])
            keras.backend.clear_session()
        except Exception as error:
            told.append(("cudnn", kind, type(error).__name__ + ": " + str(error)[:150]))
    return expected, told


def main(out):
    version = getattr(keras, "__version__", None) or __import__("keras").__version__
    numbers = [int(p) for p in version.split("-")[0].split(".")[:2]]
    formats = [".h5"] + ([".keras"] if numbers >= [2, 12] else [])
    if not os.environ.get("KERAS_2_ALONE"):
        import tensorflow as tf

        formats += ["_saved_model"] if int(tf.__version__[0]) >= 2 else []
    if not os.path.isdir(out):
        os.makedirs(out)
    expected, told = cudnn(out)
    print(*told)
    for build in (teachable, augmented, frozen, slashes, twice, losses, words, fixed, named, timed):
        name = build.__name__
        try:
            model = build()
            if not model.built or not model.inputs:
                model.build((None, 5))
            rng = np.random.RandomState(0)
            new = []
            for w, v in zip(model.weights, model.get_weights()):
                positive = any(p in w.name for p in ("variance", "gamma"))
                new.append(
                    (rng.uniform(0.5, 1.5, v.shape) if positive else rng.normal(0, 0.4, v.shape)).astype(v.dtype)
                )
            model.set_weights(new)
            x = [
                values((5,), "int32") if name == "words" else values(tuple(int(n) for n in t.shape[1:]), "float32", k)
                for k, t in enumerate(model.inputs)
            ]
            y = model.predict(x if len(x) > 1 else x[0])
        except Exception as error:
            print("-", name, type(error).__name__, str(error)[:200])
            continue
        for k, a in enumerate(x):
            expected["%s/x%d" % (name, k)] = a
        for k, a in enumerate(y if isinstance(y, list) else [y]):
            expected["%s/y%d" % (name, k)] = a
        np.savez_compressed(os.path.join(out, "expected.npz"), **expected)
        for form in formats:
            if form == "_saved_model" and name not in ("augmented", "frozen", "words", "timed"):
                continue
            try:
                model.save(os.path.join(out, name + form), **({"save_format": "tf"} if form[0] == "_" else {}))
            except Exception as error:
                print("-", name + form, type(error).__name__, str(error)[:200])


main(sys.argv[1])
