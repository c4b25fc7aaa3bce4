"""Statistics to encodings, and weights on their grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from vqkit import digest
from vqkit.graph.ir import Graph
from vqkit.primitives import ops
from vqkit.primitives.histogram import CLIPPING, choose_from_histogram
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import QuantizerSpec, QuantizerType
from vqkit.quantization.calibrate import Calibration, TensorStatistics
from vqkit.quantization.layer_kinds import rounded
from vqkit.quantization.plan import Plan, QuantizedRow, Role

Encodings = dict[str, QParams]


def solve_weights(
    graph: Graph,
    plan: Plan,
    *,
    roles: Sequence[Role] = (Role.WEIGHT, Role.BIAS),
    vitis_compat: bool = False,
    choose: Callable[..., QParams] = ops.choose,
) -> Encodings:
    """Decide each quantized weight and bias; they need no data.

    Args:
        graph: holds the float weights.
        plan: says which are quantized and how.
        roles: kernels, biases or both.
        vitis_compat: decide as the reference does.
        choose: decides one weight, as `ops.choose` does.

    Returns:
        Row name -> decision.
    """
    return {
        row.name: choose(graph.layers[row.layer].weights[row.tensor], row.spec, vitis_compat=vitis_compat)
        for row in plan.quantized
        if row.role in roles
    }


def weights_while_calibrating(plan: Plan, *, vitis_compat: bool) -> Plan:
    """The plan whose weights are quantized while activations are observed.

    Args:
        plan: of all tensors.
        vitis_compat: weights by MIN_KL or PERCENTILE are float until calibration ends, as in the reference.

    Returns:
        The plan, or a part of it.
    """
    if not vitis_compat:
        return plan
    late = [r for r in plan.quantized if r.is_weight and r.spec.method in CLIPPING]
    return replace(plan, rows=tuple(r for r in plan.rows if r not in late)) if late else plan


def solve_activations(calibration: Calibration, plan: Plan, *, vitis_compat: bool = False) -> Encodings:
    """Decide each quantized value from what calibration saw.

    Power-of-two positions are the most frequent over the batches, the first seen winning ties; per
    channel likewise for each channel (the reference takes the first batch's).

    Args:
        calibration: facts.
        plan: says which values are quantized and how.
        vitis_compat: decide as the reference does.

    Returns:
        Row name -> decision.
    """
    rows = [r for r in plan.quantized if r.name in calibration.tensors]
    return {r.name: _decide(r, calibration.tensors[r.name], vitis_compat) for r in rows}


def _decide(row: QuantizedRow, seen: TensorStatistics, compat: bool) -> QParams:
    if seen.histogram is not None:
        return choose_from_histogram(seen.histogram, row.spec, vitis_compat=compat)
    pos = _position(row, seen.pos, compat) if row.spec.pow2 else None
    return QParams(row.spec, seen.f_min[-1], seen.f_max[-1], pos)


def _position(row: QuantizedRow, positions: list[np.ndarray], compat: bool) -> np.ndarray:
    if compat and row.spec.quantizer_type is QuantizerType.TQT:
        return positions[-1]
    if compat and positions[0].ndim:
        return positions[0]
    return most_frequent(np.stack(positions))


def most_frequent(stacked: np.ndarray) -> np.ndarray:
    """The commonest value along the first axis, the first seen winning ties.

    Args:
        stacked: shape (batches, …).

    Returns:
        Shape (…), same dtype.
    """
    flat = stacked.reshape(len(stacked), -1)
    counts = (flat[:, None, :] == flat[None, :, :]).sum(axis=1)
    first = counts.argmax(axis=0)
    return flat[first, np.arange(flat.shape[1])].reshape(stacked.shape[1:])


def bake(
    graph: Graph,
    encodings: Mapping[str, QParams],
    plan: Plan,
    *,
    fake_quantize: Callable[..., np.ndarray] = ops.fake_quantize_numpy,
) -> Graph:
    """The graph with its quantized and rounded weights in place of the float ones.

    Args:
        graph: holds the float weights.
        encodings: decisions.
        plan: says which weights are quantized.
        fake_quantize: puts one weight on its grid, as `ops.fake_quantize_numpy` does.

    Returns:
        A new graph; the given one keeps its weights.
    """
    graph = graph.copy()
    for row in plan.quantized:
        if row.is_weight:
            layer = graph.layers[row.layer]
            quantized = fake_quantize(layer.weights[row.tensor], encodings[row.name])
            graph.layers[row.layer] = layer.with_(weights={**layer.weights, row.tensor: quantized})
    for typed in plan.typed:
        if typed.is_weight:
            layer = graph.layers[typed.layer]
            weights = {**layer.weights, typed.tensor: rounded(layer.weights[typed.tensor], typed)}
            graph.layers[typed.layer] = layer.with_(weights=weights)
    return graph


Key = tuple[object, ...]


class WeightSolver:
    """Decides and rounds weights, each time anew."""

    def solve(
        self, graph: Graph, plan: Plan, compat: bool, *, roles: Sequence[Role] = (Role.WEIGHT, Role.BIAS)
    ) -> Encodings:
        """What `solve_weights` gives."""
        return solve_weights(graph, plan, roles=roles, vitis_compat=compat)

    def bake(self, graph: Graph, encodings: Encodings, plan: Plan) -> Graph:
        """What `bake` gives."""
        return bake(graph, encodings, plan)


class WeightMemory(WeightSolver):
    """Remembers by content what was decided for a weight, and what it becomes on its grid."""

    def __init__(self) -> None:
        self._digests: dict[int, tuple[np.ndarray, str]] = {}
        self._decided: dict[Key, QParams] = {}
        self._rounded: dict[Key, np.ndarray] = {}

    def digest(self, weight: np.ndarray) -> str:
        """Digest of an array; computed once for each object, which must not be changed."""
        known = self._digests.get(id(weight))
        if known is None or known[0] is not weight:
            known = self._digests[id(weight)] = (weight, digest.of_array(weight))
        return known[1]

    def solve(
        self, graph: Graph, plan: Plan, compat: bool, *, roles: Sequence[Role] = (Role.WEIGHT, Role.BIAS)
    ) -> Encodings:
        """What `solve_weights` gives."""
        return solve_weights(graph, plan, roles=roles, vitis_compat=compat, choose=self._choose)

    def bake(self, graph: Graph, encodings: Encodings, plan: Plan) -> Graph:
        """What `bake` gives; equal decisions give the same arrays."""
        return bake(graph, encodings, plan, fake_quantize=self._fake_quantize)

    def _choose(self, weight: np.ndarray, spec: QuantizerSpec, *, vitis_compat: bool) -> QParams:
        key = (self.digest(weight), spec, vitis_compat)
        if key not in self._decided:
            self._decided[key] = ops.choose(weight, spec, vitis_compat=vitis_compat)
        return self._decided[key]

    def _fake_quantize(self, weight: np.ndarray, params: QParams) -> np.ndarray:
        numbers = [None if v is None else np.asarray(v).tobytes() for v in (params.f_min, params.f_max, params.pos)]
        key = (self.digest(weight), params.spec, *numbers)
        if key not in self._rounded:
            self._rounded[key] = ops.fake_quantize_numpy(weight, params)
        return self._rounded[key]
