"""Run records read back: many small JSON files into one table, whatever state they are in."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqkit.errors import RecordError, not_allowed
from vqkit.runs.damage import damaged_files
from vqkit.files import read_json

if TYPE_CHECKING:
    import pandas as pd

Record = dict[str, Any]
OVERRIDE = "override."
BROKEN, PENDING = "BROKEN", "PENDING"
# In `sweep.json`: how a sweep was screened; and, in its variants, which runs are of the screening.
SCREENING = "screening"
METRICS = (
    "accuracy",
    "float_accuracy",
    "accuracy_delta",
    "size_bytes",
    "float_size_bytes",
    "macs",
    "bit_operations",
    "sqnr_output_db",
    "sqnr_min_db",
    "quantized_tensors",
    "float_tensors",
    "seconds_quantize",
    "seconds_evaluate",
    "seconds_total",
)
_PLAIN = ("seed", "calibration", "vitis_compat", "batch_size", "steps", "code")


def read_record(run_dir: str | Path) -> Record:
    """Read one variant's record and check that it is one.

    Args:
        run_dir: `runs/variants/<key>`.

    Returns:
        The record as written, with "directory" added.

    Raises:
        RecordError: there is no record, or it is not a JSON object with a key and a status.
    """
    path = Path(run_dir, "record.json")
    try:
        with open(path, "rb") as f:
            record = json.loads(f.read())
    except (OSError, ValueError, RecursionError) as e:
        raise RecordError(f"{path}: cannot be read as a run record: {e}") from e
    if not isinstance(record, dict) or not all(isinstance(record.get(k), str) for k in ("key", "status")):
        raise RecordError(f"{path}: not a run record: expected a JSON object with 'key' and 'status'")
    odd = [k for k in ("inputs", "metrics", "artifacts") if not isinstance(record.get(k, {}), dict)]
    if odd:
        raise RecordError(f"{path}: not a run record: {odd[0]!r} is no JSON object")
    return {**record, "directory": str(run_dir)}


def scan(runs_dir: str | Path) -> Iterator[Record]:
    """Every record under `runs_dir`, in the order of their keys; a broken one comes as status BROKEN.

    Args:
        runs_dir: the folder that holds `variants/`.

    Returns:
        An iterator of records; nothing is raised for a record that cannot be read.
    """
    folder = os.path.join(runs_dir, "variants")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    for name in names:
        # A folder without a record has only been claimed by a run that is about to start.
        if any(os.path.lexists(os.path.join(folder, name, f)) for f in ("record.json", "result.json")):
            yield _read_or_broken(os.path.join(folder, name), name)


def _read_or_broken(directory: str, key: str) -> Record:
    try:
        return read_record(directory)
    except RecordError as e:
        error = {"type": "RecordError", "message": str(e), "cell": None}
        return {"key": key, "name": key, "status": BROKEN, "error": error, "directory": directory}


def sweep_names(runs_dir: str | Path) -> list[str]:
    """Names of the sweeps that `runs_dir` knows, sorted."""
    return sorted(p.parent.name for p in Path(runs_dir, "sweeps").glob("*/sweep.json"))


def read_sweep(runs_dir: str | Path, name: str) -> dict[str, Any] | None:
    """The resolved sweep as written before it ran, or None where there is none.

    Raises:
        RecordError: the file is there and is no resolved sweep.
    """
    path = Path(runs_dir, "sweeps", name, "sweep.json")
    if not path.is_file():
        return None
    found = read_json(path)
    variants = found.get("variants", []) if isinstance(found, dict) else None
    if not isinstance(variants, list) or not all(
        isinstance(v, dict) and isinstance(v.get("key"), str) for v in variants
    ):
        raise RecordError(f"{path}: not a resolved sweep: expected a JSON object whose 'variants' have keys")
    return found


def of_sweep(runs_dir: str | Path, name: str) -> list[Record]:
    """Records of one sweep in its own order; a variant that has not run yet comes as status PENDING.

    A variant's record is shared by all sweeps that contain it, so the sweep's file says who belongs to it,
    and under which name.

    Args:
        runs_dir: the folder that holds `variants/` and `sweeps/`.
        name: the sweep's name.

    Raises:
        RecordError: no such sweep; the message names those there are.
    """
    sweep = read_sweep(runs_dir, name)
    if sweep is None:
        mine = [r for r in scan(runs_dir) if r.get("sweep") == name]
        if mine:
            return mine
        raise RecordError(not_allowed(str(runs_dir), name, sweep_names(runs_dir), what="sweep"))
    entries: dict[str, Record] = {}
    for entry in sweep.get("variants", []):
        entries.setdefault(entry["key"], entry)
    return [_entry_record(runs_dir, entry, name) for entry in entries.values()]


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
    lost = sum(v["accuracy"] is None for v in told["variants"])
    without = f", {lost} without a result" if lost else ""
    return (
        f"Screened {len(told['variants'])} variants on {how}: {kept} may be the best (confidence "
        f"{told['confidence']}, margin {told['margin']}) and are measured on all; "
        f"{len(told['variants']) - kept - lost} ruled out{without}."
    )


def _entry_record(runs_dir: str | Path, entry: Mapping[str, Any], sweep: str) -> Record:
    directory = os.path.join(runs_dir, "variants", entry["key"])
    if not any(os.path.lexists(os.path.join(directory, f)) for f in ("record.json", "result.json")):
        inputs = {"overrides": entry.get("overrides", {}), "strategy": {"base": entry.get("base")}}
        return {**entry, "status": PENDING, "sweep": sweep, "inputs": inputs, "directory": directory}
    record = _read_or_broken(directory, entry["key"])
    return {**record, "name": entry.get("name", record.get("name")), "sweep": sweep}


def find(runs_dir: str | Path, given: str) -> Path:
    """The run directory that a person means by a key, the start of a key, or a variant's name.

    Raises:
        RecordError: nothing or more than one thing fits.
    """
    exact = Path(runs_dir, "variants", given)
    if re.fullmatch(r"[0-9a-f]{16,}", given) and (exact / "record.json").is_file():
        return exact
    records = list(scan(runs_dir))
    fits = [r for r in records if r["key"] == given or r.get("name") == given]
    fits = fits or [r for r in records if r["key"].startswith(given)]
    if len(fits) == 1:
        return Path(fits[0]["directory"])
    if fits:
        raise RecordError(
            f"{given!r} means {len(fits)} runs: {', '.join(r['key'] for r in fits[:6])}. Give a key"
        )
    raise RecordError(not_allowed(str(runs_dir), given, _known_names(records), what="run"))


def _known_names(records: Iterable[Record]) -> list[str]:
    return [name for r in records for name in (str(r.get("name")), r["key"])]


def row(record: Record) -> dict[str, Any]:
    """One record as one flat row: names as in the record, overrides under `override.<key>`."""
    inputs, metrics = _mapping(record, "inputs"), _mapping(record, "metrics")
    error, strategy = _mapping(record, "error"), _mapping(inputs, "strategy")
    return {
        "key": record["key"],
        "name": record.get("name") or record["key"],
        "status": record["status"],
        "sweep": record.get("sweep"),
        "strategy": strategy.get("base"),
        "strategy_digest": strategy.get("digest"),
        **{name: inputs.get(name) for name in _PLAIN},
        **_source(inputs, "model"),
        **_source(inputs, "data"),
        "n_calib": _mapping(inputs, "data").get("n_calib"),
        "n_eval": inputs.get("eval_images") or _mapping(inputs, "data").get("n_eval"),
        "eval_images": inputs.get("eval_images"),
        **{name: _number(metrics.get(name)) for name in METRICS},
        "error_type": error.get("type"),
        "error": error.get("message"),
        "error_cell": error.get("cell"),
        "notes": _notes(record),
        "started": record.get("started"),
        "ended": record.get("ended"),
        "damaged": "; ".join(damaged_files(record.get("directory"), _mapping(record, "artifacts"))),
        "directory": record.get("directory"),
        **{OVERRIDE + name: value for name, value in _mapping(inputs, "overrides").items()},
    }


def _notes(record: Record) -> tuple[str, ...]:
    found = record.get("notes")
    return tuple(map(str, found)) if isinstance(found, list) else ()


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


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Records as a table, one row each, in the given order; see `row` for the columns.

    Args:
        records: run records, from disk or from mlflow.

    Returns:
        A frame with all columns of `row` even when there are no records.
    """
    import pandas as pd

    rows = [row(r) for r in records]
    columns = list(row({"key": "", "status": ""}))
    extra = dict.fromkeys(name for r in rows for name in r if name.startswith(OVERRIDE))
    data = {name: [r.get(name) for r in rows] for name in [*columns, *extra]}
    frame = pd.DataFrame(data, dtype=object)
    numeric = [*METRICS, "n_calib", "n_eval"]
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
    if not Path(runs_dir).is_dir():
        raise RecordError(f"{runs_dir}: there is no such folder of runs")
    return select(to_frame(scan(runs_dir) if sweep is None else of_sweep(runs_dir, sweep)), where)


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
