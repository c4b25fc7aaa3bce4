"""Commands about the installation itself: doctor."""

from __future__ import annotations

from pathlib import Path

import typer

from vqkit.cli.application import Exit, app
from vqkit.cli.options import Runs


@app.command()
def doctor(runs: Runs = Path("runs")) -> None:
    """Try everything that a sweep needs on this machine, and say what to mend."""
    from vqkit.experiment import doctor as checks

    findings = checks.examine(runs)
    typer.echo(checks.report(findings))
    raise typer.Exit(Exit.INVALID if any(f.verdict == "bad" for f in findings) else Exit.OK)
