"""The metrics that have a name here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqkit.errors import DataError
from vqkit.evaluation.metric import WEIGHTED, Combine, Numbers, Parts, weighted
from vqkit.evaluation.metric import Metric as Metric
from vqkit.quantization.labels import right_answers

VOID = 255
"""Label of pixels that are not judged, beside negative ones."""


def _as_one(outputs: NDArray[Any], labels: NDArray[Any], name: str) -> tuple[Numbers, Numbers]:
    """Both as float64 of one shape: labels (n,) beside outputs (n, 1) would be broadcast to n times n."""
    x, y = np.asarray(outputs, np.float64), np.asarray(labels)
    if y.dtype.kind not in "fiub":
        raise DataError(f"metric {name}: labels of type {y.dtype} are no numbers")
    if y.size == x.size and y.shape[:1] == x.shape[:1] and _squeezed(x.shape) == _squeezed(y.shape):
        return x, y.astype(np.float64).reshape(x.shape)
    raise DataError(f"metric {name}: outputs of shape {x.shape}, labels of shape {y.shape}: they need the same shape")


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:1] + tuple(s for s in shape[1:] if s != 1)


def _mean_over_values(error: Callable[[Numbers, Numbers], Numbers], name: str) -> Parts:
    def parts(outputs: NDArray[Any], labels: NDArray[Any]) -> Numbers:
        x, y = _as_one(outputs, labels, name)
        return error(x, y).reshape(len(x), -1).mean(axis=1)[:, None]

    return parts


def _squares(outputs: NDArray[Any], labels: NDArray[Any]) -> Numbers:
    """Of each sample: squared error, sum of labels, of their squares, and how many values."""
    x, y = (v.reshape(len(v), -1) for v in _as_one(outputs, labels, "r2"))
    return np.stack([((x - y) ** 2).sum(1), y.sum(1), (y**2).sum(1), np.full(len(y), y.shape[1], float)], axis=1)


def _r2(sums: Numbers, n: Any) -> Any:  # noqa: ARG001
    error, total, squares, count = (sums[..., i] for i in range(4))
    spread = squares - total**2 / count
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, 1 - error / spread, np.nan)


def _right(outputs: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    return right_answers(outputs, labels)[:, None]


def _right_logit(outputs: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    x, y = _as_one(outputs, labels, "accuracy_from_logit")
    _binary(y, "accuracy_from_logit")
    return ((x >= 0) == (y > 0.5)).reshape(len(x), -1)[:, :1]


def _top(k: int) -> Parts:
    def parts(outputs: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
        scores = outputs.reshape(len(outputs), -1)
        if scores.shape[1] <= k:
            raise DataError(f"metric top{k}: the model knows {scores.shape[1]} classes, more than {k} are needed")
        y = np.asarray(labels).reshape(len(labels), -1)
        y = y.argmax(1) if y.shape[1] > 1 else y[:, 0].astype(np.int64)
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        return np.any(best == y[:, None], axis=1)[:, None]

    return parts


def _binary(y: Numbers, name: str) -> None:
    if not np.all((y == 0) | (y == 1)):
        raise DataError(f"metric {name}: labels other than 0 and 1")


def _exact(outputs: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    x, y = _as_one(outputs, labels, "exact_match")
    _binary(y, "exact_match")
    return np.all((x >= 0.5) == (y > 0.5), axis=tuple(range(1, x.ndim)))[:, None]


def _auc(outputs: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any] | None = None) -> float:
    """Area under the ROC curve; of several columns the mean over those that have both labels."""
    from scipy.stats import rankdata

    x, y = _both_labels(outputs, labels, "auc")
    if weights is not None:
        return _mean_area(x, y, weights, 1.0)
    ones, n = y.sum(0), len(y)
    ranks = rankdata(x, axis=0)
    areas = ((ranks * y).sum(0) - ones * (ones + 1) / 2) / (ones * (n - ones))
    return float(areas.mean())


def _both_labels(outputs: NDArray[Any], labels: NDArray[Any], name: str) -> tuple[Numbers, Numbers]:
    """The columns that have both labels, shape (n, columns)."""
    x, y = (v.reshape(len(v), -1) for v in _as_one(outputs, labels, name))
    _binary(y, name)
    known = (y.sum(0) > 0) & (y.sum(0) < len(y))
    if not known.any():
        raise DataError(f"metric {name}: each label needs samples with and without it")
    return x[:, known], y[:, known]


def _mean_area(x: Numbers, y: Numbers, weights: NDArray[Any] | None, most: float) -> float:
    """Mean over columns of the area under the ROC curve up to a false positive rate."""
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    return float(np.mean([_area(x[:, i], y[:, i], w, most) for i in range(x.shape[1])]))


def _area(score: Numbers, label: Numbers, weight: Numbers, most: float) -> float:
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    rates = [np.append(0.0, np.cumsum((weight * of)[order])[last]) for of in (1 - label, label)]
    false, true = (r / r[-1] for r in rates)
    inside = false <= most
    x, y = np.append(false[inside], most), np.append(true[inside], np.interp(most, false, true))
    return float(np.trapezoid(y, x))


def _partial_auc(outputs: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any] | None = None) -> float:
    """Area under the ROC curve up to a false positive rate of a tenth, 0.5 where scores tell nothing, 1 at best.

    Source: D. K. McClish, Analyzing a Portion of the ROC Curve, 1989.
    """
    x, y = _both_labels(outputs, labels, "pauc")
    least = MOST_FALSE**2 / 2
    return (1 + (_mean_area(x, y, weights, MOST_FALSE) - least) / (MOST_FALSE - least)) / 2


MOST_FALSE = 0.1
"""Share of false alarms up to which `pauc` looks."""


def _error(outputs: NDArray[Any], inputs: NDArray[Any]) -> Numbers:
    """How badly each sample is reconstructed: the mean of its squared errors, shape (n, 1)."""
    difference = np.asarray(outputs, np.float64) - inputs
    return (difference**2).reshape(len(difference), -1).mean(axis=1)[:, None]


def _classes(
    outputs: NDArray[Any], labels: NDArray[Any], name: str, void: int = VOID
) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Class of each place as the model answers and as it is, shape (n, places); -1 where it is not judged."""
    y = np.asarray(labels)
    if outputs.shape[-1] == 1:
        found, count = (outputs[..., 0] >= 0.5).astype(np.int64), 2
    else:
        found, count = outputs.argmax(-1), outputs.shape[-1]
    if y.ndim == outputs.ndim and y.shape[-1] == outputs.shape[-1] > 1:
        y = y.argmax(-1)
    y = y[..., 0] if y.ndim == found.ndim + 1 and y.shape[-1] == 1 else y
    if y.shape != found.shape:
        raise DataError(f"metric {name}: outputs of shape {outputs.shape}, labels of shape {np.shape(labels)}")
    if y.dtype.kind not in "fiub" or np.any(y != np.floor(y)):
        raise DataError(f"metric {name}: the labels are no class numbers")
    y = np.where((y < 0) | (y == void), -1, y).astype(np.int64)
    if y.size and y.max() >= count:
        raise DataError(f"metric {name}: labels up to {y.max()}, the model knows {count} classes")
    return found.reshape(len(found), -1), y.reshape(len(y), -1), count


def _right_places(outputs: NDArray[Any], labels: NDArray[Any], void: int = VOID) -> Numbers:
    found, y, _ = _classes(outputs, labels, "pixel_accuracy", void)
    judged = y >= 0
    return np.stack([((found == y) & judged).sum(1), judged.sum(1)], axis=1).astype(np.float64)


def _confusion(outputs: NDArray[Any], labels: NDArray[Any], void: int = VOID) -> Numbers:
    found, y, count = _classes(outputs, labels, "miou", void)
    rows = []
    for f, t in zip(found, y, strict=True):
        judged = t >= 0
        rows.append(np.bincount(t[judged] * count + f[judged], minlength=count * count))
    return np.array(rows, np.float64)


def _miou(sums: Numbers, n: Any) -> Any:  # noqa: ARG001
    """Mean over the classes that occur in labels or answers."""
    count = round(sums.shape[-1] ** 0.5)
    table = sums.reshape(*sums.shape[:-1], count, count)
    both = np.diagonal(table, axis1=-2, axis2=-1)
    either = table.sum(-1) + table.sum(-2) - both
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nanmean(np.where(either > 0, both / either, np.nan), axis=-1)


def _ratio(sums: Numbers, n: Any) -> Any:  # noqa: ARG001
    return sums[..., 0] / sums[..., 1]


def _divergence(outputs: NDArray[Any], labels: NDArray[Any]) -> Numbers:
    """Of each sample: KL divergence of the model's probabilities from the wanted ones, in nats."""
    x, y = _as_one(outputs, labels, "kl")
    p, q = (np.clip(v.reshape(len(v), -1), 1e-7, None) for v in (y, x))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    return (p * np.log(p / q)).sum(1)[:, None]


def _agreement(outputs: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """Of each sample: whether the answers to it are the same, or in which share of its places."""
    x, y = _as_one(outputs, labels, "agreement")
    answers = [v.argmax(-1) if v.shape[-1] > 1 else v[..., 0] >= 0.5 for v in (x, y)]
    same = (answers[0] == answers[1]).reshape(len(x), -1)
    return same if same.shape[1] == 1 else same.mean(axis=1)[:, None]


def _signal_and_noise(outputs: NDArray[Any], labels: NDArray[Any]) -> Numbers:
    x, y = (v.reshape(len(v), -1) for v in _as_one(outputs, labels, "sqnr"))
    return np.stack([(y**2).sum(1), ((x - y) ** 2).sum(1)], axis=1)


def _decibel(sums: Numbers, n: Any) -> Any:  # noqa: ARG001
    with np.errstate(divide="ignore", invalid="ignore"):
        return 10 * np.log10(sums[..., 0] / sums[..., 1])


_NAMED = (
    Metric("accuracy", "higher", "percent", _right),
    Metric("accuracy_from_logit", "higher", "percent", _right_logit),
    Metric("top5", "higher", "percent", _top(5)),
    Metric("exact_match", "higher", "percent", _exact),
    Metric("auc", "higher", "plain", whole=_auc),
    Metric("pauc", "higher", "plain", whole=_partial_auc),
    Metric("anomaly_auc", "higher", "plain", whole=_auc, scores=_error),
    Metric("anomaly_pauc", "higher", "plain", whole=_partial_auc, scores=_error),
    Metric("pixel_accuracy", "higher", "percent", _right_places, _ratio),
    Metric("token_accuracy", "higher", "percent", _right_places, _ratio),
    Metric("miou", "higher", "percent", _confusion, _miou),
    Metric("mae", "lower", "plain", _mean_over_values(lambda x, y: np.abs(x - y), "mae")),
    Metric("mse", "lower", "plain", _mean_over_values(lambda x, y: (x - y) ** 2, "mse")),
    Metric(
        "rmse",
        "lower",
        "plain",
        _mean_over_values(lambda x, y: (x - y) ** 2, "rmse"),
        lambda sums, n: np.sqrt(sums[..., 0] / n),
    ),
    Metric("r2", "higher", "plain", _squares, _r2),
    Metric("kl", "lower", "plain", _divergence),
    Metric("agreement", "higher", "percent", _agreement),
    Metric("sqnr", "higher", "plain", _signal_and_noise, _decibel),
)
NAMED: Mapping[str, Metric] = {m.name: replace(m, source=m.name) for m in _NAMED}
"""Metrics of vqkit's own, by name."""


_WITH_VOID = {"miou": _confusion, "pixel_accuracy": _right_places, "token_accuracy": _right_places}


def with_void(metric: Metric, void: int) -> Metric:
    """The same metric with another label of places that are not judged; negative ones never are.

    Raises:
        DataError: it is not of labels for each place.
    """
    own = next((_WITH_VOID[name] for name in _WITH_VOID if metric.parts is NAMED[name].parts), None)
    if own is None:
        raise DataError(f"metric {metric.name}: void is a label of {', '.join(_WITH_VOID)}")
    return replace(metric, parts=lambda outputs, labels: own(outputs, labels, void))


def combine_of(name: str) -> Combine | None:
    """How the sums that a run keeps of its samples become its metric; None where their mean is it.

    Args:
        name: of the metric; that of an output may stand in front.
    """
    last = name.rpartition("/")[2]
    named = NAMED.get(last.removeprefix(WEIGHTED))
    combine = None if named is None else named.combine
    return weighted(combine) if last.startswith(WEIGHTED) else combine
