"""Which of many comparable runs cannot be told from the best one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vqkit.experiment import significance
from vqkit.experiment.answers import Flips, correct, counted
from vqkit.experiment.records import rows_of

if TYPE_CHECKING:
    import pandas as pd

ALPHA = 1 - significance.CONFIDENCE


def best_of(members: pd.DataFrame) -> Any:
    """Label of the most accurate run; of equally accurate ones the smallest.

    Args:
        members: comparable runs.
    """
    order = members.sort_values(["accuracy", "size_bytes", "name"], ascending=[False, True, True])
    return order.index[0]


def verdicts(members: pd.DataFrame, best: Any) -> list[tuple[bool, str]]:
    """Whether chance could explain that a run came behind the best, and by which test that was decided.

    Predictions are read only of runs for which they can make a difference.

    Args:
        members: comparable runs, with `ci_low` and `ci_high`.
        best: from `best_of`.

    Returns:
        In the order of the runs: tied, and "McNemar", "interval", or "" for the best itself.
    """
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
        if significance.mcnemar(wrong + middle, wrong) <= ALPHA:
            high = middle
        else:
            low = middle + 1
    # One more, because accuracies are rounded.
    return (low + 1) / n
