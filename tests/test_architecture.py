"""The shape of the package: floors, single importers, sizes, and what starts at once."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vqkit"
FLOORS = {
    "errors": 0,
    "digest": 0,
    "files": 0,
    "_lazy": 0,
    "_registered": 0,
    "_version": 0,
    "resources": 0,
    "limits": 0,
    "primitives": 1,
    "strategy": 2,
    "graph": 3,
    "keras2": 3,
    "flow": 4,
    "train": 4.5,
    "experiment": 5,
    "export": 5,
    "vitis": 6,
    "search": 5,
    "widgets": 6,
    "plots": 5,
    "cli": 6,
}
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
    "vqkit.experiment.sweep",
    "vqkit.experiment.store",
    "vqkit.experiment.compare",
    "vqkit.experiment.report",
    "vqkit.cli",
)
SINGLE_IMPORTERS = {
    "papermill": {"vqkit.experiment.notebook"},
    "mlflow": {"vqkit.experiment.track"},
    "distributed": {"vqkit.experiment.cluster"},
    "keras.src": {"vqkit.graph.copies", "vqkit.graph.keras_io"},
    "anywidget": {"vqkit.widgets.front"},
    "ai_edge_litert": {"vqkit.export.litert"},
    "onnx": {"vqkit.export.onnx_builder"},
    "onnxruntime": {"vqkit.export.onnx_runtime"},
    "optuna": {"vqkit.search.study"},
}
MAX_LINES = 400


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(p): p for p in sorted(PACKAGE.rglob("*.py"))}


def tracked(*patterns: str) -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text("utf-8"))


def imports(name: str, nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Dotted names that the nodes import; `from a import b` gives a and a.b."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], base]
                ).rstrip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def all_imports(name: str) -> set[str]:
    return set(imports(name, ast.walk(tree(name))))


def top_imports(name: str) -> set[str]:
    """What importing the module imports: not inside functions, not for type checkers only."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            lazy = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if not lazy and not typing_only:
                yield child
                yield from walk(child)

    return set(imports(name, walk(tree(name))))


def part(dotted: str) -> str | None:
    """The part of vqkit that a dotted name belongs to, e.g. "flow"; None outside vqkit."""
    pieces = dotted.split(".")
    return pieces[1] if pieces[0] == "vqkit" and len(pieces) > 1 else None


def test_every_part_has_a_floor() -> None:
    assert {part(name) for name in MODULES} - {None} <= set(FLOORS)


@pytest.mark.parametrize("name", [n for n in MODULES if part(n)])
def test_imports_go_down_only(name: str) -> None:
    mine = FLOORS[part(name) or ""]
    upward = {i for i in all_imports(name) if FLOORS.get(part(i) or "", -1) > mine}
    assert not upward, f"{name} (floor {mine}) imports from above: {sorted(upward)}"


@pytest.mark.parametrize(("this", "that"), [("strategy", "graph"), ("graph", "strategy")])
def test_strategy_and_graph_do_not_know_each_other(this: str, that: str) -> None:
    wrong = {n for n in MODULES if part(n) == this and that in {part(i) for i in all_imports(n)}}
    assert not wrong


@pytest.mark.parametrize(("library", "importers"), SINGLE_IMPORTERS.items())
def test_single_importers(library: str, importers: set[str]) -> None:
    found = {n for n in MODULES if any(i == library or i.startswith(f"{library}.") for i in all_imports(n))}
    assert found <= importers


@pytest.mark.parametrize("name", [m for m in LIGHT_MODULES if m in MODULES])
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
    if "vqkit.cli" not in MODULES:
        pytest.skip("there is no command line yet")
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


def test_modules_stay_short() -> None:
    sizes = {p.relative_to(ROOT): len(p.read_text("utf-8").splitlines()) for p in tracked("*.py")}
    assert {str(p): n for p, n in sizes.items() if n > MAX_LINES} == {}


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
