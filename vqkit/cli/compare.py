"""Commands that read recorded runs: compare, track, register, ui."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vqkit.cli.application import Experiment, Pair, Runs, TrackingUri, Where, app, pairs
from vqkit.errors import RecordError


@app.command()
def compare(
    pair: Pair = None,
    sweep: Annotated[str | None, typer.Option(help="Only this sweep.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a standalone report.")] = None,
    sort: Annotated[str, typer.Option(help="Column that orders the leaderboard.")] = "value",
    where: Where = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most rows of a group.")] = None,
    why: Annotated[bool, typer.Option("--explain", help="Which strategy keys make the difference.")] = False,
    patch: Annotated[bool, typer.Option("--patch", help="The strategies' difference as JSON Patch.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Print the leaderboard, or how two runs differ."""
    if pair:
        if len(pair) != 2:
            raise typer.BadParameter(f"two runs are compared, {len(pair)} given{_sweep_meant(pair, runs)}")
        _compare_pair(pair[0], pair[1], runs, why, patch)
        return
    if why or patch:
        raise typer.BadParameter("--explain and --patch compare two runs; give both")
    from vqkit.comparison import leaderboard as comparison

    wanted = pairs(where)
    typer.echo(comparison.render(runs, sweep, sort=sort, where=wanted, limit=limit))
    if html is not None:
        from vqkit.comparison import report

        typer.echo(str(report.write(runs, html, sweep, where=wanted)))


def _sweep_meant(given: list[str], runs: Path) -> str:
    from vqkit.runs.store import Store

    sweeps = Store.at(runs).sweeps()
    named = [name for name in given if name in sweeps]
    return f". {named[0]!r} is a sweep: vqkit compare --sweep {named[0]}" if named else ""


def _compare_pair(run_a: str, run_b: str, runs: Path, why: bool, patch: bool) -> None:
    from vqkit.comparison.difference import difference
    from vqkit.search.attribution import explain, patch_between

    if patch:
        typer.echo(json.dumps(patch_between(run_a, run_b, runs=runs), indent=1))
        return
    typer.echo(str(difference(run_a, run_b, runs_dir=runs)))
    if why:
        typer.echo(f"\n{explain(run_a, run_b, runs=runs)}")


def published(runs: Path, sweep: str, **where: Any) -> Any:
    """Write what came of a sweep into its parent run; returns the recommended run."""
    from vqkit.comparison.publication import publish

    return publish(runs, sweep, **where)


def registered(run: str, name: str, runs: Path, **where: Any) -> str:
    """Register a run's model; returns its address."""
    from vqkit.execution.registration import register

    return register(run, name, runs, **where)


@app.command()
def track(runs: Runs = Path("runs"), tracking_uri: TrackingUri = None, experiment: Experiment = None) -> None:
    """Fill an mlflow store from the run records."""
    from vqkit.runs.store import Store
    from vqkit.runs.tracking import rebuild

    done = rebuild(runs, tracking_uri, experiment=experiment)
    problems = dict.fromkeys(done.problems)
    for name in Store.at(runs).sweeps():
        try:
            published(runs, name, tracking_uri=tracking_uri, experiment=experiment)
        except RecordError as e:
            problems[str(e)] = None
    for problem in problems:
        typer.echo(problem, err=True)
    typer.echo(f"{done.uri}: {len(done.runs)} runs")


@app.command()
def register(
    run: Annotated[str, typer.Argument(help="Key or name of a finished run.")],
    name: Annotated[str, typer.Argument(help="Model of mlflow's registry.")],
    runs: Runs = Path("runs"),
    tracking_uri: TrackingUri = None,
    experiment: Experiment = None,
) -> None:
    """Make a run's model a version in mlflow's model registry."""
    typer.echo(registered(run, name, runs, tracking_uri=tracking_uri, experiment=experiment))


@app.command()
def ui(
    runs: Runs = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Start mlflow's pages, on this machine only."""
    from vqkit.runs.mlflow import environment, ui_command

    typer.echo(f"http://127.0.0.1:{port}")
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *ui_command(runs, port=port)], {**os.environ, **environment()})
