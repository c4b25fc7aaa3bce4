"""Which rules stand in the way of a change: narrower ones win, and a person must see that."""

from __future__ import annotations

from typing import Any

from vqkit.flow.plan import Plan, Row
from vqkit.strategy.scope import Scope, scope_of

_ORDER = (Scope.MODEL, Scope.TYPE, Scope.TENSOR)


def narrower(plan: Plan, row: Row, param: str, value: Any, scope: Scope) -> list[tuple[str, str]]:
    """Where a change would not reach, because a narrower rule says another value.

    Args:
        plan: before the change.
        row: the tensor that is looked at.
        param: one of `strategy.scope.PARAMS`; there is nothing narrower about "left_float".
        value: as the JSON has it.
        scope: how far the change is to reach.

    Returns:
        For each tensor its row name and the JSON pointer of the rule that decides.
    """
    return [(r.name, r.origins[param][1]) for r in _alike(plan, row, param, scope)
            if _kept(r, param, scope) and value not in _said(r, param)]  # fmt: skip


def reaches(plan: Plan, row: Row, param: str, scope: Scope) -> bool:
    """Whether a change would decide for any tensor at all; arguments as for `narrower`."""
    return any(not _kept(r, param, scope) for r in _alike(plan, row, param, scope))


def _alike(plan: Plan, row: Row, param: str, scope: Scope) -> list[Row]:
    if scope is Scope.TENSOR:
        return []
    return [r for r in plan.quantized if r.role is row.role and param in r.origins
            and (scope is Scope.MODEL or r.kind == row.kind)]  # fmt: skip


def _kept(row: Row, param: str, scope: Scope) -> bool:
    source, where = row.origins[param]
    ruled = not source.startswith(("builtin", "default"))
    return ruled and _ORDER.index(scope_of(where)) > _ORDER.index(scope)


def _said(row: Row, param: str) -> tuple[Any, Any]:
    value = getattr(row.spec, param)
    return value, getattr(value, "name", value)
