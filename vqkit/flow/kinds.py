"""What the planner must know about layer classes and activation functions."""

from __future__ import annotations

from vqkit.graph.ir import Graph, Layer, Node
from vqkit.graph.match import activation_name
from vqkit.graph.simplify import WEIGHTED

ACTIVATIONS = ("ReLU", "LeakyReLU", "Activation")
DEVICE_POOLS = ("MaxPooling2D", "VitisAveragePooling2D", "VitisGlobalAveragePooling2D")
QUANTIZED_AFTER = ("linear", "relu")
QUANTIZED_BEFORE = (
    "softmax", "elu", "selu", "softplus", "softsign", "swish", "gelu", "tanh", "sigmoid", "exponential",
    "hard_sigmoid",
)  # fmt: skip
# These only move, drop or repeat values (or add zeros), so a tensor on a grid stays on it.
KEEPS_GRID = frozenset((
    "Flatten", "Reshape", "Permute", "RepeatVector", "Identity", "ZeroPadding1D", "ZeroPadding2D",
    "ZeroPadding3D", "Cropping1D", "Cropping2D", "Cropping3D", "MaxPooling1D", "MaxPooling2D", "MaxPooling3D",
    "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D", "op:Reshape", "op:Transpose",
    "op:Squeeze", "op:ExpandDims",
))  # fmt: skip
_NEVER_NEGATIVE = ("relu", "relu6", "sigmoid", "hard_sigmoid", "softmax", "softplus", "exponential")
_KEEPS_SIGN = KEEPS_GRID | {
    "Add", "Multiply", "Maximum", "Average", "Concatenate", "AveragePooling2D", "GlobalAveragePooling2D",
    "VitisAveragePooling2D", "VitisGlobalAveragePooling2D", "UpSampling2D", "FakeQuantize", "RoundToType",
}  # fmt: skip


def linear_weighted(layer: Layer) -> bool:
    """A convolution or dense layer without activation."""
    return layer.kind in WEIGHTED and activation_name(layer) == "linear"


class Signs:
    """Which values of a graph can never be negative, as far as layer classes show."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._producers = graph.producers()
        self._known: dict[int, bool] = {}

    def never_negative(self, node: Node) -> bool:
        """Whether all outputs of a node are >= 0."""
        return all(self.value(v) for v in node.outputs)

    def before(self, name: str) -> bool:
        """Whether all that a node reads is >= 0."""
        return all(self.value(v) for v in self._graph.node(name).inputs)

    def value(self, value: int) -> bool:
        """Whether a value is >= 0 everywhere."""
        if value not in self._known:
            node = self._producers.get(value)
            self._known[value] = node is not None and self._made_by(node)
        return self._known[value]

    def _made_by(self, node: Node) -> bool:
        layer = self._graph.layer_of(node)
        if layer.kind == "ReLU":
            return not layer.config.get("negative_slope")
        if layer.kind in ("VitisSigmoid", "Softmax"):
            return True
        if layer.kind == "Activation" or layer.kind in WEIGHTED:
            return activation_name(layer) in _NEVER_NEGATIVE
        if layer.config.get("interpolation", "nearest") not in ("nearest", "bilinear"):
            return False
        return layer.kind in _KEEPS_SIGN and all(self.value(v) for v in node.inputs)
