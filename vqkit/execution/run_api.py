"""What the run notebook calls: float reference, worst tensors, figures kept, and the result written last."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from vqkit import digest, process_cache, statistics, tables
from vqkit.errors import DataError, RecordError, not_allowed
from vqkit.evaluation import pairs_of
from vqkit.evaluation.cost import Coverage, coverage, totals
from vqkit.evaluation.metric import direction
from vqkit.evaluation.metrics import NAMED, combine_of
from vqkit.evaluation.tasks import Judge
from vqkit.files import read_json, write_bytes, write_json, write_npz
from vqkit.quantization.data import map_inputs
from vqkit.runs import store
from vqkit.runs.records import PREDICTIONS, SAMPLES
from vqkit.sweeps.source import some_of
from vqkit.sweeps.variant import Settings, deciding, key_of

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from vqkit.bench import Bench
    from vqkit.evaluation import Evaluation
    from vqkit.quantization.data import Data
    from vqkit.quantization.quantized import Quantized
    from vqkit.strategy import Strategy

# One array, or one for each input, by name or in order.
Inputs = np.ndarray | Mapping[str, np.ndarray] | Sequence[np.ndarray]
ATTEMPT = "VQKIT_ATTEMPT"
RUN_DIR = "VQKIT_RUN_DIR"


def title(name: str, model: str, strategy: str, overrides: Mapping[str, Any]) -> Any:
    """A heading for the executed notebook: what was run on what.

    Args:
        name: the variant's name.
        model: as the sweep names it.
        strategy: the base.
        overrides: what the variant changes.

    Returns:
        An object that a notebook shows as a heading.
    """
    from IPython.display import Markdown

    changed = ", ".join(f"`{k}` = `{v}`" for k, v in overrides.items()) or "nothing changed"
    return Markdown(f"## {name}\n\nModel `{Path(model).name}`, strategy `{Path(strategy).stem}`: {changed}.")


def changes(base: Strategy, chosen: Strategy) -> pd.DataFrame:
    """Every value in which a strategy differs from its base.

    Args:
        base: a strategy.
        chosen: another one.

    Returns:
        A table: label, before, after, and the JSON pointer.
    """
    import pandas as pd

    from vqkit.strategy.vocabulary import diff

    rows = [(c.label, c.before, c.after, c.pointer) for c in diff(base, chosen)]
    return pd.DataFrame(rows, columns=["what", "base", "here", "pointer"], dtype=object)


def run_inputs(model: str | Path, data: Data, strategy: Strategy, settings: Settings) -> dict[str, Any]:
    """Digests of what a notebook really uses, to be compared with what its run expects.

    Args:
        model: path of the model file.
        data: the loaded data.
        strategy: the strategy that is quantized with.
        settings: seed, calibration and so on.

    Returns:
        A mapping for `record`.
    """
    return {
        "model": {"digest": digest.of_file(model)},
        "data": {"digest": data.digest},
        "strategy": {"digest": strategy.digest},
        **asdict(settings),
    }


@dataclass(frozen=True, eq=False)
class Scores:
    """The float and the quantized model on the same labelled samples.

    Attributes:
        float_metrics: metric name -> value of the float model.
        quantized: evaluation of the quantized model.
        labels: what was right, `(n, ...)`.
        seconds: time the quantized evaluation took.
        judges: the metrics, the deciding one first.
        weights: of the samples, `(n,)`, where the metrics are weighted.
    """

    float_metrics: Mapping[str, float]
    quantized: Evaluation
    labels: Any
    seconds: float
    judges: tuple[Judge, ...] = (Judge(NAMED["accuracy"], 0),)
    weights: Any = None

    def to_frame(self) -> pd.DataFrame:
        """One row per metric: float, quantized, and the difference."""
        import pandas as pd

        own = self.quantized.metrics
        rows = {k: (self.float_metrics[k], v, v - self.float_metrics[k]) for k, v in own.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["float", "quantized", "delta"])

    def _repr_html_(self) -> str:
        table = self.to_frame().rename_axis("metric").reset_index()
        return tables.frame_table(table, tables.html_table, form="{:.4f}")


def workbench(model: keras.Model, data: Data, inputs: Mapping[str, Any], cache: str | Path) -> Bench:
    """The bench on which a variant is quantized and evaluated; a warm kernel keeps it for the next one.

    Args:
        model: the float Keras model.
        data: calibration and evaluation samples.
        inputs: from `run_inputs`; digests of model and data, and how many evaluation samples count.
        cache: folder that runs share.

    Returns:
        A bench on the model, the calibration data and the evaluation samples that count.
    """
    from vqkit.bench import Bench

    n = inputs["eval_images"]
    metrics = inputs.get("metrics")
    key = (inputs["model"]["digest"], inputs["data"]["digest"], n, str(cache), digest.of_json(metrics))
    made = process_cache.once("bench", key, lambda: Bench(model, some_of(data, n), cache=cache, metrics=metrics))
    return cast("Bench", made)


def score(bench: Bench, quantized: Quantized) -> Scores:
    """Evaluate the quantized model, and the float one unless another run has done it.

    Args:
        bench: from `workbench`.
        quantized: from the same bench.

    Returns:
        Both results.
    """
    reference = bench.float_evaluation()
    began = time.perf_counter()
    result = bench.evaluate(quantized)
    seconds = time.perf_counter() - began
    return Scores(reference.metrics, result, bench.labels, seconds, bench.judges, bench.data.weights_eval)


def worst_tensors(sqnr: pd.DataFrame, n: int = 3) -> list[str]:
    """Names of the quantized tensors with the lowest signal-to-noise ratio, worst first.

    Args:
        sqnr: from `vqkit.sqnr`.
        n: how many.

    Returns:
        Plan row names, `layer/tensor`.
    """
    rows = sqnr[sqnr.role != "output"].sort_values("sqnr_db", kind="stable").head(n)
    return [f"{r.layer}/{r.tensor}" for r in rows.itertuples()]


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure that was drawn once and shows what was kept.

    Attributes:
        figure: the matplotlib figure.
        png: as it was saved.
    """

    figure: Any
    png: bytes = field(repr=False)

    def _repr_png_(self) -> bytes:
        return self.png


def keep_figure(figure: Any, run_dir: str | Path, name: str) -> Picture:
    """Save a figure as `plots/<name>.png` of a run.

    Returns:
        The picture, so that a cell can show it.
    """
    from vqkit.plots.style import png

    drawn = png(figure)
    write_bytes(Path(run_dir, "plots", f"{name.replace('/', '.')}.png"), drawn)
    return Picture(figure, drawn)


def first_samples(data: Inputs, n: int) -> Any:
    """The first `n` samples of single or multi-input data."""
    return map_inputs(lambda a, _: a[:n], data)


def record(
    run_dir: str | Path,
    key: str,
    inputs: Mapping[str, Any],
    *,
    quantized: Quantized,
    scores: Scores,
    sqnr: pd.DataFrame,
    cross_check: Any = None,
) -> dict[str, float]:
    """Write what a run found; the last thing a run notebook does.

    A file that the strategy's finalize section asks for is written into the run's folder.

    Args:
        run_dir: the run's folder.
        key: the key the notebook was given.
        inputs: from `run_inputs`: what was used.
        quantized: from `vqkit.quantize`.
        scores: from `score`.
        sqnr: from `vqkit.sqnr`.
        cross_check: from `vqkit.cross_check`, if the run has one: its metrics join the run's, its table is
            kept in `cross_check.json`.

    Returns:
        The metrics as recorded.

    Raises:
        RecordError: the notebook used other inputs than its run stands for, or the run was taken over.
    """
    folder = Path(run_dir)
    expected = read_json(folder / store.RECORD)
    _check_is_expected(expected, key, inputs)
    found = summarize(quantized, scores, sqnr)
    if cross_check is not None:
        found |= {k: float(v) for k, v in cross_check.metrics.items()}
        write_json(folder / "cross_check.json", cross_check.to_json())
    _write_plan(folder, quantized)
    rows = [{str(k): v for k, v in row.items()} for row in sqnr.to_dict("records")]
    write_json(folder / "sqnr.json", [_finite(row) for row in rows])
    _keep_predictions(folder, scores)
    from vqkit.export.files import finalize

    finalize(quantized, folder)
    notes = list(quantized.outside)
    judged = [judge.metric.to_json() for judge in scores.judges]
    # Of a record without the list the metric is accuracy, as in those of earlier versions.
    said = {} if [m["name"] for m in judged] == ["accuracy"] else {"judged": judged}
    told = {"notes": notes, "coverage": str(covered(quantized)), **said}
    result = {"key": key, "attempt": expected["attempt"], "metrics": found, **told}
    write_json(folder / store.RESULT, result)
    return found


def record_metrics(
    metrics: Mapping[str, float],
    *,
    better: Literal["higher", "lower"] | None = None,
    unit: Literal["percent", "plain"] = "plain",
    samples: Any = None,
    quantized: Quantized | None = None,
) -> dict[str, float]:
    """Write what a notebook of one's own found, as the result of its run; the one call that it needs.

    Outside a run, as when the notebook is tried by hand, nothing is written.

    Args:
        metrics: name -> number. The first one decides between runs; `float_<its name>`, if given, is the float model's.
        better: which direction of the first metric is better; None where its name tells.
        unit: "percent" is printed times 100, differences in points; "plain" as it is.
        samples: the deciding metric of each evaluation sample, shape (n,), whose mean it is: runs on the same samples
            are then compared by paired tests, and the run has an interval.
        quantized: from `vqkit.quantize`: its strategy is checked against the run's, and its plan, encodings, bytes and
            operations are kept.

    Returns:
        The metrics as recorded.

    Raises:
        DataError: no metric, one that is no finite number, a direction that nobody stated, or samples whose mean is
            not the first metric.
        RecordError: another strategy was quantized with than the run stands for, or the run was taken over.

    Example:
        >>> import vqkit
        >>> vqkit.run_api.record_metrics({"max_error": 0.25, "float_max_error": 0.2})
        {'max_error': 0.25, 'float_max_error': 0.2, 'max_error_delta': 0.04999999999999999}
    """
    measured = {str(k): float(v) for k, v in metrics.items()}
    wrong = next((k for k, v in measured.items() if not math.isfinite(v)), None)
    if wrong is not None or not measured:
        raise DataError(f"metric {wrong!r} is {measured[wrong]}" if wrong else "no metric is given")
    name = next(iter(measured))
    which = better or direction(name)
    if which is None:
        raise DataError(f"metric {name!r}: which direction is better? State better='higher' or 'lower'")
    found = {**measured, **_beside_float(name, measured)}
    values = None if samples is None else _samples_of(name, samples, measured[name])
    if values is not None:
        found[f"{name}_low"], found[f"{name}_high"] = statistics.bootstrap(lambda s, n: s[..., 0] / n, values)
    if RUN_DIR not in os.environ:
        return found
    folder = Path(os.environ[RUN_DIR])
    expected = read_json(folder / store.RECORD)
    _check_attempt(expected)
    notes = ["the notebook recorded figures of its own; that it heeded the run's strategy was not checked"]
    if quantized is not None:
        used, wanted = quantized.strategy.digest, expected["inputs"]["strategy"]["digest"]
        if used != wanted:
            raise RecordError(f"run {expected['key']}: quantized with strategy {used}, the run stands for {wanted}")
        notes = list(quantized.outside)
        found = {**_size_of(quantized), **found}
        _write_plan(folder, quantized)
    if values is not None:
        write_npz(folder / SAMPLES, {"samples": values}, compressed=True)
    judged = [{"name": name, "better": which, "unit": unit}]
    result = {"key": expected["key"], "attempt": expected["attempt"], "metrics": found, "notes": notes}
    write_json(folder / store.RESULT, {**result, "judged": judged})
    return found


def _beside_float(name: str, metrics: Mapping[str, float]) -> dict[str, float]:
    reference = metrics.get(f"float_{name}")
    return {} if reference is None else {f"{name}_delta": metrics[name] - reference}


def _samples_of(name: str, samples: Any, value: float) -> np.ndarray:
    """Of each sample what it adds to the metric, shape (n, 1)."""
    if combine_of(name) is not None:
        raise DataError(f"samples of metric {name}: it is no mean over samples")
    values = np.asarray(samples)
    if values.ndim != 1 or values.dtype.kind not in "fiub" or len(values) < 2:
        raise DataError(f"samples of metric {name}: one number for each sample is needed, given shape {values.shape}")
    if not np.isclose(values.mean(dtype=np.float64), value, rtol=1e-4, atol=1e-9):
        raise DataError(f"samples of metric {name}: their mean is {values.mean():.6g}, the metric {value:.6g}")
    return values[:, None]


def _check_is_expected(expected: Mapping[str, Any], key: str, inputs: Mapping[str, Any]) -> None:
    wanted = expected["inputs"]
    # What a notebook cannot know of itself: its own digest, and that of its parameters.
    whole = {**inputs, "code": wanted["code"], "parameters": wanted.get("parameters")}
    used = deciding(whole)
    for name, value in deciding(wanted).items():
        if used[name] != value:
            raise RecordError(f"run {key}: the notebook used {name} {used[name]!r}, the run stands for {value!r}")
    if key_of(whole) != key:
        raise RecordError(not_allowed("key", key, [expected["key"]]))
    _check_attempt(expected)


def _write_plan(folder: Path, quantized: Quantized) -> None:
    write_json(folder / "plan.json", quantized.plan.to_json())
    write_json(folder / "encodings.json", {k: q.to_json() for k, q in quantized.encodings.items()})


def _check_attempt(expected: Mapping[str, Any]) -> None:
    attempt = os.environ.get(ATTEMPT)
    if attempt is not None and attempt != expected["attempt"]:
        raise RecordError(f"run {expected['key']}: another process took the run over")


def covered(quantized: Quantized) -> Coverage:
    """How much of a model is quantized, and why the rest is not.

    Args:
        quantized: from `vqkit.quantize`.
    """
    return coverage(quantized)


def summarize(quantized: Quantized, scores: Scores, sqnr: pd.DataFrame) -> dict[str, float]:
    """The numbers of a record: accuracy beside float, bytes, signal-to-noise ratios, counts, seconds.

    Args:
        quantized: from `vqkit.quantize`.
        scores: from `score`.
        sqnr: from `vqkit.sqnr`.

    Returns:
        Name -> number; what is not finite is left out.
    """
    own, reference = scores.quantized.metrics, scores.float_metrics
    compared = {f"float_{k}": reference[k] for k in own} | {f"{k}_delta": own[k] - reference[k] for k in own}
    outputs, inside = sqnr[sqnr.role == "output"], sqnr[sqnr.role != "output"]
    numbers = {
        **own,
        **compared,
        **_bounds(scores),
        **_size_of(quantized),
        "sqnr_output_db": outputs.sqnr_db.min(),
        "sqnr_min_db": inside.sqnr_db.min(),
        "seconds_evaluate": scores.seconds,
    }
    return {k: float(v) for k, v in numbers.items() if math.isfinite(v)}


def _size_of(quantized: Quantized) -> dict[str, float]:
    return {
        "size_bytes": quantized.size_bytes,
        "float_size_bytes": quantized.float_size_bytes,
        **totals(quantized),
        **covered(quantized).numbers,
        "quantized_tensors": len(quantized.plan.quantized),
        "float_tensors": len(quantized.plan.float_rows),
        "seconds_quantize": sum(quantized.timings.values()),
    }


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinity; a tensor that quantization leaves as it is has no noise to compare with."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _bounds(scores: Scores) -> dict[str, float]:
    """95 % interval of the deciding metric; that of accuracy follows from the number of samples."""
    from vqkit.evaluation.judgement import interval, interval_of

    judge = scores.judges[0]
    name = judge.metric.name
    if name == "accuracy":
        return {}
    samples = _samples(scores, judge)
    if samples is not None:
        low, high = interval_of(judge.metric, samples)
    elif judge.metric.asks:
        return {}
    else:
        low, high = interval(judge.metric, *_of_judge(scores, judge), scores.weights)
    return {f"{name}_low": low, f"{name}_high": high}


def _samples(scores: Scores, judge: Judge) -> np.ndarray | None:
    """What each sample adds to a metric, where it has a value for a sample."""
    known = scores.quantized.samples.get(judge.metric.name)
    return judge.metric.samples(*_of_judge(scores, judge), scores.weights) if known is None else known


def _of_judge(scores: Scores, judge: Judge) -> tuple[np.ndarray, np.ndarray]:
    """The outputs and labels that a metric judges."""
    _, outputs, labels = pairs_of(scores.quantized.predictions, scores.labels)[judge.output]
    return scores.quantized.scores.get(judge.metric.name, outputs), np.asarray(labels)


MOST_SAMPLES = 1 << 22
"""Numbers that a run keeps of its samples for paired tests."""
MOST_OUTPUTS = 1 << 20
"""Numbers that a run keeps of its outputs, to be looked at."""


def _keep_predictions(folder: Path, scores: Scores) -> None:
    """Per sample: the class that was predicted, or what the deciding metric adds up; for comparisons of two runs."""
    from vqkit.quantization.labels import class_numbers, predicted_classes

    judge = scores.judges[0]
    if judge.metric.name == "accuracy":
        try:
            own, labels = _of_judge(scores, judge)
            y = class_numbers(labels, own.shape[1:])
        except DataError:
            # A task without classes, which a notebook may measure by metrics of its own.
            return
        write_npz(folder / PREDICTIONS, {"predicted": predicted_classes(own), "labels": y}, compressed=True)
        return
    samples = _samples(scores, judge)
    known = judge.metric.combine is combine_of(judge.metric.name)
    if samples is not None and known and samples.size <= MOST_SAMPLES:
        outputs, labels = _of_judge(scores, judge)
        plain = all(a.dtype.kind in "fiub" and len(a) == len(samples) for a in (outputs, labels) if a.ndim)
        small = plain and labels.ndim > 0 and outputs.size + labels.size <= MOST_OUTPUTS
        kept = {"outputs": outputs, "labels": labels} if small else {}
        write_npz(folder / SAMPLES, {"samples": samples, **kept}, compressed=True)
