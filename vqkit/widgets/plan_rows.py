"""A plan as rows of a table: who decided in colour and words, what it costs as a bar."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vqkit.flow.plan import Plan, Row
from vqkit.strategy.scope import Scope, scope_of
from vqkit.widgets import table as tables
from vqkit.widgets.table import Column

FULL_BAR = 60.0  # dB: about ten bits
LOW = 20.0  # dB: a tenth of the amplitude is noise
_KINDS = {Scope.MODEL: 1, Scope.TYPE: 2, Scope.TENSOR: 3}
_WORDS = ("built-in", "everything", "layer type", "this layer", "float")


def plan_columns(measured: bool) -> tuple[Column, ...]:
    """The columns of the plan table.

    Args:
        measured: with the noise in the running quantized model as well.
    """
    noise = [Column("sqnr", "own SQNR", _noise, numeric=True)]
    if measured:
        noise.append(Column("measured", "measured SQNR", _noise, numeric=True))
    return (
        Column("layer", "layer"),
        Column("tensor", "tensor"),
        Column("bits", "bits", numeric=True),
        *noise,
        Column("scale", "scale"),
        Column("method", "method"),
        Column("channels", "channels"),
        Column("decided", "decided by", _decided, order=lambda d: (d[0], d[1])),
    )


def plan_rows(plan: Plan, costs: Mapping[str, Any], measured: Mapping[str, float]) -> list[dict[str, Any]]:
    """One table row for each tensor, in graph order.

    Args:
        plan: what happens to each tensor.
        costs: row name -> `flow.preview.Cost`.
        measured: row name -> dB in the running model.
    """
    return [_row(row, costs.get(row.name), measured.get(row.name)) for row in plan.rows]


def _row(row: Row, cost: Any, measured: float | None) -> dict[str, Any]:
    spec = row.spec
    shown = {"key": row.name, "layer": row.layer, "tensor": row.tensor, "decided": provenance(row),
             "sqnr": None if cost is None else cost.sqnr_db, "measured": measured}  # fmt: skip
    if spec is None:
        word = row.data_type or "float"
        return {**shown, "bits": None, "scale": word, "method": "", "channels": "", "quiet": True}
    return {
        **shown,
        "bits": spec.bit_width,
        "scale": "pow-2" if spec.pow2 else "float scale",
        "method": spec.method.name.lower().replace("_", " "),
        "channels": "per channel" if spec.per_channel else "per tensor",
        "quiet": False,
    }


def provenance(row: Row) -> tuple[int, str, str]:
    """Who decided a row: kind (a colour), words, and the pointers of the rules.

    Returns:
        Kind 0 built-in, 1 a global key, 2 a layer type's entry, 3 a layer's name, 4 left float; the narrowest
        rule that spoke counts.
    """
    if row.spec is None and not row.data_type:
        return 4, f"float: {row.reason}" if row.reason else "float", row.reason
    spoken: dict[int, list[str]] = {}
    for param, (source, pointer) in row.origins.items():
        if not source.startswith(("builtin", "default")):
            spoken.setdefault(_KINDS[scope_of(pointer)], []).append(param)
    if not spoken:
        return 0, "built-in", ", ".join(dict.fromkeys(p for _, p in row.origins.values()))
    kind = max(spoken)
    pointers = [p for s, p in row.origins.values() if not s.startswith(("builtin", "default"))]
    return kind, f"{_WORDS[kind]}: {', '.join(spoken[kind])}", ", ".join(dict.fromkeys(pointers))


def _decided(value: tuple[int, str, str]) -> str:
    kind, words, tip = value
    short = words if len(words) <= 80 else words[:79] + "…"
    return tables.mark(kind, short, tip or words)


def _noise(value: float | None) -> str:
    return tables.bar(value, FULL_BAR, unit="dB", low=LOW)


def measured_ratios(trial: Any) -> dict[str, float]:
    """Row name -> dB of a trial; empty without one."""
    if trial is None:
        return {}
    lines = trial.sqnr.to_dict("records")
    return {f"{r['layer']}/{r['tensor']}": float(r["sqnr_db"]) for r in lines if r["role"] != "output"}


def told(trial: Any) -> str:
    """A trial in one line; empty without one."""
    if trial is None:
        return ""
    outputs = trial.sqnr[trial.sqnr.role == "output"].sqnr_db.min()
    noise = "" if math.isnan(outputs) else f"output SQNR {outputs:.1f} dB"
    if trial.scores is None:
        return noise
    own, reference = trial.scores.quantized.metrics, trial.scores.float_metrics
    scores = [f"{k} {v:.4f} (float {reference[k]:.4f}, {v - reference[k]:+.4f})" for k, v in own.items()]
    return ", ".join([*scores, noise])
