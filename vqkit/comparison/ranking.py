"""Which of many comparable runs cannot be told from the best one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vqkit import statistics
from vqkit.runs.records import Flips, correct, counted, measure_of, rows_of, sample_values, with_values
from vqkit.tables import Measure

if TYPE_CHECKING:
    import pandas as pd

ALPHA = 1 - statistics.CONFIDENCE


def combination(name: str) -> Callable[[Any, Any], Any]:
    """How what samples add up to becomes a metric, by its name, which may begin with that of an output."""
    from vqkit.evaluation.metrics import combine_of

    return combine_of(name) or (lambda sums, n: sums[..., 0] / n)


def best_of(members: pd.DataFrame) -> Any:
    """Label of the best run; of equally good ones the smallest.

    Args:
        members: comparable runs.
    """
    goodness = measure_of(members).sign * with_values(members)["value"]
    order = members.assign(goodness=goodness).sort_values(
        ["goodness", "size_bytes", "name"], ascending=[False, True, True]
    )
    return order.index[0]


def verdicts_on(members: pd.DataFrame, best: Any) -> list[tuple[bool, str]]:
    """Whether chance could explain that a run came behind the best, and by which test that was decided.

    Predictions are read only of runs for which they can make a difference.

    Args:
        members: comparable runs, with `ci_low` and `ci_high`.
        best: from `best_of`.

    Returns:
        In the order of the runs: tied, and "McNemar", "permutation", "interval", or "" for the best itself.
    """
    measure = measure_of(members)
    if measure != Measure():
        return _verdicts_by(measure, members, best)
    first = {str(k): v for k, v in members.loc[best].items()}
    apart = _apart_from(first)
    answers = None
    result = []
    for label, run in zip(members.index, rows_of(members), strict=True):
        if label == best:
            result.append((True, ""))
            continue
        overlap = not run["ci_high"] < first["ci_low"]
        if not overlap and first["accuracy"] - run["accuracy"] >= apart:
            result.append((False, "interval"))
            continue
        answers = correct(first["directory"]) if answers is None else answers
        flips: Flips | None = counted(answers, correct(run["directory"]))
        if flips is None:
            result.append((overlap, "interval"))
        else:
            result.append((flips.p_value > ALPHA, "McNemar"))
    return result


def _verdicts_by(measure: Measure, members: pd.DataFrame, best: Any) -> list[tuple[bool, str]]:
    """The same by another metric than accuracy."""
    first = {str(k): v for k, v in members.loc[best].items()}
    samples = sample_values(first["directory"])
    result = []
    for label, run in zip(members.index, rows_of(members), strict=True):
        if label == best:
            result.append((True, ""))
            continue
        other = None if samples is None else sample_values(run["directory"])
        if samples is None or other is None or other.shape != samples.shape:
            behind = run["ci_high"] < first["ci_low"] if measure.sign > 0 else run["ci_low"] > first["ci_high"]
            result.append((not behind, "interval"))
        else:
            result.append((statistics.paired(combination(measure.name), samples, other) > ALPHA, "permutation"))
    return result


def _apart_from(best: Mapping[str, Any]) -> float:
    """How much less accurate a run must be for no paired test to call it level, however the answers lie.

    The test is least sure where the two disagree most: where the other run is right on all samples that the
    best one has wrong.
    """
    n = best["n_eval"]
    if n != n or not n:
        return 0.0
    wrong = round((1 - best["accuracy"]) * n)
    low, high = 0, int(n) + 1
    while low < high:
        middle = (low + high) // 2
        if statistics.mcnemar(wrong + middle, wrong) <= ALPHA:
            high = middle
        else:
            low = middle + 1
    # One more, because accuracies are rounded.
    return (low + 1) / n
