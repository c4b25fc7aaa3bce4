"""The search file, and Optuna asked and told.

Optuna, asked and told: which point to try next, kept in sqlite so that a kill costs nothing.

The only module that imports Optuna. Every trial is drawn by a sampler made for its number, so what comes next
depends on the trials told before and on nothing in this process: an interrupted search goes on as if it had
not been interrupted.

The form of a search file: a sweep whose axes are searched instead of spanned.

name: resnet8-search
model: models/resnet8.keras
data: {npz: cifar10.npz}
strategy: fsx
axes:
  weight_bit: {low: 2, high: 8}             # a range; also step and log
  weight_per_channel: [true, false]         # or choices, as in a sweep
  calibration: [quantized]
objectives: [accuracy, size_bytes]          # each in its natural direction
constraints: {accuracy_delta: {min: -0.01}} # any metric of the record, min or max
trials: 40                                  # and / or minutes
minutes: null
sampler: tpe                                # tpe, nsga2, random
batch: 1                                    # trials asked for at once; they may run in parallel
screen: null                                # evaluation images that decide whether a trial is worth all
start: [{weight_bit: 8}]                    # points tried first
seed: 0                                     # settings as in a sweep
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from vqkit import digest
from vqkit.errors import SweepError, not_allowed
from vqkit.sweeps.spec import LABEL, SETTINGS, Point, SettingsSpec, Sweep, parse, plain_mapping, read_mapping

# Metric of a record -> whether more of it is better.
MORE_IS_BETTER = {
    "accuracy": True,
    "accuracy_delta": True,
    "sqnr_output_db": True,
    "sqnr_min_db": True,
    "size_bytes": False,
    "bit_operations": False,
    "quantized_tensors": True,
    "float_tensors": False,
}
NOT_IN_DIGEST = ("trials", "minutes")


class Range(BaseModel):
    """Numbers between two, both included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float
    high: float
    step: float | None = Field(default=None, gt=0)
    log: bool = False

    @model_validator(mode="after")
    def _makes_sense(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a positive low and no step")
        return self

    @property
    def whole(self) -> bool:
        """Whether the axis takes whole numbers."""
        parts = (self.low, self.high, *(() if self.step is None else (self.step,)))
        return all(float(p).is_integer() for p in parts)


class MetricBound(BaseModel):
    """What a metric may be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: float | None = None
    max: float | None = None

    def violation(self, value: float) -> float:
        """How far a value is outside; at most 0 inside."""
        over = [value - self.max] if self.max is not None else []
        return max([*over, *([self.min - value] if self.min is not None else [])], default=0.0)


class SearchSpec(SettingsSpec):
    """The form of a search file; the module's docstring shows one."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    model: str
    data: JsonValue
    strategy: str = "pof2s"
    axes: dict[str, list[JsonValue] | Range]
    objectives: list[str] = Field(default=["accuracy", "size_bytes"], min_length=1)
    constraints: dict[str, MetricBound] = Field(default_factory=dict)
    trials: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    sampler: Literal["tpe", "nsga2", "random"] = "tpe"
    batch: int = Field(default=1, ge=1)
    screen: int | None = Field(default=None, ge=1)
    start: list[dict[str, JsonValue]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _parts_fit(self) -> SearchSpec:
        if not self.axes:
            raise ValueError("axes: there is none, so there is nothing to search")
        for axis, values in self.axes.items():
            if axis == LABEL or values == []:
                raise ValueError(f"axes: {axis!r} " + ("holds no value" if values == [] else "is not an axis"))
        for where, names in (("objectives", self.objectives), ("constraints", list(self.constraints))):
            for name in names:
                if name not in MORE_IS_BETTER:
                    raise ValueError(not_allowed(where, name, MORE_IS_BETTER, what="metric"))
        if self.trials is None and self.minutes is None:
            raise ValueError("a search needs 'trials' or 'minutes'")
        for point in self.start:
            self._check_start(point)
        return self

    def _check_start(self, point: Mapping[str, Any]) -> None:
        for axis, value in point.items():
            if axis not in self.axes:
                raise ValueError(not_allowed("start", axis, self.axes, what="axis"))
            values = self.axes[axis]
            inside = (
                isinstance(value, int | float) and values.low <= value <= values.high
                if isinstance(values, Range)
                else any(text(value) == text(v) for v in values)
            )
            if not inside:
                raise ValueError(f"start: {axis!r} cannot be {value!r}")


@dataclass(frozen=True)
class Search:
    """A checked search and the place its relative paths start from.

    Attributes:
        spec: the file's content.
        base_dir: folder of the file.
        source: the file's name, for messages.
    """

    spec: SearchSpec
    base_dir: Path
    source: str

    @classmethod
    def load(cls, path: str | Path) -> Search:
        """Read a search file.

        Raises:
            SweepError: with file, JSON pointer, what was given, what is allowed.
        """
        path = Path(path)
        return cls.from_dict({LABEL: path.stem, **read_mapping(path)}, base_dir=path.parent, source=path.name)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], *, base_dir: str | Path = ".", source: str = "search") -> Search:
        """A search from plain JSON.

        Raises:
            SweepError: as `load`.
        """
        return cls(
            parse(SearchSpec, plain_mapping(value, source), source, SweepError),
            Path(base_dir).absolute(),
            source,
        )

    @property
    def name(self) -> str:
        """Name of the search and of its folder."""
        return self.spec.name

    @property
    def digest(self) -> str:
        """Digest of all that decides which trial comes next; the budget does not."""
        plain = self.spec.model_dump(mode="json")
        return digest.of_json({k: v for k, v in plain.items() if k not in NOT_IN_DIGEST})

    def sweep(self, points: list[Point]) -> Sweep:
        """The sweep that runs some points of the search."""
        s = self.spec
        settings = {name: getattr(s, name) for name in SETTINGS}
        value = {
            "name": s.name,
            "model": s.model,
            "data": s.data,
            "strategy": s.strategy,
            **settings,
            "mode": "list",
            "variants": points,
        }
        return Sweep.from_dict(value, base_dir=self.base_dir, source=self.source)


def text(value: Any) -> str:
    """A choice as the text by which the sampler knows it."""
    return digest.canonical_json(value)


def point_of(spec: SearchSpec, params: Mapping[str, Any]) -> Point:
    """The sweep point of a trial's parameters.

    Args:
        spec: the search.
        params: axis -> number, or the text of a choice.
    """
    found: Point = {}
    for axis, values in spec.axes.items():
        given = params[axis]
        if isinstance(values, Range):
            found[axis] = int(given) if values.whole else float(given)
        else:
            found[axis] = json.loads(given)
    return found


def params_of(spec: SearchSpec, point: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's parameters from a sweep point; inverse of `point_of`."""
    return {k: v if isinstance(spec.axes[k], Range) else text(v) for k, v in point.items()}


POINT, KEY, REASON, VIOLATIONS, SCREENED, METRICS = (
    "point",
    "key",
    "reason",
    "violations",
    "screened",
    "metrics",
)
DIGEST = "digest"
# How far a trial without the metric is outside a constraint on it.
HOPELESS = 1e30


@dataclass(frozen=True)
class Trial:
    """One trial of a study.

    Attributes:
        number: from 0.
        point: axis -> value.
        values: of the objectives; None where it failed or is not told.
        metrics: of its record, or of the screening.
        key: of its run; "" without one.
        reason: why it failed.
        violations: of the constraints; all at most 0 where it fits.
        screened: whether only part of the evaluation samples decided.
        done: whether it was told.
    """

    number: int
    point: Mapping[str, Any]
    values: tuple[float, ...] | None
    metrics: Mapping[str, float]
    key: str
    reason: str
    violations: tuple[float, ...]
    screened: bool
    done: bool

    @property
    def fits(self) -> bool:
        """Whether it has values of all evaluation samples and violates nothing."""
        return self.values is not None and not self.screened and all(v <= 0 for v in self.violations)


class Study:
    """A study on disk.

    Args:
        search: what is searched.
        path: the sqlite file; made with the study where it is missing.

    Raises:
        SweepError: the file holds a study of another search.
    """

    def __init__(self, search: Search, path: Path) -> None:
        self.search = search
        path.parent.mkdir(parents=True, exist_ok=True)
        with _quiet():
            self._study = self._open(f"sqlite:///{path}")

    def _open(self, url: str) -> Any:
        import optuna

        directions = ["maximize" if MORE_IS_BETTER[m] else "minimize" for m in self.search.spec.objectives]
        make: dict[str, Any] = {"study_name": self.search.name, "storage": url, "directions": directions}
        study = optuna.create_study(**make, load_if_exists=True)
        if DIGEST not in study.user_attrs:
            study.set_user_attr(DIGEST, self.search.digest)
        if study.user_attrs[DIGEST] != self.search.digest:
            raise SweepError(
                f"{self.search.source}: another search was begun as {self.search.name!r}; only trials and "
                "minutes may change. Give it a new name"
            )
        return study

    def trials(self) -> list[Trial]:
        """All trials that were asked for, by number."""
        return [self._trial(t) for t in self._study.get_trials(deepcopy=False)]

    def _trial(self, t: Any) -> Trial:
        import optuna

        attrs, complete = t.user_attrs, t.state == optuna.trial.TrialState.COMPLETE
        return Trial(
            t.number,
            point_of(self.search.spec, t.params),
            tuple(t.values) if complete else None,
            attrs.get(METRICS, {}),
            attrs.get(KEY, ""),
            attrs.get(REASON, ""),
            tuple(attrs.get(VIOLATIONS, ())),
            bool(attrs.get(SCREENED)),
            t.state.is_finished(),
        )

    def batch(self) -> list[Trial]:
        """The trials to run next: those that were asked for and not told, filled up to a whole batch."""
        size = self.search.spec.batch
        with _quiet():
            known = self.trials()
            first = min((t.number for t in known if not t.done), default=len(known)) // size * size
            for number in range(len(known), first + size):
                self._ask(number)
        return [t for t in self.trials() if not t.done]

    def _ask(self, number: int) -> None:
        """Draw a trial in a copy, then add it at once: asked in place, a kill could leave half of it."""
        import optuna

        spec, directions = self.search.spec, self._study.directions
        copy = optuna.create_study(directions=directions, sampler=self._sampler(number))
        copy.add_trials(self._study.get_trials(deepcopy=False))
        if number < len(spec.start):
            copy.enqueue_trial(params_of(spec, spec.start[number]))
        copy.ask(self._distributions())
        drawn = copy.get_trials(deepcopy=False)[number]
        self._study.add_trial(
            optuna.trial.create_trial(
                state=drawn.state,
                params=drawn.params,
                distributions=drawn.distributions,
                system_attrs=drawn.system_attrs,
            )
        )

    def tell(
        self,
        trial: Trial,
        metrics: Mapping[str, float] | None,
        *,
        key: str = "",
        reason: str = "",
        screened: bool = False,
    ) -> None:
        """Say what came of a trial.

        Args:
            trial: from `batch`.
            metrics: of its record; None where it failed.
            key: of its run.
            reason: why it failed.
            screened: whether only part of the evaluation samples decided.
        """
        import optuna

        spec = self.search.spec
        live = optuna.trial.Trial(self._study, self._study.get_trials(deepcopy=False)[trial.number]._trial_id)
        said: dict[str, Any] = {KEY: key, REASON: reason, SCREENED: screened}
        values, violations = None, dict.fromkeys(spec.constraints, HOPELESS)
        if metrics is not None:
            missing = [m for m in spec.objectives if m not in metrics]
            said |= {METRICS: dict(metrics), REASON: reason or (f"no {missing[0]}" if missing else "")}
            known = {m: b.violation(metrics[m]) for m, b in spec.constraints.items() if m in metrics}
            violations |= known
            values = None if missing else [float(metrics[m]) for m in spec.objectives]
        with _quiet():
            for name, value in {**said, VIOLATIONS: list(violations.values())}.items():
                live.set_user_attr(name, value)
            for metric, violation in violations.items():
                live.set_constraint(metric, violation)
            self._study.sampler = self._sampler(trial.number)
            state = None if values is not None else optuna.trial.TrialState.FAIL
            self._study.tell(trial.number, values, state=state)

    def importances(self) -> dict[str, dict[str, float]]:
        """Objective -> axis -> share of its variance that the axis explains; empty with fewer than 5 trials.

        Source: F. Hutter et al., Efficient Assessment of Hyperparameter Importance, 2014 (fANOVA).
        """
        import optuna

        told = [t for t in self.trials() if t.values is not None]
        if len(told) < 5:
            return {}
        found = {}
        for i, metric in enumerate(self.search.spec.objectives):
            with _quiet():
                evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
                found[metric] = optuna.importance.get_param_importances(
                    self._study, evaluator=evaluator, target=_value_at(i)
                )
        return {m: {k: float(v) for k, v in shares.items()} for m, shares in found.items()}

    def _sampler(self, number: int) -> Any:
        import optuna

        spec = self.search.spec
        seed = int(digest.of_json([spec.seed, number])[:8], 16)
        if spec.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if spec.sampler == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=20)
        return optuna.samplers.TPESampler(seed=seed)

    def _distributions(self) -> dict[str, Any]:
        return {axis: _distribution(values) for axis, values in self.search.spec.axes.items()}


def _value_at(i: int) -> Callable[[Any], float]:
    return lambda trial: float(trial.values[i])


def _distribution(values: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, Range):
        return CategoricalDistribution([text(v) for v in values])
    if values.whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log, step=int(values.step or 1))
    return FloatDistribution(values.low, values.high, log=values.log, step=values.step)


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna announces each trial, and warns of arguments it calls experimental."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # Told once more after a kill in the middle of telling.
            warnings.filterwarnings("ignore", message=".*is already set")
            yield
    finally:
        optuna.logging.set_verbosity(before)
