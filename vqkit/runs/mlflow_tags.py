"""How a run record is said in mlflow's words (params, metrics, tags), and read back from them.

Plain dictionaries in and out: nothing here imports mlflow, so the translation is tested without a store.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from vqkit import digest
from vqkit.errors import RecordError
from vqkit.runs.records import short_ref
from vqkit.runs.store import RunRecord, Status

THRESHOLDS = "thresholds.csv"


BY_STEP = ("log2_threshold/", "position/")
"""How the names of metrics begin that change by step; they are no outcome of a run."""


def threshold_metrics(run_dir: str | Path) -> Iterator[tuple[str, float, int]]:
    """The thresholds of a trained run as metrics that change by step.

    Args:
        run_dir: of the run.

    Yields:
        Name (`log2_threshold/<tensor>` or `position/<tensor>`), value, step. Nothing for a run that was not
        trained.
    """
    path = Path(run_dir, THRESHOLDS)
    if not path.is_file():
        return
    try:
        with open(path, encoding="utf-8", newline="") as f:
            for row in csv.DictReader(f):
                yield from _row_metrics(row)
    except (OSError, LookupError, TypeError, ValueError, csv.Error) as e:
        raise RecordError(f"{path}: no table of thresholds: {type(e).__name__}: {e}") from e


def _row_metrics(row: Mapping[str, str]) -> Iterator[tuple[str, float, int]]:
    for what in ("log2_threshold", "position"):
        if row[what]:
            # mlflow allows no "@" (the second call of a shared layer) in a name.
            yield f"{what}/{row['tensor'].replace('@', '.')}", float(row[what]), int(row["step"])


# mlflow's own limits; it refuses or silently cuts what is longer.
KEY_LIMIT, PARAM_LIMIT, TAG_LIMIT = 250, 6000, 8000
_FORBIDDEN = re.compile(r"[^\w\-. :/]")


class Tag(StrEnum):
    """Every tag key that vqkit writes."""

    ID = "vqkit.id"
    KIND = "vqkit.kind"
    KEY = "vqkit.key"
    SWEEP = "vqkit.sweep"
    SWEEP_DIGEST = "vqkit.sweep_digest"
    STATUS = "vqkit.status"
    ERROR = "vqkit.error"
    INPUTS = "vqkit.inputs"
    JUDGED = "vqkit.judged"
    MODEL = "vqkit.model_digest"
    DATA = "vqkit.data_digest"
    STRATEGY = "vqkit.strategy_digest"
    CODE = "vqkit.code"
    RECORD = "vqkit.record_digest"
    COMPLETE = "vqkit.complete"
    MISSING = "vqkit.missing_artifacts"
    ENVIRONMENT = "vqkit.env"
    BEST = "vqkit.best_run_id"
    BEST_KEY = "vqkit.best_key"
    BEST_NAME = "vqkit.best_name"
    PARENT = "mlflow.parentRunId"
    NOTE = "mlflow.note.content"
    SOURCE = "mlflow.source.name"
    COMMIT = "mlflow.source.git.commit"


def identity(kind: str, key: str, sweep: str | None) -> str:
    """What makes two runs in the store the same one; a digest, so that it is safe in a filter."""
    return digest.of_json([kind, key, sweep])


def record_digest(record: RunRecord) -> str:
    """Digest of a record's content, wherever its folder stands."""
    return digest.of_bytes(_json(dict(record.written or record.to_json())).encode())


def _json(value: Any) -> str:
    """JSON text; unlike `digest.canonical_json` it also takes the infinite SQNR of a lossless tensor."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def legal_key(name: str) -> str:
    """A name that mlflow takes: its alphabet, no leading slash, at most 250 characters.

    JSON pointers start with a slash and may hold globs; a cut or changed name ends in a digest of the
    full one, so that two names never become one.
    """
    clean = re.sub(r"/{2,}|(^|/)\.{1,2}(?=/|$)", "_", _FORBIDDEN.sub("_", name.strip("/"))) or "_"
    if clean == name.strip("/") and len(clean) <= KEY_LIMIT:
        return clean
    return f"{clean[: KEY_LIMIT - 9]}_{digest.of_json(name)[:8]}"


def legal_text(text: str, limit: int) -> str:
    """A text that fits; a cut one says so and how long it was."""
    note = f"… ({len(text)} characters in all)"
    return text if len(text) <= limit else text[: limit - len(note)] + note


# Inputs that `params` names itself or leaves out; whatever else a run was set to is a param where it is set.
_ELSEWHERE = {"model", "data", "strategy", "overrides", "code", "qat", "sqnr_images"} | {
    "calibration",
    "seed",
    "vitis_compat",
    "batch_size",
    "steps",
}


def params(record: RunRecord) -> dict[str, str]:
    """The inputs of a run as mlflow params: what was chosen, not what came out.

    Returns:
        strategy, model, data, …, and each override under its own name; one that is called like a fixed
        param is written as `override.<name>`.
    """
    inputs = record.inputs
    data = inputs.get("data", {})
    fixed = {
        "strategy": inputs.get("strategy", {}).get("base"),
        "model": short_ref(inputs.get("model", {}).get("ref")),
        "data": short_ref(data.get("ref")),
        "n_calib": data.get("n_calib"),
        "n_eval": data.get("n_eval"),
        **{k: inputs.get(k) for k in ("calibration", "seed", "vitis_compat", "batch_size", "steps")},
        **{k: v for k, v in inputs.items() if k not in _ELSEWHERE and v is not None},
        **{f"qat.{k}": v for k, v in (inputs.get("qat") or {}).items()},
    }
    overrides = {legal_key(f"override.{k}" if k in fixed else k): v for k, v in inputs.get("overrides", {}).items()}
    return {k: legal_text(_plain(v), PARAM_LIMIT) for k, v in {**fixed, **overrides}.items()}


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def metrics(record: RunRecord) -> dict[str, float]:
    """The outcome of a run as mlflow metrics; what was not measured is left out."""
    numbers = {k: float(v) for k, v in record.metrics.items() if isinstance(v, int | float)}
    return {k: v for k, v in numbers.items() if not math.isnan(v)}


def tags(record: RunRecord, sweep: str | None, parent: str | None) -> dict[str, str]:
    """Everything else that a run is found by; complete enough to rebuild the record's row.

    Args:
        record: the run record.
        sweep: the sweep it is logged under.
        parent: run id of that sweep in the store.

    Returns:
        Tag key -> text within mlflow's limits, without `Tag.COMPLETE`.
    """
    inputs = record.inputs
    found = {
        Tag.ID: identity("variant", record.key, sweep),
        Tag.KIND: "variant",
        Tag.KEY: record.key,
        Tag.SWEEP: sweep,
        Tag.STATUS: record.status,
        # Half a JSON text is worth nothing: inputs that do not fit are read from the record's artifact.
        Tag.INPUTS: text if len(text := _json(inputs)) <= TAG_LIMIT else None,
        Tag.MODEL: inputs.get("model", {}).get("digest"),
        Tag.DATA: inputs.get("data", {}).get("digest"),
        Tag.STRATEGY: inputs.get("strategy", {}).get("digest"),
        Tag.CODE: inputs.get("code"),
        Tag.RECORD: record_digest(record),
        Tag.ERROR: _json(record.error) if record.error else None,
        Tag.JUDGED: _json(record.judged) if record.judged else None,
        Tag.PARENT: parent,
        Tag.NOTE: note(record),
        **environment(record),
    }
    return {str(k): legal_text(str(v), TAG_LIMIT) for k, v in found.items() if v is not None}


def environment(record: RunRecord) -> dict[str, str]:
    """Versions and machine as `vqkit.env.<name>`, the commit under mlflow's own key."""
    found = dict(record.environment)
    git = found.pop("git", None) or {}
    plain = {f"{Tag.ENVIRONMENT}.{legal_key(k)}": _plain(v) for k, v in found.items() if v is not None}
    commit = {str(Tag.COMMIT): str(git["sha"])} if git.get("sha") else {}
    return {str(Tag.SOURCE): f"vqkit {found.get('vqkit', '')}".strip(), **commit, **plain}


def note(record: RunRecord) -> str:
    """What a person reads first on the run's page."""
    error = record.error
    if error:
        cell = "" if error.get("cell") is None else f" in cell {error['cell']}"
        return f"{record.status}: {error.get('type')}{cell}: {error.get('message')}"
    measure = record.measure
    value = record.metrics.get(measure.name)
    return str(record.status) if value is None else f"{record.status}: {measure.name} {measure.text(value)}"


def milliseconds(stamp: str | None) -> int | None:
    """An ISO 8601 time in UTC as mlflow counts it: milliseconds since 1970, None where there is none."""
    return None if not stamp else round(datetime.fromisoformat(stamp).timestamp() * 1000)


def record_of(
    found_tags: Mapping[str, str],
    found_metrics: Mapping[str, float],
    *,
    name: str | None,
    times: tuple[Any, Any],
) -> RunRecord:
    """The record that a logged variant came from, as far as `compare` needs it.

    Args:
        found_tags: the run's tags.
        found_metrics: its latest metrics.
        name: its name.
        times: start and end, milliseconds since 1970 or None.

    Returns:
        A record without artifacts and directory.
    """
    # The store keeps infinity as the largest float.
    values = {k: math.inf if v > 1.79e308 else v for k, v in found_metrics.items() if not k.startswith(BY_STEP)}
    key = found_tags.get(Tag.KEY, "")
    status, error = found_tags.get(Tag.STATUS, ""), _error(found_tags.get(Tag.ERROR))
    if status not in list(Status):
        error = {"type": "TrackingError", "message": f"the store has status {status!r} of it", "cell": None}
    return RunRecord(
        key,
        name or key,
        Status(status) if status in list(Status) else Status.BROKEN,
        json.loads(found_tags.get(Tag.INPUTS, "{}")),
        found_tags.get(Tag.SWEEP),
        iso(times[0]) or "",
        iso(times[1]),
        metrics=values,
        error=error,
        judged=json.loads(found_tags.get(Tag.JUDGED, "[]")),
    )


def _error(text: str | None) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        # A message longer than a tag was cut; what is left is still worth showing.
        return {"type": "error", "message": text, "cell": None}


def iso(stamp: int | None) -> str | None:
    """The inverse of `milliseconds`."""
    return None if not stamp else datetime.fromtimestamp(stamp / 1000, UTC).isoformat()
