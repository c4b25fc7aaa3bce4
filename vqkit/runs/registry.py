"""Models of runs in mlflow's model registry."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vqkit.runs import mlflow_tags as words
from vqkit.runs import pyfunc
from vqkit.runs.mlflow import Tracker
from vqkit.runs.mlflow_tags import Tag
from vqkit.runs.store import RunRecord

LOADER = "vqkit_pyfunc"
"""The module that loads a registered model; it lies beside the model."""
REQUIREMENTS = ("mlflow", "tensorflow", "numpy")


@dataclass(frozen=True)
class ModelToRegister:
    """A model as mlflow keeps it.

    Attributes:
        saved_model: a SavedModel folder.
        call: how it is called, see `pyfunc.ServedModel`.
        inputs, outputs: name -> dtype, and shape with -1 where free.
        example: input name -> array of one sample.
    """

    saved_model: Path
    call: Mapping[str, Any]
    inputs: Mapping[str, tuple[str, tuple[int, ...]]]
    outputs: Mapping[str, tuple[str, tuple[int, ...]]]
    example: Mapping[str, Any]


class Registry(Tracker):
    """A writer to a tracking store that is a model registry, too."""

    def register(self, run_dir: str | Path, name: str, model: ModelToRegister, *, sweep: str | None = None) -> str:
        """Log a run's model and make it the next version of a registered model.

        Args:
            run_dir: `runs/variants/<key>`; the run is logged where it is not yet.
            name: of the registered model; made where it is not there.
            model: the run's.
            sweep: as for `log_variant`.

        Returns:
            `models:/<name>/<version>`; a run that is a version of that name already stays the one it is.

        Raises:
            RecordError: there is no readable record.
            TrackingError: the store refused.
        """
        record = RunRecord.read(run_dir)
        run_id = self.log_variant(run_dir, sweep=sweep)
        tags = {str(Tag.KEY): record.key, str(Tag.RECORD): words.record_digest(record)}
        with self._writing(f"register {name}"):
            found = self._version_of(name, run_id, tags)
            if found is None:
                logged = self._log_model(run_id, name, tags, model)
                # Its folder and not models:/<id>, which a database looks for in mlflow's global store.
                place, note = logged.artifact_location, words.note(record)
                made = self._client.create_model_version(
                    name, place, run_id, tags, description=note, model_id=logged.model_id
                )
                found = str(made.version)
        return f"models:/{name}/{found}"

    def _version_of(self, name: str, run_id: str, tags: Mapping[str, str]) -> str | None:
        """The version that this run is already; the registered model is made where it is not there."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as e:
            if e.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = self._client.search_model_versions(f"name = '{name}'")
        same = [v.version for v in versions if v.run_id == run_id and tags.items() <= v.tags.items()]
        return str(same[0]) if same else None

    def _log_model(self, run_id: str, name: str, tags: Mapping[str, str], model: ModelToRegister) -> Any:
        from mlflow.entities import LoggedModelOutput

        made = self._client.create_logged_model(self.experiment_id, name, run_id, dict(tags))
        with tempfile.TemporaryDirectory(prefix="vqkit-") as scratch:
            folder = Path(scratch, "model")
            _write(folder, model)
            self._client.log_model_artifacts(made.model_id, str(folder))
        self._client.finalize_logged_model(made.model_id, "READY")
        self._client.log_outputs(run_id, [LoggedModelOutput(made.model_id, 0)])
        return made


def _write(folder: Path, model: ModelToRegister) -> None:
    """The files of an mlflow model; nothing of mlflow's global state is touched."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types.schema import Schema, TensorSpec

    def schema(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> Schema:
        single = len(tensors) == 1
        return Schema([TensorSpec(np.dtype(t), s, None if single else k) for k, (t, s) in tensors.items()])

    data, code = folder.with_name("data"), folder.with_name(f"{LOADER}.py")
    shutil.copytree(model.saved_model, data / pyfunc.SAVED_MODEL)
    (data / pyfunc.CALL).write_text(json.dumps(model.call), encoding="utf-8")
    shutil.copyfile(pyfunc.__file__, code)
    save_model(
        folder,
        loader_module=LOADER,
        data_path=str(data),
        code_paths=[str(code)],
        signature=ModelSignature(schema(model.inputs), schema(model.outputs)),
        input_example=next(iter(model.example.values())) if len(model.example) == 1 else dict(model.example),
        pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
    )
