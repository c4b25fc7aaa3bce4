"""Which key means what: the tables that the strategy format implies but does not write down."""

from __future__ import annotations

from enum import StrEnum

from vqkit.strategy.form import (
    FinalizePipelineConfig,
    Form,
    OptimizePipelineConfig,
    QuantizePipelineConfig,
    RefinePipelineConfig,
    UserQuantizeConfig,
)

REGISTRY = "quantize_registry_config"
USER = "user_quantize_config"
LAYERS = "layer_quantize_config"
NAMED = "layer_config"
CUSTOM = "custom_layer_type"
INPUT = "input_quantize_config"
LISTS = ("input_layers", "output_layers", "ignore_layers")

PIPELINES: dict[str, type[Form]] = {
    "optimize_pipeline_config": OptimizePipelineConfig,
    "quantize_pipeline_config": QuantizePipelineConfig,
    "refine_pipeline_config": RefinePipelineConfig,
    "finalize_pipeline_config": FinalizePipelineConfig,
}

USER_KEYS = tuple(UserQuantizeConfig.model_fields)

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


class Role(StrEnum):
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
        return "activation" if self is Role.OUTPUT else self.value


def user_key(role: Role, param: str) -> str | None:
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
