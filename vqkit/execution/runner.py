"""Run a sweep: skip what is finished, spread the rest over workers, record every outcome, keep going."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vqkit import environment
from vqkit.errors import RecordError, SweepError
from vqkit.execution.attempt import Job
from vqkit.execution.workers import RunOptions, WorkerPool
from vqkit.files import lock
from vqkit.runs.records import sentence
from vqkit.runs.store import RunRecord, Status, Store
from vqkit.runs.tracking import Session
from vqkit.sweeps import screen
from vqkit.sweeps.notebook import declared_parameters, is_shipped
from vqkit.sweeps.resolve import Planned, ResolvedSweep, resolve
from vqkit.sweeps.spec import Sweep

if TYPE_CHECKING:
    from vqkit.execution.dask import DaskPool

__all__ = ["Outcome", "RunOptions", "default_jobs", "run_single", "run_sweep", "run_tracked", "steps"]

Notify = Callable[[RunRecord], None]
# What a round is, and how many variants run in it.
Announce = Callable[[str, int], None]


@dataclass
class Outcome:
    """What came of a sweep.

    Attributes:
        ran: records of this call, in order of completion.
        skipped: records of earlier calls.
        interrupted: whether Ctrl-C ended it.
        untracked: why records are missing in the tracking store; None while there are none.
    """

    ran: list[RunRecord] = field(default_factory=list)
    skipped: list[RunRecord] = field(default_factory=list)
    interrupted: bool = False
    untracked: str | None = None

    @property
    def failed(self) -> list[RunRecord]:
        """Variants without a result, now or before."""
        return [r for r in (*self.skipped, *self.ran) if r.status is not Status.FINISHED]


def steps(resolved: ResolvedSweep, runs: Store, *, retry_failed: bool = False) -> list[Planned]:
    """Decide for each variant whether it runs.

    Args:
        resolved: a sweep that fits its model and data.
        runs: where the records are.
        retry_failed: run failed variants again.

    Returns:
        The variants in the sweep's order, each with what will be done about it, why, and its record.
    """
    return [_step(p, runs, retry_failed) for p in resolved.planned]


def _step(planned: Planned, runs: Store, retry_failed: bool) -> Planned:
    if planned.same_as:
        return replace(planned, reason=f"does the same as {planned.same_as!r}")
    try:
        record = runs.record(planned.variant.key)
    except RecordError:
        return replace(planned, runs=True, reason="its record is broken")
    if record is None:
        return replace(planned, runs=True, reason="new")
    if record.status is Status.FINISHED:
        return replace(planned, reason="finished", record=record)
    if record.status is Status.FAILED and not retry_failed:
        return replace(planned, reason="failed before; --retry-failed runs it again", record=record)
    return replace(planned, runs=True, reason=f"was {record.status}", record=record)


def run_sweep(
    sweep: Sweep | ResolvedSweep,
    runs: Store,
    options: RunOptions | None = None,
    *,
    notebook: str | Path | None = None,
    notify: Notify | None = None,
    announce: Announce | None = None,
    slots: WorkerPool | DaskPool | None = None,
) -> Outcome:
    """Validate a sweep, then run what is not finished; with `screen`, in two rounds.

    Args:
        sweep: validated first where it is no `ResolvedSweep`.
        runs: where records go.
        options: how to run.
        notebook: runs instead of `20_run_variant.ipynb`.
        notify: called in this thread with each record as it is finished or failed.
        announce: called in this thread when a round begins.
        slots: workers from `worker_pool` that stay for the next call; new ones by default.

    Returns:
        The records.

    Raises:
        SweepError: some variant cannot run, or another process is running this sweep. Nothing was started.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save("net.keras")
        >>> x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
        >>> np.savez("data.npz", x_calib=x, x_eval=x, y_eval=np.arange(16) % 3)
        >>> sweep = {"name": "bits", "model": "net.keras", "data": {"npz": "data.npz"}, "axes": {"weight_bit": [8]}}
        >>> outcome = vqkit.run_sweep(vqkit.Sweep.from_dict(sweep), vqkit.Store.at("runs"))
        >>> [record.status.value for record in vqkit.Store.at("runs").records()]
        ['FINISHED']
    """
    resolved = sweep if isinstance(sweep, ResolvedSweep) else resolve(sweep, runs.cache, notebook=notebook)
    options = options or RunOptions()
    name = resolved.sweep.name
    with lock(runs.sweep_dir(name), wait=False) as held:
        if not held:
            raise SweepError(f"{name}: another process is running this sweep in {runs.root}")
        if resolved.sweep.spec.screen is not None:
            return _run_screened(resolved, name, runs, options, notify, announce)
        runs.write_sweep(resolved.to_json())
        return _run(resolved, name, runs, options, notify, announce, slots)


def _run_screened(
    resolved: ResolvedSweep,
    sweep: str,
    runs: Store,
    options: RunOptions,
    notify: Notify | None,
    announce: Announce | None,
) -> Outcome:
    first = screen.first_round(resolved)
    runs.write_sweep(screen.to_json(resolved, first, None))
    looked = _run(first, sweep, runs, options, notify, announce)
    if looked.interrupted or (options.fail_fast and looked.failed):
        return looked
    verdict = screen.decide(resolved, first, runs)
    runs.write_sweep(screen.to_json(resolved, first, verdict))
    last = replace(resolved, planned=tuple(verdict.kept))
    done = _run(last, sweep, runs, options, notify, announce)
    return Outcome(looked.ran + done.ran, looked.skipped + done.skipped, done.interrupted)


def run_single(
    resolved: ResolvedSweep,
    runs: Store,
    options: RunOptions | None = None,
    *,
    notify: Notify | None = None,
    announce: Announce | None = None,
) -> Outcome:
    """Run a variant that belongs to no sweep.

    Args:
        resolved: from a sweep of one variant; its name is not used.
        runs: where the record goes.
        options: how to run.
        notify: called with the record.
        announce: called when it begins.

    Returns:
        The record, run or found.
    """
    return _run(resolved, None, runs, options or RunOptions(warm=False), notify, announce)


def run_tracked(
    sweep: Sweep | ResolvedSweep,
    runs: Store,
    options: RunOptions | None = None,
    *,
    single: bool = False,
    notebook: str | Path | None = None,
    track: bool = True,
    tracking_uri: str | None = None,
    experiment: str | None = None,
    say: Callable[[str], None] = print,
    session: Session | None = None,
    notify: Notify | None = None,
    announce: Announce | None = None,
    slots: WorkerPool | DaskPool | None = None,
) -> Outcome:
    """Run a sweep, or a variant that belongs to none, and log its records beside it.

    Args:
        sweep: validated first where it is no `ResolvedSweep`.
        runs: where records go.
        options: how to run.
        single: it is a variant that belongs to no sweep, see `run_single`.
        notebook: runs instead of `20_run_variant.ipynb`.
        track: log to mlflow.
        tracking_uri: mlflow store; None for the one in the folder of runs.
        experiment: of the store; `runs.mlflow.default_experiment()` where None.
        say: takes one line for people when the store refuses.
        session: of a caller that runs several sweeps as one; it closes it. Replaces the four above.
        notify, announce, slots: as for `run_sweep`.

    Returns:
        The records; `untracked` says why some are missing in the tracking store.

    Raises:
        SweepError: as `run_sweep`.
    """
    resolved = sweep if isinstance(sweep, ResolvedSweep) else resolve(sweep, runs.cache, notebook=notebook)
    log = session

    def begun(told: str, variants: int) -> None:
        nonlocal log
        if announce is not None:
            announce(told, variants)
        listed = None if single else runs.sweep(resolved.sweep.name)
        if log is None and track:
            log = Session(runs, tracking_uri, listed, say, experiment)
        elif log is not None and session is None and listed is not None:
            log.relist(listed)

    def ended(record: RunRecord) -> None:
        if notify is not None:
            notify(record)
        if log is not None:
            log.log(record)

    if single:
        outcome = run_single(resolved, runs, options, notify=ended, announce=begun)
    else:
        outcome = run_sweep(resolved, runs, options, notify=ended, announce=begun, slots=slots)
    if log is not None:
        for record in outcome.skipped:
            log.log(record)
        if session is None:
            log.close(interrupted=outcome.interrupted)
        outcome.untracked = log.problem
    return outcome


def _run(
    resolved: ResolvedSweep,
    sweep: str | None,
    runs: Store,
    options: RunOptions,
    notify: Notify | None,
    announce: Announce | None = None,
    slots: WorkerPool | DaskPool | None = None,
) -> Outcome:
    todo = steps(resolved, runs, retry_failed=options.retry_failed)
    outcome = Outcome(skipped=[s.record for s in todo if not s.runs and s.record is not None])
    warm = is_shipped(resolved.notebook) if options.warm is None else options.warm
    declared = declared_parameters(resolved.notebook)
    jobs = [_job(s, resolved, runs, sweep, declared, warm=warm) for s in todo if s.runs]
    if announce is not None:
        announce("" if sweep is None else sentence(runs.sweep(sweep)), len(jobs))
    with contextlib.nullcontext(slots) if slots else worker_pool(runs, sweep, options) as workers:
        try:
            for record in workers.work(jobs):
                outcome.ran.append(record)
                if notify is not None:
                    notify(record)
        except KeyboardInterrupt:
            outcome.interrupted = True
    return outcome


def worker_pool(runs: Store, sweep: str | None, options: RunOptions) -> WorkerPool | DaskPool:
    """The workers of a sweep, as a context; a caller that runs it in parts keeps them warm in between.

    Args:
        runs: where records go.
        sweep: the sweep's name, None for a single run.
        options: how to run.
    """
    logs = runs.root / "logs" if sweep is None else runs.sweep_dir(sweep)
    if options.cluster is None:
        return WorkerPool(runs, logs, options)
    from vqkit.execution.dask import DaskPool

    return DaskPool(runs, logs, options)


def _job(
    planned: Planned, resolved: ResolvedSweep, runs: Store, sweep: str | None, declared: Container[str], *, warm: bool
) -> Job:
    v, notebook = planned.variant, str(resolved.notebook)
    known = {**v.parameters(declared), "model": str(resolved.model_file)}
    parameters = {name: value for name, value in known.items() if name in declared}
    return Job(str(runs.root), v.key, v.name, v.inputs(), sweep, notebook, parameters, planned.strategy, warm)


def default_jobs() -> int:
    """As many variants at once as cores and memory allow; a kernel with TensorFlow takes 1 to 2 GB."""
    import psutil

    return max(1, min(environment.cores(), psutil.virtual_memory().available // (2 << 30), 8))
