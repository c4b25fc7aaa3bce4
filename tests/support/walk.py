"""Runs what a page of the documents shows, in its order and in one process: commands and Python blocks.

`python -m tests.support.walk` reads a JSON list of [kind, what], works through it in the current folder,
and prints a
JSON list of [exit code, what was printed]. Kind "vqkit" is a command line, as a list of words; "python" is a
block, with the names of the blocks before it. One process, because TensorFlow need be imported only once.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback
from typing import Any

from vqkit import cli


def command(words: list[str]) -> int:
    """What `main` would say to the shell."""
    sys.argv = words
    try:
        cli.main()
    except SystemExit as e:
        return int(e.code or 0)
    return 0


def block(code: str, names: dict[str, Any]) -> int:
    """0 when the block runs to its end."""
    try:
        exec(compile(code, "<block>", "exec"), names)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Work through stdin."""
    names: dict[str, Any] = {"__name__": "__main__"}
    done = []
    for kind, what in json.load(sys.stdin):
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            code = command(what) if kind == "vqkit" else block(what, names)
        done.append([code, told.getvalue()])
    print(json.dumps(done))


if __name__ == "__main__":
    main()
