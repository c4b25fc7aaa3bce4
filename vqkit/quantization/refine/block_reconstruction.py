"""Block reconstruction: each block of a net trained to give the float block's output again.

Unit after unit in graph order (`units`), without labels: the rounding of its weights, its biases and the steps of
its activations are trained together (`block_trainer`), fed with what the quantized net in front of it computes,
against the float unit's output: Li et al. 2021, BRECQ (arXiv:2102.05426) §3. Each element of that output counts by
the Fisher information of the net's answer about it: the mean square of its gradient, from one backward pass of
the float net, with answers drawn from its own probabilities. Class scores are judged by the divergence of their
probabilities instead.

Power-of-two scales have no step to train: their positions are chosen first, each among its neighbours, by the
same loss.

What comes out stands on the grid of the plan: float weights that round to the trained codes, biases, ranges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit import digest
from vqkit.files import DiskCache
from vqkit.graph.copies import make_all_live
from vqkit.graph.execute import Partition
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import replay, tensors
from vqkit.graph.passes.decompose import masked_values
from vqkit.primitives.native import traced_here
from vqkit.quantization.float_model import size_of
from vqkit.quantization.plan import Plan, QuantizedRow
from vqkit.quantization.prepare import passing_through, rounding_rows
from vqkit.quantization.refine.block_learner import LOSSES, Learner, Samples
from vqkit.quantization.refine.block_trainer import Arrays, Loss
from vqkit.quantization.refine.fisher import before_softmax, fisher, free_batch, slices
from vqkit.quantization.refine.units import find_units
from vqkit.quantization.solve import Encodings, WeightSolver

if TYPE_CHECKING:
    from vqkit.strategy.schema import RefinePipelineConfig

KEY = "include_block_reconstruction"


@dataclass(frozen=True, eq=False)
class Reconstructed:
    """The outcome.

    Attributes:
        graph: the given graph with trained float weights.
        encodings: the decisions, those of trained activations, positions and biases replaced.
        report: a line for each unit.
    """

    graph: Graph
    encodings: Encodings
    report: tuple[str, ...]


def reconstruct(
    graph: Graph,
    rows: Mapping[str, QuantizedRow],
    plan: Plan,
    encodings: Encodings,
    live: Mapping[str, Any],
    batches: Iterable[Any],
    config: RefinePipelineConfig,
    *,
    weights: Graph,
    solver: WeightSolver,
    cache: DiskCache | None = None,
    progress: bool = False,
) -> Reconstructed:
    """Train every unit of a quantized model.

    Cost: for each unit the configured number of training steps through it. Memory: for all samples the values at
    one place of the graph, twice, and one unit's target.

    Args:
        graph: float weights, with fake-quantize layers inserted.
        rows: fake-quantize layer name -> plan row.
        plan: says which weights are quantized.
        encodings: the decisions to start from.
        live: live objects of the quantized model, decisions applied; what is trained is assigned to them.
        batches: calibration inputs; what is not training is computed for as many samples at once as the first has.
        config: the strategy's refine section.
        weights: the graph with the weights that `live` was quantized from.
        solver: decides and rounds weights.
        cache: where each unit's outcome is kept, so that a run that was killed goes on with the next one.
        progress: show a progress bar over the training steps.

    Returns:
        Weights, decisions and an account.
    """
    from tqdm.auto import tqdm

    units = find_units(graph, plan)
    if not units:
        return Reconstructed(weights, encodings, (f"{KEY}: no layer has quantized weights",))
    if masked_values(graph).intersection(v for unit in units for v in unit.reads):
        return Reconstructed(weights, encodings, (f"{KEY}: left out, as masks of Keras go from block to block",))
    floats = passing_through(make_all_live(graph), rows, rounding_rows(graph, plan))
    data, size = _samples(graph, batches, config.block_images)
    known = fisher(graph, floats, data, units, size, config.block_seed) if config.block_loss == "fisher" else {}
    loss = Loss(known, frozenset(v for v in units[-1].writes if before_softmax(graph, v)))
    kept = _Kept(cache, weights, plan, encodings, config, data, size)
    sizes = size, size_of(graph) or config.block_batch_size
    work = Learner(graph, rows, plan, dict(encodings), live, config, weights.copy(), solver, loss, *sizes)
    teacher, student = _Side(floats, dict(data), size), _Side(live, dict(data), size)
    report, total = [], len(units) * config.block_iterations
    with tqdm(total=total, desc="reconstructing", unit="step", disable=not progress) as bar:
        for number, unit in enumerate(units):
            quantized, inputs = student.of(unit.reads), teacher.of(unit.reads)
            teacher.advance(unit)
            samples = Samples(quantized, inputs, teacher.of(unit.writes))
            found = kept.get(number)
            if found is None:
                found = kept.keep(number, work.learn(unit, samples, bar.update))
            else:
                bar.update(config.block_iterations)
            work.settle(unit, found)
            student.advance(unit)
            report.append(f"{KEY}: {work.name(unit)} {_words(found)}")
    return Reconstructed(work.weights, work.encodings, tuple(report))


def _words(found: Arrays) -> str:
    before, after = found[LOSSES]
    return f"loss {before:.4g} -> {after:.4g}"


def _samples(graph: Graph, batches: Iterable[Any], most: int) -> tuple[dict[int, Any], int]:
    """Value id of each input -> at most so many samples, in whole batches; and how many a batch has."""
    import tensorflow as tf

    found: dict[int, list[Any]] = {v: [] for v in graph.inputs.values()}
    sizes: list[int] = []
    for batch in batches:
        if sizes and sum(sizes) >= most:
            break
        named = tensors(graph, batch)
        for name, x in named.items():
            found[graph.inputs[name]].append(x)
        sizes.append(len(next(iter(named.values()))))
    return {v: tf.concat(parts, 0) for v, parts in found.items()}, sizes[0]


class _Side:
    """The values of all samples at the place where one of two graphs stands."""

    def __init__(self, live: Mapping[str, Any], values: dict[int, Any], size: int) -> None:
        self._live, self._values, self._size = live, values, size

    def of(self, ids: Sequence[int]) -> list[Any]:
        """Values by id, each of shape (samples, …)."""
        return [self._values[v] for v in ids]

    def advance(self, unit: Partition) -> None:
        """Compute a unit for every sample; forget what only it read."""
        import tensorflow as tf

        given, inside = self.of(unit.reads), unit.graph

        def compute(*x: Any) -> Any:
            return replay(inside, self._live, dict(zip(inside.inputs, x, strict=True)))

        run = traced_here(compute, [free_batch(x) for x in given])
        made = [run(*(x[part] for x in given)) for part in slices(len(given[0]), self._size)]
        self._values.update((v, tf.concat([m[i] for m in made], 0)) for i, v in enumerate(unit.writes))
        for v in unit.done:
            del self._values[v]


class _Kept:
    """Outcomes of units on disk, addressed by all that they depend on."""

    def __init__(self, cache: DiskCache | None, *given: Any) -> None:
        weights, plan, encodings, config, data, size = given
        self._cache = cache or DiskCache(None)
        self._key = ""
        if self._cache.folder is not None:
            arrays = {f"{name}/{k}": w for name, layer in weights.layers.items() for k, w in layer.weights.items()}
            inputs = {str(v): np.asarray(x) for v, x in data.items()}
            decided = {name: params.to_json() for name, params in encodings.items()}
            parts = [plan.to_json(), decided, config.model_dump(mode="json"), size, digest.code_digest()]
            self._key = digest.of_json([digest.of_arrays(arrays), digest.of_arrays(inputs), *parts])

    def get(self, number: int) -> Arrays | None:
        """What was learned of a unit before; None where that is not known."""
        return self._cache.arrays(self._name(number))

    def keep(self, number: int, found: Arrays) -> Arrays:
        """Keep what was learned of a unit, and give it back."""
        self._cache.keep_arrays(self._name(number), found)
        return found

    def _name(self, number: int) -> str:
        return f"{self._key}-{number}.npz"
