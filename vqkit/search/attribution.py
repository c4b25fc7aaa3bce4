"""Which changed keys of a strategy make the difference between two runs: intermediate strategies, evaluated.

The keys that changed the same way everywhere count as one. A change's share is its Shapley value: the mean,
over all orders in which the changes can be made, of what making it brings; the shares add up to the whole
difference. Up to five changes every intermediate strategy is evaluated (the value is exact), beyond that two
orders are: first to last and last to first. Source: L. S. Shapley, A Value for n-Person Games, 1953.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vqkit import tables
from vqkit.comparison.difference import said
from vqkit.errors import RecordError, StrategyError, VqkitError
from vqkit.files import read_json
from vqkit.runs.store import RECORD, RunRecord, Status, Store
from vqkit.strategy import Strategy
from vqkit.strategy.document import Operation, apply_patch, json_patch
from vqkit.strategy.vocabulary import Change, diff_documents
from vqkit.sweeps.variant import Settings
from vqkit.tables import Measure

EXACT_UP_TO = 5


@dataclass(frozen=True)
class Contribution:
    """What one change accounts for.

    Attributes:
        what: the key, for people.
        before, after: its values.
        places: how many values of the strategy changed this way.
        points: change of the metric; of accuracy a fraction.
    """

    what: str
    before: str
    after: str
    places: int
    points: float


@dataclass(frozen=True)
class Attribution:
    """The difference of two runs, by changed keys.

    Attributes:
        a, b: names of the runs.
        value_a, value_b: their metric; of accuracy fractions.
        shares: largest first; they add up to the difference.
        patch: JSON Patch from the strategy of a to that of b.
        evaluated: intermediate strategies that were evaluated or found in the cache.
        exact: whether all orders were taken into account.
        measure: the metric.
    """

    a: str
    b: str
    value_a: float
    value_b: float
    shares: tuple[Contribution, ...]
    patch: tuple[Operation, ...]
    evaluated: int
    exact: bool
    measure: Measure = field(default_factory=Measure)

    def __str__(self) -> str:
        delta, measure = self.measure.difference(self.value_b - self.value_a), self.measure
        unit = "points" if measure.unit == "percent" else measure.name
        how = "exact Shapley values" if self.exact else "mean of two orders"
        head = (
            f"Why B differs from A by {delta}{'' if measure.unit == 'percent' else f' ({unit})'}: {len(self.shares)} "
            f"change(s), {self.evaluated} strategies evaluated, {how}"
        )
        rows = [[s.what, s.before, s.after, str(s.places), measure.signed(s.points)] for s in self.shares]
        return f"{head}\n{tables.text_table(('what', 'A', 'B', 'values', unit), rows, left=(0, 1, 2))}"


def explain(run_a: str | Path, run_b: str | Path, *, runs: str | Path = "runs") -> Attribution:
    """Attribute the difference of two runs, by the metric that decides, to the strategy keys that changed.

    Args:
        run_a: key, start of a key, name, or folder of a run.
        run_b: likewise; both of the same model, data and settings.
        runs: the folder of runs; intermediate results are kept in its cache.

    Returns:
        The shares, and the JSON Patch.

    Raises:
        RecordError: a run cannot be found, has no result, or the two differ in more than the strategy.
    """
    folders = _folders(run_a, run_b, runs)
    records = [RunRecord.read(f) for f in folders]
    _check_comparable(records)
    documents = [_document(f) for f in folders]
    value = _values(records[0], Store.at(runs).cache)
    names, measure = [r.name for r in records], records[0].measure
    known = [float(r.metrics[measure.name]) for r in records]
    return attribute(documents[0], documents[1], value, names=names, known=known, measure=measure)


def patch_between(run_a: str | Path, run_b: str | Path, *, runs: str | Path = "runs") -> list[Operation]:
    """JSON Patch from the strategy of one run to that of another.

    Raises:
        RecordError: a run cannot be found or has kept no strategy.
    """
    a, b = map(_document, _folders(run_a, run_b, runs))
    return json_patch(a, b)


def _document(run: Path) -> Any:
    """A run's strategy as it was kept, if it is one."""
    path = run / "strategy.json"
    found = read_json(path)
    Strategy.load(path)
    return found


def _folders(run_a: str | Path, run_b: str | Path, runs: str | Path) -> list[Path]:
    return [Path(r) if os.path.isfile(Path(r, RECORD)) else Store(Path(runs)).find(str(r)) for r in (run_a, run_b)]


def _check_comparable(records: Sequence[RunRecord]) -> None:
    for record in records:
        if record.status is not Status.FINISHED or record.measure.name not in record.metrics:
            raise RecordError(f"run {record.key}: it has no {record.measure.name}, so there is nothing to explain")
    a, b = (r.inputs for r in records)
    plain = [k for k in Settings.__dataclass_fields__ if a.get(k) != b.get(k)]
    differ = [n for n in ("model", "data") if a[n]["digest"] != b[n]["digest"]] + plain
    if records[0].measure != records[1].measure:
        differ.append("metric")
    if differ:
        raise RecordError(
            f"the runs differ in {', '.join(differ)}, not only in their strategies, so the "
            "difference cannot be attributed to strategy keys"
        )


def _values(record: RunRecord, cache: Path) -> Callable[[dict[str, Any]], float]:
    from vqkit.search.engine import Engine
    from vqkit.sweeps.source import load_data, load_model, model_path

    inputs = record.inputs
    net = load_model(model_path(inputs["model"]["ref"], ".", cache))
    settings = Settings(**{k: inputs[k] for k in Settings.__dataclass_fields__ if k in inputs})
    engine = Engine(net, load_data(inputs["data"]["ref"]), settings=settings, cache=cache)
    if engine.metric.name != record.measure.name:
        raise RecordError(
            f"run {record.key}: it is judged by {record.measure.name} of its own notebook, which is not computed here"
        )
    return lambda document: engine.measure(Strategy.from_dict(document, source="between")).value


def attribute(
    a: dict[str, Any],
    b: dict[str, Any],
    value: Callable[[dict[str, Any]], float],
    *,
    names: Sequence[str] = ("A", "B"),
    known: Sequence[float] | None = None,
    measure: Measure | None = None,
) -> Attribution:
    """Shares of the changed keys between two whole strategies.

    Args:
        a: strategy document.
        b: strategy document.
        value: metric of a document.
        names: of the two.
        known: the metric of the two where it is known.
        measure: the metric; accuracy by default.

    Returns:
        The attribution.

    Raises:
        StrategyError: no order of the changes gives valid intermediate strategies.
    """
    operations = json_patch(a, b)
    groups = _groups(diff_documents(a, b), operations)
    asked = _Asked(a, operations, groups, value)
    if known is not None:
        asked.known |= {frozenset(): known[0], frozenset(range(len(groups))): known[1]}
    exact = len(groups) <= EXACT_UP_TO
    points = _shapley(len(groups), asked) if exact else _two_orders(len(groups), asked)
    ends = (asked(frozenset()), asked(frozenset(range(len(groups)))))
    shares = [Contribution(*label, len(ops), p) for (label, ops), p in zip(groups, points, strict=True)]
    shares.sort(key=lambda s: -abs(s.points))
    evaluated, judged = len(asked.known), measure or Measure()
    return Attribution(names[0], names[1], *ends, tuple(shares), tuple(operations), evaluated, exact, judged)


Label = tuple[str, str, str]


def _groups(changes: Sequence[Change], operations: Sequence[Operation]) -> list[tuple[Label, list[int]]]:
    """Operations that say the same thing, with a label."""
    by_path = {c.pointer: c for c in changes}
    found: dict[Label, list[int]] = {}
    for i, operation in enumerate(operations):
        inside = [c for p, c in by_path.items() if p == operation["path"] or p.startswith(operation["path"] + "/")]
        if not inside:
            # Said in other words, meaning the same.
            found.setdefault(("spelling", "", ""), []).append(i)
            continue
        found.setdefault(_label(inside), []).append(i)
    spelled = found.pop(("spelling", "", ""), [])
    groups = list(found.items())
    if groups and spelled:
        groups[0][1].extend(spelled)
    return groups


def _label(changes: Sequence[Change]) -> Label:
    first = changes[0]
    in_layer = "/layer_quantize_config/" in first.pointer
    what = first.label.partition(" ")[2] if in_layer else first.label
    if len(changes) > 1:
        what = f"{what} and {len(changes) - 1} more"
    return what, said(first.pointer, first.before), said(first.pointer, first.after)


class _Asked:
    """Metric of the first strategy with some groups of changes made."""

    def __init__(
        self,
        a: dict[str, Any],
        operations: Sequence[Operation],
        groups: Sequence[tuple[Label, list[int]]],
        value: Callable[[dict[str, Any]], float],
    ) -> None:
        self._a, self._operations, self._groups, self._value = a, operations, groups, value
        self.known: dict[frozenset[int], float | None] = {}

    def __call__(self, made: Iterable[int]) -> float:
        found = self.maybe(made)
        if found is None:
            raise StrategyError("compare --explain: an end of the comparison is no valid strategy for the model")
        return found

    def maybe(self, made: Iterable[int]) -> float | None:
        """None where these changes without the others are no valid strategy."""
        key = frozenset(made)
        if key not in self.known:
            chosen = sorted(i for g in key for i in self._groups[g][1])
            try:
                self.known[key] = self._value(apply_patch(self._a, [self._operations[i] for i in chosen]))
            except VqkitError:
                self.known[key] = None
        return self.known[key]


def _shapley(n: int, asked: _Asked) -> list[float]:
    """Mean over all orders; changes that are invalid without a later one share its gain."""
    totals = [0.0] * n
    for order in itertools.permutations(range(n)):
        _add(order, asked, totals)
    return [t / math.factorial(n) for t in totals]


def _two_orders(n: int, asked: _Asked) -> list[float]:
    totals = [0.0] * n
    for order in (range(n), range(n - 1, -1, -1)):
        _add(tuple(order), asked, totals)
    return [t / 2 for t in totals]


def _add(order: Sequence[int], asked: _Asked, totals: list[float]) -> None:
    now, made, waiting = asked(()), set[int](), list[int]()
    for i in order:
        made.add(i)
        waiting.append(i)
        after = asked.maybe(made) if len(made) < len(order) else asked(made)
        if after is not None:
            for j in waiting:
                totals[j] += (after - now) / len(waiting)
            now, waiting = after, []
