"""Compare vqkit with recorded results of the reference quantizer.

    python benchmarks/golden.py DIR [--json] [--part NAME ...]

DIR is any directory laid out like the golden data (its README describes the files); what it holds is checked,
what it lacks is skipped. Prints checked / exact / listed exceptions / mismatches for each part, and a line
for each recorded run of a whole model; with --json one JSON object is the last line. Exit code: 0 no
mismatch, 1 mismatches, 2 nothing to check.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.golden_parts import PartResult  # noqa: E402

PARTS = ("ops", "hist", "misc", "strategy", "models")
FILES = {"strategy": "strategy/*.json", "models": "model_*.json"}
SHOWN = 20


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; see the module's head."""
    options = _parser().parse_args(arguments)
    if not options.directory.is_dir():
        print(f"{options.directory}: no such directory", file=sys.stderr)
        return 2
    results = [r for name in options.part or PARTS if (r := _run(name, options.directory)) is not None]
    if options.json:
        print(json.dumps(_summary(options.directory, results)))
    if not results:
        print(f"{options.directory}: nothing to check; it holds none of {', '.join(PARTS)}", file=sys.stderr)
        return 2
    return 1 if any(r.mismatches for r in results) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("directory", type=Path, metavar="DIR", help="laid out like the golden data")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; may be repeated")
    return parser


def _run(name: str, directory: Path) -> PartResult | None:
    """One part's result, printed; None where its module or its files are absent."""
    module = f"benchmarks.golden_parts.{name}"
    if not any(directory.glob(FILES.get(name, f"{name}.json"))) or importlib.util.find_spec(module) is None:
        return None
    start = time.perf_counter()
    result: PartResult | None = importlib.import_module(module).check(directory)
    if result is not None:
        _print(result, time.perf_counter() - start)
    return result


def _print(result: PartResult, seconds: float) -> None:
    print(
        f"{result.name:10s} checked {result.checked:6d}   exact {result.exact:6d}   listed exceptions "
        f"{len(result.exceptions):4d}   mismatches {len(result.mismatches):4d}   {seconds:6.1f} s"
    )
    for line in result.lines:
        print(f"  {line}")
    for line in result.exceptions[:SHOWN]:
        print(f"  exception: {line}")
    if len(result.exceptions) > SHOWN:
        print(f"  … and {len(result.exceptions) - SHOWN} more exceptions; --json lists them")
    for line in result.mismatches:
        print(f"  MISMATCH: {line}")
    sys.stdout.flush()


def _summary(directory: Path, results: list[PartResult]) -> dict[str, Any]:
    parts = {
        r.name: {
            "checked": r.checked,
            "exact": r.exact,
            "exceptions": list(r.exceptions),
            "mismatches": list(r.mismatches),
            "runs": list(r.lines),
        }
        for r in results
    }
    totals = {key: sum(getattr(r, key) for r in results) for key in ("checked", "exact")}
    counts = {key: sum(len(getattr(r, key)) for r in results) for key in ("exceptions", "mismatches")}
    return {"directory": str(directory), **totals, **counts, "parts": parts}


if __name__ == "__main__":
    sys.exit(main())
