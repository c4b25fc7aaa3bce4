"""Faults planted into small trained nets, and whether `vqkit.diagnose` names the true cause first.

    python benchmarks/diagnose.py [--set first|second] [--only NAME ...] [--json]

The rules of the diagnosis were written before the faults; the second set (other nets, layers and seeds) was scored
once, when they were finished. A fault counts as found where the first cause is of the planted kind and, unless it
lies in the samples, in a tensor of the planted layer. Prints one row for each fault; with --json, one JSON object
as the last line. Needs nothing but what the package brings: the nets are trained here, in seconds each.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.diagnose_parts.faults import FIRST, SECOND, Fault  # noqa: E402
from benchmarks.diagnose_parts.nets import case_of  # noqa: E402


@dataclass(frozen=True)
class Line:
    """One fault: what was planted, what was named first, and whether that is it."""

    name: str
    planted: str
    named: str
    found: bool
    before: float
    after: float
    float_value: float
    seconds: float


def line(fault: Fault, say: Callable[[str], None]) -> Line:
    """Plant one fault and diagnose it."""
    import vqkit

    case = fault.plant(case_of(fault.net))
    began = time.perf_counter()
    found = vqkit.diagnose(case.model, case.data, case.strategy)
    say(f"\n== {fault.name}\n{found}")
    cause = found.cause
    named = "nothing" if cause is None else " ".join(w for w in (cause.kind.value, cause.tensor) if w)
    planted = " or ".join(fault.kinds) + (f" in {' or '.join(fault.layers)}" if fault.layers else "")
    values = found.before.value, found.after.value, found.reference.value
    return Line(fault.name, planted, named, fault.is_found(cause), *values, time.perf_counter() - began)


def main(argv: list[str] | None = None) -> None:
    """Run the faults and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=("first", "second"), default="first")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--details", action="store_true", help="print each diagnosis on stderr")
    args = parser.parse_args(argv)
    faults = [f for f in (FIRST if args.set == "first" else SECOND) if not args.only or f.name in args.only]

    def say(text: str) -> None:
        if args.details:
            print(text, file=sys.stderr, flush=True)

    lines = []
    for fault in faults:
        lines.append(line(fault, say))
        print(_row(lines[-1]), file=sys.stderr, flush=True)
    head = (
        "| fault | planted | named first | found | float | before | after | s |\n|---|---|---|---|---:|---:|---:|---:|"
    )
    print("\n".join([head, *map(_row, lines)]))
    print(f"\n{sum(x.found for x in lines)} of {len(lines)} found")
    if args.json:
        print(json.dumps({"set": args.set, "faults": [asdict(x) for x in lines]}))


def _row(x: Line) -> str:
    numbers = " | ".join(f"{v:.4g}" for v in (x.float_value, x.before, x.after))
    return f"| {x.name} | {x.planted} | {x.named} | {'yes' if x.found else 'no'} | {numbers} | {x.seconds:.0f} |"


if __name__ == "__main__":
    main()
