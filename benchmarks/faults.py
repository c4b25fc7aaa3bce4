"""It holds: arbitrary input to every entry point, and faults done to running sweeps, counted.

    python benchmarks/faults.py [--json] [--only NAME ...] [--inputs N] [--times N] [--write]

inputs   N inputs for each entry point, from a seeded source: how many were refused with an error of vqkit's
         own, how many accepted, and how many ended in anything else, which must be none. Memory is the peak
         of the entry point's own process, above what it has when it begins.
atheris  the same for strategy and sweep files, guided by coverage (extra `fuzz`; skipped where it is absent)
state    each file of a folder of runs, of a real small sweep, spoiled in `--ways` ways before each use of the folder;
         files made to do harm, given to their loaders; each field of a run's record, changed
faults   each fault N times, at other moments; afterwards a machine checks that nothing was lost, doubled or
         falsified, and that the next command repairs

Prints three tables; with --json, one JSON object as the last line; --write writes docs/faults.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tests.system.robustness import spoiled, tampering  # noqa: E402
from tests.system.robustness.faults import FAULTS, can_fill_a_disk  # noqa: E402
from tests.system.robustness.inputs import TARGETS  # noqa: E402

Row = dict[str, Any]
PAGE = ROOT / "docs" / "faults.md"
ATHERIS, SPOILED, TAMPERED, HOSTILE = "atheris", "spoiled", "tampered", "hostile"
STATE = (HOSTILE, TAMPERED, SPOILED)
MOST_MB = 300
# A new database and each closed door cost time, not insight.
FEWER = {"tracking_uri": 5, "cli_arguments": 2, "model_file": 2}


def fuzz(entry: str, inputs: int) -> Row:
    """Try one entry point in this process."""
    target, seen, odd = TARGETS[entry], Counter[str](), []
    for seed in range(20):
        # What is imported and compiled once is not the input's doing.
        with contextlib.suppress(Exception):
            target(random.Random(seed))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    for seed in range(inputs):
        try:
            seen["accepted" if target(random.Random(seed)) else "refused"] += 1
        except Exception:
            seen["else"] += 1
            odd.append(f"seed {seed}: {traceback.format_exc(limit=-3)}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "entry": entry,
        "tried": inputs,
        "refused": seen["refused"],
        "accepted": seen["accepted"],
        "else": seen["else"],
        "seconds": round(time.perf_counter() - began, 1),
        "peak_mb": peak // 1024,
        "odd": odd[:5],
    }


def guided(entry: str, runs: int) -> Row:
    """Let atheris look for inputs that reach new code; it ends the process itself."""
    if find_spec(ATHERIS) is None:
        return {"entry": f"{entry} ({ATHERIS})", "skipped": f"{ATHERIS} is not installed"}
    code = (
        "import atheris, resource, sys\n"
        "parts = ['vqkit.strategy', 'vqkit.sweeps.spec', 'vqkit.sweeps.spec']\n"
        "with atheris.instrument_imports(include=parts):\n"
        "    from tests.system.robustness import targets\n"
        "seen = {True: 0, False: 0}\n"
        "def one(data):\n"
        f"    seen[targets.{entry}(data)] += 1\n"
        f"    if sum(seen.values()) == {runs}:\n"
        "        peak = resource.getrusage(0).ru_maxrss // 1024\n"
        "        print('SEEN', seen[True], seen[False], peak, flush=True)\n"
        f"atheris.Setup([sys.argv[0], '-runs={runs}', '-max_len=65536', '-seed=1', sys.argv[1]], one)\n"
        "atheris.Fuzz()\n"
    )
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as corpus:
        import yaml

        from tests.system.robustness import targets

        base = json.dumps(targets.BASES[0]) if entry == "strategy_file" else yaml.safe_dump(targets.SWEEP)
        Path(corpus, "base").write_text(base)
        done = subprocess.run(
            [sys.executable, "-c", code, corpus],
            cwd=corpus,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    told = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("SEEN")]
    accepted, refused, peak = map(int, told[0]) if told else (0, 0, 0)
    return {
        "entry": f"{entry} ({ATHERIS})",
        "tried": runs,
        "refused": refused,
        "accepted": accepted,
        "else": int(done.returncode != 0),
        "seconds": round(time.perf_counter() - began, 1),
        "peak_mb": peak,
        "odd": [] if done.returncode == 0 else [done.stderr[-2000:]],
    }


def hurt(name: str, times: int) -> Row:
    """Do one fault several times."""
    if name == "disk_full" and not can_fill_a_disk():
        return {"fault": name, "skipped": "this user may not mount a disk in a name space of his own"}
    began, survived, odd, told = time.perf_counter(), 0, [], ""
    for turn in range(times):
        with tempfile.TemporaryDirectory(prefix="vqkit-fault-") as folder:
            try:
                told = FAULTS[name](Path(folder, "x"), turn)
                survived += 1
            except Exception:
                odd.append(f"turn {turn}: {traceback.format_exc(limit=-3)[-3000:]}")
    return {
        "fault": name,
        "what": (FAULTS[name].__doc__ or "").strip().splitlines()[0],
        "injected": times,
        "survived": survived,
        "then": told,
        "seconds": round(time.perf_counter() - began),
        "odd": odd,
    }


def state(wanted: list[str], ways: int) -> list[Row]:
    """Spoiled and tampered folders of runs, and files made to do harm."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="vqkit-state-") as place:
        if HOSTILE in wanted:
            rows.append(_hostile(Path(place, HOSTILE)))
        if {SPOILED, TAMPERED} & {*wanted}:
            folder = spoiled.made(Path(place).resolve())
            if TAMPERED in wanted:
                rows.append(tampering.counted(folder.kept / "variants" / folder.a))
            if SPOILED in wanted:
                rows += spoiled.counted(folder, ways=ways)
    return rows


def _hostile(place: Path) -> Row:
    """Each file that `tests.system.robustness.hostile` makes, in its process."""
    place.mkdir()
    command = [sys.executable, "-m", "tests.system.robustness.hostile", str(place)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    tried = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    odd = [t for t in tried if t[2] not in ("ModelError", "DataError") or t[1] not in t[3] or t[4] > MOST_MB]
    what = f"file of at most 1 MB made to do harm, refused with its reason, at most {MOST_MB} MB taken"
    return {
        "what": what,
        "tried": len(tried),
        "told": len(tried) - len(odd),
        "recomputed": 0,
        "bad": len(odd),
        "odd": odd,
    }


def apart(entry: str, inputs: int) -> Row:
    """`fuzz` in a process of its own: its memory is its own, and a crash is seen."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", entry, "--inputs", str(inputs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))
    return {
        "entry": entry,
        "tried": inputs,
        "else": 1,
        "odd": [f"exit code {done.returncode}: {done.stderr[-2000:]}"],
    }


def table(rows: list[Row], columns: tuple[str, ...]) -> str:
    """Rows as a Markdown table; what was skipped says why."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [str(row.get(c, "")) for c in columns]
        if "skipped" in row:
            cells[1] = f"skipped: {row['skipped']}"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(result: dict[str, list[Row]]) -> str:
    """The tables as docs/faults.md."""
    from vqkit import __version__

    inputs, faults, states = result["inputs"], result["faults"], result["state"]
    sums = [sum(r[k] for r in states) for k in STATE_COLUMNS[1:]]
    told = " ".join(sys.argv[1:])
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    tried, other = sum(r.get("tried", 0) for r in inputs), sum(r.get("else", 0) for r in inputs)
    injected, survived = (sum(r.get(k, 0) for r in faults) for k in ("injected", "survived"))
    return f"""# What it withstands

Written by `python benchmarks/faults.py {told}` on {date.today()}, vqkit {__version__}, {machine}.
The tests do the same with fewer inputs and each fault once.

## Any input

{tried} inputs, {other} of which ended in anything but acceptance or an error of vqkit's own with a message.
Each entry point runs in a process of its own; `peak_mb` is what its memory grew by at most, for atheris that
of the whole process.

{table(inputs, INPUTS)}

## Files

{sums[0]} spoiled, tampered or hostile files tried: {sums[1]} told in a sentence that names the file, {sums[2]}
recomputed, not needed or harmless, {sums[3]} bad. Spoiled are the files of a real sweep of three variants, one of which
fails, and its caches: cut short, a bit changed, empty, zeros, garbage, of another content, of another type, a number, a
folder, a link to nowhere, a link to itself, a pipe. What a use of the folder says is compared with what it says of the
whole one.

{table(states, STATE_COLUMNS)}

## Faults

{injected} faults injected, {survived} survived. Survived means that a machine checked, right after the fault
and again after the next command: every record can be read; every FINISHED run, on disk and in mlflow, has all
its files and the numbers of its record; no variant has run to its end twice; no run stands twice in the store
or in another experiment than its own; no process is left over; and the next command made the sweep whole.

{table(faults, FAULT_COLUMNS)}
"""


STATE_COLUMNS = ("what", "tried", "told", "recomputed", "bad")
INPUTS = ("entry", "tried", "refused", "accepted", "else", "seconds", "peak_mb")
FAULT_COLUMNS = ("fault", "injected", "survived", "what", "then", "seconds")


def main() -> int:
    """Run what was asked for; 1 when something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", nargs="+", choices=[*TARGETS, *STATE, *FAULTS, ATHERIS], metavar="NAME")
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--ways", type=int, default=3, help="of spoiling each file")
    parser.add_argument("--one", choices=TARGETS, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.one:
        print(json.dumps(fuzz(told.one, told.inputs)))
        return 0
    wanted = told.only or [*TARGETS, ATHERIS, *STATE, *FAULTS]
    result: dict[str, list[Row]] = {"inputs": [], "state": [], "faults": []}
    for entry in (t for t in TARGETS if t in wanted):
        result["inputs"].append(apart(entry, max(20, told.inputs // FEWER.get(entry, 1))))
        print(result["inputs"][-1], file=sys.stderr, flush=True)
    if ATHERIS in wanted:
        result["inputs"] += [guided(entry, 5 * told.inputs) for entry in ("strategy_file", "sweep_file")]
    result["state"] = state(wanted, told.ways)
    for name in (f for f in FAULTS if f in wanted):
        result["faults"].append(hurt(name, told.times))
        print(result["faults"][-1], file=sys.stderr, flush=True)
    print(table(result["inputs"], INPUTS), "\n")
    print(table(result["state"], STATE_COLUMNS), "\n")
    print(table(result["faults"], FAULT_COLUMNS[:3] + FAULT_COLUMNS[4:]))
    if told.write:
        PAGE.write_text(page(result), "utf-8")
    if told.json:
        print(json.dumps(result))
    sound = all(r.get("else", 0) == 0 for r in result["inputs"])
    sound &= all(r["bad"] == 0 for r in result["state"])
    return int(not sound or any(r.get("survived") != r.get("injected") for r in result["faults"]))


if __name__ == "__main__":
    sys.exit(main())
