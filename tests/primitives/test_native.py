"""vqkit's own operations give the values of TensorFlow's, stay in the process, and are missed by nobody."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from platformdirs import user_cache_path

from tests.support.cases import EXTREME, FS, POF2S, TQT, every_code, grids, name, range_for
from vqkit.errors import VqkitError
from vqkit.primitives import mse, native, ops, reference
from vqkit.primitives import ops as least
from vqkit.primitives import spec as grid
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import QuantizerSpec, RoundMode


def can_compile() -> bool:
    """Where this holds the operations must be there, so that no test is skipped because they are broken."""
    home = next(p for p in (user_cache_path("vqkit"), *user_cache_path("vqkit").parents) if p.exists())
    switched_off = os.environ.get(native.SWITCH) == "0"
    return any(map(shutil.which, native.COMPILERS)) and os.access(home, os.W_OK) and not switched_off


compiled = pytest.mark.skipif(not can_compile(), reason="switched off, no C++ compiler, or no place for a library")
ODD = np.concatenate([EXTREME, np.float32([np.nan, np.inf, -np.inf])])
ONE_BIT = QuantizerSpec(POF2S, 1, round_mode=RoundMode.HALF_UP)
SYMMETRIC = [ONE_BIT, *(s for s in grids(bits=(2, 8, 16, 24, 32)) if s.symmetry)]


def traced(function: Any, *args: Any) -> tuple[Any, list[str]]:
    """A result, and the operations of the graph that gave it."""
    with native.in_process():
        concrete = tf.function(function, autograph=False).get_concrete_function(*args)
    return concrete(*args), [node.type for node in concrete.graph.get_operations()]


def assert_same(x: np.ndarray, qp: QParams, operation: str) -> None:
    """NaN counts as equal to itself, and 0 to -0: which zero TensorFlow gives depends on the place in x."""
    numbers = [tf.constant(n) for n in (qp.f_min, qp.f_max, qp.pos) if n is not None]
    mine, nodes = traced(lambda x, *n: ops.fake_quantize(x, qp.spec, *n), tf.constant(x), *numbers)
    assert operation in nodes
    np.testing.assert_array_equal(mine, ops.fake_quantize(x, qp.spec, *numbers))


@compiled
@pytest.mark.parametrize("spec", SYMMETRIC, ids=name)
@pytest.mark.parametrize("pos", [-20, 0, 7, 31])
def test_power_of_two(spec: QuantizerSpec, pos: int) -> None:
    step = 2.0**-pos
    x = every_code(spec, step) if spec.bit_width <= 8 else np.float32(step) * np.arange(-300, 300) / 4
    x = np.concatenate([x, ODD]).astype(np.float32)
    assert_same(x, QParams(spec, *range_for(spec, step), np.float32(pos)), "VqkitFakeQuantize")


@compiled
@pytest.mark.parametrize("spec", grids(bits=(2, 3, 8, 16), kind=FS), ids=name)
@pytest.mark.parametrize("step", [0.0313, 1 / 127, 2.0**-5, 3e4])
@pytest.mark.parametrize("framework", [False, True])
def test_float_scale(spec: QuantizerSpec, step: float, framework: bool) -> None:
    spec = spec.with_(use_framework_quant=framework)
    if grid.framework_kernel(spec):
        operation = "VqkitFrameworkFakeQuantize"
    else:
        operation = "VqkitFakeQuantize" if spec.symmetry else "Floor"
    x = np.concatenate([every_code(spec, step), ODD]) if spec.bit_width <= 8 else ODD
    assert_same(x, QParams(spec, *range_for(spec, step)), operation)


@compiled
@settings(deadline=None, max_examples=50)
@given(st.floats(-50, 0, width=32), st.floats(0, 50, width=32), st.integers(2, 16), st.booleans())
def test_framework_at_any_range(f_min: float, f_max: float, bit_width: int, narrow: bool) -> None:
    spec = QuantizerSpec(
        FS,
        bit_width,
        round_mode=RoundMode.HALF_UP,
        symmetry=False,
        narrow_range=narrow,
        use_framework_quant=True,
    )
    x = np.random.default_rng(0).uniform(f_min - 1, f_max + 1, 1000).astype(np.float32)
    qp = QParams(spec, np.float32(f_min), np.float32(f_max))
    assert_same(x, qp, "VqkitFrameworkFakeQuantize")


@compiled
@pytest.mark.parametrize("framework", [False, True])
def test_a_range_without_width_gives_zeros(framework: bool) -> None:
    spec = QuantizerSpec(FS, 8, round_mode=RoundMode.HALF_UP, use_framework_quant=framework)
    operation = "VqkitFrameworkFakeQuantize" if framework else "VqkitFakeQuantize"
    assert_same(np.float32([-1, 0, 1]), QParams(spec, np.float32(0), np.float32(0)), operation)


@compiled
def test_large_tensors_are_shared_by_threads() -> None:
    spec = QuantizerSpec(POF2S, 8, round_mode=RoundMode.HALF_UP)
    x = np.random.default_rng(0).normal(size=(3, 1_000_003)).astype(np.float32)
    assert_same(x, QParams(spec, *range_for(spec, 2.0**-5), np.float32(5)), "VqkitFakeQuantize")


@compiled
def test_what_others_read_is_not_overwritten() -> None:
    spec = QuantizerSpec(POF2S, 4, round_mode=RoundMode.HALF_UP)
    variable = tf.Variable([0.3, 0.6])

    def three(x: Any) -> tuple[Any, ...]:
        y = x * 1.5
        return (
            y,
            ops.fake_quantize(y, spec, -1.0, 1.0, 3.0),
            ops.fake_quantize(variable, spec, -1.0, 1.0, 2.0),
        )

    x = tf.constant([0.3, 0.6])
    (y, quantized, _), nodes = traced(three, x)
    assert nodes.count("VqkitFakeQuantize") == 2
    np.testing.assert_array_equal(y, x * 1.5)
    np.testing.assert_array_equal(quantized, [0.5, 0.875])
    np.testing.assert_array_equal(variable, x)
    np.testing.assert_array_equal(x, np.float32([0.3, 0.6]))


@compiled
@pytest.mark.parametrize("kind", ["pow2", "float", "framework"])
def test_gradients_are_those_of_the_other_kernels(kind: str) -> None:
    kinds = {"pow2": POF2S, "float": FS, "framework": FS}
    spec = QuantizerSpec(
        kinds[kind],
        4,
        round_mode=RoundMode.HALF_UP,
        symmetry=kind != "framework",
        use_framework_quant=kind == "framework",
    )
    x, dy = tf.constant([-9.0, -1, -0.3, 0, 0.7, 1.4, 11]), tf.range(7.0)

    def gradient(*given: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(given)
            total = tf.reduce_sum(
                dy * ops.fake_quantize(given[0], spec, given[1], given[2], 2.0 if spec.pow2 else None)
            )
        return tape.gradient(total, given, unconnected_gradients="zero")

    given = (x, tf.constant(-2.0), tf.constant(1.75))
    mine, nodes = traced(gradient, *given)
    assert any(node.startswith("Vqkit") for node in nodes)
    for found, expected in zip(mine, gradient(*given), strict=True):
        np.testing.assert_array_equal(found, expected)


@compiled
@pytest.mark.parametrize("mode", RoundMode)
@pytest.mark.parametrize("size", [0, 1, 17, 4096, 4097, 3_000_000])
def test_squared_errors(mode: RoundMode, size: int) -> None:
    spec = QuantizerSpec(POF2S, 6, round_mode=mode)
    x = np.random.default_rng(size).normal(size=size).astype(np.float32)
    positions = np.arange(-2, 8, dtype=np.float32)
    found, _ = traced(lambda x, p: native.squared_errors(x, spec, p), tf.constant(x), tf.constant(positions))
    expected = [
        np.square(x - reference.fake_quantize(x, QParams(spec, *range_for(spec, 2.0**-p), p)), dtype=np.float64).sum()
        for p in positions
    ]
    assert found.dtype == tf.float64
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@compiled
@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(2, 8), st.sampled_from([0.01, 1.0, 37.0]), st.booleans())
def test_the_least_error_is_at_the_exact_place(seed: int, bit_width: int, size: float, unsigned: bool) -> None:
    spec = QuantizerSpec(POF2S, bit_width, round_mode=RoundMode.HALF_UP, unsigned=unsigned)
    x = (np.random.default_rng(seed).standard_t(3, size=200) * size).astype(np.float32)
    x = np.abs(x) if unsigned else x
    start = reference.position(x, *reference.value_range(x, spec), spec)
    found, nodes = traced(lambda x, s: least.best_offset(x, spec, s), tf.constant(x), tf.constant(start))
    assert "VqkitSquaredErrors" in nodes
    assert found == mse.best_offset(x, spec, start)


def test_functions_that_may_leave_the_process_have_tensorflow_operations_only() -> None:
    for spec in (
        QuantizerSpec(POF2S, 8, round_mode=RoundMode.HALF_UP),
        QuantizerSpec(TQT, 8),
        QuantizerSpec(FS, 8),
    ):
        pos = 2.0 if spec.pow2 else None
        function = tf.function(
            lambda x, spec=spec, pos=pos: ops.fake_quantize(x, spec, -1.0, 1.0, pos), autograph=False
        )
        nodes = function.get_concrete_function(tf.constant([1.0])).graph.get_operations()
        assert not [node.type for node in nodes if node.type.startswith("Vqkit")]


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nobody has asked yet, and the cache is empty. Libraries are not loaded: they would stay."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(native.SWITCH, raising=False)
    native._native.cache_clear()
    yield tmp_path
    native._native.cache_clear()


def compiler(folder: Path, text: str) -> str:
    """A PATH on which the only compiler does what the text says."""
    program = folder / "bin" / native.COMPILERS[0]
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return str(program.parent)


@pytest.mark.usefixtures("fresh")
def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SWITCH, "0")
    assert native.native() == native.Native(None, "switched off by VQKIT_NATIVE=0")
    native._native.cache_clear()
    monkeypatch.setenv(native.SWITCH, "yes")
    with pytest.raises(VqkitError, match="VQKIT_NATIVE='yes' in the environment; expected 0, 1 or nothing"):
        native.native()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, r"no C\+\+ compiler \(c\+\+, g\+\+, clang\+\+\) is on PATH"),
        ("echo 'x.cc: no such standard' >&2; exit 1", "could not compile native.cc: x.cc: no such standard"),
        ("exit 3", "could not compile native.cc: exit code 3"),
        ("for f; do last=$f; done; echo no library > $last", "TensorFlow does not take .*"),
    ],
    ids=["no compiler", "refuses", "fails silently", "makes no library"],
)
def test_without_them_the_others_are_used(
    text: str | None, why: str, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = compiler(fresh, text) if text else str(fresh)
    monkeypatch.setenv("PATH", f"{path}:/bin:/usr/bin" if text else path)
    found = native.native()
    assert found.library is None
    assert re.search(why, found.told), found.told
    spec = QuantizerSpec(POF2S, 8, round_mode=RoundMode.HALF_UP)
    values, nodes = traced(lambda x: ops.fake_quantize(x, spec, -1.0, 1.0, 2.0), tf.constant([0.3]))
    assert "QuantizeAndDequantizeV4" in nodes
    np.testing.assert_array_equal(values, [0.25])
    native._native.cache_clear()
    monkeypatch.setenv(native.SWITCH, "1")
    with pytest.raises(VqkitError, match=f"VQKIT_NATIVE=1, but .*{why}"):
        native.native()


@compiled
def test_two_processes_compile_at_once(tmp_path: Path) -> None:
    code = "from vqkit.primitives import native; print(native.native().told)"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), native.SWITCH: "1"}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = {process.communicate(timeout=300)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    (library,) = (tmp_path / "vqkit" / "native").glob("*.so")
    assert told == {str(library)}
