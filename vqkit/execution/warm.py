"""A kernel kept between runs of the shipped notebook: TensorFlow, model and data stay loaded.

The shipped notebook leaves nothing behind but its names and figures, so each variant finds a warm kernel as it
would find a fresh one; a test compares the two to the bit. Any other notebook gets a fresh kernel unless its
user asks for warm ones. A kernel is ended after a failure, after a number of variants, or when its memory grows.

`Kernel` is the worker's side. `prepare` and `begin` run inside the kernel, on requests that leave no trace in
the executed notebook.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqkit import process_cache
from vqkit.environment import import_path
from vqkit.errors import NotebookError

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
        """A manager and a connected client of a kernel without names of the notebook before.

        Args:
            environment: variables of this notebook, added to the worker's.
            folder: the notebook's working directory.

        Raises:
            NotebookError: the kernel cannot be started.
        """
        call = f"begin({json.dumps(dict(environment))}, {folder!r})"
        if self._manager is not None:
            self._end_if_worn(int(self._ask(call, "the kernel cannot be reused")))
        if self._manager is None:
            self._start()
            self._ask("prepare()", "the kernel did not start")
            self._ask(call, "the kernel did not start")
        self.served += 1
        return self._manager, self._client

    def _end_if_worn(self, size: int) -> None:
        self._first_bytes = self._first_bytes or size
        if size > self._limits.growth * self._first_bytes:
            self.end(f"memory grew from {self._first_bytes >> 20} to {size >> 20} MiB")
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


def prepare() -> None:
    """Load what every variant needs; from now on the process keeps model, data and bench."""
    from vqkit.environment import load_tensorflow

    load_tensorflow()
    process_cache.enable()


def begin(environment: Mapping[str, str], folder: str) -> int:
    """Forget the names and figures of the notebook before; returns the bytes of memory that are left in use.

    Args:
        environment: added to the process's own.
        folder: the working directory.
    """
    import keras
    import psutil
    from IPython import get_ipython
    from matplotlib import pyplot

    pyplot.close("all")
    shell = get_ipython()
    if shell is not None:
        shell.reset(new_session=True)
    keras.utils.clear_session(free_memory=False)
    os.environ.update(environment)
    os.chdir(folder)
    gc.collect()
    # Several hundred thousand objects are kept for later variants; no collection need look at them again.
    gc.freeze()
    return int(psutil.Process().memory_info().rss)
