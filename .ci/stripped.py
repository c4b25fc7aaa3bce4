"""Fail when a notebook in git carries outputs, counts or another kernel: they make diffs unreadable."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def faults(notebook: dict[str, Any]) -> list[str]:
    """Say what would have to be stripped from a parsed notebook; empty when clean."""
    found = []
    for number, cell in enumerate(notebook["cells"]):
        if cell.get("outputs"):
            found.append(f"cell {number} has outputs")
        if cell.get("execution_count") is not None:
            found.append(f"cell {number} has an execution count")
    if notebook["metadata"].get("kernelspec", KERNEL)["name"] != KERNEL["name"]:
        found.append("kernelspec is not python3")
    return found


def main(paths: list[str]) -> int:
    """Print the faults of each notebook; 1 when there are any."""
    found = [f"{path}: {fault}" for path in paths for fault in faults(json.loads(Path(path).read_text("utf-8")))]
    print("\n".join(found) or f"{len(paths)} notebooks are stripped")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
