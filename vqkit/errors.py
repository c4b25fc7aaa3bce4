"""The errors vqkit raises, and the one form of their messages.

    VqkitError
    ├── StrategyError      a strategy (JSON, kwargs) is malformed or says something the model cannot do
    ├── ModelError         a model cannot be read, rewritten or exported
    ├── DataError          calibration or evaluation data are unusable
    ├── AuditError         what was requested is not what was applied
    ├── CrossCheckError    a runtime computes something else than the simulation
    ├── SweepError         a sweep file is malformed, or its axes do not fit the model
    ├── NotebookError      a notebook was given parameters it does not have, or failed
    ├── RecordError        a run record or the cache is missing, broken or belongs to other inputs
    └── TrackingError      the tracking store refused

A message says where, what was given, what is allowed, and the nearest match.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TRACEBACKS = "VQKIT_TRACEBACKS"  # "full" in the environment: notebooks always show the whole traceback


class VqkitError(Exception):
    """Base of every error that vqkit raises on purpose."""

    _told = False

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the message, and where to find the rest; the second time, the rest.

        The message says what to do; the lines of our own code do not. `%tb` shows an error once more.
        """
        shell: Any = sys.modules["IPython"].get_ipython()
        if self._told or os.environ.get(TRACEBACKS) == "full":
            whole: list[str] = shell.InteractiveTB.structured_traceback(type(self), self, self.__traceback__)
            return whole
        self._told = True
        place = _first_line(self)
        return [f"{type(self).__name__}: {self}", "", f"{place}The whole traceback: run %tb in a new cell."]


class StrategyError(VqkitError, ValueError):
    """A strategy is malformed, or asks for something that does not exist."""


class ModelError(VqkitError, ValueError):
    """A model cannot be read, rewritten or exported."""


class DataError(VqkitError, ValueError):
    """Calibration or evaluation data are unusable."""


class AuditError(VqkitError, RuntimeError):
    """What the plan requested is not what the quantized model applies."""


class CrossCheckError(VqkitError, RuntimeError):
    """A runtime computes something else than the simulation.

    Attributes:
        result: the `CrossCheck` with all differences.
    """

    def __init__(self, message: str, result: object = None) -> None:
        super().__init__(message)
        self.result = result


class SweepError(VqkitError, ValueError):
    """A sweep file is malformed, or one of its variants is invalid."""


class NotebookError(VqkitError, RuntimeError):
    """A notebook cannot take its parameters, or failed while running."""


class RecordError(VqkitError, RuntimeError):
    """A run record or cache entry is missing, broken, or of other inputs."""


class TrackingError(VqkitError, RuntimeError):
    """The tracking store refused."""


def _first_line(error: BaseException) -> str:
    """Which line of the cell raised it."""
    traceback = error.__traceback__
    while traceback is not None and not traceback.tb_frame.f_code.co_name.startswith("<module>"):
        traceback = traceback.tb_next
    return "" if traceback is None else f"Line {traceback.tb_lineno} of the cell. "


def nearest(given: object, allowed: Iterable[object]) -> str:
    """Say which allowed name was probably meant; empty when nothing is close."""
    names = [str(a) for a in allowed]
    match = difflib.get_close_matches(str(given), names, n=1, cutoff=0.55)
    return f" (did you mean {match[0]!r}?)" if match else ""


def not_allowed(where: str, given: object, allowed: Iterable[object], *, what: str = "value") -> str:
    """One message for "this is not one of those".

    Args:
        where: file and JSON pointer, or the argument's name.
        given: what was found there.
        allowed: what may stand there.
        what: the noun for `given`, e.g. "key", "layer".

    Returns:
        A sentence with place, given, allowed and nearest match.
    """
    options = list(allowed)
    more = f", … ({len(options)} in all)" if len(options) > 12 else ""
    shown = ", ".join(str(o) for o in options[:12]) + more
    return f"{where}: {what} {given!r} is not allowed{nearest(given, options)}. Allowed: {shown}"


def no_such_file(path: Path) -> str:
    """One message for a file that is not there, with the one beside it that was probably meant.

    Args:
        path: what was asked for.
    """
    beside: list[str] = []
    with contextlib.suppress(OSError):
        beside = os.listdir(path.parent)
    return f"{path}: no such file{nearest(path.name, beside)}"


def missing_package(package: str, extra: str) -> str:
    """One message for a package that an extra of ours brings, and the command that brings it.

    Args:
        package: what could not be imported.
        extra: of `pyproject.toml`.
    """
    return f"{package} is not installed; it comes with the extra {extra!r}: pip install 'vqkit[{extra}]'"
