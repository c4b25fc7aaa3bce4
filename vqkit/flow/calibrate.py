"""Observe each tensor of a graph batch by batch: facts about data, no decision.

Mode "quantized" observes each tensor on what is already quantized before it, as the reference does;
mode "float" observes the float graph, so that the facts serve any strategy on the same graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vqkit.errors import DataError, not_allowed
from vqkit.flow.kinds import Signs
from vqkit.flow.observers import How, Observed, Watch, exceeds_cache, how, observe, watch
from vqkit.flow.plan import Row
from vqkit.flow.stretches import Player
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import tensors


class Mode(StrEnum):
    """On what the tensors are observed."""

    QUANTIZED = "quantized"
    FLOAT = "float"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Facts about every quantized value.

    Attributes:
        tensors: plan row name -> facts.
        batches: how many batches were seen.
        samples: how many samples were seen.
        mode: on what they were observed.
    """

    tensors: Mapping[str, Observed]
    batches: int
    samples: int
    mode: Mode


def calibrate(graph: Graph, rows: Mapping[str, Row], live: Mapping[str, Any], batches: Iterable[Any], *,
              mode: str = "quantized", vitis_compat: bool = False) -> Calibration:  # fmt: skip
    """Run batches through the graph and observe the value in front of each fake-quantize layer.

    Args:
        graph: with fake-quantize layers inserted.
        rows: fake-quantize layer name -> plan row.
        live: layer name -> live object; its weights are those to calibrate with.
        batches: inputs of the model, each of shape (batch, …).
        mode: "quantized" or "float".
        vitis_compat: observe as the reference does.

    Returns:
        The facts.

    Raises:
        DataError: there was no batch, or the mode is unknown.
    """
    if mode not in set(Mode):
        raise DataError(not_allowed("calibration", mode, [m.value for m in Mode]))
    step = Step(graph, rows, live, mode == Mode.QUANTIZED, vitis_compat)
    count = samples = 0
    for batch in batches:
        samples += step(batch)
        count += 1
    if count == 0:
        raise DataError("calibration data: no batch was given; pass at least one")
    return Calibration(step.observed, count, samples, Mode(mode))


class Step:
    """Observes batch after batch, each in one compiled function as far as no histogram is wanted.

    Args:
        graph: with fake-quantize layers inserted.
        rows: fake-quantize layer name -> plan row.
        live: layer name -> live object.
        quantized: whether later layers see quantized values.
        compat: observe as the reference does.
        aside: names of fake-quantize layers that are left to `visit`, like those that want a histogram.
    """

    def __init__(self, graph: Graph, rows: Mapping[str, Row], live: Mapping[str, Any], quantized: bool,
                 compat: bool, aside: Iterable[str] = ()) -> None:  # fmt: skip
        self.graph, self.rows, self.quantized, self.compat = graph, rows, quantized, compat
        self._live, self._aside, self._signs = live, set(aside), Signs(graph)
        self._player: Player | None = None
        self.restart()

    def restart(self) -> None:
        """Forget what was observed; what is compiled stays."""
        self._observed = {row.name: Observed() for row in self.rows.values()}
        self._facts: list[dict[str, Any]] = []
        self._before: dict[str, Any] = {}

    def __call__(self, batch: Any) -> int:
        inputs = tensors(self.graph, batch)
        count = int(next(iter(inputs.values())).shape[0])
        player = self._player = self._player or self._made(count)
        before = self._before or {fq: self._nothing(fq) for fq in player.watched}
        values = {self.graph.inputs[name]: x for name, x in inputs.items()}
        facts = player.run(values, self.visit, before=before, started=bool(self._before))[1]
        self._facts.append(facts)
        self._before = facts
        return count

    @property
    def observed(self) -> dict[str, Observed]:
        """Plan row name -> facts so far."""
        for facts in self._facts:
            for fq, found in facts.items():
                self._observed[self.rows[fq].name].add(found.numpy())
        self._facts = []
        return self._observed

    def visit(self, fq: str, x: Any) -> Any:
        """Observe the value in front of a fake-quantize layer; gives what later layers see."""
        row = self.rows[fq]
        assert row.spec is not None
        return observe(as_float(x), row.spec, self._observed[row.name], self.quantized, self.compat,
                       self._signs.before(fq))  # fmt: skip

    def _made(self, count: int) -> Player:
        chosen = {fq for fq, row in self.rows.items() if self._how(row) is How.HISTOGRAM} | self._aside
        shapes = {fq: self.graph.values[self.graph.node(fq).inputs[0]].shape for fq in self.rows}
        # One function for small and large tensors alike: compiling a second one costs more than it saves.
        large = any(exceeds_cache(shape, count) for shape in shapes.values())
        inside = {fq: self._watch(fq, row, len(shapes[fq]), large)
                  for fq, row in self.rows.items() if fq not in chosen}  # fmt: skip
        return Player(self.graph, self._live, chosen, inside)

    def _how(self, row: Row) -> How:
        assert row.spec is not None
        return how(row.spec, vitis_compat=self.compat)

    def _watch(self, fq: str, row: Row, rank: int, large: bool) -> Watch:
        assert row.spec is not None
        found = watch(row.spec, rank, compat=self.compat, quantized=self.quantized, large=large,
                      nonnegative=self._signs.before(fq))  # fmt: skip
        return lambda x, before, started: found(as_float(x), before, started)

    def _nothing(self, fq: str) -> Any:
        """The facts before the first batch."""
        import tensorflow as tf

        spec = self.rows[fq].spec
        assert spec is not None
        return tf.zeros([3 if spec.pow2 else 2, *self.graph.layers[fq].config["grid_shape"]])


def as_float(x: Any) -> Any:
    """Half precision, and integers that Keras takes for floats, as FakeQuantize sees them."""
    import tensorflow as tf

    return x if x.dtype == tf.float32 else tf.cast(x, tf.float32)
