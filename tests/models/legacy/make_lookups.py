# ruff: noqa
"""Layers that hold a vocabulary or bins, written by the TensorFlow that runs this (2.4 and later); see README.md.

python make_lookups.py OUT
"""

import os
import sys

import numpy as np
from make_layers import keras, layer, make

L = keras.layers
WORDS = np.array([["the cat"], ["The dog, the cat"], ["a DOG!"], ["the eel"], ["cat"]])
LETTERS = np.array([["a"], ["a"], ["b"], ["c"], ["c"], ["c"]])
DIGITS = np.array([[3], [3], [1], [1], [1], [8]])
REALS = np.random.RandomState(3).uniform(2, 9, (64, 4)).astype("float32")


def adapted(name, data, **kwargs):
    def build(label):
        made = layer(name)(name=label, **kwargs)
        made.adapt(data)
        return made

    return build


def from_file(name, words, **kwargs):
    def build(label):
        path = os.path.join(sys.argv[1], "words.txt")
        with open(path, "w") as file:
            file.write("\n".join(words))
        made = layer(name)(vocabulary=path, name=label, **kwargs)
        return made

    return build


def inside(builder, *, sequential=False):
    """The same in a model within the model."""

    def build(label):
        found = builder(label + "_inner")
        if sequential:
            return keras.Sequential([keras.Input((1,), dtype="string"), found], name=label)
        i = keras.Input((1,), dtype="string")
        return keras.Model(i, found(i), name=label)

    return build


def several(one, two):
    """Two of a class among layers with weights, which versions number each in its way."""

    def build(label):
        i = keras.Input((1,), dtype="string")
        a, b = L.Embedding(9, 2)(one("one")(i)), L.Embedding(9, 3)(two("two")(i))
        return keras.Model(i, L.Concatenate()([L.Dense(2)(L.Flatten()(a)), L.Flatten()(b)]), name=label)

    return build


TEXTS = {
    "text": adapted("TextVectorization", WORDS),
    "text_length": adapted("TextVectorization", WORDS, output_sequence_length=3, max_tokens=5),
    "text_hot": adapted("TextVectorization", WORDS, output_mode="multi_hot"),
    "text_count": adapted("TextVectorization", WORDS, output_mode="count", max_tokens=9, pad_to_max_tokens=True),
    "text_tf_idf": adapted("TextVectorization", WORDS, output_mode="tf_idf"),
    "text_kept": adapted("TextVectorization", WORDS, standardize=None),
    "text_pairs": adapted("TextVectorization", WORDS, ngrams=2),
    "text_letters": adapted("TextVectorization", WORDS, split="character", standardize="lower"),
    "text_given": make("TextVectorization", vocabulary=["cat", "dog", "eel"]),
    "text_file": from_file("TextVectorization", ["cat", "dog", "eel"]),
    "text_idf": make("TextVectorization", vocabulary=["cat", "dog"], idf_weights=[0.5, 2.0], output_mode="tf_idf"),
    "text_inner": inside(adapted("TextVectorization", WORDS)),
    "text_sequential": inside(adapted("TextVectorization", WORDS), sequential=True),
}
LOOKUPS = {
    "string": adapted("StringLookup", LETTERS),
    "string_given": make("StringLookup", vocabulary=["a", "b", "c"]),
    "string_file": from_file("StringLookup", ["c", "b", "a"]),
    "string_masked": make("StringLookup", vocabulary=["a", "b", "c"], mask_token=""),
    "string_masked_adapted": adapted("StringLookup", LETTERS, mask_token="b"),
    "string_oov": make("StringLookup", vocabulary=["a", "b", "c"], num_oov_indices=2),
    "string_one": adapted("StringLookup", LETTERS, output_mode="one_hot"),
    "string_hot": adapted("StringLookup", LETTERS, output_mode="multi_hot"),
    "string_count": adapted("StringLookup", LETTERS, output_mode="count", max_tokens=8, pad_to_max_tokens=True),
    "string_tf_idf": adapted("StringLookup", LETTERS, output_mode="tf_idf"),
    "string_several": several(adapted("StringLookup", LETTERS), adapted("StringLookup", LETTERS[3:])),
    "string_several_given": several(
        make("StringLookup", vocabulary=["a", "b"]), make("StringLookup", vocabulary=["c"], mask_token="")
    ),
    "string_several_each": several(
        make("StringLookup", vocabulary=["a", "b"]), adapted("StringLookup", LETTERS[2:], num_oov_indices=2)
    ),
    "string_inner": inside(adapted("StringLookup", LETTERS)),
    "string_sequential": inside(adapted("StringLookup", LETTERS), sequential=True),
}
NUMBERS = {
    "integer": adapted("IntegerLookup", DIGITS),
    "integer_given": make("IntegerLookup", vocabulary=[3, 1, 7]),
    "integer_masked": make("IntegerLookup", vocabulary=[3, 1, 7], mask_token=0),
    "integer_tokens": make("IntegerLookup", vocabulary=[3, 1, 7], mask_token=9, oov_token=-5),
    "integer_oov": make("IntegerLookup", vocabulary=[3, 1, 7], num_oov_indices=3),
    "integer_hot": adapted("IntegerLookup", DIGITS, output_mode="multi_hot"),
    "integer_tf_idf": adapted("IntegerLookup", DIGITS, output_mode="tf_idf"),
    "category": make("CategoryEncoding", 12, output_mode="count"),
    "hashing": make("Hashing", 5),
    "hashing_salt": make("Hashing", 5, salt=[3, 4]),
    "hashing_hot": make("Hashing", 5, output_mode="multi_hot"),
}
HASHED = {"string_hashing": make("Hashing", 5), "string_hashing_masked": make("Hashing", 5, mask_value="a")}
FLOATS = {
    "norm": adapted("Normalization", REALS),
    "norm_whole": adapted("Normalization", REALS, axis=None),
    "norm_given": make("Normalization", axis=None, mean=1.0, variance=4.0),
    "norm_list": make("Normalization", mean=[1.0, 2.0, 3.0, 4.0], variance=[4.0, 1.0, 0.5, 2.0]),
    "norm_inverse": adapted("Normalization", REALS, invert=True),
    "bins": make("Discretization", bin_boundaries=[3.0, 5.5, 8.0]),
    "bins_adapted": adapted("Discretization", REALS, num_bins=4),
    "bins_one": make("Discretization", bin_boundaries=[3.0, 5.5, 8.0], output_mode="count"),
    "bins_adapted_hot": adapted("Discretization", REALS, num_bins=4, output_mode="multi_hot"),
}
# Name of a kind: layers, shape, dtype, values.
KINDS = {
    "texts": (TEXTS, (1,), "string", np.array([["The cat"], ["a new dog"], ["eel the the"]], object)),
    "lookups": (LOOKUPS, (1,), "string", np.array([["a"], ["b"], ["c"], ["q"], ["rr"]], object)),
    "hashed": (HASHED, (1,), "string", np.array([["a"], ["b"], ["c"], ["q"], ["rr"]], object)),
    "numbers": (NUMBERS, (1,), "int64", np.array([[1], [3], [7], [8], [0], [9], [11]])),
    "floats": (FLOATS, (4,), "float32", REALS[:6] * 1.5),
}


def main(out):
    if not os.path.isdir(out):
        os.makedirs(out)
    version = [int(p) for p in keras.__version__.split(".")[:2]] if hasattr(keras, "__version__") else [2, 13]
    formats = [".h5", "_saved_model"] + ([".keras"] if version >= [2, 12] else [])
    expected, told = {}, []
    for kind, (table, shape, dtype, x) in KINDS.items():
        for label, build in table.items():
            name = kind + "_" + label
            try:
                i = keras.Input(shape, dtype=dtype, name="x0")
                model = keras.Model(i, build("made")(i), name=name)
                y = model.predict(x, verbose=0)
            except Exception as error:
                told.append((name, type(error).__name__ + ": " + " ".join(str(error).split())[-150:]))
                continue
            y = y.to_tensor() if hasattr(y, "to_tensor") else y
            expected[name + "/x0"] = x.astype("U") if x.dtype == object else x
            expected[name + "/made"] = np.asarray(y)
            for form in formats:
                path = os.path.join(out, name + form)
                try:
                    # TensorFlow 2.12 writes HDF5 under the name `.keras` unless told so.
                    model.save(path, save_format={".h5": "h5", "_saved_model": "tf", ".keras": "keras"}[form])
                except Exception as error:
                    if os.path.isfile(path):
                        os.remove(path)
                    told.append((name + form, type(error).__name__ + ": " + " ".join(str(error).split())[-150:]))
    np.savez_compressed(os.path.join(out, "expected.npz"), **expected)
    for row in told:
        print("-", row)
    print(version, len(expected) // 2, "models")


if __name__ == "__main__":
    main(sys.argv[1])
