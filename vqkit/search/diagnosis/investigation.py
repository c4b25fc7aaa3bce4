"""Why the metric fell: the samples, each tensor alone, each single repair, and the strategy that they add up to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit import tables
from vqkit.errors import RecordError
from vqkit.evaluation import judges_for
from vqkit.evaluation.judgement import Evidence
from vqkit.execution import requantize
from vqkit.files import write_bytes, write_json
from vqkit.quantization.data import Data, map_inputs
from vqkit.quantization.prepare import as_strategy, prepare
from vqkit.runs.store import Store
from vqkit.search.diagnosis.candidates import Candidate, Candidates
from vqkit.search.diagnosis.causes import Cause, Kind
from vqkit.search.diagnosis.repairs import ALPHA, Repair, ask, general, header, noise, reconstruction, rows_of
from vqkit.search.diagnosis.samples import FEW, Samples, compared, verdict
from vqkit.search.diagnosis.tensors import SUSPECTS, by_role, contributions, suspects, tried
from vqkit.search.engine import Engine, Measured
from vqkit.strategy import Strategy
from vqkit.sweeps.settings import Settings
from vqkit.sweeps.source import evaluation_part, some_of

if TYPE_CHECKING:
    import keras

IMAGES = 500
ASKED = 128
"""Samples on which single tensors are asked."""
SPARE = 200
"""Samples that take the place of the calibration samples, or as many as these are; at most a third of all."""
TOLERANCE = "1%"
REGAINED = 0.5, 0.8
"""Share of the loss that other calibration samples must win back to be the cause: where there is another sign, where
there is none."""
CLEAR = 0.3
"""A cause is one whose repair takes this share of the noise away."""
GENERAL = 0.1
"""How much more of the noise the repair of a whole role must take away to go before that of one tensor."""
NOISY = 0.01
"""A loss where the metric has no finite value for float, as a ratio of signal and noise has none: 20 dB."""
CHEAP = 50.0
"""Repairs that cost more are put to others after block reconstruction was tried."""
STEPS = 4
"""At most so many repairs are put together."""


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Why a metric fell, and what to do.

    Attributes:
        causes: the first one is the cause; others are what else was looked at. Empty where nothing is to be repaired.
        repairs: single changes of the strategy that were measured, most gain for its cost first.
        before: what the strategy does.
        after: what `strategy` does.
        strategy: with the repairs that are needed; the given one where none is.
        applied: names of these repairs.
        reference: how the float model does on the same samples.
        samples: what is known about the samples.
        seconds: spent.
        interrupted: whether it was stopped before all was measured.
    """

    causes: tuple[Cause, ...]
    repairs: tuple[Repair, ...]
    before: Measured
    after: Measured
    strategy: Strategy
    applied: tuple[str, ...]
    reference: Evidence
    samples: Samples
    seconds: float
    interrupted: bool = False

    @property
    def cause(self) -> Cause | None:
        """The cause; None where nothing is to be repaired."""
        return self.causes[0] if self.causes else None

    @property
    def sentence(self) -> str:
        """What to know in one sentence."""
        m = self.before
        values = f"{m.measure.name} {m.measure.text(m.value)}, float {m.measure.text(self.reference.value)}"
        return f"{self.cause.sentence} ({values})" if self.cause else f"Nothing to repair: {values}"

    def __str__(self) -> str:
        parts = [self.sentence]
        parts += [f"Beside it: {c.sentence}" for c in self.causes[1:]]
        if self.repairs:
            measure = self.before.measure
            parts.append(tables.text_table(header(measure), rows_of(self.repairs, measure)))
        if self.applied:
            m, (low, high) = self.after, self.after.evidence.interval
            value = f"{m.measure.name} {m.measure.text(m.value)} ({m.measure.plain(low)}–{m.measure.plain(high)})"
            parts.append(f"Repaired with {', '.join(self.applied)}: {value}")
        if self.interrupted:
            parts.append("Interrupted: not everything was measured")
        return "\n\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Everything but arrays, as JSON values."""
        measure = self.before.measure
        return {
            "metric": measure.name,
            "float": self.reference.value,
            "before": self.before.value,
            "after": self.after.value,
            "samples": len(self.reference),
            "causes": [c.to_json() for c in self.causes],
            "repairs": [r.to_json() for r in self.repairs],
            "applied": list(self.applied),
            "seconds": round(self.seconds, 1),
            "interrupted": self.interrupted,
        }

    def save(self, folder: str | Path) -> list[Path]:
        """Write the repaired strategy, the picture and what was measured.

        Args:
            folder: where they go; made if missing.

        Returns:
            Their paths: strategy.json where it is another one, diagnosis.png, diagnosis.json.
        """
        from vqkit.search.diagnosis.picture import png_of

        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        paths = [place / "diagnosis.png", place / "diagnosis.json"]
        write_bytes(paths[0], png_of(self.cause, self.samples, self.repairs, self.before))
        write_json(paths[1], self.to_json())
        if self.applied:
            paths.insert(0, place / "strategy.json")
            self.strategy.dump(paths[0])
        return paths


def diagnose(
    model: keras.Model,
    data: Data,
    strategy: Strategy | str | Path = "pof2s",
    *,
    images: int = IMAGES,
    max_drop: str = TOLERANCE,
    settings: Settings | None = None,
    cache: str | Path | None = None,
    metrics: Sequence[Any] | None = None,
    say: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Find why a strategy hurts a model, by measuring each single repair.

    Args:
        model: a built functional or Sequential Keras model; it is not changed.
        data: calibration and evaluation samples; without labels the float model's answers are the labels.
        strategy: the one that hurts: a `Strategy`, or the name or path of one.
        images: evaluation samples that are judged by, drawn at random; some of the others, if there are any, take
            the place of the calibration samples once.
        max_drop: what may be lost, as `Engine.bound` takes it.
        settings: as the strategy was run.
        cache: folder where measurements are kept by content.
        metrics: what `vqkit.evaluate` takes, the deciding one first; by default those of the settings, or of the task.
        say: takes one line for people at each step.

    Returns:
        The causes, the repairs and the repaired strategy. A KeyboardInterrupt ends it early, with what is known.

    Raises:
        DataError: the metrics cannot judge the model.
        StrategyError: the strategy does not fit the model.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
        >>> x = np.random.default_rng(0).normal(size=(96, 4)).astype("float32")
        >>> data = vqkit.Data("normal", x[:32], x[32:], model.predict(x[32:], verbose=0).argmax(-1))
        >>> vqkit.diagnose(model, data, "fsx").causes
        ()
    """
    began = time.monotonic()
    settings = settings or Settings()
    judged, spare = divided(data, images, settings.seed)
    engine = Engine(model, judged, settings=settings, cache=cache, metrics=metrics)
    found = _Investigation(engine, spare, as_strategy(strategy), max_drop, say or (lambda _: None)).run()
    return replace(found, seconds=time.monotonic() - began)


def diagnose_run(
    run: str,
    runs: str | Path = "runs",
    *,
    images: int = IMAGES,
    max_drop: str = TOLERANCE,
    say: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Find why a finished run is bad, as `diagnose` does.

    Args:
        run: key or name.
        runs: folder of the runs; measurements are kept in its cache.
        images: evaluation samples that are judged by.
        max_drop: what may be lost.
        say: takes one line for people at each step.

    Raises:
        RecordError: no such run, its model or data have changed, it was trained, or it is judged by a metric of its
            own notebook.
    """
    store = Store.at(runs)
    found = requantize.inputs_of(run, store.root)
    if found.settings.qat is not None:
        raise RecordError(f"run {run}: it was trained; a diagnosis is of a strategy that is applied after training")
    judged = some_of(found.data, found.settings.eval_images)
    settings = replace(found.settings, eval_images=None)
    own = judges_for(found.model, judged, settings.metrics)[0][0].metric.name
    if own != found.record.measure.name:
        raise RecordError(
            f"run {run}: it is judged by {found.record.measure.name} of its own notebook, which is not computed here"
        )
    given: dict[str, Any] = {"images": images, "max_drop": max_drop, "say": say}
    return diagnose(found.model, judged, found.strategy, settings=settings, cache=store.cache, **given)


def divided(data: Data, images: int, seed: int) -> tuple[Data, Any]:
    """The samples that are judged by, and inputs of others; None where there are too few.

    Args:
        data: all samples.
        images: how many are judged by at most.
        seed: of the choice.
    """
    n = data.n_eval
    held = min(max(data.n_calib, SPARE), max(n - images, n // 3))
    order = np.random.default_rng(seed).permutation(n)
    rows, others = np.sort(order[: min(images, n - held)]), np.sort(order[n - held :])
    judged = replace(data, name=f"{data.name}[{len(rows)} judged]", digest="", **evaluation_part(data, rows))
    return judged, map_inputs(lambda a, _: a[others], data.x_eval) if held else None


Made = tuple[Strategy, Measured, tuple[Repair, ...]]
"""A strategy, what it does, and the repairs that made it."""


def _all(strategy: Strategy, repairs: Iterable[Repair]) -> Strategy:
    for repair in repairs:
        strategy = repair.change(strategy)
    return strategy


class _Investigation:
    """One diagnosis; a class only because its steps share what they found."""

    def __init__(self, engine: Engine, spare: Any, base: Strategy, max_drop: str, tell: Callable[[str], None]) -> None:
        self._engine, self._spare, self._base, self._tell = engine, spare, base, tell
        known = np.isfinite(engine.reference.value)
        self._allowed = engine.bound(max_drop) if known else float("nan")
        self._interrupted = False

    def run(self) -> Diagnosis:
        engine, measure = self._engine, self._engine.metric.measure
        self._tell(engine.judged_by)
        before = engine.measure(self._base)
        self._tell(f"{self._base.name}: {measure.text(before.value)}, float {measure.text(before.float_value)}")
        self._tell("samples")
        samples = compared(engine)
        nothing = self._found((), (), before, before, self._base, (), samples)
        share = engine.reference.value if engine.reference.is_share else float("nan")
        if strange := verdict(samples, share):
            return replace(nothing, causes=(Cause(strange[0], "", strange[1]),))
        if not self._lost(before):
            return nothing
        of_data = tuple(self._calibration(before, samples))
        now = before
        if of_data:
            self._engine = self._recalibrated(self._spare)
            now = self._engine.measure(self._base)
            if not self._lost(now):
                return replace(nothing, causes=of_data, after=now)
        found = self._repaired(now, samples)
        return replace(found, causes=(*of_data, *found.causes), before=before)

    def _found(
        self,
        causes: tuple[Cause, ...],
        repairs: tuple[Repair, ...],
        before: Measured,
        after: Measured,
        strategy: Strategy,
        applied: tuple[str, ...],
        samples: Samples,
    ) -> Diagnosis:
        reference = self._engine.reference
        return Diagnosis(causes, repairs, before, after, strategy, applied, reference, samples, 0.0, self._interrupted)

    def _lost(self, measured: Measured) -> bool:
        if np.isnan(self._allowed):
            return noise(measured) > NOISY
        return measured.drop > self._allowed and measured.evidence.p_value(self._engine.reference) <= ALPHA

    # --- calibration samples ---

    def _calibration(self, before: Measured, samples: Samples) -> Iterator[Cause]:
        """What is wrong with the calibration samples, if other ones win the loss back."""
        if self._spare is None:
            return
        self._tell("calibrated with evaluation samples that are not judged")
        count = samples.count
        gain = self._won(before, self._spare)
        signs = samples.apart or samples.repeated or count <= FEW
        if gain < REGAINED[0 if signs else 1]:
            return
        won = f"calibrated with other evaluation samples, it wins {100 * gain:.0f} % of the loss back"
        if samples.repeated:
            text = f"only {samples.distinct} of {count} calibration samples differ from each other"
            yield Cause(Kind.CONSTANT, "", f"{text}; {won}")
        elif count <= FEW and not samples.apart:
            yield Cause(Kind.FEW, "", f"{count} calibration samples are too few; {won}")
        else:
            own = f": they have {samples.difference}" if samples.apart else ""
            yield Cause(
                Kind.CALIBRATION, "", f"calibration samples are of another kind than evaluation samples{own}; {won}"
            )

    def _won(self, before: Measured, x: Any) -> float:
        """Share of the loss that is won back with other calibration samples; 0 where it could be chance."""
        found = self._recalibrated(x).measure(self._base)
        losses = [noise(m) if np.isnan(self._allowed) else m.drop for m in (before, found)]
        gain = losses[0] - losses[1]
        return gain / losses[0] if gain > 0 and found.evidence.p_value(before.evidence) <= ALPHA else 0.0

    def _recalibrated(self, x: Any) -> Engine:
        own = self._engine
        data = replace(own.data, name=f"{own.data.name} recalibrated", x_calib=x, y_calib=None, digest="")
        return Engine(own.model, data, settings=own.settings, cache=own.cache, metrics=own.metrics)

    # --- the strategy ---

    def _repaired(self, before: Measured, samples: Samples) -> Diagnosis:
        engine, base = self._engine, self._base
        asker = Engine(engine.model, engine.data, settings=engine.settings, images=ASKED, metrics=engine.metrics)
        self._tell("each tensor alone")
        prepared = prepare(engine.model, base, vitis_compat=engine.settings.vitis_compat)
        made = engine.quantize(base)
        shares = contributions(asker, prepared, made)
        roles = by_role(shares)
        rows = {
            c.row.name: c.row for some in (suspects(shares), *(own[:SUSPECTS] for own in roles.values())) for c in some
        }
        self._tell(f"{len(rows)} tensors with other quantizers")
        answers = tried(asker, prepared, made, rows.values())
        candidates = list(Candidates(prepared, made, engine.data.x_calib, shares, answers))
        measured = self._measured(candidates, general(prepared.plan, prepared.graph, base, roles), before)
        ranked = sorted(measured.values(), key=lambda r: r.rank, reverse=True)
        found = self._together((base, before, ()), [r for r in ranked if r.cost <= CHEAP], before)
        if self._lost(found[1]) and not base.refine.include_block_reconstruction and not self._interrupted:
            ranked += self._measured([], [reconstruction()], before).values()
            found = self._together(found, ranked[-1:], before)
        found = self._together(found, [r for r in ranked if r.cost > CHEAP], before)
        ranked.sort(key=lambda r: r.rank, reverse=True)
        causes = self._causes(candidates, measured, ranked)
        strategy, after, applied = self._without_idle(*found)
        return self._found(causes, tuple(ranked), before, after, strategy, tuple(r.name for r in applied), samples)

    def _measured(
        self, candidates: Iterable[Candidate], others: Iterable[Repair], before: Measured
    ) -> dict[str, Repair]:
        """Every repair that changes something, by name; those of the causes first."""
        wanted = {r.name: r for r in [*(r for c in candidates for r in c.repairs), *others]}
        found: dict[str, Repair] = {}
        for number, repair in enumerate(wanted.values(), start=1):
            if self._interrupted:
                break
            self._tell(f"repair {number} of {len(wanted)}: {repair.name}")
            one = self._asked(repair, self._base, before)
            if one is not None:
                found[repair.name] = one
        return found

    def _together(self, so_far: Made, ranked: Sequence[Repair], before: Measured) -> Made:
        """Repairs put together, best first, until what is lost is little enough.

        Args:
            so_far: what was put together before: the strategy, what it does, the repairs.
            ranked: further repairs.
            before: what the strategy does that is repaired.
        """
        strategy, now, applied = so_far
        for repair in [r for r in ranked if r.helps or r.removed > CLEAR]:
            if not self._lost(now) or len(applied) == STEPS or self._interrupted:
                break
            one = repair if now is before else self._asked(repair, strategy, now)
            if one is not None and one.gain >= 0 and one.removed > GENERAL:
                assert one.strategy is not None
                assert one.measured is not None
                strategy, now, applied = one.strategy, one.measured, (*applied, repair)
        return strategy, now, applied

    def _asked(self, repair: Repair, base: Strategy, before: Measured) -> Repair | None:
        try:
            return ask(repair, self._engine, base, before)
        except KeyboardInterrupt:
            self._interrupted = True
            return None

    def _without_idle(self, strategy: Strategy, now: Measured, applied: tuple[Repair, ...]) -> Made:
        """The repairs without those that the later ones have made needless, the dearest kept last."""
        for repair in sorted(applied, key=lambda r: -r.cost) if len(applied) > 1 else ():
            rest = tuple(r for r in applied if r is not repair)
            made: Repair | None = None
            if rest and not self._interrupted:
                every = Repair("", partial(_all, repairs=rest), 0.0)
                made = self._asked(every, self._base, now)
            if made is not None and made.measured is not None and not self._lost(made.measured):
                assert made.strategy is not None
                strategy, now, applied = made.strategy, made.measured, rest
        return strategy, now, applied

    def _causes(
        self, candidates: Sequence[Candidate], measured: Mapping[str, Repair], ranked: Sequence[Repair]
    ) -> tuple[Cause, ...]:
        """The causes, the one first whose repair takes most of the noise away; one tensor goes before many."""

        def removed(candidate: Candidate) -> float:
            return max((measured[r.name].removed for r in candidate.repairs if r.name in measured), default=0.0)

        order = sorted(candidates, key=lambda c: GENERAL * c.cause.everywhere - removed(c))
        clear = [c.cause for c in order if removed(c) >= CLEAR]
        if clear:
            first = {(c.kind, c.tensor): c for c in reversed(clear)}
            return tuple(c for c in clear if first[c.kind, c.tensor] is c)
        best = max(ranked, key=lambda r: r.removed, default=None)
        text = "no single tensor and no single property of tensors makes the loss: many small errors add up"
        if best is not None and best.removed > GENERAL:
            text += f"; {best.name} takes {100 * best.removed:.0f} % of the noise away"
        return (Cause(Kind.SUM, "", text), *(c.cause for c in order))
