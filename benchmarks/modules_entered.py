"""How many modules one `vqkit run` enters: what a person reads who follows a variant through its processes.

    python benchmarks/modules_entered.py [--json] [--tree FOLDER] [OVERRIDE ...]

Runs `vqkit run quickstart weight_bit=4` of the checkout in FOLDER (this one by default; PYTHONPATH goes before)
and counts, in the process that is asked and in the notebook's kernel: modules of vqkit in which a function is
called, these functions, pairs (module, module that it calls), calls between modules, plans resolved, and
strategy documents checked. What an import calls does not count. Only the last two go by names: functions
`resolve` of a file planner.py, and `document` of validation.py (form_errors.py once). Prints one table; with
--json, one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ASIDE = "VQKIT_MODULES_ENTERED"
# Python runs this file first in every process that is started with it on the path.
WATCH = '''
import atexit, json, os, sys
_package, _out = os.environ["VQKIT_MODULES_ENTERED"].split(os.pathsep)
_kernel = "ipykernel_launcher" in sys.orig_argv
_worker = any(a.startswith("vqkit.") and "worker" in a for a in sys.orig_argv)
_arrows, _functions, _seen, _importing = {}, {}, {}, [0]

def _place(code):
    """(module, whether it is a function), None outside vqkit."""
    found = _seen.get(code)
    if found is None:
        name = code.co_filename
        inside = name.startswith(_package + os.sep)
        module = name[len(_package) + 1:-3].replace(os.sep, ".").removesuffix(".__init__") if inside else ""
        found = _seen[code] = (module, bool(code.co_flags & 1)) if inside else (None, False)
    return found

def _of_import(code):
    return code.co_filename.startswith("<frozen importlib")

def _watch(frame, event, _):
    if event not in ("call", "return"):
        return
    code = frame.f_code
    module, function = _place(code)
    if module is None:
        if event == "return" and code.co_name == "<module>" and "ipykernel_" in code.co_filename:
            _write()
        return
    back = frame.f_back
    if not function or (back and _of_import(back.f_code)):
        _importing[0] += 1 if event == "call" else -1
    elif event == "call" and not _importing[0]:
        name = (module, code.co_qualname)
        _functions[name] = _functions.get(name, 0) + 1
        caller = _place(back.f_code)[0] if back else None
        if caller is not None and caller != module:
            _arrows[caller, module] = _arrows.get((caller, module), 0) + 1

def _write():
    found = {"functions": [[*k, n] for k, n in _functions.items()], "arrows": [[*k, n] for k, n in _arrows.items()]}
    part = f"{_out}/{'kernel' if _kernel else 'asked'}-{os.getpid()}.json"
    with open(part + "~", "w") as f:
        json.dump(found, f)
    os.replace(part + "~", part)

if not _worker and (_kernel or "from vqkit.cli import main" in " ".join(sys.orig_argv)):
    if not _kernel:
        atexit.register(_write)
    sys.setprofile(_watch)
'''


def watched(tree: Path, overrides: list[str]) -> dict[str, list[dict[str, Any]]]:
    """What each process of one run called.

    Args:
        tree: folder in which the package vqkit lies.
        overrides: `KEY=VALUE`, as `vqkit run` takes them.

    Returns:
        "asked" and "kernel" -> for each such process its functions and arrows, with the number of calls.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text(WATCH, "utf-8")
        code = "import sys; from vqkit.cli import main; main()"
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([folder, str(tree)]),
            ASIDE: os.pathsep.join([str(tree / "vqkit"), folder]),
        }
        asked = ["run", "quickstart", *overrides, "--no-track", "--runs", f"{folder}/runs"]
        subprocess.run([sys.executable, "-c", code, *asked], env=env, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        found: dict[str, list[dict[str, Any]]] = {}
        for path in sorted(Path(folder).glob("*-*.json")):
            found.setdefault(path.name.split("-")[0], []).append(json.loads(path.read_text("utf-8")))
    return found


def counted(processes: list[dict[str, Any]]) -> dict[str, int]:
    """The figures of all processes of one kind together."""
    functions = [f for p in processes for f in p["functions"]]
    arrows = [a for p in processes for a in p["arrows"]]

    def calls(name: str, *files: str) -> int:
        return sum(n for m, f, n in functions if f == name and m.split(".")[-1] in files)

    return {
        "modules": len({m for m, _, _ in functions}),
        "functions": len({(m, f) for m, f, _ in functions}),
        "arrows": len({(a, b) for a, b, _ in arrows}),
        "calls between modules": sum(n for _, _, n in arrows),
        "plans resolved": calls("resolve", "planner"),
        "strategies checked": calls("document", "validation", "form_errors"),
    }


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", default=["weight_bit=4"], help="KEY=VALUE, as for vqkit run")
    tree = Path(os.environ.get("PYTHONPATH", "").split(os.pathsep)[0] or ROOT)
    parser.add_argument("--tree", type=Path, default=tree, help="folder in which the package vqkit lies")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--names", action="store_true", help="list modules of the kernel, and who calls whom")
    args = parser.parse_args()
    found = watched(args.tree.resolve(), args.overrides)
    figures = {kind: counted(processes) for kind, processes in found.items()}
    print(f"{'':24}" + "".join(f"{kind:>10}" for kind in figures))
    for name in figures["kernel"]:
        print(f"{name:24}" + "".join(f"{f[name]:10}" for f in figures.values()))
    if args.names:
        for module in sorted({m for p in found["kernel"] for m, _, _ in p["functions"]}):
            print(module, sum(n for p in found["kernel"] for m, _, n in p["functions"] if m == module))
        arrows = sorted((n, a, b) for p in found["kernel"] for a, b, n in p["arrows"])
        print(*(f"{n:8} {a} -> {b}" for n, a, b in reversed(arrows)), sep="\n")
    if args.json:
        print(json.dumps({"tree": str(args.tree), "overrides": args.overrides, **figures}))


if __name__ == "__main__":
    main()
