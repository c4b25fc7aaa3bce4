"""mlflow as an index of the run records: Tracker, where stores are.

Like `registry` it imports mlflow, and only when a store is opened: where stores are can be asked without it.

The records are the truth. Whatever happens to the store, `tracking.rebuild` fills it again from them, and logging
one record twice leaves one run. Only an explicit client is used: mlflow's global state (`set_experiment`,
`start_run`) files runs of concurrent processes under the wrong experiment without an error.

Where two processes write the same thing to a store at once, the one that was refused tries again (`retry_on_conflict`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from vqkit import files
from vqkit.errors import RecordError, TrackingError
from vqkit.runs import mlflow_tags as words
from vqkit.runs.mlflow_tags import Tag, threshold_metrics
from vqkit.runs.records import short_ref
from vqkit.runs.store import RECORD, RunRecord, Status, Store

__all__ = [
    "EXPERIMENT",
    "Tracker",
    "default_experiment",
    "default_uri",
    "environment",
    "ui_command",
]

# What databases say when a row that was not there a moment ago is there now.
_BEATEN = ("IntegrityError", "UNIQUE constraint", "duplicate key", "Duplicate entry", "UniqueViolation")


def retry_on_conflict(write: Callable[[], object], *, tries: int = 6) -> None:
    """Call a write that looks whether a row is there and then makes it, which mlflow does without a lock.

    Args:
        write: may be called again; it finds what another process has made meanwhile.
        tries: at most so many; waits from 0.05 s, doubling.

    Raises:
        Exception: what `write` raises at last, or at once where it is not about a race.
    """
    for left in reversed(range(tries)):
        try:
            write()
            return
        except Exception as error:
            if not left or not any(word in str(error) for word in _BEATEN):
                raise
            time.sleep(0.05 * 2 ** (tries - 1 - left))


_SQLITE = "sqlite:///"


def environment() -> dict[str, str]:
    """Environment variables under which vqkit runs mlflow, here and in processes it starts: no telemetry."""
    return {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def default_uri(runs_dir: str | Path) -> str:
    """The store of a folder of runs: sqlite with an absolute path, because kernels run in other folders."""
    return f"{_SQLITE}{Path(runs_dir).resolve() / 'mlflow.db'}"


def ui_command(runs_dir: str | Path, *, port: int = 5000) -> list[str]:
    """Arguments for `python` that start mlflow's own pages on the default store, under `environment()`.

    They answer to the names of this machine only: mlflow's default takes those of any private network, too.
    """
    root = (Path(runs_dir).resolve() / "mlartifacts").as_uri()
    store = ["--backend-store-uri", default_uri(runs_dir), "--default-artifact-root", root]
    served = ["--artifacts-destination", root, "--host", "127.0.0.1", "--port", str(port)]
    return ["-m", "mlflow", "server", *store, *served, "--allowed-hosts", f"127.0.0.1:{port},localhost:{port}"]


def absolute(uri: str | None, runs_dir: Path) -> str:
    """An address that means the same in every folder; the default store where none is given.

    Raises:
        TrackingError: the address is empty; mlflow would take the working directory for it.
    """
    if uri is None:
        return default_uri(runs_dir)
    if not uri.strip() or "\0" in uri:
        allowed = "Allowed: sqlite:///…, http://…, or none at all"
        raise TrackingError(f"tracking address: {uri!r} is not allowed. {allowed}")
    path = uri.removeprefix(_SQLITE)
    return uri if path == uri or not path or path == ":memory:" else f"{_SQLITE}{Path(path).resolve()}"


def sqlite_file(uri: str) -> Path | None:
    """The file of an sqlite address, None for any other."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


EXPERIMENT = "vqkit"
_BATCH = 100
# What tells mlflow's pages that an experiment holds runs of models, and no traces of agents.
_CLASSIC = ("mlflow.experimentKind", "custom_model_development")


def default_experiment() -> str:
    """The experiment that mlflow's own `MLFLOW_EXPERIMENT_NAME` names, "vqkit" where it names none."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def client_class() -> type:
    """Import mlflow's client, quietly and with telemetry off; takes about 1.5 s the first time."""
    os.environ.update(environment())
    # mlflow waits four minutes for a server that is not there; the records can wait longer than a person.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    from mlflow import MlflowClient

    for chatty in ("mlflow.store.db.utils", "mlflow.pyfunc", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return MlflowClient


@contextlib.contextmanager
def store_errors(uri: str, runs_dir: Path, doing: str) -> Iterator[None]:
    """Quiet the store's known noise and turn its many kinds of failure into one that says what to do."""
    with warnings.catch_warnings():
        # mlflow 3.17 on SQLAlchemy 2.1, raised whenever a run is read.
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy")
        # mlflow 3.17 about its own types, raised when its models are imported.
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType")
        try:
            yield
        except Exception as e:
            # A lock that cannot be written is the store's refusal, a broken record is not.
            if isinstance(e, TrackingError | RecordError) and not isinstance(e, files.UnwritableError):
                raise
            reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:300]
            raise TrackingError(
                f"{doing}: the tracking store {uri} refused: {reason}. The run records are safe in "
                f"{runs_dir}; `vqkit track {runs_dir}` fills the store from them when it is back"
            ) from e


def active_id(experiment: Any, name: str) -> str:
    """Id of an experiment.

    Raises:
        TrackingError: it was deleted.
    """
    if experiment is None or experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"experiment {name!r} was deleted in the tracking store; restore it there "
            "(`mlflow experiments restore`) or give another name"
        )
    return str(experiment.experiment_id)


@dataclass
class Tracker:
    """A writer to one experiment of one tracking store.

    Attributes:
        uri: the store's absolute address.
        runs_dir: the folder of runs whose records it indexes.
        experiment_id: the experiment that all runs go to.
    """

    uri: str
    runs_dir: Path
    experiment_id: str
    _client: Any
    _lock: Path
    _sweep: str | None = None
    _parents: dict[str, str] = field(default_factory=dict)
    _known: dict[str, list[Any]] | None = None

    @classmethod
    def open(cls, tracking_uri: str | None = None, *, runs_dir: str | Path, experiment: str | None = None) -> Self:
        """Connect to a store, creating database and experiment where they are missing.

        Do it in the parent before workers start. It is safe to do in several processes at once.

        Args:
            tracking_uri: any address mlflow takes (`http://…`, `sqlite:///…`); by default the sqlite
                database `mlflow.db` in `runs_dir`, artifacts in `mlartifacts` beside it.
            runs_dir: the folder of runs.
            experiment: the experiment's name; `default_experiment()` where None.

        Raises:
            TrackingError: the store cannot be reached, or holds a deleted experiment of that name.
        """
        folder = Path(runs_dir).resolve()
        uri = absolute(tracking_uri, folder)
        database = sqlite_file(uri)
        # mlflow's first touch of a database is a race that one process always loses.
        lock = folder / ".track" if database is None else database.with_name(f".{database.name}")
        with store_errors(uri, folder, "open"), files.lock(lock):
            client = client_class()(tracking_uri=uri)
            artifacts = None if database is None else database.parent / "mlartifacts"
            named = experiment or default_experiment()
            return cls(uri, folder, cls._experiment(client, named, artifacts), client, lock)

    @staticmethod
    def _experiment(client: Any, name: str, artifacts: Path | None) -> str:
        """Get or create the experiment; whoever loses the race to create it takes the winner's."""
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                place = artifacts and artifacts.as_uri()
                return str(client.create_experiment(name, artifact_location=place, tags=dict([_CLASSIC])))
            except MlflowException as e:
                if e.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(name)
        found_id = active_id(found, name)
        if _CLASSIC[0] not in found.tags:
            client.set_experiment_tag(found_id, *_CLASSIC)
        return found_id

    def start_sweep(self, sweep: Mapping[str, Any]) -> str:
        """Open the parent run of a sweep, or the one it had before it was interrupted.

        Args:
            sweep: the resolved sweep as in `sweep.json`; "name" is required.

        Returns:
            The parent's run id. Variants logged from now on go under it.
        """
        name = str(sweep["name"])
        with self._writing(f"sweep {name}"):
            self._parents[name] = self._parent(name, sweep)
        self._sweep = name
        return self._parents[name]

    def end_sweep(self, status: str = "FINISHED") -> None:
        """Close the parent run of the sweep that was started last, with what came of its variants.

        Args:
            status: FINISHED, FAILED or KILLED; a sweep with failed variants has still finished.
        """
        if self._sweep is None:
            return
        with self._writing(f"sweep {self._sweep}"):
            self._close(self._sweep, status)
        self._sweep = None

    def log_variant(self, run_dir: str | Path, *, sweep: str | None = None) -> str:
        """Write one record into the store: once, however often it is called and wherever it broke off.

        Args:
            run_dir: `runs/variants/<key>`.
            sweep: the sweep to log it under; by default the one started last, else the record's own.

        Returns:
            The run id. A record that changed since it was logged (a failed variant that ran again)
            replaces its run.

        Raises:
            RecordError: there is no readable record.
            TrackingError: the store refused.
        """
        record = RunRecord.read(run_dir)
        name = sweep or self._sweep or record.sweep
        with self._writing(f"variant {record.key}"):
            parent = None if name is None else self._parent_of(name)
            return self._log(record, name, parent)

    def log_conclusion(
        self, sweep: str, sentence: str, best: RunRecord | None = None, paths: Iterable[str | Path] = ()
    ) -> None:
        """Write into a sweep's parent run what came of the sweep.

        Args:
            sweep: its name.
            sentence: for people, shown on the run's page.
            best: record of the best variant: its value of the metric that decides becomes the parent's
                `best_<metric>`, its name and run id tags. None where nothing has finished.
            paths: files that are copied, such as the leaderboard and the report.

        Raises:
            TrackingError: the store refused.
        """
        with self._writing(f"sweep {sweep}"):
            parent = self._parent_of(sweep)
            tags = {str(Tag.NOTE): words.legal_text(sentence, words.TAG_LIMIT)}
            if best is not None:
                run_id = self._log(best, sweep, parent)
                tags |= {str(Tag.BEST): run_id, str(Tag.BEST_NAME): best.name, str(Tag.BEST_KEY): best.key}
                name = words.legal_key(f"best_{best.measure.name}")
                stamp = words.milliseconds(best.ended) or 0
                self._client.log_metric(parent, name, best.metrics[best.measure.name], timestamp=stamp)
            self._write_tags(parent, tags)
            for path in paths:
                self._client.log_artifact(parent, str(path))

    def records(self, sweep: str | None = None) -> list[RunRecord]:
        """The variants that the store knows, as records without artifacts, oldest first.

        Args:
            sweep: only this sweep's.
        """
        with store_errors(self.uri, self.runs_dir, "read"):
            runs = list(self._search(f"tags.`{Tag.KIND}` = 'variant'"))
            found = [self._record(run) for run in runs if sweep in (None, run.data.tags.get(Tag.SWEEP))]
        return sorted(found, key=lambda r: (r.started, r.key))

    @contextlib.contextmanager
    def bulk(self) -> Iterator[None]:
        """Hold the store while many records are logged: one search for all instead of one for each."""
        with files.lock(self._lock):
            with store_errors(self.uri, self.runs_dir, "search"):
                runs = list(self._search(""))
            self._known = {}
            for run in runs:
                self._known.setdefault(run.data.tags.get(Tag.ID, ""), []).append(run)
            try:
                yield
            finally:
                self._known = None

    @contextlib.contextmanager
    def _writing(self, doing: str) -> Iterator[None]:
        held = contextlib.nullcontext() if self._known is not None else files.lock(self._lock)
        with store_errors(self.uri, self.runs_dir, doing), held:
            yield

    def _search(self, condition: str) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs([self.experiment_id], condition, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _same(self, kind: str, key: str, sweep: str | None) -> list[Any]:
        name = words.identity(kind, key, sweep)
        runs = self._search(f"tags.`{Tag.ID}` = '{name}'") if self._known is None else self._known.get(name, ())
        return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))

    def _parent_of(self, sweep: str) -> str:
        if sweep not in self._parents:
            store = Store(self.runs_dir)
            resolved = store.sweep(sweep) if sweep in store.sweeps() else {"name": sweep}
            self._parents[sweep] = self._parent(sweep, resolved)
        return self._parents[sweep]

    def _parent(self, name: str, sweep: Mapping[str, Any]) -> str:
        tags = {
            str(Tag.ID): words.identity("sweep", name, None),
            str(Tag.KIND): "sweep",
            str(Tag.SWEEP): name,
            str(Tag.SWEEP_DIGEST): str(sweep.get("digest", "")),
            str(Tag.NOTE): f"Sweep of {len(sweep.get('variants', []))} variants from {sweep.get('file', name)}",
        }
        same = self._same("sweep", name, None)
        run = same[0] if same else self._client.create_run(self.experiment_id, tags=tags, run_name=name)
        if Tag.BEST in run.data.tags:
            del tags[str(Tag.NOTE)]  # There is more to say already.
        self._write_tags(run.info.run_id, tags)
        path = self.runs_dir / "sweeps" / name / "sweep.json"
        if path.is_file():
            self._client.log_artifact(run.info.run_id, str(path))
        return str(run.info.run_id)

    def _close(self, name: str, status: str) -> None:
        from mlflow.entities import Metric

        children = list(self._search(f"tags.`{Tag.PARENT}` = '{self._parents[name]}'"))
        states = [run.data.tags.get(Tag.STATUS) for run in children]
        counts = {
            "variants": len(states),
            **{s.lower(): states.count(s) for s in ("FINISHED", "FAILED", "KILLED")},
        }
        ended = max((run.info.end_time or 0 for run in children), default=0) or None
        values = [Metric(k, float(v), ended or 0, 0) for k, v in counts.items()]
        self._client.log_batch(self._parents[name], metrics=values)
        self._client.set_terminated(self._parents[name], status, end_time=ended)

    def _log(self, record: RunRecord, sweep: str | None, parent: str | None) -> str:
        wanted = words.record_digest(record)
        same = self._same("variant", record.key, sweep)
        for run in same:
            if run.data.tags.get(Tag.RECORD) != wanted:
                self._client.delete_run(run.info.run_id)
        current = [run for run in same if run.data.tags.get(Tag.RECORD) == wanted]
        for run in current:
            if Tag.COMPLETE in run.data.tags:
                return str(run.info.run_id)
        run_id = current[0].info.run_id if current else self._create(record, sweep, parent)
        self._fill(run_id, record)
        return str(run_id)

    def _create(self, record: RunRecord, sweep: str | None, parent: str | None) -> str:
        started = words.milliseconds(record.started)
        tags = words.tags(record, sweep, parent)
        name = record.name or record.key
        run = self._client.create_run(self.experiment_id, start_time=started, tags=tags, run_name=name)
        return str(run.info.run_id)

    def _fill(self, run_id: str, record: RunRecord) -> None:
        """Every part can be written twice without harm; the tag that says "complete" comes last."""
        from mlflow.entities import Metric, Param

        ended = words.milliseconds(record.ended)
        stamp = ended or words.milliseconds(record.started) or 0
        folder = Path(record.directory or "").resolve()
        pairs = [Param(k, v) for k, v in words.params(record).items()]
        values = [Metric(k, v, stamp, 0) for k, v in words.metrics(record).items()]
        values += [Metric(k, v, stamp, step) for k, v, step in threshold_metrics(folder)]
        for start in range(0, max(len(pairs), len(values), 1), _BATCH):
            now = slice(start, start + _BATCH)
            self._client.log_batch(run_id, params=pairs[now], metrics=values[now])
        retry_on_conflict(lambda: self._client.log_inputs(run_id, datasets=_datasets(record)))
        missing = self._artifacts(run_id, record, folder)
        if record.status is not Status.RUNNING:
            self._client.set_terminated(run_id, str(record.status), end_time=ended)
        self._write_tags(run_id, {**({Tag.MISSING: missing} if missing else {}), Tag.COMPLETE: "true"})

    def _write_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(run_id, tags=[RunTag(str(k), v) for k, v in tags.items()])

    def _artifacts(self, run_id: str, record: RunRecord, folder: Path) -> str:
        """Copy the record's files into the store; returns the names of those that are not there."""
        named = [folder / str(name) for name in record.artifacts.values() if name]
        files = dict.fromkeys([folder / RECORD, *named, *sorted(folder.glob("plots/*"))])
        missing = []
        for path in files:
            if not path.is_file() or not path.resolve().is_relative_to(folder):
                missing.append(os.path.relpath(path, folder))
                continue
            sub = path.parent.relative_to(folder).as_posix()
            self._client.log_artifact(run_id, str(path), None if sub == "." else sub)
        return ", ".join(missing)

    def _record(self, run: Any) -> RunRecord:
        if Tag.INPUTS in run.data.tags:
            times = (run.info.start_time, run.info.end_time)
            found = words.record_of(run.data.tags, run.data.metrics, name=run.info.run_name, times=times)
        else:
            found = RunRecord.read(Path(self._client.download_artifacts(run.info.run_id, RECORD)).parent)
        return replace(found, run_id=str(run.info.run_id))


def _datasets(record: RunRecord) -> list[Any]:
    from mlflow.entities import DatasetInput, InputTag

    data = record.inputs.get("data", {})
    if not data.get("digest"):
        return []
    counts = {"calibration": data.get("n_calib"), "evaluation": data.get("n_eval")}
    return [
        DatasetInput(_dataset(data, context, count), [InputTag("mlflow.data.context", context)])
        for context, count in counts.items()
    ]


def _dataset(data: Mapping[str, Any], context: str, count: Any) -> Any:
    from mlflow.entities import Dataset

    # Two inputs of one name and digest would be stored as one.
    name = f"{short_ref(data.get('ref'))}:{context}"[:500]
    source, profile = json.dumps({"ref": data.get("ref")}), json.dumps({"num_rows": count})
    return Dataset(name, str(data["digest"])[:36], "vqkit", source, profile=profile)
