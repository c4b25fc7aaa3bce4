"""Commands that prove: doctor, whether this machine can work; reproduce, whether a run can be repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqkit.cli.application import Exit, app
from vqkit.cli.options import Runs, Timeout


@app.command()
def doctor(runs: Runs = Path("runs")) -> None:
    """Try everything that a sweep needs on this machine, and say what to mend."""
    from vqkit.experiment import doctor as checks

    findings = checks.examine(runs)
    typer.echo(checks.report(findings))
    raise typer.Exit(Exit.INVALID if any(f.verdict == "bad" for f in findings) else Exit.OK)


@app.command()
def reproduce(
    run: Annotated[str, typer.Argument(help="Key, start of a key, or name of a finished run.")],
    into: Annotated[
        Path | None, typer.Option(help="Folder for the repetition; default: RUNS/reproduced.")
    ] = None,
    timeout: Timeout = None,
    runs: Runs = Path("runs"),
) -> None:
    """Run a recorded run again, with nothing cached, and compare to the last bit."""
    from vqkit.experiment.reproduce import reproduce as repeat

    found = repeat(runs, run, into=into, timeout=timeout)
    typer.echo(str(found))
    raise typer.Exit(Exit.OK if found.same else Exit.SOME_FAILED)
