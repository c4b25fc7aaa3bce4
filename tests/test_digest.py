"""The run key and every cache see all code that can change a number, and none that only shows it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import vqkit
from vqkit import digest
from vqkit.strategy.vocabulary import NAMES
from vqkit.sweeps.variant import code_digest

PACKAGE = Path(vqkit.__file__).parent
FILES = sorted(
    p.relative_to(PACKAGE).as_posix()
    for p in PACKAGE.rglob("*")
    if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".pyc"
)
NUMERIC = [f for f in FILES if digest.is_numeric(f)]
VIEWS = [f for f in FILES if digest.is_numeric(f) is False]


def test_every_file_of_the_package_is_either() -> None:
    """A new file is neither until somebody has thought about it: name it in `digest.NUMERIC` or `VIEWS`."""
    assert [f for f in FILES if digest.is_numeric(f) is None] == []
    assert {f for f in NUMERIC if not f.endswith(digest.SOURCES)} == set()


def test_every_entry_is_of_a_file() -> None:
    known = [*FILES, "_data/strategies/schema.json", "_data/notebooks/x.ipynb"]
    entries = [*digest.NUMERIC, *digest.VIEWS]
    assert [e for e in entries if not any(f == e or f.startswith(f"{e}/") for f in known)] == []
    assert len(set(entries)) == len(entries)


COMPUTES = (
    "primitives/native.cc",
    "primitives/kernels.py",
    "models/keras2/operations.py",
    "models/keras2/operations.py",
    "digest.py",
    "graph/passes/simplify.py",
    "evaluation/__init__.py",
    "qat/layers.py",
    "execution/run_api.py",
    "search/engine.py",
)
SHOWS = (
    "plots/style.py",
    "widgets/explorer.py",
    "comparison/static/page.css",
    "cli/runs.py",
    "comparison/leaderboard.py",
    "comparison/static/document.js",
    "strategy/explain.py",
)


@pytest.mark.parametrize("part", COMPUTES)
def test_what_computes_is_numeric(part: str) -> None:
    assert part in NUMERIC


@pytest.mark.parametrize("part", SHOWS)
def test_what_shows_is_not(part: str) -> None:
    assert part in VIEWS


def test_one_byte_in_a_numeric_file_is_another_digest_and_in_a_view_the_same(tmp_path: Path) -> None:
    package = tmp_path / "vqkit"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PACKAGE.parent / "strategies", tmp_path / "strategies")
    before = digest.sources(package)
    assert before == digest.sources(PACKAGE)
    for name in VIEWS:
        (package / name).write_bytes((package / name).read_bytes() + b"\n")
    (tmp_path / "docs").mkdir()
    assert digest.sources(package) == before
    seen = {digest.of_json(before)}
    for name in NUMERIC:
        whole = (package / name).read_bytes()
        (package / name).write_bytes(whole + b"\n")
        # Only this file is read again, or the test would read 200 files 200 times.
        seen.add(digest.of_json({**before, name: digest.of_file(package / name)}))
    assert len(seen) == len(NUMERIC) + 1
    after = digest.sources(package)
    assert [n for n in before if before[n] == after[n]] == [f"_data/strategies/{n}.json" for n in sorted(NAMES)]
    (tmp_path / "strategies" / "fs.json").write_text("{}")
    (package / "quantization" / "unheard_of.py").write_text("")
    (package / "unheard_of").mkdir()
    (package / "unheard_of" / "x.py").write_text("")
    now = digest.sources(package)
    assert {n for n in now if now[n] != after.get(n)} == {
        "_data/strategies/fs.json",
        "quantization/unheard_of.py",
        "unheard_of/x.py",
    }


def test_the_key_and_every_cache_hold_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tests.test_files import filled
    from vqkit.bench import cache

    filled(tmp_path)
    key, kept = code_digest("notebook"), {p for p in tmp_path.rglob("*") if p.is_file()}
    monkeypatch.setattr(digest, "code_digest", lambda: "other code")
    cache.here.cache_clear()
    try:
        assert code_digest("notebook") != key
        filled(tmp_path)
    finally:
        cache.here.cache_clear()
    added = [p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*") if p.is_file() and p not in kept]
    again = [p.relative_to(tmp_path).parts[0] for p in kept]
    assert sorted(added) == sorted(again)
