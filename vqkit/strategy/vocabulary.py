"""Tables of keys, old names, normal spelling, the built-in strategies, and differences in meaning."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Protocol

from vqkit.errors import StrategyError, not_allowed
from vqkit.files import resource_dir
from vqkit.primitives.spec import Method, RoundMode
from vqkit.strategy.document import join, leaves, parse
from vqkit.strategy.schema import (
    FinalizePipelineConfig,
    OptimizePipelineConfig,
    QuantizePipelineConfig,
    RefinePipelineConfig,
    SchemaModel,
    UserQuantizeConfig,
)

REGISTRY = "quantize_registry_config"
USER = "user_quantize_config"
LAYERS = "layer_quantize_config"
NAMED = "layer_config"
CUSTOM = "custom_layer_type"
INPUT = "input_quantize_config"
EXTRA = "extra_layers"
LISTS = ("input_layers", "output_layers", "ignore_layers")

PIPELINES: dict[str, type[SchemaModel]] = {
    "optimize_pipeline_config": OptimizePipelineConfig,
    "quantize_pipeline_config": QuantizePipelineConfig,
    "refine_pipeline_config": RefinePipelineConfig,
    "finalize_pipeline_config": FinalizePipelineConfig,
}

USER_KEYS = tuple(UserQuantizeConfig.model_fields)

BLOCK_KEYS = (
    "include_block_reconstruction",
    "block_images",
    "block_iterations",
    "block_batch_size",
    "block_rounding_rate",
    "block_bias_rate",
    "block_step_rate",
    "block_drop_probability",
    "block_loss",
    "block_seed",
)
"""They change nothing, a digest neither, while the first is off."""

EXTENSIONS: dict[str, tuple[str, ...]] = {
    "refine_pipeline_config": (
        "adjust_dpu_shift_write",
        "adjust_dpu_shift_swish",
        "adjust_dpu_shift_bias_leakyrelu",
        "align_concat",
        "align_pool",
        "include_adaround",
        "adaround_steps",
        "include_threshold_search",
        "threshold_search_loss",
        "integer_arithmetic",
        *BLOCK_KEYS,
    ),
}

# Names of version 2.0 that users still write, and what 2.5 calls them.
OLD_NAMES = {
    "fold_bn": "convert_bn_to_dwconv",
    "replace_relu6": "convert_relu6_to_relu",
    "convert_tf_op": "convert_tf_op_to_keras",
    "forced_cle": "cle_to_relu6",
    "balance_method": "cle_balance_method",
    "weight_threshold": "cle_weight_threshold",
    "replace_sigmoid": "convert_sigmoid_to_hard_sigmoid",
    "replace_hard_sigmoid": "convert_hard_sigmoid_to_dpu_version",
    "replace_average_pooling2d": "convert_average_pooling2d_to_dpu_version",
    "replace_leaky_relu": "convert_leaky_relu_to_dpu_version",
}


@dataclass(frozen=True)
class ExtraEntry:
    """The entry of a layer type that version 2.5 does not know: that of another one.

    Attributes:
        like: the layer type whose entry it has.
        kernels: names of the variables that the other one's weight stands for, where they are called otherwise;
            "*" stands for anything.
        biases: the same for its bias.
    """

    like: str
    kernels: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()


_INNER = ExtraEntry("Dense", ("*kernel",), ("*bias",))
_POOLS = ("MaxPooling", "AveragePooling", "GlobalAveragePooling", "UpSampling", "ZeroPadding")
_NORMALIZATIONS = ("LayerNormalization", "RMSNormalization", "GroupNormalization", "UnitNormalization")
_MERGES = ("Subtract", "Maximum", "Minimum", "Average", "Dot", "op:Einsum", "op:Matmul")
EXTRA_ENTRIES: dict[str, ExtraEntry] = {
    **dict.fromkeys(("Conv1D", "Conv3D"), ExtraEntry("Conv2D")),
    **dict.fromkeys(("Conv1DTranspose", "Conv3DTranspose"), ExtraEntry("Conv2DTranspose")),
    "DepthwiseConv1D": ExtraEntry("DepthwiseConv2D"),
    "EinsumDense": ExtraEntry("Dense"),
    **dict.fromkeys(("Embedding", "ReversibleEmbedding"), ExtraEntry("Dense", ("embeddings",))),
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional", "TimeDistributed"), _INNER),
    **dict.fromkeys(("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"), _INNER),
    **dict.fromkeys(("MultiHeadAttention", "GroupedQueryAttention"), _INNER),
    **{f"{kind}{n}D": ExtraEntry(f"{kind}2D") for kind in _POOLS for n in (1, 3)},
    **dict.fromkeys((*_NORMALIZATIONS, *_MERGES, "Attention", "AdditiveAttention"), ExtraEntry("Add")),
}
"""What `extra_layers` switches on: layer type -> its entry."""


class QuantizerRole(StrEnum):
    """What a quantizer of a layer entry belongs to; values are the prefixes of its keys."""

    WEIGHT = "weight"
    BIAS = "bias"
    ACTIVATION = "activation"
    OUTPUT = "output"
    INPUT = "input"

    @property
    def names_key(self) -> str:
        """Key of the list that names the tensors."""
        plural = {"bias": "biases", "activation": "activations"}.get(self.value, f"{self.value}s")
        return f"quantizable_{plural}"

    @property
    def quantizers_key(self) -> str:
        """Key of the list of quantizers, one for each named tensor."""
        return f"{self.value}_quantizers"

    @property
    def user_prefix(self) -> str:
        """Prefix of the user's keys: outputs are activations to a user."""
        return "activation" if self is QuantizerRole.OUTPUT else self.value


def user_key(role: QuantizerRole, param: str) -> str | None:
    """The user's key for a parameter of a role.

    Args:
        role: whose quantizer.
        param: name in `quantizer_params`.

    Returns:
        The key, or None when a user has none for it (quantizer type, channel axis).
    """
    if param == "use_framework_quant":
        return param
    key = f"{role.user_prefix}_{'bit' if param == 'bit_width' else param}"
    return key if key in USER_KEYS else None


def short_type(layer_type: str) -> str:
    """The class name at the end of a dotted layer type."""
    return layer_type.rpartition(".")[2]


def value(key: str, given: Any) -> Any:
    """A value with words of enumerations as their integers, whole numbers as int, a layer type by its class.

    Args:
        key: the key it stands under, such as "weight_method".
        given: the value.
    """
    if isinstance(given, str):
        kind = Method if key.endswith("method") else RoundMode if key.endswith("round_mode") else None
        if kind is not None and given in kind.__members__:
            return int(kind[given])
        return short_type(given) if key == "layer_type" else given
    return int(given) if isinstance(given, float) and given.is_integer() else given


def document(doc: Any) -> Any:
    """A copy in normal spelling: words as integers, user keys that say nothing left out."""
    copy = _tree("", doc)
    user = copy[REGISTRY][USER]
    copy[REGISTRY][USER] = {k: v for k, v in user.items() if v is not None and v != []}
    return copy


def keyed(doc: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """Values addressed so that the order of layer entries does not matter.

    Args:
        doc: a whole strategy.

    Returns:
        (class name of the layer entry, pointer inside it), or ("", pointer in the document), to the value.
    """
    return {(layer, inside): value(outside.rpartition("/")[2], v) for outside, (layer, inside), v in addressed(doc)}


def addressed(doc: dict[str, Any]) -> list[tuple[str, tuple[str, str], Any]]:
    """(pointer in the document, address as in `keyed`, value) of every leaf."""
    registry = doc[REGISTRY]
    rest = {**doc, REGISTRY: {k: v for k, v in registry.items() if k != LAYERS}}
    found = [(p, ("", p), v) for p, v in leaves(rest)]
    for i, entry in enumerate(registry[LAYERS]):
        base = join([REGISTRY, LAYERS, i])
        name = short_type(entry["layer_type"])
        found += [(base + p, (name, p), v) for p, v in leaves(entry)]
    return found


def _tree(key: str, given: Any) -> Any:
    if isinstance(given, dict):
        return {k: _tree(k, v) for k, v in given.items()}
    if isinstance(given, list):
        return [_tree(key, v) for v in given]
    return value(key, given)


ORIGINALS = ("pof2s", "pof2s_tqt", "fs", "fsx")
PRESETS = ("int8", "int8_per_tensor", "int8_pow2", "int16x8", "w4a8", "w4a4")
NAMES = (*ORIGINALS, *PRESETS)
ALIASES = {"8bit": "pof2s", "8bit_tqt": "pof2s_tqt"}


def canonical(name: str) -> str:
    """The built-in's own name.

    Raises:
        StrategyError: no built-in has this name or alias.
    """
    found = ALIASES.get(name, name)
    if found not in NAMES:
        raise StrategyError(not_allowed("strategy", name, [*NAMES, *ALIASES], what="name"))
    return found


@cache
def builtin_document(name: str) -> dict[str, Any]:
    """The built-in's JSON; shared, so do not change it."""
    path = resource_dir("strategies") / f"{canonical(name)}.json"
    value: dict[str, Any] = parse(path.read_text(encoding="utf-8"), f"builtin {name}")
    return value


@cache
def values(name: str) -> dict[tuple[str, str], Any]:
    """The built-in's values, addressed as `normal.keyed` does."""
    return keyed(builtin_document(name))


@cache
def layer_types() -> tuple[str, ...]:
    """Class names that some built-in has an entry for."""
    entries = [e for name in NAMES for e in builtin_document(name)[REGISTRY][LAYERS]]
    return tuple(dict.fromkeys(short_type(e["layer_type"]) for e in entries))


def nearest_base(doc: dict[str, Any]) -> str:
    """The built-in that shares most values with a document.

    The base is a function of the document alone, so a dump read back means what it meant.
    """
    mine = keyed(doc)
    return max(NAMES, key=lambda name: sum(mine.get(k, _ABSENT) == v for k, v in values(name).items()))


_ABSENT = object()


@dataclass(frozen=True)
class Change:
    """One value that differs.

    Attributes:
        pointer: where it stands in the second strategy; in the first where only that has it.
        before: its value in the first, None where absent.
        after: its value in the second, None where absent.
        label: short name for people, such as "weight_bit" or "Dense weight 0 bit_width".
    """

    pointer: str
    before: Any
    after: Any
    label: str

    def __str__(self) -> str:
        return f"{self.label}: {self.before!r} → {self.after!r}"


class Dumped(Protocol):
    """What has a document: a `Strategy`."""

    def dump(self) -> dict[str, Any]:
        """The whole document."""
        ...


def diff(a: Dumped, b: Dumped) -> list[Change]:
    """Differences in meaning, in the order of the second strategy, then what only the first has.

    Layer entries are compared by type, enumerations by value; a user key that is null counts as absent.
    """
    return diff_documents(a.dump(), b.dump())


def diff_documents(a: dict[str, Any], b: dict[str, Any]) -> list[Change]:
    """As `diff`, on whole documents."""
    before, after = keyed(a), keyed(b)
    places = {address: where for where, address, _ in [*addressed(a), *addressed(b)]}
    changed = [x for x in dict.fromkeys([*after, *before]) if _differ(before.get(x), after.get(x))]
    return [Change(places[x], before.get(x), after.get(x), _label(*x)) for x in changed]


def flat_overrides(doc: dict[str, Any], base: str) -> dict[str, Any]:
    """What a document says beyond a built-in, as flat names where there are names, else JSON pointers."""
    # A document that does not say it has it off; a preset has it on.
    stated = {**doc, REGISTRY: {EXTRA: False, **doc[REGISTRY]}}
    changes = diff_documents(builtin_document(base), stated if EXTRA in builtin_document(base)[REGISTRY] else doc)
    return {c.label if c.label in _flat_names(doc) else c.pointer: c.after for c in changes}


def _flat_names(doc: dict[str, Any]) -> set[str]:
    return {*USER_KEYS, EXTRA, *(key for section in PIPELINES for key in doc[section])}


def _differ(before: Any, after: Any) -> bool:
    nothing: tuple[Any, ...] = (None, [], {})
    if before in nothing and after in nothing:
        return False
    return type(before) is not type(after) or bool(before != after)


def _label(layer: str, inside: str) -> str:
    parts = inside.strip("/").split("/")
    if layer:
        words = [p.removesuffix("_quantizers") for p in parts if p != "quantizer_params"]
        return " ".join([layer, *words])
    if parts[:2] == [REGISTRY, INPUT] and parts[2:3] == ["input_quantizer"]:
        return f"input {parts[-1]}"
    if parts[:2] == [REGISTRY, NAMED]:
        return " ".join(p.replace("~1", "/").replace("~0", "~") for p in parts[2:])
    if parts[:2] == [REGISTRY, INPUT]:
        return f"input quantizer {parts[-1]}"
    return parts[-1]
