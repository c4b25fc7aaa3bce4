"""`vqkit doctor` says what is wrong with an environment, and what to do; each check is run for real."""

from __future__ import annotations

import pytest

from vqkit.cli import doctor


def by_name(findings):
    return {f.what: f for f in findings}


@pytest.mark.slow
def test_a_working_environment_has_nothing_bad(tmp_path):
    findings = doctor.examine(tmp_path / "not" / "yet" / "there")
    found = by_name(findings)
    assert [f for f in findings if f.verdict == "bad"] == []
    assert {
        "Python",
        "packages",
        "TensorFlow",
        "own operations",
        "notebook kernel",
        "run folder",
        "sqlite",
    } <= set(found)
    assert str(tmp_path) in found["run folder"].found
    assert not (tmp_path / "not").exists()
    text = doctor.report(findings)
    assert "vqkit can work here" in text
    assert "extra onnx: onnx 1." in text


@pytest.mark.slow
def test_another_keras_backend_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    finding = doctor._tensorflow()
    assert finding.verdict == "bad"
    assert finding.advice == "set KERAS_BACKEND=tensorflow"


def test_own_operations_that_cannot_be_had(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    finding = doctor._operations()
    assert (finding.verdict, finding.found) == ("warn", "no C++ compiler (c++, g++, clang++) is on PATH")
    assert "g++" in finding.advice


def test_a_kernel_that_cannot_start(monkeypatch, tmp_path):
    code = tmp_path / "jupyter_client"
    code.mkdir()
    (code / "__init__.py").write_text("raise ImportError('no jupyter here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = doctor._kernel()
    assert (finding.verdict, finding.found) == ("bad", "ImportError: no jupyter here")


def test_requirements_that_are_not_met(monkeypatch):
    wanted = ["numpy>=999", "no-such-package", "onnx>=999; extra == 'onnx'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: wanted)
    (finding,) = doctor._packages()
    assert finding.verdict == "bad"
    assert finding.found.startswith("numpy>=999 (found ")
    assert "no-such-package (found none)" in finding.found
    assert "onnx" not in finding.found


def test_a_run_folder_that_is_a_file_or_full(monkeypatch, tmp_path):
    (tmp_path / "runs").write_text("")
    assert doctor._folder(tmp_path / "runs").verdict == "bad"
    monkeypatch.setattr(doctor, "LEAST_DISK", 2**70)
    full = doctor._folder(tmp_path)
    assert full.verdict == "warn"
    assert "make room" in str(full)


def test_limits_of_memory_and_threads_are_warnings(monkeypatch):
    monkeypatch.setattr(doctor, "LEAST_MEMORY", 2**70)
    assert "use -j 1" in doctor._memory().advice
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "OMP_NUM_THREADS=1" in doctor._threads().found
