"""What differs between two strategies, whatever the order or spelling of their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vqkit.strategy import builtins, keys, normal

if TYPE_CHECKING:
    from vqkit.strategy.strategy import Strategy


@dataclass(frozen=True)
class Change:
    """One value that differs.

    Attributes:
        pointer: where it stands in the second strategy; in the first where only that has it.
        before: its value in the first, None where absent.
        after: its value in the second, None where absent.
        label: short name for people, such as "weight_bit" or "Dense weight 0 bit_width".
    """

    pointer: str
    before: Any
    after: Any
    label: str

    def __str__(self) -> str:
        return f"{self.label}: {self.before!r} → {self.after!r}"


def diff(a: Strategy, b: Strategy) -> list[Change]:
    """Differences in meaning, in the order of the second strategy, then what only the first has.

    Layer entries are compared by type, enumerations by value; a user key that is null counts as absent.
    """
    return diff_documents(a.dump(), b.dump())


def diff_documents(a: dict[str, Any], b: dict[str, Any]) -> list[Change]:
    """As `diff`, on whole documents."""
    before, after = normal.keyed(a), normal.keyed(b)
    places = {address: where for where, address, _ in [*normal.addressed(a), *normal.addressed(b)]}
    changed = [x for x in dict.fromkeys([*after, *before]) if _differ(before.get(x), after.get(x))]
    return [Change(places[x], before.get(x), after.get(x), _label(*x)) for x in changed]


def flat_overrides(doc: dict[str, Any], base: str) -> dict[str, Any]:
    """What a document says beyond a built-in, as flat names where there are names, else JSON pointers."""
    changes = diff_documents(builtins.document(base), doc)
    return {c.label if c.label in _flat_names(doc) else c.pointer: c.after for c in changes}


def _flat_names(doc: dict[str, Any]) -> set[str]:
    return {*keys.USER_KEYS, *(key for section in keys.PIPELINES for key in doc[section])}


def _differ(before: Any, after: Any) -> bool:
    nothing: tuple[Any, ...] = (None, [], {})
    if before in nothing and after in nothing:
        return False
    return type(before) is not type(after) or bool(before != after)


def _label(layer: str, inside: str) -> str:
    parts = inside.strip("/").split("/")
    if layer:
        words = [p.removesuffix("_quantizers") for p in parts if p != "quantizer_params"]
        return " ".join([layer, *words])
    if parts[:2] == [keys.REGISTRY, keys.INPUT] and parts[2:3] == ["input_quantizer"]:
        return f"input {parts[-1]}"
    if parts[:2] == [keys.REGISTRY, keys.NAMED]:
        return " ".join(p.replace("~1", "/").replace("~0", "~") for p in parts[2:])
    if parts[:2] == [keys.REGISTRY, keys.INPUT]:
        return f"input quantizer {parts[-1]}"
    return parts[-1]
