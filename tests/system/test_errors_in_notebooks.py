"""What a notebook shows of an error of ours: the message; the rest on request."""

from __future__ import annotations

from typing import Any

import pytest

from vqkit.errors import TRACEBACKS

CELL = """
from vqkit.errors import StrategyError, not_allowed

def deep(n):
    if n:
        return deep(n - 1)
    raise StrategyError(not_allowed("look", "stm", ["stem", "head"], what="layer"))

deep(5)
"""


@pytest.fixture(scope="module")
def shell() -> Any:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.colors = "nocolor"
    return shell


def said(shell: Any, code: str, capsys: Any) -> str:
    shell.run_cell(code)
    return str(capsys.readouterr().out)


def test_a_message_with_its_line_and_the_traceback_on_request(shell: Any, capsys: Any) -> None:
    first = said(shell, CELL, capsys)
    message = "StrategyError: look: layer 'stm' is not allowed (did you mean 'stem'?). Allowed: stem, head"
    assert first.splitlines()[0] == message
    assert "Line 8 of the cell" in first
    assert "%tb" in first
    assert "deep(n - 1)" not in first
    whole = said(shell, "%tb", capsys)
    assert "deep(n - 1)" in whole
    assert message in whole


def test_records_and_other_errors_keep_whole_tracebacks(
    shell: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Traceback" in said(shell, "def f():\n    return 1 / 0\nf()", capsys)
    monkeypatch.setenv(TRACEBACKS, "full")
    assert "deep(n - 1)" in said(shell, CELL, capsys)
