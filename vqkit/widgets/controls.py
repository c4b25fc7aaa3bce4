"""The controls of the chosen quantizer: a message for each move names its row, its reach and its value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from vqkit.primitives.spec import Method, QuantizerType, RoundMode
from vqkit.strategy.scope import Scope
from vqkit.widgets.front import base, script

if TYPE_CHECKING:
    from vqkit.flow.plan import Plan, Row

Moved = Callable[[str, Scope, str, Any], None]
_TIPS = ("a rule for this layer's name", "the entry of its layer type", "the global keys")
_TRAINED = ["method"]  # a trained threshold has no method


def controls(queue: Any, moved: Moved, table: Any) -> Any:
    """Controls for bits, method, rounding, per-channel, symmetry, left float, and how far a change reaches.

    Args:
        queue: of the widget they are part of.
        moved: called with row name, reach, parameter and value when a person moves a control.
        table: a picker whose chosen part names the row that the controls show.

    Returns:
        An ipywidget; set its `rows` to `control_rows(plan)`.
    """
    return _class()(queue, moved, table=table.model_id)


def control_rows(plan: Plan) -> dict[str, Any]:
    """What the controls show for each row of a plan, as JSON."""
    return {row.name: _state(row) for row in plan.rows}


def _state(row: Row) -> Mapping[str, Any]:
    spec = row.spec
    known: dict[str, Any] = {"role": row.role.value, "kind": row.kind, "spec": None, "fixed": []}
    if spec is None:
        return known
    shown = {
        "bit_width": spec.bit_width, "method": spec.method.name, "round_mode": spec.round_mode.name,
        "per_channel": spec.per_channel, "symmetry": spec.symmetry,
    }  # fmt: skip
    return {**known, "spec": shown, "fixed": _TRAINED if spec.quantizer_type is QuantizerType.TQT else []}


@cache
def _class() -> type:
    import traitlets

    class ControlsWidget(base()):  # type: ignore[misc]
        """See `controls`."""

        _esm = script("controls.js")
        rows = traitlets.Dict().tag(sync=True)
        table = traitlets.Unicode().tag(sync=True)
        scopes = traitlets.List().tag(sync=True)
        methods = traitlets.List().tag(sync=True)
        roundings = traitlets.List().tag(sync=True)

        def __init__(self, queue: Any, moved: Moved, table: str) -> None:
            super().__init__(
                queue, table=table, methods=_options(Method), roundings=_options(RoundMode),
                scopes=[[str(s), tip] for s, tip in zip(Scope, _TIPS, strict=True)],
            )  # fmt: skip
            self._moved = moved

        def heard(self, content: dict[str, Any]) -> None:
            scope = list(Scope)[int(content["scope"])]
            self._moved(str(content["row"]), scope, str(content["param"]), content["value"])

    return ControlsWidget


def _options(names: Any) -> list[list[str]]:
    return [[n.name.lower().replace("_", " "), n.name] for n in names]
