"""Many small models as one, quantized, exported to ONNX and compared with the simulation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np

import vqkit
from tests.system.contract import recipes
from vqkit.export.lowering import lower
from vqkit.export.onnx import DEFAULT_OPSET, OnnxSession, to_onnx
from vqkit.export.program import Program

RELATIVE = 1e-5
"""Of an output's largest magnitude: float32 sums in another order."""


class Joint:
    """Small models side by side in one.

    Args:
        parts: name -> model.
        strategy: what it is quantized with.
        seed: of the samples.
    """

    def __init__(self, parts: Mapping[str, keras.Model], strategy: Any = "pof2s", *, seed: int = 0) -> None:
        self.parts = dict(parts)
        inputs, outputs = [], []
        self.owner: list[str] = []
        for i, (name, part) in enumerate(self.parts.items()):
            given = [
                keras.Input(batch_shape=t.shape, dtype=t.dtype, name=f"in_{i}_{k}") for k, t in enumerate(part.inputs)
            ]
            made = keras.tree.flatten(part(given if len(given) > 1 else given[0]))
            inputs += given
            outputs += made
            self.owner += [name] * len(made)
        self.model = keras.Model(inputs, outputs)
        self.quantized = vqkit.quantize(self.model, strategy, self.batch(16, seed))
        self.program: Program = lower(self.quantized)

    def batch(self, n: int, seed: int = 1) -> Any:
        """Samples for all inputs."""
        return recipes.batch(self.model, n, seed=seed)

    def worst(self, *, opset: int = DEFAULT_OPSET, sizes: tuple[int, ...] = (5, 1)) -> dict[str, str]:
        """Name -> what is wrong with it; empty where all agree."""
        made = to_onnx(self.quantized, program=self.program, opset=opset)
        session, found = OnnxSession(made.model), dict[str, str]()
        for n in sizes:
            x = self.batch(n)
            x = x if isinstance(x, list) else [x]
            want = keras.tree.flatten(self.quantized.model(x if len(x) > 1 else x[0], training=False))
            got = session(dict(zip([t.name for t in self.model.inputs], x, strict=True)))
            for name, output, w in zip(self.owner, self.program.outputs, want, strict=True):
                wrong = _difference(got[output], np.asarray(w), self.program.grids.get(self.program.outputs[output]))
                if wrong:
                    found[name] = f"{output}, {n} samples: {wrong}"
        return found

    def refusals(self, *, opset: int = DEFAULT_OPSET) -> dict[str, str]:
        """Name -> why it is refused when it is exported alone; absent where it is not."""
        found = {}
        for output, owner in zip(self.program.outputs, self.owner, strict=True):
            try:
                to_onnx(self.quantized, program=alone(self.program, output), opset=opset)
            except vqkit.errors.ModelError as error:
                found[owner] = str(error)
        return found


def alone(program: Program, output: str) -> Program:
    """A program that makes one of its outputs."""
    needed, kept = {program.outputs[output]}, []
    for step in reversed(program.steps):
        if needed.intersection(step.outputs):
            needed.update(step.values)
            kept.append(step)
    return replace(program, steps=tuple(kept[::-1]), outputs={output: program.outputs[output]})


def _difference(got: np.ndarray, want: np.ndarray, grid: Any) -> str:
    if got.shape != want.shape or got.dtype.kind != want.dtype.kind:
        return f"{got.dtype} {got.shape}, expected {want.dtype} {want.shape}"
    if not want.size:
        return ""
    if want.dtype.kind not in "f":
        return "" if np.array_equal(got, want) else "other numbers"
    if not np.array_equal(np.isnan(got), np.isnan(want)) or not np.array_equal(np.isinf(got), np.isinf(want)):
        return "NaN or infinity elsewhere"
    real = np.isfinite(want)
    apart = np.abs(np.where(real, got - want, 0))
    largest = np.abs(np.where(real, want, 0)).max()
    room = RELATIVE * largest if grid is None or grid.spec.per_channel else float(grid.scale)
    return "" if apart.max() <= room else f"{apart.max():.3g} apart, of {largest:.3g}"
