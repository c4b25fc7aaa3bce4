"""Whole models against what the reference put into them: weights, graph, positions, outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.golden_parts import PartResult
from benchmarks.golden_parts.boundary import explain
from benchmarks.golden_parts.ir import build

WEIGHT_RTOL = 3e-6
"""Agreement of folded and equalized float32 weights; numpy's own products differ by this between builds."""


@dataclass
class Run:
    """Findings of one golden run."""

    name: str
    checked: int = 0
    exact: int = 0
    flips: list[str] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)
    failed: str = ""

    def equal(self, what: str, got: Any, want: Any) -> bool:
        """Record one exact comparison."""
        self.checked += 1
        same = bool(np.array_equal(np.asarray(got), np.asarray(want)))
        if same:
            self.exact += 1
        else:
            self.mismatches.append(f"{self.name}: {what}: {got} instead of {want}")
        return same

    def line(self) -> str:
        """What was found, in one line."""
        return (
            f"{self.name:32s} matched {self.exact:4d} of {self.checked:4d}   "
            f"flips explained {len(self.flips):2d}   mismatches {len(self.mismatches):2d}{self.failed}"
        )


def check(directory: Path) -> PartResult:
    """Run every `model_*.json` of a directory.

    Args:
        directory: laid out like the golden data.

    Returns:
        Counts, explained flips and reference failures as exceptions, and mismatches.
    """
    runs = [run for path in sorted(directory.glob("model_*.json")) for run in check_model(path)]
    return PartResult(
        "models",
        sum(r.checked for r in runs),
        sum(r.exact for r in runs),
        [f for r in runs for f in r.flips],
        [m for r in runs for m in r.mismatches],
        [r.line() for r in runs],
    )


def check_model(path: Path) -> Iterator[Run]:
    """Every run of one model file."""
    data = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as file:
        arrays = {k: file[k] for k in file.files}
    model = build(data["ir"], arrays)
    for name, recorded in data["runs"].items():
        yield check_run(
            f"{data['ir']['name']} {name}", name, recorded, model, arrays, data["calib_batch_size"]
        )


def check_run(
    label: str,
    name: str,
    recorded: Mapping[str, Any],
    model: Any,
    arrays: Mapping[str, np.ndarray],
    batch_size: int,
) -> Run:
    from vqkit.flow import quantize
    from vqkit.strategy import Strategy

    run, compat = Run(label), "error" not in recorded
    strategy = Strategy.builtin(name.split("/")[0]).with_kwargs(**recorded["kwargs"])
    if not compat:
        return _check_corrected(run, model, strategy, arrays, batch_size, recorded["error"])
    quantized = quantize(model, strategy, arrays["calib"], batch_size=batch_size, vitis_compat=True)
    _weights(run, quantized, recorded["optimized_weights"], arrays)
    data = (arrays["calib"], batch_size)
    _tensors(run, quantized, recorded["info_calibrated"], quantized.calibrated, "calibrated", data)
    _tensors(run, quantized, recorded["info_final"], quantized.encodings, "final", data)
    _graph(run, quantized, recorded["graph"])
    _outputs(run, quantized, arrays["eval"], arrays[f"out/{name}"])
    return run


def _check_corrected(run: Run, model: Any, strategy: Any, arrays: Mapping[str, np.ndarray], batch_size: int,
                     error: str) -> Run:  # fmt: skip
    """The reference fails here; vqkit must not, and must compute something close to the float model."""
    from vqkit.errors import StrategyError
    from vqkit.flow import predict, quantize

    run.checked += 1
    run.failed = "   the reference fails, see below"
    try:
        quantized = quantize(model, strategy, arrays["calib"], batch_size=batch_size)
        error_now = float(np.abs(predict(quantized.model, arrays["eval"]) - arrays["float_out"]).max())
        assert np.isfinite(error_now)
    except StrategyError as refused:
        run.exact += 1
        run.flips.append(f"{run.name}: the reference fails ({error[:40]}), vqkit refuses: {refused}")
        return run
    run.exact += 1
    run.flips.append(
        f"{run.name}: the reference fails ({error[:40]}), vqkit's largest output error is {error_now:.3g}"
    )
    return run


def _weights(run: Run, quantized: Any, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    prefix = f"opt/{key}/"
    for path, want in arrays.items():
        if path.startswith(prefix):
            layer, weight = path.removeprefix(prefix).rsplit("/", 1)
            got = quantized.optimized.layers[layer].weights[weight.removeprefix("depthwise_")]
            run.checked += 1
            if np.allclose(got, want, rtol=WEIGHT_RTOL, atol=WEIGHT_RTOL * float(np.abs(want).max())):
                run.exact += 1
            else:
                run.mismatches.append(
                    f"{run.name}: optimized {layer}/{weight} differs by {np.abs(got - want).max():.3g}"
                )


def _key(row: Any, graph: Any) -> tuple[str, str]:
    """A plan row in the reference's naming."""
    from vqkit.graph.match import activation_name

    slot = row.slot.value
    if slot in ("weight", "bias"):
        # The reference strips any of the letters q,u,a,n,t,_ from the front of a weight's name.
        tensor = (
            "depthwise_kernel" if row.kind == "DepthwiseConv2D" and row.tensor == "kernel" else row.tensor
        )
        return row.layer, f"quant_{row.layer}".lstrip("quant_") + f"/{tensor}:0"
    if slot == "input":
        return row.layer, "input"
    if slot == "output":
        return row.layer, f"output_{row.tensor.partition('_')[2] or 0}"
    return row.layer, activation_name(graph.layers[row.layer])


def _tensors(
    run: Run,
    quantized: Any,
    info: Mapping[str, Any],
    encodings: Mapping[str, Any],
    stage: str,
    data: tuple[np.ndarray, int],
) -> None:
    want = {(layer, q): e for layer, entries in info.items() for q, e in entries.items() if e}
    rows = {_key(r, quantized.graph): r for r in quantized.plan.quantized}
    run.equal(f"{stage} quantized tensors", sorted(rows.keys() ^ want.keys()), [])
    for key in rows.keys() & want.keys():
        row, what = rows[key], f"{stage} {key[0]}/{key[1]}"
        if "quant_pos_var" in want[key] or "log_th_var" in want[key]:
            _position(run, what, quantized, row, encodings[row.name].pos, want[key], data)
        else:
            _range(run, what, encodings[row.name], want[key], row)


def _position(
    run: Run,
    what: str,
    quantized: Any,
    row: Any,
    got: Any,
    want: Mapping[str, Any],
    data: tuple[np.ndarray, int],
) -> None:
    pos = want.get("quant_pos_var")
    expected = row.spec.bit_width - 1 - np.ceil(want["log_th_var"]) if pos is None else pos
    expected = np.ravel(expected).astype(float)
    run.equal(f"{what} position", np.ravel(got).tolist(), expected.tolist())
    if not run.mismatches or row.is_weight or expected.size > 1 or np.ravel(got)[0] == expected[0]:
        return
    reason = explain(quantized, row, expected[0], *data)
    if reason:
        run.mismatches.pop()
        run.flips.append(f"{run.name}: {what}: {reason}")


def _range(run: Run, what: str, params: Any, want: Mapping[str, Any], row: Any) -> None:
    """Equal to float32 sums; an activation may move by less than its step where a tie flipped upstream."""
    for name, got in (("min_var", params.f_min), ("max_var", params.f_max)):
        run.checked += 1
        if np.allclose(np.ravel(got), np.ravel(want[name]), rtol=1e-5, atol=1e-7):
            run.exact += 1
        elif not row.is_weight and np.all(np.abs(np.ravel(got) - np.ravel(want[name])) < params.scale):
            run.flips.append(f"{run.name}: {what} {name} moved by less than one step: a tie upstream")
        else:
            run.mismatches.append(
                f"{run.name}: {what} {name}: {np.ravel(got)[:4]} instead of {np.ravel(want[name])[:4]}"
            )


def _graph(run: Run, quantized: Any, graph: list[Mapping[str, Any]]) -> None:
    """Quantizers of the same kind stand at the same places."""
    inserted = sorted(n["name"] for n in graph if n["cls"] == "VitisQuantize")
    ours = sorted(r.layer for r in quantized.plan.quantized if r.slot.value == "input")
    run.equal("inserted input quantizers", ours, inserted)
    wrapped = {n["name"].removeprefix("quant_"): n["wrapped"] for n in graph if n["cls"] == "QuantizeWrapper"}
    layers = {n.name: quantized.graph.kind(n) for n in quantized.graph.nodes if n.name in wrapped}
    run.equal("wrapped layers", sorted(layers.items()), sorted(wrapped.items()))


def _outputs(run: Run, quantized: Any, x: np.ndarray, want: np.ndarray) -> None:
    from vqkit.flow import predict

    got = predict(quantized.model, x)
    difference = float(np.abs(got - want).max())
    run.checked += 1
    if difference <= _last_step(quantized) * 1.001 + 1e-5:
        run.exact += 1
    else:
        run.mismatches.append(
            f"{run.name}: outputs differ by {difference:.3g}, one step is {_last_step(quantized):.3g}"
        )
    if difference > 1e-5:
        run.flips.append(
            f"{run.name}: outputs differ by {difference:.3g} (one step is {_last_step(quantized):.3g})"
        )


def _last_step(quantized: Any) -> float:
    last = [r for r in quantized.plan.quantized if not r.is_weight][-1]
    return float(np.max(quantized.encodings[last.name].scale))
