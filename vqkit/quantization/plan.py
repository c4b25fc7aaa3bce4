"""`Plan` and `Row`: each tensor, its quantizer, and who decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from html import escape
from typing import Any, ClassVar

from vqkit import tables
from vqkit.graph.ir import Layer
from vqkit.primitives.spec import QuantizerSpec, QuantizerType
from vqkit.strategy.cascade import ResolvedQuantizer
from vqkit.tables import Column

_SHOWN = ("bit_width", "method", "round_mode", "per_channel", "symmetry")


class Role(StrEnum):
    """What a tensor is to its layer."""

    INPUT = "input"
    WEIGHT = "weight"
    BIAS = "bias"
    ACTIVATION = "activation"


class Slot(StrEnum):
    """Which quantizer list of the strategy a row comes from, and where it sits."""

    INPUT = "input"
    WEIGHT = "weight"
    BIAS = "bias"
    PRE_ACTIVATION = "pre_activation"
    POST_ACTIVATION = "post_activation"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class _Tensor:
    """What a row says of its tensor, quantized or not.

    Attributes:
        layer: the layer in the prepared graph (`quant_<producer>` for an inserted input quantizer).
        tensor: weight name, "output" or "input".
        role: what the tensor is.
        slot: where its quantizer sits.
        reason: why it is quantized here or stays float, in words.
        origins: parameter -> (source, JSON pointer) of the rule that decided it.
        kind: class of the layer.
        origin: the user's layers behind it.
        value: graph value that is quantized or rounded; None for weights and what stays float32.
    """

    layer: str
    tensor: str
    role: Role
    slot: Slot
    reason: str = ""
    origins: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    kind: str = ""
    origin: tuple[str, ...] = ()
    value: int | None = None

    @property
    def name(self) -> str:
        """`<layer>/<tensor>`, unique in the plan."""
        return f"{self.layer}/{self.tensor}"

    @property
    def is_weight(self) -> bool:
        """Whether the tensor is a constant of the model."""
        return self.role in (Role.WEIGHT, Role.BIAS)

    def _json(self, spec: Mapping[str, Any] | None, data_type: str | None) -> dict[str, Any]:
        return {
            "layer": self.layer,
            "tensor": self.tensor,
            "role": self.role.value,
            "slot": self.slot.value,
            "kind": self.kind,
            "spec": spec,
            "data_type": data_type,
            "reason": self.reason,
            "origins": {k: list(v) for k, v in self.origins.items()},
            "model_layers": list(self.origin),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedRow(_Tensor):
    """A tensor of the plan that has a quantizer.

    Attributes:
        spec: its quantizer.
        readers: nodes that read the quantized value; None means all.
        quantizer: name of the inserted fake-quantize layer; "" for weights.
    """

    spec: QuantizerSpec
    readers: frozenset[str] | None = None
    quantizer: str = ""
    data_type: ClassVar[str] = ""

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values."""
        return self._json(self.spec.to_json(), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatRow(_Tensor):
    """A tensor of the plan that stays float.

    Attributes:
        data_type: float16 or bfloat16 where a name rule says so; "" where it is float32.
    """

    data_type: str = ""
    spec: ClassVar[None] = None

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values."""
        return self._json(None, self.data_type or None)


Row = QuantizedRow | FloatRow
"""One tensor of the plan."""


@dataclass(frozen=True)
class Plan:
    """Every tensor of a prepared model with its quantizer or the reason why it has none.

    Attributes:
        rows: in graph order.
        strategy: name of the strategy it was made from.
        strategy_digest: that strategy's content digest.
        model: name of the model.
    """

    rows: tuple[Row, ...]
    strategy: str
    strategy_digest: str
    model: str

    @property
    def quantized(self) -> tuple[QuantizedRow, ...]:
        """The rows that have a quantizer."""
        return tuple(r for r in self.rows if isinstance(r, QuantizedRow))

    @property
    def typed(self) -> tuple[FloatRow, ...]:
        """The rows that are float16 or bfloat16."""
        return tuple(r for r in self.float_rows if r.data_type)

    @property
    def float_rows(self) -> tuple[FloatRow, ...]:
        """The rows that stay float."""
        return tuple(r for r in self.rows if isinstance(r, FloatRow))

    def __getitem__(self, name: str) -> Row:
        """The row named `<layer>/<tensor>`."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {
            "model": self.model,
            "strategy": self.strategy,
            "strategy_digest": self.strategy_digest,
            "rows": [r.to_json() for r in self.rows],
        }

    def to_frame(self) -> Any:
        """The plan as a pandas table, one row for each tensor."""
        import pandas as pd

        return pd.DataFrame([_flat(r) for r in self.rows])

    def __repr__(self) -> str:
        """One line; `print(plan)` shows every tensor."""
        return f"<{self.summary()}>"

    def __str__(self) -> str:
        table = tables.frame_table(self.to_frame().drop(columns=["pointer"]), widest=48)
        return f"{self.summary()}\n{table}"

    def summary(self) -> str:
        """One line: how many tensors are quantized, how many stay float."""
        typed = f", {len(self.typed)} of them in 16 bits" if self.typed else ""
        return (
            f"plan of {self.model!r} under {self.strategy!r}: "
            f"{len(self.quantized)} tensors quantized, {len(self.float_rows)} stay float{typed}"
        )

    def _repr_html_(self) -> str:

        return plan_html(self.summary(), [_flat(r) for r in self.rows])


def _flat(row: Row) -> dict[str, Any]:
    base = {"layer": row.layer, "kind": row.kind, "tensor": row.tensor, "role": row.role.value}
    if row.spec is None:
        shown: dict[str, Any] = {"quantizer": row.data_type or "float", **dict.fromkeys(_SHOWN, "")}
    else:
        shown = {
            "quantizer": _short(row.spec.quantizer_type),
            **{k: _word(getattr(row.spec, k)) for k in _SHOWN},
        }
    decided, pointer = _decider(row)
    return {**base, **shown, "decided_by": decided, "reason": row.reason, "pointer": pointer}


def _short(quantizer_type: QuantizerType) -> str:
    return quantizer_type.value.removesuffix("Quantizer")


def _word(value: Any) -> Any:
    return value.name if hasattr(value, "name") else value


def _decider(row: Row) -> tuple[str, str]:
    """The most specific rule behind a row: any override before the built-in."""
    overrides = {k: o for k, o in row.origins.items() if not o[0].startswith(("builtin", "default"))}
    built_in = {k: o for k, o in row.origins.items() if o[0].startswith("builtin")}
    chosen = overrides or dict(list(built_in.items())[:1])
    by_source: dict[str, list[str]] = {}
    for key, (source, _) in chosen.items():
        by_source.setdefault(source, []).append(key)
    words = [f"{s}: {', '.join(keys)}" if overrides else s for s, keys in by_source.items()]
    return "; ".join(words), ", ".join(dict.fromkeys(p for _, p in chosen.values()))


def float_constant(layer: Layer, name: str, reason: str) -> FloatRow:
    """The row of a weight that stays float."""
    return FloatRow(layer.name, name, Role.WEIGHT, Slot.WEIGHT, reason, {}, layer.kind, (layer.name,))


def float_input(name: str, reason: str) -> FloatRow:
    """The row of a model input that stays float."""
    return FloatRow(name, "input", Role.INPUT, Slot.INPUT, reason, kind="InputLayer", origin=(name,))


def constant(layer: Layer, name: str, role: Role, quantizer: ResolvedQuantizer | None) -> Row:
    """The row of a weight or bias that the strategy names."""
    where = (layer.name, name, role, Slot(role.value))
    if quantizer is None:
        return FloatRow(*where, "left float by the strategy", {}, layer.kind, (layer.name,))
    return QuantizedRow(*where, "", origins_of(quantizer), layer.kind, (layer.name,), spec=quantizer.spec)


def tensor_name(index: int) -> str:
    """Name of a layer's output in the plan."""
    return "output" if index == 0 else f"output_{index}"


def origins_of(resolved: ResolvedQuantizer) -> dict[str, tuple[str, str]]:
    """Parameter -> (source, pointer) of the rule that decided it."""
    return {k: (o.source, o.pointer) for k, o in resolved.origins.items()}


_STYLE = """<style>
.vq-plan{border-collapse:collapse;font-size:12px}.vq-plan td,.vq-plan th{padding:1px 8px;text-align:left}
.vq-plan th{border-bottom:1px solid #888}.vq-plan .float td{opacity:.62;font-style:italic}
.vq-plan .over td:first-child{border-left:3px solid #d55e00}
.vq-plan .base td:first-child{border-left:3px solid #0072b2}
.vq-plan .num{text-align:right}</style>"""
_COLUMNS = tuple(
    Column(key, title)
    for key, title in (
        ("layer", "layer"),
        ("kind", "kind"),
        ("tensor", "tensor"),
        ("quantizer", "quantizer"),
        ("bit_width", "bits"),
        ("method", "method"),
        ("round_mode", "rounding"),
        ("scale", "scale"),
    )
)
_DECIDED = Column("decided", "decided by", lambda d: f"<span title='{escape(d[1], quote=True)}'>{escape(d[0])}</span>")


def plan_html(summary: str, rows: list[dict[str, Any]]) -> str:
    """A table for notebooks.

    Args:
        summary: the line above it.
        rows: flat rows, as in `Plan.to_frame`.

    Returns:
        HTML with everything escaped; the JSON pointer of the deciding rule is the tooltip of `decided by`.
    """
    table = tables.html_grid([_shown(r) for r in rows], (*_COLUMNS, _DECIDED, Column("reason", "why")), look="vq-plan")
    return f"{_STYLE}<p>{escape(summary)}</p>{table}"


def _shown(r: dict[str, Any]) -> dict[str, Any]:
    decided = (r["decided_by"], r["pointer"])
    if r["bit_width"] == "":  # float, or a 16-bit type that somebody chose
        plain = r["quantizer"] == "float"
        return {**r, "scale": "", "decided": ("", "") if plain else decided, "class": "float" if plain else "over"}
    scale = ("per channel" if r["per_channel"] else "per tensor") + ("" if r["symmetry"] else ", asymmetric")
    words = {k: str(r[k]).replace("_", " ").lower() for k in ("method", "round_mode")}
    look = "base" if r["decided_by"].startswith("builtin") else "over"
    return {**r, **words, "scale": scale, "decided": decided, "class": look}
