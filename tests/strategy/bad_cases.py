"""Malformed strategies: each file in bad/ edits a built-in and holds the message a person must see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vqkit.strategy import Strategy, document

FOLDER = Path(__file__).parent / "bad"
FILES = sorted(FOLDER.glob("*.json"))


def read(path: Path) -> dict[str, Any]:
    """One case: base, edits, message (a list of lines)."""
    case: dict[str, Any] = json.loads(path.read_text())
    return case


def apply(case: dict[str, Any]) -> dict[str, Any]:
    """The malformed document."""
    doc = Strategy.builtin(case["base"]).dump()
    for edit in case["edits"]:
        *parents, last = document.split(edit["at"])
        container = document.get(doc, parents)
        if edit.get("drop"):
            del container[last]
        else:
            container[int(last) if isinstance(container, list) else last] = edit["put"]
    return doc
