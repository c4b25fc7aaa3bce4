"""The documents as tests read them: their fenced blocks, and the commands of ours in them, in order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
_PARTS = re.compile(r"^```(?P<kind>\w*)\n(?P<body>.*?)^```|(?<!`)`(?P<span>[^`\n]+)`(?!`)", flags=re.S | re.M)


def parts(page: Path) -> list[tuple[str, str]]:
    """(language, body) of each fenced block and ("span", text) of each code span."""
    found = _PARTS.finditer(page.read_text("utf-8"))
    return [("span", m["span"]) if m["span"] is not None else (m["kind"], m["body"]) for m in found]


def fences(page: Path) -> list[tuple[str, str]]:
    """(language, body) of each fenced block."""
    return [(kind, body) for kind, body in parts(page) if kind != "span"]


def lines(kind: str, text: str) -> list[list[str]]:
    """Words of each command of ours in a part; two spaces or a comment end it."""
    if kind not in ("", "bash", "span"):
        return []
    found = [re.split(r"\s{2,}|\s+#", line.strip())[0] for line in text.splitlines()]
    whole = [line for line in found if not re.search(r"…|\.\.\.|COMMAND|--help", line)]
    return [shlex.split(line) for line in whole if re.match(r"(vqkit|python benchmarks/\S+) \S", line)]


def command_lines(page: Path) -> list[list[str]]:
    """Words of each command of ours on a page."""
    return [words for kind, text in parts(page) for words in lines(kind, text)]


def complete(words: list[str]) -> bool:
    """Whether a command of ours could run as it stands; `vqkit run` in a sentence is only its name.

    Raises:
        typer.BadParameter: there is no such command or option.
    """
    import typer

    from vqkit import cli

    name, *rest = words
    command: Any = typer.main.get_command(cli.app)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name, command, rest = rest[0], command.commands[rest[0]], rest[1:]
    try:
        # A letter such as N stands for a number.
        command.make_context(name, ["1" if re.fullmatch("[A-Z]", w) else w for w in rest])
    except typer.BadParameter as error:
        if type(error).__name__ != "MissingParameter":
            raise
        return False
    return True
