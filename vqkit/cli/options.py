"""Options and arguments that several commands share, and how their texts become values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqkit.errors import DataError, SweepError

if TYPE_CHECKING:
    from vqkit.strategy import Strategy

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
Cold = Annotated[bool, typer.Option("--cold", help="A fresh kernel for each variant.")]
Dask = Annotated[str | None, typer.Option(help="Run on the Dask cluster at tcp://… or of a scheduler file.")]
Screen = Annotated[int | None, typer.Option(min=1, help="Try all on N images, finish what may be the best.")]
DataOption = Annotated[
    str | None,
    typer.Option("--data", help="file.npz, file.py:function, JSON, or 'digits'; quickstart has its own."),
]
Pair = Annotated[list[str] | None, typer.Argument(metavar="[RUN_A RUN_B]", help="Keys or names of two runs.")]
Where = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only runs with this value.")]
Timeout = Annotated[float | None, typer.Option(min=1, help="Seconds for one variant.")]


def pairs(texts: list[str] | None) -> dict[str, Any]:
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


def chosen_strategy(base: str, overrides: list[str] | None) -> Strategy:
    """The strategy of `--strategy` with the `KEY=VALUE` arguments applied."""
    from vqkit.experiment.variant import build_strategy

    return build_strategy(base, pairs(overrides))


def data_of(model: str, data: str | None) -> Any:
    """The data description of `--data`; only the built-in model brings its own.

    Args:
        model: what the command is about, a file or `quickstart`.
        data: as typed; None where nothing was.

    Raises:
        DataError: none is given for a model file.
    """
    from vqkit.experiment.source import DIGITS, QUICKSTART, data_from_text

    if data is not None:
        return data_from_text(data)
    if model == QUICKSTART:
        return DIGITS
    raise DataError(
        f"--data: none given, and only 'quickstart' brings its own. For {model}: --data file.npz (arrays "
        "x_calib, x_eval, y_eval as the model takes them), --data file.py:function, or JSON as in a sweep"
    )
