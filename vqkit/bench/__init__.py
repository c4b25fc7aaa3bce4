"""One float model, its data, and many strategies: what variants share is computed once.

`Bench.quantize` and `Bench.evaluate` give exactly what `vqkit.quantize` and `vqkit.evaluate` give. The bench
remembers the graphs that the passes make, decided and rounded weights, live layers and compiled functions
(one for each structure, whatever the numbers), and the float model's outputs, on disk in a given folder.
Observations are remembered by the content of the data: other data, or arrays changed in place, are noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.bench.cache import ActivationCache, Digests, OutputCache, StatisticsCache, graph_digest, value_digests
from vqkit.bench.calibration import CalibrationRequest, SharedCalibration, passing
from vqkit.bench.evaluation import FloatPart, Noise
from vqkit.bench.structure import Structure, structure_key
from vqkit.evaluation import Evaluation, asking, judged, judges_for, known_answers, predict, scored
from vqkit.evaluation.compiled import compiled_of
from vqkit.evaluation.metric import Asked, EvaluationData
from vqkit.evaluation.noise import Pair
from vqkit.evaluation.tasks import Judge
from vqkit.files import DiskCache
from vqkit.graph.copies import LiveGraph
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import lower
from vqkit.graph.keras_layers import has_custom
from vqkit.quantization.calibrate import Calibration, Mode
from vqkit.quantization.data import EVAL_BATCH, Data, batches, leaves
from vqkit.quantization.float_model import SAMPLES, check_float, in_size, size_of, whole
from vqkit.quantization.plan import Plan, QuantizedRow
from vqkit.quantization.prepare import (
    Graphs,
    PreparedModel,
    as_strategy,
    graphs,
    graphs_key,
    instrument,
    planned,
    rounding_rows,
)
from vqkit.quantization.ptq import assemble, with_progress
from vqkit.quantization.quantized import Quantized, audit
from vqkit.quantization.refine.pipeline import CalibrationBatches
from vqkit.quantization.solve import WeightMemory, WeightSolver
from vqkit.strategy import Strategy

if TYPE_CHECKING:
    import keras

KEPT_PLANS = 128


class Bench:
    """Quantizes and evaluates many variants of one model on the same data.

    Args:
        model: a built functional or Sequential Keras model; it is not changed.
        data: calibration and evaluation samples.
        cache: folder for what is worth keeping between processes: outputs of the float model, and what
            calibration observes of it. None keeps nothing on disk, nor is anything kept of a model with the
            user's own layers.
        memory_limit: bytes that remembered activations may take.
        metrics: what `vqkit.evaluate` takes, the deciding one first; those of the task by default, of which a
            classifier keeps top-1 accuracy alone.

    Raises:
        ModelError: the model cannot be read.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten()])
        >>> images, labels = np.ones((8, 8, 8, 3), "float32"), np.zeros(8, int)
        >>> bench = vqkit.Bench(model, vqkit.Data("ones", images, images, labels))
        >>> [bench.quantize(name).strategy.name for name in ("pof2s", "fsx")]
        ['pof2s', 'fsx']
    """

    def __init__(
        self,
        model: keras.Model,
        data: Data,
        *,
        cache: str | Path | None = None,
        memory_limit: int = 1 << 30,
        metrics: Sequence[Any] | None = None,
    ) -> None:
        self._metrics = metrics
        self.model, self.data, self.memory_limit = model, data, memory_limit
        self._lowered = lower(model)
        self._weights, self._activations = WeightMemory(), ActivationCache(memory_limit)
        # No digest covers what a user's own layer does.
        self._cache = None if has_custom(self._lowered) else cache
        self._facts = SharedCalibration(self._activations, StatisticsCache(self._cache))
        self._digests = Digests()
        self._float_part = FloatPart(self._activations, self._digests.of, self._weights.digest)
        self._noise = Noise(self._float_part)
        self._graphs: dict[str, Graphs] = {}
        self._plans: dict[tuple[str, bool], PreparedModel] = {}
        self._structures: dict[str, Structure] = {}
        self._model_digest = graph_digest(self._lowered)
        self._outputs: dict[str, OutputCache] = {}
        self._checked: list[str] | None = None

    @property
    def traces(self) -> dict[tuple[Any, ...], int]:
        """(structure, function) -> how often it was traced; always 1."""
        found = ((key, s) for key, s in self._structures.items())
        return {(key, *what): n for key, s in found for what, n in s.traces.items()}

    def quantize(
        self,
        strategy: Strategy,
        *,
        batch_size: int = 32,
        steps: int | None = None,
        calibration: str = "quantized",
        vitis_compat: bool = False,
        progress: bool = False,
    ) -> Quantized:
        """Quantize the model, as `vqkit.quantize` does with the calibration data and their labels; no file.

        Args:
            strategy: a `Strategy`, or the name or path of one.
            batch_size: samples in a calibration batch.
            steps: number of batches; all by default.
            calibration: "quantized" or "float".
            vitis_compat: reproduce the reference's mistakes as well.
            progress: show a progress bar over the calibration batches.

        Returns:
            The quantized model, audited; later calls do not change it. Its `model` is built when asked for.

        Raises:
            StrategyError: the strategy does not fit the model.
            DataError: the calibration data are unusable.
            AuditError: what was requested was not applied.
        """
        work = _Remembered(self, {"batch_size": batch_size, "steps": steps}, progress)
        known = self.data.y_calib
        labels = known if known is None or steps is None else known[: steps * batch_size]
        result, live = assemble(
            work,
            as_strategy(strategy),
            calibration=calibration,
            vitis_compat=vitis_compat,
            labels=whole(labels, self._lowered),
        )
        audit(result, live.live)
        return result

    def plan(self, strategy: Strategy | str | Path, *, vitis_compat: bool = False) -> Plan:
        """What a strategy does to each tensor, as `vqkit.make_plan` says it; `quantize` goes by the same plan.

        Args:
            strategy: a `Strategy`, or the name or path of one.
            vitis_compat: as the reference would do.

        Raises:
            StrategyError: the strategy does not fit the model.
        """
        return _Remembered(self, {}, False).prepare(as_strategy(strategy), vitis_compat).plan

    def observe(
        self,
        strategies: Iterable[Any],
        *,
        batch_size: int = 32,
        steps: int | None = None,
        vitis_compat: bool = False,
        progress: bool = False,
    ) -> None:
        """Observe at once what `quantize` will want to know of the float model for several strategies.

        One pass over the calibration data serves all methods and bit widths on the same prepared graph; the
        strategies' `calibration="float"` then costs next to nothing, and its numbers are the same.

        Args:
            strategies: `Strategy` objects, or names or paths of some.
            batch_size: as in the calls of `quantize` to come.
            steps: likewise.
            vitis_compat: likewise.
            progress: show a progress bar over the batches of each pass.

        Raises:
            StrategyError: a strategy does not fit the model.
            DataError: the calibration data are unusable.
        """
        cut = {"batch_size": batch_size, "steps": steps}
        for requests in self._alike(strategies, cut, vitis_compat):
            self._facts.observe(requests, with_progress(_Again(self, cut), progress))

    def _alike(
        self, strategies: Iterable[Any], cut: dict[str, Any], compat: bool
    ) -> Iterator[list[CalibrationRequest]]:
        """What is to be observed on each prepared graph, whose weights are loaded."""
        alike: dict[str, list[Any]] = {}
        for strategy in map(as_strategy, strategies):
            alike.setdefault(graphs_key(strategy, compat), []).append(strategy)
        for some in alike.values():
            # Graphs of other groups may share live layers, so weights are loaded for each group anew.
            yield [_Remembered(self, cut, False).float_request(s, compat) for s in some]

    def evaluate(self, quantized: Quantized, *, metrics: Sequence[Any] | None = None) -> Evaluation:
        """Metrics on the evaluation data, as `vqkit.evaluate` gives them for `quantized.model`.

        Args:
            quantized: from this bench.
            metrics: what `vqkit.evaluate` takes; those of the bench by default.

        Returns:
            The metrics with the predictions.
        """
        structure, baked = self._holding(quantized)
        return self._scored(self._predict(structure, quantized, baked), metrics, lambda x: self._ask(structure, x))

    def audit(self, quantized: Quantized) -> Any:
        """Requested against applied, read from the very layers that `evaluate` runs.

        Args:
            quantized: from this bench.

        Returns:
            The table of `Quantized.audit`.

        Raises:
            AuditError: some tensor is not what the plan says.
        """
        return audit(quantized, self._holding(quantized)[0].live)

    def sqnr(self, quantized: Quantized, x: Any, *, batch_size: int = 50) -> Any:
        """Signal-to-noise ratios, as `vqkit.sqnr` gives them.

        Args:
            quantized: from this bench.
            x: inputs, shape (n, …).
            batch_size: samples at once.

        Returns:
            A pandas table.
        """
        return self._noise.sqnr(*self._holding(quantized), quantized, x, batch_size)

    def tensor_values(self, quantized: Quantized, x: Any, names: Sequence[str]) -> dict[str, Pair]:
        """Float and quantized values of chosen tensors, as `vqkit.tensor_values` gives them.

        Args:
            quantized: from this bench.
            x: one batch of inputs, shape (n, …).
            names: plan row names.

        Returns:
            Name -> (float values, quantized values).

        Raises:
            KeyError: a name is no quantized tensor of the plan.
        """
        return self._noise.tensor_values(*self._holding(quantized), quantized, x, names)

    def float_evaluation(self, *, metrics: Sequence[Any] | None = None) -> Evaluation:
        """Metrics of the float model on the evaluation data; its outputs come from disk where they are known.

        Args:
            metrics: what `vqkit.evaluate` takes; those of the bench by default.

        Returns:
            What `vqkit.evaluate(model, x_eval, y_eval)` gives.
        """
        return self._scored(self._float_outputs(), metrics, asking(self.model))

    @property
    def labels(self) -> Any:
        """Labels of the evaluation data; the float model's outputs where there are none."""
        return self._float_outputs() if self.data.y_eval is None else self.data.y_eval

    def _float_outputs(self) -> Any:
        images = self._digests.of(self.data.x_eval)
        if images not in self._outputs:
            self._outputs = {images: OutputCache(self._cache, self._model_digest, images)}
        return self._outputs[images].get(lambda: predict(self.model, self.data.x_eval))

    def _scored(self, outputs: Any, metrics: Sequence[Any] | None, ask: Callable[[Any], Any]) -> Evaluation:
        data, labels, where = self.data, self.labels, f"{self.data.name}/y_eval"
        asked = known_answers(Asked(ask, EvaluationData(data.x_eval, labels, data.weights_eval)), outputs)
        given: dict[str, Any] = {"weights": data.weights_eval, "asked": asked}
        if metrics is None:
            return replace(judged(outputs, labels, self._judging[0], where, **given), task=self._judging[1])
        return scored(outputs, labels, metrics, where, **given)

    @property
    def judges(self) -> tuple[Judge, ...]:
        """The metrics that variants are judged by, the deciding one first.

        Raises:
            DataError: they cannot judge the model by the labels.
        """
        return self._judging[0]

    @cached_property
    def _judging(self) -> tuple[tuple[Judge, ...], str]:
        return judges_for(self.model, self.data, self._metrics, compiled=compiled_of(self.model))

    def _predict(self, structure: Structure, quantized: Quantized, baked: Graph) -> Any:
        begin, source = self._float_part.start(structure, quantized, baked, self.data.x_eval, EVAL_BATCH, pad=True)
        return _joined(structure.evaluator(begin), source, self.data.n_eval)

    def _ask(self, structure: Structure, x: Any) -> Any:
        """Outputs for other inputs, of the variant that a structure holds."""
        source = in_size(batches(x, batch_size=EVAL_BATCH), structure.graph, pad=True)
        return _joined(structure.evaluator(0), source, len(leaves(x)[0]))

    def _float_checked(self) -> list[str]:
        """Once: that the graph computes what the model computes; lines for the reports."""
        if self._checked is None:
            batch = next(in_size(batches(self.data.x_calib, batch_size=SAMPLES), self._lowered))
            self._checked = check_float(self.model, self._lowered, batch)
        return self._checked

    def _holding(self, quantized: Quantized) -> tuple[Structure, Graph]:
        """A variant's structure with its weights and ranges assigned, and the graph with those weights."""
        baked = self._weights.bake(quantized.corrected, quantized.encodings, quantized.plan)
        structure = self._structure(quantized.graph)
        structure.load(baked)
        structure.apply(quantized.encodings, quantized.rows)
        return structure, baked

    def _structure(self, graph: Graph) -> Structure:
        key = structure_key(graph)
        if key not in self._structures:
            self._structures[key] = Structure(graph)
        return self._structures[key]


def _joined(run: Callable[[Any], Any], source: Iterable[Any], n: int) -> Any:
    from keras import tree

    parts = [tree.map_structure(np.asarray, run(batch)) for batch in source]
    return tree.map_structure(lambda *p: np.concatenate(p)[:n], *parts)


class _Again:
    """Batches that can be read more than once; nothing is held in between."""

    def __init__(self, bench: Bench, cut: dict[str, Any], tell: Callable[[str], None] | None = None) -> None:
        self._bench, self._cut, self._tell = bench, cut, tell

    def __iter__(self) -> Iterator[Any]:
        source = batches(self._bench.data.x_calib, **self._cut)
        return in_size(source, self._bench._lowered, tell=self._tell)


class _Remembered:
    """The steps of one quantization on a bench."""

    def __init__(self, bench: Bench, cut: dict[str, Any], progress: bool) -> None:
        self._bench, self._cut, self.progress = bench, cut, progress
        self.cache = DiskCache(None if bench._cache is None else Path(bench._cache, "blocks"))
        self.weights: WeightSolver = bench._weights
        self._notes: list[str] = []

    def prepare(self, strategy: Strategy, compat: bool) -> PreparedModel:
        plans, name = self._bench._plans, (strategy.digest, compat)
        if name not in plans:
            known, key = self._bench._graphs, graphs_key(strategy, compat)
            if key not in known:
                known[key] = graphs(self._bench._lowered, strategy, vitis_compat=compat)
            while len(plans) >= KEPT_PLANS:
                del plans[next(iter(plans))]
            plans[name] = planned(known[key], strategy, compat)
        return plans[name]

    def live(self, graph: Graph) -> LiveGraph:
        structure = self._bench._structure(graph)
        structure.load(graph)
        return structure

    def notes(self) -> list[str]:
        return [*self._bench._float_checked(), *dict.fromkeys(self._notes)]

    def data(self, again: bool) -> CalibrationBatches:
        self._bench._float_checked()
        return CalibrationBatches(_Again(self._bench, self._cut, self._notes.append), again=again)

    def calibrate(
        self,
        live: LiveGraph,
        rows: Mapping[str, QuantizedRow],
        passed: Iterable[str],
        data: Iterable[Any],
        mode: Mode,
        compat: bool,
    ) -> Calibration:
        request = self._request(live.loaded, rows, passed, mode, compat)
        return self._bench._facts.calibrate(request, with_progress(data, self.progress))

    def float_request(self, strategy: Strategy, compat: bool) -> CalibrationRequest:
        """What `calibrate` would ask for under a strategy in "float" mode."""
        prepared = self.prepare(strategy, compat)
        graph, rows = instrument(prepared.graph, prepared.plan)
        return self._request(self.live(graph).loaded, rows, rounding_rows(graph, prepared.plan), Mode.FLOAT, compat)

    def _request(
        self, graph: Graph, rows: Mapping[str, QuantizedRow], passed: Iterable[str], mode: Mode, compat: bool
    ) -> CalibrationRequest:
        doing = {fq: passing(r.spec, mode, compat) for fq, r in rows.items()}
        tokens = {**doing, **dict.fromkeys(passed, "")}
        digests = value_digests(graph, tokens, self._bench._weights.digest)
        runner = self._bench._structure(graph).runner(rows, passed)
        size = size_of(self._bench._lowered)
        stream = (self._bench._digests.of(self._bench.data.x_calib), size, *self._cut.items())
        return CalibrationRequest(graph, rows, digests, runner, stream, mode == Mode.QUANTIZED, compat)
