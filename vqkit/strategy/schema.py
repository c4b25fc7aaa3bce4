"""The form of a strategy file as frozen types; the JSON Schema is generated from here.

Defaults stand for keys that a strategy may lack: pipeline steps it does not know are off, and the keys
that version 2.5 does not know (marked as extensions) keep 2.5's meaning.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from vqkit.primitives.spec import DEFAULTS, Method, QuantizerType, RoundMode

LAYER_TYPE_PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
INTEGER_TYPES = {"int4": 4, "int8": 8, "int16": 16, "int32": 32}
FLOAT_TYPES = ("float16", "bfloat16", "float32")
WEIGHTS_ONLY, ACTIVATIONS_ONLY, NOTHING = QUANTIZE_WORDS = ("weights", "activations", "nothing")


def _choice(given: Any, allowed: list[Any]) -> PydanticCustomError:
    return PydanticCustomError("choice", "not one of the allowed values", {"given": given, "allowed": allowed})


def _member(kind: type[IntEnum], value: Any) -> IntEnum:
    if isinstance(value, str) and value in kind.__members__:
        return kind[value]
    if isinstance(value, int) and not isinstance(value, bool) and value in set(kind):
        return kind(value)
    raise _choice(value, [*kind.__members__, *(int(m) for m in kind)])


def _word_schema(kind: type[IntEnum]) -> WithJsonSchema:
    described = ", ".join(f"{int(m)} = {m.name}" for m in kind)
    return WithJsonSchema({"enum": [*(int(m) for m in kind), *kind.__members__], "description": described})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _quantizer_type(value: Any) -> QuantizerType:
    if isinstance(value, str) and value in set(QuantizerType):
        return QuantizerType(value)
    raise _choice(value, [t.value for t in QuantizerType])


def _name_rule(value: Any) -> Any:
    """A data type word is short for {"data_type": word}."""
    return {"data_type": value} if isinstance(value, str) else value


def _quantize(value: Any) -> Any:
    if value is None or isinstance(value, bool) or value in QUANTIZE_WORDS:
        return value
    raise _choice(value, [True, False, *QUANTIZE_WORDS])


_QUANTIZE_SCHEMA = WithJsonSchema({"enum": [None, True, False, *QUANTIZE_WORDS]})
MethodField = Annotated[Method, BeforeValidator(lambda v: _member(Method, v)), _word_schema(Method)]
RoundField = Annotated[RoundMode, BeforeValidator(lambda v: _member(RoundMode, v)), _word_schema(RoundMode)]
TypeField = Annotated[
    QuantizerType,
    BeforeValidator(_quantizer_type),
    WithJsonSchema({"enum": [t.value for t in QuantizerType]}),
]
Bits = Annotated[int, Field(ge=1, le=32)]
Percent = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_tuple)]


class SchemaModel(BaseModel):
    """Base of all parts: unknown keys are errors, values are neither converted nor changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class QuantizerParams(SchemaModel):
    """The parameters of one quantizer; `unsigned` is an extension."""

    bit_width: Bits
    method: MethodField = DEFAULTS["method"]
    method_percentile: Percent = DEFAULTS["method_percentile"]
    round_mode: RoundField = DEFAULTS["round_mode"]
    symmetry: bool = DEFAULTS["symmetry"]
    per_channel: bool = DEFAULTS["per_channel"]
    channel_axis: Annotated[int, Field(ge=-8, le=7)] = DEFAULTS["channel_axis"]
    use_framework_quant: bool = DEFAULTS["use_framework_quant"]
    narrow_range: bool = DEFAULTS["narrow_range"]
    unsigned: bool = DEFAULTS["unsigned"]


class Quantizer(SchemaModel):
    """A quantizer by name, with its parameters."""

    quantizer_type: TypeField
    quantizer_params: QuantizerParams


Quantizers = Annotated[tuple[Quantizer | None, ...], BeforeValidator(_tuple)]
Indices = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_tuple)]


class LayerEntry(SchemaModel):
    """What is quantized in layers of one type; the inputs are an extension."""

    layer_type: Annotated[str, Field(pattern=LAYER_TYPE_PATTERN)]
    quantizable_weights: Names = ()
    weight_quantizers: Quantizers = ()
    quantizable_biases: Names = ()
    bias_quantizers: Quantizers = ()
    quantizable_activations: Names = ()
    activation_quantizers: Quantizers = ()
    quantizable_outputs: Indices = ()
    output_quantizers: Quantizers = ()
    quantizable_inputs: Indices = ()
    input_quantizers: Quantizers = ()

    @model_validator(mode="after")
    def _one_quantizer_each(self) -> LayerEntry:
        for names, quantizers in _PAIRS:
            wanted, found = len(getattr(self, names)), len(getattr(self, quantizers))
            if wanted != found:
                message = "holds {found}, {names} holds {wanted}; each name needs one quantizer"
                given = {"found": found, "wanted": wanted, "names": names, "key": quantizers}
                raise PydanticCustomError("uneven", message, given)
        return self


_PAIRS = (
    ("quantizable_weights", "weight_quantizers"),
    ("quantizable_biases", "bias_quantizers"),
    ("quantizable_activations", "activation_quantizers"),
    ("quantizable_outputs", "output_quantizers"),
    ("quantizable_inputs", "input_quantizers"),
)
LayerEntries = Annotated[tuple[LayerEntry, ...], BeforeValidator(_tuple)]


class Overrides(SchemaModel):
    """The global keys of a user; null says nothing. `*_unsigned` and `*_narrow_range` are extensions."""

    input_bit: Bits | None = None
    input_method: MethodField | None = None
    input_method_percentile: Percent | None = None
    input_symmetry: bool | None = None
    input_per_channel: bool | None = None
    input_round_mode: RoundField | None = None
    input_unsigned: bool | None = None
    input_narrow_range: bool | None = None
    weight_bit: Bits | None = None
    weight_method: MethodField | None = None
    weight_method_percentile: Percent | None = None
    weight_symmetry: bool | None = None
    weight_per_channel: bool | None = None
    weight_round_mode: RoundField | None = None
    weight_unsigned: bool | None = None
    weight_narrow_range: bool | None = None
    bias_bit: Bits | None = None
    bias_method: MethodField | None = None
    bias_method_percentile: Percent | None = None
    bias_symmetry: bool | None = None
    bias_per_channel: bool | None = None
    bias_round_mode: RoundField | None = None
    bias_unsigned: bool | None = None
    bias_narrow_range: bool | None = None
    activation_bit: Bits | None = None
    activation_method: MethodField | None = None
    activation_method_percentile: Percent | None = None
    activation_symmetry: bool | None = None
    activation_per_channel: bool | None = None
    activation_round_mode: RoundField | None = None
    activation_unsigned: bool | None = None
    activation_narrow_range: bool | None = None
    use_framework_quant: bool | None = None


class UserQuantizeConfig(Overrides):
    """Global overrides and the part of the model that is quantized."""

    input_layers: Names = ()
    output_layers: Names = ()
    ignore_layers: Names = ()


class NameRule(Overrides):
    """Overrides of the layers whose name matches (extension).

    `quantize: false` leaves a layer float, as a device would: what a quantized layer reads from it is
    quantized in front of that. The words say which tensors are quantized, and nothing else is: "weights"
    (with biases), "activations" (what the layer gives), "nothing"; what they leave float stays so for all.
    """

    data_type: Literal["int4", "int8", "int16", "int32", "float16", "bfloat16", "float32"] | None = None
    quantize: Annotated[bool | str | None, BeforeValidator(_quantize), _QUANTIZE_SCHEMA] = None


class InputQuantizeConfig(SchemaModel):
    """How the model's inputs are quantized."""

    input_layers: Names = ()
    input_quantizer: Quantizer


class QuantizeRegistryConfig(SchemaModel):
    """Which quantizer stands where; `layer_config` and `extra_layers` are extensions."""

    user_quantize_config: UserQuantizeConfig
    custom_layer_type: Names = ()
    input_quantize_config: InputQuantizeConfig
    layer_quantize_config: LayerEntries
    layer_config: dict[str, Annotated[NameRule, BeforeValidator(_name_rule)]] = Field(default={}, repr=False)
    extra_layers: bool = False


class OptimizePipelineConfig(SchemaModel):
    """Rewrites of the float model that keep its function."""

    remove_dropout: bool = False
    separate_conv_act: bool = False
    fold_conv_bn: bool = False
    convert_bn_to_dwconv: bool = False
    convert_relu6_to_relu: bool = False
    convert_tf_op_to_keras: bool = False
    include_cle: bool = False
    cle_to_relu6: bool = False
    cle_steps: Annotated[int, Field(ge=0, le=1000)] = 10
    cle_balance_method: Literal["max", "avg"] = "max"
    cle_weight_threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    train_with_bn: bool = False


class QuantizePipelineConfig(SchemaModel):
    """Device forms of operations, and where quantization is merged into the next layer."""

    convert_sigmoid_to_hard_sigmoid: bool = False
    convert_hard_sigmoid_to_dpu_version: bool = False
    convert_average_pooling2d_to_dpu_version: bool = False
    convert_leaky_relu_to_dpu_version: bool = False
    no_quant_in_conv_bn_act: bool = True
    no_quant_in_conv_act: bool = True
    no_quant_in_add_act: bool = True
    freeze_bn_delay: Annotated[int, Field(ge=-1)] = -1


class RefinePipelineConfig(SchemaModel):
    """Adjustments after calibration; those below `convert_to_pof2s_quantize_strategy` are extensions."""

    adjust_dpu_sigmoid: bool = False
    adjust_dpu_shift_cut: bool = False
    adjust_dpu_shift_bias: bool = False
    adjust_dpu_shift_read: bool = False
    include_fast_ft: bool = False
    fast_ft_epochs: Annotated[int, Field(ge=1)] = 10
    include_bias_corr: bool = False
    convert_to_fs_quantize_strategy: bool = False
    convert_to_pof2s_quantize_strategy: bool = False
    adjust_dpu_shift_write: bool = False
    adjust_dpu_shift_swish: bool = False
    adjust_dpu_shift_bias_leakyrelu: bool = False
    align_concat: bool = False
    align_pool: bool = False
    include_adaround: bool = False
    adaround_steps: Annotated[int, Field(ge=1)] = 1000
    include_threshold_search: bool = False
    threshold_search_loss: Literal["mse", "kl", "labels"] = "mse"
    integer_arithmetic: bool = False
    include_block_reconstruction: bool = False
    block_images: Annotated[int, Field(ge=1)] = 512
    block_iterations: Annotated[int, Field(ge=1)] = 400
    block_batch_size: Annotated[int, Field(ge=1)] = 16
    block_rounding_rate: Rate = 0.03
    block_bias_rate: Rate = 0.02
    block_step_rate: Rate = 0.005
    block_drop_probability: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    block_loss: Literal["fisher", "mse"] = "fisher"
    block_seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0


class FinalizePipelineConfig(SchemaModel):
    """What is written at the end; the format "keras" is an extension."""

    output_format: Literal["", "h5", "tf", "onnx", "keras"] = ""
    onnx_opset_version: Annotated[int, Field(ge=1, le=99)] = 11
    output_dir: str = "./quantize_results/"


class StrategyDocument(SchemaModel):
    """A whole strategy, as a verbosity-2 dump holds it."""

    optimize_pipeline_config: OptimizePipelineConfig
    quantize_pipeline_config: QuantizePipelineConfig
    refine_pipeline_config: RefinePipelineConfig
    finalize_pipeline_config: FinalizePipelineConfig
    quantize_registry_config: QuantizeRegistryConfig
