"""What is trained of a quantized net, unit after unit, and how it stands on the plan's grids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.graph.execute import Partition
from vqkit.graph.ir import Graph
from vqkit.graph.keras_layers import assign_weights
from vqkit.primitives.spec import POS_MAX, POS_MIN
from vqkit.quantization.plan import Plan, QuantizedRow, Role
from vqkit.quantization.refine.block_trainer import BIAS, Arrays, Cell, Loss, UnitTrainer, effective, grid
from vqkit.quantization.refine.fisher import slices
from vqkit.quantization.refine.units import shown
from vqkit.quantization.solve import Encodings, WeightSolver

if TYPE_CHECKING:
    from vqkit.strategy.schema import RefinePipelineConfig

JUDGED = 128
"""Samples by which positions are chosen."""
LOSSES = "losses"


@dataclass(frozen=True, eq=False)
class Samples:
    """What a unit gets from the quantized net and from the float net, and what it should give."""

    quantized: list[Any]
    floats: list[Any]
    targets: list[Any]

    @property
    def n(self) -> int:
        """How many samples."""
        return len(self.quantized[0])

    def take(self, which: Any) -> tuple[list[Any], list[Any], list[Any]]:
        """The three of some samples.

        Args:
            which: a slice, or numbers of samples.
        """
        import tensorflow as tf

        def of(values: list[Any]) -> list[Any]:
            return [x[which] if isinstance(which, slice) else tf.gather(x, which) for x in values]

        return of(self.quantized), of(self.floats), of(self.targets)


@dataclass(eq=False)
class Learner:
    """What has been trained so far, and the quantized net that it is assigned to.

    Attributes:
        graph: with fake-quantize layers inserted.
        rows: fake-quantize layer name -> plan row.
        plan: says which weights are quantized.
        encodings: the decisions; those of trained units are replaced.
        live: live objects of the quantized graph.
        config: the strategy's refine section.
        weights: the graph with float weights; those of trained units are replaced.
        solver: decides and rounds weights.
        loss: judges the outputs of units.
        size: samples at once where nothing is trained.
        step_size: samples in a training step.
    """

    graph: Graph
    rows: Mapping[str, QuantizedRow]
    plan: Plan
    encodings: Encodings
    live: Mapping[str, Any]
    config: RefinePipelineConfig
    weights: Graph
    solver: WeightSolver
    loss: Loss
    size: int
    step_size: int

    def __post_init__(self) -> None:
        calls = self.graph.calls()
        self._of_layer: dict[str, list[QuantizedRow]] = {}
        for row in self.plan.quantized:
            if row.role is Role.WEIGHT and calls[row.layer] == 1:
                self._of_layer.setdefault(row.layer, []).append(row)
        self._start, self._first = self.weights.copy(), dict(self.encodings)
        self._cells: dict[str, Cell] = {}
        self._trained: Arrays = {}
        self._means: Arrays = {}

    def name(self, unit: Partition) -> str:
        """The unit's name for people."""
        return shown(unit, {row.layer for row in self.plan.quantized if row.role is Role.WEIGHT})

    def _kernels(self, unit: Partition) -> list[QuantizedRow]:
        return [row for layer in dict.fromkeys(n.layer for n in unit.nodes) for row in self._of_layer.get(layer, ())]

    def _biases(self, unit: Partition) -> list[str]:
        layers = dict.fromkeys(row.layer for row in self._kernels(unit))
        return [f"{layer}/{BIAS}" for layer in layers if BIAS in self._start.layers[layer].weights]

    def _quantizers(self, unit: Partition) -> dict[str, QuantizedRow]:
        return {n.layer: self.rows[n.layer] for n in unit.nodes if n.layer in self.rows}

    def learn(self, unit: Partition, samples: Samples, tick: Callable[[], Any]) -> Arrays:
        """Train a unit.

        Args:
            unit: what is trained.
            samples: its values.
            tick: called after each step of training.

        Returns:
            What `settle` takes over: trained numbers, means of inputs, chosen positions; and the losses.
        """
        import tensorflow as tf

        kernels, biases, quantizers = self._kernels(unit), self._biases(unit), self._quantizers(unit)
        trainer = UnitTrainer(
            self.graph,
            unit,
            self.live,
            [row.name for row in kernels],
            biases,
            list(quantizers),
            self.loss,
            self.config.block_drop_probability,
        )
        parts = [trainer.run("means", samples.take(part)[0]) for part in slices(samples.n, self.size)]
        self._means.update({k: tf.add_n([p[k] for p in parts]) / len(parts) for k in parts[0]})
        found = self._positions(trainer, unit, samples)
        self._begin(unit)
        trained = {
            k: tf.constant(self._trained[k])
            for k in (*(r.name for r in kernels), *biases, *(q for q in quantizers if q in self._trained))
        }
        before = self._error(trainer, unit, trained, samples)
        rates, steps = self._rates(trained, before), self.config.block_iterations
        zeros = {k: tf.zeros_like(v) for k, v in trained.items()}
        state, fixed = (trained, zeros, zeros, tf.constant(0.0)), self._fixed(unit)
        scale = tf.constant(max(before, 1e-12), tf.float32)
        draw = np.random.default_rng((self.config.block_seed, unit.begin, len(unit.nodes)))
        size = min(self.step_size, samples.n)
        order = np.concatenate([draw.permutation(samples.n) for _ in range(1 + steps * size // samples.n)])
        for step in range(steps):
            slow = 0.5 * (1 + np.cos(np.pi * step / steps))
            some = samples.take(order[step * size : (step + 1) * size])
            now = {k: tf.constant(slow * rate, tf.float32) for k, rate in rates.items()}
            seed = tf.constant([self.config.block_seed, (unit.begin << 16) + 64 * step])
            state = trainer.run("step", state, now, fixed, scale, *some, seed)
            tick()
        after = self._error(trainer, unit, state[0], samples)
        if after < before:
            trained = state[0]
        found |= {k: v.numpy() for k, v in trained.items()}
        layers = {row.layer for row in kernels}
        found |= {f"mean of {k}": np.asarray(v) for k, v in self._means.items() if k in layers}
        return found | {LOSSES: np.array([before, min(before, after)])}

    def _rates(self, trained: Arrays, before: float) -> dict[str, float]:
        """Learning rates: in steps of a weight's grid, in errors of the output, in logarithms of a factor."""
        config = self.config
        rates = dict.fromkeys(trained, config.block_step_rate) | dict.fromkeys(self._cells, config.block_rounding_rate)
        error = float(np.sqrt(before))
        rates |= {k: config.block_bias_rate * error for k in trained if k.endswith(f"/{BIAS}")}
        return {k: rates[k] for k in trained}

    def _begin(self, unit: Partition) -> None:
        """Trained numbers that leave a unit as it is."""
        for row in self._kernels(unit):
            weight = self._start.layers[row.layer].weights[row.tensor]
            self._cells[row.name] = Cell.of(weight, self._first[row.name])
            self._trained[row.name] = self._cells[row.name].start(weight)
        for name in self._biases(unit):
            self._trained[name] = self._start.layers[name.partition("/")[0]].weights[BIAS]
        for fq, row in self._quantizers(unit).items():
            if not row.spec.pow2:
                self._trained[fq] = np.zeros_like(self._first[row.name].scale)

    def _fixed(self, unit: Partition) -> Any:
        import tensorflow as tf

        cells = {r.name: self._cells[r.name] for r in self._kernels(unit)}
        grids = {fq: grid(self._first[row.name]) for fq, row in self._quantizers(unit).items()}
        means = {k: self._means[k] for k in dict.fromkeys(r.layer for r in self._kernels(unit)) if k in self._means}
        numbers = {k: (c.low, c.width, c.near) for k, c in cells.items()}, grids, means
        return tf.nest.map_structure(lambda x: tf.convert_to_tensor(x, tf.float32), numbers)

    def _error(self, trainer: UnitTrainer, unit: Partition, trained: Arrays, samples: Samples) -> float:
        total, fixed = 0.0, self._fixed(unit)
        for part in slices(samples.n, self.size):
            inputs, _, targets = samples.take(part)
            total += (part.stop - part.start) * float(trainer.run("error", trained, fixed, inputs, targets))
        return total / samples.n

    def _positions(self, trainer: UnitTrainer, unit: Partition, samples: Samples) -> Arrays:
        """Choose the positions of a unit's power-of-two scales, one after the other, each among its neighbours."""
        import tensorflow as tf

        rows = [r for r in (*self._quantizers(unit).values(), *self._kernels(unit)) if r.spec.pow2]
        some, found = Samples(*samples.take(slice(0, min(samples.n, JUDGED)))), {}

        def lost() -> float:
            self._begin(unit)
            names = (*(r.name for r in self._kernels(unit)), *self._biases(unit), *self._quantizers(unit))
            trained = {k: tf.constant(self._trained[k]) for k in names if k in self._trained}
            return self._error(trainer, unit, trained, some)

        best = lost() if rows else 0.0
        for row in rows:
            kept = self._first[row.name]
            for move in (-1, 1):
                tried = replace(kept, pos=np.clip(np.asarray(kept.pos, np.float32) + move, POS_MIN, POS_MAX))
                self._first[row.name], before = tried, self._first[row.name]
                loss = lost()
                if loss < best:
                    best = loss
                    found[f"position of {row.name}"] = tried.pos
                else:
                    self._first[row.name] = before
        return found

    def settle(self, unit: Partition, found: Arrays) -> None:
        """Take over what was learned: weights, biases and decisions, in the live layers too.

        Args:
            unit: what was trained.
            found: from `learn`.
        """
        rows = [*self._quantizers(unit).values(), *self._kernels(unit)]
        for row in rows:
            pos = found.get(f"position of {row.name}")
            if pos is not None:
                self.encodings[row.name] = self._first[row.name] = replace(self._first[row.name], pos=pos)
        self._means |= {k.removeprefix("mean of "): v for k, v in found.items() if k.startswith("mean of ")}
        self._begin(unit)
        self._trained |= {k: found[k] for k in self._trained if k in found}
        for fq, row in self._quantizers(unit).items():
            first = self._first[row.name]
            if fq in found:
                factor = np.exp(found[fq])
                self.encodings[row.name] = replace(first, f_min=first.f_min * factor, f_max=first.f_max * factor)
            self.live[fq].assign(self.encodings[row.name])
        self._assign(unit)

    def _assign(self, unit: Partition) -> None:
        kernels, biases = self._kernels(unit), self._biases(unit)
        shown_by = effective(self.graph, [r.name for r in kernels], biases, self._trained, self._fixed(unit))
        for row in kernels:
            layer = self.weights.layers[row.layer]
            first = self._start.layers[row.layer].weights[row.tensor]
            new = {row.tensor: self._cells[row.name].rounded(first, self._trained[row.name])}
            if f"{row.layer}/{BIAS}" in shown_by:
                new[BIAS] = np.asarray(shown_by[f"{row.layer}/{BIAS}"])
            self.weights.layers[row.layer] = layer.with_(weights={**layer.weights, **new})
        trained = {row.layer for row in kernels}
        part = replace(self.plan, rows=tuple(r for r in self.plan.rows if r.layer in trained))
        self.encodings |= self.solver.solve(self.weights, part, False, roles=(Role.BIAS,))
        baked = self.solver.bake(self.weights, self.encodings, part)
        for name in trained:
            assign_weights(self.live[name], baked.layers[name].weights)
