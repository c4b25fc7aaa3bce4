"""Evaluation and SQNR that begin behind the float part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vqkit.bench.cache import ActivationCache, value_digests
from vqkit.bench.structure import Structure
from vqkit.evaluation.noise import Pair, Sides, compared, energies, noise_table, summed, tensor_values
from vqkit.graph.execute import crossing_values, numbers_at, part_of
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import mask_of
from vqkit.quantization.data import batches, leaves
from vqkit.quantization.float_model import in_size, size_of
from vqkit.quantization.prepare import passing_through, rounding_rows
from vqkit.quantization.quantized import Quantized


class FloatPart:
    """Tells where variants may begin, and keeps what their data are there.

    Args:
        activations: where the values are kept.
        data_digest: digest of inputs.
        weight_digest: digest of a weight.
    """

    def __init__(
        self,
        activations: ActivationCache,
        data_digest: Callable[[Any], str],
        weight_digest: Callable[[np.ndarray], str],
    ) -> None:
        self._activations, self._data_digest, self._weight_digest = activations, data_digest, weight_digest

    def start(
        self,
        structure: Structure,
        quantized: Quantized,
        baked: Graph,
        x: Any,
        batch_size: int,
        *,
        eager: bool = False,
        pad: bool = False,
    ) -> tuple[int, Iterable[Any]]:
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

    def _kept(
        self,
        structure: Structure,
        begin: int,
        digests: dict[str, str],
        x: Any,
        batch_size: int,
        eager: bool,
        pad: bool,
    ) -> list[Any] | None:
        key = ("float part", self._data_digest(x), batch_size, eager, pad, *digests.values())
        if self._activations.get(key) is None:
            run = (structure.eagerly if eager else structure.evaluator)(0, begin)
            source = in_size(batches(x, batch_size=batch_size), structure.graph, pad=pad)
            made = [run(batch) for batch in source]
            if any(mask_of(value) is not None for value in made[0].values()):
                return None
            self._activations.put(key, [{d: batch[name] for name, d in digests.items()} for batch in made])
        kept = self._activations.get(key)
        return kept and [{name: batch[d] for name, d in digests.items()} for batch in kept]

    def _digests(self, quantized: Quantized, begin: int, graph: Graph) -> dict[str, str]:
        """What each value in front of a node is made of, by its name."""
        found = value_digests(graph, dict.fromkeys(quantized.rows, "quantized"), self._weight_digest)
        return {f"v{v}": found[v] for v in crossing_values(graph, begin)}

    def _worth(self, graph: Graph, begin: int, x: Any) -> bool:
        """Whether layers with weights lie before a node, and the values there fit into half of the memory."""
        weighted = any(graph.layers[n.layer].weights for n in graph.nodes[:begin])
        numbers = numbers_at(graph, begin)
        return weighted and numbers is not None and 8 * len(leaves(x)[0]) * numbers <= self._activations.limit


def float_nodes(quantized: Quantized) -> int:
    """How many nodes at the start of a quantized graph compute what the user's model computes."""
    layers = {r.layer for r in (*quantized.plan.quantized, *quantized.plan.typed) if r.is_weight}
    inserted = {*quantized.rows, *rounding_rows(quantized.graph, quantized.plan)}
    changed = layers | inserted
    return next((i for i, n in enumerate(quantized.graph.nodes) if n.layer in changed), len(quantized.graph.nodes))


class Noise:
    """Float twins of structures, kept from one variant to the next.

    Args:
        float_part: tells where a variant begins.
    """

    def __init__(self, float_part: FloatPart) -> None:
        self._float_part = float_part
        self._twins: dict[int, tuple[Structure, Mapping[str, Any]]] = {}

    def sqnr(self, structure: Structure, baked: Graph, quantized: Quantized, x: Any, batch_size: int) -> Any:
        """What `vqkit.sqnr` gives.

        Args:
            structure: holds the quantized variant.
            baked: its graph, with the weights that the structure holds.
            quantized: the variant.
            x: inputs, shape (n, …).
            batch_size: samples at once.
        """
        begin, source = self._float_part.start(structure, quantized, baked, x, batch_size)
        sides, names = self._sides(structure, quantized), {fq: fq for fq in quantized.rows}

        def make() -> tuple[Graph, Any]:
            part = part_of(structure.graph, begin, None)
            return part, lambda inputs: energies(compared(part, names, sides, inputs))

        power = summed(structure.function(("noise", begin, *names), make), source)
        rows = quantized.rows
        return noise_table(quantized, {rows[k].name if k in rows else k: v for k, v in power.items()})

    def tensor_values(
        self, structure: Structure, baked: Graph, quantized: Quantized, x: Any, names: Sequence[str]
    ) -> dict[str, Pair]:
        """What `vqkit.tensor_values` gives.

        Args:
            structure: holds the quantized variant.
            baked: its graph, with the weights that the structure holds.
            quantized: the variant.
            x: one batch of inputs, shape (n, …).
            names: plan row names.
        """
        if size_of(structure.graph) is not None:
            return tensor_values(quantized, x, names, self._sides(structure, quantized), structure.graph)
        begin, source = self._float_part.start(structure, quantized, baked, x, len(leaves(x)[0]), eager=True)
        part = part_of(structure.graph, begin, None)
        return tensor_values(quantized, next(iter(source)), names, self._sides(structure, quantized), part)

    def _sides(self, structure: Structure, quantized: Quantized) -> Sides:
        """Live layers of the float twin, holding this variant's float weights, and of the quantized side."""
        twin, live = self._twin(structure, quantized)
        twin.load(quantized.graph)
        return live, structure.live

    def _twin(self, structure: Structure, quantized: Quantized) -> tuple[Structure, Mapping[str, Any]]:
        if id(structure) not in self._twins:
            twin = Structure(structure.graph)
            rounding = rounding_rows(quantized.graph, quantized.plan)
            self._twins[id(structure)] = twin, passing_through(twin.live, quantized.rows, rounding)
        return self._twins[id(structure)]
