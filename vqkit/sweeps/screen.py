"""Successive screening: try every variant on a part of the evaluation data, finish what may be the best.

A variant is ruled out when the upper confidence bound on what it gains over the best one lies below `-margin`. Of
a share of right answers the bound comes from the samples on which only one of the two is right, and is exact
(Clopper and Pearson, 1934); of any other metric it is that of a bootstrap over pairs, or, where runs keep no values
of samples, of their own intervals. The bounds are shared out over all comparisons (Bonferroni), so that the variant
which is best on all samples stays in with the given confidence, as far as the cheaper calibration of the screening
misleads by no more than `margin`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqkit import statistics
from vqkit.errors import SweepError
from vqkit.runs.records import SCREENING, correct, sample_values
from vqkit.runs.store import RunRecord, Status, Store
from vqkit.sweeps.resolve import Planned, ResolvedSweep
from vqkit.sweeps.spec import ScreenSpec
from vqkit.tables import Measure


@dataclass(frozen=True)
class Judged:
    """What screening says about one variant.

    Attributes:
        planned: the variant on all images.
        key: of its screening run.
        value: of the metric that decides; None when it has none.
        gain: upper bound on what is gained over the best; None for the best and where nothing is known.
        kept: whether it goes on.
        why: for people.
        metric: the one that decides.
    """

    planned: Planned
    key: str
    value: float | None
    gain: float | None
    kept: bool
    why: str
    metric: str = "accuracy"

    def to_json(self) -> dict[str, Any]:
        """The judgement as `sweep.json` holds it."""
        own = {"name": self.planned.variant.name, "key": self.planned.variant.key, "screen_key": self.key}
        return {**own, self.metric: self.value, "gain": self.gain, "kept": self.kept, "why": self.why}


@dataclass(frozen=True)
class Verdict:
    """What screening says about a sweep.

    Attributes:
        judged: every variant that was to run, in order.
    """

    judged: tuple[Judged, ...]

    @property
    def kept(self) -> list[Planned]:
        """The variants that go on."""
        return [j.planned for j in self.judged if j.kept]


def first_round(resolved: ResolvedSweep) -> ResolvedSweep:
    """The sweep as it is screened: fewer images, the screening's calibration, the same strategies.

    Args:
        resolved: a sweep with `screen`.

    Returns:
        The sweep of the screening runs; variants that differ only in calibration become one.

    Raises:
        SweepError: `screen` wants as many images as there are, or more.
    """
    spec = _spec(resolved)
    planned: list[Planned] = []
    first: dict[str, str] = {}
    for p in resolved.to_run:
        v = p.variant
        available = v.settings.eval_images or dict(v.data.sizes)["n_eval"]
        if spec.images >= available:
            raise SweepError(
                f"{resolved.sweep.source} /screen/images: {spec.images} of {available} evaluation images is "
                "no screening; give fewer, or leave `screen` out"
            )
        settings = replace(v.settings, eval_images=spec.images, calibration=spec.calibration)
        variant = replace(v, name=f"{v.name} [{spec.images} images]", settings=settings)
        same = first.setdefault(variant.key, variant.name)
        planned.append(replace(p, variant=variant, same_as="" if same == variant.name else same))
    return replace(resolved, planned=tuple(planned))


def decide(resolved: ResolvedSweep, first: ResolvedSweep, runs: Store) -> Verdict:
    """Who goes on, from the records of the screening runs.

    Args:
        resolved: the sweep.
        first: from `first_round`.
        runs: where the records are.

    Returns:
        A judgement for each variant of `resolved.to_run`.
    """
    keys = [p.variant.key for p in first.planned]
    records = {key: runs.record(key) for key in dict.fromkeys(keys)}
    known = [r for r in records.values() if r is not None and _finished(r)]
    best = max(known, key=lambda r: r.goodness or (), default=None)
    each = (1 - _spec(resolved).confidence) / max(1, len(known) - 1)
    pairs = zip(resolved.to_run, keys, strict=True)
    return Verdict(tuple(_judge(p, records[key], key, best, each, runs, _spec(resolved)) for p, key in pairs))


def _finished(record: RunRecord) -> bool:
    return record.status is Status.FINISHED and record.goodness is not None


def _judge(
    planned: Planned,
    record: RunRecord | None,
    key: str,
    best: RunRecord | None,
    each: float,
    runs: Store,
    spec: ScreenSpec,
) -> Judged:
    if record is None or best is None or not _finished(record):
        return Judged(planned, key, None, None, False, "its screening run has no result")
    measure = best.measure
    value, name = record.metrics[measure.name], measure.name
    if record.key == best.key:
        return Judged(planned, key, value, None, True, "best in the screening", name)
    folders = runs.variant_dir(record.key), runs.variant_dir(best.key)
    if measure == Measure():
        gain = gain_bound(*folders, (value, best.metrics[name]), spec.images, each)
    else:
        own, other = map(sample_values, folders)
        gain = gain_by(record, best, own, other, each)
    whole = 1.0 if measure.unit == "percent" else abs(best.metrics.get(f"float_{name}", best.metrics[name]))
    kept = not gain < -spec.margin * whole
    behind = f"{-gain:.4f}" if measure.unit == "percent" else f"{-gain:.4g}"
    why = "may be the best" if kept else f"at least {behind} behind {best.name}"
    return Judged(planned, key, value, gain if math.isfinite(gain) else None, kept, why, name)


def gain_bound(run: Path, best: Path, accuracies: Sequence[float], n: int, error: float) -> float:
    """Upper bound on how much more accurate one run is than another.

    Args:
        run: run directory.
        best: run directory; both on the same samples.
        accuracies: of the two, used where they kept no predictions.
        n: samples.
        error: chance that the bound is wrong, 0..1.

    Returns:
        Accuracy of `run` minus that of `best` is below this, with chance 1 - `error`.
    """
    a, b = correct(run), correct(best)
    if a is None or b is None or a.shape != b.shape:
        ours, theirs = (round(accuracy * n) for accuracy in accuracies)
    else:
        # Images on which both are right or both wrong say nothing about the difference.
        n, ours, theirs = len(a), int(np.sum(a & ~b)), int(np.sum(b & ~a))
    return _exact(ours, theirs, n, error)


def _exact(ours: int, theirs: int, n: int, error: float) -> float:
    """Upper bound on the difference of two shares, from the samples that only one of two runs has."""
    _, high = statistics.clopper_pearson(ours, n, error=error / 2)
    low, _ = statistics.clopper_pearson(theirs, n, error=error / 2)
    return high - low


Values = NDArray[np.float64]


def gain_by(run: RunRecord, best: RunRecord, a: Values | None, b: Values | None, error: float) -> float:
    """The same by another metric than accuracy; infinite where nothing tells.

    Args:
        run: judged by the same metric as the best one.
        best: on the same samples.
        a: what each sample adds in `run`; None where it kept none.
        b: in `best`.
        error: chance that the bound is wrong.
    """
    from vqkit.evaluation.metrics import combine_of

    sign = best.measure.sign
    if a is None or b is None or a.shape != b.shape:
        return _from_intervals(run, best, error)
    combine, width = combine_of(best.measure.name), a.shape[1]
    if combine is None and all(np.all((v == 0) | (v == 1)) for v in (a, b)):
        ours, theirs = sign * (a - b) > 0, sign * (a - b) < 0
        return _exact(int(ours.sum()), int(theirs.sum()), len(a), error)

    def value(sums: Values, n: Any) -> Any:
        return sums[..., 0] / n if combine is None else combine(sums, n)

    high = statistics.bootstrap(
        lambda sums, n: sign * (value(sums[..., :width], n) - value(sums[..., width:], n)),
        np.concatenate([a, b], axis=1),
        confidence=1 - 2 * error,
        # Ten draws beyond the bound, as long as that takes no minutes.
        resamples=int(np.clip(10 / error, statistics.RESAMPLES, 10 * statistics.RESAMPLES)),
    )[1]
    return high if math.isfinite(high) else math.inf


def _from_intervals(run: RunRecord, best: RunRecord, error: float) -> float:
    """From the runs' own 95 % intervals, widened to the error as normal ones would be."""
    measure, distances = best.measure, []
    for record, end in ((run, measure.sign), (best, -measure.sign)):
        bound = record.metrics.get(f"{measure.name}_{'high' if end > 0 else 'low'}", math.nan)
        distances.append(abs(bound - record.metrics[measure.name]))
    normal = NormalDist()
    wider = normal.inv_cdf(1 - error / 2) / normal.inv_cdf(0.5 + statistics.CONFIDENCE / 2)
    gain = measure.sign * (run.metrics[measure.name] - best.metrics[measure.name]) + wider * sum(distances)
    return gain if math.isfinite(gain) else math.inf


def to_json(resolved: ResolvedSweep, first: ResolvedSweep, verdict: Verdict | None) -> dict[str, Any]:
    """The content of `sweep.json`: screening runs, then the full runs as far as it is known who they are.

    Args:
        resolved: the sweep.
        first: from `first_round`.
        verdict: None while the screening runs.
    """
    everything, screened = resolved.to_json(), first.to_json()["variants"]
    kept = {p.variant.key for p in verdict.kept} if verdict else set()
    full = [v for v in everything["variants"] if v["key"] in kept]
    n_eval = dict(resolved.planned[0].variant.data.sizes).get("n_eval")
    told = {
        **_spec(resolved).model_dump(),
        "of": n_eval,
        "variants": [j.to_json() for j in verdict.judged] if verdict else None,
    }
    return {**everything, "variants": [{**v, SCREENING: True} for v in screened] + full, SCREENING: told}


def _spec(resolved: ResolvedSweep) -> ScreenSpec:
    spec = resolved.sweep.spec.screen
    assert spec is not None
    return spec
