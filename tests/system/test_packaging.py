"""The wheel: built, installed into a fresh environment, and used far from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling, the build backend, is not installed"),
]


def run(*command: str | Path, cwd: Path) -> str:
    alone = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, ROOT, "-w", folder, cwd=folder)
    (built,) = folder.glob("vqkit-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that has the wheel, and borrows its dependencies from ours."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    fresh = folder / "venv" / "bin" / "python"
    site = run(fresh, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    # A .pth names our site-packages; the .pth files in there, an editable vqkit among them, are not followed.
    Path(site, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--python", fresh, "install", "-q", "--no-deps", "--no-index")
    run(*pip, "--force-reinstall", wheel, cwd=folder)
    return fresh


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=ROOT)
    (archive,) = tmp_path.glob("vqkit-*.tar.gz")
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, archive, "-w", tmp_path / "again", cwd=tmp_path)
    (again,) = (tmp_path / "again").glob("vqkit-*.whl")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert {i.filename: i.CRC for i in first.infolist()} == {i.filename: i.CRC for i in second.infolist()}


def test_the_wheel_carries_what_it_needs_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for kind, pattern in (("strategies", "*.json"), ("notebooks", "*.ipynb")):
        for path in sorted((ROOT / kind).glob(pattern)):
            assert f"vqkit/_data/{kind}/{path.name}" in names
    assert "vqkit/primitives/native.cc" in names
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.startswith("vqkit")} == set()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [n for n in names if n.endswith((".pyc", ".h5", ".keras"))]


def test_strategies_and_notebooks_resolve_when_installed(python: Path, tmp_path: Path) -> None:
    code = """
import vqkit
from pathlib import Path
from vqkit.files import resource_dir
from vqkit.strategy import Strategy
assert "site-packages" in vqkit.__file__, vqkit.__file__
print(*(Strategy.builtin(n).name for n in ("pof2s", "pof2s_tqt", "fs", "fsx")))
print(*sorted(p.name for p in resource_dir("notebooks").glob("*.ipynb")))
"""
    strategies, notebooks = run(python, "-c", code, cwd=tmp_path).splitlines()
    assert strategies.split() == ["pof2s", "pof2s_tqt", "fs", "fsx"]
    assert notebooks.split() == sorted(p.name for p in (ROOT / "notebooks").glob("*.ipynb"))


def test_the_command_works_when_installed(python: Path, tmp_path: Path) -> None:
    command = python.parent / "vqkit"
    assert "sweep" in run(command, "--help", cwd=tmp_path)
    listed = run(command, "strategies", "list", cwd=tmp_path)
    for name in ("pof2s", "pof2s_tqt", "fs", "fsx"):
        assert name in listed
    assert list(tmp_path.iterdir()) == [], "looking around writes nothing"
