"""The explorer's plan rows, pictures and controls."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from vqkit.comparison.page import bar, figure_html, mark, message_html
from vqkit.primitives.spec import Method, QuantizerType, RoundMode
from vqkit.quantization.plan import Plan, Row
from vqkit.strategy.scope import Scope, scope_of
from vqkit.tables import Column
from vqkit.widgets.elements import base, script

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
    shown = {
        "key": row.name,
        "layer": row.layer,
        "tensor": row.tensor,
        "decided": provenance(row),
        "sqnr": None if cost is None else cost.sqnr_db,
        "measured": measured,
    }
    if spec is None:
        word = row.data_type or "float"
        return {**shown, "bits": None, "scale": word, "method": "", "channels": "", "class": "quiet"}
    return {
        **shown,
        "bits": spec.bit_width,
        "scale": "pow-2" if spec.pow2 else "float scale",
        "method": spec.method.name.lower().replace("_", " "),
        "channels": "per channel" if spec.per_channel else "per tensor",
        "class": "",
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
    return mark(kind, short, tip or words)


def _noise(value: float | None) -> str:
    return bar(value, FULL_BAR, unit="dB", low=LOW)


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


def tensor_picture(work: Any, row: Row | None, *, dark: bool) -> str:
    """One tensor at a glance, or why there is nothing to see.

    Args:
        work: a `Exploration`.
        row: the tensor.
        dark: for a dark page.
    """
    from vqkit.plots import DARK, LIGHT, tensor_panels

    look = None if row is None else work.look(row)
    if row is None or look is None:
        return message_html("choose a row" if row is None else f"{row.name} stays float: {row.reason}")
    cost = work.state.costs[row.name]
    spec = look.qparams.spec
    alt = (
        f"{row.name}: histogram with the {spec.bit_width} bit grid, error over the scale, channel ranges; "
        f"own SQNR {cost.sqnr_db:.1f} dB"
    )
    with _tidied():
        return figure_html(
            tensor_panels(
                look.values,
                look.quantized,
                look.qparams,
                look.curve,
                title=row.name,
                before=look.before,
                axis=look.axis,
                theme=DARK if dark else LIGHT,
            ),
            alt,
        )


@contextmanager
def _tidied() -> Iterator[None]:
    """Free what is made inside while it is young.

    A figure is a knot of cycles. Left to Python's own pace it outlives the young generations, and every tenth
    figure waits for a search through all that TensorFlow holds, half a second.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
            gc.collect(1)


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
        "bit_width": spec.bit_width,
        "method": spec.method.name,
        "round_mode": spec.round_mode.name,
        "per_channel": spec.per_channel,
        "symmetry": spec.symmetry,
    }
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
                queue,
                table=table,
                methods=_options(Method),
                roundings=_options(RoundMode),
                scopes=[[str(s), tip] for s, tip in zip(Scope, _TIPS, strict=True)],
            )
            self._moved = moved

        def heard(self, content: dict[str, Any]) -> None:
            scope = list(Scope)[int(content["scope"])]
            self._moved(str(content["row"]), scope, str(content["param"]), content["value"])

    return ControlsWidget


def _options(names: Any) -> list[list[str]]:
    return [[n.name.lower().replace("_", " "), n.name] for n in names]
