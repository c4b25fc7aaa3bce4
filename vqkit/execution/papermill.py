"""Notebooks as functions: strict parameters, an executed copy, failures told. The only papermill importer."""

from __future__ import annotations

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

from vqkit.environment import import_path
from vqkit.errors import TRACEBACKS
from vqkit.execution import warm as kernels
from vqkit.files import write_bytes
from vqkit.sweeps.notebook import check_parameters, read_notebook

if TYPE_CHECKING:
    from vqkit.execution.warm import Kernel

ENGINE = "vqkit"


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
        kernel: a warm one, which stays alive unless the notebook fails; None starts a fresh one and ends it.

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
                str(source),
                str(target),
                parameters=dict(parameters),
                engine_name=ENGINE,
                progress_bar=False,
                kernel_name="python3",
                language="python",
                kernel_env={TRACEBACKS: "full", **(env or {})},
                kernel_cwd=str(target.parent.resolve()),
                warm=kernel,
            )
        failure = None
    except KeyboardInterrupt:
        raise
    except BaseException as e:
        failure = _failure(e, target)
    finally:
        if kernel is not None and failure is not None:
            kernel.end("the variant failed")
    return failure


def _failure(e: BaseException, target: Path) -> Failure:
    import traceback

    if hasattr(e, "ename") and hasattr(e, "evalue"):
        text = "\n".join(getattr(e, "traceback", []))
        return Failure(e.ename, e.evalue, _failed_cell(target), _plain(text))
    return Failure(type(e).__name__, str(e), None, "".join(traceback.format_exception(e)))


def _failed_cell(target: Path) -> int | None:
    # papermill's own index is of the notebook before it inserts its banners.
    for index, cell in enumerate(read_notebook(target).cells):
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


@cache
def _register() -> None:
    """Give papermill an engine whose kernel is this interpreter, reached through files instead of ports."""
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines
    from papermill.iorw import LocalHandler, papermill_io
    from papermill.log import logger

    def client(nb_man: Any, manager: Any) -> Any:
        return PapermillNotebookClient(
            nb_man,
            km=manager,
            kernel_name="python3",
            timeout=None,
            startup_timeout=120,
            shutdown_kernel="immediate",
            log=logger,
            store_widget_state=False,  # without it, exports show what widgets give as plain HTML
        )

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(
            cls,
            nb_man: Any,
            kernel_name: str,  # noqa: ARG003
            *,
            kernel_env: Mapping[str, str],
            kernel_cwd: str,
            warm: Kernel | None,
            **_: Any,
        ) -> None:
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
            write_bytes(path, buf.encode())

    papermill_engines.register(ENGINE, Engine)
    papermill_io.register(os.sep, Whole())


@contextmanager
def _fresh() -> Iterator[tuple[Any, dict[str, str]]]:
    folder = tempfile.mkdtemp(prefix="vq")
    try:
        yield kernels.manager(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
