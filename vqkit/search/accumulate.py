"""How noise adds up from layer to layer: quantize the first layer, then the second too, and so on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vqkit.search.questions import Rules, quantized_alone, units, with_rules
from vqkit.search.restore import kind_of

if TYPE_CHECKING:
    import pandas as pd

    from vqkit.search.engine import Engine
    from vqkit.search.sensitive import Sensitivity

POINTS = 12


def accumulated(
    found: Sensitivity, engine: Engine, strategy: Any, *, bits: int | None = None, points: int = POINTS
) -> pd.DataFrame:
    """Quantize layers in graph order, one after another, and leave the rest float.

    Beside the isolated answers it shows whether a loss comes from one layer or from many small ones.

    Args:
        found: the layers' sensitivities; they give layers and widths.
        engine: measures.
        strategy: the base, as `found` was asked for.
        bits: width; the smallest that was asked.
        points: at most so many measurements, evenly spread; the last layer is always among them.

    Returns:
        Columns quantized (count of layers), layer (the last of them), accuracy (fraction), sqnr_db, kl.

    Raises:
        RecordError: no such width.
    """
    import pandas as pd

    from vqkit.flow.prepared import as_strategy, prepare

    base = as_strategy(strategy)
    width = int(found.ranked("kl", mode=str(found.rows[0]["mode"]), bits=bits)["bits"].iloc[0])
    prepared = prepare(engine.model, base, vitis_compat=engine.settings.vitis_compat)
    order = units(prepared)
    rows = []
    for n in spread(len(order), points):
        rules: Rules = {"*": {"quantize": "nothing"}}
        for unit in order[:n]:
            rules |= quantized_alone(unit, kind_of(unit), width)
        answer = engine.measure(with_rules(base, rules))
        rows.append((n, order[n - 1].layer, answer.accuracy, answer.sqnr_db, answer.kl))
    return pd.DataFrame(rows, columns=["quantized", "layer", "accuracy", "sqnr_db", "kl"])


def spread(layers: int, points: int) -> list[int]:
    """Counts from 1 to all layers, evenly spread."""
    most = max(1, min(points, layers))
    return sorted({round(layers * (i + 1) / most) for i in range(most)})
