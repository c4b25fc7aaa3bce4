"""Commands about one strategy: plan shows it on a model; strategies list, show, dump."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vqkit.cli.application import Base, Compat, Overrides, Runs, app, chosen_strategy

strategies = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, show and write quantize strategies.")
app.add_typer(strategies, name="strategies")


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
    from vqkit.runs.store import Store
    from vqkit.sweeps.source import load_model, model_path

    net = load_model(model_path(model, ".", Store.at(runs).cache))
    from vqkit.quantization.prepare import make_plan
    from vqkit.targets import inspect

    chosen, compat = chosen_strategy(strategy, overrides), {"vitis_compat": vitis_compat}
    made = inspect(net, chosen, target, **compat) if target else make_plan(chosen, net, **compat)
    typer.echo(json.dumps(made.to_json(), indent=1) if as_json else str(made))


@strategies.command("list")
def strategies_list() -> None:
    """Names of the built-in strategies."""
    from vqkit.strategy.vocabulary import ALIASES, NAMES

    for name in NAMES:
        also = ", ".join(a for a, n in ALIASES.items() if n == name)
        typer.echo(name + (f" (also {also})" if also else ""))


@strategies.command("show")
def strategies_show(
    strategy: Annotated[str, typer.Argument(help="Built-in strategy or JSON file.")],
    overrides: Overrides = None,
    layer: Annotated[str, typer.Option(help="Class of a layer to explain; InputLayer for inputs.")] = "Conv2D",
    name: Annotated[str | None, typer.Option(help="Name of that layer.")] = None,
) -> None:
    """Explain the quantizers of a layer: each parameter and all rules that spoke about it."""
    from vqkit.strategy.explain import explain

    typer.echo(str(explain(chosen_strategy(strategy, overrides), layer, name)))


@strategies.command("dump")
def strategies_dump(
    strategy: Annotated[str, typer.Argument(help="Built-in strategy or JSON file.")],
    overrides: Overrides = None,
    verbose: Annotated[int, typer.Option("-v", "--verbose", min=0, max=2, help="0 user keys, 2 everything.")] = 2,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File; default: print.")] = None,
) -> None:
    """Write a strategy as JSON, with overrides folded in."""
    value = chosen_strategy(strategy, overrides).dump(output, verbose=verbose)
    if output is None:
        typer.echo(json.dumps(value, indent=2))
