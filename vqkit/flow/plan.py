"""What will happen to each tensor, and which line of the strategy decided it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from vqkit.primitives.spec import QuantizerSpec, QuantizerType

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
class Row:
    """One tensor of the plan.

    Attributes:
        layer: the layer in the prepared graph (`quant_<producer>` for an inserted input quantizer).
        tensor: weight name, "output" or "input".
        role: what the tensor is.
        slot: where its quantizer sits.
        spec: its quantizer; None when it stays float.
        reason: why it is quantized here or stays float, in words.
        origins: parameter -> (source, JSON pointer) of the rule that decided it.
        kind: class of the layer.
        origin: the user's layers behind it.
        value: graph value that is quantized; None for weights.
        readers: nodes that read the quantized value; None means all.
        quantizer: name of the inserted fake-quantize layer; "" for weights and float tensors.
        data_type: float16 or bfloat16 where a name rule says so; "" where the tensor is quantized or float32.
    """

    layer: str
    tensor: str
    role: Role
    slot: Slot
    spec: QuantizerSpec | None
    reason: str = ""
    origins: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    kind: str = ""
    origin: tuple[str, ...] = ()
    value: int | None = None
    readers: frozenset[str] | None = None
    quantizer: str = ""
    data_type: str = ""

    @property
    def name(self) -> str:
        """`<layer>/<tensor>`, unique in the plan."""
        return f"{self.layer}/{self.tensor}"

    @property
    def is_weight(self) -> bool:
        """Whether the tensor is a constant of the model."""
        return self.role in (Role.WEIGHT, Role.BIAS)

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values."""
        return {
            "layer": self.layer, "tensor": self.tensor, "role": self.role.value, "slot": self.slot.value,
            "kind": self.kind, "spec": None if self.spec is None else spec_to_json(self.spec),
            "data_type": self.data_type or None, "reason": self.reason,
            "origins": {k: list(v) for k, v in self.origins.items()},
            "model_layers": list(self.origin),
        }  # fmt: skip


def spec_to_json(spec: QuantizerSpec) -> dict[str, Any]:
    """A quantizer as JSON values, in the strategy format's names."""
    names = QuantizerSpec.__dataclass_fields__
    plain = {k: getattr(spec, k) for k in names}
    return {k: v.value if hasattr(v, "value") else v for k, v in plain.items()}


def spec_from_json(data: Mapping[str, Any]) -> QuantizerSpec:
    """The quantizer that `spec_to_json` wrote."""
    return QuantizerSpec(**data)


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
    def quantized(self) -> tuple[Row, ...]:
        """The rows that have a quantizer."""
        return tuple(r for r in self.rows if r.spec is not None)

    @property
    def typed(self) -> tuple[Row, ...]:
        """The rows that are float16 or bfloat16."""
        return tuple(r for r in self.rows if r.data_type)

    @property
    def float_rows(self) -> tuple[Row, ...]:
        """The rows that stay float."""
        return tuple(r for r in self.rows if r.spec is None)

    def __getitem__(self, name: str) -> Row:
        """The row named `<layer>/<tensor>`."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {
            "model": self.model, "strategy": self.strategy, "strategy_digest": self.strategy_digest,
            "rows": [r.to_json() for r in self.rows],
        }  # fmt: skip

    def to_frame(self) -> Any:
        """The plan as a pandas table, one row for each tensor."""
        import pandas as pd

        return pd.DataFrame([_flat(r) for r in self.rows])

    def __repr__(self) -> str:
        """One line; `print(plan)` shows every tensor."""
        return f"<{self.summary()}>"

    def __str__(self) -> str:
        table = self.to_frame().drop(columns=["pointer"]).to_string(index=False, max_colwidth=48)
        return f"{self.summary()}\n{table}"

    def summary(self) -> str:
        """One line: how many tensors are quantized, how many stay float."""
        typed = f", {len(self.typed)} of them in 16 bits" if self.typed else ""
        return (
            f"plan of {self.model!r} under {self.strategy!r}: "
            f"{len(self.quantized)} tensors quantized, {len(self.float_rows)} stay float{typed}"
        )

    def _repr_html_(self) -> str:
        from vqkit.flow.plan_html import plan_html

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
