"""Threshold search: move one tensor's range at a time and keep what the whole model's output likes best.

Calibration chooses a range by the tensor alone. What counts is the output, so each range is tried a little
narrower and a little wider, in graph order, and the model is run over the calibration samples each time:
against the float model's outputs, or against labels. The original takes a `loss=` for this and crashes on
it.

Cost: two passes over the samples for each quantized tensor, further ones while a direction goes on paying.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vqkit.errors import DataError
from vqkit.graph.copies import make_all_live
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import compiled, replay
from vqkit.graph.keras_layers import assign_weights
from vqkit.primitives import spec
from vqkit.primitives.qparams import QParams
from vqkit.quantization.labels import class_numbers, first_output
from vqkit.quantization.plan import Plan, QuantizedRow, Row
from vqkit.quantization.prepare import passing_through, rounding_rows
from vqkit.quantization.solve import Encodings, bake

KEY = "include_threshold_search"
FACTORS = {"narrower": np.float32(0.8), "wider": np.float32(1.25)}
GAIN = 1e-3
"""Share by which the loss must fall for a change to be kept."""


class ThresholdSearch:
    """One search; holds the compiled loss.

    Args:
        graph: float weights, with fake-quantize layers inserted.
        rows: fake-quantize layer name -> plan row.
        plan: says which weights are quantized.
        live: live objects of the quantized model; left with the last ranges that were tried.
        batches: calibration inputs, readable twice.
        loss: "mse" or "kl" against the float outputs, or "labels".
        labels: class numbers of the samples, shape (n,); for "labels".

    Raises:
        DataError: "labels" without labels, not as many as samples, or no class numbers of the model's.
    """

    def __init__(
        self,
        graph: Graph,
        rows: Mapping[str, QuantizedRow],
        plan: Plan,
        live: Mapping[str, Any],
        batches: Iterable[Any],
        *,
        loss: str = "mse",
        labels: Any = None,
    ) -> None:
        self.graph, self.plan, self.live = graph, plan, live
        self.layer_of = {row.name: fq for fq, row in rows.items()}
        self.batches = list(batches)
        self._loss = _LOSSES[loss]
        self._run = compiled(graph, lambda inputs: replay(graph, live, inputs))
        self._targets = self._labels(labels) if loss == "labels" else self._float_outputs(rows)

    def _labels(self, labels: Any) -> list[Any]:
        if labels is None:
            raise DataError("threshold_search_loss 'labels' needs labels of the calibration samples: pass calib_labels")
        sizes = [len(_first(b)) for b in self.batches]
        scores = first_output(self._run(self.batches[0]))
        if scores[0].size == 1:
            raise DataError("threshold_search_loss 'labels' needs a score for each class, the model has one")
        numbers = class_numbers(labels, scores.shape[1:], "calib_labels")
        if len(numbers) != sum(sizes):
            raise DataError(f"calib_labels: {len(numbers)} labels for {sum(sizes)} calibration samples")
        return list(np.split(numbers, np.cumsum(sizes)[:-1]))

    def _float_outputs(self, rows: Mapping[str, QuantizedRow]) -> list[Any]:
        floats = passing_through(make_all_live(self.graph), rows, rounding_rows(self.graph, self.plan))
        run = compiled(self.graph, lambda inputs: replay(self.graph, floats, inputs))
        return [run(batch) for batch in self.batches]

    def loss(self) -> float:
        """Mean loss of the quantized model as its live layers are now."""
        total = samples = 0.0
        for batch, target in zip(self.batches, self._targets, strict=True):
            n = len(_first(batch))
            total += n * float(self._loss(target, self._run(batch)))
            samples += n
        return total / samples

    def run(self, encodings: Encodings) -> tuple[Encodings, list[str]]:
        """Try every quantized tensor once.

        Args:
            encodings: the decisions to start from.

        Returns:
            The decisions that the loss likes best, and a line for each change.
        """
        found, notes = dict(encodings), []
        self._apply(found, self.plan.quantized)
        first = best = self.loss()
        for row in self.plan.quantized:
            start = found[row.name]
            for direction in FACTORS:
                best, moved = self._follow(row, found, direction, best)
                if moved:
                    break
            if found[row.name] is not start:
                notes.append(f"{KEY}: {row.name} {_words(start)} -> {_words(found[row.name])}")
        return found, [*notes, f"{KEY}: loss {first:.4g} -> {best:.4g}"]

    def _follow(self, row: Row, found: Encodings, direction: str, best: float) -> tuple[float, bool]:
        """Go one way as long as the loss falls."""
        moved = False
        while True:
            kept = found[row.name]
            found[row.name] = _moved(kept, direction)
            self._apply(found, [row])
            loss = self.loss()
            if not loss < best * (1 - GAIN):
                found[row.name] = kept
                self._apply(found, [row])
                return best, moved
            best, moved = loss, True

    def _apply(self, encodings: Encodings, changed: Iterable[Row]) -> None:
        weights = set()
        for row in changed:
            if row.is_weight:
                weights.add(row.layer)
            else:
                self.live[self.layer_of[row.name]].assign(encodings[row.name])
        if weights:
            baked = bake(self.graph, encodings, self.plan)
            for name in weights:
                assign_weights(self.live[name], baked.layers[name].weights)


def _moved(params: QParams, direction: str) -> QParams:
    if params.pos is not None:
        step = np.float32(1 if direction == "narrower" else -1)
        return replace(params, pos=np.clip(params.pos + step, spec.POS_MIN, spec.POS_MAX))
    factor = FACTORS[direction]
    return replace(params, f_min=params.f_min * factor, f_max=params.f_max * factor)


def _words(params: QParams) -> str:
    if params.pos is not None:
        return f"position {np.mean(params.pos):g}"
    return f"range {np.min(params.f_min):.4g}..{np.max(params.f_max):.4g}"


def _first(batch: Any) -> Any:
    from keras import tree

    return tree.flatten(batch)[0]


def _mse(target: Any, output: Any) -> Any:
    import tensorflow as tf
    from keras import tree

    pairs = zip(tree.flatten(target), tree.flatten(output), strict=True)
    return tf.add_n([tf.reduce_mean(tf.square(q - f)) for f, q in pairs])


def _kl(target: Any, output: Any) -> Any:
    import tensorflow as tf

    given = _is_distribution(target)
    teacher, student = (_log_probabilities(v, given) for v in (target, output))
    return tf.reduce_mean(tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=-1))


def _cross_entropy(labels: Any, output: Any) -> Any:
    import tensorflow as tf

    logs = _log_probabilities(output, _is_distribution(output))
    chosen = tf.gather(logs, tf.reshape(tf.cast(labels, tf.int32), [-1]), axis=1, batch_dims=1)
    return -tf.reduce_mean(chosen)


def _scores(output: Any) -> Any:
    """The first output, one row for each sample."""
    import tensorflow as tf
    from keras import tree

    first = tree.flatten(output)[0]
    return tf.reshape(first, (tf.shape(first)[0], -1))


def _is_distribution(output: Any) -> Any:
    """Whether scores are probabilities rather than logits; quantized ones add up to about 1."""
    import tensorflow as tf

    scores = _scores(output)
    return tf.logical_and(tf.reduce_all(scores >= 0), tf.reduce_mean(tf.abs(tf.reduce_sum(scores, -1) - 1)) < 0.1)


def _log_probabilities(output: Any, given: Any) -> Any:
    import tensorflow as tf

    scores = _scores(output)
    return tf.nn.log_softmax(tf.where(given, tf.math.log(tf.maximum(scores, 1e-12)), scores))


_LOSSES = {"mse": _mse, "kl": _kl, "labels": _cross_entropy}
