"""Optuna, asked and told: which point to try next, kept in sqlite so that a kill costs nothing.

The only module that imports Optuna. Every trial is drawn by a sampler made for its number, so what comes next
depends on the trials told before and on nothing in this process: an interrupted search goes on as if it had
not been interrupted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqkit import digest
from vqkit.errors import SweepError
from vqkit.search.spec import Range, Search, params_of, point_of, text

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

        better = self.search.better
        directions = ["maximize" if better[m] else "minimize" for m in self.search.spec.objectives]
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
