"""The samples on which two runs answer differently, and what they look like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import DataError, RecordError
from vqkit.experiment.answers import answers
from vqkit.experiment.records import read_record

if TYPE_CHECKING:
    import pandas as pd


def flipped_samples(run_a: str | Path, run_b: str | Path) -> pd.DataFrame:
    """Every sample on which two runs answer differently.

    Args:
        run_a, run_b: run directories; both evaluated on the same samples.

    Returns:
        Columns sample (position in the evaluation data), label, a, b (class numbers) and right ("A", "B",
        "neither"); those that one of the runs has right come first.

    Raises:
        RecordError: predictions are missing, or the runs were evaluated on different samples.
    """
    import pandas as pd

    (a, labels), (b, others) = answers(run_a), answers(run_b)
    if not np.array_equal(labels, others):
        raise RecordError(f"{run_a} and {run_b} were evaluated on different samples")
    at = np.flatnonzero(a != b)
    right = np.where(a[at] == labels[at], "A", np.where(b[at] == labels[at], "B", "neither"))
    table = pd.DataFrame({"sample": at, "label": labels[at], "a": a[at], "b": b[at], "right": right})
    return table.sort_values(["right", "sample"], kind="stable", ignore_index=True)


def sample_images(run_dir: str | Path, samples: Any) -> list[np.ndarray]:
    """Evaluation samples of a run as pictures; the data are loaded again from where the record says.

    Args:
        run_dir: `runs/variants/<key>`.
        samples: positions in the evaluation data.

    Returns:
        Arrays of shape (height, width, 1 or 3) or (height, width).

    Raises:
        DataError: the data cannot be loaded, are others than the run used, or are no pictures.
    """
    from vqkit.experiment.source import load_data

    record = read_record(run_dir)
    said = record.get("inputs", {}).get("data", {})
    data = load_data(said.get("ref"))
    if data.digest != said.get("digest"):
        raise DataError(
            f"{data.name}: the data have digest {data.digest}, the run used {said.get('digest')}; "
            "their pictures would be of other samples"
        )
    x = data.x_eval
    if not isinstance(x, np.ndarray) or not _is_picture(x.shape[1:]):
        shape = getattr(x, "shape", type(x).__name__)
        raise DataError(f"{data.name}: samples of shape {shape} are no pictures")
    return [x[i] for i in samples]


def _is_picture(shape: tuple[int, ...]) -> bool:
    return min(shape[:2], default=0) > 1 and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)))
