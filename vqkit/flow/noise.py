"""Noise figures on a bench: float and quantized graph are compared by one compiled function a structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vqkit.flow.data import leaves
from vqkit.flow.fixed_size import size_of
from vqkit.flow.float_part import FloatPart
from vqkit.flow.instrument import passing_through, rounding_rows
from vqkit.flow.ptq import Quantized
from vqkit.flow.quality import Pair, Sides, compared, energies, noise_table, summed, tensor_values
from vqkit.flow.structure import Structure, part_of
from vqkit.graph.ir import Graph


class Noise:
    """Float twins of structures, kept from one variant to the next.

    Args:
        float_part: tells where a variant begins.
    """

    def __init__(self, float_part: FloatPart) -> None:
        self._float_part = float_part
        self._twins: dict[int, tuple[Structure, Mapping[str, Any]]] = {}

    def sqnr(self, structure: Structure, baked: Graph, quantized: Quantized, x: Any,
             batch_size: int) -> Any:  # fmt: skip
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

    def tensor_values(self, structure: Structure, baked: Graph, quantized: Quantized, x: Any,
                      names: Sequence[str]) -> dict[str, Pair]:  # fmt: skip
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
