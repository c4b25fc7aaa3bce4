"""A run's model becomes a version in mlflow's model registry, which runs where there is no vqkit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import RecordError
from vqkit.execution.requantize import of_run
from vqkit.execution.run_api import first_samples
from vqkit.export.files import write_saved_model
from vqkit.export.program import output_names
from vqkit.graph.ir import Value, map_refs
from vqkit.graph.keras_layers import named_inputs
from vqkit.quantization.data import EVAL_BATCH
from vqkit.quantization.float_model import size_of
from vqkit.runs.registry import ModelToRegister, Registry
from vqkit.runs.store import RunRecord, Store
from vqkit.sweeps.source import load_data

if TYPE_CHECKING:
    from vqkit.quantization.quantized import Quantized


def register(
    run: str,
    name: str,
    runs: str | Path = "runs",
    *,
    tracking_uri: str | None = None,
    experiment: str | None = None,
    sweep: str | None = None,
) -> str:
    """Make a finished run's quantized model the next version of a model in mlflow's registry.

    The model is quantized again and compared with the record. What is registered has a signature, one sample as
    input example and its requirements; `mlflow.pyfunc.load_model(address).predict(x)` gives the simulation's
    outputs.

    Args:
        run: key or name of the run.
        name: of the registered model.
        runs: the folder of runs.
        tracking_uri: any mlflow store; the one in the folder of runs by default.
        experiment: of the store; the one that `MLFLOW_EXPERIMENT_NAME` names, else "vqkit", by default.
        sweep: under which the run is logged; by default the one it was made for.

    Returns:
        `models:/<name>/<version>`.

    Raises:
        RecordError: no such run, its model or data have changed, or other encodings came out.
        TrackingError: the store refused.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save("net.keras")
        >>> x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
        >>> np.savez("data.npz", x_calib=x, x_eval=x, y_eval=np.arange(16) % 3)
        >>> sweep = {"name": "bits", "model": "net.keras", "data": {"npz": "data.npz"}, "axes": {"weight_bit": [8]}}
        >>> outcome = vqkit.run_sweep(vqkit.Sweep.from_dict(sweep), vqkit.Store.at("runs"))
        >>> vqkit.register("pof2s weight_bit=8", "small", "runs")
        'models:/small/1'
    """
    folder = Store.at(runs).find(run)
    quantized = of_run(folder.name, Path(runs))
    inputs = RunRecord.read(folder).inputs
    samples = load_data(inputs["data"]["ref"]).x_eval
    if samples is None:
        raise RecordError(f"run {run}: its data have no x_eval to take an example from")
    registry = Registry.open(tracking_uri, runs_dir=runs, experiment=experiment)
    with tempfile.TemporaryDirectory(prefix="vqkit-") as scratch:
        saved = Path(scratch, "saved_model")
        write_saved_model(quantized, saved)
        model = described(quantized, saved, samples)
        return registry.register(folder, name, model, sweep=sweep)


def described(quantized: Quantized, saved: Path, samples: Any) -> ModelToRegister:
    """How a SavedModel is called, with an example.

    Args:
        quantized: what was written.
        saved: the folder it was written to.
        samples: inputs, shape (n, …), nested as the model's or by name.
    """
    graph = quantized.graph
    names, size = {v: k for k, v in graph.inputs.items()}, size_of(graph)
    outputs = output_names(graph.inputs, len(graph.outputs))
    inputs = {k: _tensor(graph.values[v]) for k, v in graph.inputs.items()}
    example = named_inputs(graph, first_samples(samples, 1))
    call = {
        "inputs": map_refs(lambda r: names[r.id], graph.input_struct),
        "outputs": outputs,
        "batch_size": size or EVAL_BATCH,
        "fixed": size is not None,
    }
    return ModelToRegister(
        saved,
        call,
        inputs,
        {k: _tensor(graph.values[v]) for k, v in zip(outputs, graph.outputs, strict=True)},
        {k: np.asarray(v).astype(inputs[k][0], copy=False) for k, v in example.items()},
    )


def _tensor(value: Value) -> tuple[str, tuple[int, ...]]:
    """Dtype in numpy's words and shape of a tensor of any number of samples."""
    kind = "str" if value.dtype == "string" else value.dtype
    return kind, (-1, *(-1 if n is None else n for n in value.shape[1:]))
