"""A kernel kept between runs of the shipped notebook.

The worker's side of a warm kernel: start it, lend it to notebook after notebook, end it when in doubt.

The kernel's side of a warm kernel: a clean slate before each variant, a look for traces after it.

Everything here runs inside the kernel, on requests that leave no trace in the executed notebook.

Warm kernels: TensorFlow, model and data stay loaded between variants, and nothing else does.

A kernel is ended, and the next variant gets a fresh one, after a failure, after a number of variants, when
its memory grows, and whenever a variant left something behind that cannot be put back.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import shutil
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqkit import process_cache
from vqkit.environment import import_path
from vqkit.errors import NotebookError
from vqkit.execution.guard import Guard
from vqkit.execution.switches import Switches, reseed

_SESSION = "vqkit.execution.warm"
# A unix socket's path may hold about 107 bytes, and the kernel adds to ours.
_SOCKET_PATH = 80
_START_SECONDS = 300


@dataclass(frozen=True)
class Limits:
    """When a warm kernel is ended although nothing is wrong.

    Attributes:
        variants: after so many.
        growth: when its memory is so many times what it was after the first variant.
    """

    variants: int = 100
    growth: float = 1.5


class Kernel:
    """An IPython kernel of this interpreter, started when first needed, in a folder of its own.

    Attributes:
        served: notebooks it has executed.
        ended: why kernels before it were ended, in order.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._manager: Any = None
        self._client: Any = None
        self._folder = ""
        self._first_bytes: int | None = None
        self.served = 0
        self.ended: list[str] = []

    def lend(self, environment: Mapping[str, str], folder: str) -> tuple[Any, Any]:
        """A manager and a connected client, with the kernel as clean as a fresh one.

        Args:
            environment: variables of this notebook, added to the worker's.
            folder: the notebook's working directory.

        Raises:
            NotebookError: the kernel cannot be started.
        """
        if self._manager is None:
            self._start()
            self._ask("prepare()", "the kernel did not start")
        self._ask(f"begin({json.dumps(dict(environment))}, {folder!r})", "the kernel cannot be reused")
        self.served += 1
        return self._manager, self._client

    def take_back(self, *, failed: bool) -> None:
        """Look at the kernel after a notebook, and end it unless the next one would find it as new.

        Args:
            failed: whether the notebook did; then nothing is asked.
        """
        if self._manager is None:
            return
        if failed:
            self.end("the variant failed")
            return
        try:
            found = self._ask("end()", "no answer after the notebook")
        except Exception as e:
            self.end(str(e))
            return
        self._first_bytes = self._first_bytes or found["bytes"]
        if found["traces"]:
            self.end("; ".join(found["traces"]))
        elif found["bytes"] > self._limits.growth * self._first_bytes:
            self.end(f"memory grew from {self._first_bytes >> 20} to {found['bytes'] >> 20} MiB")
        elif self.served >= self._limits.variants:
            self.end(f"{self.served} variants")

    def end(self, reason: str) -> None:
        """End the process, if there is one, and say why in the worker's log."""
        if self._manager is None:
            return
        self.ended.append(reason)
        print(f"kernel ended after {self.served} variants: {reason}", file=sys.stderr, flush=True)
        try:
            _wait(self._client.stop_channels())
            _wait(self._manager.shutdown_kernel(now=True))
            _wait(self._manager.cleanup_resources())
        finally:
            self._manager = self._client = self._first_bytes = None
            self.served = 0
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="vq")
        self._manager, private = manager(self._folder)
        env = {**os.environ, **import_path(), **private}
        _wait(self._manager.start_kernel(cwd=self._folder, env=env))
        self._client = self._manager.client()
        _wait(self._client.start_channels())
        _wait(self._client.wait_for_ready(timeout=_START_SECONDS))
        self._client.allow_stdin = False

    def _ask(self, call: str, problem: str) -> Any:
        """Run a function of `session` in the kernel; the notebook's counters do not see it."""
        code = f"__import__({_SESSION!r}, fromlist=['_']).{call}"
        expression = f"__import__('json').dumps({code})"
        message = self._client.execute("", silent=True, store_history=False, user_expressions={"it": expression})
        reply = _wait(_answer(self._manager, self._client, message))
        found = reply["content"].get("user_expressions", {}).get("it", {"evalue": str(reply["content"])})
        if found.get("status") != "ok":
            raise NotebookError(f"{problem}: {found.get('ename')}: {found.get('evalue')}")
        import ast

        return json.loads(ast.literal_eval(found["data"]["text/plain"]))


async def _answer(manager: Any, client: Any, message: str) -> Any:
    """The reply to a request; a kernel that dies meanwhile does not keep anybody waiting."""
    import queue

    while True:
        try:
            reply = await client.shell_channel.get_msg(timeout=1)
        except queue.Empty:
            if not await manager.is_alive():
                raise NotebookError("the kernel died") from None
            continue
        if reply["parent_header"].get("msg_id") == message:
            return reply


def _wait(result: Any) -> Any:
    """The value of a coroutine, run in the loop that nbclient uses as well; other values as they are."""
    import inspect

    from jupyter_core.utils import ensure_event_loop

    return ensure_event_loop().run_until_complete(result) if inspect.isawaitable(result) else result


def manager(folder: str) -> tuple[Any, dict[str, str]]:
    """A kernel manager for this interpreter, and the environment that keeps the user's home out of it.

    Args:
        folder: for its connection; private and short-lived.
    """
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> Any:  # noqa: ARG002
            launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=launch, display_name="Python 3", language="python")

    short = os.name == "posix" and len(folder) < _SOCKET_PATH
    made = AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=ThisPython(),
        transport="ipc" if short else "tcp",
        connection_file=str(Path(folder, "k.json")),
    )
    return made, {"IPYTHONDIR": folder, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


# What `run_variant.ipynb` and the package reach in any variant; loaded once, before the first look.
_PRELOAD = (
    "vqkit", "keras", "numpy", "pandas", "matplotlib.pyplot", "matplotlib_inline.backend_inline",
    "matplotlib.backends.backend_agg", "sklearn.datasets", "psutil",
)  # fmt: skip
_FILES = 64
# Packages that start threads of their own once there is something to do.
_MACHINERY = ("zmq", "ipykernel", "IPython", "tqdm")


@dataclass
class _State:
    guard: Guard
    switches: Switches
    threads: frozenset[int]
    files: int
    shell: dict[str, list[Any]]


_state: _State | None = None


def prepare() -> None:
    """Load everything, then remember what this process is like."""
    global _state
    from vqkit.environment import load_tensorflow

    load_tensorflow()
    for name in _PRELOAD:
        importlib.import_module(name)
    package = importlib.import_module("vqkit")
    for part in (
        "primitives.",
        "strategy.",
        "graph.",
        "models.",
        "quantization.",
        "evaluation.",
        "bench.",
        "targets.",
        "runs.",
        "sweeps.",
        "execution.",
        "comparison.",
        "plots.",
    ):
        for module in pkgutil.walk_packages(package.__path__, "vqkit."):
            if module.name.startswith(f"vqkit.{part}"):
                # A module whose extra is not installed is not there for a variant either.
                with contextlib.suppress(ImportError):
                    importlib.import_module(module.name)
    _start_machinery()
    process_cache.enable()
    _state = _State(Guard(), Switches(), _threads(), _open_files(), _hooks())
    gc.collect()
    # Several hundred thousand objects of TensorFlow need not be looked at in each collection.
    gc.freeze()


def _start_machinery() -> None:
    """What starts once per process and stays: TensorFlow's threads, the way figures reach the notebook."""
    import tensorflow as tf
    from IPython import get_ipython

    tf.config.list_logical_devices()
    shell = get_ipython()
    if shell is not None:
        shell.run_line_magic("matplotlib", "inline")
    from matplotlib import pyplot

    pyplot.figure()
    pyplot.close("all")


def begin(environment: Mapping[str, str], folder: str) -> None:
    """Make this process for the next variant what a fresh one would be.

    Args:
        environment: added to the process's own.
        folder: the working directory.
    """
    import keras
    from IPython import get_ipython
    from matplotlib import pyplot

    assert _state is not None
    _state.switches.restore()
    pyplot.close("all")
    shell = get_ipython()
    if shell is not None:
        shell.reset(new_session=True)
        for name, hooks in _state.shell.items():
            _hook_lists()[name][:] = hooks
    keras.utils.clear_session(free_memory=False)
    reseed()
    os.environ.update(environment)
    os.chdir(folder)


def end() -> dict[str, Any]:
    """What the variant left behind.

    Returns:
        "traces": what cannot be put back, for people, empty when the kernel can go on; "bytes": memory.
    """
    from IPython import get_ipython
    from matplotlib import pyplot

    assert _state is not None
    pyplot.close("all")
    shell = get_ipython()
    if shell is not None:
        # Releases what the notebook's names held, so that memory is measured without it.
        shell.reset(new_session=True)
    traces = [f"changed: {name}" for name in _state.guard.changes()[:5]]
    traces += [f"cannot be put back: {name}" for name in _state.switches.restore()]
    traces += [f"not what it was: the kept {kind}" for kind in process_cache.changed()]
    traces += [f"still running: thread {t.name}" for t in threading.enumerate() if _left_behind(t)]
    traces += [f"still running: process {child.pid}" for child in _process().children()]
    if (files := _open_files()) > _state.files + _FILES:
        traces.append(f"still open: {files - _state.files} files")
    if not traces:
        _state.guard.settle()
    gc.collect()
    # What is alive now is kept for later variants; each collection would look at all of it again.
    gc.freeze()
    return {"traces": traces, "bytes": _process().memory_info().rss}


def _left_behind(thread: threading.Thread) -> bool:
    assert _state is not None
    return thread.ident not in _state.threads and type(thread).__module__.split(".")[0] not in _MACHINERY


def _process() -> Any:
    import psutil

    return psutil.Process()


def _threads() -> frozenset[int]:
    return frozenset(t.ident for t in threading.enumerate() if t.ident is not None)


def _open_files() -> int:
    return int(_process().num_fds()) if sys.platform != "win32" else 0


def _hook_lists() -> dict[str, list[Any]]:
    """The lists through which a notebook can change how cells run."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return {}
    return {
        "ast_transformers": shell.ast_transformers,
        "input_transformers_post": shell.input_transformers_post,
        "input_transformers_cleanup": shell.input_transformers_cleanup,
        **{f"event {name}": calls for name, calls in shell.events.callbacks.items()},
    }


def _hooks() -> dict[str, list[Any]]:
    return {name: list(found) for name, found in _hook_lists().items()}
