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
from benchmarks.golden_parts.ir import UnknownTypeError, build, inputs, our_name, outputs

WEIGHT_RTOL = 3e-6
"""Agreement of folded and equalized float32 weights; numpy's own products differ by this between builds."""
FLOAT_ATOL = 2e-6
"""Agreement of the float model with the recorded one, relative to the largest output."""
_OWN_KEYWORDS = {"_n", "_steps", "_strategy"}


@dataclass(frozen=True, eq=False)
class Recording:
    """One `model_*.json` and its arrays.

    Attributes:
        name: of the file.
        ir: the architecture.
        runs: what was recorded of each run.
        batch_size: of the calibration.
        arrays: inputs, weights and outputs.
    """

    name: str
    ir: Mapping[str, Any]
    runs: Mapping[str, Mapping[str, Any]]
    batch_size: int
    arrays: Mapping[str, np.ndarray]

    def inputs(self, part: str, count: int | None = None) -> Any:
        """As `ir.inputs`."""
        return inputs(self.ir, self.arrays, part, count)


def read(path: Path) -> Recording:
    """A recording in memory.

    Args:
        path: the `.json` beside its `.npz`.
    """
    recorded = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as file:
        arrays = {k: file[k] for k in file.files}
    return Recording(path.stem, recorded["ir"], recorded["runs"], recorded["calib_batch_size"], arrays)


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
    """Every run of one model file.

    A layer type that Keras lacks is said in one line, and nothing is compared; any other failure is a
    mismatch of the run in which it happens.

    Args:
        path: the `.json` beside its `.npz`.
    """
    recording = read(path)
    try:
        model = build(recording.ir, recording.arrays)
    except UnknownTypeError as unknown:
        why = f"not compared, {len(recording.runs)} runs: {unknown}"
        yield Run(path.stem, flips=[f"{path.stem}: {why}"], failed=f"   {why}")
        return
    yield _check_float(Run(f"{path.stem} float"), recording, model)
    for name in recording.runs:
        yield check_run(recording, name, model)


def _check_float(run: Run, recording: Recording, model: Any) -> Run:
    """Whether the model was read rightly: it computes what the recorded float model computed."""
    got = _predicted(model, recording.inputs("eval"))
    for at, (ours, want) in enumerate(zip(got, outputs(recording.arrays, "float_out"), strict=True)):
        reach = max(1.0, float(np.abs(want).max()))
        close = np.allclose(ours, want, rtol=0, atol=FLOAT_ATOL * reach)
        run.equal(f"float output {at} within {FLOAT_ATOL:g} of the recorded one", close, True)
    return run


def check_run(recording: Recording, name: str, model: Any, *, thorough: bool = True) -> Run:
    """One recorded run.

    Args:
        recording: of the model.
        name: of the run.
        model: built from the recording.
        thorough: where the reference fails, also run `vitis_compat` to its end; else it is planned only.

    Returns:
        The findings.
    """
    run, recorded = Run(f"{recording.name} {name}"), recording.runs[name]
    try:
        if "error" in recorded:
            _check_failed(run, recording, name, model, thorough)
        else:
            _check_completed(run, recording, name, model)
    except Exception as error:
        run.checked += 1
        run.mismatches.append(f"{run.name}: {type(error).__name__}: {str(error)[:300]}")
    return run


def _strategy(name: str, kwargs: Mapping[str, Any]) -> Any:
    """The built-in strategy, the document set on it, and the keywords of the run."""
    from vqkit.strategy import Strategy

    strategy = Strategy.builtin(name.split("/")[0])
    if "_strategy" in kwargs:
        strategy = strategy.update(kwargs["_strategy"])
    return strategy.with_kwargs(**{k: v for k, v in kwargs.items() if not k.startswith("_")})


def _quantized(recording: Recording, name: str, model: Any, *, compat: bool) -> Any:
    """As the run was made: its number of samples and of steps are among its keywords."""
    from vqkit.quantization import quantize

    kwargs = recording.runs[name]["kwargs"]
    calib = recording.inputs("calib", kwargs.get("_n"))
    return quantize(
        model,
        _strategy(name, kwargs),
        calib,
        batch_size=recording.batch_size,
        steps=kwargs.get("_steps"),
        vitis_compat=compat,
    )


def _check_completed(run: Run, recording: Recording, name: str, model: Any) -> None:
    recorded, arrays = recording.runs[name], recording.arrays
    if unknown := {k for k in recorded["kwargs"] if k.startswith("_")} - _OWN_KEYWORDS:
        run.flips.append(f"{run.name}: not compared, {sorted(unknown)} are not known")
        run.failed = "   not compared"
        return
    quantized = _quantized(recording, name, model, compat=True)
    kwargs = recorded["kwargs"]
    calib = (recording.inputs("calib", kwargs.get("_n")), recording.batch_size, kwargs.get("_steps"))
    if "optimized_weights" in recorded:
        _weights(run, quantized, recorded["optimized_weights"], arrays)
    if "info_calibrated" in recorded:
        _tensors(run, quantized, recorded["info_calibrated"], quantized.calibrated, "calibrated", calib)
    if "info_final" in recorded:
        _tensors(run, quantized, recorded["info_final"], quantized.encodings, "final", calib)
    if "graph" in recorded:
        _graph(run, quantized, recorded["graph"])
    if f"out/{name}" in arrays:
        got = _predicted(quantized.model, recording.inputs("eval"))
        for at, (ours, want) in enumerate(zip(got, outputs(arrays, f"out/{name}"), strict=True)):
            _output(run, quantized, at, ours, want)


def _check_failed(run: Run, recording: Recording, name: str, model: Any, thorough: bool) -> None:
    """The reference fails here; by default vqkit gives a model or refuses, and so does `vitis_compat`."""
    from vqkit.errors import StrategyError
    from vqkit.quantization import make_plan

    error = " ".join(recording.runs[name]["error"].split())[:60]
    run.failed = "   the reference fails, see below"
    said = []
    for mode in ("vqkit", "vitis_compat"):
        run.checked += 1
        compat = mode == "vitis_compat"
        try:
            if compat and not thorough:
                make_plan(_strategy(name, recording.runs[name]["kwargs"]), model, vitis_compat=True)
            else:
                quantized = _quantized(recording, name, model, compat=compat)
                largest = _largest_error(run, recording, quantized, mode)
                said.append(f"{mode}: largest output error {largest:.3g}")
        except StrategyError as refused:
            said.append(f"{mode} refuses: {refused}")
        run.exact += 1
    run.flips.append(f"{run.name}: the reference fails ({error}); {'; '.join(said)}")


def _largest_error(run: Run, recording: Recording, quantized: Any, mode: str) -> float:
    """Against the float model; by default it has to be a number."""
    got = _predicted(quantized.model, recording.inputs("eval"))
    wanted = outputs(recording.arrays, "float_out")
    largest = max(float(np.abs(o - w).max()) for o, w in zip(got, wanted, strict=True))
    if mode == "vqkit" and not np.isfinite(largest):
        run.mismatches.append(f"{run.name}: the outputs are not finite")
    return largest


def _predicted(model: Any, x: Any) -> list[np.ndarray]:
    from vqkit.evaluation import predict

    found = predict(model, x)
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _weights(run: Run, quantized: Any, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    prefix = f"opt/{key}/"
    for path, want in arrays.items():
        if path.startswith(prefix):
            layer, weight = path.removeprefix(prefix).rsplit("/", 1)
            run.checked += 1
            weights = quantized.optimized.layers[layer].weights if layer in quantized.optimized.layers else {}
            got = weights.get(our_name(weight, weights))
            if got is None or got.shape != want.shape:
                run.mismatches.append(
                    f"{run.name}: optimized {layer}/{weight}: {want.shape} expected, "
                    f"{None if got is None else got.shape} found"
                )
                continue
            if np.allclose(got, want, rtol=WEIGHT_RTOL, atol=WEIGHT_RTOL * float(np.abs(want).max())):
                run.exact += 1
            else:
                run.mismatches.append(
                    f"{run.name}: optimized {layer}/{weight} differs by {np.abs(got - want).max():.3g}"
                )


def _key(row: Any, graph: Any) -> tuple[str, str]:
    """A plan row in the reference's naming."""
    from vqkit.graph.passes.match import reference_name
    from vqkit.graph.passes.simplify import WEIGHTED

    slot = row.slot.value
    if slot in ("weight", "bias"):
        # The reference strips any of the letters q,u,a,n,t,_ from the front of a weight's name.
        tensor = "depthwise_kernel" if row.kind == "DepthwiseConv2D" and row.tensor == "kernel" else row.tensor
        return row.layer, f"quant_{row.layer}".lstrip("quant_") + f"/{tensor}:0"
    if slot == "input":
        return row.layer, "input"
    if slot == "output":
        return row.layer, f"output_{row.tensor.partition('_')[2] or 0}"
    if slot == "pre_activation" and row.kind in WEIGHTED:
        # The function that the layer computes itself stands behind the quantizer in a node of its own.
        behind = [
            n
            for n in graph.nodes
            if row.quantizer in (graph.producers()[v].layer for v in n.inputs if v in graph.producers())
        ]
        return row.layer, reference_name(graph.layer_of(behind[0]))
    return row.layer, reference_name(graph.layers[row.layer])


def _tensors(
    run: Run,
    quantized: Any,
    info: Mapping[str, Any],
    encodings: Mapping[str, Any],
    stage: str,
    data: tuple[Any, int, int | None],
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
    data: tuple[Any, int, int | None],
) -> None:
    pos = want.get("quant_pos_var")
    expected = row.spec.bit_width - 1 - np.ceil(want["log_th_var"]) if pos is None else pos
    expected = np.ravel(expected).astype(float)
    same = run.equal(f"{what} position", np.ravel(got).tolist(), expected.tolist())
    if same or row.is_weight or expected.size > 1:
        return
    reason = explain(quantized, row, expected[0], *data)
    if reason:
        run.mismatches.pop()
        run.flips.append(f"{run.name}: {what}: {reason}")


def _range(run: Run, what: str, params: Any, want: Mapping[str, Any], row: Any) -> None:
    """Equal to float32 sums; an activation may move by less than its step where a tie flipped upstream."""
    for name, got in (("min_var", params.f_min), ("max_var", params.f_max)):
        run.checked += 1
        if _close(np.ravel(got), np.ravel(want[name])):
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


def _close(got: np.ndarray, want: np.ndarray) -> bool:
    same_shape = got.shape == want.shape
    return same_shape and bool(np.allclose(got, want, rtol=1e-5, atol=1e-7, equal_nan=True))


def _output(run: Run, quantized: Any, at: int, got: np.ndarray, want: np.ndarray) -> None:
    run.checked += 1
    if got.shape != want.shape or not np.array_equal(np.isnan(got), np.isnan(want)):
        run.mismatches.append(f"{run.name}: output {at}: {want.shape} expected, {got.shape} found, or NaN")
        return
    difference = float(np.abs(np.nan_to_num(got - want)).max())
    step = _last_step(quantized, at)
    if difference <= step * 1.001 + 1e-5:
        run.exact += 1
    else:
        run.mismatches.append(f"{run.name}: output {at} differs by {difference:.3g}, one step is {step:.3g}")
    if 1e-5 < difference <= step * 1.001 + 1e-5:
        run.flips.append(f"{run.name}: output {at} differs by {difference:.3g} (one step is {step:.3g})")


def _last_step(quantized: Any, at: int) -> float:
    """The largest step of the quantizers that an output's values went through last."""
    graph = quantized.graph
    producers, steps = graph.producers(), []
    waiting = [graph.outputs[at]]
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node.layer in quantized.rows:
            steps.append(float(np.max(quantized.encodings[quantized.rows[node.layer].name].scale)))
        elif node is not None:
            waiting += node.inputs
    return max(steps, default=0.0)
