"""Commands that run variants: sweep, run; and validate, which says whether they could."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqkit.cli.application import (
    Base,
    Cold,
    Dask,
    DataOption,
    DryRun,
    Exit,
    Experiment,
    FailFast,
    Jobs,
    Metrics,
    NotebookOption,
    NoTrack,
    Overrides,
    Register,
    RetryFailed,
    Runs,
    Screen,
    Timeout,
    TrackingUri,
    Warm,
    app,
    data_of,
    pairs,
    stated_metrics,
    with_settings,
)
from vqkit.cli.compare import published, registered
from vqkit.errors import SweepError

if TYPE_CHECKING:
    from vqkit.execution.runner import RunOptions
    from vqkit.runs.store import Store
    from vqkit.sweeps.resolve import ResolvedSweep


@app.command()
def sweep(
    file: Annotated[str, typer.Argument(help="Sweep file (JSON or YAML), or 'quickstart'.")],
    jobs: Jobs = None,
    dry_run: DryRun = False,
    fail_fast: FailFast = False,
    retry_failed: RetryFailed = False,
    timeout: Timeout = None,
    cold: Cold = False,
    warm: Warm = False,
    screen: Screen = None,
    metric: Metrics = None,
    dask: Dask = None,
    relative_to: Annotated[
        Path | None, typer.Option(help="Where the file's relative paths start; default: its folder.")
    ] = None,
    runs: Runs = Path("runs"),
    tracking_uri: TrackingUri = None,
    experiment: Experiment = None,
    register: Register = None,
    no_track: NoTrack = False,
    notebook: NotebookOption = None,
) -> None:
    """Run all variants of a sweep that are not finished."""
    from vqkit.cli.console import forecast, step_table
    from vqkit.comparison.report import conclude
    from vqkit.execution.runner import RunOptions, default_jobs, steps
    from vqkit.runs.store import Store
    from vqkit.sweeps.notebook import is_shipped
    from vqkit.sweeps.quickstart import as_sweep
    from vqkit.sweeps.resolve import resolve
    from vqkit.sweeps.screen import first_round
    from vqkit.sweeps.spec import Sweep

    _check_registers(register, no_track)
    if cold and warm:
        raise SweepError("--cold and --warm: one of the two")
    if dask is not None and jobs is not None:
        raise SweepError("-j and --dask: the cluster decides how many variants run at once")
    store = Store.at(runs)
    wanted = Sweep.load(file, base_dir=relative_to) if relative_to else as_sweep(file)
    if screen is not None:
        wanted = wanted.with_screen(screen)
    if metric:
        wanted = wanted.with_metrics(stated_metrics(metric))
    resolved = resolve(wanted, store.cache, notebook=notebook)
    warm = warm or (not cold and is_shipped(resolved.notebook))
    options = RunOptions(jobs or default_jobs(), fail_fast, retry_failed, timeout, warm, dask)
    first = resolved if wanted.spec.screen is None else first_round(resolved)
    todo = steps(first, store, retry_failed=retry_failed)
    if dry_run:
        typer.echo(step_table(todo))
    if resolved.judged:
        typer.echo(resolved.judged)
    _tell_unheard(resolved)
    typer.echo(forecast(todo, options.jobs))
    typer.echo(f"{_crew_told(options)}; {'warm kernels' if warm else 'a fresh kernel for each variant'}")
    if dry_run:
        return
    where: dict[str, Any] = {"tracking_uri": tracking_uri, "experiment": experiment}
    code = run_told(resolved, store, options, track=not no_track, **where)
    name = resolved.sweep.name
    typer.echo(f"\n{conclude(store.root, name)}")
    if no_track or code in (Exit.TRACKING, Exit.INTERRUPTED):
        raise typer.Exit(code)
    advice = published(store.root, name, **where)
    if register is not None and advice.row is not None:
        address = registered(str(advice.row["key"]), register, store.root, sweep=name, **where)
        typer.echo(f"{address}: {advice.row['name']}")
    raise typer.Exit(code)


def _check_registers(register: str | None, no_track: bool) -> None:
    if register is not None and no_track:
        raise SweepError("--register and --no-track: a registry of models is a tracking store; one of the two")


def _tell_unheard(resolved: ResolvedSweep) -> None:
    """What a notebook of one's own is not given."""
    if resolved.unheard:
        typer.echo(f"{resolved.notebook.name} does not declare {', '.join(resolved.unheard)}: it is not given them")


def _crew_told(options: RunOptions) -> str:
    """Who will run the variants, for people."""
    if options.cluster is None:
        from vqkit.environment import sharing

        return sharing(options.jobs)
    from vqkit.execution.dask import size

    return size(options.cluster)


def run_told(resolved: ResolvedSweep, store: Store, options: RunOptions, **how: Any) -> int:
    """Run, show and track; returns the exit code."""
    from vqkit.cli.console import Progress
    from vqkit.execution.runner import run_tracked

    with Progress(resolved.sweep.name, store) as told:
        outcome = run_tracked(resolved, store, options, say=told.say, notify=told.show, announce=told.begin, **how)
    if outcome.interrupted:
        return Exit.INTERRUPTED
    if outcome.failed:
        return Exit.SOME_FAILED
    return Exit.TRACKING if outcome.untracked else Exit.OK


@app.command()
@with_settings
def run(
    settings: dict[str, Any],
    model: Annotated[str, typer.Argument(help="Keras model file, or 'quickstart'.")],
    overrides: Overrides = None,
    data: DataOption = None,
    strategy: Base = "pof2s",
    metric: Metrics = None,
    timeout: Timeout = None,
    warm: Warm = False,
    runs: Runs = Path("runs"),
    tracking_uri: TrackingUri = None,
    experiment: Experiment = None,
    register: Register = None,
    no_track: NoTrack = False,
    notebook: NotebookOption = None,
) -> None:
    """Run one variant as an executed notebook."""
    from vqkit.cli.console import outcome_line, what_to_do
    from vqkit.execution.runner import RunOptions, steps
    from vqkit.runs.store import Store
    from vqkit.sweeps.resolve import resolve
    from vqkit.sweeps.spec import Sweep

    _check_registers(register, no_track)
    store = Store.at(runs)
    value = {
        "name": "run",
        "model": model,
        "data": data_of(model, data),
        "strategy": strategy,
        "mode": "list",
        "variants": [pairs(overrides)],
        **settings,
        "metrics": stated_metrics(metric),
    }
    resolved = resolve(Sweep.from_dict(value, source="run"), store.cache, notebook=notebook)
    if resolved.judged:
        typer.echo(resolved.judged)
    _tell_unheard(resolved)
    options = RunOptions(retry_failed=True, timeout=timeout, warm=warm)
    for step in steps(resolved, store, retry_failed=True):
        if step.record is not None and not step.runs:
            typer.echo(f"{step.reason}: {outcome_line(step.record, store)}")
    where: dict[str, Any] = {"tracking_uri": tracking_uri, "experiment": experiment}
    code = run_told(resolved, store, options, single=True, track=not no_track, **where)
    key = resolved.planned[0].variant.key
    typer.echo(str(store.variant_dir(key)))
    if code == Exit.OK and (told := what_to_do(store.record(key), runs)):
        typer.echo(told)
    if register is not None and code == Exit.OK:
        typer.echo(registered(key, register, store.root, **where))
    raise typer.Exit(code)


@app.command()
def validate(
    file: Annotated[str, typer.Argument(help="Strategy or sweep file, or 'quickstart'.")],
    runs: Runs = Path("runs"),
    notebook: NotebookOption = None,
) -> None:
    """Check a strategy or sweep file, run nothing."""
    from vqkit.sweeps.document import read_mapping

    if file != "quickstart" and any(k.endswith("_config") for k in read_mapping(file)):
        from vqkit.strategy import Strategy

        loaded = Strategy.load(file)
        typer.echo(f"{file}: a valid strategy, nearest built-in {loaded.base}, digest {loaded.digest}")
        return
    from vqkit.runs.store import Store
    from vqkit.sweeps.quickstart import as_sweep
    from vqkit.sweeps.resolve import resolve

    resolved = resolve(as_sweep(file), Store.at(runs).cache, notebook=notebook)
    _tell_unheard(resolved)
    typer.echo(f"{file}: a valid sweep of {len(resolved.planned)} variants, {len(resolved.to_run)} different")
    for planned in resolved.planned:
        if planned.same_as:
            typer.echo(f"  {planned.variant.name}: does the same as {planned.same_as!r}")


@app.command()
def example(
    name: Annotated[str, typer.Argument(help="One of docs/examples.md, such as segmentation.")],
    folder: Annotated[Path | None, typer.Argument(help="Where to; the example's name by default.")] = None,
) -> None:
    """Write a small trained model of some task with its data and a sweep."""
    from vqkit.examples.tasks import example as written

    sweep = written(name, folder)
    typer.echo(f"{sweep.parent}: {', '.join(sorted(p.name for p in sweep.parent.iterdir() if p.is_file()))}")
    typer.echo(f"Now: vqkit sweep {shlex.quote(str(sweep))}")
