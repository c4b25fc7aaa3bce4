"""vqkit's own operations on tensors: compiled once on a machine that has a C++ compiler, else absent.

TensorFlow's quantize operations write to fresh memory, which on a network of many cheap layers costs a fifth
of its time; ours work in place. The values are the same; of zeros the sign may differ, which in TensorFlow's
depends on the place in the tensor.

A graph that leaves the process must not hold them: elsewhere nobody knows them. So they are used only while a
function is traced `in_process`.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from vqkit import digest
from vqkit.errors import VqkitError
from vqkit.files import DiskCache, whole
from vqkit.primitives.spec import QuantizerSpec, RoundMode, framework_ends

SWITCH = "VQKIT_NATIVE"
"""Environment variable: 0 never, 1 an error where it cannot be had; otherwise where it can be had."""

SOURCE = Path(__file__).with_suffix(".cc")
COMPILERS = ("c++", "g++", "clang++")
# Contraction to a fused multiply-add would round once where the definition rounds twice.
FLAGS = ("-O3", "-fPIC", "-shared", "-w", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
_ROUNDING = {
    RoundMode.HALF_TO_EVEN: "half_to_even",
    RoundMode.HALF_UP: "half_up",
    RoundMode.HALF_AWAY: "half_away_from_zero",
}

_IN_PROCESS: ContextVar[bool] = ContextVar("_IN_PROCESS", default=False)
_LOCK = Lock()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Native:
    """What became of the operations on this machine.

    Attributes:
        library: makes the nodes, or None.
        told: where it lies, or why it is absent.
    """

    library: Any
    told: str


@contextmanager
def in_process() -> Iterator[None]:
    """While a function is traced that no other process will read, our operations may stand in it."""
    token = _IN_PROCESS.set(True)
    try:
        yield
    finally:
        _IN_PROCESS.reset(token)


def traced_here(function: Callable[..., Any], signature: Sequence[Any], **options: Any) -> Any:
    """A function, traced once for arguments of this signature; no other process may read its graph.

    Args:
        function: of tensors.
        signature: a nested `tf.TensorSpec` for each argument.
        options: of `tf.function`.

    Returns:
        The concrete function.
    """
    import tensorflow as tf

    with in_process():
        whole = tf.function(function, input_signature=signature, autograph=False, **options)
        return whole.get_concrete_function()


def wanted(spec: QuantizerSpec) -> bool:
    """Whether a tensor is to be put on this grid by our operation, here and now.

    Args:
        spec: a quantizer of the reference's own kernel, whatever its scale.

    Raises:
        VqkitError: the switch demands operations that cannot be had.
    """
    return _IN_PROCESS.get() and spec.symmetry and not spec.per_channel and native().library is not None


def framework_wanted() -> bool:
    """Whether our operation is to stand for the framework's, here and now; per tensor.

    On other processors the framework may round a product and a sum at once, and so differ in the last bit.

    Raises:
        VqkitError: the switch demands operations that cannot be had.
    """
    return _IN_PROCESS.get() and platform.machine() == "x86_64" and native().library is not None


def values(x: Any, spec: QuantizerSpec, number: Any) -> Any:
    """Fake-quantized values, for a quantizer that is `wanted`; no gradient of its own.

    Args:
        x: float32 tensor.
        spec: the quantizer.
        number: the position of a pow-2 scale, integer as float32, in -126..127; else the factor to codes,
            infinite where the range has no width, which gives zeros. Shape ().

    Returns:
        float32, shape of x.
    """
    return native().library.VqkitFakeQuantize(x=x, position_or_scale=number, power_of_two=spec.pow2, **_grid(spec))


def framework_values(x: Any, spec: QuantizerSpec, f_min: Any, f_max: Any) -> tuple[Any, Any, Any]:
    """What TensorFlow's fake-quant operation computes, where it is `framework_wanted`; without its gradient.

    Args:
        x: float32 tensor.
        spec: a float-scale quantizer per tensor that `grid.framework_kernel` accepts.
        f_min: lower end of the range, shape ().
        f_max: upper end, shape ().

    Returns:
        The values, float32, shape of x, and the ends of the grid that its gradient is masked by, shape ().
    """
    low, high = map(float, framework_ends(spec))
    made = native().library.VqkitFrameworkFakeQuantize(x=x, f_min=f_min, f_max=f_max, low=low, high=high)
    return made.values, made.nudged_min, made.nudged_max


def squared_errors(x: Any, spec: QuantizerSpec, positions: Any) -> Any:
    """Sum of squared errors at each of some positions, for a pow-2 quantizer that is `wanted`.

    Args:
        x: float32 tensor.
        spec: the quantizer.
        positions: integers as float32, in -126..127, shape (n,).

    Returns:
        float64, shape (n,): sums of float32 squares, to within one in ten thousand; the same for any number
        of threads.
    """
    return native().library.VqkitSquaredErrors(x=x, positions=positions, **_grid(spec))


def _grid(spec: QuantizerSpec) -> dict[str, Any]:
    low, high = float(spec.q_min), float(spec.q_max)
    return {"low": low, "high": high, "rounding": _ROUNDING[spec.round_mode]}


def native() -> Native:
    """The operations, compiled if nobody has yet.

    Raises:
        VqkitError: the switch demands operations that cannot be had.
    """
    with _LOCK:
        return _native()


@lru_cache(maxsize=1)
def _native() -> Native:
    switch = os.environ.get(SWITCH, "")
    if switch not in ("", "0", "1"):
        raise VqkitError(f"{SWITCH}={switch!r} in the environment; expected 0, 1 or nothing")
    if switch == "0":
        return Native(None, f"switched off by {SWITCH}=0")
    try:
        library = _built()
        return Native(_loaded(library), str(library))
    except (VqkitError, OSError) as error:
        if switch == "1":
            raise VqkitError(f"{SWITCH}=1, but {error}") from error
        _log.info("TensorFlow's own operations are used: %s", error)
        return Native(None, str(error))


def _built() -> Path:
    """The compiled library in the user's cache."""
    import tensorflow as tf
    from platformdirs import user_cache_path

    if not sys.platform.startswith("linux"):
        raise VqkitError(f"they are not made for {sys.platform}")
    if tf.config.list_physical_devices("GPU"):
        raise VqkitError("TensorFlow sees a GPU, for which they are not made")
    flags = [*FLAGS, *tf.sysconfig.get_compile_flags(), str(SOURCE), *tf.sysconfig.get_link_flags()]
    made_of = [digest.of_file(SOURCE), tf.version.GIT_VERSION, tf.__version__, platform.machine(), *flags]
    library = user_cache_path("vqkit") / "native" / f"{digest.of_json(made_of)}.so"
    # A library that was cut short must not be loaded: the process would die of it.
    kept, name = DiskCache(library.parent), f"{library.name}.json"
    if not library.is_file() or kept.json(name) != digest.of_file(library):
        _compile(library, flags)
        kept.keep_json(name, digest.of_file(library))
    return library


def _compile(library: Path, flags: list[str]) -> None:
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise VqkitError(f"no C++ compiler ({', '.join(COMPILERS)}) is on PATH")
    _log.info("compiling vqkit's operations, once for this machine: %s", library)
    with whole(library) as made:
        try:
            done = subprocess.run(
                [compiler, *flags, "-o", str(made)], capture_output=True, text=True, check=False, timeout=300
            )
        except subprocess.TimeoutExpired as error:
            raise VqkitError(f"{compiler} did not end within {error.timeout:.0f} s") from error
        if done.returncode or not made.is_file():
            why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
            raise VqkitError(f"{compiler} could not compile {SOURCE.name}: {why}")


def _loaded(library: Path) -> Any:
    """The operations, tried on a few values: a compiler that TensorFlow does not agree with must not be found
    out by wrong numbers."""
    import tensorflow as tf

    grid_of = {"low": -2.0, "high": 1.0, "rounding": "half_up"}
    try:
        loaded = tf.load_op_library(str(library))
        with tf.init_scope():
            x = tf.constant([-9.0, -0.75, -0.25, 0.25, 0.75, 9.0])
            values = loaded.VqkitFakeQuantize(x=x, position_or_scale=1.0, power_of_two=True, **grid_of)
            sums = loaded.VqkitSquaredErrors(x=x, positions=[1.0], **grid_of)
            alike = loaded.VqkitFrameworkFakeQuantize(x=x, f_min=-1.0, f_max=0.5, low=0.0, high=3.0)
            found = [t.numpy().tolist() for t in (values, sums, alike.values)]
    except (tf.errors.OpError, AttributeError) as error:
        raise VqkitError(f"TensorFlow does not take {library}: {error}") from error
    on_grid = [-1.0, -0.5, 0.0, 0.5, 0.5, 0.5]
    if found != [on_grid, [136.5], on_grid]:
        raise VqkitError(f"{library} computes wrongly: {found}")
    return loaded
