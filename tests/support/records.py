"""Realistic run folders for tests, in the layout that the runner writes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vqkit import digest
from vqkit.strategy import vocabulary

LAYERS = ("conv1", "dw1", "conv2", "add", "logits")


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))


def record(
    base: str = "pof2s",
    overrides: Mapping[str, Any] | None = None,
    *,
    accuracy: float = 0.96,
    size: float = 20_000,
    status: str = "FINISHED",
    **changes: Any,
) -> dict[str, Any]:
    """A record as the runner writes it; `changes` replace inputs by name or whole top-level fields."""
    overrides = dict(overrides or {})
    inputs = {
        "model": {"ref": "quickstart", "digest": "m" * 16},
        "data": {"ref": "digits", "digest": "d" * 16, "n_calib": 100, "n_eval": 450},
        "strategy": {"base": base, "digest": digest.of_json([base, overrides])},
        "overrides": overrides,
        "seed": 0,
        "calibration": "quantized",
        "vitis_compat": False,
        "batch_size": 32,
        "steps": None,
        "code": "0.1.0+abc",
        **{k: v for k, v in changes.items() if k in ("model", "data", "seed", "calibration", "code", "eval_images")},
    }
    name = " ".join([base, *(f"{k}={json.dumps(v)}" for k, v in overrides.items())])
    finished = status == "FINISHED"
    built = {
        "schema": 1,
        "key": digest.of_json(inputs),
        "name": name,
        "status": status,
        "started": "2026-11-23T10:00:00+00:00",
        "ended": None if status == "RUNNING" else "2026-11-23T10:00:12.500+00:00",
        "pid": 4242,
        "sweep": None,
        "inputs": inputs,
        "metrics": _metrics(accuracy, size) if finished else {},
        "error": {"type": "StrategyError", "message": "bit_width 99", "cell": 3} if status == "FAILED" else None,
        "artifacts": {"strategy": "strategy.json", "plan": "plan.json", "encodings": "encodings.json"}
        | ({"sqnr": "sqnr.json"} if finished else {"traceback": "traceback.txt"} if status == "FAILED" else {})
        | {"notebook": "notebook.ipynb"},
        "notes": [],
        "environment": {
            "python": "3.11.7",
            "tensorflow": "2.21.0",
            "vqkit": "0.1.0",
            "cpu_count": 2,
            "git": {"sha": "f" * 40, "dirty": False},
        },
    }
    return built | {k: v for k, v in changes.items() if k in (*built, "judged")}


def _metrics(accuracy: float, size: float) -> dict[str, float]:
    return {
        "accuracy": accuracy,
        "float_accuracy": 0.98,
        "accuracy_delta": accuracy - 0.98,
        "size_bytes": size,
        "float_size_bytes": 80_000.0,
        "sqnr_output_db": 60 * accuracy - 20,
        "sqnr_min_db": 40 * accuracy - 20,
        "quantized_tensors": 20.0,
        "float_tensors": 1.0,
        "seconds_quantize": 3.0,
        "seconds_evaluate": 0.5,
        "seconds_total": 6.25,
    }


def add(runs: Path, made: Mapping[str, Any], *, right: Iterable[int] | None = None) -> Path:
    """Write one record with its files; returns the run directory.

    Args:
        runs: the folder of runs.
        made: result of `record`.
        right: samples (of n_eval) that the run gets right; kept as predictions.
    """
    folder = runs / "variants" / made["key"]
    write(folder / "strategy.json", strategy(made))
    write(folder / "plan.json", {"rows": plan(made)})
    write(folder / "encodings.json", {})
    write(folder / "notebook.ipynb", {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    if made["status"] == "FINISHED":
        write(folder / "sqnr.json", sqnr(made["metrics"]["accuracy"]))
        (folder / "plots").mkdir(exist_ok=True)
        (folder / "plots" / "sqnr.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    if made["status"] == "FAILED":
        (folder / "traceback.txt").write_text("Traceback: StrategyError\n")
    if right is not None:
        predicted = np.ones(made["inputs"]["data"]["n_eval"], np.int64)
        predicted[list(right)] = 0
        np.savez(folder / "predictions.npz", predicted=predicted, labels=np.zeros_like(predicted))
    write(folder / "record.json", made)
    return folder


def strategy(made: Mapping[str, Any]) -> dict[str, Any]:
    """The built-in strategy with the record's overrides as user keys, valid or not."""
    document = copy.deepcopy(vocabulary.builtin_document(made["inputs"]["strategy"]["base"]))
    document["quantize_registry_config"]["user_quantize_config"] |= made["inputs"]["overrides"]
    return document


def plan(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Plan rows of a small model; the head stays float."""
    bits = made["inputs"]["overrides"].get("weight_bit", 8)
    kind = "FSQuantizer" if made["inputs"]["strategy"]["base"] == "fs" else "Pof2SQuantizer"
    return [
        {
            "layer": layer,
            "tensor": role,
            "role": role,
            "spec": None
            if layer == "logits"
            else {"quantizer_type": kind, "bit_width": bits if role == "weight" else 8, "method": 1},
            "reason": "ignored" if layer == "logits" else "",
            "origins": {},
        }
        for layer in LAYERS
        for role in ("weight", "activation")
    ]


def sqnr(accuracy: float) -> list[dict[str, Any]]:
    """Per-tensor SQNR that falls with depth and rises with accuracy, dB."""
    return [
        {
            "layer": layer,
            "tensor": f"{layer}/{role}",
            "role": role,
            "order": i,
            "sqnr_db": 40 * accuracy - 2 * i,
        }
        for i, layer in enumerate(LAYERS)
        for role in ("weight", "activation")
    ]


def sweep(runs: Path, name: str, made: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Write the resolved sweep that lists the given records; returns it."""
    variants = [
        {
            "key": m["key"],
            "name": m["name"],
            "overrides": m["inputs"]["overrides"],
            "base": m["inputs"]["strategy"]["base"],
        }
        for m in made
    ]
    resolved = {
        "schema": 1,
        "name": name,
        "file": f"{name}.yaml",
        "digest": digest.of_json(variants),
        "variants": variants,
    }
    write(runs / "sweeps" / name / "sweep.json", resolved)
    return resolved


def example(runs: Path, name: str = "quick") -> list[dict[str, Any]]:
    """A sweep of five: three good ones, a bad one and a failed one."""
    made = [
        record("pof2s", sweep=name, accuracy=0.9733, size=20_000),
        record("pof2s", {"weight_bit": 6}, sweep=name, accuracy=0.9667, size=15_000),
        record("pof2s", {"weight_bit": 3}, sweep=name, accuracy=0.61, size=8_000),
        record("fs", {"weight_bit": 4, "weight_per_channel": True}, sweep=name, accuracy=0.9644, size=11_000),
        record("fsx", {"weight_bit": 99}, sweep=name, status="FAILED"),
    ]
    for m in made:
        add(runs, m)
    sweep(runs, name, made)
    return made
