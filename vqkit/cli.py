"""The command line: gathers values, calls one function, prints what it returns.

Exit codes: 0 everything went well; 1 some variant failed or was killed; 2 the command, a file, a model or
data is not valid, and nothing was run; 3 runs went well but the tracking store refused; 4 a bug in vqkit
(with traceback); 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqkit import __version__
from vqkit.errors import SweepError, TrackingError, VqkitError

if TYPE_CHECKING:
    from vqkit.experiment.runner import Options, Outcome
    from vqkit.experiment.store import Store
    from vqkit.experiment.sweep import Sweep
    from vqkit.experiment.validate import Resolved
    from vqkit.strategy import Strategy


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
strategies = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List, show and write quantize strategies."
)
app.add_typer(strategies, name="strategies")

Runs = Annotated[Path, typer.Option("--runs", help="Folder of records, cache and tracking store.")]
Base = Annotated[str, typer.Option("--strategy", "-s", help="Built-in strategy or JSON file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="E.g. weight_bit=4, or /json/pointer=8.")
]
Compat = Annotated[bool, typer.Option("--vitis-compat", help="Reproduce the original quantizer's mistakes.")]
TrackingUri = Annotated[str | None, typer.Option(help="mlflow store; default: sqlite in the run folder.")]
NoTrack = Annotated[bool, typer.Option("--no-track", help="Write records only, no mlflow.")]
NotebookOption = Annotated[Path | None, typer.Option(help="Runs instead of the built-in notebook.")]
Jobs = Annotated[
    int | None, typer.Option("-j", "--jobs", min=1, help="Variants at once; default: what fits.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Validate and list the variants, run nothing.")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Start nothing after the first failure.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run failed variants again.")]
Pair = Annotated[list[str] | None, typer.Argument(metavar="[RUN_A RUN_B]", help="Keys or names of two runs.")]
Where = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only runs with this value.")]
Timeout = Annotated[float | None, typer.Option(min=1, help="Seconds for one variant.")]


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


@app.command()
def sweep(
    file: Annotated[str, typer.Argument(help="Sweep file (JSON or YAML), or 'quickstart'.")],
    jobs: Jobs = None,
    dry_run: DryRun = False,
    fail_fast: FailFast = False,
    retry_failed: RetryFailed = False,
    timeout: Timeout = None,
    runs: Runs = Path("runs"),
    tracking_uri: TrackingUri = None,
    no_track: NoTrack = False,
    notebook: NotebookOption = None,
) -> None:
    """Run all variants of a sweep that are not finished."""
    from vqkit.experiment.console import forecast, step_table
    from vqkit.experiment.report import conclude
    from vqkit.experiment.runner import Options, default_jobs, run_sweep, steps
    from vqkit.experiment.store import Store
    from vqkit.experiment.validate import resolve

    store = Store.at(runs)
    resolved = resolve(_load_sweep(file), store.cache, notebook=notebook)
    options = Options(jobs or default_jobs(), fail_fast, retry_failed, timeout)
    todo = steps(resolved, store, retry_failed=retry_failed)
    if dry_run:
        typer.echo(step_table(todo))
    typer.echo(forecast(todo, options.jobs))
    if dry_run:
        return
    code = _run_told(run_sweep, resolved, store, options, None if no_track else (tracking_uri,))
    typer.echo(f"\n{conclude(store.root, resolved.sweep.name)}")
    raise typer.Exit(code)


def _run_told(
    runner: Callable[..., Outcome], resolved: Resolved, store: Store, options: Options,
    tracking: tuple[str | None] | None,
) -> int:  # fmt: skip
    """Run, show and track; returns the exit code."""
    from vqkit.experiment.console import Progress
    from vqkit.experiment.runner import run_sweep, steps
    from vqkit.experiment.session import Session

    todo = steps(resolved, store, retry_failed=options.retry_failed)
    listed = resolved.to_json() if runner is run_sweep else None
    with Progress(sum(s.runs for s in todo), resolved.sweep.name, store) as progress:
        session = Session(store, tracking[0], listed, progress.say) if tracking else None

        def notify(record: Any) -> None:
            progress.show(record)
            if session:
                session.log(record)

        outcome = runner(resolved, store, options, notify=notify)
        if session:
            for record in outcome.skipped:
                session.log(record)
            session.close(interrupted=outcome.interrupted)
    if outcome.interrupted:
        return Exit.INTERRUPTED
    if outcome.failed:
        return Exit.SOME_FAILED
    return Exit.TRACKING if session and session.problem else Exit.OK


def _load_sweep(file: str) -> Sweep:
    from vqkit.experiment.sweep import Sweep

    if file != "quickstart":
        return Sweep.load(file)
    from vqkit.experiment.quickstart import quickstart_sweep

    return Sweep.from_dict(quickstart_sweep(), source="quickstart")


@app.command()
def run(
    model: Annotated[str, typer.Argument(help="Keras model file, or 'quickstart'.")],
    overrides: Overrides = None,
    data: Annotated[str, typer.Option(help="'digits', file.npz, file.py:function, or JSON.")] = "digits",
    strategy: Base = "pof2s",
    calibration: Annotated[str, typer.Option(help="quantized or float.")] = "quantized",
    vitis_compat: Compat = False,
    batch_size: Annotated[int, typer.Option(help="Calibration images per batch.")] = 32,
    steps: Annotated[int | None, typer.Option(help="Calibration batches; default: all.")] = None,
    seed: int = 0,
    timeout: Timeout = None,
    runs: Runs = Path("runs"),
    tracking_uri: TrackingUri = None,
    no_track: NoTrack = False,
    notebook: NotebookOption = None,
) -> None:
    """Run one variant as an executed notebook."""
    from vqkit.experiment.console import outcome_line
    from vqkit.experiment.runner import Options, run_single
    from vqkit.experiment.runner import steps as plan_steps
    from vqkit.experiment.source import data_from_text
    from vqkit.experiment.store import Store
    from vqkit.experiment.sweep import Sweep
    from vqkit.experiment.validate import resolve

    store = Store.at(runs)
    value = {
        "name": "run", "model": model, "data": data_from_text(data), "strategy": strategy, "mode": "list",
        "variants": [_pairs(overrides)], "calibration": calibration, "vitis_compat": vitis_compat,
        "batch_size": batch_size, "steps": steps, "seed": seed,
    }  # fmt: skip
    resolved = resolve(Sweep.from_dict(value, source="run"), store.cache, notebook=notebook)
    options = Options(retry_failed=True, timeout=timeout)
    for step in plan_steps(resolved, store, retry_failed=True):
        if step.record is not None and not step.runs:
            typer.echo(f"{step.reason}: {outcome_line(step.record, store)}")
    code = _run_told(run_single, resolved, store, options, None if no_track else (tracking_uri,))
    typer.echo(str(store.variant_dir(resolved.planned[0].variant.key)))
    raise typer.Exit(code)


def _pairs(texts: list[str] | None) -> dict[str, Any]:
    """`key=value` arguments; a value is JSON where it can be, else text."""
    pairs = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SweepError(f"{text!r}: expected KEY=VALUE")
        if key in pairs:
            raise SweepError(f"{key!r} is given twice")
        pairs[key] = _value(value)
    return pairs


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="Keras model file, or 'quickstart'.")],
    overrides: Overrides = None,
    strategy: Base = "pof2s",
    vitis_compat: Compat = False,
    target: Annotated[str | None, typer.Option(help="Say which layers run on this device: dpu.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Show each tensor's quantizer and who decided it, or which layers a device will run."""
    from vqkit.experiment.source import load_model, model_path
    from vqkit.experiment.store import Store

    net = load_model(model_path(model, ".", Store.at(runs).cache))
    from vqkit.flow import inspect, make_plan

    chosen, compat = _strategy(strategy, overrides), {"vitis_compat": vitis_compat}
    made = inspect(net, chosen, target, **compat) if target else make_plan(chosen, net, **compat)
    typer.echo(json.dumps(made.to_json(), indent=1) if as_json else str(made))


def _strategy(base: str, overrides: list[str] | None) -> Strategy:
    from vqkit.experiment.variant import build_strategy

    return build_strategy(base, _pairs(overrides))


@app.command()
def validate(
    file: Annotated[str, typer.Argument(help="Strategy or sweep file, or 'quickstart'.")],
    runs: Runs = Path("runs"),
) -> None:
    """Check a strategy or sweep file, run nothing."""
    from vqkit.experiment.form import read_mapping

    if file != "quickstart" and any(k.endswith("_config") for k in read_mapping(file)):
        from vqkit.strategy import Strategy

        loaded = Strategy.load(file)
        typer.echo(f"{file}: a valid strategy, nearest built-in {loaded.base}, digest {loaded.digest}")
        return
    from vqkit.experiment.store import Store
    from vqkit.experiment.validate import resolve

    resolved = resolve(_load_sweep(file), Store.at(runs).cache)
    typer.echo(f"{file}: a valid sweep of {len(resolved.planned)} variants, {len(resolved.to_run)} different")


@strategies.command("list")
def strategies_list() -> None:
    """Names of the built-in strategies."""
    from vqkit.strategy.builtins import ALIASES, NAMES

    for name in NAMES:
        also = ", ".join(a for a, n in ALIASES.items() if n == name)
        typer.echo(name + (f" (also {also})" if also else ""))


@strategies.command("show")
def strategies_show(
    strategy: Annotated[str, typer.Argument(help="Built-in strategy or JSON file.")],
    overrides: Overrides = None,
    layer: Annotated[
        str, typer.Option(help="Class of a layer to explain; InputLayer for inputs.")
    ] = "Conv2D",
    name: Annotated[str | None, typer.Option(help="Name of that layer.")] = None,
) -> None:
    """Explain the quantizers of a layer: each parameter and all rules that spoke about it."""
    from vqkit.strategy.explain import explain

    typer.echo(str(explain(_strategy(strategy, overrides), layer, name)))


@strategies.command("dump")
def strategies_dump(
    strategy: Annotated[str, typer.Argument(help="Built-in strategy or JSON file.")],
    overrides: Overrides = None,
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", min=0, max=2, help="0 user keys, 2 everything.")
    ] = 2,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File; default: print.")] = None,
) -> None:
    """Write a strategy as JSON, with overrides folded in."""
    value = _strategy(strategy, overrides).dump(output, verbose=verbose)
    if output is None:
        typer.echo(json.dumps(value, indent=2))


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

    wanted = _pairs(where)
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


if __name__ == "__main__":
    main()
