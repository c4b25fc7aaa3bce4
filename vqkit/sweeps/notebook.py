"""The run notebook: find, digest, declared parameters."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vqkit import digest
from vqkit.errors import NotebookError, not_allowed
from vqkit.files import resource_dir

TAG = "parameters"
RUN_NOTEBOOK = "20_run_variant.ipynb"
GIVEN = ("name", "key", "model", "data", "strategy", "overrides", "settings", "run_dir", "cache")
"""What a sweep hands over to a notebook that declares it."""

# Names that scripts from before the notebooks were numbered still ask for.
_FORMER = {"run_variant.ipynb": RUN_NOTEBOOK, "compare_runs.ipynb": "40_compare_runs.ipynb"}


def find(name: str) -> Path:
    """Path of a notebook that vqkit ships, in a checkout or in an installed wheel.

    Args:
        name: file name, e.g. `20_run_variant.ipynb`; the names before the notebooks were numbered are known.

    Raises:
        NotebookError: there is none of that name.
    """
    path = resource_dir("notebooks") / _FORMER.get(name, name)
    if not os.path.isfile(path):
        raise NotebookError(not_allowed("notebook", name, [p.name for p in path.parent.glob("*.ipynb")]))
    return path


def source_digest(path: str | Path) -> str:
    """Digest of what a notebook does: its cells' types, sources and tags, without outputs."""
    cells = [(c.cell_type, c.source, sorted(c.metadata.get("tags", []))) for c in read_notebook(path).cells]
    return digest.of_json(cells)


def is_shipped(path: str | Path) -> bool:
    """Whether a notebook does what the shipped run notebook does, which leaves nothing behind in its kernel."""
    return source_digest(path) == source_digest(find(RUN_NOTEBOOK))


def declared_parameters(path: str | Path) -> dict[str, str]:
    """Names and default expressions of a notebook's parameters.

    The cell is parsed as Python: papermill's own inspection misses lines such as `x: int | None = None`.

    Raises:
        NotebookError: no cell, or more than one, is tagged `parameters`, or it is not Python.
    """
    cells = [c for c in read_notebook(path).cells if TAG in c.metadata.get("tags", []) and c.cell_type == "code"]
    if len(cells) != 1:
        raise NotebookError(f"{path}: {len(cells)} code cells are tagged {TAG!r}; one is needed")
    try:
        statements = ast.parse(cells[0].source).body
    except SyntaxError as e:
        raise NotebookError(f"{path}: the {TAG} cell is not Python: {e}") from e
    return dict(pair for statement in statements for pair in _assigned(statement))


def _assigned(statement: ast.stmt) -> Iterator[tuple[str, str]]:
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets: list[ast.expr] = [statement.target]
        value = statement.value
    elif isinstance(statement, ast.Assign):
        targets, value = statement.targets, statement.value
    else:
        return
    for target in targets:
        if isinstance(target, ast.Name):
            yield target.id, ast.unparse(value)


def check_parameters(path: str | Path, given: Mapping[str, Any]) -> None:
    """Raise unless the notebook declares each given parameter; papermill only warns and runs the wrong thing.

    Raises:
        NotebookError: naming the unknown parameter and the nearest declared one.
    """
    declared = declared_parameters(path)
    unknown = [name for name in given if name not in declared]
    if unknown:
        raise NotebookError(not_allowed(str(path), unknown[0], declared, what="parameter"))


def read_notebook(path: str | Path) -> Any:
    """A notebook as nbformat reads it, in its format 4.

    Raises:
        NotebookError: it is none.
    """
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except Exception as e:
        # Its converters of old formats fail in any way on what is no notebook.
        raise NotebookError(f"{path}: cannot be read as a notebook: {e}") from e
