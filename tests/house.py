"""The shape of the package in figures: `python -m tests.house`; `tests/test_architecture.py` holds them.

A line of code is a line of a file under vqkit that holds a token, so neither comments and blank lines nor
docstrings. The median is that of lines as they stand in the files.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vqkit"
# The printed list: a package imports from those before it. "" is the root: errors, digest, files and such.
ORDER = (
    "",
    "primitives",
    "runs",
    "strategy",
    "graph",
    "models",
    "quantization",
    "evaluation",
    "bench",
    "targets",
    "qat",
    "export",
    "plots",
    "sweeps",
    "execution",
    "comparison",
    "search",
    "vitis",
    "widgets",
    "examples",
    "cli",
)
# What the next owner must know; the others are entered by their `__init__` and can be left for later.
CORE = (
    "",
    "primitives",
    "runs",
    "strategy",
    "graph",
    "quantization",
    "evaluation",
    "sweeps",
    "execution",
    "comparison",
    "cli",
)
NOUNS = (
    "strategy",
    "plan",
    "data",
    "graph",
    "quantized",
    "model",
    "prepared",
    "calibration",
    "encodings",
    "bench",
    "row",
    "spec",
)
# Figures of commit 5baa646, by this file.
BEFORE: dict[str, object] = {
    "files": 278,
    "largest folder": "52 (vqkit/flow)",
    "largest file": "400 (vqkit/experiment/track.py)",
    "median file": 124,
    "file circles": 5,
    "package circles": 2,
    "Any on core nouns": 181,
    "fmt: skip": 365,
    "lines of code": 25508,
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(p): p for p in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text("utf-8"))


@cache
def public_names(package: str) -> dict[str, str]:
    """Names that a package takes from its modules on first use -> the module."""
    found: dict[str, str] = {}
    for statement in tree(package).body:
        targets = getattr(statement, "targets", [])
        if isinstance(statement, ast.Assign) and getattr(targets[0], "id", "") in ("_WHERE", "_HOME"):
            try:
                table = ast.literal_eval(statement.value)
            except ValueError:
                continue
            for key, value in table.items():
                for name, home in [(key, value)] if isinstance(value, str) else [(n, key) for n in value]:
                    found[name] = f"{package}.{home}" if home else f"{package}.{name}"
    return found


def imports(name: str, nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Dotted names that the nodes import; `from a import b` gives a and a.b, or where a takes b from."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                kept = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*kept, base]).rstrip(".")
            yield base
            for alias in node.names:
                yield f"{base}.{alias.name}"
                if base in MODULES and alias.name in public_names(base):
                    yield public_names(base)[alias.name]


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
    """The package below vqkit that a module is in, "" for modules beside the packages; None outside vqkit."""
    pieces = dotted.split(".")
    if pieces[0] != "vqkit":
        return None
    if len(pieces) == 1:
        return ""
    return pieces[1] if (PACKAGE / pieces[1]).is_dir() else ""


@cache
def edges() -> dict[str, frozenset[str]]:
    """Module -> modules of vqkit that it imports, inside functions too. The root `__init__` is left
    out: it is
    the table of what users call."""
    found = {}
    for name in MODULES:
        if name in ("vqkit", "vqkit._moved"):
            found[name] = frozenset[str]()
            continue
        targets = {t for t in all_imports(name) if t in MODULES and t != name}
        # `from package import module` needs the module; the package is only on the way.
        inner = {t for t in targets if any(o.startswith(f"{t}.") for o in targets)}
        own = {t for t in inner if not _takes_own_names(name, t)}
        found[name] = frozenset(targets - own - {"vqkit"})
    return found


def _takes_own_names(name: str, package: str) -> bool:
    """Whether a module takes something of the package's own `__init__`."""
    defined = {
        n
        for s in tree(package).body
        for n in (
            [s.name]
            if isinstance(s, (ast.FunctionDef, ast.ClassDef))
            else [t.id for t in getattr(s, "targets", []) if isinstance(t, ast.Name)]
        )
    }
    return any(
        isinstance(n, ast.ImportFrom) and n.module == package and {a.name for a in n.names} & defined
        for n in ast.walk(tree(name))
    )


def upward() -> set[tuple[str, str]]:
    """(module, what it imports) against the printed list."""
    number = {name: i for i, name in enumerate(ORDER)}
    return {
        (name, target)
        for name, targets in edges().items()
        for target in targets
        if number[part(target) or ""] > number[part(name) or ""]
    }


def _components(graph: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components of more than one node."""
    reached = {}
    for start in graph:
        seen, queue = set[str](), [start]
        while queue:
            for target in graph[queue.pop()]:
                if target not in seen:
                    seen.add(target)
                    queue.append(target)
        reached[start] = seen
    found: list[set[str]] = []
    for node in graph:
        circle = {other for other in reached[node] if node in reached[other]} | {node}
        if len(circle) > 1 and circle not in found:
            found.append(circle)
    return found


def file_circles() -> list[set[str]]:
    """Sets of modules that import each other."""
    return _components({name: set(targets) for name, targets in edges().items()})


def package_circles() -> list[set[str]]:
    """Sets of packages that import each other; the root is no package."""
    graph: dict[str, set[str]] = {name: set() for name in ORDER if name}
    for name, targets in edges().items():
        mine = part(name)
        if mine:
            graph[mine] |= {p for t in targets if (p := part(t)) and p != mine}
    return _components(graph)


def folders() -> dict[str, int]:
    """Folder -> its Python files."""
    found: dict[str, int] = {}
    for path in MODULES.values():
        key = str(path.parent.relative_to(ROOT))
        found[key] = found.get(key, 0) + 1
    return found


def sizes() -> dict[str, int]:
    """File -> its lines."""
    return {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in MODULES.values()}


def untyped_nouns() -> list[str]:
    """Parameters that are called by a core noun and typed `Any`, as module:line name."""
    found = []
    for name in MODULES:
        for node in ast.walk(tree(name)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                a = node.args
                for argument in (*a.posonlyargs, *a.args, *a.kwonlyargs):
                    annotation = ast.unparse(argument.annotation) if argument.annotation else ""
                    if argument.arg in NOUNS and re.fullmatch(r"Any( \| None)?", annotation):
                        found.append(f"{name}:{node.lineno} {argument.arg}")
    return found


def skips() -> int:
    """How often the formatter is told to leave lines alone."""
    return sum(len(re.findall(r"# fmt: (?:skip|off)", p.read_text("utf-8"))) for p in MODULES.values())


def code_lines(path: Path) -> int:
    """Lines that hold a token other than comments and docstrings."""
    source = path.read_text("utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr):
            first = node.body[0]
            if isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                texts |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    empty = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    )
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in empty:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - texts)


def figures() -> dict[str, object]:
    """Every figure by its name."""
    lines = sizes()
    largest_folder = max(folders().items(), key=lambda item: item[1])
    largest_file = max(lines.items(), key=lambda item: item[1])
    return {
        "files": len(MODULES),
        "core files": sum((part(name) or "") in CORE for name in MODULES),
        "largest folder": f"{largest_folder[1]} ({largest_folder[0]})",
        "largest file": f"{largest_file[1]} ({largest_file[0]})",
        "median file": int(statistics.median(lines.values())),
        "file circles": len(file_circles()),
        "package circles": len(package_circles()),
        "upward imports": len(upward()),
        "Any on core nouns": len(untyped_nouns()),
        "fmt: skip": skips(),
        "lines of code": sum(code_lines(p) for p in MODULES.values()),
    }


def main() -> None:
    """Print the figures, before and now."""
    print(f"{'':20} {'before':>28} {'now':>36}")
    for name, value in figures().items():
        print(f"{name:20} {BEFORE.get(name, '')!s:>28} {value!s:>36}")


if __name__ == "__main__":
    main()
