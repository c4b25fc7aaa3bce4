"""Runs as a table, in whatever state they are: their columns, their damaged files, and what they answered."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vqkit import statistics
from vqkit.errors import RecordError, not_allowed
from vqkit.files import open_file, read_npz
from vqkit.runs.store import RECORD, RESULT, RunRecord, Status, Store
from vqkit.tables import Measure

if TYPE_CHECKING:
    import pandas as pd

OVERRIDE = "override."
# In `sweep.json`: how a sweep was screened; and, in its variants, which runs are of the screening.
SCREENING = "screening"
MEASURED = (
    "size_bytes",
    "float_size_bytes",
    "macs",
    "bit_operations",
    "quantized_weights",
    "quantized_macs",
    "sqnr_output_db",
    "sqnr_min_db",
    "quantized_tensors",
    "float_tensors",
    "seconds_quantize",
    "seconds_evaluate",
    "seconds_total",
)
"""Numbers of every record, whatever it is judged by."""
METRICS = ("accuracy", "float_accuracy", "accuracy_delta", *MEASURED)
VALUES = ("value", "float_value", "value_delta", "value_low", "value_high")
"""Columns of the deciding metric: its value, that of float, their difference, its interval where the run has one."""
_PLAIN = ("seed", "calibration", "vitis_compat", "batch_size", "steps", "code")
PREDICTIONS = "predictions.npz"
SAMPLES = "samples.npz"


def row(record: RunRecord) -> dict[str, Any]:
    """One record as one flat row: names as in the record, overrides under `override.<key>`."""
    inputs, metrics, error = record.inputs, record.metrics, record.error or {}
    strategy, data = _mapping(inputs, "strategy"), _mapping(inputs, "data")
    directory = None if record.directory is None else str(record.directory)
    return {
        "key": record.key,
        "name": record.name or record.key,
        "status": str(record.status),
        "sweep": record.sweep,
        "strategy": strategy.get("base"),
        "strategy_digest": strategy.get("digest"),
        **{name: inputs.get(name) for name in _PLAIN},
        **_source(inputs, "model"),
        **_source(inputs, "data"),
        "n_calib": data.get("n_calib"),
        "n_eval": inputs.get("eval_images") or data.get("n_eval"),
        "eval_images": inputs.get("eval_images"),
        **{name: _number(metrics.get(name)) for name in METRICS},
        **_decided(record),
        "error_type": error.get("type"),
        "error": error.get("message"),
        "error_cell": error.get("cell"),
        "notes": tuple(map(str, record.notes)),
        "outside": "",
        "coverage": record.coverage,
        "started": record.started or None,
        "ended": record.ended,
        "damaged": "; ".join([*_altered(record), *damaged_files(directory, record.artifacts)]),
        "directory": directory,
        **{OVERRIDE + k: v for part in ("overrides", "parameters") for k, v in _mapping(inputs, part).items()},
    }


def _altered(record: RunRecord) -> list[str]:
    return [] if record.is_as_written else [f"{Path(record.directory or '', RECORD)}: was changed after the run"]


def _decided(record: RunRecord) -> dict[str, Any]:
    measure, metrics = record.measure, record.metrics
    name = measure.name
    values = [metrics.get(n) for n in (name, f"float_{name}", f"{name}_delta", f"{name}_low", f"{name}_high")]
    said = {"metric": name, "better": measure.better, "unit": measure.unit}
    return {**said, **dict(zip(VALUES, map(_number, values), strict=True))}


def with_values(frame: pd.DataFrame) -> pd.DataFrame:
    """A table that has the columns of the deciding metric; one that tells of accuracy alone gets accuracy's.

    Args:
        frame: rows as from `row`, or with the columns accuracy and float_accuracy alone.
    """
    if "value" in frame.columns:
        return frame
    known = {name: frame[name] if name in frame.columns else np.nan for name in ("accuracy", "float_accuracy")}
    measure = Measure()
    return frame.assign(
        metric=measure.name,
        better=measure.better,
        unit=measure.unit,
        value=known["accuracy"],
        float_value=known["float_accuracy"],
        value_delta=known["accuracy"] - known["float_accuracy"],
        value_low=np.nan,
        value_high=np.nan,
    )


def measure_of(frame: pd.DataFrame) -> Measure:
    """What the finished runs of a table are ranked by: the first one's metric."""
    rows = with_values(frame)
    known = rows[rows["value"].notna()]
    return Measure.of(rows_of(known.head(1))[0]) if len(known) else Measure()


def _mapping(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = parent.get(name)
    return value if isinstance(value, Mapping) else {}


def _source(inputs: Mapping[str, Any], name: str) -> dict[str, Any]:
    source = _mapping(inputs, name)
    return {name: short_ref(source.get("ref")), f"{name}_digest": source.get("digest")}


def short_ref(ref: Any) -> str | None:
    """What people call a model or data set: the built-in name, or the file's name without its folder."""
    if isinstance(ref, Mapping):
        ref = ref.get("npz", ref.get("loader", json.dumps(dict(ref))))
    return None if ref is None else str(ref).replace("\\", "/").rpartition("/")[2]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def to_frame(records: Iterable[RunRecord]) -> pd.DataFrame:
    """Records as a table, one row each, in the given order; see `row` for the columns.

    Args:
        records: run records, from disk or from mlflow.

    Returns:
        A frame with all columns of `row` even when there are no records.
    """
    import pandas as pd

    rows = [row(r) for r in records]
    columns = list(row(RunRecord("", "", Status.PENDING, {})))
    extra = dict.fromkeys(name for r in rows for name in r if name.startswith(OVERRIDE))
    data = {name: [r.get(name) for r in rows] for name in [*columns, *extra]}
    frame = pd.DataFrame(data, dtype=object)
    numeric = [*METRICS, *VALUES, "n_calib", "n_eval"]
    frame[numeric] = frame[numeric].apply(pd.to_numeric, errors="coerce").astype("float64")
    return frame


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as dictionaries by column."""
    return [{str(k): v for k, v in r.items()} for r in frame.to_dict("records")]


def load_records(
    runs_dir: str | Path, sweep: str | None = None, where: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """All runs under a folder as one table, broken and unfinished ones included.

    Args:
        runs_dir: the folder that holds `variants/` and `sweeps/`.
        sweep: only this sweep's variants, in its order.
        where: column -> wanted value or list of values, e.g. {"weight_bit": [4, 8]}.

    Returns:
        One row per variant; `status` is BROKEN where the record cannot be read, PENDING where a variant of
        the sweep has none yet.

    Raises:
        RecordError: no such folder, sweep or column.
    """
    if not os.path.isdir(runs_dir):
        raise RecordError(f"{runs_dir}: there is no such folder of runs")
    store = Store(Path(runs_dir))
    records = store.records(sweep)
    frame = to_frame(records)
    told = store.sweep(sweep).get("spec") if sweep and sweep in store.sweeps() else None
    bounds = _mapping(told, "constraints") if isinstance(told, Mapping) else {}
    frame["outside"] = [outside(r, bounds) for r in records]
    return select(frame, where)


def outside(record: RunRecord, bounds: Mapping[str, Mapping[str, float | None]]) -> str:
    """Which of a sweep's constraints a finished run breaks, in words; "" where it keeps all.

    Args:
        record: of the run.
        bounds: name of a number -> `min` and `max`.
    """
    if record.status is not Status.FINISHED:
        return ""
    found = []
    for name, bound in bounds.items():
        value = record.metrics.get(name)
        least, most = bound.get("min"), bound.get("max")
        if value is None:
            found.append(f"no {name}")
        elif least is not None and not value >= least:
            found.append(f"{name} {value:.4g}, at least {least:g} wanted")
        elif most is not None and not value <= most:
            found.append(f"{name} {value:.4g}, at most {most:g} wanted")
    return "; ".join(found)


def select(frame: pd.DataFrame, where: Mapping[str, Any] | None) -> pd.DataFrame:
    """Rows whose columns hold the wanted values; overrides may be named without their prefix.

    Raises:
        RecordError: no such column; the message names those there are.
    """
    for name, wanted in (where or {}).items():
        column = name if name in frame.columns else OVERRIDE + name
        if column not in frame.columns:
            known = [c.removeprefix(OVERRIDE) for c in frame.columns]
            raise RecordError(not_allowed("where", name, known, what="column"))
        values = wanted if isinstance(wanted, Sequence) and not isinstance(wanted, str) else [wanted]
        texts = {_text(v) for v in values}
        frame = frame[[_text(v) in texts for v in frame[column]]]
    return frame.reset_index(drop=True)


def _text(value: Any) -> str:
    """One spelling per value, so that "4", 4 and 4.0 are the same wish."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return str(value).lower() if str(value).lower() in ("true", "false", "none", "nan") else str(value)


def sqnr_rows(found: Any, where: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's `sqnr.json`, if that is what they are.

    Args:
        found: what the file holds.
        where: the file, for the message.

    Raises:
        RecordError: they are not.
    """
    needed = {"layer", "tensor", "role", "order", "sqnr_db"}
    if isinstance(found, list) and all(isinstance(row, dict) and needed <= row.keys() for row in found):
        return found
    raise RecordError(f"{where}: expected a list of rows, each with {', '.join(sorted(needed))}")


def sentence(sweep: Mapping[str, Any]) -> str:
    """What was screened on how much, for people.

    Args:
        sweep: content of `sweep.json`.

    Returns:
        A sentence; "" for a sweep without screening.
    """
    told = sweep.get(SCREENING)
    if not told:
        return ""
    how = f"{told['images']} of {told['of']} evaluation images, calibration {told['calibration']}"
    if told["variants"] is None:
        return f"Screening on {how}; not yet decided."
    kept = sum(v["kept"] for v in told["variants"])
    lost = sum(v["gain"] is None and not v["kept"] for v in told["variants"])
    without = f", {lost} without a result" if lost else ""
    return (
        f"Screened {len(told['variants'])} variants on {how}: {kept} may be the best (confidence "
        f"{told['confidence']}, margin {told['margin']}) and are measured on all; "
        f"{len(told['variants']) - kept - lost} ruled out{without}."
    )


MOST_TOLD = 20
# First and last bytes of a whole file: enough to see what was cut short, and cheap for 10,000 runs.
_ENDS = {".json": ((b"{", b"["), (b"}", b"]")), ".ipynb": ((b"{",), (b"}",))}
_ZIP_BEGIN, _ZIP_END, _ZIP_TAIL = b"PK\x03\x04", b"PK\x05\x06", 22


def damaged_files(directory: str | Path | None, artifacts: Mapping[str, Any]) -> list[str]:
    """Files of a run that are missing, empty, cut short or something else, as far as their ends tell.

    Args:
        directory: the run's folder; None where it is not at hand.
        artifacts: name -> path relative to the folder, as the record lists what the run kept.

    Returns:
        One sentence for each, with the file's path.
    """
    if directory is None:
        return []
    listed = [str(name) for name in artifacts.values()]
    found = {name: _problem(Path(directory, name)) for name in listed}
    found |= {name: _problem(Path(directory, name)) for name in (RESULT,) if Path(directory, name).exists()}
    return [f"{Path(directory, name)}: {problem}" for name, problem in found.items() if problem]


def _problem(path: Path) -> str:
    try:
        with open_file(path) as file:
            begin = file.read(16)
            file.seek(0, 2)
            size = file.tell()
            file.seek(max(0, size - _ZIP_TAIL))
            end = file.read()
    except FileNotFoundError:
        return "is missing"
    except OSError as e:
        return f"cannot be read: {e.strerror or e}"
    if not size:
        return "is empty"
    if path.suffix == ".npz":
        return "" if begin.startswith(_ZIP_BEGIN) and end.startswith(_ZIP_END) else "is no whole .npz file"
    if path.suffix in _ENDS:
        begins, ends = _ENDS[path.suffix]
        whole = begin.lstrip().startswith(begins) and end.rstrip().endswith(ends)
        return "" if whole else "is no whole JSON file"
    return ""


def damaged(frame: pd.DataFrame, *, broken: bool = False) -> list[tuple[str, str]]:
    """Runs with damaged files: name and key of each, and what is wrong with which file.

    Args:
        frame: a leaderboard, or runs as from `load_records`.
        broken: also those of which the record itself cannot be read.
    """
    rows = [{str(k): v for k, v in r.items()} for r in frame.to_dict("records")]
    told = [(r, r["error"] if broken and r["status"] == "BROKEN" else r.get("damaged")) for r in rows]
    return [(f"{run['name']} [{run['key']}]", str(problem)) for run, problem in told if problem]


def damage_lines(frame: pd.DataFrame) -> list[str]:
    """One line for each run of which a file is damaged; its numbers stand in its record and are shown.

    Args:
        frame: a leaderboard.
    """
    told = damaged(frame)
    lines = [f"  {run} {problem}" for run, problem in told[:MOST_TOLD]]
    lines += [f"  … and {len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else []
    return ["", "Damaged files:", *lines] if lines else []


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


def sample_values(run_dir: str | Path | None) -> NDArray[np.float64] | None:
    """What each evaluation sample of a run adds to its deciding metric, shape (n, k); None where it kept none.

    Args:
        run_dir: `runs/variants/<key>`; None for a run that is only known from mlflow.
    """
    if run_dir is None or not Path(run_dir, SAMPLES).is_file():
        return None
    try:
        return np.asarray(read_npz(Path(run_dir, SAMPLES))["samples"], np.float64)
    except (RecordError, KeyError, ValueError):
        return None


def kept_outputs(run_dir: str | Path) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """What a run's model gave for each evaluation sample, and the labels; None where it kept none.

    Args:
        run_dir: `runs/variants/<key>`.
    """
    try:
        kept = read_npz(Path(run_dir, SAMPLES))
        outputs, labels = kept["outputs"], kept["labels"]
    except (RecordError, KeyError):
        return None
    return (outputs, labels) if len(outputs) == len(labels) else None


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
