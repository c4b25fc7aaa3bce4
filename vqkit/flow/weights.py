"""Decided and rounded weights, remembered: variants of a sweep mostly share them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vqkit import digest
from vqkit.flow.plan import Plan, Role
from vqkit.flow.solve import Encodings, bake, solve_weights
from vqkit.graph.ir import Graph
from vqkit.primitives import ops
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import QuantizerSpec

Key = tuple[object, ...]


class WeightMemory:
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

    def solve(self, graph: Graph, plan: Plan, compat: bool, *,
              roles: Sequence[Role] = (Role.WEIGHT, Role.BIAS)) -> Encodings:  # fmt: skip
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
        numbers = [
            None if v is None else np.asarray(v).tobytes() for v in (params.f_min, params.f_max, params.pos)
        ]
        key = (self.digest(weight), params.spec, *numbers)
        if key not in self._rounded:
            self._rounded[key] = ops.fake_quantize_numpy(weight, params)
        return self._rounded[key]
