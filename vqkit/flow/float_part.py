"""The float part in front of a partial model's first quantizer: run once for the data, not per variant."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from vqkit.flow.data import batches, leaves
from vqkit.flow.fixed_size import in_size
from vqkit.flow.instrument import rounding_rows
from vqkit.flow.places import Places
from vqkit.flow.ptq import Quantized
from vqkit.flow.structure import Structure, crossing_values, numbers_at
from vqkit.flow.trail import value_digests
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import mask_of


class FloatPart:
    """Tells where variants may begin, and keeps what their data are there.

    Args:
        places: where the values are kept.
        data_digest: digest of inputs.
        weight_digest: digest of a weight.
    """

    def __init__(self, places: Places, data_digest: Callable[[Any], str],
                 weight_digest: Callable[[np.ndarray], str]) -> None:  # fmt: skip
        self._places, self._data_digest, self._weight_digest = places, data_digest, weight_digest

    def start(self, structure: Structure, quantized: Quantized, baked: Graph, x: Any, batch_size: int, *,
              eager: bool = False, pad: bool = False) -> tuple[int, Iterable[Any]]:  # fmt: skip
        """Where to begin, and with what: behind the float part, if it is worth it and the values there fit.

        Args:
            structure: holds the variant.
            quantized: the variant.
            baked: its graph, with the weights that the structure holds.
            x: inputs, shape (n, …).
            batch_size: samples at once.
            eager: layer by layer; compiled layers that were fused may differ in the last bit.
            pad: where the batch size is fixed, fill the last batch.

        Returns:
            Number of the first node, and what is there, batch by batch: value name -> tensor; at the start of
            the model, inputs.
        """
        begin = float_nodes(quantized)
        kept = None
        if all(isinstance(array, np.ndarray) for array in leaves(x)) and self._worth(baked, begin, x):
            digests, floats = (self._digests(quantized, begin, graph) for graph in (baked, quantized.graph))
            # What is kept serves the float model too, so it has to be that model's.
            if digests == floats:
                kept = self._kept(structure, begin, digests, x, batch_size, eager, pad)
        if kept is not None:
            return begin, kept
        return 0, in_size(batches(x, batch_size=batch_size), quantized.graph, pad=pad)

    def _kept(self, structure: Structure, begin: int, digests: dict[str, str], x: Any, batch_size: int,
              eager: bool, pad: bool) -> list[Any] | None:  # fmt: skip
        key = ("float part", self._data_digest(x), batch_size, eager, pad, *digests.values())
        if self._places.get(key) is None:
            run = (structure.eagerly if eager else structure.evaluator)(0, begin)
            source = in_size(batches(x, batch_size=batch_size), structure.graph, pad=pad)
            made = [run(batch) for batch in source]
            if any(mask_of(value) is not None for value in made[0].values()):
                return None
            self._places.put(key, [{d: batch[name] for name, d in digests.items()} for batch in made])
        kept = self._places.get(key)
        return kept and [{name: batch[d] for name, d in digests.items()} for batch in kept]

    def _digests(self, quantized: Quantized, begin: int, graph: Graph) -> dict[str, str]:
        """What each value in front of a node is made of, by its name."""
        found = value_digests(graph, dict.fromkeys(quantized.rows, "quantized"), self._weight_digest)
        return {f"v{v}": found[v] for v in crossing_values(graph, begin)}

    def _worth(self, graph: Graph, begin: int, x: Any) -> bool:
        """Whether layers with weights lie before a node, and the values there fit into half of the memory."""
        weighted = any(graph.layers[n.layer].weights for n in graph.nodes[:begin])
        numbers = numbers_at(graph, begin)
        return weighted and numbers is not None and 8 * len(leaves(x)[0]) * numbers <= self._places.limit


def float_nodes(quantized: Quantized) -> int:
    """How many nodes at the start of a quantized graph compute what the user's model computes."""
    layers = {r.layer for r in (*quantized.plan.quantized, *quantized.plan.typed) if r.is_weight}
    inserted = {*quantized.rows, *rounding_rows(quantized.graph, quantized.plan)}
    changed = layers | inserted
    return next(
        (i for i, n in enumerate(quantized.graph.nodes) if n.layer in changed), len(quantized.graph.nodes)
    )
