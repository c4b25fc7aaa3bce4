"""The command that writes files for other runtimes: export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqkit.cli.application import (
    Base,
    Compat,
    DataOption,
    Overrides,
    Runs,
    app,
    chosen_strategy,
    data_of,
)

if TYPE_CHECKING:
    from vqkit.quantization.quantized import Quantized


@app.command("export")
def export_(
    source: Annotated[
        str,
        typer.Argument(metavar="RUN_OR_MODEL", help="Key or name of a run; Keras model file; 'quickstart'."),
    ],
    overrides: Overrides = None,
    format: Annotated[
        str | None,
        typer.Option("--format", "-f", help="onnx, tflite, keras, h5, saved_model, ints or encodings."),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
    strategy: Base = "pof2s",
    data: DataOption = None,
    vitis_compat: Compat = False,
    opset: Annotated[int | None, typer.Option(help="onnx: version of the operator set.")] = None,
    rounding: Annotated[str | None, typer.Option(help="onnx: exact or qdq; tflite: exact or fused.")] = None,
    lowest_weight: Annotated[str | None, typer.Option(help="tflite: keep, clip or error, for weights of -128.")] = None,
    check: Annotated[
        str | None, typer.Option(metavar="DATA", help="Cross-check on x_eval of these data, as for --data.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples of the cross-check at most.")] = 256,
    runs: Runs = Path("runs"),
) -> None:
    """Write a quantized model as a file that another runtime executes."""
    from vqkit.environment import load_tensorflow

    load_tensorflow()
    from vqkit.errors import ModelError
    from vqkit.export.files import default_name, export, format_of

    name = format_of(format, output)
    if check is not None and name not in _RUNTIMES:
        raise ModelError(f"--check: format {name!r} has no runtime to compare with; {', '.join(_RUNTIMES)} have")
    target = output or Path(default_name(source, name))
    if target.resolve() == Path(source).resolve():
        raise ModelError(f"--output: {target} is the float model itself, which is not replaced. Name another file")
    given = {"opset": opset, "rounding": rounding, "lowest_weight": lowest_weight}
    options = {k: v for k, v in given.items() if v is not None}
    quantized = _quantized(source, strategy, overrides, data, vitis_compat, runs)
    typer.echo(str(export(quantized, target, name, **options)))
    if check is not None:
        _cross_check(quantized, check, samples, name, options)


_RUNTIMES = {
    "onnx": "onnxruntime",
    "tflite": "litert",
    "keras": "keras",
    "h5": "h5",
    "saved_model": "saved_model",
    "ints": "integer",
}
"""Format -> what runs its files, or computes in the integers that it holds."""


def _cross_check(quantized: Quantized, check: str, samples: int, format: str, options: dict[str, Any]) -> None:
    """The file's runtime beside the simulation; beside an integer file's also the integer interpreter."""
    from vqkit.execution.run_api import first_samples
    from vqkit.export.crosscheck import cross_check
    from vqkit.sweeps.source import data_from_text, load_data

    x = first_samples(load_data(data_from_text(check)).x_eval, samples)
    onnx, tflite = ({**options} if format == name else None for name in ("onnx", "tflite"))
    also = [] if onnx is None and tflite is None else ["integer"]
    typer.echo(str(cross_check(quantized, x, [_RUNTIMES[format]], also=also, onnx=onnx, tflite=tflite)))


def _quantized(
    source: str, strategy: str, overrides: list[str] | None, data: str | None, vitis_compat: bool, runs: Path
) -> Quantized:
    from vqkit.errors import StrategyError
    from vqkit.execution.requantize import of_model, of_run
    from vqkit.runs.store import Store
    from vqkit.sweeps.source import MODEL_FILES, QUICKSTART
    from vqkit.sweeps.variant import Settings

    if source == QUICKSTART or Path(source).suffix in MODEL_FILES:
        settings = Settings(vitis_compat=vitis_compat)
        chosen = chosen_strategy(strategy, overrides)
        described = data_of(source, data)
        return of_model(source, chosen, described, cache=Store.at(runs).cache, settings=settings)
    given = [
        *(overrides or []),
        *(
            w
            for w, on in (
                (f"--strategy {strategy}", strategy != "pof2s"),
                (f"--data {data}", data is not None),
                ("--vitis-compat", vitis_compat),
            )
            if on
        ),
    ]
    if given:
        raise StrategyError(f"{given[0]}: run {source!r} has its own strategy and data; this belongs to a model file")
    return of_run(source, runs)
