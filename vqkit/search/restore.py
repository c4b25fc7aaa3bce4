"""How accuracy comes back as the most sensitive layers are left float, one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vqkit.search.questions import Unit, left_float, units, with_rules

if TYPE_CHECKING:
    import pandas as pd

    from vqkit.search.engine import Engine
    from vqkit.search.sensitive import Sensitivity


def recovery(
    found: Sensitivity, engine: Engine, strategy: Any, *, by: str = "kl", bits: int | None = None
) -> pd.DataFrame:
    """Quantize everything to few bits, then leave the most sensitive layers float: 1, 2, 4, … of them.

    Args:
        found: the layers' sensitivities, which rank them.
        engine: measures.
        strategy: the base, as `found` was asked for.
        by: "kl", "sqnr_db" or "accuracy"; what ranks.
        bits: width; the smallest that was asked.

    Returns:
        Columns left_float (count), layer (the last one left float, "" for none), accuracy (fraction),
        sqnr_db, kl. A layer whose input is left float may get a quantizer for it, as its strategy says.

    Raises:
        RecordError: no such measure or width.
    """
    import pandas as pd

    from vqkit.flow.prepared import as_strategy, prepare

    base = as_strategy(strategy)
    ranked = found.ranked(by, bits=bits)
    width, order = int(ranked["bits"].iloc[0]), list(dict.fromkeys(ranked["layer"]))
    prepared = prepare(engine.model, base, vitis_compat=engine.settings.vitis_compat)
    known = {unit.layer: unit for unit in units(prepared)}
    rows = []
    for n in _counts(len(order)):
        rules: dict[str, Any] = {}
        for layer in order[:n]:
            rules = _both(rules, left_float(known[layer], kind_of(known[layer])))
        answer = engine.measure(with_rules(base, rules, everything=width))
        last = order[n - 1] if n else ""
        rows.append((n, last, answer.accuracy, answer.sqnr_db, answer.kl))
    return pd.DataFrame(rows, columns=["left_float", "layer", "accuracy", "sqnr_db", "kl"])


def _counts(layers: int) -> list[int]:
    return sorted({0, layers, *(2**i for i in range(layers.bit_length()) if 2**i < layers)})


def kind_of(unit: Unit) -> str:
    """All that can be asked about a unit at once."""
    return "both" if "both" in unit.kinds else unit.kinds[0]


def _both(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Rules of several units together; where two of them speak about one layer, all of it is float."""
    merged = dict(old)
    for name, rule in new.items():
        other = merged.get(name, rule)
        merged[name] = rule if other == rule else {"quantize": "nothing"}
    return merged
