"""What runs answered on the same samples, read from their `predictions.npz`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vqkit.errors import RecordError
from vqkit import statistics
from vqkit.files import read_npz

PREDICTIONS = "predictions.npz"


def answers(run_dir: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """What a run answered and what was right, class numbers of shape (n,) each.

    Args:
        run_dir: `runs/variants/<key>`.

    Raises:
        RecordError: the run kept no predictions, or no labels to them.
    """
    path = Path(run_dir, PREDICTIONS)
    try:
        kept = read_npz(path)
        predicted, labels = kept["predicted"], kept["labels"]
    except (RecordError, KeyError) as e:
        raise RecordError(f"{path}: no predictions with labels were kept: {e}") from e
    if predicted.shape != labels.shape or predicted.ndim != 1:
        shapes = f"{predicted.shape} and {labels.shape}"
        raise RecordError(f"{path}: predictions and labels of shapes {shapes} do not fit")
    return predicted, labels


@dataclass(frozen=True)
class Flips:
    """How two runs' answers differ on the same samples.

    Attributes:
        n: samples.
        both_right, only_a, only_b, both_wrong: counts that add up to n.
    """

    n: int
    both_right: int
    only_a: int
    only_b: int
    both_wrong: int

    @property
    def p_value(self) -> float:
        """Exact McNemar p-value of the two runs being equally good."""
        return statistics.mcnemar(self.only_a, self.only_b)


def correct(run_dir: str | Path | None) -> NDArray[np.bool_] | None:
    """Which evaluation samples a run got right, from its `predictions.npz`.

    Args:
        run_dir: `runs/variants/<key>`; None for a run that is only known from mlflow.

    Returns:
        Shape (n,), or None where the run kept no predictions with labels that can be read.
    """
    if run_dir is None or not Path(run_dir, PREDICTIONS).is_file():
        return None
    try:
        predicted, labels = answers(run_dir)
    except RecordError:
        return None
    return np.asarray(predicted == labels, bool)


def unreadable(run_dir: str | Path) -> list[str]:
    """Why what a run answered cannot be read, in one sentence; nothing where it can be, or was not kept.

    Args:
        run_dir: `runs/variants/<key>`.
    """
    try:
        if os.path.lexists(Path(run_dir, PREDICTIONS)):
            answers(run_dir)
    except RecordError as e:
        return [str(e)]
    return []


def flips(run_a: str | Path | None, run_b: str | Path | None) -> Flips | None:
    """Count the samples on which two runs disagree.

    Args:
        run_a: run directory.
        run_b: run directory; both must have been evaluated on the same samples in the same order.

    Returns:
        The counts, or None where one of them kept no predictions or the numbers of samples differ.
    """
    return counted(correct(run_a), correct(run_b))


def counted(a: NDArray[np.bool_] | None, b: NDArray[np.bool_] | None) -> Flips | None:
    """Count the samples on which two runs disagree.

    Args:
        a: from `correct`.
        b: from `correct`.

    Returns:
        As `flips`.
    """
    if a is None or b is None or a.shape != b.shape:
        return None
    counts = (a & b, a & ~b, b & ~a, ~a & ~b)
    return Flips(len(a), *(int(c.sum()) for c in counts))
