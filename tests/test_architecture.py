"""The shape of the package: one order of packages, no circles, sizes, single importers, and what starts at
once."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from tests import house
from tests.house import MODULES, ORDER, ROOT, all_imports, part, top_imports, tree

HEAVY = (
    "tensorflow",
    "keras",
    "mlflow",
    "papermill",
    "matplotlib",
    "pandas",
    "sklearn",
    "IPython",
    "scipy",
    "optuna",
)
LIGHT_MODULES = (
    "vqkit.primitives.spec",
    "vqkit.strategy",
    "vqkit.sweeps.spec",
    "vqkit.runs.store",
    "vqkit.comparison.leaderboard",
    "vqkit.comparison.report",
    "vqkit.cli",
)
SINGLE_IMPORTERS = {
    "papermill": {"vqkit.execution.papermill"},
    "mlflow": {"vqkit.runs.mlflow", "vqkit.runs.registry"},
    "distributed": {"vqkit.execution.dask"},
    "keras.src": {"vqkit.graph.copies", "vqkit.graph.keras_io"},
    "anywidget": {"vqkit.widgets.elements"},
    "ai_edge_litert": {"vqkit.export.tflite.flatbuffer"},
    "onnx": {"vqkit.export.onnx.graph"},
    "onnxruntime": {"vqkit.export.onnx"},
    "optuna": {"vqkit.search.study"},
}
MAX_LINES = 500
MAX_FILES = 13

# What is not as it should be yet. These lists only shrink: an entry that is no longer needed fails, too.
UPWARD: dict[tuple[str, str], str] = {}
"""(module, what it imports from above) -> why."""
PACKAGE_CIRCLES: list[set[str]] = []
FILE_CIRCLES: list[set[str]] = []
UNTYPED_NOUNS = 4
"""Parameters called by a core noun and typed Any."""
SKIPS = 20
"""How many statements are kept from the formatter."""
LAZY = {
    "cli": (81, "a command loads what it needs when it runs: `vqkit --help` answers at once"),
    "comparison": (
        7,
        "leaderboards and reports need neither TensorFlow nor matplotlib until something is drawn",
    ),
    "execution": (20, "the parent of a sweep needs no TensorFlow; the kernel has it"),
    "export": (24, "TensorFlow, Keras or another heavy library stays unloaded until it is needed"),
    "graph": (4, "TensorFlow, Keras or another heavy library stays unloaded until it is needed"),
    "models": (3, "TensorFlow, Keras or another heavy library stays unloaded until it is needed"),
    "quantization": (9, "TensorFlow, Keras or another heavy library stays unloaded until it is needed"),
    "runs": (1, "records are read without mlflow"),
    "search": (22, "an import of the package needs neither TensorFlow nor optuna"),
    "strategy": (1, "a change is explained only when somebody asks"),
    "sweeps": (10, "a sweep file is read and checked without TensorFlow"),
    "vitis": (6, "an old script's import line answers at once"),
    "widgets": (8, "a widget is shown before what it may need is loaded"),
}
"""Package -> (imports of our own inside functions, why they are there). They count for the order like
others."""


def tracked(*patterns: str) -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_every_package_has_its_number() -> None:
    assert {part(name) for name in MODULES} == set(ORDER)
    assert len(set(ORDER)) == len(ORDER)


def test_imports_go_down_only() -> None:
    assert house.upward() == set(UPWARD)


def test_no_packages_import_each_other() -> None:
    assert house.package_circles() == PACKAGE_CIRCLES


def test_no_files_import_each_other() -> None:
    assert house.file_circles() == FILE_CIRCLES


def test_imports_inside_functions_are_few_and_have_a_reason() -> None:
    found: Counter[str] = Counter()
    for name in MODULES:
        inside = {
            node
            for function in ast.walk(tree(name))
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
            for node in ast.walk(function)
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vqkit"
        }
        found[part(name) or ""] += len(inside)
    assert {p: n for p, n in found.items() if n > LAZY.get(p, (0, ""))[0]} == {}


def test_no_private_name_of_another_module() -> None:
    found = []
    for name in MODULES:
        modules = set()
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vqkit":
                for alias in node.names:
                    target = f"{node.module}.{alias.name}"
                    if target in MODULES:
                        modules.add(alias.asname or alias.name)
                    elif alias.name.startswith("_") and not alias.name.startswith("__"):
                        found.append(f"{name}:{node.lineno}: {target}")
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                private = node.attr.startswith("_") and not node.attr.startswith("__")
                if node.value.id in modules and private:
                    found.append(f"{name}:{node.lineno}: {node.value.id}.{node.attr}")
    assert found == []


def test_core_nouns_have_their_types() -> None:
    found = house.untyped_nouns()
    assert len(found) <= UNTYPED_NOUNS, "\n".join(found)


def test_the_formatter_writes_nearly_everything() -> None:
    assert house.skips() <= SKIPS


def test_folders_stay_small() -> None:
    assert {folder: n for folder, n in house.folders().items() if n > MAX_FILES} == {}


def test_files_stay_short() -> None:
    lengths = {p.relative_to(ROOT): len(p.read_text("utf-8").splitlines()) for p in tracked("*.py")}
    assert {str(p): n for p, n in lengths.items() if n > MAX_LINES} == {}


def test_public_names_are_what_they_are_called_after_every_module_was_imported() -> None:
    """A package that is called like a public function would hide it once it is imported."""
    import vqkit

    for module in pkgutil.walk_packages(vqkit.__path__, "vqkit."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for package in ["vqkit", *(n for n in MODULES if n != "vqkit" and house.public_names(n))]:
        here = importlib.import_module(package)
        for name, home in house.public_names(package).items():
            value = getattr(here, name)
            if home == f"{package}.{name}":
                assert value is importlib.import_module(home)
            else:
                assert value is getattr(importlib.import_module(home), name), f"{package}.{name}"
                assert not isinstance(value, ModuleType) or (package, name) == ("vqkit", "run_api"), name
    assert callable(vqkit.export)
    for name in ("quantize", "evaluate", "inspect", "compare", "sensitivity", "watch", "explore"):
        assert callable(getattr(vqkit, name)), name


@pytest.mark.parametrize(("this", "that"), [("strategy", "graph"), ("graph", "strategy")])
def test_strategy_and_graph_do_not_know_each_other(this: str, that: str) -> None:
    wrong = {n for n in MODULES if part(n) == this and that in {part(i) for i in all_imports(n)}}
    assert not wrong


@pytest.mark.parametrize(("library", "importers"), SINGLE_IMPORTERS.items())
def test_single_importers(library: str, importers: set[str]) -> None:
    found = {n for n in MODULES if any(i == library or i.startswith(f"{library}.") for i in all_imports(n))}
    assert found <= importers


@pytest.mark.parametrize("name", LIGHT_MODULES)
def test_light_modules_reach_no_tensorflow(name: str) -> None:
    seen: dict[str, str] = {name: ""}
    queue = [name]
    while queue:
        current = queue.pop()
        for target in top_imports(current) | {current.rpartition(".")[0]} - {""}:
            assert target.split(".")[0] not in ("tensorflow", "keras"), f"{name} → {current} → {target}"
            if target in MODULES and target not in seen:
                seen[target] = current
                queue.append(target)


def python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


LOADED = f"import sys; print('LOADED', *(m for m in {HEAVY} if m in sys.modules))"


def test_importing_vqkit_loads_nothing_heavy() -> None:
    assert python(f"import vqkit; {LOADED}").split("LOADED")[1].split() == []


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['vqkit', '--help']\n"
        "from vqkit.cli import main\n"
        "try: main()\n"
        f"except SystemExit as e: assert not e.code\n{LOADED}"
    )
    out = python(code)
    assert "sweep" in out
    assert out.split("LOADED")[1].split() == []


@pytest.mark.parametrize("name", MODULES)
def test_public_names_exist(name: str) -> None:
    module = importlib.import_module(name)
    declared = getattr(module, "__all__", [])
    assert [n for n in declared if not hasattr(module, n)] == []
    assert len(set(declared)) == len(declared)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_and_public_function_has_a_docstring(name: str) -> None:
    if name == "vqkit._version":
        pytest.skip("one line")
    assert ast.get_docstring(tree(name)), f"{name} says nothing about itself"
    defs = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    silent = [
        n.name
        for n in tree(name).body
        if isinstance(n, defs) and not n.name.startswith("_") and not ast.get_docstring(n)
    ]
    assert silent == []


# The map, docs/architecture.md.
MAP = (ROOT / "docs" / "architecture.md").read_text("utf-8")


def test_the_map_prints_the_order_of_the_packages() -> None:
    rows = re.findall(r"^\| \d+ \| `(\w+)` \|", MAP, flags=re.M)
    assert rows == ["root", *ORDER[1:]]


def test_the_map_names_what_each_package_imports() -> None:
    rows = re.findall(r"^\| \d+ \| `(\w+)` \|[^|]*\|([^|]*)\|", MAP, flags=re.M)
    for name, said in rows:
        mine = "" if name == "root" else name
        found = {part(t) for n, targets in house.edges().items() if part(n) == mine for t in targets}
        wanted = [p for p in ORDER if p in found - {mine, ""}]
        assert re.findall(r"\w+", said) == wanted, name


def test_the_walk_of_the_map_goes_through_files_that_import_each_other() -> None:
    """Each file that the walk and the reading list name is there; each arrow of the walk is an import."""
    reading = MAP.partition("## The first sitting")[2].partition("\n## ")[0]
    files = re.findall(r"`([\w/]+\.py)`", reading)
    assert 10 <= len(files) <= 14
    arrows = re.findall(r"^\| `([\w/]+\.py)` \| `([\w/]+\.py)` \|", MAP, flags=re.M)
    assert len(arrows) > 10
    for caller, called in arrows:
        a, b = (house.module_name(house.PACKAGE / f) for f in (caller, called))
        assert b in house.edges()[a], f"{caller} does not import {called}"
    assert [f for f in files if not (house.PACKAGE / f).is_file()] == []


# Spelled in pieces, so that this file does not find itself.
FORBIDDEN = re.compile(
    "|".join(
        [
            "/" + "work/",
            "/" + "root/",
            "/" + r"home/\w",
            "/" + "Users/",
            r"pypi\." + "org",
            "python" + "hosted",
        ]
    )
)


def test_no_machine_path_and_no_registry_in_tracked_files() -> None:
    found = []
    for path in tracked():
        if path.suffix in (".npz", ".png", ".keras", ".h5", ".pb", ".index"):
            continue
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), start=1):
            if FORBIDDEN.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_notebooks_are_stripped() -> None:
    notebooks = tracked("notebooks/*.ipynb")
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "stripped.py"), *map(str, notebooks)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_pins_name_every_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = {normal(re.split(r"[<>=\[; ]", spec)[0]) for group in groups for spec in group} - {"vqkit"}
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [p for p in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", p)] == []
    assert wanted - {normal(p.split("==")[0]) for p in pins} == set()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
