"""Commands that read recorded runs: compare, track, ui."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from vqkit.cli.application import app
from vqkit.cli.options import Pair, Runs, TrackingUri, Where, pairs


@app.command()
def compare(
    pair: Pair = None,
    sweep: Annotated[str | None, typer.Option(help="Only this sweep.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a standalone report.")] = None,
    sort: Annotated[str, typer.Option(help="Column that orders the leaderboard.")] = "accuracy",
    where: Where = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most rows of a group.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Print the leaderboard, or how two runs differ."""
    if pair:
        if len(pair) != 2:
            raise typer.BadParameter(f"two runs are compared, {len(pair)} given")
        from vqkit.experiment.difference import difference

        typer.echo(str(difference(pair[0], pair[1], runs_dir=runs)))
        return
    from vqkit.experiment import compare as comparison

    wanted = pairs(where)
    typer.echo(comparison.render(runs, sweep, sort=sort, where=wanted, limit=limit))
    if html is not None:
        from vqkit.experiment import report

        typer.echo(str(report.write(runs, html, sweep, where=wanted)))


@app.command()
def track(runs: Runs = Path("runs"), tracking_uri: TrackingUri = None) -> None:
    """Fill an mlflow store from the run records."""
    from vqkit.experiment.track import rebuild

    done = rebuild(runs, tracking_uri)
    for problem in done.problems:
        typer.echo(problem, err=True)
    typer.echo(f"{done.uri}: {len(done.runs)} runs")


@app.command()
def ui(
    runs: Runs = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Start mlflow's pages, on this machine only."""
    from vqkit.experiment.addresses import environment, ui_command

    typer.echo(f"http://127.0.0.1:{port}")
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *ui_command(runs, port=port)], {**os.environ, **environment()})
