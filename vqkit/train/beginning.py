"""Training under one strategy from where another one's calibration ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vqkit.errors import StrategyError
from vqkit.flow.plan import Plan, Row
from vqkit.flow.prepared import as_strategy
from vqkit.flow.ptq import Quantized
from vqkit.flow.solve import Encodings
from vqkit.primitives.qparams import QParams


def beginning(strategy: Any, start: Any) -> Any:
    """The strategy to calibrate with.

    Args:
        strategy: that will be trained under.
        start: another `Strategy`, or its name or path.

    Returns:
        `start` as a `Strategy`.

    Raises:
        StrategyError: it rewrites the model in another way.
    """
    first = as_strategy(start)
    for name in ("optimize", "quantize"):
        own, other = (getattr(s, name).model_dump() for s in (strategy, first))
        for key, value in own.items():
            if key != "freeze_bn_delay" and other[key] != value:
                raise StrategyError(
                    f"qat_model: start: {first.name} has {key}={other[key]!r}, {strategy.name} {value!r}; "
                    "both must rewrite the model in the same way"
                )
    return first


def taken_over(found: Quantized, plan: Plan) -> tuple[Mapping[str, Row], Encodings]:
    """What was decided under one plan, for the quantizers of another one.

    Args:
        found: the result under the first plan.
        plan: of the strategy to train under.

    Returns:
        Fake-quantize layer name -> row of `plan`, and row name -> decision.

    Raises:
        StrategyError: the plans quantize other tensors, or a tensor on grids of different kinds.
    """
    wanted = {row.name: row for row in plan.quantized}
    odd = sorted(wanted.keys() ^ found.calibrated.keys())
    if odd:
        raise StrategyError(f"qat_model: start: {odd[0]} is quantized under one of the two strategies only")
    decided = {}
    for name, row in wanted.items():
        params = found.calibrated[name]
        assert row.spec is not None
        for of in ("pow2", "bit_width", "per_channel", "channel_axis", "unsigned"):
            first, own = getattr(params.spec, of), getattr(row.spec, of)
            if first != own:
                raise StrategyError(f"qat_model: start: {name} has {of} {first}, to be trained with {own}")
        decided[name] = QParams(row.spec, params.f_min, params.f_max, params.pos)
    return {layer: wanted[row.name] for layer, row in found.rows.items()}, decided
