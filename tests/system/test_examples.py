"""The examples in the docstrings of public names run, and give what they say."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import pytest

import vqkit

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# run_api is a module: what the run notebook calls in its order.
NAMES = [n for n in vqkit.__all__ if n not in ("__version__", "VqkitError", "run_api")]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_public_name_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = getattr(vqkit, name)
    found = found.files.export if inspect.ismodule(found) else inspect.unwrap(found)
    text = inspect.getdoc(found) or ""
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert test.examples, f"vqkit.{name} has no example"
    said: list[str] = []
    failed = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append).failed
    assert not failed, "".join(said)
