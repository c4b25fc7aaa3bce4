"""The application: exit codes, shared options and how their texts become values."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_origin, get_type_hints

import typer

from vqkit import __version__
from vqkit.errors import DataError, SweepError, TrackingError, VqkitError
from vqkit.sweeps.settings import Settings

if TYPE_CHECKING:
    from vqkit.strategy import Strategy


class Terminal(io.TextIOWrapper):
    """A text stream that writes control characters as escapes: a name of others does nothing to a terminal.

    Line ends and tabulators remain, and the return of a progress bar.
    """

    _ESCAPES: ClassVar = {
        i: f"\\x{i:02x}" if i < 256 else f"\\u{i:04x}"
        for i in (
            *range(0x20),
            *range(0x7F, 0xA0),
            0x61C,
            *range(0x200E, 0x2010),
            *range(0x2028, 0x202F),
            *range(0x2066, 0x206A),
        )
        if chr(i) not in "\n\t\r"
    }

    @classmethod
    def over(cls, stream: Any) -> Any:
        """The same stream, escaped; a stream without bytes beneath it stays as it is.

        Args:
            stream: `sys.stdout` or `sys.stderr`.
        """
        beneath = getattr(stream, "buffer", None)
        if beneath is None:
            return stream
        return cls(beneath, stream.encoding, "backslashreplace", line_buffering=True)

    def close(self) -> None:
        """Flush; the stream beneath is not its own to close."""
        self.flush()

    def write(self, text: str) -> int:
        """Write text, its control characters as `\\x1b`."""
        return super().write(text.translate(self._ESCAPES))


class Exit(IntEnum):
    """What the process says to its caller; the module's docstring explains each."""

    OK = 0
    SOME_FAILED = 1
    INVALID = 2
    TRACKING = 3
    BUG = 4
    INTERRUPTED = 130


app = typer.Typer(
    name="vqkit",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Sweep, prove, track and compare quantize strategies on Keras models.",
    epilog="Exit codes: 0 ok, 1 some variant failed, 2 invalid input, 3 tracking store refused, 4 bug, "
    "130 interrupted.",
)


def main() -> None:
    """Entry point: run a command, turn errors into one readable message and an exit code."""
    from vqkit.environment import quiet

    os.environ.update({k: v for k, v in quiet().items() if k not in os.environ})
    interruptible()
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(Terminal.over, streams)
    try:
        code = _guarded(app, debug)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = streams
    sys.exit(code)


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


def interruptible() -> None:
    """Let SIGTERM end this process as SIGINT does, with its records closed, and let SIGINT where it is meant.

    Started from a shell's background a process inherits that Ctrl-C means nothing; in a session of its own no
    terminal sends it, only `background.cancel`.
    """
    own = hasattr(os, "getsid") and os.getsid(0) == os.getpid()
    if own and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


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


Runs = Annotated[Path, typer.Option("--runs", help="Folder of records, cache and tracking store.")]
Base = Annotated[str, typer.Option("--strategy", "-s", help="Built-in strategy or JSON file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="E.g. weight_bit=4, or /json/pointer=8.")
]
Compat = Annotated[bool, typer.Option("--vitis-compat", help="Reproduce the original quantizer's mistakes.")]
TrackingUri = Annotated[str | None, typer.Option(help="mlflow store; default: sqlite in the run folder.")]
Experiment = Annotated[
    str | None, typer.Option(help="mlflow experiment; default: MLFLOW_EXPERIMENT_NAME, else 'vqkit'.")
]
Register = Annotated[str | None, typer.Option(help="Make the model a version of this model of mlflow's registry.")]
NoTrack = Annotated[bool, typer.Option("--no-track", help="Write records only, no mlflow.")]
NotebookOption = Annotated[Path | None, typer.Option(help="Runs instead of the built-in notebook.")]
Jobs = Annotated[int | None, typer.Option("-j", "--jobs", min=1, help="Variants at once; default: what fits.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Validate and list the variants, run nothing.")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Start nothing after the first failure.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run failed variants again.")]
Cold = Annotated[bool, typer.Option("--cold", help="A fresh kernel for each variant.")]
Warm = Annotated[bool, typer.Option("--warm", help="Warm kernels for a notebook of your own, too.")]
Dask = Annotated[str | None, typer.Option(help="Run on the Dask cluster at tcp://… or of a scheduler file.")]
Screen = Annotated[int | None, typer.Option(min=1, help="Try all on N images, finish what may be the best.")]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", help="What runs are judged by: a name, file.py:function, or JSON; the first one decides."),
]
DataOption = Annotated[
    str | None,
    typer.Option("--data", help="file.npz, file.py:function, JSON, or 'digits'; quickstart has its own."),
]
Pair = Annotated[list[str] | None, typer.Argument(metavar="[RUN_A RUN_B]", help="Keys or names of two runs.")]
Where = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only runs with this value.")]
Timeout = Annotated[float | None, typer.Option(min=1, help="Seconds for one variant.")]


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """A command with an option for each setting of a variant; it gets them together, as `settings`.

    Args:
        command: takes `settings`, a mapping of `Settings`' names to values.
    """
    kinds = get_type_hints(Settings)
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = []
    for f in dataclasses.fields(Settings):
        kind = str if get_origin(kinds[f.name]) is Literal else kinds[f.name]
        option = typer.Option(f"--{f.name.replace('_', '-')}", help=f.metadata["told"])
        if f.metadata["option"]:
            options += [inspect.Parameter(f.name, keyword, default=f.default, annotation=Annotated[kind, option])]

    @functools.wraps(command)
    def taking(**given: Any) -> None:
        command(settings={p.name: given.pop(p.name) for p in options}, **given)

    own = inspect.signature(command, eval_str=True).parameters
    kept = [p.replace(kind=keyword) for name, p in own.items() if name != "settings"]
    taking.__signature__ = inspect.Signature([*kept, *options])  # type: ignore[attr-defined]
    return taking


def pairs(texts: list[str] | None) -> dict[str, Any]:
    """`key=value` arguments; a value is JSON where it can be, else text."""
    pairs = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SweepError(f"{text!r}: expected KEY=VALUE")
        if key in pairs:
            raise SweepError(f"{key!r} is given twice")
        pairs[key] = value_of(value)
    return pairs


def stated_metrics(texts: list[str] | None) -> list[Any] | None:
    """The metrics of a command line, whose files lie where the command was given; None where none is."""
    found = [value_of(text) for text in texts or ()]
    return [_absolute(m) for m in found] or None


def _absolute(metric: Any) -> Any:
    if isinstance(metric, dict) and isinstance(metric.get("function"), str):
        return {**metric, "function": _absolute(metric["function"])}
    if not isinstance(metric, str) or ":" not in metric:
        return metric
    file, _, name = metric.rpartition(":")
    return f"{Path(file).absolute()}:{name}"


def value_of(text: str) -> Any:
    """A value as people type it: JSON where it is some, else text."""
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def chosen_strategy(base: str, overrides: list[str] | None) -> Strategy:
    """The strategy of `--strategy` with the `KEY=VALUE` arguments applied."""
    from vqkit.sweeps.variant import build_strategy

    return build_strategy(base, pairs(overrides))


def data_of(model: str, data: str | None) -> Any:
    """The data description of `--data`; only the built-in model brings its own.

    Args:
        model: what the command is about, a file or `quickstart`.
        data: as typed; None where nothing was.

    Raises:
        DataError: none is given for a model file.
    """
    from vqkit.sweeps.source import DIGITS, QUICKSTART, data_from_text

    if data is not None:
        return data_from_text(data)
    if model == QUICKSTART:
        return DIGITS
    raise DataError(
        f"--data: none given, and only 'quickstart' brings its own. For {model}: --data file.npz (arrays "
        "x_calib, x_eval, y_eval as the model takes them), --data file.py:function, or JSON as in a sweep"
    )
