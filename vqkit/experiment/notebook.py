"""Notebooks as functions: strict parameters, an executed copy, failures told. The only papermill importer."""

from __future__ import annotations

import ast
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqkit import digest, files
from vqkit.errors import TRACEBACKS, NotebookError, not_allowed
from vqkit.experiment.environment import import_path
from vqkit.experiment.warm import kernel as kernels
from vqkit.resources import resource_dir

if TYPE_CHECKING:
    from vqkit.experiment.warm.kernel import Kernel

TAG = "parameters"
ENGINE = "vqkit"
# Names that scripts from before the notebooks were numbered still ask for.
_FORMER = {"run_variant.ipynb": "20_run_variant.ipynb", "compare_runs.ipynb": "40_compare_runs.ipynb"}


@dataclass(frozen=True)
class Failure:
    """Why a notebook did not reach its end.

    Attributes:
        type: class of the exception.
        message: its text.
        cell: index of the failed cell in the executed notebook; None when no cell is to blame.
        traceback: plain text.
    """

    type: str
    message: str
    cell: int | None = None
    traceback: str = ""

    def to_json(self) -> dict[str, Any]:
        """The failure as a run record holds it."""
        return {"type": self.type, "message": self.message, "cell": self.cell}


def find(name: str) -> Path:
    """Path of a notebook that vqkit ships, in a checkout or in an installed wheel.

    Args:
        name: file name, e.g. `20_run_variant.ipynb`; the names before the notebooks were numbered are known.

    Raises:
        NotebookError: there is none of that name.
    """
    path = resource_dir("notebooks") / _FORMER.get(name, name)
    if not path.is_file():
        raise NotebookError(not_allowed("notebook", name, [p.name for p in path.parent.glob("*.ipynb")]))
    return path


def source_digest(path: str | Path) -> str:
    """Digest of what a notebook does: its cells' types, sources and tags, without outputs."""
    cells = [(c.cell_type, c.source, sorted(c.metadata.get("tags", []))) for c in _read(path).cells]
    return digest.of_json(cells)


def declared_parameters(path: str | Path) -> dict[str, str]:
    """Names and default expressions of a notebook's parameters.

    The cell is parsed as Python: papermill's own inspection misses lines such as `x: int | None = None`.

    Raises:
        NotebookError: no cell, or more than one, is tagged `parameters`, or it is not Python.
    """
    cells = [c for c in _read(path).cells if TAG in c.metadata.get("tags", []) and c.cell_type == "code"]
    if len(cells) != 1:
        raise NotebookError(f"{path}: {len(cells)} code cells are tagged {TAG!r}; one is needed")
    try:
        statements = ast.parse(cells[0].source).body
    except SyntaxError as e:
        raise NotebookError(f"{path}: the {TAG} cell is not Python: {e}") from e
    return dict(pair for statement in statements for pair in _assigned(statement))


def _assigned(statement: ast.stmt) -> Iterator[tuple[str, str]]:
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets: list[ast.expr] = [statement.target]
        value = statement.value
    elif isinstance(statement, ast.Assign):
        targets, value = statement.targets, statement.value
    else:
        return
    for target in targets:
        if isinstance(target, ast.Name):
            yield target.id, ast.unparse(value)


def check_parameters(path: str | Path, given: Mapping[str, Any]) -> None:
    """Raise unless the notebook declares each given parameter; papermill only warns and runs the wrong thing.

    Raises:
        NotebookError: naming the unknown parameter and the nearest declared one.
    """
    declared = declared_parameters(path)
    unknown = [name for name in given if name not in declared]
    if unknown:
        raise NotebookError(not_allowed(str(path), unknown[0], declared, what="parameter"))


def execute(
    source: str | Path,
    target: str | Path,
    parameters: Mapping[str, Any],
    *,
    env: Mapping[str, str] | None = None,
    kernel: Kernel | None = None,
) -> Failure | None:
    """Run a notebook in a kernel of this Python and keep the executed copy, also when it fails.

    Neither papermill's metadata nor a missing exception prove success (a dead kernel looks completed), so the
    caller must also see the result that the last cell wrote.

    Args:
        source: the notebook.
        target: where the executed copy goes; its folder is the kernel's working directory.
        parameters: name -> JSON value.
        env: added to this process's environment in the kernel.
        kernel: a warm one, which stays alive if it is found clean; None starts a fresh one and ends it.

    Returns:
        None, or why it did not reach its end.

    Raises:
        NotebookError: a parameter that the notebook does not declare; nothing was run.
    """
    check_parameters(source, parameters)
    import papermill

    _register()
    target = Path(target).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    failure: Failure | None = Failure("Interrupted", "")
    try:
        with _quiet():
            papermill.execute_notebook(
                str(source), str(target), parameters=dict(parameters), engine_name=ENGINE, progress_bar=False,
                kernel_name="python3", kernel_env={TRACEBACKS: "full", **(env or {})},
                kernel_cwd=str(target.parent.resolve()), warm=kernel,
            )  # fmt: skip
        failure = None
    except KeyboardInterrupt:
        raise
    except BaseException as e:
        failure = _failure(e, target)
    finally:
        if kernel is not None:
            kernel.take_back(failed=failure is not None)
    return failure


def _failure(e: BaseException, target: Path) -> Failure:
    import traceback

    if hasattr(e, "ename") and hasattr(e, "evalue"):
        text = "\n".join(getattr(e, "traceback", []))
        return Failure(e.ename, e.evalue, _failed_cell(target), _plain(text))
    return Failure(type(e).__name__, str(e), None, "".join(traceback.format_exception(e)))


def _failed_cell(target: Path) -> int | None:
    # papermill's own index is of the notebook before it inserts its banners.
    for index, cell in enumerate(_read(target).cells):
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            return index
    return None


def _plain(text: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # papermill 2.7 on python-dateutil and nbformat; nothing that a user could change.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield


def _read(path: str | Path) -> Any:
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except Exception as e:
        # Its converters of old formats fail in any way on what is no notebook.
        raise NotebookError(f"{path}: cannot be read as a notebook: {e}") from e


@cache
def _register() -> None:
    """Give papermill an engine whose kernel is this interpreter, reached through files instead of ports."""
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines
    from papermill.iorw import LocalHandler, papermill_io
    from papermill.log import logger

    def client(nb_man: Any, manager: Any) -> Any:
        return PapermillNotebookClient(
            nb_man, km=manager, kernel_name="python3", timeout=None, startup_timeout=120,
            shutdown_kernel="immediate", log=logger,
            store_widget_state=False,  # without it, exports show what widgets give as plain HTML
        )  # fmt: skip

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(
            cls, nb_man: Any, kernel_name: str, *, kernel_env: Mapping[str, str], kernel_cwd: str,  # noqa: ARG003
            warm: Kernel | None, **_: Any,
        ) -> None:  # fmt: skip
            if warm is not None:
                manager, connection = warm.lend(kernel_env, kernel_cwd)
                borrowing = client(nb_man, manager)
                # A second connection would take the replies that are meant for this one.
                borrowing.kc = connection
                borrowing.execute(cleanup_kc=False)
                return
            with _fresh() as (manager, private):
                # A manager from outside is left running unless cleanup is asked for.
                env = {**os.environ, **import_path(), **private, **kernel_env}
                client(nb_man, manager).execute(cwd=kernel_cwd, env=env, cleanup_kc=True)

    class Whole(LocalHandler):
        """Papermill writes in place: a kill would leave half a notebook."""

        def write(self, buf: str, path: str) -> None:
            files.write_bytes(path, buf.encode())

    papermill_engines.register(ENGINE, Engine)
    papermill_io.register(os.sep, Whole())


@contextmanager
def _fresh() -> Iterator[tuple[Any, dict[str, str]]]:
    folder = tempfile.mkdtemp(prefix="vq")
    try:
        yield kernels.manager(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
