"""The controls of one quantizer, each with a label and a tooltip; they report what was moved, no more."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as w

from vqkit.flow.plan import Row
from vqkit.primitives.spec import Method, QuantizerType, RoundMode
from vqkit.strategy.scope import Scope

Moved = Callable[[str, Any], None]
_WIDE = {"description_width": "84px"}
_METHODS = [(m.name.lower().replace("_", " "), m.name) for m in Method]
_ROUNDINGS = [(r.name.lower().replace("_", " "), r.name) for r in RoundMode]


class Controls:
    """Controls for bits, method, rounding, per-channel, symmetry, left float, and how far a change reaches.

    Args:
        moved: called with the parameter and its new value when a person moves a control.
    """

    def __init__(self, moved: Moved) -> None:
        self._moved, self._showing = moved, False
        self._row: Row | None = None
        line = w.Layout(width="250px")
        self.scope = w.ToggleButtons(
            options=[(str(s), s) for s in Scope], description="Change",
            style={**_WIDE, "button_width": "110px"},
            tooltips=["a rule for this layer's name", "the entry of its layer type", "the global keys"],
        )  # fmt: skip
        self.reach = w.HTML()
        self.scope.observe(lambda _: self._say_reach(), "value")
        self.by_param: dict[str, Any] = {
            "bit_width": w.IntSlider(min=1, max=32, value=8, description="Bits", style=_WIDE,
                                     layout=w.Layout(width="360px"),
                                     tooltip="bits of the integer, sign included"),
            "method": w.Dropdown(options=_METHODS, description="Method", style=_WIDE, layout=line,
                                 tooltip="how range or position is chosen"),
            "round_mode": w.Dropdown(options=_ROUNDINGS, description="Rounding", style=_WIDE, layout=line,
                                     tooltip="where ties go"),
            "per_channel": w.Checkbox(description="Per channel", indent=False, layout=w.Layout(width="130px"),
                                      tooltip="one scale for each channel"),
            "symmetry": w.Checkbox(description="Symmetric", indent=False, layout=w.Layout(width="130px"),
                                   tooltip="zero in the middle of the grid"),
            "left_float": w.Checkbox(description="Left float", indent=False, layout=w.Layout(width="130px"),
                                     tooltip="do not quantize the layer"),
        }  # fmt: skip
        for param, control in self.by_param.items():
            control.observe(lambda change, p=param: self._tell(p, change["new"]), "value")
        c = self.by_param
        self.box = w.VBox([
            self.scope, self.reach, c["bit_width"], w.HBox([c["method"], c["round_mode"]], layout=_flow()),
            w.HBox([c["per_channel"], c["symmetry"], c["left_float"]], layout=_flow("0 0 0 88px")),
        ])  # fmt: skip

    def show(self, row: Row | None) -> None:
        """Set the controls to a row's quantizer without reporting it."""
        self._showing, self._row = True, row
        self._say_reach()
        try:
            spec = None if row is None else row.spec
            for param, control in self.by_param.items():
                control.disabled = row is None or (spec is None and param != "left_float")
            self.by_param["left_float"].value = row is not None and spec is None
            if spec is not None:
                trained = spec.quantizer_type is QuantizerType.TQT
                self.by_param["method"].disabled = trained
                for param in ("bit_width", "per_channel", "symmetry"):
                    self.by_param[param].value = getattr(spec, param)
                for param in ("method", "round_mode"):
                    self.by_param[param].value = getattr(spec, param).name
        finally:
            self._showing = False

    def _say_reach(self) -> None:
        """In words what a change will reach: the answer to a press on the buttons."""
        row = self._row
        if row is None:
            self.reach.value = ""
            return
        what = f"{row.role.value} quantizers" if self.scope.value is not Scope.TENSOR else row.name
        where = {
            Scope.TENSOR: "",
            Scope.TYPE: f" of all {row.kind} layers",
            Scope.MODEL: " of the whole model",
        }
        text = escape(f"{what}{where[self.scope.value]}")
        self.reach.value = f"<div class='vq vq-reach' role='status'>Changes reach: {text}</div>"

    def _tell(self, param: str, value: Any) -> None:
        if not self._showing:
            self._moved(param, value)


def _flow(margin: str = "0") -> Any:
    return w.Layout(flex_flow="row wrap", margin=margin)
