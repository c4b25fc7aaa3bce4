"""The application object, the exit codes, and the one place that turns errors into them."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated

import typer

from vqkit import __version__
from vqkit.errors import TrackingError, VqkitError


class Exit(IntEnum):
    """What the process says to its caller; the module's docstring explains each."""

    OK = 0
    SOME_FAILED = 1
    INVALID = 2
    TRACKING = 3
    BUG = 4
    INTERRUPTED = 130


app = typer.Typer(
    name="vqkit", no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Sweep, prove, track and compare quantize strategies on Keras models.",
    epilog="Exit codes: 0 ok, 1 some variant failed, 2 invalid input, 3 tracking store refused, 4 bug, "
    "130 interrupted.",
)  # fmt: skip


def main() -> None:
    """Entry point: run a command, turn errors into one readable message and an exit code."""
    from vqkit.experiment.environment import quiet

    os.environ.update({k: v for k, v in quiet().items() if k not in os.environ})
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    sys.exit(_guarded(app, debug))


def _guarded(command: Callable[[], object], debug: bool) -> int:
    try:
        command()
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        return Exit.INTERRUPTED
    except VqkitError as e:
        if debug:
            traceback.print_exc()
        typer.echo(f"{type(e).__name__}: {e}", err=True)
        return Exit.TRACKING if isinstance(e, TrackingError) else Exit.INVALID
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except Exception:
        traceback.print_exc()
        typer.echo("This is a bug in vqkit.", err=True)
        return Exit.BUG
    return Exit.OK


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass
