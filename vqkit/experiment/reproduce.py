"""Run a recorded run again and compare the two to the last bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vqkit.errors import RecordError
from vqkit.experiment.records import find, read_record
from vqkit.experiment.runner import Options, run_single
from vqkit.experiment.store import RunRecord, Status, Store
from vqkit.experiment.sweep import SETTINGS, Sweep
from vqkit.experiment.validate import resolve

FILES = ("plan.json", "encodings.json", "sqnr.json", "predictions.npz")
MOST_SHOWN, LONGEST = 5, 120


@dataclass(frozen=True)
class Reproduction:
    """A run and its repetition.

    Attributes:
        first: folder of the recorded run.
        again: folder of the repetition.
        inputs: what decides a result and is not what it was: name, then, now.
        results: what came out differently: name, then, now.
    """

    first: Path
    again: Path
    inputs: tuple[tuple[str, Any, Any], ...]
    results: tuple[tuple[str, Any, Any], ...]

    @property
    def same(self) -> bool:
        """Whether every number, decision and prediction is what it was."""
        return not self.results

    def __str__(self) -> str:
        lines = [f"recorded:   {self.first}", f"repetition: {self.again}"]
        for title, found in (("changed since then", self.inputs), ("came out differently", self.results)):
            lines += [f"{title}: {name}: {_short(a)} -> {_short(b)}" for name, a, b in found[:MOST_SHOWN]]
            lines += [f"… and {len(found) - MOST_SHOWN} more"] if len(found) > MOST_SHOWN else []
        return "\n".join([*lines, "the same to the last bit" if self.same else "not the same"])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def reproduce(
    runs_dir: str | Path, run: str, *, into: str | Path | None = None, timeout: float | None = None,
    notify: Callable[[RunRecord], None] | None = None,
) -> Reproduction:  # fmt: skip
    """Run a finished run's variant again, with nothing cached, and compare.

    Args:
        runs_dir: folder of the recorded run.
        run: its key, the start of it, or its name.
        into: folder of runs for the repetition; default: `<runs_dir>/reproduced`.
        timeout: seconds that it may take.
        notify: called with the repetition's record.

    Returns:
        Both folders, what was changed since then, and what came out differently.

    Raises:
        RecordError: no such run, it is not finished, or the repetition failed.
        ModelError: the model file is gone.
        DataError: the data are gone.
    """
    first = find(runs_dir, run)
    record = read_record(first)
    if record["status"] != Status.FINISHED:
        raise RecordError(f"{record['key']}: {record['status']}, only a finished run has a result to repeat")
    runs = Store.at(into if into is not None else Path(runs_dir, "reproduced"))
    resolved = resolve(_as_sweep(record, first), runs.cache)
    outcome = run_single(
        resolved, runs, Options(retry_failed=True, timeout=timeout, warm=None), notify=notify
    )
    again = (*outcome.ran, *outcome.skipped)[0]
    if again.status is not Status.FINISHED:
        message = (again.error or {}).get("message", again.status)
        raise RecordError(f"{runs.variant_dir(again.key)}: the repetition is {again.status}: {message}")
    second = runs.variant_dir(again.key)
    changed = tuple(_differences(_plain(record["inputs"]), _plain(again.inputs)))
    results = (
        *_differences(_numbers(record["metrics"]), _numbers(again.metrics)),
        *(d for name in FILES for d in _files(first / name, second / name)),
    )
    return Reproduction(first, second, changed, results)


def _as_sweep(record: Mapping[str, Any], folder: Path) -> Sweep:
    """A sweep of the one variant; its strategy is the file that the run left behind."""
    inputs = record["inputs"]
    strategy = folder / "strategy.json"
    if not strategy.is_file():
        raise RecordError(f"{strategy}: no such file, so the run's strategy is not known")
    value = {
        "name": "reproduce", "model": inputs["model"]["ref"], "data": inputs["data"]["ref"],
        "strategy": str(strategy.resolve()), "mode": "list", "variants": [{"name": record["name"]}],
        **{k: inputs[k] for k in SETTINGS if k in inputs},
    }  # fmt: skip
    return Sweep.from_dict(value, source=f"{folder}/record.json")


def _plain(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a result, by name, without the names of things."""
    contents = {name: inputs[name]["digest"] for name in ("model", "data", "strategy")}
    return {**contents, **{k: inputs[k] for k in (*SETTINGS, "code") if k in inputs}}


def _numbers(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics without the times."""
    return {k: v for k, v in metrics.items() if not k.startswith("seconds")}


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in dict.fromkeys([*then, *now]):
        if then.get(name) != now.get(name):
            yield name, then.get(name), now.get(name)


def _files(then: Path, now: Path) -> Iterator[tuple[str, Any, Any]]:
    if then.is_file() != now.is_file():
        words = {True: "there", False: "missing"}
        yield then.name, words[then.is_file()], words[now.is_file()]
    elif then.is_file():
        yield from ((f"{then.name} {name}", a, b) for name, a, b in _differences(_flat(then), _flat(now)))


def _flat(path: Path) -> dict[str, Any]:
    """A JSON or npz file as name -> comparable value."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return {k: file[k].tolist() for k in file.files}
    value = json.loads(path.read_bytes())
    if path.name == "plan.json":
        # Who decided is told by file name, and the repetition's strategy comes from another file.
        return {f"{r['layer']}/{r['tensor']}": (r["spec"], r["data_type"]) for r in value["rows"]}
    return value if isinstance(value, dict) else {str(i): v for i, v in enumerate(value)}
