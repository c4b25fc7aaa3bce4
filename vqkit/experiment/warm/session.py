"""The kernel's side of a warm kernel: a clean slate before each variant, a look for traces after it.

Everything here runs inside the kernel, on requests that leave no trace in the executed notebook.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pkgutil
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vqkit.experiment.warm import kept
from vqkit.experiment.warm.guard import Guard
from vqkit.experiment.warm.switches import Switches, reseed

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
    from vqkit.experiment.environment import load_tensorflow

    load_tensorflow()
    for name in _PRELOAD:
        importlib.import_module(name)
    package = importlib.import_module("vqkit")
    for part in ("primitives.", "strategy.", "graph.", "flow.", "experiment.", "plots."):
        for module in pkgutil.walk_packages(package.__path__, "vqkit."):
            if module.name.startswith(f"vqkit.{part}"):
                # A module whose extra is not installed is not there for a variant either.
                with contextlib.suppress(ImportError):
                    importlib.import_module(module.name)
    _start_machinery()
    kept.enable()
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
    traces += [f"not what it was: the kept {kind}" for kind in kept.changed()]
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
