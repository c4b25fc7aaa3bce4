"""How two runs' plans differ: what became of two strategies on the tensors of one model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqkit.errors import RecordError
from vqkit.files import read_json

FLOAT = "float"


@dataclass(frozen=True)
class Resolved:
    """Quantizer parameters that differ, tensor by tensor.

    Attributes:
        total: tensors that either plan knows.
        changed: (layer, tensor) -> parameter -> (in a, in b); "quantizer" is the parameter where one of
            the two leaves the tensor float.
    """

    total: int
    changed: Mapping[tuple[str, str], Mapping[str, tuple[Any, Any]]]

    def kinds(self) -> list[tuple[str, Any, Any, list[str]]]:
        """Parameter, value in a, value in b, and the tensors in which just that differs, most first."""
        places: dict[str, tuple[str, Any, Any, list[str]]] = {}
        for tensor, parameters in self.changed.items():
            for name, (a, b) in parameters.items():
                key = json.dumps([name, a, b], sort_keys=True, default=str)
                places.setdefault(key, (name, a, b, []))[3].append("/".join(tensor))
        return sorted(places.values(), key=lambda kind: -len(kind[3]))


def resolved(run_a: str | Path, run_b: str | Path) -> Resolved | None:
    """Compare the plans that two runs kept.

    Args:
        run_a: run directory.
        run_b: run directory.

    Returns:
        The differences, or None where one of them has no `plan.json`.

    Raises:
        RecordError: a plan cannot be read.
    """
    a, b = (_plan(Path(run, "plan.json")) for run in (run_a, run_b))
    if a is None or b is None:
        return None
    tensors = dict.fromkeys([*a, *b])
    found = {tensor: _parameters(a.get(tensor), b.get(tensor)) for tensor in tensors}
    return Resolved(len(tensors), {tensor: changes for tensor, changes in found.items() if changes})


def _plan(path: Path) -> dict[tuple[str, str], Mapping[str, Any] | None] | None:
    if not os.path.lexists(path):
        return None
    found = read_json(path)
    try:
        rows: Iterable[Mapping[str, Any]] = found["rows"]
        specs = {(str(row["layer"]), str(row["tensor"])): row["spec"] for row in rows}
        if not all(spec is None or isinstance(spec, dict) for spec in specs.values()):
            raise TypeError("a 'spec' is no JSON object")
        return specs
    except (KeyError, TypeError) as e:
        raise RecordError(f"{path}: not a plan: {e!r}") from e


def _parameters(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> dict[str, tuple[Any, Any]]:
    if a is None or b is None:
        kinds = tuple(FLOAT if spec is None else spec.get("quantizer_type") for spec in (a, b))
        return {"quantizer": (kinds[0], kinds[1])} if kinds[0] != kinds[1] else {}
    names = dict.fromkeys([*a, *b])
    return {name: (a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)}
