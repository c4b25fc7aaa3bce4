"""Models as strangers bring them, each taken through every step that a user takes.

    python benchmarks/strangers.py [--only NAME ...] [--kind state|input|network|file] [--fresh] [--json]
                                   [--write]

load, plan, quantize under `pof2s` and `fsx`, the float graph against the model itself, 16 bits (which must
give nearly the float outputs), save, load in a fresh process, ONNX and TFLite with a cross-check in their
runtimes. Each cell is right (with its figure), refused (by one of vqkit's errors, whose sentence is shown),
or wrong: other numbers, or an error that is not vqkit's own. Exit code 1 if anything is wrong. Results are
kept in `runs/strangers.json`, so that the work can be done in slices; --fresh measures again. With --json,
the last line is one JSON object; --write writes `docs/strangers.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.strangers_parts.judge import STEPS, Cell, Line, judge, load_fresh, table  # noqa: E402
from benchmarks.strangers_parts.models import strangers  # noqa: E402

RESULTS = ROOT / "runs" / "strangers.json"
PAGE = ROOT / "docs" / "strangers.md"
AT_ONCE = 12
_CONFIG = re.compile(r"(?<=\.) config=\{.*\}\.(?= Exception)| Full object config: .*$")
"""What Keras repeats of a file, with addresses that change from run to run."""
_ENDED = {"verdict": "wrong", "words": "its process ended"}


def measure(names: list[str]) -> list[Line]:
    """The lines of some strangers, in this process."""
    chosen = [s for s in strangers() if s.name in names]
    with tempfile.TemporaryDirectory() as folder:
        folders = {s.name: Path(folder) / s.name for s in chosen}
        lines = []
        for one in chosen:
            folders[one.name].mkdir()
            lines.append(judge(one, folders[one.name]))
            print(*table(lines[-1:]), sep="\n", flush=True)
        load_fresh(lines, folders)
    return lines


def in_slices(names: list[str], kept: dict[str, Line]) -> None:
    """Measure in processes of their own, a dozen strangers each, and keep what each gave."""
    for begin in range(0, len(names), AT_ONCE):
        some = names[begin : begin + AT_ONCE]
        done = subprocess.run(
            [sys.executable, __file__, "--here", *some], stdout=subprocess.PIPE, text=True, check=False
        )
        last = (done.stdout.strip().splitlines() or [""])[-1]
        found = json.loads(last) if last.startswith("[") else []
        kept.update({d["name"]: line_of(d) for d in found})
        for name in some:
            kept.setdefault(name, line_of({"name": name, "kind": "", "cells": {"load": _ENDED}}))
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps([asdict(v) for v in kept.values()], indent=1), "utf-8")
        print(f"{begin + len(some)} of {len(names)}", file=sys.stderr, flush=True)


def line_of(found: dict[str, Any]) -> Line:
    """A line as JSON keeps it."""
    cells = {s: Cell(**found["cells"].get(s, {"verdict": ""})) for s in STEPS}
    return Line(found["name"], found["kind"], cells, found.get("difference"), found.get("own_code", False))


def summary(lines: list[Line]) -> dict[str, Any]:
    """All answers and their counts."""
    verdicts = Counter(c.verdict for line in lines for c in line.cells.values() if c.verdict)
    differences = [line.difference for line in lines if line.difference is not None]
    return {
        "strangers": len(lines),
        **{v: verdicts[v] for v in ("right", "refused", "wrong")},
        "raw_errors": sum(c.words.startswith("raw ") for line in lines for c in line.cells.values()),
        "largest_float_difference": max(differences, default=0.0),
        "lines": [asdict(line) for line in lines],
    }


def page(lines: list[Line]) -> str:
    """`docs/strangers.md`."""
    found = summary(lines)
    head = ("model", *STEPS)
    rows = [head, ("---",) * len(head), *((v.name, *(_cell(v.cells[s]) for s in STEPS)) for v in lines)]
    sentences: dict[str, list[str]] = {}
    for line in lines:
        for step, cell in line.cells.items():
            if cell.verdict in ("refused", "wrong"):
                words = _CONFIG.sub("", cell.words)
                sentences.setdefault(f"{cell.verdict}: {words}", []).append(f"{line.name} ({step})")
    said = "\n".join(f"- {', '.join(where)}: {what}" for what, where in sentences.items())
    return f"""# Models as strangers bring them

{found["strangers"]} models through {len(STEPS)} steps: {found["right"]} answers right,
{found["refused"]} refused with a sentence, {found["wrong"]} wrong. Written by
`python benchmarks/strangers.py --write`. Figures: rows of the plan; the largest difference of the float graph
from the model itself, relative to the largest output; signal to noise of the outputs in dB; kB of the saved
file; the largest difference of the outputs in the runtime, in units of the last bit.

{chr(10).join(f"| {' | '.join(r)} |" for r in rows)}

What was refused, and how:

{said}
"""


def _cell(cell: Cell) -> str:
    return cell.words if cell.verdict == "right" else f"*{cell.verdict or '–'}*"


def main() -> int:
    """Measure what is missing, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these strangers (default: all)")
    parser.add_argument("--kind", choices=sorted({s.kind for s in strangers()}))
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured before")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--write", action="store_true", help="write docs/strangers.md")
    parser.add_argument("--here", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        print(json.dumps([asdict(line) for line in measure(args.here)]))
        return 0
    names = [s.name for s in strangers() if args.kind in (None, s.kind)]
    unknown = sorted(set(args.only or ()) - set(names))
    if unknown:
        parser.error(f"--only: {unknown[0]!r} is none of {', '.join(names)}")
    names = [n for n in names if not args.only or n in args.only]
    kept = {d["name"]: line_of(d) for d in json.loads(RESULTS.read_text("utf-8"))} if RESULTS.is_file() else {}
    in_slices([n for n in names if args.fresh or n not in kept], kept)
    lines = [kept[n] for n in names]
    print(*table(lines), sep="\n")
    found = summary(lines)
    counts = ", ".join(f"{found[v]} {v}" for v in ("right", "refused", "wrong"))
    print(f"{found['strangers']} strangers: {counts}, {found['raw_errors']} raw errors")
    print(f"largest difference of a float graph from the model: {found['largest_float_difference']:.1e}")
    if args.write:
        PAGE.write_text(page(lines), "utf-8")
    if args.json:
        print(json.dumps(found))
    return int(found["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
