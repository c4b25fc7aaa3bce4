"""From noise to causes: what is wrong with one tensor, or with all tensors of a role, and the repairs that follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vqkit.evaluation.noise import tensor_values
from vqkit.graph.ir import Graph
from vqkit.graph.passes.match import activation_name
from vqkit.primitives.qparams import QParams
from vqkit.quantization.data import map_inputs
from vqkit.quantization.layer_kinds import KEEPS_GRID
from vqkit.quantization.plan import QuantizedRow, Role
from vqkit.quantization.prepare import PreparedModel
from vqkit.quantization.quantized import Quantized
from vqkit.quantization.refine.outside import ends
from vqkit.search.diagnosis.causes import Cause, Kind, Values, channel_axis, everywhere, reach, said
from vqkit.search.diagnosis.repairs import Repair, for_role, for_tensor
from vqkit.search.diagnosis.tensors import (
    Alternative,
    Contribution,
    Tried,
    by_role,
    explanation,
    is_narrow,
    moved_range,
    suspects,
)
from vqkit.search.questions import units

SHOWN = 32
"""Calibration samples of which values are looked at."""
COARSE = 0.5
"""A step of this many nats in front of a softmax is a coarse one."""
CREST = 30.0
"""A tensor has outliers whose largest magnitude is so many times the median one; normal values have 6."""
DEAD = 1e-5
"""A channel gives the same for every sample that varies less than this share of what others vary."""


def softmax_behind(graph: Graph, value: int) -> str:
    """Name of the softmax that reads a value, perhaps behind layers that only move values; "" where none does."""
    for node in graph.consumers()[value]:
        kind = graph.kind(node)
        if kind == "Softmax" or (kind == "Activation" and activation_name(graph.layer_of(node)) == "softmax"):
            return node.name
        if kind in KEEPS_GRID and (found := softmax_behind(graph, node.output)):
            return found
    return ""


def crest(values: Values, axis: int) -> float:
    """Largest magnitude by the median one that is not zero, the median over channels.

    Args:
        values: any shape.
        axis: of the channels.
    """
    channels = np.moveaxis(np.abs(np.asarray(values, np.float64)), axis, 0)
    own = [c.max() / np.median(c[c > 0]) for c in channels.reshape(len(channels), -1) if c.any()]
    return float(np.median(own)) if own else 1.0


@dataclass(frozen=True, eq=False)
class Candidate:
    """What may be the cause, and the repairs that would show it.

    Attributes:
        cause: what is wrong.
        repairs: not yet measured, the one that follows from the cause first.
    """

    cause: Cause
    repairs: tuple[Repair, ...]


class Candidates:
    """Finds the causes in what tensors do alone.

    Args:
        prepared: the model, under the strategy.
        made: quantized with it.
        x: calibration inputs.
        found: the tensors by noise.
        answers: name of a tensor -> alternative -> what it does.
    """

    def __init__(
        self,
        prepared: PreparedModel,
        made: Quantized,
        x: Any,
        found: Sequence[Contribution],
        answers: Mapping[str, Mapping[Alternative, Tried]],
    ) -> None:
        self._prepared, self._made, self._found, self._answers = prepared, made, found, answers
        self._few = map_inputs(lambda a, _: a[:SHOWN], x)
        self._behind = {u.weights: u.activation for u in units(prepared) if u.weights}

    def __iter__(self) -> Iterator[Candidate]:
        """Single tensors first, then roles."""
        for one in suspects(self._found):
            helping = self._explained(one)
            if helping is not None:
                yield self._of_tensor(one, helping)
        for role, some in by_role(self._found).items():
            if len(some) > 1:
                yield from self._of_role(role, some)

    def _explained(self, one: Contribution) -> Alternative | None:
        tries = self._answers.get(one.row.name, {})
        narrow = is_narrow(one.row, self._prepared.plan)
        return explanation(one.noise, {a: t.noise for a, t in tries.items()}, narrow)

    def _of_tensor(self, one: Contribution, helping: Alternative) -> Candidate:
        row = one.row
        tries = self._answers[row.name]
        own, better = self._made.encodings[row.name], tries[helping].params
        cause = self._cause(one, self._kind(row, helping, own, better), own, better)
        wider = [a for a in tries if a.wider]
        repairs = [for_tensor(row, a) for a in dict.fromkeys([helping, *wider])]
        return Candidate(cause, tuple(r for r in repairs if r is not None))

    def _kind(self, row: QuantizedRow, helping: Alternative, own: QParams, better: QParams) -> Kind:
        kind = helping.kind or moved_range(own, better)
        step = float(np.max(ends(own)[2]))
        if row.value is not None and step > COARSE and softmax_behind(self._prepared.graph, row.value):
            return Kind.SOFTMAX
        if kind is Kind.SPREAD and self._is_dead(row):
            return Kind.DEAD
        if kind is Kind.BITS and not is_narrow(row, self._prepared.plan):
            values = self._values(row)
            return Kind.OUTLIER if crest(values, channel_axis(row, values)) > CREST else kind
        return kind

    def _values(self, row: QuantizedRow) -> np.ndarray:
        if row.is_weight:
            return np.asarray(self._prepared.graph.layers[row.layer].weights[row.tensor])
        return np.asarray(tensor_values(self._made, self._few, [row.name])[row.name][0])

    def _is_dead(self, row: QuantizedRow) -> bool:
        """Whether the channel that sets the scale gives the same for every sample."""
        values = self._values(row)
        widest = int(reach(values, channel_axis(row, values)).argmax())
        name = row.name if not row.is_weight else f"{self._behind.get(row.layer)}/output"
        known = {r.name for r in self._prepared.plan.quantized if not r.is_weight}
        if name not in known:
            return False
        given = tensor_values(self._made, self._few, [name])[name][0]
        varied = np.asarray(given, np.float64).reshape(-1, given.shape[-1]).std(axis=0)
        return widest < varied.size and bool(varied[widest] <= DEAD * np.median(varied))

    def _cause(self, one: Contribution, kind: Kind, own: QParams, better: QParams | None) -> Cause:
        values = self._values(one.row)
        note = ""
        if kind is Kind.SOFTMAX:
            assert one.row.value is not None
            note = softmax_behind(self._prepared.graph, one.row.value)
        sentence = said(kind, one.row, values, own, better, note)
        return Cause(kind, one.row.name, sentence, False, one.share, one.row, values, own)

    def _of_role(self, role: Role, some: Sequence[Contribution]) -> Iterator[Candidate]:
        """What is wrong with most of a role's noise, if one change takes it away."""
        asked = [c for c in some if c.row.name in self._answers]
        words = {a.words: a for c in asked for a in self._answers[c.row.name]}
        own = sum(c.noise for c in asked)

        def left(a: Alternative) -> float:
            return sum(self._noise(c, a.words) for c in asked)

        helping = explanation(own, {a: left(a) for a in words.values()})
        if helping is None:
            return
        worst = max(asked, key=lambda c: c.noise - self._noise(c, helping.words))
        mine = next(a for a in self._answers[worst.row.name] if a.words == helping.words)
        grid, better = self._made.encodings[worst.row.name], self._answers[worst.row.name][mine].params
        cause = self._cause(worst, self._kind(worst.row, mine, grid, better), grid, better)
        count = sum(r.role is role for r in self._prepared.plan.quantized)
        sentence = everywhere(cause.kind, role, count, cause.sentence, helping.words)
        cause = replace(cause, everywhere=True, share=sum(c.share for c in some), sentence=sentence)
        wider = [a for a in words.values() if a.wider]
        repairs = [for_role(role, a) for a in dict.fromkeys([helping, *wider])]
        yield Candidate(cause, tuple(r for r in repairs if r is not None))

    def _noise(self, one: Contribution, words: str) -> float:
        """The noise of a tensor under a change; as it is where the change is none for it."""
        tries = self._answers[one.row.name]
        return next((t.noise for a, t in tries.items() if a.words == words), one.noise)
