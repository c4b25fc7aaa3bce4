"""The quantized model behind a name: a recorded run made again, or a model file quantized now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqkit import digest
from vqkit.errors import RecordError
from vqkit.files import read_json
from vqkit.runs.store import RECORD, RunRecord, Status, Store
from vqkit.sweeps.qat import quantized_by
from vqkit.sweeps.source import load_data, load_model, model_path
from vqkit.sweeps.variant import Settings, checked_inputs

if TYPE_CHECKING:
    import keras

    from vqkit.quantization.data import Data
    from vqkit.quantization.quantized import Quantized
    from vqkit.strategy import Strategy


def of_model(
    model: str, strategy: Strategy, data: str | Mapping[str, Any], *, cache: Path, settings: Settings | None = None
) -> Quantized:
    """Quantize a model file.

    Args:
        model: a `.keras` or `.h5` file, or `quickstart`.
        strategy: the strategy.
        data: a data description, see `load_data`.
        cache: where the built-in model is kept.
        settings: seed, calibration and so on.

    Returns:
        A `Quantized`.
    """
    settings = settings or Settings()
    settings.set_seeds()
    net = load_model(model_path(model, ".", cache))
    return quantized_by(settings, net, strategy, load_data(data))


@dataclass(frozen=True, eq=False)
class RunInputs:
    """What a finished run was made of.

    Attributes:
        record: of the run.
        model: float.
        data: as the run names it, all samples.
        strategy: as it was applied.
        settings: how.
    """

    record: RunRecord
    model: keras.Model
    data: Data
    strategy: Strategy
    settings: Settings


def inputs_of(run: str, runs: Path) -> RunInputs:
    """Load again what a run was made of; seeds are set as it had them.

    Args:
        run: key or name of a finished run.
        runs: folder of the runs.

    Raises:
        RecordError: no such run, or its model or data have changed.
    """
    from vqkit.strategy import Strategy

    store = Store.at(runs)
    folder = store.find(run)
    record = store.record(folder.name)
    if record is None or record.status is not Status.FINISHED:
        raise RecordError(f"run {run}: it is {record and record.status}; a finished run is needed")
    inputs: Mapping[str, Any] = checked_inputs(record.inputs, folder / RECORD)
    settings = Settings(**{k: inputs[k] for k in Settings.__dataclass_fields__ if k in inputs})
    settings.set_seeds()
    path = model_path(inputs["model"]["ref"], ".", store.cache)
    data = load_data(inputs["data"]["ref"])
    for what, found in (("model", digest.of_file(path)), ("data", data.digest)):
        if found != inputs[what]["digest"]:
            raise RecordError(
                f"run {run}: its {what} has changed since: digest {found}, the run used {inputs[what]['digest']}"
            )
    return RunInputs(record, load_model(path), data, Strategy.load(Path(folder, "strategy.json")), settings)


def of_run(run: str, runs: Path) -> Quantized:
    """Quantize again what a run quantized, and check that the same came out.

    Args:
        run: key or name of a finished run.
        runs: folder of the runs.

    Returns:
        A `Quantized` whose encodings are the run's.

    Raises:
        RecordError: no such run, its model or data have changed, or other encodings came out.
    """
    found = inputs_of(run, runs)
    quantized = quantized_by(found.settings, found.model, found.strategy, found.data)
    _check_encodings(run, quantized, Store.at(runs).variant_dir(found.record.key) / "encodings.json")
    return quantized


def _check_encodings(run: str, quantized: Quantized, path: Path) -> None:
    recorded = read_json(path)
    if not isinstance(recorded, dict):
        raise RecordError(f"{path}: expected a JSON object of tensors")
    found = {k: v.to_json() for k, v in quantized.encodings.items()}
    changed = [k for k in {**recorded, **found} if recorded.get(k) != found.get(k)]
    if changed:
        raise RecordError(
            f"run {run}: quantizing again gave other encodings for {len(changed)} tensors, "
            f"first {changed[0]}: are versions as the record names them? Run the variant again"
        )
