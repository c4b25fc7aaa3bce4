"""Each field of a run's record, changed and its digest made to fit: noticed by `vqkit reproduce`, or harmless."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vqkit.comparison.reproduce import elsewhere, tampered
from vqkit.runs.store import RunRecord

# What is noticed in a record whose digest somebody made to fit again: each field of the record, of its inputs and of
# its environment, and why nothing is where nothing is.
NOTICED = {
    "key": "key",
    "name": "name",
    "inputs/model": "key",
    "inputs/data": "key",
    "inputs/strategy": "strategy.json",
    "inputs/overrides": "base and overrides",
    "inputs/seed": "key",
    "inputs/calibration": "key",
    "inputs/vitis_compat": "key",
    "inputs/batch_size": "key",
    "inputs/steps": "key",
    "inputs/code": "key",
    "environment/tensorflow": "environment tensorflow",
    "environment/keras": "environment keras",
    "environment/numpy": "environment numpy",
    "environment/vqkit": "environment vqkit",
}
HARMLESS = {
    "schema": "another one is not read",
    "status": "another one than FINISHED is not repeated",
    "digest": "it was made to fit",
    "sweep": "which sweep it was in changes no number",
    "started": "nor when it ran",
    "ended": "nor when it ended",
    "pid": "nor in which process",
    "attempt": "nor the token of the attempt",
    "metrics": "each number is compared with the repetition's",
    "error": "a finished run has none to repeat",
    "artifacts": "the files that are compared are found by their own names",
    "notes": "words for people, without a part in a number",
    "judged": "in the inputs, if somebody stated it",
    "coverage": "what of the model was quantized, told for people; the plan says the same and is compared",
    "environment/python": "named as another environment",
    "environment/platform": "named as another environment",
    "environment/cpu_count": "named as another environment",
    "environment/threads": "named as another environment",
    "environment/switches": "named as another environment",
    "environment/kernel": "the same numbers come of warm and fresh kernels",
    "environment/git": "of the user's own files",
}
ELSEWHERE = [name for name, why in HARMLESS.items() if "another environment" in why]


def fields(record: Mapping[str, Any]) -> Iterator[str]:
    """Every field of a record, with those of its inputs and its environment by their own names."""
    for name, value in record.items():
        if name in ("inputs", "environment"):
            yield from (f"{name}/{inner}" for inner in value)
        else:
            yield name


def tamper(record: dict[str, Any], field: str) -> None:
    """Another value of a field, of its own kind."""
    owner, _, name = field.rpartition("/")
    part = record[owner] if owner else record
    value = part[name]
    if name in ("model", "data", "strategy"):
        part[name] = {**value, "digest": "0" * 16}
    elif field == "name":
        part[name] = re.sub(r"weight_bit=\d+", "weight_bit=7", value)
    elif name == "overrides":
        part[name] = {"weight_bit": 7}
    elif value is None:
        part[name] = {"error": {"type": "x"}, "sweep": "other", "metrics": ["top5"]}.get(name, 3)
    elif isinstance(value, bool):
        part[name] = not value
    elif isinstance(value, int):
        part[name] = value + 1
    elif name in ("started", "ended"):
        part[name] = "2001-01-01T00:00:00+00:00"
    elif name == "calibration":
        part[name] = "float" if value == "quantized" else "quantized"
    elif isinstance(value, str):
        part[name] = f"{value}1"
    elif isinstance(value, list):
        part[name] = [*value, {"name": "x"}] if name == "judged" else [*value, "x"]
    else:
        part[name] = {**value, "x": "y" if name == "artifacts" else 1}


def outcomes(run: Path) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Change each field of a finished run's record in turn.

    Args:
        run: its folder.

    Yields:
        Field; what is noticed of it; what is noticed where the digest was computed anew; what is named of the
        environment.
    """
    whole = json.loads((run / "record.json").read_text("utf-8"))
    again = RunRecord.from_json(copy.deepcopy(whole))
    for field in fields(whole):
        if field in ("schema", "status", "digest"):
            continue
        changed = copy.deepcopy(whole)
        tamper(changed, field)
        found = RunRecord.from_json(changed)
        sealed = RunRecord.from_json(found.to_json())
        told = [[t[0] for t in tampered(record, again, run)] for record in (found, sealed)]
        yield field, *told, [d[0] for d in elsewhere(found, again)]


def counted(run: Path) -> dict[str, Any]:
    """A row for the table of faults: fields tried, noticed, harmless for a stated reason, and what is neither."""
    row: dict[str, Any] = {"what": "record changed field by field, its digest made to fit", "tried": 0, "told": 0}
    row |= {"recomputed": 0, "bad": 0, "odd": []}
    for field, plain, sealed, named in outcomes(run):
        row["tried"] += 1
        fits = sealed == [] if field in HARMLESS else NOTICED.get(field, "key") in sealed
        if "record" not in plain or not fits:
            row["bad"] += 1
            row["odd"].append(f"{field}: {plain}, {sealed}")
        elif sealed or named:
            row["told"] += 1
        else:
            row["recomputed"] += 1
    return row
