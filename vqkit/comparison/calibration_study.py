"""How many calibration images a strategy needs: quantize with ever more of them, and with other ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import DataError
from vqkit.quantization.data import Data, map_inputs

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from vqkit.quantization.quantized import Quantized
    from vqkit.strategy import Strategy


def calibration_study(
    model: keras.Model,
    data: Data,
    strategy: Strategy | str,
    *,
    counts: Sequence[int] | None = None,
    subsets: int = 4,
    batch_size: int = 32,
    calibration: str = "quantized",
    seed: int = 0,
    metrics: Sequence[Any] | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Ranges and the metric by the number of calibration images, each number with several random subsets.

    Args:
        model: a built Keras model; it is not changed.
        data: all calibration images that may be used, and the evaluation data.
        strategy: a `Strategy`, or the name or path of one.
        counts: numbers of images, each at most `data.n_calib`; by default doubled from 8 up to all.
        subsets: random subsets for each number; for all images there is only one.
        batch_size: images in a calibration batch.
        calibration: "quantized" or "float".
        seed: of the subsets.
        metrics: what `vqkit.evaluate` takes, of which the first one is studied; by default that of the task.
        progress: show a progress bar.

    Returns:
        One row for each number, subset and activation: n_images, subset, the metric under its name and under
        float_<name> that of the float model (of accuracy fractions), both also as value and float_value beside metric,
        better and unit, tensor (`layer/output`), low and high: ends of its grid, real units.

    Raises:
        DataError: a number is below 1 or above `data.n_calib`, or the metrics cannot judge the model.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
        >>> data = vqkit.Data("normal", x, x, np.arange(16) % 3)
        >>> study = vqkit.calibration_study(model, data, "pof2s", counts=[4, 8], subsets=2)
        >>> study["n_images"].unique().tolist()
        [4, 8]
    """
    import pandas as pd
    from tqdm.auto import tqdm

    from vqkit.bench import Bench
    from vqkit.quantization.prepare import as_strategy

    chosen = _counts(data.n_calib, counts)
    points = [(n, i) for n in chosen for i in range(1 if n == data.n_calib else subsets)]
    whole = Bench(model, data, metrics=metrics)
    measure = whole.judges[0].metric.measure
    judging = {"metric": measure.name, "better": measure.better, "unit": measure.unit}
    reference = whole.float_evaluation().metrics[measure.name]
    rows: list[dict[str, Any]] = []
    rng = np.random.default_rng(seed)
    for n, subset in tqdm(points, desc="calibrations", unit="subset", disable=not progress):
        bench = Bench(model, _subset(data, rng, n), metrics=metrics)
        found = bench.quantize(as_strategy(strategy), batch_size=batch_size, calibration=calibration)
        own = bench.evaluate(found).metrics[measure.name]
        said = {"n_images": n, "subset": subset, measure.name: own, f"float_{measure.name}": reference}
        rows += [{**said, **row, "value": own, "float_value": reference, **judging} for row in _ranges(found)]
    return pd.DataFrame(rows)


def _counts(available: int, counts: Sequence[int] | None) -> list[int]:
    if counts is None:
        doubled = [8 * 2**i for i in range(32) if 8 * 2**i < available]
        return [*doubled, available]
    wrong = [n for n in counts if not 1 <= n <= available]
    if wrong or not counts:
        raise DataError(f"counts: {wrong or 'none given'}; allowed: 1 to {available} calibration images")
    return sorted(set(counts))


def _subset(data: Data, rng: np.random.Generator, n: int) -> Data:
    at = np.arange(data.n_calib) if n == data.n_calib else np.sort(rng.permutation(data.n_calib)[:n])
    return replace(data, x_calib=map_inputs(lambda a, _: a[at], data.x_calib), y_calib=None, digest="")


def _ranges(found: Quantized) -> list[dict[str, Any]]:
    rows = []
    for row in found.plan.quantized:
        if not row.is_weight:
            q = found.encodings[row.name]
            ends = [(bound - q.zero_point) * q.scale for bound in (q.spec.q_min, q.spec.q_max)]
            rows.append({"tensor": row.name, "low": float(np.min(ends[0])), "high": float(np.max(ends[1]))})
    return rows
