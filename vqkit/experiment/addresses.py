"""Where tracking stores are and how mlflow is started on them; nothing here imports mlflow."""

from __future__ import annotations

from pathlib import Path

from vqkit.errors import TrackingError

_SQLITE = "sqlite:///"


def environment() -> dict[str, str]:
    """Environment variables under which vqkit runs mlflow, here and in processes it starts: no telemetry."""
    return {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def default_uri(runs_dir: str | Path) -> str:
    """The store of a folder of runs: sqlite with an absolute path, because kernels run in other folders."""
    return f"{_SQLITE}{Path(runs_dir).resolve() / 'mlflow.db'}"


def ui_command(runs_dir: str | Path, *, port: int = 5000) -> list[str]:
    """Arguments for `python` that start mlflow's own pages on the default store, under `environment()`."""
    root = (Path(runs_dir).resolve() / "mlartifacts").as_uri()
    store = ["--backend-store-uri", default_uri(runs_dir), "--default-artifact-root", root]
    return ["-m", "mlflow", "server", *store, "--host", "127.0.0.1", "--port", str(port)]


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
