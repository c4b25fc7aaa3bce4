"""Golden part: one-shot operations, each range, position, threshold and every output value exact."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.golden_parts import PartResult
from vqkit.primitives import ops
from vqkit.primitives.reference import reduction_axes
from vqkit.primitives.spec import QuantizerSpec, QuantizerType

KINDS = {
    "pof2s": QuantizerType.POF2S,
    "tqt": QuantizerType.TQT,
    "fs": QuantizerType.FS,
    "mafs": QuantizerType.MAFS,
}
SPEC_KEYS = tuple(f.name for f in fields(QuantizerSpec) if f.name != "quantizer_type")

Case = dict[str, Any]


def check(directory: Path) -> PartResult | None:
    """Run every case of `ops.json`.

    A case where the reference failed must be refused under `vitis_compat`, and give a sane result without
    it. Positions on a numerical boundary (`eager_pos`) and of all-zero data may differ, and are then listed.

    Args:
        directory: laid out like the golden data.

    Returns:
        The findings; None where the files are absent.
    """
    if not (directory / "ops.json").exists():
        return None
    cases: list[Case] = json.loads((directory / "ops.json").read_text())
    exact = 0
    exceptions: list[str] = []
    mismatches: list[str] = []
    with np.load(directory / "ops.npz") as arrays:
        for case in cases:
            found = list(_differences(case, arrays))
            if not found:
                exact += 1
                continue
            line = f"ops {case['id']} ({_title(case)}): {'; '.join(found)}"
            (exceptions if _on_boundary(case, arrays["in/" + case["input"]]) else mismatches).append(line)
    return PartResult("ops", len(cases), exact, tuple(exceptions), tuple(mismatches))


def spec_of(case: Case) -> QuantizerSpec:
    """The quantizer a case describes; keys it does not name have the reference's defaults."""
    given = {k: case[k] for k in SPEC_KEYS if case.get(k) is not None}
    return QuantizerSpec(KINDS[case["kind"]], **given)


def _differences(case: Case, arrays: Any) -> Iterator[str]:
    spec, x = spec_of(case), arrays["in/" + case["input"]]
    if "error_g" in case:
        yield from _not_corrected(spec, x)
        return
    got = {k: v.numpy() for k, v in _operation(spec)(tf.constant(x)).items()}
    wanted: dict[str, Any] = {k: np.float32(case[k]) for k in ("min", "max", "pos", "log_th") if k in case}
    wanted["out"] = arrays[f"out/{case['id']}"]
    for name, value in wanted.items():
        if not np.array_equal(got[name], value, equal_nan=True):
            at = np.argwhere(~np.isclose(got[name], value, rtol=0, atol=0, equal_nan=True))
            yield f"{name} differs in {len(at)} of {value.size} values"


@functools.cache
def _operation(spec: QuantizerSpec) -> Any:
    """Calibrate and quantize in one graph, as the data were recorded."""

    def run(x: Any) -> dict[str, Any]:
        f_min, f_max = ops.value_range(x, spec)
        result = {"min": f_min, "max": f_max}
        if spec.pow2:
            result["pos"] = ops.position(x, f_min, f_max, spec, vitis_compat=True)
        if spec.quantizer_type == QuantizerType.TQT:
            result["log_th"] = ops.log_threshold(f_min, f_max, spec)
        out = ops.fake_quantize(x, spec, f_min, f_max, result.get("pos"), vitis_compat=True)
        return {**result, "out": out}

    return tf.function(run, autograph=False)


def _not_corrected(spec: QuantizerSpec, x: np.ndarray) -> Iterator[str]:
    try:
        ops.fake_quantize_numpy(x, ops.choose(x, spec, vitis_compat=True), vitis_compat=True)
        yield "the reference fails here, vitis_compat does not"
    except ValueError:
        pass
    out = ops.fake_quantize_numpy(x, ops.choose(x, spec))
    if not np.sum(np.square(out - x, dtype=np.float64)) < np.sum(np.square(x, dtype=np.float64)):
        yield "the corrected result is no better than zeros"


def _on_boundary(case: Case, x: np.ndarray) -> bool:
    reach = np.max(np.abs(x), axis=reduction_axes(x.ndim, spec_of(case)))
    return "eager_pos" in case or bool(np.any(reach == 0))


def _title(case: Case) -> str:
    flags = [k for k in ("symmetry", "per_channel", "narrow_range", "use_framework_quant") if case.get(k)]
    return " ".join(
        [
            case["kind"],
            case["input"],
            f"{case['bit_width']} bit",
            f"method {case['method']}",
            f"round {case['round_mode']}",
            *flags,
        ]
    )
