"""Two runs: strategy, plan, outcome."""

from __future__ import annotations

import functools
import html
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from vqkit import statistics, tables
from vqkit.comparison.ranking import combination
from vqkit.errors import RecordError
from vqkit.files import read_json
from vqkit.primitives.spec import Method, RoundMode
from vqkit.runs.records import Flips, flips, row, rows_of, sample_values, sqnr_rows, unreadable
from vqkit.runs.store import RECORD, RunRecord, Store
from vqkit.tables import Measure

if TYPE_CHECKING:
    import pandas as pd

    from vqkit.strategy.vocabulary import Change

FLOAT = "float"


@dataclass(frozen=True)
class QuantizerDifferences:
    """Quantizer parameters that differ, tensor by tensor.

    Attributes:
        total: tensors that either plan knows.
        changed: (layer, tensor) -> parameter -> (in a, in b); "quantizer" is the parameter where one of
            the two leaves the tensor float.
    """

    total: int
    changed: Mapping[tuple[str, str], Mapping[str, tuple[Any, Any]]]

    def kinds(self) -> list[tuple[str, Any, Any, list[str]]]:
        """Parameter, value in a, value in b, and the tensors in which just that differs, most first."""
        places: dict[str, tuple[str, Any, Any, list[str]]] = {}
        for tensor, parameters in self.changed.items():
            for name, (a, b) in parameters.items():
                key = json.dumps([name, a, b], sort_keys=True, default=str)
                places.setdefault(key, (name, a, b, []))[3].append("/".join(tensor))
        return sorted(places.values(), key=lambda kind: -len(kind[3]))


def resolved(run_a: str | Path, run_b: str | Path) -> QuantizerDifferences | None:
    """Compare the plans that two runs kept.

    Args:
        run_a: run directory.
        run_b: run directory.

    Returns:
        The differences, or None where one of them has no `plan.json`.

    Raises:
        RecordError: a plan cannot be read.
    """
    a, b = (_plan(Path(run, "plan.json")) for run in (run_a, run_b))
    if a is None or b is None:
        return None
    tensors = dict.fromkeys([*a, *b])
    found = {tensor: _parameters(a.get(tensor), b.get(tensor)) for tensor in tensors}
    return QuantizerDifferences(len(tensors), {tensor: changes for tensor, changes in found.items() if changes})


def _plan(path: Path) -> dict[tuple[str, str], Mapping[str, Any] | None] | None:
    if not os.path.lexists(path):
        return None
    found = read_json(path)
    try:
        rows: Iterable[Mapping[str, Any]] = found["rows"]
        specs = {(str(row["layer"]), str(row["tensor"])): row["spec"] for row in rows}
        if not all(spec is None or isinstance(spec, dict) for spec in specs.values()):
            raise TypeError("a 'spec' is no JSON object")
        return specs
    except (KeyError, TypeError) as e:
        raise RecordError(f"{path}: not a plan: {e!r}") from e


def _parameters(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> dict[str, tuple[Any, Any]]:
    if a is None or b is None:
        kinds = tuple(FLOAT if spec is None else spec.get("quantizer_type") for spec in (a, b))
        return {"quantizer": (kinds[0], kinds[1])} if kinds[0] != kinds[1] else {}
    names = dict.fromkeys([*a, *b])
    return {name: (a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)}


_MEASURED = ("value", "value_delta", "size_bytes", "sqnr_min_db", "sqnr_output_db", "seconds_total")
_INPUTS = (
    "strategy",
    "model_digest",
    "data_digest",
    "n_calib",
    "n_eval",
    "calibration",
    "seed",
    "vitis_compat",
    "code",
)


@dataclass(frozen=True)
class Difference:
    """Everything in which two runs differ; prints itself and shows itself in a notebook.

    Attributes:
        a, b: the two runs as flat rows (see `records.row`).
        changes: what differs between the two full strategies, by JSON pointer.
        inputs: other inputs that differ, as name -> (in a, in b).
        sqnr: layer, tensor, role, order, a_db, b_db, delta_db (b minus a), in graph order.
        flips: where the answers differ; None without predictions of the same data.
        resolved: how the plans differ on this model; None where one of the runs has no plan.
        damaged: files that could not be read, each with the reason; what they would say is left out.
    """

    a: Mapping[str, Any]
    b: Mapping[str, Any]
    changes: tuple[Change, ...]
    inputs: Mapping[str, tuple[Any, Any]]
    sqnr: pd.DataFrame
    flips: Flips | None
    resolved: QuantizerDifferences | None = None
    damaged: tuple[str, ...] = ()
    shown: int = 12

    def __str__(self) -> str:
        table = functools.partial(tables.text_table, width=tables.terminal_width())
        return "\n\n".join(f"{title}\n{body}".rstrip() for title, body in self.sections(table))

    def _repr_html_(self) -> str:
        parts = self.sections(tables.html_table)
        return "".join(f"<p><b>{html.escape(title)}</b></p>{body}" for title, body in parts)

    def sections(self, table: Any) -> Iterator[tuple[str, str]]:
        """Title and body of each part that has something to say.

        Args:
            table: `tables.text_table` or `tables.html_table`.
        """
        for side, run in (("A", self.a), ("B", self.b)):
            yield f"{side}: {run['name']} [{run['key']}]", ""
        rows = condensed(self.changes)
        count = f"{len(self.changes)} difference(s)" if rows else "no difference"
        title = f"Strategy: {count}{f', {len(rows)} kinds' if len(rows) < len(self.changes) else ''}"
        more = [f"… and {len(rows) - _KINDS} more kinds", "", "", ""]
        shown = [*rows[:_KINDS], more] if len(rows) > _KINDS else rows
        yield title, table(_CHANGE_HEADER, shown, left=(0, 1, 2, 3)) if rows else ""
        if self.resolved is not None:
            yield from _resolved_section(self.resolved, table)
        if self.inputs:
            cells = [[name, shorten(a), shorten(b)] for name, (a, b) in self.inputs.items()]
            yield "Other inputs that differ", table(("input", "A", "B"), cells, left=(0, 1, 2))
        yield "Result", table(("", "A", "B", "B - A"), _measured(self.a, self.b))
        yield self.verdict(), ""
        if len(self.sqnr):
            worst = self.sqnr.reindex(self.sqnr["delta_db"].abs().sort_values(ascending=False, kind="stable").index)
            title = f"SQNR by tensor, dB: {_shown(len(self.sqnr), self.shown)}"
            yield title, table(_SQNR_HEADER, _sqnr_cells(worst.head(self.shown)), left=(0, 1, 2))
        if self.damaged:
            cells = [[problem] for problem in self.damaged]
            yield "Damaged files, left out of this comparison", table(("file",), cells, left=(0,))

    def verdict(self) -> str:
        """Whether the accuracies differ by more than chance, in a sentence."""
        return _flip_verdict(self.flips) if self.flips else _interval_verdict(self.a, self.b)


def _resolved_section(found: QuantizerDifferences, table: Any) -> Iterator[tuple[str, str]]:
    kinds = [(name, a, b, tensors) for name, a, b, tensors in found.kinds() if name != "method_percentile"]
    rows = [
        [name, said(name, a), said(name, b), str(len(tensors)), ", ".join(tensors)] for name, a, b, tensors in kinds
    ]
    title = f"Quantizers of this model: {len(found.changed)} of {found.total} tensors differ"
    yield title, table(_RESOLVED_HEADER, rows, left=(0, 1, 2, 4)) if rows else ""


def _shown(total: int, shown: int) -> str:
    return f"the {shown} largest differences of {total}" if total > shown else f"{total} tensors"


def shorten(value: Any, width: int = 40) -> str:
    """A JSON value on one short line; a dash for what is absent."""
    if value is None:
        return "null"
    return tables.elide(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), width)


def condensed(changes: Iterable[Change]) -> list[list[str]]:
    """Rows of what, before, after, where: one for all layer types in which a value changed the same way.

    Args:
        changes: result of `vqkit.strategy.vocabulary`; two strategies of different families differ
        in hundreds.
    """
    places: dict[tuple[str, str, str], list[str]] = {}
    for change in changes:
        what, where = _place(change)
        key = (what, said(change.pointer, change.before), said(change.pointer, change.after))
        places.setdefault(key, []).append(where)
    return [[*key, ", ".join(where)] for key, where in places.items()]


def _place(change: Change) -> tuple[str, str]:
    layer, _, inside = change.label.partition(" ")
    in_layer = "/layer_quantize_config/" in change.pointer and inside
    return (inside, layer) if in_layer else (change.label, change.pointer)


def said(name: str, value: Any) -> str:
    """A value with the word for its number where the reference's format has only the number.

    Args:
        name: the parameter, or a pointer that ends in it.
        value: what it is set to.
    """
    kinds = {"method": Method, "round_mode": RoundMode}
    kind = next((k for end, k in kinds.items() if name.endswith(end)), None)
    if kind is None or not isinstance(value, int) or value not in list(kind):
        return shorten(value)
    return f"{int(value)} {kind(value).name}"


_KINDS = 40
_RESOLVED_HEADER = ("parameter", "A", "B", "tensors", "")
_CHANGE_HEADER = ("what", "A", "B", "where")
_FORMATS = {
    "size_bytes": (tables.size, lambda d: f"{d:+,.0f} B" if d == d else "–"),
    "seconds_total": (tables.duration, lambda d: f"{d:+.1f} s" if d == d else "–"),
}
_LABELS = {
    "size_bytes": "size",
    "sqnr_min_db": "lowest SQNR dB",
    "sqnr_output_db": "output SQNR dB",
    "seconds_total": "time",
}


def _measured(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[list[str]]:
    default = (tables.number, lambda d: f"{d:+.1f}" if d == d else "–")
    cells, measure = [], Measure.of(a)
    delta = "Δ to float, points" if measure.unit == "percent" else "Δ to float"
    formats = {
        "value": (measure.plain, measure.signed),
        "value_delta": (measure.signed, measure.signed),
        **_FORMATS,
    }
    labels = {"value": measure.label, "value_delta": delta, **_LABELS}
    for name in _MEASURED:
        plain, signed = formats.get(name, default)
        cells.append([labels[name], plain(a[name]), plain(b[name]), signed(b[name] - a[name])])
    return cells


_SQNR_HEADER = ("layer", "tensor", "role", "A", "B", "B - A")


def _sqnr_cells(frame: pd.DataFrame) -> list[list[str]]:
    return [
        [
            str(r["layer"]),
            str(r["tensor"]),
            str(r["role"]),
            *(tables.number(r[c]) for c in ("a_db", "b_db", "delta_db")),
        ]
        for r in rows_of(frame)
    ]


def _flip_verdict(found: Flips) -> str:
    chance = "could be chance" if found.p_value > 1 - statistics.CONFIDENCE else "is more than chance"
    return (
        f"Of {found.n} samples A alone gets {found.only_a} right, B alone {found.only_b}: "
        f"the difference {chance} (McNemar p = {found.p_value:.2g})."
    )


def _interval_verdict(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    measure, other = Measure.of(a), Measure.of(b)
    if measure != other:
        return f"A is judged by {measure.name}, B by {other.name}: the two cannot be ranked."
    if measure != Measure():
        samples = [sample_values(side["directory"]) for side in (a, b)]
        if samples[0] is not None and samples[1] is not None and samples[0].shape == samples[1].shape:
            p = statistics.paired(combination(measure.name), samples[0], samples[1])
            chance = "could be chance" if p > 1 - statistics.CONFIDENCE else "is more than chance"
            n = len(samples[0])
            return f"By {measure.name} on {n} samples the difference {chance} (permutation test, p = {p:.2g})."
        low, high = np.array([[side["value_low"], side["value_high"]] for side in (a, b)]).T
    else:
        low, high = statistics.wilson([a["value"], b["value"]], [a["n_eval"], b["n_eval"]])
    if np.isnan(low).any():
        return f"One of the runs has no {measure.name}, so the two cannot be ranked."
    overlap = max(low) <= min(high)
    said = (
        "overlap: the difference could be chance" if overlap else "do not overlap: the difference is more than chance"
    )
    return f"The 95 % intervals {said}. (Predictions of the same samples would decide better.)"


def difference(run_a: str | Path, run_b: str | Path, *, runs_dir: str | Path | None = None) -> Difference:
    """Compare two runs.

    Args:
        run_a: run directory, or with `runs_dir` a key, the start of a key or a name.
        run_b: likewise; differences read "from a to b".
        runs_dir: the folder of runs.

    Raises:
        RecordError: a run cannot be found or read.
    """
    directories = [_directory(run, runs_dir) for run in (run_a, run_b)]
    a, b = (row(RunRecord.read(directory)) for directory in directories)
    damaged = [d for side in (a, b) for d in str(side["damaged"]).split("; ") if d]
    folders = (a["directory"], b["directory"])
    changes: tuple[Change, ...] = _or_told(lambda: _changes(*directories), (), damaged)
    sqnr = _or_told(lambda: sqnr_difference(*folders), None, damaged)
    plans = _or_told(lambda: resolved(*folders), None, damaged)
    answers = None
    if a["data_digest"] == b["data_digest"]:
        answers = flips(*folders)
        damaged += [] if answers else [d for folder in folders for d in unreadable(folder)]
    return Difference(
        a,
        b,
        changes,
        {name: (a[name], b[name]) for name in _INPUTS if a[name] != b[name]},
        _joined([], []) if sqnr is None else sqnr,
        answers,
        plans,
        tuple(dict.fromkeys(damaged)),
    )


Found = TypeVar("Found")


def _or_told(read: Callable[[], Found], instead: Found, damaged: list[str]) -> Found:
    """What a function reads; where a file is damaged that is noted, and the comparison goes on without it."""
    try:
        return read()
    except RecordError as e:
        damaged.append(str(e))
        return instead


def _directory(run: str | Path, runs_dir: str | Path | None) -> Path:
    if os.path.isfile(Path(run, RECORD)):
        return Path(run)
    if runs_dir is None:
        raise RecordError(f"{run}: not a run directory (no record.json); to give a key or a name, give runs_dir too")
    return Store(Path(runs_dir)).find(str(run))


def _changes(a: Path, b: Path) -> tuple[Change, ...]:
    from vqkit.strategy.vocabulary import diff_documents

    paths = [folder / "strategy.json" for folder in (a, b)]
    documents = [_json(path) for path in paths]
    if None in documents:
        return ()
    for path, document in zip(paths, documents, strict=True):
        try:
            diff_documents(document, document)
        except (KeyError, TypeError, AttributeError, IndexError) as e:
            raise RecordError(f"{path}: strategy.json is not a whole strategy: {e!r}") from e
    return tuple(diff_documents(*documents))


def _json(path: Path) -> Any:
    return read_json(path) if os.path.lexists(path) else None


def sqnr_difference(run_a: str | Path, run_b: str | Path) -> pd.DataFrame:
    """Per-tensor SQNR of two runs joined by layer, tensor and role.

    Args:
        run_a: run directory.
        run_b: run directory.

    Returns:
        Columns layer, tensor, role, order, a_db, b_db, delta_db (b minus a; NaN where one of them leaves
        the tensor float), in graph order. Empty when one of them kept no `sqnr.json`.
    """
    paths = [Path(run, "sqnr.json") for run in (run_a, run_b)]
    found = [_json(path) for path in paths]
    return _joined(*([] if f is None else sqnr_rows(f, path) for f, path in zip(found, paths, strict=True)))


def _joined(rows_a: list[dict[str, Any]], rows_b: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    on, columns = ["layer", "tensor", "role"], ["layer", "tensor", "role", "order", "sqnr_db"]
    sides = [pd.DataFrame(rows, columns=columns) for rows in (rows_a, rows_b)]
    joined = sides[0].merge(sides[1], on=on, how="outer", suffixes=("_a", "_b"), sort=False)
    joined["order"] = joined["order_a"].fillna(joined["order_b"])
    joined["a_db"], joined["b_db"] = (pd.to_numeric(joined[f"sqnr_db_{s}"], errors="coerce") for s in "ab")
    joined["delta_db"] = joined["b_db"] - joined["a_db"]
    # An outer join sorts by name, so tensors of one layer need their place in the file as well.
    rows = dict.fromkeys(tuple(row) for side in sides for row in side[on].to_numpy().tolist())
    place = {row: i for i, row in enumerate(rows)}
    joined["place"] = [place[tuple(row)] for row in joined[on].to_numpy().tolist()]
    wanted = joined.sort_values(["order", "place"])[[*on, "order", "a_db", "b_db", "delta_db"]]
    return (wanted if all(map(len, sides)) else wanted.head(0)).reset_index(drop=True)
