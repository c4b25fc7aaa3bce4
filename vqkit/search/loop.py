"""Search under a budget: ask for a point, run it as a sweep does, tell what came of it, keep the best."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vqkit import statistics
from vqkit.errors import SweepError, VqkitError
from vqkit.files import lock, read_json, write_json
from vqkit.runs.store import RunRecord, Status, Store
from vqkit.runs.tracking import Session
from vqkit.search.spec import Search
from vqkit.search.study import Study, Trial
from vqkit.sweeps.spec import MetricBound, Point, title
from vqkit.tables import Measure

if TYPE_CHECKING:
    from vqkit.evaluation.metric import Metric
    from vqkit.execution.runner import RunOptions
    from vqkit.sweeps.resolve import LoadedSources

STUDY, BEST, STRATEGY = "study.db", "best.json", "best-strategy.json"
# A search that only finds what it has run before ends after so many trials for each that its budget allows.
PATIENCE = 4


@dataclass(frozen=True)
class Answer:
    """What came of a point.

    Attributes:
        metrics: numbers by name; None where it failed.
        key: of its run, or anything that is the same for the same variant.
        reason: why it failed.
        screened: whether only part of the evaluation samples decided.
    """

    metrics: Mapping[str, float] | None
    key: str = ""
    reason: str = ""
    screened: bool = False


class Evaluator(Protocol):
    """Whoever runs points."""

    def answers(self, points: Sequence[Point]) -> list[Answer]:
        """Run points; one answer for each, in their order."""

    def strategy(self, trial: Trial) -> dict[str, Any] | None:
        """The whole strategy of a trial, if it is known."""


@dataclass(frozen=True, eq=False)
class Found:
    """A study as it stands.

    Attributes:
        search: what was searched.
        trials: all of them, by number.
        folder: where study and best-so-far lie.
        interrupted: whether Ctrl-C ended it.
    """

    search: Search
    trials: tuple[Trial, ...]
    folder: Path
    interrupted: bool = False

    @property
    def front(self) -> list[Trial]:
        """The fitting trials that no other beats in all objectives, best in the first objective first."""
        fits = [t for t in self.trials if t.fits]
        return sorted(front(fits, self.search), key=lambda t: self._loss(t))

    @property
    def best(self) -> Trial | None:
        """The smallest of the fitting trials that chance cannot tell from the best in the first objective.

        Without the interval of the metric that decides it is the best one itself.
        """
        fits = self.front
        if not fits:
            return None
        top, metric = fits[0], self.search.metrics[0]
        low = goodness(top.metrics, metric)[0]
        level = [t for t in fits if goodness(t.metrics, metric)[1] >= low] if low == low else [top]
        return min(level, key=lambda t: (t.metrics.get("size_bytes", 0.0), self._loss(t)))

    def _loss(self, trial: Trial) -> float:
        assert trial.values is not None
        return -trial.values[0] if self.search.better[self.search.spec.objectives[0]] else trial.values[0]

    def to_json(self) -> dict[str, Any]:
        """What `best.json` holds."""
        return {
            "search": self.search.name,
            "trials": len(self.trials),
            "best": _plain(self.best),
            "front": [_plain(t) for t in self.front],
        }


def _plain(trial: Trial | None) -> dict[str, Any] | None:
    if trial is None:
        return None
    return {
        "number": trial.number,
        "key": trial.key,
        "point": dict(trial.point),
        "metrics": dict(trial.metrics),
    }


def goodness(metrics: Mapping[str, float], metric: Measure) -> tuple[float, float]:
    """95 % interval of how good a trial is: of its metric, with the sign that makes more better; NaN without one.

    Args:
        metrics: of a record.
        metric: that decides.
    """
    nan = float("nan")
    if metric.name == "accuracy":
        return ordered(statistics.wilson(metrics.get("accuracy", nan), metrics.get("n_eval", nan)), metric)
    return ordered([metrics.get(f"{metric.name}_{end}", nan) for end in ("low", "high")], metric)


def ordered(ends: Sequence[Any], metric: Measure) -> tuple[float, float]:
    """Bounds of a metric with the sign that makes more better, the worse end first."""
    low, high = (metric.sign * float(end) for end in ends)
    return (low, high) if metric.sign > 0 else (high, low)


def front(trials: Sequence[Trial], search: Search) -> list[Trial]:
    """The trials that none beats: at least as good in every objective, and better in one."""
    signs = [-1.0 if search.better[m] else 1.0 for m in search.spec.objectives]
    losses = np.array([t.values for t in trials], float).reshape(len(trials), len(signs)) * signs
    seen: dict[tuple[float, ...], Trial] = {}
    for trial, loss, on in zip(trials, losses.tolist(), statistics.undominated(losses), strict=True):
        if on:
            seen.setdefault(tuple(loss), trial)
    return list(seen.values())


def run(search: Search, folder: Path, evaluator: Evaluator, *, notify: Callable[[Trial], None] | None = None) -> Found:
    """Search until the budget is spent; go on where an earlier call stopped.

    Args:
        search: what is searched.
        folder: for the study and the best so far.
        evaluator: runs the points.
        notify: called with each trial as it is told.

    Returns:
        The study.

    Raises:
        SweepError: another process searches here, or another search has the name.
    """
    with lock(folder, wait=False) as held:
        if not held:
            raise SweepError(f"{search.name}: another process is running this search in {folder}")
        study, began = Study(search, folder / STUDY), time.monotonic()
        interrupted = False
        try:
            while _left(search, study.trials(), time.monotonic() - began):
                _round(study, evaluator, notify)
                _keep(Found(search, tuple(study.trials()), folder), evaluator)
        except KeyboardInterrupt:
            interrupted = True
        found = Found(search, tuple(study.trials()), folder, interrupted)
        _keep(found, evaluator)
        return found


def _left(search: Search, trials: Sequence[Trial], seconds: float) -> bool:
    spec = search.spec
    done = [t for t in trials if t.done]
    different = len({t.key for t in done if t.key}) + sum(not t.key for t in done)
    if spec.trials is not None and (different >= spec.trials or len(done) >= PATIENCE * spec.trials):
        return False
    return spec.minutes is None or seconds < 60 * spec.minutes


def _round(study: Study, evaluator: Evaluator, notify: Callable[[Trial], None] | None) -> None:
    batch = study.batch()
    answers = evaluator.answers([dict(t.point) for t in batch])
    for trial, answer in zip(batch, answers, strict=True):
        study.tell(trial, answer.metrics, key=answer.key, reason=answer.reason, screened=answer.screened)
        if notify is not None:
            notify(study.trials()[trial.number])


def _keep(found: Found, evaluator: Evaluator) -> None:
    write_json(found.folder / BEST, found.to_json())
    best = found.best
    strategy = None if best is None else evaluator.strategy(best)
    if strategy is not None:
        write_json(found.folder / STRATEGY, strategy)


class Runs:
    """Runs points as variants of a sweep: same notebook, same record, same cache, nothing twice.

    Args:
        search: what is searched.
        runs: where records go.
        options: how to run, a `runner.RunOptions`.
        notebook: runs instead of the built-in one.
        notify: called with each record.
        session: logs each record, also those that were there already.

    Attributes:
        search: the same by the metrics that runs are judged by.
    """

    def __init__(
        self,
        search: Search,
        runs: Store,
        options: RunOptions | None = None,
        *,
        notebook: str | Path | None = None,
        notify: Callable[[RunRecord], None] | None = None,
        session: Session | None = None,
    ) -> None:
        from vqkit.sweeps.resolve import opened

        self._runs, self._options, self._notify = runs, options, notify
        self._session = session
        self._opened = opened(search.sweep([{}]), runs.cache, notebook=notebook)
        self.search = search.judged([m.measure for m in _metrics(search, self._opened)])
        self._slots: Any = None
        self._variants: dict[str, dict[str, Any]] = {}
        self._screen = Screen(self.search, self._opened, runs) if search.spec.screen else None

    def answers(self, points: Sequence[Point]) -> list[Answer]:
        """Run points; what cannot be planned on the model fails with its reason."""
        found: dict[int, Answer] = {}
        resolved = {}
        for i, point in enumerate(points):
            try:
                resolved[i] = self._opened.resolved(self.search.sweep([_without_null(point)]))
            except VqkitError as e:
                found[i] = Answer(None, reason=f"{type(e).__name__}: {e}")
        for i, one in resolved.items():
            hopeless = self._screen.hopeless(one) if self._screen and not self._done(one) else None
            if hopeless is not None:
                found[i] = hopeless
        rest = {i: r for i, r in resolved.items() if i not in found}
        for i, record in self._run(rest).items():
            found[i] = _answer(record)
            if self._screen:
                self._screen.learn(found[i])
        return [found[i] for i in range(len(points))]

    def close(self) -> None:
        """End the workers; they stay warm between batches."""
        if self._slots is not None:
            self._slots.__exit__(None, None, None)
            self._slots = None

    def _done(self, resolved: Any) -> bool:
        record = self._runs.record(resolved.planned[0].variant.key)
        return record is not None and record.status is Status.FINISHED

    def _run(self, resolved: Mapping[int, Any]) -> dict[int, RunRecord]:
        from dataclasses import replace

        from vqkit.execution.runner import RunOptions, run_tracked, worker_pool

        if not resolved:
            return {}
        for r in resolved.values():
            for entry in r.to_json()["variants"]:
                self._variants.setdefault(entry["key"], entry)
        planned = {r.planned[0].variant.key: r.planned[0] for r in resolved.values()}
        first = next(iter(resolved.values()))
        options = self._options or RunOptions()
        if self._slots is None:
            self._slots = worker_pool(self._runs, self.search.name, options).__enter__()
        outcome = run_tracked(
            replace(first, planned=tuple(planned.values())),
            self._runs,
            options,
            track=False,
            session=self._session,
            notify=self._notify,
            slots=self._slots,
        )
        if outcome.interrupted:
            raise KeyboardInterrupt
        self._list_all()
        records = {r.key: r for r in (*outcome.skipped, *outcome.ran)}
        return {i: records[r.planned[0].variant.key] for i, r in resolved.items()}

    def _list_all(self) -> None:
        """The sweep's file lists every variant of the search, not those of the last batch."""
        name = self.search.name
        path = self._runs.sweep_dir(name) / "sweep.json"
        now = read_json(path)
        kept = self._runs.sweep_dir(name) / "variants.json"
        before = read_json(kept) if kept.exists() else []
        every = {v["key"]: v for v in [*before, *self._variants.values()]}
        write_json(kept, list(every.values()))
        write_json(path, {**now, "variants": list(every.values())})

    def strategy(self, trial: Trial) -> dict[str, Any] | None:
        """The strategy that a trial's run kept."""
        path = self._runs.variant_dir(trial.key) / "strategy.json"
        return dict(read_json(path)) if trial.key and path.is_file() else None


def _metrics(search: Search, found: LoadedSources) -> list[Metric]:
    """What runs are judged by; a notebook of the user's own may record any metric that is stated or has a name."""
    from vqkit.evaluation.metrics import NAMED
    from vqkit.evaluation.stated_metrics import metrics_of

    if found.judges:
        return [judge.metric for judge in found.judges]
    stated = metrics_of(search.spec.metrics, search.base_dir) if search.spec.metrics else ()
    return [*stated, *NAMED.values()]


def _without_null(point: Point) -> Point:
    return {k: v for k, v in point.items() if v is not None}


def _answer(record: RunRecord) -> Answer:
    if record.status is not Status.FINISHED:
        said = record.error or {}
        return Answer(None, record.key, f"{said.get('type')}: {said.get('message')}")
    n = record.inputs["data"].get("n_eval")
    return Answer({**record.metrics, **({"n_eval": float(n)} if n else {})}, record.key)


class Screen:
    """Says of a point from some evaluation samples that all of them cannot make it worth running.

    The first samples are evaluated; where the better end of the metric's interval stays behind what a
    constraint asks, or behind the worse end of a trial that is no larger, the rest is not evaluated.
    """

    def __init__(self, search: Search, opened: Any, runs: Store) -> None:
        self._search, self._opened, self._runs = search, opened, runs
        self._engines: dict[Any, Any] = {}
        self._known: list[Mapping[str, float]] = []

    def learn(self, answer: Answer) -> None:
        """Remember a trial that ran in full."""
        if answer.metrics is not None:
            self._known.append(answer.metrics)

    def hopeless(self, resolved: Any) -> Answer | None:
        """What the samples say where they decide; None where the point must run."""
        from vqkit.strategy import Strategy

        variant = resolved.planned[0].variant
        engine = self._engine(variant.settings)
        found = engine.measure(Strategy.from_dict(dict(resolved.planned[0].strategy), source=variant.name))
        measure = engine.metric.measure
        high = ordered(found.evidence.interval, measure)[1]
        wanted = self._wanted(found, measure)
        if not high < wanted:
            return None
        numbers = {
            **found.metrics,
            **{f"{name}_delta": value - engine.float_metrics[name] for name, value in found.metrics.items()},
            "size_bytes": found.size_bytes,
            "sqnr_output_db": found.sqnr_db,
            "n_eval": float(len(found.evidence)),
            "bit_operations": found.bit_operations,
        }
        metrics = {name: value for name, value in numbers.items() if value == value}
        best, least = (measure.text(measure.sign * end) for end in (high, wanted))
        reason = f"{measure.name} {best} at best on {len(found.evidence)} samples, {least} wanted"
        return Answer(metrics, variant.key, reason, screened=True)

    def _engine(self, settings: Any) -> Any:
        from vqkit.search.engine import Engine

        if settings not in self._engines:
            self._engines[settings] = Engine(
                self._opened.shared.net,
                self._opened.data,
                settings=settings,
                cache=self._runs.cache,
                images=self._search.spec.screen,
            )
        return self._engines[settings]

    def _wanted(self, found: Any, metric: Measure) -> float:
        """How good a point must be, with the sign that makes more better."""
        asked = [float("-inf")]
        for name, reference in ((metric.name, 0.0), (f"{metric.name}_delta", found.float_value)):
            bound = self._search.spec.constraints.get(name, MetricBound())
            end = bound.min if metric.sign > 0 else bound.max
            asked += [] if end is None else [metric.sign * (reference + end)]
        for other in self._known:
            low = goodness(other, metric)[0]
            if other.get("size_bytes", float("inf")) <= found.size_bytes and low == low:
                asked.append(low)
        return max(asked)


def search_file(path: str | Path, runs: str | Path = "runs", *, options: RunOptions | None = None) -> Found:
    """Search as a file says.

    Args:
        path: the search file.
        runs: folder of records, cache and studies.
        options: how to run, a `runner.RunOptions`.

    Returns:
        The study.
    """
    return search(Search.load(path), Store.at(runs), options=options)


def search(
    what: Search,
    runs: Store,
    *,
    options: RunOptions | None = None,
    notebook: str | Path | None = None,
    notify: Callable[[RunRecord], None] | None = None,
    tell: Callable[[Trial], None] | None = None,
    track: bool = False,
    tracking_uri: str | None = None,
    experiment: str | None = None,
    say: Callable[[str], None] = print,
) -> Found:
    """Search with runs as trials.

    Args:
        what: the search.
        runs: where records and the study go.
        options: how to run, a `runner.RunOptions`.
        notebook: runs instead of the built-in one.
        notify: called with each record.
        tell: called with each trial.
        track: log to mlflow.
        tracking_uri: mlflow store; None for the one in the folder of runs.
        experiment: of the store; `runs.mlflow.default_experiment()` where None.
        say: takes a line for people: what is judged by, and what the store refuses.

    Returns:
        The study; it lies in `runs/searches/<name>/` beside the best so far.

    Raises:
        SweepError: the search does not fit its model or data, or it is running already.
    """
    session = Session(runs, tracking_uri, {"name": what.name, "variants": []}, say, experiment) if track else None
    evaluator = Runs(what, runs, options, notebook=notebook, notify=notify, session=session)
    try:
        say(evaluator.search.metrics[0].judges)
        found = run(evaluator.search, runs.root / "searches" / what.name, evaluator, notify=tell)
    finally:
        evaluator.close()
    if session is not None:
        session.close(interrupted=found.interrupted)
    return found


def trial_title(trial: Trial, base: str) -> str:
    """A trial's name for people."""
    return title({k: v for k, v in trial.point.items() if v is not None}, base)
