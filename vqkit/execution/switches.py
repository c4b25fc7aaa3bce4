"""What a variant may have switched in its process and what can be put back."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

Switch = tuple[Callable[[], Any], Callable[[Any], object]]


class Switches:
    """Settings of Python and of the libraries, as they were when this was made."""

    def __init__(self) -> None:
        self._switches = {**_python(), **_numeric(), **_keras(), **_tensorflow(), **_pictures()}
        self._found = {name: read() for name, (read, _) in self._switches.items()}

    def restore(self) -> list[str]:
        """Put everything back.

        Returns:
            Names of what could not be.
        """
        for name, (read, write) in self._switches.items():
            if not _same(read(), self._found[name]):
                with contextlib.suppress(Exception):
                    write(self._found[name])
        return [name for name, (read, _) in self._switches.items() if not _same(read(), self._found[name])]


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except ValueError:
        return repr(a) == repr(b)


def _replace(target: Any) -> Callable[[Any], object]:
    """Give a list or mapping that others hold its former content."""

    def write(value: Any) -> None:
        target.clear()
        (target.update if isinstance(value, Mapping) else target.extend)(value)

    return write


def _python() -> dict[str, Switch]:
    import logging

    def handlers() -> dict[int, Any]:
        return {n: signal.getsignal(n) for n in signal.valid_signals()}

    def umask() -> int:
        mask = os.umask(0)
        os.umask(mask)
        return mask

    def handle(value: dict[int, Any]) -> None:
        for number, handler in value.items():
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)

    return {
        "the environment": (lambda: dict(os.environ), _environ),
        "sys.path": (lambda: list(sys.path), _replace(sys.path)),
        "sys.argv": (lambda: list(sys.argv), _replace(sys.argv)),
        "sys.meta_path": (lambda: list(sys.meta_path), _replace(sys.meta_path)),
        "the warning filters": (lambda: list(warnings.filters), _filters),
        "the recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
        "the signal handlers": (handlers, handle),
        "the file mode mask": (umask, os.umask),
        "garbage collection": (gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
        "the root logger's level": (lambda: logging.root.level, logging.root.setLevel),
        "the root logger's handlers": (lambda: list(logging.root.handlers), _replace(logging.root.handlers)),
    }


def _environ(value: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(value):
        del os.environ[name]
    os.environ.update(value)


def _filters(value: list[Any]) -> None:
    warnings.resetwarnings()
    _replace(warnings.filters)(value)


def _numeric() -> dict[str, Switch]:
    import numpy as np

    return {
        "numpy's error handling": (np.geterr, lambda v: np.seterr(**v)),
        "numpy's print options": (np.get_printoptions, lambda v: np.set_printoptions(**v)),
    }


def _keras() -> dict[str, Switch]:
    import keras

    config = keras.config
    filtering = (config.enable_traceback_filtering, config.disable_traceback_filtering)
    logging = (config.enable_interactive_logging, config.disable_interactive_logging)
    known = keras.saving.get_custom_objects()
    return {
        "keras.config.floatx": (config.floatx, config.set_floatx),
        "keras.config.epsilon": (config.epsilon, config.set_epsilon),
        "keras.config.image_data_format": (config.image_data_format, config.set_image_data_format),
        "keras.config.dtype_policy": (lambda: config.dtype_policy().name, config.set_dtype_policy),
        "keras tracebacks": (config.is_traceback_filtering_enabled, lambda on: filtering[not on]()),
        "keras messages": (config.is_interactive_logging_enabled, lambda on: logging[not on]()),
        # Classes of the user's own layers stay: the model that is kept is made of them.
        "keras custom objects": (
            lambda: {k: v for k, v in known.items() if v.__module__ == "__main__"},
            lambda _: [known.pop(k) for k in list(known) if known[k].__module__ == "__main__"],
        ),
    }


def _tensorflow() -> dict[str, Switch]:
    import tensorflow as tf
    from tensorflow.python.framework import config as internal

    config = tf.config
    return {
        "tf.config.run_functions_eagerly": (config.functions_run_eagerly, config.run_functions_eagerly),
        "tf.config.optimizer.jit": (config.optimizer.get_jit, lambda v: config.optimizer.set_jit(bool(v))),
        "tf.config.optimizer": (
            config.optimizer.get_experimental_options,
            config.optimizer.set_experimental_options,
        ),
        "tf.config soft placement": (config.get_soft_device_placement, config.set_soft_device_placement),
        "tensor float 32": (
            config.experimental.tensor_float_32_execution_enabled,
            config.experimental.enable_tensor_float_32_execution,
        ),
        # There is no way back from determinism: such a kernel is ended.
        "tf.config determinism": (internal.is_op_determinism_enabled, lambda _: None),
    }


def _pictures() -> dict[str, Switch]:
    import matplotlib as mpl

    # The backend is left out: a notebook chooses it in its first cell, and reading it would load one.
    def read() -> dict[str, Any]:
        return {k: mpl.rcParams._get(k) for k in mpl.rcParams if k != "backend"}

    return {"matplotlib.rcParams": (read, mpl.rcParams.update)}


def reseed() -> None:
    """Random numbers as a fresh process has them: unforeseeable until somebody seeds them."""
    import numpy as np
    import tensorflow as tf

    random.seed()
    np.random.seed()
    tf.random.set_seed(int.from_bytes(os.urandom(4), "little"))
    tf.random.set_global_generator(tf.random.Generator.from_non_deterministic_state())
