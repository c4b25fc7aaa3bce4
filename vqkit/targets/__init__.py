"""Before anything runs: which layers will be on the device, which not, why, and what would change that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from vqkit import tables
from vqkit.errors import StrategyError, not_allowed
from vqkit.graph.ir import Graph, Node
from vqkit.quantization.prepare import as_strategy, prepare
from vqkit.targets.check import Calls, DpuCheck

if TYPE_CHECKING:
    import keras

    from vqkit.strategy import Strategy

TARGETS = ("dpu",)
DPU, CPU = "DPU", "CPU"


@dataclass(frozen=True, slots=True)
class InspectedLayer:
    """One call of a layer in the prepared graph.

    Attributes:
        layer: its name; `<layer>@2` for the second call of a shared layer.
        kind: class of the layer.
        device: "DPU" or "CPU".
        partition: number of the part of the model on the device, from 1; None on the CPU.
        between: it is on the CPU, with layers on the device before and behind it.
        reason: why it is not on the device, or what differs there; "" where there is nothing to say.
        way_out: what to change in the model or the strategy.
        model_layers: the user's layers behind it.
    """

    layer: str
    kind: str
    device: str
    partition: int | None
    between: bool
    reason: str
    way_out: str
    model_layers: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """Which layers a device will run.

    Attributes:
        rows: every call of a layer, in graph order.
        subgraphs: number of parts of the model on the device. A CPU layer between device layers costs
            one more, and with it a way to the CPU and back for each image.
        target: the device.
        strategy: name of the strategy.
        model: name of the model.
    """

    rows: tuple[InspectedLayer, ...]
    subgraphs: int
    target: str
    strategy: str
    model: str

    @property
    def on_cpu(self) -> tuple[InspectedLayer, ...]:
        """The layers that the device does not run."""
        return tuple(row for row in self.rows if row.device == CPU)

    @property
    def partitions(self) -> tuple[tuple[str, ...], ...]:
        """The layers of each part on the device."""
        numbers = range(1, self.subgraphs + 1)
        return tuple(tuple(r.layer for r in self.rows if r.partition == n) for n in numbers)

    def __getitem__(self, layer: str) -> InspectedLayer:
        """The row of a layer; KeyError when there is none."""
        for row in self.rows:
            if row.layer == layer:
                return row
        raise KeyError(layer)

    def summary(self) -> str:
        """One line: how many layers are where, in how many parts."""
        device, total, off = self.target.upper(), len(self.rows), len(self.on_cpu)
        between = sum(row.between for row in self.rows)
        parts = f", in {self.subgraphs} partition" + ("" if self.subgraphs == 1 else "s")
        line = f"{total - off} of {total} layers of {self.model!r} on the {device} under {self.strategy!r}"
        line += parts if self.subgraphs else ""
        line += f"; {off} on the CPU" if off else ""
        return line + (f", {between} of them between layers on the {device}" if between else "")

    def to_json(self) -> dict[str, Any]:
        """The inspection as JSON values."""
        return {
            "target": self.target,
            "model": self.model,
            "strategy": self.strategy,
            "summary": self.summary(),
            "subgraphs": self.subgraphs,
            "rows": [{**asdict(row), "model_layers": list(row.model_layers)} for row in self.rows],
        }

    def to_frame(self) -> Any:
        """The inspection as a pandas table, one row for each call of a layer."""
        import pandas as pd

        rows = [{**asdict(r), "model_layers": ", ".join(r.model_layers)} for r in self.rows]
        frame = pd.DataFrame(rows, columns=list(InspectedLayer.__dataclass_fields__))
        return frame.astype({"partition": "Int64"})

    def __str__(self) -> str:
        frame = self.to_frame()[["layer", "kind", "device", "partition"]]
        table = tables.frame_table(frame, width=tables.terminal_width())
        notes = [row for row in self.rows if row.device != CPU and row.reason]
        parts = [self.summary(), table]
        parts += ["On the CPU:\n" + _reasons(self.on_cpu)] if self.on_cpu else []
        parts += [f"On the {self.target.upper()}, but:\n" + _reasons(notes)] if notes else []
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.summary())}</p>{tables.frame_table(self.to_frame(), tables.html_table)}"


def _reasons(rows: Iterable[InspectedLayer]) -> str:
    """Each reason once, with its layers and the way out."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        found.setdefault((row.reason, row.way_out), []).append(row.layer)
    return "\n".join(f"  {', '.join(layers)}: {why}\n      -> {way}" for (why, way), layers in found.items())


def inspect(model: keras.Model, strategy: Strategy, target: str = "dpu", *, vitis_compat: bool = False) -> Inspection:
    """Say for every layer whether the device will run it, before anything runs.

    Answered from the plan: the layers as the optimize pipeline and the conversions leave them, and the
    quantizers that the strategy gives them. Checked are the rules of `dpu_target`; limits of one particular
    DPU (kernel sizes, products of channels, memory) are not known, so the vendor's compiler may still put a
    layer on the CPU.

    Args:
        model: a built functional or Sequential Keras model; it is not changed.
        strategy: a `Strategy`, or the name or path of one.
        target: "dpu".
        vitis_compat: as the reference would quantize.

    Returns:
        The inspection: a table that prints, with `.to_frame()` and `.to_json()`.

    Raises:
        StrategyError: the target is unknown, or the strategy does not fit the model.
        ModelError: the model cannot be read.

    Example:
        >>> import keras, vqkit
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv")])
        >>> vqkit.inspect(model, "pof2s").partitions
        (('conv',),)
    """
    if target not in TARGETS:
        raise StrategyError(not_allowed("target", target, TARGETS))
    strategy = as_strategy(strategy)
    prepared = prepare(model, strategy, vitis_compat=vitis_compat)
    check = DpuCheck(Calls(prepared.graph, prepared.plan, strategy.refine), strategy, vitis_compat=vitis_compat)
    device = {node.name for node in prepared.graph.nodes if check.why_not(node) is None}
    number, between = partitions(prepared.graph, device), between_layers(prepared.graph, device)
    rows = tuple(_row(node, prepared.graph, check, number, between) for node in prepared.graph.nodes)
    return Inspection(rows, max(number.values(), default=0), target, strategy.name, prepared.graph.name)


def _row(node: Node, graph: Graph, check: DpuCheck, number: Mapping[str, int], between: set[str]) -> InspectedLayer:
    why = check.why_not(node)
    said = why or check.note(node)
    reason, way_out = (said.reason, said.way_out) if said else ("", "")
    return InspectedLayer(
        node.name,
        graph.kind(node),
        CPU if why else DPU,
        number.get(node.name),
        node.name in between,
        reason,
        way_out,
        node.origin,
    )


def partitions(graph: Graph, device: set[str]) -> dict[str, int]:
    """Cut the layers on the device into parts that can each run in one go.

    Two connected layers are in one part unless a way from one to the other leads over the CPU.

    Args:
        graph: the layers.
        device: names of the nodes on the device.

    Returns:
        Node name -> number of its part, from 1 in graph order.
    """
    producers, level = graph.producers(), dict[str, int]()
    part: dict[str, str] = {}
    for node in graph.nodes:
        before = [p for v in dict.fromkeys(node.inputs) if (p := producers.get(v)) is not None]
        on = node.name in device
        level[node.name] = max((level[p.name] + (on and p.name not in device) for p in before), default=0)
        if on:
            near = [p.name for p in before if p.name in device and level[p.name] == level[node.name]]
            joined = {part[name] for name in near}
            part = {k: node.name if v in joined else v for k, v in part.items()} | {node.name: node.name}
    order = {name: i for i, name in enumerate(dict.fromkeys(part.values()), start=1)}
    return {node: order[name] for node, name in part.items()}


def between_layers(graph: Graph, device: set[str]) -> set[str]:
    """Names of the nodes off the device that have nodes on it both before and behind them."""
    producers, consumers = graph.producers(), graph.consumers()
    after, before = set[str](), set[str]()
    for node in graph.nodes:
        near = [p.name for v in node.inputs if (p := producers.get(v)) is not None]
        if any(name in device or name in after for name in near):
            after.add(node.name)
    for node in reversed(graph.nodes):
        near = [reader.name for v in node.outputs for reader in consumers[v]]
        if any(name in device or name in before for name in near):
            before.add(node.name)
    return (after & before) - device
