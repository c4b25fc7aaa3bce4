"""Run a recorded run again and compare the two to the last bit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqkit.errors import RecordError, StrategyError
from vqkit.execution.runner import RunOptions, run_single
from vqkit.files import lock, read_json, read_npz
from vqkit.runs.store import RECORD, RESULT, RunRecord, Status, Store
from vqkit.strategy import Strategy, vocabulary
from vqkit.sweeps.resolve import resolve
from vqkit.sweeps.spec import SETTINGS, Sweep, title
from vqkit.sweeps.variant import build_strategy, checked_inputs, key_of

FILES = ("plan.json", "encodings.json", "sqnr.json", "predictions.npz")
VERSIONS = ("vqkit", "tensorflow", "keras", "numpy")
MOST_SHOWN, LONGEST = 5, 120


@dataclass(frozen=True)
class Reproduction:
    """A run and its repetition.

    Attributes:
        first: folder of the recorded run.
        again: folder of the repetition.
        inputs: what decides a result and is not what it was: name, then, now.
        results: what came out differently: name, then, now.
        tampered: what in the record or beside it does not fit its key: name, as it stands, as it should.
        elsewhere: versions, machine and threads that are not what they were: name, then, now.
    """

    first: Path
    again: Path
    inputs: tuple[tuple[str, Any, Any], ...]
    results: tuple[tuple[str, Any, Any], ...]
    tampered: tuple[tuple[str, Any, Any], ...] = ()
    elsewhere: tuple[tuple[str, Any, Any], ...] = ()

    @property
    def same(self) -> bool:
        """Whether every number, decision and prediction is what it was, and the record is one piece."""
        return not self.results and not self.tampered

    def __str__(self) -> str:
        lines = [f"recorded:   {self.first}", f"repetition: {self.again}"]
        told = (
            ("does not fit the run's key or digest", self.tampered),
            ("changed since then", self.inputs),
            ("another environment", self.elsewhere),
            ("came out differently", self.results),
        )
        for heading, found in told:
            lines += [f"{heading}: {name}: {_short(a)} -> {_short(b)}" for name, a, b in found[:MOST_SHOWN]]
            lines += [f"… and {len(found) - MOST_SHOWN} more"] if len(found) > MOST_SHOWN else []
        return "\n".join([*lines, "the same to the last bit" if self.same else "not the same"])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def reproduce(
    runs_dir: str | Path,
    run: str,
    *,
    into: str | Path | None = None,
    timeout: float | None = None,
    notify: Callable[[RunRecord], None] | None = None,
) -> Reproduction:
    """Run a finished run's variant again, always afresh and with nothing cached, and compare.

    Args:
        runs_dir: folder of the recorded run.
        run: its key, the start of it, or its name.
        into: folder of runs for the repetition; default: `<runs_dir>/reproduced`.
        timeout: seconds that it may take.
        notify: called with the repetition's record.

    Returns:
        Both folders, what was changed since then, and what came out differently.

    Raises:
        RecordError: no such run, it is not finished, `into` is the folder of the recorded run, or the
            repetition failed.
        ModelError: the model file is gone.
        DataError: the data are gone.
    """
    first = Store(Path(runs_dir)).find(run)
    runs = Store.at(into if into is not None else Path(runs_dir, "reproduced"))
    if os.path.realpath(runs.root) == os.path.realpath(runs_dir):
        raise RecordError(f"{runs.root}: holds the recorded run itself; the repetition needs another folder")
    record = RunRecord.read(first)
    if record.status != Status.FINISHED:
        raise RecordError(f"{record.key}: {record.status}, only a finished run has a result to repeat")
    inputs = checked_inputs(record.inputs, first / RECORD)
    resolved = resolve(_as_sweep(record, inputs, first), runs.cache)
    _forget(runs, resolved.planned[0].variant.key)
    outcome = run_single(resolved, runs, RunOptions(retry_failed=True, timeout=timeout, warm=False), notify=notify)
    again = (*outcome.ran, *outcome.skipped)[0]
    if again.status is not Status.FINISHED:
        message = (again.error or {}).get("message", again.status)
        raise RecordError(f"{runs.variant_dir(again.key)}: the repetition is {again.status}: {message}")
    second = runs.variant_dir(again.key)
    changed = tuple(_differences(_plain(inputs), _plain(again.inputs)))
    results = (
        *_differences(_numbers(record.metrics), _numbers(again.metrics)),
        *(d for name in FILES for d in _files(first / name, second / name)),
    )
    found = tuple(tampered(record, again, first))
    return Reproduction(first, second, changed, results, found, tuple(elsewhere(record, again)))


def elsewhere(record: RunRecord, again: RunRecord) -> Iterator[tuple[str, Any, Any]]:
    """In which versions, on what machine and with which threads a repetition is another one: name, then, now.

    Args:
        record: as read from its file.
        again: the record of its repetition.
    """
    # What a repetition is: in another commit of the user's own files, in a fresh kernel.
    own, other = ({k: v for k, v in r.environment.items() if k not in ("git", "kernel")} for r in (record, again))
    return _differences(own, other)


def _forget(runs: Store, key: str) -> None:
    """Whatever an earlier repetition left would stand in for this one: its record, and what it observed."""
    with lock(runs.variant_dir(key)):
        for name in (RECORD, RESULT):
            (runs.variant_dir(key) / name).unlink(missing_ok=True)
    for part in ("float", "observed"):
        shutil.rmtree(runs.cache / part, ignore_errors=True)


def tampered(record: RunRecord, again: RunRecord, folder: Path) -> Iterator[tuple[str, Any, Any]]:
    """What stands in a record, or beside it, and cannot have been written together with the rest.

    Args:
        record: as read from its file.
        again: the record of its repetition.
        folder: of the recorded run.

    Returns:
        Name, what stands there, what would fit.
    """
    inputs = record.inputs
    if not record.is_as_written:
        yield "record", record.written.get("digest"), "changed after it was written"
    for name, found in (("key", record.key), ("folder", folder.name)):
        if found != key_of(inputs):
            yield name, found, f"{key_of(inputs)} by its inputs"
    yield from _strategy_tampered(inputs, folder)
    yield from _name_tampered(record)
    own, other = record.environment, again.environment
    if inputs.get("code") == again.inputs["code"]:
        # These versions are in the digest of the code, which is the same.
        yield from (
            (f"environment {n}", own.get(n), other[n])
            for n in VERSIONS
            if n in other and n in own and own[n] != other[n]
        )


def _strategy_tampered(inputs: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Any, Any]]:
    stated, path = inputs["strategy"], folder / "strategy.json"
    kept = Strategy.load(path).digest
    if kept != stated["digest"]:
        yield "strategy.json", kept, stated["digest"]
    base = stated.get("base")
    if base not in vocabulary.NAMES:
        return
    try:
        said = build_strategy(str(base), inputs.get("overrides") or {}).digest
    except StrategyError as e:
        said = str(e)
    if said != stated["digest"]:
        yield "base and overrides", f"{base} {inputs.get('overrides')}", "those of another strategy"


def _name_tampered(record: RunRecord) -> Iterator[tuple[str, Any, Any]]:
    """What a name says of the strategy and of single keys; a name that a person gave says neither."""
    inputs, words = record.inputs, record.name.split()
    base, overrides = inputs["strategy"].get("base"), inputs.get("overrides") or {}
    known = {**inputs, **{str(k).rpartition("/")[2]: v for k, v in overrides.items()}}
    if words and words[0] in vocabulary.NAMES and any("=" in w for w in words[1:]) and words[0] != base:
        yield "name", record.name, f"of the strategy {base}"
    for key, _, value in (w.partition("=") for w in words):
        if key in known and title({key: known[key]}, "") != f" {key}={value}":
            yield "name", record.name, f"{key}={known[key]}"


def _as_sweep(record: RunRecord, inputs: Mapping[str, Any], folder: Path) -> Sweep:
    """A sweep of the one variant; its strategy is the file that the run left behind."""
    strategy = folder / "strategy.json"
    if not strategy.is_file():
        raise RecordError(f"{strategy}: no such file, so the run's strategy is not known")
    # A notebook of one's own may take the strategy's keywords by their names; set again they change nothing.
    again = inputs.get("overrides") or {} if "notebook" in inputs else {}
    value = {
        "name": "reproduce",
        "model": inputs["model"]["ref"],
        "data": inputs["data"]["ref"],
        "strategy": str(strategy.resolve()),
        "mode": "list",
        "variants": [{"name": record.name, **again}],
        **{k: inputs[k] for k in (*SETTINGS, "parameters") if k in inputs},
        **({"notebook": inputs["notebook"]["ref"]} if "notebook" in inputs else {}),
    }
    return Sweep.from_dict(value, source=f"{folder}/record.json")


def _plain(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a result, by name, without the names of things."""
    contents = {name: inputs[name]["digest"] for name in ("model", "data", "strategy")}
    return {**contents, **{k: inputs[k] for k in (*SETTINGS, "parameters", "code") if k in inputs}}


def _numbers(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics without the times."""
    return {k: v for k, v in metrics.items() if not k.startswith("seconds")}


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in dict.fromkeys([*then, *now]):
        if then.get(name) != now.get(name):
            yield name, then.get(name), now.get(name)


def _files(then: Path, now: Path) -> Iterator[tuple[str, Any, Any]]:
    words = {True: "there", False: "missing"}
    if then.exists() != now.exists():
        yield then.name, words[then.exists()], words[now.exists()]
        return
    if not then.exists():
        return
    try:
        recorded = _flat(then)
    except (RecordError, LookupError, TypeError, AttributeError) as e:
        yield then.name, f"damaged: {e}", words[True]
        return
    yield from ((f"{then.name} {name}", a, b) for name, a, b in _differences(recorded, _flat(now)))


def _flat(path: Path) -> dict[str, Any]:
    """A JSON or npz file as name -> comparable value."""
    if path.suffix == ".npz":
        return {k: a.tolist() for k, a in read_npz(path).items()}
    value = read_json(path)
    if path.name == "plan.json":
        # Who decided is told by file name, and the repetition's strategy comes from another file.
        return {f"{r['layer']}/{r['tensor']}": (r["spec"], r["data_type"]) for r in value["rows"]}
    return value if isinstance(value, dict) else {str(i): v for i, v in enumerate(value)}
