"""Whether the samples are at fault: how evaluation and calibration samples differ, and which of them fit the model.

A float model tells what it was trained on in three ways: the statistics of its batch norms, how sure it is of its
answers, and its metric. Where two sets of samples differ, the one that fits worse is the strange one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqkit import digest
from vqkit.errors import DataError
from vqkit.evaluation import predict
from vqkit.graph.copies import make_all_live
from vqkit.graph.ir import Graph, Node
from vqkit.graph.keras_io import lower, replay, tensors
from vqkit.quantization.data import batches, leaves, map_inputs
from vqkit.quantization.float_model import in_size
from vqkit.search.diagnosis.causes import Kind
from vqkit.search.engine import Engine, are_classes

SAMPLES = 256
"""At most so many of each set are looked at."""
APART = 0.5
"""Two sets differ whose distributions of a feature are further apart (Kolmogorov and Smirnov)."""
CHANCE = 1e-4
"""… and which chance brings so far apart at most so often."""
SKILL = 0.25
"""A float model does not know the task with no more than this share of what is possible beyond a constant answer."""
SURER = 0.25
"""How much more often a model may be wrong than it says."""
MISFIT = 3.0
"""A set of samples fits a model worse whose distance from the batch norms' statistics is so many times as large."""
FEW = 32
"""Fewer calibration samples than this may be too few."""


@dataclass(frozen=True, eq=False)
class Samples:
    """What is known about the two sets of samples.

    Attributes:
        feature: in which they differ most.
        distance: largest difference of the two distributions of this feature, 0..1.
        p_value: of such a difference by chance, over all features.
        values: of the feature: calibration, evaluation, shape (n,).
        misfit: how far each set is from the statistics of the batch norms, nats for a channel: calibration,
            evaluation; NaN without batch norms.
        sureness: mean probability of the answers: calibration, evaluation; NaN without classes.
        distinct: how many calibration samples differ from each other.
        count: of calibration samples.
        skill: share of what is possible beyond a constant answer that the float model reaches; NaN where that
            cannot be said.
    """

    feature: str
    distance: float
    p_value: float
    values: tuple[NDArray[np.float64], NDArray[np.float64]]
    misfit: tuple[float, float]
    sureness: tuple[float, float]
    distinct: int
    count: int
    skill: float

    @property
    def apart(self) -> bool:
        """Whether the two sets are of different kinds."""
        return self.distance > APART and self.p_value < CHANCE

    @property
    def difference(self) -> str:
        """How they differ, in words."""
        own, other = map(np.median, self.values)
        return f"{self.feature} {own:.3g} in the median, evaluation samples have {other:.3g}"

    @property
    def repeated(self) -> bool:
        """Whether the calibration samples are copies of a few."""
        return self.distinct <= max(1, self.count // 10) and self.count > 1

    def fits_worse(self, place: int) -> bool:
        """Whether one set is further from what the model was trained on: 0 calibration, 1 evaluation."""
        own, other = self.misfit[place], self.misfit[1 - place]
        return own > MISFIT * other + 0.1


def compared(engine: Engine) -> Samples:
    """The two sets of samples of an engine.

    Args:
        engine: model and data.
    """
    from keras import tree

    graph = lower(engine.model)
    sets = [map_inputs(_first, x) for x in (engine.data.x_calib, engine.data.x_eval)]
    outputs = [np.asarray(tree.flatten(predict(engine.model, x))[engine.output]) for x in sets]
    columns = [_features(x, y) for x, y in zip(sets, outputs, strict=True)]
    names = [n for n in columns[0] if n in columns[1]]
    tests = {n: _apart(columns[0][n], columns[1][n]) for n in names}
    worst = max(tests, key=lambda n: tests[n][0])
    distance, p = tests[worst]
    classes = are_classes(engine.metric, outputs[1])
    sure = tuple(float(_sureness(y).mean()) if classes else float("nan") for y in outputs)
    own = leaves(engine.data.x_calib)
    distinct = len({digest.of_arrays({str(i): a[k] for i, a in enumerate(own)}) for k in range(len(own[0]))})
    fits = tuple(misfit(graph, x) for x in sets)
    return Samples(
        worst,
        distance,
        min(1.0, p * len(tests)),
        (columns[0][worst], columns[1][worst]),
        (fits[0], fits[1]),
        (sure[0], sure[1]),
        distinct,
        len(own[0]),
        skill(engine),
    )


def _first(a: NDArray[Any], _: str) -> NDArray[Any]:
    return a[:SAMPLES]


def _features(x: Any, outputs: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Numbers of each sample, by name, shape (n,)."""
    found: dict[str, NDArray[np.float64]] = {}
    for i, array in enumerate(leaves(x)):
        flat = np.asarray(array, np.float64).reshape(len(array), -1)
        where = "" if len(leaves(x)) == 1 else f" of input {i}"
        found |= {
            f"mean{where}": flat.mean(axis=1),
            f"deviation{where}": flat.std(axis=1),
            f"least value{where}": flat.min(axis=1),
            f"largest value{where}": flat.max(axis=1),
        }
        if array.ndim > 2:
            steps = [np.abs(np.diff(np.asarray(array, np.float64), axis=a)) for a in (1, 2) if array.shape[a] > 1]
            rough = [s.reshape(len(array), -1).mean(axis=1) for s in steps]
            found[f"mean step between neighbours{where}"] = np.mean(rough, axis=0) if rough else flat.mean(axis=1)
            channels = array.shape[-1] if array.ndim == 4 and 1 < array.shape[-1] <= 4 else 0
            mean = np.asarray(array, np.float64).reshape(len(array), -1, max(channels, 1)).mean(axis=1)
            found |= {f"mean of channel {c}{where}": mean[:, c] - mean.mean(axis=1) for c in range(channels)}
    flat = np.asarray(outputs, np.float64).reshape(len(outputs), -1)
    return found | {"largest output": flat.max(axis=1), "deviation of outputs": flat.std(axis=1)}


def _apart(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    from scipy.stats import ks_2samp

    found = ks_2samp(a, b, method="asymp")
    return float(found.statistic), float(found.pvalue)


def _sureness(outputs: NDArray[Any]) -> NDArray[np.float64]:
    """Probability of the answer of each sample."""
    x = np.asarray(outputs, np.float64)
    if x.shape[-1] == 1:
        p = x if np.all((x >= 0) & (x <= 1)) else 1 / (1 + np.exp(-np.clip(x, -60, 60)))
        return np.asarray(np.maximum(p, 1 - p)[:, 0])
    if np.all(x >= 0) and np.allclose(x.sum(-1), 1, atol=1e-3):
        return np.asarray(x.max(-1))
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(1 / e.sum(-1))


def skill(engine: Engine) -> float:
    """Share of what is possible beyond a constant answer that the float model reaches; NaN where it cannot be said.

    Args:
        engine: model, labelled data and metric.
    """
    if engine.data.y_eval is None:
        return float("nan")
    outputs, labels, metric = engine.float_outputs(), engine.labels, engine.metric
    own = engine.reference.value
    best: list[float] = []
    for answer in _constants(outputs, labels):
        constant = np.broadcast_to(answer, outputs.shape).astype(outputs.dtype)
        try:
            value = metric.of(constant, labels, engine.data.weights_eval)
        except (DataError, ValueError):
            continue
        best += [value] if np.isfinite(value) else []
    if not best:
        return float("nan")
    if metric.sign < 0:
        return 1 - own / min(best) if min(best) > 0 else float("nan")
    return (own - max(best)) / (1 - max(best)) if max(best) < 1 and own <= 1 else float("nan")


def _constants(outputs: NDArray[Any], labels: NDArray[Any]) -> list[NDArray[Any]]:
    """Answers that do not look at the sample: each class, or the mean label."""
    if labels.shape == outputs.shape:
        return [labels.mean(axis=0)]
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        known = np.unique(labels.astype(np.int64))
        return [np.eye(outputs.shape[1])[k] for k in known[known < outputs.shape[1]][:1024]]
    return [np.zeros(outputs.shape[1:]), np.ones(outputs.shape[1:])]


def misfit(graph: Graph, x: Any) -> float:
    """How far samples are from the statistics of the first batch norms: divergence of normal distributions, nats.

    Args:
        graph: lowered from the float model.
        x: inputs, shape (n, …).

    Returns:
        Mean over channels, of the batch norms before which no other stands; NaN where the model has none.
    """
    first = _first_norms(graph)
    wanted = {node.inputs[0] for node in first}
    if not wanted:
        return float("nan")
    live, seen = make_all_live(graph), dict[int, list[NDArray[np.float64]]]()

    def keep(node: Node, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        for value, tensor in zip(node.outputs, outputs, strict=True):
            if value in wanted:
                seen.setdefault(value, []).append(_sums(np.asarray(tensor, np.float64)))
        return outputs

    for batch in in_size(batches(x, batch_size=32), graph):
        inputs = tensors(graph, batch)
        for name, value in graph.inputs.items():
            if value in wanted:
                seen.setdefault(value, []).append(_sums(np.asarray(inputs[name], np.float64)))
        replay(graph, live, inputs, keep)
    return float(np.mean([_divergence(np.sum(seen[n.inputs[0]], axis=0), graph, n) for n in first]))


def _first_norms(graph: Graph) -> list[Node]:
    behind: set[int] = set()
    found: list[Node] = []
    for node in graph.nodes:
        if any(v in behind for v in node.inputs):
            behind |= {*node.outputs}
        elif graph.kind(node) == "BatchNormalization" and _axis(graph, node) == -1:
            found.append(node)
            behind |= {*node.outputs}
    return found


def _axis(graph: Graph, node: Node) -> int:
    axis = graph.layer_of(node).config.get("axis", -1)
    axis = axis[0] if isinstance(axis, Sequence) else axis
    rank = len(graph.values[node.inputs[0]].shape)
    return -1 if axis in (-1, rank - 1) else int(axis)


def _sums(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count, sum and sum of squares of each channel, shape (3, channels)."""
    flat = x.reshape(-1, x.shape[-1])
    return np.stack([np.full(flat.shape[1], float(len(flat))), flat.sum(axis=0), np.square(flat).sum(axis=0)])


def _divergence(sums: NDArray[np.float64], graph: Graph, node: Node) -> float:
    weights = graph.layer_of(node).weights
    mean, tiny = sums[1] / sums[0], float(graph.layer_of(node).config.get("epsilon", 1e-3))
    variance = np.maximum(sums[2] / sums[0] - mean**2, 0) + tiny
    known = weights["moving_variance"].astype(np.float64) + tiny
    ratio = variance / known
    apart = np.square(mean - weights["moving_mean"]) / known
    return float(np.mean(np.minimum(0.5 * (ratio + apart - 1 - np.log(ratio)), 10.0)))


def verdict(found: Samples, value: float) -> tuple[Kind, str] | None:
    """What is wrong with the evaluation samples or their labels, as the float model tells; None where nothing is.

    Args:
        found: from `compared`.
        value: the float model's metric where it is the share of right answers; else NaN.
    """
    unlabelled = found.skill != found.skill
    unable = found.skill < SKILL
    expected, fits = found.sureness[0], "the float model itself does not know the task on them"
    if found.apart:
        unsure = value < expected - SURER and not found.fits_worse(0)
        if (unable and not found.fits_worse(0)) or unsure or (unlabelled and found.fits_worse(1)):
            why = f"they fit its batch norms worse than the calibration samples: {found.misfit[1]:.3g} against "
            why = f"{why}{found.misfit[0]:.3g} nats" if found.fits_worse(1) else fits
            return (
                Kind.EVALUATION,
                f"evaluation samples are of another kind: calibration samples have {found.difference}; {why}",
            )
        return None
    if not unable:
        return None
    if found.misfit[1] > 1.0:
        strange = f"both sets of samples are {found.misfit[1]:.3g} nats from its batch norms"
        return Kind.EVALUATION, f"{fits}, and {strange}: they are not prepared as in its training"
    sure = "" if expected != expected else f", though its answers have {100 * found.sureness[1]:.0f} % probability"
    return (
        Kind.LABELS,
        f"labels do not belong to the evaluation samples: {fits}{sure}, and the samples are as in calibration",
    )
