"""Every function and graph operation of the tables computes what TensorFlow computes."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import json_format

from vqkit.errors import ModelError
from vqkit.models.keras2 import operations
from vqkit.models.keras2.operations import FUNCTIONS, call_function, call_raw

RNG = np.random.default_rng(0)
VECTOR = RNG.normal(size=(2, 6)).astype("float32")
IMAGE = RNG.normal(size=(2, 4, 4, 8)).astype("float32")
POSITIVE = np.abs(VECTOR) + 0.1
NOT_OF_TF = {
    "truediv",
    "floordiv",
    "floormod",
    "math.mod",
    "math.truediv",
    "__operators__.add",
    "__operators__.eq",
    "__operators__.ne",
    "__operators__.getitem",
    "math.floordiv",
    "realdiv",
}

UNARY = [
    "math.negative",
    "math.abs",
    "math.square",
    "math.exp",
    "math.sign",
    "math.floor",
    "math.ceil",
    "math.round",
    "math.tanh",
    "math.sigmoid",
    "math.softplus",
    "nn.relu",
    "nn.relu6",
    "nn.elu",
    "nn.selu",
    "nn.softsign",
    "nn.swish",
    "identity",
    "zeros_like",
    "ones_like",
]
BINARY = [
    "math.add",
    "math.subtract",
    "math.multiply",
    "math.divide",
    "math.maximum",
    "math.minimum",
    "math.greater",
    "math.greater_equal",
    "math.less",
    "math.less_equal",
    "math.equal",
    "math.not_equal",
    "math.squared_difference",
    "math.floormod",
]
REDUCTIONS = ["mean", "sum", "max", "min", "prod", "variance", "std"]
CASES: list[tuple[str, Any, dict[str, Any]]] = [
    *((name, VECTOR, {}) for name in UNARY),
    *((name, POSITIVE, {}) for name in ("math.sqrt", "math.rsqrt", "math.log", "math.reciprocal")),
    *((name, VECTOR, {"y": 0.5}) for name in BINARY),
    *((name, VECTOR, {"y": [0.5, 1.0, 2.0, -1.0, 3.0, 0.25]}) for name in ("math.add", "math.multiply")),
    ("math.pow", POSITIVE, {"y": 2.0}),
    *((f"math.reduce_{r}", IMAGE, {"axis": [1, 2]}) for r in REDUCTIONS),
    *((f"math.reduce_{r}", IMAGE, {"axis": [1, 2], "keepdims": True}) for r in REDUCTIONS),
    ("math.reduce_mean", IMAGE, {"axis": -1}),
    ("math.argmax", VECTOR, {"axis": 1}),
    ("math.l2_normalize", VECTOR, {"axis": 1}),
    ("nn.gelu", VECTOR, {}),
    ("nn.gelu", VECTOR, {"approximate": True}),
    ("nn.leaky_relu", VECTOR, {}),
    ("nn.leaky_relu", VECTOR, {"alpha": 0.1}),
    ("nn.softmax", VECTOR, {}),
    ("nn.log_softmax", VECTOR, {"axis": 1}),
    ("clip_by_value", VECTOR, {"clip_value_min": -0.5, "clip_value_max": 0.25}),
    ("split", VECTOR, {"num_or_size_splits": 3, "axis": 1}),
    ("split", VECTOR, {"num_or_size_splits": [1, 2, 3], "axis": 1}),
    ("unstack", VECTOR, {"axis": 1}),
    ("reshape", VECTOR, {"shape": [-1, 3, 2]}),
    ("reshape", VECTOR, {"shape": [2, -1, 2]}),
    ("transpose", IMAGE, {"perm": [0, 3, 1, 2]}),
    ("expand_dims", VECTOR, {"axis": -1}),
    ("squeeze", VECTOR[:, None, :, None], {"axis": [1, 3]}),
    ("squeeze", VECTOR[:, None], {"axis": 1}),
    ("pad", VECTOR, {"paddings": [[0, 0], [1, 2]]}),
    ("pad", VECTOR, {"paddings": [[0, 0], [1, 2]], "mode": "REFLECT"}),
    ("pad", VECTOR, {"paddings": [[0, 0], [1, 2]], "constant_values": 3.0}),
    ("tile", VECTOR, {"multiples": [1, 2]}),
    ("repeat", VECTOR, {"repeats": 2, "axis": 1}),
    ("reverse", VECTOR, {"axis": [1]}),
    ("gather", VECTOR, {"indices": [2, 0], "axis": 1}),
    ("where", VECTOR > 0, {"x": 1.0, "y": 0.0}),
    ("cast", VECTOR, {"dtype": "int32"}),
    ("shape", VECTOR, {}),
    ("slice", VECTOR, {"begin": [0, 1], "size": [-1, 3]}),
    (
        "strided_slice",
        VECTOR,
        {"begin": [0, 1], "end": [0, 5], "strides": [1, 2], "begin_mask": 1, "end_mask": 1},
    ),
    (
        "strided_slice",
        VECTOR,
        {"begin": [0, 3], "end": [0, 4], "begin_mask": 1, "end_mask": 1, "shrink_axis_mask": 2},
    ),
    ("linalg.matmul", VECTOR[:, None], {"b": VECTOR[:, :, None].tolist()}),
    ("linalg.matmul", VECTOR[:, :, None], {"b": VECTOR[:, :, None].tolist(), "transpose_a": True}),
    ("linalg.matmul", VECTOR[:, None], {"b": VECTOR[:, None].tolist(), "transpose_b": True}),
    ("image.resize", IMAGE, {"size": [8, 8]}),
    ("image.resize", IMAGE, {"size": [6, 3], "method": "nearest"}),
    ("nn.bias_add", IMAGE, {"bias": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]}),
    ("nn.max_pool2d", IMAGE, {"ksize": 2, "strides": 2, "padding": "VALID"}),
    ("nn.avg_pool2d", IMAGE, {"ksize": [3, 3], "strides": [1, 1], "padding": "SAME"}),
    ("nn.max_pool", IMAGE, {"ksize": [1, 2, 2, 1], "strides": [1, 1, 1, 1], "padding": "SAME"}),
    ("nn.depth_to_space", IMAGE, {"block_size": 2}),
    ("nn.space_to_depth", IMAGE, {"block_size": 2}),
]
MANY = ["concat", "stack", "math.add_n"]


def ours(function: str, x: np.ndarray, kwargs: dict[str, Any]) -> Any:
    """What the rebuilt model computes."""
    i = keras.Input(x.shape[1:], dtype=str(x.dtype))
    y = call_function(function, i, kwargs, "test")
    return keras.Model(i, y)(x) if isinstance(y, keras.KerasTensor | list) and function != "shape" else y


def of_tensorflow(function: str) -> Any:
    found = tf
    for part in function.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(("function", "x", "kwargs"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_function(function, x, kwargs):
    if function == "shape":
        assert ours(function, x, kwargs) == [None, 6]
        return
    got, wanted = ours(function, x, kwargs), of_tensorflow(function)(x, **kwargs)
    for a, b in zip(keras.tree.flatten(got), keras.tree.flatten(list_of(wanted)), strict=True):
        assert tuple(a.shape) == tuple(b.shape)
        # Some functions are composed of others here: the last bits may differ.
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-6, atol=1e-6)


def list_of(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("function", MANY)
def test_a_function_of_several_tensors(function):
    a, b = keras.Input((6,)), keras.Input((6,))
    kwargs = {} if function == "math.add_n" else {"axis": 1}
    model = keras.Model([a, b], call_function(function, [a, b], kwargs, "test"))
    wanted = of_tensorflow(function)([VECTOR, POSITIVE], **kwargs)
    np.testing.assert_array_equal(model([VECTOR, POSITIVE]), wanted)


NUMBERS = [float(n) for n in range(1000)]


@pytest.mark.parametrize(
    ("function", "constant", "kwargs"),
    [
        ("tile", [1.0], {"multiples": [10**10]}),
        ("repeat", [1.0, 2.0], {"repeats": 10**10, "axis": 0}),
        ("repeat", [1.0, 2.0], {"repeats": [10**9, 10**10], "axis": 0}),
        ("pad", [1.0], {"paddings": [[0, 10**10]]}),
        ("math.add", [[n] for n in NUMBERS * 9], {"y": NUMBERS * 9}),
        ("math.add_n", [[[n] for n in NUMBERS * 9], NUMBERS * 9], {}),
        ("linalg.matmul", [[n] for n in NUMBERS * 9], {"b": [NUMBERS * 9]}),
        ("gather", [NUMBERS * 9], {"indices": [0] * 9000, "axis": 0}),
        ("image.resize", [[[[1.0]]]], {"size": [10**5, 10**5]}),
        ("where", [[True]] * 9000, {"x": NUMBERS * 9, "y": 0.0}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_constants_of_a_file_are_not_made_larger_than_it_may_claim(function, constant, kwargs):
    with pytest.raises(ModelError, match=r"calls on constants would take \d+ bytes"):
        call_function(function, constant, kwargs, "test")


def test_constants_count_together_and_small_ones_are_computed():
    budget = operations.ConstantBudget()
    for _ in range(3):
        np.testing.assert_array_equal(
            call_function("tile", [1.0, 2.0], {"multiples": [2]}, "test", budget), [1, 2, 1, 2]
        )
    assert budget.used == 3 * (2 + 4) * 8
    for _ in range(2):
        call_function("tile", [1.0], {"multiples": [3 * 10**6]}, "test", budget)
    with pytest.raises(ModelError, match="at most 67108864 are taken for all of a file"):
        call_function("tile", [1.0], {"multiples": [3 * 10**6]}, "test", budget)
    x = keras.Input((6,))
    assert call_function("tile", x, {"multiples": [1, 10**6]}, "test", budget).shape == (None, 6 * 10**6)


def test_operators_of_python():
    x = keras.Input((6,))
    given = {
        "__operators__.add": x + 2.0,
        "math.truediv": x / 2.0,
        "math.floordiv": x // 2.0,
        "math.mod": x % 2.0,
    }
    for function, wanted in given.items():
        got = keras.Model(x, call_function(function, x, {"y": 2.0}, "test"))(VECTOR)
        np.testing.assert_array_equal(got, keras.Model(x, wanted)(VECTOR), err_msg=function)
    spec = [{"start": None, "stop": None, "step": None}, {"start": 1, "stop": None, "step": 2}]
    got = keras.Model(x, call_function("__operators__.getitem", x, {"slice_spec": spec}, "test"))(VECTOR)
    np.testing.assert_array_equal(got, VECTOR[:, 1::2])
    ellipsis = [{"class_name": "__ellipsis__"}, None]
    got = keras.Model(x, call_function("__operators__.getitem", x, {"slice_spec": ellipsis}, "test"))(VECTOR)
    np.testing.assert_array_equal(got, VECTOR[..., None])


def test_the_size_of_the_batch_stays_open():
    """`tf.reshape(x, [tf.shape(x)[0], 3, 2])`."""
    x = keras.Input((6,))
    sizes = call_function("compat.v1.shape", x, {}, "test")
    first = call_function("strided_slice", sizes, {"begin": [0], "end": [1], "shrink_axis_mask": 1}, "test")
    shape = call_function("stack", [first, 3, 2], {}, "test")
    y = call_function("reshape", x, {"shape": shape}, "test")
    np.testing.assert_array_equal(keras.Model(x, y)(VECTOR), VECTOR.reshape(2, 3, 2))


def test_every_function_of_the_table_is_tested():
    """Every implementation, under one of its names."""
    tested = {id(FUNCTIONS[name]) for name in [*(c[0] for c in CASES), *MANY]}
    rest = {name for name, f in FUNCTIONS.items() if id(f) not in tested}
    assert rest <= NOT_OF_TF


@pytest.mark.parametrize(
    ("function", "kwargs", "message"),
    [
        ("nn.conv2d", {}, "no counterpart"),
        (
            "image.resize",
            {"size": [2, 2], "preserve_aspect_ratio": True},
            "preserve_aspect_ratio is not read",
        ),
        (
            "nn.max_pool2d",
            {"ksize": 2, "strides": 2, "padding": "SAME", "data_format": "NCHW"},
            "channels must",
        ),
        ("nn.relu", {"unknown": 1}, "unexpected keyword argument 'unknown'"),
    ],
)
def test_what_has_no_counterpart_is_an_error(function, kwargs, message):
    with pytest.raises(ModelError, match=message):
        call_function(function, keras.Input((4, 4, 8)), kwargs, "test")


# Each builds one graph operation of one or two placeholders.
RAW: dict[str, Any] = {
    **{
        op: (lambda x, _, op=op: getattr(tf.raw_ops, op)(**{ARGUMENT.get(op, "x"): x}))
        for op in operations._UNARY
        if op != "Shape"
    },
    **{
        op: (lambda x, _, op=op: getattr(tf.raw_ops, op)(x=x, y=tf.constant(0.5)))
        for op in operations._BINARY
        if op != "BiasAdd"
    },
    "BiasAdd": lambda x, _: tf.raw_ops.BiasAdd(value=x, bias=tf.constant([1.0, 2, 3, 4, 5, 6, 7, 8])),
    **{
        op: (lambda x, _, op=op: getattr(tf.raw_ops, op)(input=x, axis=tf.constant([1, 2]), keep_dims=True))
        for op in operations._REDUCTIONS
    },
    "ConcatV2": lambda x, y: tf.concat([x, y], 3),
    "Pack": lambda x, y: tf.stack([x, y], 1),
    "Reshape": lambda x, _: tf.reshape(x, [-1, 16, 8]),
    "Transpose": lambda x, _: tf.transpose(x, [0, 2, 1, 3]),
    "ExpandDims": lambda x, _: tf.expand_dims(x, 1),
    "Pad": lambda x, _: tf.raw_ops.Pad(input=x, paddings=tf.constant([[0, 0], [1, 1], [1, 1], [0, 0]])),
    "PadV2": lambda x, _: tf.raw_ops.PadV2(
        input=x, paddings=tf.constant([[0, 0], [1, 1], [1, 1], [0, 0]]), constant_values=tf.constant(2.0)
    ),
    "MirrorPad": lambda x, _: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT"),
    "LeakyRelu": lambda x, _: tf.nn.leaky_relu(x, 0.1),
    "ClipByValue": lambda x, _: tf.raw_ops.ClipByValue(
        t=x, clip_value_min=tf.constant(-0.5), clip_value_max=tf.constant(0.5)
    ),
    "Split": lambda x, _: tf.split(x, 2, 3)[1],
    "BatchMatMulV2": lambda x, y: tf.matmul(x, y, transpose_b=True),
    "StridedSlice": lambda x, _: x[:, ::2, 1, :],
    "Slice": lambda x, _: tf.slice(x, [0, 1, 0, 0], [-1, 2, -1, -1]),
    "MaxPool": lambda x, _: tf.nn.max_pool2d(x, 2, 2, "VALID"),
    "AvgPool": lambda x, _: tf.nn.avg_pool2d(x, 2, 1, "SAME"),
    "Cast": lambda x, _: tf.cast(x, tf.int32),
    "Squeeze": lambda x, _: tf.squeeze(tf.expand_dims(x, 1), [1]),
    "MatMul": lambda x, _: tf.matmul(tf.reshape(x, [-1, 8]), tf.eye(8) * 2.0),
}
ARGUMENT = {
    **dict.fromkeys(("Relu", "Relu6", "Elu", "Selu", "Softplus", "Softsign"), "features"),
    **dict.fromkeys(("Softmax", "LogSoftmax"), "logits"),
    "Identity": "input",
}


def test_every_graph_operation_is_tested():
    known = {*operations._UNARY, *operations._BINARY, *operations._REDUCTIONS, *operations._OTHERS}
    assert known - set(RAW) == {"Shape"}


@pytest.mark.parametrize("op", RAW)
def test_a_graph_operation(op):
    values = {"x": np.abs(IMAGE) + 0.1 if op in ("Sqrt", "Rsqrt", "Log", "Pow") else IMAGE, "y": IMAGE[::-1]}
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        feeds = {k: tf.compat.v1.placeholder(tf.float32, (None, 4, 4, 8), name=k) for k in values}
        output = RAW[op](feeds["x"], feeds["y"])
        wanted = session.run(output, {feeds[k]: v for k, v in values.items()})
        node = output.op
        constants, tensors, arrays = {}, [], []
        for k, tensor in enumerate(node.inputs):
            if tensor.op.type == "Const":
                constants[str(k)] = session.run(tensor).tolist()
            else:
                arrays.append(session.run(tensor, {feeds[n]: v for n, v in values.items()}))
        number = output.value_index
    del graph
    definition = json.loads(json_format.MessageToJson(node.node_def, preserving_proto_field_name=True))
    tensors = [keras.Input(a.shape[1:]) for a in arrays]
    got = call_raw({"node_def": definition, "constants": constants}, tensors, "test")
    got = got[number] if isinstance(got, list) else got
    # Composed operations may differ in the last bits.
    np.testing.assert_allclose(keras.Model(tensors, got)(arrays), wanted, rtol=2e-6, atol=1e-6)


def test_an_unknown_graph_operation_is_an_error():
    with pytest.raises(ModelError, match=r"the TensorFlow operation Relu7 has no counterpart here \(did you mean"):
        call_raw({"node_def": {"op": "Relu7", "attr": {}}, "constants": {}}, [keras.Input((3,))], "test")
