"""The decided grids as JSON, for tools that read encodings beside a float model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vqkit.primitives.qparams import QParams

VERSION = 1


def encodings_of(quantized: Any) -> dict[str, Any]:
    """Every quantized tensor with its grid, x ≈ (q - zero_point) * scale.

    Args:
        quantized: a `Quantized`.

    Returns:
        JSON values: version, model, strategy, and for each tensor its name, role, type, bit_width, codes,
        scale, zero_point, quantize_pos (pow-2 scales), rounding, and the channel axis where there is one.
    """
    return {
        "version": VERSION,
        "convention": "x = (q - zero_point) * scale",
        "model": quantized.plan.model,
        "strategy": quantized.plan.strategy,
        "strategy_digest": quantized.plan.strategy_digest,
        "tensors": {r.name: _entry(r, quantized.encodings[r.name]) for r in quantized.plan.quantized},
        "float_tensors": {r.name: r.data_type or "float32" for r in quantized.plan.float_rows},
    }


def _entry(row: Any, params: QParams) -> dict[str, Any]:
    spec = params.spec
    entry = {
        "layer": row.layer, "tensor": row.tensor, "role": row.role.value,
        "quantizer": spec.quantizer_type.value, "bit_width": spec.bit_width, "signed": not spec.unsigned,
        "q_min": spec.q_min, "q_max": spec.q_max, "scale": _numbers(params.scale),
        "zero_point": _numbers(params.zero_point.astype(np.int64)), "round_mode": spec.round_mode.name,
    }  # fmt: skip
    if params.pos is not None:
        entry["quantize_pos"] = _numbers(params.pos.astype(np.int64))
    if spec.per_channel:
        entry["channel_axis"] = spec.channel_axis
    return entry


def _numbers(array: np.ndarray) -> Any:
    return array.reshape(-1).tolist() if array.ndim else array.item()


def write_encodings(quantized: Any, path: Path) -> None:
    """Write the JSON file."""
    from vqkit.files import write_json

    write_json(path, encodings_of(quantized))
