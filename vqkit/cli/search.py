"""Commands that find a strategy: sensitivity, mixed, search, recommend, diagnose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqkit.cli.application import (
    Base,
    DataOption,
    Exit,
    Experiment,
    Jobs,
    Metrics,
    NotebookOption,
    NoTrack,
    Overrides,
    Runs,
    Timeout,
    TrackingUri,
    app,
    chosen_strategy,
    data_of,
    stated_metrics,
)
from vqkit.cli.compare import published
from vqkit.errors import ModelError, SweepError
from vqkit.tables import parse_size

if TYPE_CHECKING:
    from vqkit.search.engine import Engine
    from vqkit.search.loop import Found
    from vqkit.search.study import Trial

Model = Annotated[str, typer.Argument(help="Keras model file, or 'quickstart'.")]
Bits = Annotated[str, typer.Option(help="Widths, separated by commas.")]
Images = Annotated[int, typer.Option(min=1, help="Evaluation samples that sensitivities are asked on.")]
Calibration = Annotated[str, typer.Option(help="quantized or float.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="File or folder to write to.")]
By = Annotated[
    str | None,
    typer.Option(help="kl, sqnr_db (both label-free) or the metric; default kl, without classes sqnr_db."),
]
MaxDrop = Annotated[
    str | None,
    typer.Option(help="What may be lost: percentage points, else the metric's unit; or 1% of the float value."),
]


@app.command()
def sensitivity(
    model: Model,
    overrides: Overrides = None,
    data: DataOption = None,
    strategy: Base = "pof2s",
    bits: Bits = "8,6,4",
    kinds: Annotated[str, typer.Option(help="Of weights, activations, both.")] = "weights,activations",
    modes: Annotated[str, typer.Option(help="Of only, all_but.")] = "only",
    by: By = None,
    metric: Metrics = None,
    images: Images = 1000,
    calibration: Calibration = "quantized",
    seed: int = 0,
    output: Output = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Show how much each layer suffers from few bits, most sensitive first."""
    from vqkit.environment import load_tensorflow

    load_tensorflow()
    from vqkit.files import write_json
    from vqkit.search import sensitivity as ask

    engine = _engine(model, data, runs, images, metric, calibration=calibration, seed=seed)
    found = ask(
        engine.model,
        engine.data,
        chosen_strategy(strategy, overrides),
        bits=_numbers(bits),
        kinds=_words(kinds),
        modes=_words(modes),
        engine=engine,
        progress=not as_json,
    )
    if output is not None:
        write_json(output, found.to_json())
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
        return
    typer.echo(f"{engine.judged_by}\n{found}")
    by = by or found.by
    for mode in _words(modes):
        worst = found.ranked(by, mode=mode).head(5)
        names = ", ".join(f"{r.layer} {r.kind} ({getattr(r, by):.3g})" for r in worst.itertuples())
        typer.echo(f"\nMost sensitive at {int(worst['bits'].iloc[0])} bits ({mode}) by {by}: {names}")


@app.command()
def mixed(
    model: Model,
    overrides: Overrides = None,
    data: DataOption = None,
    strategy: Base = "fsx",
    bits: Bits = "8,7,6,5,4,3,2",
    kinds: Annotated[str, typer.Option(help="Of weights, activations.")] = "weights",
    by: By = None,
    metric: Metrics = None,
    points: Annotated[int, typer.Option(min=1, help="Sizes at which a strategy is sought.")] = 12,
    max_size: Annotated[str | None, typer.Option(help="E.g. 100KB, or 60% of the base strategy's.")] = None,
    max_bit_operations: Annotated[float | None, typer.Option(help="For one sample.")] = None,
    max_drop: MaxDrop = None,
    uniform: Annotated[str, typer.Option(help="Widths of uniform strategies to compare with.")] = "8,6,4",
    leave_float: Annotated[bool, typer.Option("--leave-float", help="A layer may also stay float.")] = False,
    images: Images = 1000,
    calibration: Calibration = "quantized",
    seed: int = 0,
    output: Output = None,
    runs: Runs = Path("runs"),
) -> None:
    """Choose bits for each layer, verify the front, and write its strategies."""
    from vqkit.environment import load_tensorflow

    load_tensorflow()
    from vqkit.search import mixed as choose

    engine = _engine(model, data, runs, None, metric, calibration=calibration, seed=seed)
    typer.echo(engine.judged_by)
    base = chosen_strategy(strategy, overrides)
    whole = engine.measure(base).size_bytes if max_size and max_size.endswith("%") else None
    front = choose(
        engine,
        base,
        bits=_numbers(bits),
        kinds=_words(kinds),
        by=by,
        points=points,
        max_size=None if max_size is None else parse_size(max_size, whole),
        max_bit_operations=max_bit_operations,
        max_drop=_bound(engine, max_drop),
        sensitivity_engine=_engine(model, data, runs, images, metric, calibration=calibration, seed=seed),
        uniform=_numbers(uniform) if uniform else (),
        leave_float=leave_float,
        progress=True,
    )
    typer.echo(str(front))
    folder = output or runs / "mixed" / Path(model).stem
    front.save(folder)
    typer.echo(f"\n{len(front.points)} strategies: {folder}")


@app.command()
def search(
    file: Annotated[Path, typer.Argument(help="Search file (JSON or YAML).")],
    trials: Annotated[int | None, typer.Option(min=1, help="Instead of the file's number.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Instead of the file's time.")] = None,
    metric: Metrics = None,
    jobs: Jobs = None,
    timeout: Timeout = None,
    runs: Runs = Path("runs"),
    tracking_uri: TrackingUri = None,
    experiment: Experiment = None,
    no_track: NoTrack = False,
    notebook: NotebookOption = None,
) -> None:
    """Search the axes of a file under a budget; go on where an earlier call stopped."""
    from vqkit.execution.runner import RunOptions
    from vqkit.runs.store import Store
    from vqkit.search import Search
    from vqkit.search import search as look
    from vqkit.sweeps.document import read_mapping

    stated = (("trials", trials), ("minutes", minutes), ("metrics", stated_metrics(metric)))
    given = {k: v for k, v in stated if v is not None}
    value = {"name": file.stem, **read_mapping(file), **given}
    what = Search.from_dict(value, base_dir=file.parent, source=file.name)
    store = Store.at(runs)
    options = RunOptions(jobs=min(jobs or 1, what.spec.batch), timeout=timeout)
    found = look(
        what,
        store,
        options=options,
        notebook=notebook,
        tell=lambda t: typer.echo(_line(t, what)),
        track=not no_track,
        tracking_uri=tracking_uri,
        experiment=experiment,
        say=typer.echo,
    )
    typer.echo(_search_summary(found))
    if not no_track and found.best is not None:
        published(store.root, what.name, tracking_uri=tracking_uri, experiment=experiment)
    if found.interrupted:
        raise typer.Exit(Exit.INTERRUPTED)
    raise typer.Exit(Exit.OK if found.best else Exit.SOME_FAILED)


def _line(trial: Trial, what: Any) -> str:
    from vqkit.search.loop import trial_title

    name = trial_title(trial, what.spec.strategy)
    if trial.values is None:
        return f"{trial.number:4} {name}: {trial.reason}"
    shown = ", ".join(f"{m} {trial.metrics[m]:.6g}" for m in what.spec.objectives)
    note = f" (screened: {trial.reason})" if trial.screened else "" if trial.fits else " (outside the constraints)"
    return f"{trial.number:4} {name}: {shown}{note}"


def _search_summary(found: Found) -> str:
    from vqkit import tables
    from vqkit.search.loop import trial_title
    from vqkit.search.study import Study

    spec = found.search.spec
    cells = [
        [
            str(t.number),
            trial_title(t, spec.strategy),
            *(f"{t.metrics[m]:.6g}" for m in spec.objectives),
            "best" if found.best and t.number == found.best.number else "",
        ]
        for t in found.front
    ]
    parts = ["\nFront:", tables.text_table(("#", "trial", *spec.objectives, ""), cells, left=(1,), widest=60)]
    if found.best is None:
        parts = ["\nNo trial fits the constraints."]
    shares = Study(found.search, found.folder / "study.db").importances()
    for metric, by_axis in shares.items():
        text = ", ".join(f"{k} {v:.2f}" for k, v in by_axis.items())
        parts.append(f"Importance for {metric}: {text}")
    return "\n".join([*parts, f"{found.folder}"])


@app.command()
def recommend(
    model: Model,
    data: DataOption = None,
    max_size: Annotated[str | None, typer.Option(help="E.g. 100KB.")] = None,
    max_drop: MaxDrop = None,
    metric: Metrics = None,
    minutes: Annotated[float, typer.Option(help="Time to look for a strategy.")] = 20.0,
    strategy: Annotated[
        list[str] | None, typer.Option("--strategy", "-s", help="Built-in or JSON file to choose among.")
    ] = None,
    format: Annotated[
        list[str] | None, typer.Option("--format", "-f", help="Write the model so as well: onnx, tflite, …")
    ] = None,
    images: Images = 1000,
    calibration: Calibration = "quantized",
    seed: int = 0,
    output: Output = None,
    runs: Runs = Path("runs"),
    tracking_uri: TrackingUri = None,
    experiment: Experiment = None,
    no_track: NoTrack = False,
) -> None:
    """Find the strategy for a size, a drop and a time; write strategy, model and report."""
    from vqkit.environment import load_tensorflow

    load_tensorflow()
    from vqkit.export.files import format_of
    from vqkit.runs.store import Store
    from vqkit.search import recommend as advice

    # Before the search: it would be a pity to learn after twenty minutes that a format is misspelt.
    formats = [format_of(f, None) for f in format or ()]
    folder = output or runs / "recommended" / Path(model).stem
    if folder.resolve() == Path(model).resolve().parent and Path(model).name == "model.keras":
        raise ModelError(f"--output: {folder} holds the float model itself, {model}, which is not replaced")
    store = Store.at(runs)
    engine = _engine(model, data, runs, None, metric, calibration=calibration, seed=seed)
    asker = _engine(model, data, runs, images, metric, calibration=calibration, seed=seed)
    typer.echo(engine.judged_by)
    bounds = advice.Bounds(None if max_size is None else parse_size(max_size), _bound(engine, max_drop), minutes)
    found = advice.advise(engine, asker, bounds, strategies=strategy or tuple(advice.BASES), say=typer.echo)
    typer.echo(f"\n{found}")
    if found.chosen is None:
        raise typer.Exit(Exit.SOME_FAILED)
    done = advice.deliver(found, engine, folder, title=Path(model).name, formats=formats)
    tracking: dict[str, Any] = {"track": not no_track, "tracking_uri": tracking_uri, "experiment": experiment}
    key = advice.record(done, model, data_of(model, data), store, engine.settings, **tracking)
    typer.echo(f"\nstrategy: {done.strategy}\nmodel: {done.model}\nreport: {done.report}\nrun: {key}")
    for path in done.exports:
        typer.echo(f"{path.suffix.removeprefix('.') or path.stem}: {path}")


@app.command()
def diagnose(
    run: Annotated[str, typer.Argument(help="Key or name of a finished run.")],
    images: Annotated[int, typer.Option(min=1, help="Evaluation samples that repairs are judged by.")] = 500,
    max_drop: Annotated[str, typer.Option(help="What may be lost, as for mixed.")] = "1%",
    output: Output = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Find why a run is bad: the cause, each repair measured, the repaired strategy."""
    from vqkit.search.diagnosis.investigation import diagnose_run

    found = diagnose_run(run, runs, images=images, max_drop=max_drop, say=None if as_json else typer.echo)
    written = found.save(output or runs / "diagnosed" / run.replace("/", "_"))
    typer.echo(
        json.dumps(found.to_json(), indent=1) if as_json else "\n".join(["", str(found), "", *map(str, written)])
    )
    if found.interrupted:
        raise typer.Exit(Exit.INTERRUPTED)


def _bound(engine: Engine, text: str | None) -> float | None:
    """What may be lost, said in the metric's unit."""
    if text is None:
        return None
    bound, measure = engine.bound(text), engine.metric.measure
    typer.echo(f"At most {measure.distance(bound)} may be lost against float's {measure.text(engine.reference.value)}")
    return bound


def _engine(
    model: str,
    data: str | None,
    runs: Path,
    images: int | None,
    metrics: list[str] | None,
    *,
    calibration: str,
    seed: int,
) -> Engine:
    from vqkit.evaluation import stated_by_model
    from vqkit.runs.store import Store
    from vqkit.search.engine import Engine
    from vqkit.sweeps.source import load_data, load_model, model_path
    from vqkit.sweeps.spec import SettingsSpec, settings_of

    cache, described = Store.at(runs).cache, data_of(model, data)
    file = model_path(model, ".", cache)
    net, loaded = load_model(file), load_data(described)
    own = stated_metrics(metrics) or stated_by_model(net, loaded, file)
    parsed = SettingsSpec.model_validate({"seed": seed, "calibration": calibration, "metrics": own})
    return Engine(net, loaded, settings=settings_of(parsed), cache=cache, images=images)


def _words(text: str) -> tuple[str, ...]:
    return tuple(w.strip() for w in text.split(",") if w.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(w) for w in _words(text))
    except ValueError:
        raise SweepError(f"{text!r}: expected whole numbers separated by commas, such as 8,6,4") from None
