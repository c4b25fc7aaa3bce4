"""Noise figures on a bench: float and quantized graph are compared by one compiled function a structure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vqkit.flow.instrument import passing_through, rounding_rows
from vqkit.flow.layers import FakeQuantize
from vqkit.flow.observers import rounding_only
from vqkit.flow.ptq import Quantized
from vqkit.flow.quality import Sides, compared, energies, noise_table, summed
from vqkit.flow.structure import Structure


class Noise:
    """Float twins of structures, kept from one variant to the next."""

    def __init__(self) -> None:
        self._twins: dict[int, tuple[Structure, Mapping[str, Any]]] = {}

    def sqnr(self, structure: Structure, quantized: Quantized, x: Any, batch_size: int) -> Any:
        """What `vqkit.sqnr` gives.

        Args:
            structure: holds the quantized variant.
            quantized: the variant.
            x: inputs, shape (n, …).
            batch_size: samples at once.
        """
        sides = self.sides(structure, quantized)
        names = {fq: fq for fq in quantized.rows}

        def both(inputs: Mapping[str, Any]) -> dict[str, Any]:
            return energies(compared(structure.graph, names, sides, inputs))

        rounding = tuple(
            repr(rounding_only(layer.spec))
            for layer in structure.live.values()
            if isinstance(layer, FakeQuantize)
        )
        power = summed(structure.function(("noise", *names, rounding), both), x, batch_size)
        rows = quantized.rows
        return noise_table(quantized, {rows[k].name if k in rows else k: v for k, v in power.items()})

    def sides(self, structure: Structure, quantized: Quantized) -> Sides:
        """Live layers of the float twin, holding this variant's float weights, and of the quantized side.

        Args:
            structure: holds the quantized variant.
            quantized: the variant.
        """
        twin, live = self._twin(structure, quantized)
        twin.load(quantized.graph)
        return live, structure.live

    def _twin(self, structure: Structure, quantized: Quantized) -> tuple[Structure, Mapping[str, Any]]:
        if id(structure) not in self._twins:
            twin = Structure(structure.graph)
            rounding = rounding_rows(quantized.graph, quantized.plan)
            self._twins[id(structure)] = twin, passing_through(twin.live, quantized.rows, rounding)
        return self._twins[id(structure)]
