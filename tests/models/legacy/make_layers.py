# ruff: noqa
# It runs in the Python of TensorFlow 1.13 too.
"""Every layer class of Keras 2, written by the TensorFlow (or Keras) that runs this; see README.md.

    python make_layers.py OUT [singles]

Works with TensorFlow 1.13 to 2.15 (tf.keras), tf_keras, and with Keras 2.1 to 2.3 (`KERAS_2_ALONE=1`).
Each model has one input and one output for each layer of its kind; weights are random, so is the input.
"""

import os
import sys
import zipfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np

if os.environ.get("KERAS_2_ALONE"):
    import keras
else:
    try:
        import tf_keras as keras
    except ImportError:
        import tensorflow as tf

        keras = tf.keras

L = keras.layers


def layer(name):
    """A layer class, wherever this version has it."""
    for owner in (L, getattr(getattr(L, "experimental", None), "preprocessing", None)):
        if hasattr(owner, name):
            return getattr(owner, name)
    raise AttributeError(name)


def make(name, *args, **kwargs):
    return lambda label: layer(name)(*args, name=label, **kwargs)


def rnn(cell, *args, **kwargs):
    return lambda label: L.RNN(layer(cell)(4, **kwargs), name=label, *args)


def around(wrapper, name, *args, **kwargs):
    more = kwargs.pop("outer", {})
    return lambda label: layer(wrapper)(layer(name)(*args, **kwargs), name=label, **more)


def in_time(label):
    i = keras.Input((5,))
    return L.TimeDistributed(keras.Model(i, L.Dense(2)(L.BatchNormalization()(i))), name=label)


def both_ways(label):
    return L.Bidirectional(L.LSTM(3), backward_layer=L.LSTM(3, go_backwards=True), name=label)


def cells(label):
    return L.RNN([L.LSTMCell(3), L.GRUCell(4), L.SimpleRNNCell(2)], name=label)


def adapted(name, data=None, **kwargs):
    def build(label):
        made = layer(name)(name=label, **kwargs)
        made.adapt(np.random.RandomState(3).uniform(2, 9, (64, 6)).astype("float32") if data is None else data)
        return made

    return build


IMAGE = {
    "conv": make("Conv2D", 4, 3),
    "conv_same": make("Conv2D", 4, 3, strides=2, padding="same", use_bias=False, activation="relu"),
    "conv_dilated": make("Conv2D", 2, 3, dilation_rate=2, padding="same"),
    "conv_groups": make("Conv2D", 4, 3, groups=2),
    "depthwise": make("DepthwiseConv2D", 3, depth_multiplier=2),
    "depthwise_dilated": make("DepthwiseConv2D", 3, dilation_rate=2),
    "separable": make("SeparableConv2D", 4, 3, depth_multiplier=2, activation="relu"),
    "transposed": make("Conv2DTranspose", 3, 3, strides=2, padding="same"),
    "transposed_more": make("Conv2DTranspose", 3, 3, strides=2, output_padding=1),
    "batch": make("BatchNormalization"),
    "batch_plain": make("BatchNormalization", scale=False, center=False),
    "batch_second": make("BatchNormalization", axis=1, fused=False),
    "batch_fused": make("BatchNormalization", fused=False, epsilon=0.01),
    "batch_renorm": make("BatchNormalization", renorm=True),
    "batch_frozen": make("BatchNormalization", trainable=False),
    "batch_sync": make("SyncBatchNormalization"),
    "layer_norm": make("LayerNormalization"),
    "layer_norm_all": make("LayerNormalization", axis=[1, 2, 3], epsilon=0.01),
    "group_norm": make("GroupNormalization", 2),
    "unit_norm": make("UnitNormalization"),
    "max": make("MaxPooling2D", 2),
    "max_same": make("MaxPooling2D", 3, strides=2, padding="same"),
    "average": make("AveragePooling2D", 3, strides=2, padding="same"),
    "global_max": make("GlobalMaxPooling2D"),
    "global_average": make("GlobalAveragePooling2D"),
    "global_kept": make("GlobalAveragePooling2D", keepdims=True),
    "up": make("UpSampling2D", 2),
    "up_bilinear": make("UpSampling2D", (2, 3), interpolation="bilinear"),
    "up_bicubic": make("UpSampling2D", 2, interpolation="bicubic"),
    "padded": make("ZeroPadding2D", ((1, 0), (2, 1))),
    "cropped": make("Cropping2D", ((1, 0), (2, 1))),
    "permuted": make("Permute", (3, 1, 2)),
    "flat": make("Flatten"),
    "shaped": make("Reshape", (8, -1)),
    "dropout": make("Dropout", 0.5, noise_shape=(None, 1, 1, 4)),
    "dropout_seed": make("Dropout", 0.5, seed=3),
    "spatial": make("SpatialDropout2D", 0.3),
    "noise": make("GaussianNoise", 0.3),
    "gaussian": make("GaussianDropout", 0.3),
    "alpha": make("AlphaDropout", 0.3),
    "activity": make("ActivityRegularization", l1=0.1),
    "regular": lambda label: L.Conv2D(
        2, 1, kernel_regularizer="l2", bias_constraint="max_norm", kernel_initializer="orthogonal", name=label
    ),
    "relu": make("ReLU"),
    "relu_all": make("ReLU", 6.0, negative_slope=0.1, threshold=0.2),
    "leaky": make("LeakyReLU", 0.2),
    "prelu": make("PReLU", shared_axes=[1, 2]),
    "elu": make("ELU", 0.7),
    "threshold": make("ThresholdedReLU", 0.4),
    "softmax": make("Softmax", axis=1),
    "softmax_two": make("Softmax", axis=[1, 2]),
    "dense": make("Dense", 3, activation="sigmoid"),
    "einsum": make("EinsumDense", "abcd,de->abce", output_shape=(None, None, 5), bias_axes="e"),
    "local": make("LocallyConnected2D", 2, 3),
    "resizing": make("Resizing", 5, 7),
    "resizing_nearest": make("Resizing", 5, 7, interpolation="nearest"),
    "resizing_area": make("Resizing", 4, 4, interpolation="area"),
    "rescaling": make("Rescaling", 0.25, offset=-1.0),
    "center": make("CenterCrop", 4, 6),
    "random_flip": make("RandomFlip", "horizontal"),
    "random_rotation": make("RandomRotation", 0.2),
    "random_zoom": make("RandomZoom", 0.2),
    "random_translation": make("RandomTranslation", 0.2, 0.2),
    "random_contrast": make("RandomContrast", 0.2),
    "random_brightness": make("RandomBrightness", 0.2),
    "random_crop": make("RandomCrop", 4, 4),
    "random_width": make("RandomWidth", 0.2),
    "random_height": make("RandomHeight", 0.2),
    "spectral": lambda label: layer("SpectralNormalization")(L.Conv2D(3, 2), name=label),
    "identity": make("Identity"),
    "normalization": make("Normalization", mean=[0.1, 0.2, 0.3, 0.4], variance=[1.0, 2.0, 3.0, 4.0]),
    **{
        "act_" + a: make("Activation", a)
        for a in (
            "relu",
            "sigmoid",
            "tanh",
            "softplus",
            "softsign",
            "selu",
            "elu",
            "exponential",
            "linear",
            "hard_sigmoid",
            "swish",
            "gelu",
            "softmax",
            "mish",
            "relu6",
        )
    },
}
STEPS = {
    "conv": make("Conv1D", 4, 3, padding="causal", dilation_rate=2),
    "conv_valid": make("Conv1D", 4, 3, strides=2, activation="tanh"),
    "separable": make("SeparableConv1D", 4, 3),
    "depthwise": make("DepthwiseConv1D", 3),
    "transposed": make("Conv1DTranspose", 4, 3, strides=2),
    "local": make("LocallyConnected1D", 2, 3),
    "max": make("MaxPooling1D", 2),
    "average": make("AveragePooling1D", 3, strides=1, padding="same"),
    "global_max": make("GlobalMaxPooling1D"),
    "global_average": make("GlobalAveragePooling1D"),
    "up": make("UpSampling1D", 2),
    "padded": make("ZeroPadding1D", 1),
    "cropped": make("Cropping1D", 1),
    "spatial": make("SpatialDropout1D", 0.3),
    "lstm": make("LSTM", 4),
    "lstm_all": make(
        "LSTM",
        4,
        return_sequences=True,
        implementation=1,
        unroll=True,
        go_backwards=True,
        unit_forget_bias=False,
        use_bias=False,
    ),
    "lstm_hard": make("LSTM", 3, recurrent_activation="hard_sigmoid", activation="relu", dropout=0.2),
    "gru": make("GRU", 4),
    "gru_before": make("GRU", 4, reset_after=False),
    "gru_after": make("GRU", 4, reset_after=True, recurrent_activation="sigmoid"),
    "simple": make("SimpleRNN", 4, return_sequences=True),
    "rnn": rnn("LSTMCell"),
    "rnn_gru": rnn("GRUCell"),
    "rnn_simple": rnn("SimpleRNNCell"),
    "rnn_cells": cells,
    "both": around("Bidirectional", "LSTM", 3),
    "both_sum": around("Bidirectional", "GRU", 3, return_sequences=True, outer={"merge_mode": "sum"}),
    "both_own": both_ways,
    "timed": around("TimeDistributed", "Dense", 3),
    "timed_batch": around("TimeDistributed", "BatchNormalization"),
    "timed_model": in_time,
    "masked": make("Masking"),
    "batch": make("BatchNormalization"),
    "prelu": make("PReLU"),
}
VECTOR = {
    "dense": make("Dense", 4, activation="selu"),
    "repeated": make("RepeatVector", 3),
    "batch": make("BatchNormalization"),
    "adapted": adapted("Normalization"),
    "adapted_bins": adapted("Discretization", num_bins=4),
    "bins": make("Discretization", bin_boundaries=[-0.5, 0.0, 0.5]),
    "norm_inverse": make("Normalization", axis=None, mean=1.0, variance=4.0, invert=True),
    "unit": make("UnitNormalization"),
}
VOLUME = {
    "conv": make("Conv3D", 3, 2),
    "transposed": make("Conv3DTranspose", 3, 2, strides=2),
    "max": make("MaxPooling3D", 2),
    "average": make("AveragePooling3D", 2),
    "global_max": make("GlobalMaxPooling3D"),
    "global_average": make("GlobalAveragePooling3D"),
    "up": make("UpSampling3D", 2),
    "padded": make("ZeroPadding3D", 1),
    "cropped": make("Cropping3D", 1),
    "spatial": make("SpatialDropout3D", 0.3),
    "conv_lstm": make("ConvLSTM2D", 2, 3),
    "conv_lstm_all": make("ConvLSTM2D", 2, 3, return_sequences=True, padding="same", recurrent_activation="sigmoid"),
    "timed_conv": around("TimeDistributed", "Conv2D", 3, 2),
    "both_conv": around("Bidirectional", "ConvLSTM2D", 2, 3),
    "batch": make("BatchNormalization"),
}
NUMBERS = {
    "embedding": make("Embedding", 12, 4, input_length=5),
    "embedding_masked": make("Embedding", 12, 4, mask_zero=True),
    "hashing": make("Hashing", 5),
    "category": make("CategoryEncoding", 12),
    "category_one": make("CategoryEncoding", num_tokens=12, output_mode="multi_hot"),
    "category_old": make("CategoryEncoding", max_tokens=12, output_mode="binary"),
    "lookup": make("IntegerLookup", vocabulary=[3, 1, 7]),
    "lookup_adapted": adapted("IntegerLookup", np.array([[3], [3], [1], [1], [1], [8]])),
}
WORDS = {
    "lookup": make("StringLookup", vocabulary=["a", "b", "c"]),
    "lookup_masked": make("StringLookup", vocabulary=["a", "b", "c"], mask_token=""),
    "lookup_hot": make("StringLookup", vocabulary=["a", "b", "c"], output_mode="multi_hot"),
    "lookup_adapted": adapted("StringLookup", np.array([["a"], ["a"], ["b"], ["c"], ["c"], ["c"]])),
}
TWO = {
    "added": make("Add"),
    "subtracted": make("Subtract"),
    "multiplied": make("Multiply"),
    "averaged": make("Average"),
    "maximum": make("Maximum"),
    "minimum": make("Minimum"),
    "joined": make("Concatenate", axis=1),
    "dot": make("Dot", axes=2),
    "dot_normal": make("Dot", axes=(1, 1), normalize=True),
    "attention": make("Attention", use_scale=True),
    "attention_plain": make("Attention"),
    "attention_concat": make("Attention", score_mode="concat"),
    "additive": make("AdditiveAttention"),
}


def heads(label):
    made = layer("MultiHeadAttention")(2, 3, name=label)
    return lambda xs: made(xs[0], xs[1])


def heads_axes(label):
    made = layer("MultiHeadAttention")(
        2, 3, value_dim=4, output_shape=6, attention_axes=(1,), use_bias=False, name=label
    )
    return lambda xs: made(xs[0], xs[1])


TWO["heads"] = heads
TWO["heads_axes"] = heads_axes
KINDS = {
    "image": (IMAGE, (8, 8, 4), "float32"),
    "steps": (STEPS, (7, 5), "float32"),
    "vector": (VECTOR, (6,), "float32"),
    "volume": (VOLUME, (4, 6, 6, 2), "float32"),
    "numbers": (NUMBERS, (5,), "int32"),
    "words": (WORDS, (3,), "string"),
    "two": (TWO, (5, 6), "float32"),
}


def values(shape, dtype, seed=1):
    rng = np.random.RandomState(seed)
    if dtype == "int32":
        return rng.randint(0, 12, (2,) + shape).astype("int32")
    if dtype == "string":
        return np.array(["a", "b", "c", "d", "e"])[rng.randint(0, 5, (2,) + shape)].astype(object)
    return rng.normal(size=(2,) + shape).astype("float32")


def model_of(kind, labels, name):
    table, shape, dtype = KINDS[kind]
    inputs = [keras.Input(shape, dtype=dtype, name="x%d" % k) for k in range(1 + (kind == "two"))]
    outputs, built, told = [], [], []
    for label in labels:
        try:
            out = table[label](kind[0] + "_" + label)(inputs if kind == "two" else inputs[0])
        except Exception as error:
            told.append((kind, label, type(error).__name__ + ": " + str(error)[:150]))
            continue
        out = out[0] if isinstance(out, list) else out
        outputs.append(out)
        built.append(label)
    if not outputs:
        return None, [], told
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs, name=name), built, told


def randomize(model):
    rng = np.random.RandomState(0)
    kept = [l.name for l in model.layers if "adapted" in l.name or type(l).__name__ == "Normalization"]
    for l in model.layers:
        if l.name in kept or not l.weights:
            continue
        new = []
        if any(not hasattr(w, "name") for w in l.weights):
            continue
        for w, value in zip(l.weights, l.get_weights()):
            positive = any(p in getattr(w, "name", "") for p in ("variance", "gamma", "stddev"))
            new.append(rng.uniform(0.5, 1.5, value.shape) if positive else rng.normal(0, 0.4, value.shape))
        l.set_weights([np.asarray(n, "float32") for n in new])


def write(kind, labels, name, folder, formats):
    model, built, told = model_of(kind, labels, name)
    if model is None:
        return {}, told
    randomize(model)
    _, shape, dtype = KINDS[kind]
    x = [values(shape, dtype, k + 1) for k in range(len(model.inputs))]
    try:
        y = model.predict(x if len(x) > 1 else x[0])
    except Exception as error:
        y, told = [], told + [(kind, ",".join(built), "predict: " + str(error)[:150])]
    y = y if isinstance(y, list) else [y]
    expected = {}
    for k, a in enumerate(x):
        expected[name + "/x%d" % k] = a.astype("U") if a.dtype == object else a
    for label, a in zip(built, y):
        a = a.to_dense().numpy() if hasattr(a, "to_dense") else np.asarray(a)
        expected[name + "/" + label] = a
    for form in formats:
        target = os.path.join(folder, name + form)
        try:
            if form == "_saved_model":
                if hasattr(keras.models, "save_model"):
                    model.save(target, save_format="tf")
            else:
                model.save(target)
        except Exception as error:
            told.append((kind, ",".join(built) + form, type(error).__name__ + ": " + str(error)[:150]))
    return expected, told


def main(out, singles):
    version = getattr(keras, "__version__", None) or __import__("keras").__version__
    if not os.path.isdir(out):
        os.makedirs(out)
    formats = [".h5"]
    numbers = [int(p) for p in version.split("-")[0].split(".")[:2]]
    if numbers >= [2, 12]:
        formats = [".h5", ".keras"]
    expected, told = {}, []
    for kind, (table, _, _) in KINDS.items():
        groups = (
            [(kind + "." + label, [label]) for label in table]
            if singles
            else [(kind, [x for x in table if x != "local"])]
        )
        for name, labels in groups:
            found, problems = write(kind, labels, name.replace(".", "_"), out, formats)
            expected.update(found)
            told += problems
    np.savez_compressed(os.path.join(out, "expected.npz"), **expected)
    for row in told:
        print("-", row)
    print(version, len(expected), "arrays")


if __name__ == "__main__":
    main(sys.argv[1], len(sys.argv) > 2)
