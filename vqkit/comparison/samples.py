"""Single evaluation samples of runs: where one run does worst, where two differ, and what those samples look like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vqkit import plots
from vqkit.comparison.page import cells, drawn, message_html
from vqkit.comparison.ranking import combination
from vqkit.errors import DataError, RecordError, VqkitError
from vqkit.plots.samples import is_picture, is_series
from vqkit.runs.records import PREDICTIONS, SAMPLES, answers, kept_outputs, rows_of, sample_values
from vqkit.runs.store import RunRecord
from vqkit.tables import Measure

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 24
_MOST_CLASSES = 100


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


def sample_inputs(run_dir: str | Path, samples: Any) -> list[NDArray[Any]]:
    """Evaluation samples of a run as it was given them; the data are loaded again from where the record says.

    Args:
        run_dir: `runs/variants/<key>`.
        samples: positions among the samples that the run was evaluated on.

    Returns:
        Arrays without the first axis.

    Raises:
        DataError: the data cannot be loaded, are others than the run used, are several inputs, or come from a loader
            that this user has not run before.
    """
    from vqkit.sweeps.source import check_known, load_data, some_of

    inputs = RunRecord.read(run_dir).inputs
    said = inputs.get("data", {})
    check_known(said.get("ref"))
    data = load_data(said.get("ref"))
    if data.digest != said.get("digest"):
        raise DataError(
            f"{data.name}: the data have digest {data.digest}, the run used {said.get('digest')}; "
            "their pictures would be of other samples"
        )
    x = some_of(data, inputs.get("eval_images")).x_eval
    if not isinstance(x, np.ndarray):
        raise DataError(f"{data.name}: samples of several inputs are no pictures")
    return [x[i] for i in samples]


def sample_images(run_dir: str | Path, samples: Any) -> list[NDArray[Any]]:
    """The same, of samples that are pictures.

    Args:
        run_dir: `runs/variants/<key>`.
        samples: positions among the samples that the run was evaluated on.

    Returns:
        Arrays of shape (height, width, 1 or 3) or (height, width).

    Raises:
        DataError: as `sample_inputs`, or they are no pictures.
    """
    found = sample_inputs(run_dir, samples)
    if found and not is_picture(found[0].shape):
        raise DataError(f"samples of shape {found[0].shape} are no pictures")
    return found


def worst_samples(run_dir: str | Path, n: int = SHOWN) -> pd.DataFrame:
    """The samples on which a run does worst, worst first.

    Args:
        run_dir: `runs/variants/<key>`.
        n: how many at most.

    Returns:
        Columns sample (position among those it was evaluated on), value (the deciding metric of that sample alone),
        label and output where they were kept; of a classifier those with wrong answers alone.

    Raises:
        RecordError: the run kept nothing of its samples.
    """
    import pandas as pd

    if _answers_classes(run_dir):
        predicted, labels = answers(run_dir)
        at = np.flatnonzero(predicted != labels)[:n]
        return pd.DataFrame({"sample": at, "value": 0.0, "label": labels[at], "output": predicted[at]})
    measure = RunRecord.read(run_dir).measure
    values = _values(run_dir, measure)
    goodness = np.nan_to_num(measure.sign * values, nan=-np.inf)
    at = np.argsort(goodness, kind="stable")[:n]
    found: dict[str, Any] = {"sample": at, "value": values[at]}
    kept = kept_outputs(run_dir)
    if kept is not None:
        outputs, labels = kept
        found |= {"label": [_few(labels[i]) for i in at], "output": [_few(outputs[i]) for i in at]}
    return pd.DataFrame(found)


def _answers_classes(run_dir: str | Path) -> bool:
    """Whether what a run keeps of its samples is the class that it answered."""
    if Path(run_dir, PREDICTIONS).is_file():
        return True
    return RunRecord.read(run_dir).measure == Measure() and not Path(run_dir, SAMPLES).is_file()


def _values(run_dir: str | Path, measure: Measure) -> NDArray[np.float64]:
    """The deciding metric of each sample alone."""
    samples = sample_values(run_dir)
    if samples is None:
        raise RecordError(f"{run_dir}: nothing was kept of single samples ({measure.name} has no value for one)")
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(combination(measure.name)(samples, 1), np.float64)


def _few(values: NDArray[Any]) -> str:
    """A label or an output in few words."""
    flat = np.ravel(values)
    if flat.size > 4:
        return f"{flat.size} values"
    return " ".join(f"{v:.4g}" for v in flat.tolist())


def moved_samples(run_a: str | Path, run_b: str | Path) -> pd.DataFrame:
    """How much better each sample is in the second run than in the first, those that got worst first.

    Args:
        run_a, run_b: run directories; both judged by one metric on the same samples.

    Returns:
        Columns sample, a, b (the metric of the sample) and gain (positive where b is better).

    Raises:
        RecordError: one kept nothing of its samples, or they differ in metric or samples.
    """
    import pandas as pd

    measures = [RunRecord.read(run).measure for run in (run_a, run_b)]
    if measures[0] != measures[1]:
        raise RecordError(f"one run is judged by {measures[0].name}, the other by {measures[1].name}")
    a, b = (_values(run, measures[0]) for run in (run_a, run_b))
    if a.shape != b.shape:
        raise RecordError(f"{run_a} and {run_b} were evaluated on different samples")
    gain = measures[0].sign * (b - a)
    at = np.argsort(np.nan_to_num(gain, nan=0.0), kind="stable")
    return pd.DataFrame({"sample": at, "a": a[at], "b": b[at], "gain": gain[at]})


def class_table(run_dir: str | Path) -> pd.DataFrame:
    """How a run does on each class, the worst first.

    Args:
        run_dir: `runs/variants/<key>`.

    Returns:
        Columns label, samples, right (a share), taken_for (the most frequent wrong answer) and times.

    Raises:
        RecordError: the run kept no predictions.
    """
    import pandas as pd

    predicted, labels = answers(run_dir)
    rows = []
    for label in np.unique(labels):
        of_class = predicted[labels == label]
        wrong, times = np.unique(of_class[of_class != label], return_counts=True)
        most = int(np.argmax(times)) if len(times) else None
        taken = (None, 0) if most is None else (int(wrong[most]), int(times[most]))
        rows.append((int(label), len(of_class), float(np.mean(of_class == label)), *taken))
    table = pd.DataFrame(rows, columns=["label", "samples", "right", "taken_for", "times"])
    table["taken_for"] = table["taken_for"].astype("Int64")
    return table.sort_values(["right", "label"], kind="stable", ignore_index=True)


# --- as HTML ---


def worst_html(run_dir: str | Path, theme: plots.Theme | None) -> str:
    """Where a run goes wrong: its worst samples as pictures or series; classes, or residuals.

    Args:
        run_dir: `runs/variants/<key>`.
        theme: of the pictures; see `page.drawn`.
    """
    try:
        return "".join(_worst(run_dir, theme))
    except VqkitError as e:
        return message_html(str(e))


def _worst(run_dir: str | Path, theme: plots.Theme | None) -> Iterator[str]:
    measure, worst = RunRecord.read(run_dir).measure, worst_samples(run_dir)
    classes = _answers_classes(run_dir)
    if classes:
        predicted, labels = answers(run_dir)
        wrong = int(np.sum(predicted != labels))
        yield f"<p>{wrong} of {len(labels)} samples are answered wrongly{_first(wrong)}</p>"
        captions = [f"#{r['sample']}: {r['label']}\nanswered {r['output']}" for r in rows_of(worst)]
    else:
        yield f"<p>By {measure.name} ({measure.better} is better) these {len(worst)} samples are worst.</p>"
        captions = [f"#{r['sample']}\n{measure.name} {measure.text(r['value'])}" for r in rows_of(worst)]
    yield _samples_html(run_dir, worst, captions, "The samples on which the run does worst", theme)
    if classes:
        yield from _classes(predicted, labels, class_table(run_dir), theme)
        return
    kept = kept_outputs(run_dir)
    if kept is not None and kept[0].size == kept[1].size:
        yield drawn(lambda t: plots.residuals(*kept, theme=t), "Output minus label against the label", theme)


def _first(count: int) -> str:
    return f"; the first {SHOWN} of them:" if count > SHOWN else ":" if count else "."


def _classes(
    predicted: NDArray[Any], labels: NDArray[Any], table: pd.DataFrame, theme: plots.Theme | None
) -> Iterator[str]:
    if np.any(predicted != labels):
        said = "Which class is taken for which: rows are right, columns answered"
        yield drawn(lambda t: plots.confusion(predicted, labels, theme=t), said, theme)
    shown = table.head(_MOST_CLASSES)
    rows = [
        [
            str(r["label"]),
            str(r["samples"]),
            f"{100 * r['right']:.1f} %",
            f"{r['taken_for']} ({r['times']} times)" if r["times"] else "–",
        ]
        for r in rows_of(shown)
    ]
    yield cells(("class", "samples", "right", "most often taken for"), rows)
    if len(table) > len(shown):
        yield f"<p>The {len(shown)} worst of {len(table)} classes.</p>"


def _samples_html(
    run_dir: str | Path, table: pd.DataFrame, captions: Sequence[str], said: str, theme: plots.Theme | None
) -> str:
    """Samples as pictures or series where they can be shown, else their numbers."""
    if not len(table):
        return ""

    def draw(inputs: list[NDArray[Any]]) -> Callable[[plots.Theme], Figure]:
        return lambda theme: plots.samples(inputs, captions, theme=theme)

    try:
        inputs = sample_inputs(run_dir, table["sample"])
        if not (is_picture(inputs[0].shape) or is_series(inputs[0].shape)):
            raise DataError(f"samples of shape {inputs[0].shape} are neither pictures nor series")
        return drawn(draw(inputs), said, theme)
    except VqkitError as e:
        rows = [[f"{v:.6g}" if isinstance(v, float) else str(v) for v in r.values()] for r in rows_of(table)]
        return message_html(f"No pictures: {e}") + cells([*table.columns], rows)


def differing_html(run_a: str | Path, run_b: str | Path, theme: plots.Theme | None) -> str:
    """The samples on which two runs differ: those that flipped, or by another metric those that got worst.

    Args:
        run_a, run_b: run directories.
        theme: of the pictures; see `page.drawn`.
    """
    try:
        if _answers_classes(run_a) or _answers_classes(run_b):
            return _flipped_html(run_a, run_b, theme)
        measure, moved = RunRecord.read(run_a).measure, moved_samples(run_a, run_b)
    except VqkitError as e:
        return message_html(str(e))
    worse, better = int(np.sum(moved["gain"] < 0)), int(np.sum(moved["gain"] > 0))
    few = moved[moved["gain"] < 0].head(SHOWN)
    captions = [f"#{r['sample']}\nA {measure.text(r['a'])}\nB {measure.text(r['b'])}" for r in rows_of(few)]
    return (
        f"<p>By {measure.name} B is worse on {worse} of {len(moved)} samples and better on {better}"
        f"{_first(worse)}</p>"
        + _samples_html(run_a, few, captions, "The samples that got worst from run A to run B", theme)
    )


def _flipped_html(run_a: str | Path, run_b: str | Path, theme: plots.Theme | None) -> str:
    samples = flipped_samples(run_a, run_b)
    counts = samples["right"].value_counts()
    kinds = {"A": "only A is right", "B": "only B is right", "neither": "both are wrong"}
    said = ", ".join(f"{counts.get(who, 0)} where {what}" for who, what in kinds.items())
    few = samples.head(SHOWN)
    parts = [f"<p>{len(samples)} samples are answered differently: {said}.</p>"]
    try:
        images = sample_images(run_a, few["sample"])
        said = "Samples that two runs answer differently, with both answers"
        parts.append(drawn(lambda t: plots.flipped_samples(few, images, theme=t), said, theme))
    except VqkitError as e:
        parts += [
            message_html(f"No pictures: {e}"),
            cells([*few.columns], few.astype(str).to_numpy().tolist()),
        ]
    return "".join(parts)
