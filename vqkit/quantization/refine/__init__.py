"""Adjust positions to what a DPU can shift (the strategy's refine pipeline).

Names in formulas: ip, op, wp, bp are the positions of input, output, weight and bias of a layer;
shift_cut = wp + ip - op and shift_bias = wp + ip - bp are the shifts of the accumulator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vqkit.graph.ir import Graph, Node
from vqkit.graph.passes.simplify import KERNEL, WEIGHTED
from vqkit.primitives.spec import QuantizerSpec, QuantizerType
from vqkit.quantization.plan import QuantizedRow, Slot
from vqkit.quantization.solve import Encodings

TRANSPARENT = ("Flatten", "Reshape", "ZeroPadding2D")
POOLS = (
    "MaxPooling2D",
    "AveragePooling2D",
    "GlobalAveragePooling2D",
    "VitisAveragePooling2D",
    "VitisGlobalAveragePooling2D",
)
MAX_CUT, MAX_BIAS, MAX_READ, SIGMOID_INPUT, SIGMOID_OUTPUT = 16, 16, 15, 15, 7


class _StopError(Exception):
    """The reference leaves a whole adjustment at the first layer it cannot adjust."""


class Refiner:
    """Reads and changes positions by layer; collects what it did.

    Args:
        graph: with fake-quantize layers inserted.
        rows: fake-quantize layer name -> plan row.
        encodings: decisions; not changed, see `encodings` for the result.
        vitis_compat: stop where the reference stops, and saturate weights where it does.
    """

    def __init__(
        self, graph: Graph, rows: Mapping[str, QuantizedRow], encodings: Encodings, vitis_compat: bool
    ) -> None:
        self.graph, self.rows, self.compat = graph, rows, vitis_compat
        self.encodings = dict(encodings)
        self.report: list[str] = []
        self.producers, self.consumers = graph.producers(), graph.consumers()

    # --- positions by layer ---

    def input_keys(self, node: Node) -> list[str | None]:
        """For each input of a node the row that quantized it, found upwards through transparent layers."""
        return [self._upwards(v) for v in node.inputs]

    def _upwards(self, value: int) -> str | None:
        node = self.producers.get(value)
        if node is None:
            return None
        if node.layer in self.rows:
            return self.rows[node.layer].name
        if self.graph.kind(node) in TRANSPARENT and self.graph.is_candidate(node):
            return self._upwards(node.inputs[0])
        before = self.producers.get(node.inputs[0]) if node.inputs else None
        row = None if before is None else self.rows.get(before.layer)
        # The reference takes what stands in front of a float function for the position of its output.
        return row.name if self.compat and row is not None and row.slot is Slot.PRE_ACTIVATION else None

    def output_key(self, node: Node) -> str | None:
        """The row that quantizes a node's output, directly or behind its first reader."""
        for reader in self.consumers[node.output][:1]:
            if reader.layer in self.rows:
                return self.rows[reader.layer].name
            for second in self.consumers[reader.output][:1]:
                if second.layer in self.rows and self.rows[second.layer].layer == reader.name:
                    return self.rows[second.layer].name
        return None

    def pos(self, key: str | None) -> float | None:
        """A per-tensor position; None where there is none."""
        params = self.encodings.get(key or "")
        if params is None or params.pos is None or params.pos.ndim:
            return None
        return float(params.pos)

    def set_pos(self, key: str, pos: float, why: str) -> None:
        """Change a position and report it."""
        old = self.encodings[key]
        if float(old.pos if old.pos is not None else np.nan) != pos:
            self.encodings[key] = replace(old, pos=np.asarray(pos, np.float32))
            self.report.append(f"{why}: {key} position {float(old.pos):g} -> {pos:g}")  # type: ignore[arg-type]

    def give_up(self, why: str) -> None:
        """Leave one layer as it is, or stop the whole adjustment in compat mode."""
        if self.compat:
            raise _StopError
        self.report.append(f"{why}: left as it is")

    def each(self, kinds: tuple[str, ...], adjust: Callable[[Node], None]) -> None:
        """Apply an adjustment to each candidate layer of these kinds, in graph order."""
        try:
            for node in self.graph.nodes:
                if self.graph.kind(node) in kinds and self.graph.is_candidate(node):
                    adjust(node)
        except _StopError:
            return

    # --- the adjustments ---

    def sigmoid(self, node: Node) -> None:
        """Input position 0 to 15 (2.5 has no upper limit, 3.5 has), output position at least 7."""
        (key,), out = self.input_keys(node), self.output_key(node)
        if (pos := self.pos(key)) is not None:
            highest = pos if self.compat else SIGMOID_INPUT
            self.set_pos(str(key), max(min(pos, highest), 0), "adjust_dpu_sigmoid")
        if (pos := self.pos(out)) is not None and pos < SIGMOID_OUTPUT:
            self.set_pos(str(out), SIGMOID_OUTPUT, "adjust_dpu_sigmoid")

    def shift_read(self, node: Node) -> None:
        """Inputs of Add and Multiply at most 15 positions apart."""
        known = {k: p for k in self.input_keys(node) if k is not None and (p := self.pos(k)) is not None}
        if len(known) > 1:
            low, (high_key, high) = min(known.values()), max(known.items(), key=lambda item: item[1])
            if high - low > MAX_READ:
                self.set_pos(high_key, low + MAX_READ, "adjust_dpu_shift_read")

    def shift_cut(self, node: Node) -> None:
        """0 <= wp + ip - op <= 16."""
        weight, out, ip = self._weight_key(node), self.output_key(node), self.pos(self.input_keys(node)[0])
        wp, op = self.pos(weight), self.pos(out)
        if wp is None or ip is None or op is None:
            return self.give_up(f"adjust_dpu_shift_cut: {node.name} lacks a per-tensor position") if weight else None
        cut = wp + ip - op
        if cut > MAX_CUT or (cut < 0 and self.compat):
            self.set_pos(weight, min(max(cut, 0), MAX_CUT) + op - ip, "adjust_dpu_shift_cut")
        elif cut < 0:
            # Raising wp would saturate the weights; the accumulator has no bits below wp + ip to lose.
            self.set_pos(str(out), wp + ip, "adjust_dpu_shift_cut")
        return None

    def shift_bias(self, node: Node) -> None:
        """min(0, -(16 - shift_cut)) <= wp + ip - bp <= 16."""
        self._limit_bias(node, "adjust_dpu_shift_bias", lambda cut: min(0, -(24 - (8 + cut))))

    def shift_bias_leakyrelu(self, node: Node) -> None:
        """0 <= wp + ip - bp <= 16 in front of a LeakyReLU (3.5)."""
        if self._reader(node) == "LeakyReLU":
            self._limit_bias(node, "adjust_dpu_shift_bias_leakyrelu", lambda _: 0)

    def _limit_bias(self, node: Node, step: str, lowest: Callable[[float], float]) -> None:
        weight, bias = self._weight_key(node), f"{node.layer}/bias"
        wp, bp = self.pos(weight), self.pos(bias)
        ip, op = self.pos(self.input_keys(node)[0]), self.pos(self.output_key(node))
        if wp is None or ip is None or op is None or bp is None:
            return self.give_up(f"{step}: {node.name} lacks a per-tensor position") if weight else None
        shift = wp + ip - bp
        new = wp + ip - min(max(shift, lowest(wp + ip - op)), MAX_BIAS)
        if new > bp and not self.compat:
            return self.give_up(f"{step}: {node.layer} would saturate its bias")
        return self.set_pos(bias, new, step)

    def _reader(self, node: Node) -> str:
        """Kind of the layer that first reads a node, behind its quantizer if it has one; "" without."""
        for reader in self.consumers[node.output][:1]:
            return self._reader(reader) if reader.layer in self.rows else self.graph.kind(reader)
        return ""

    def shift_write(self, node: Node) -> None:
        """|min(ip) - op| <= 15 for Add and Multiply (3.5)."""
        known = [p for k in self.input_keys(node) if (p := self.pos(k)) is not None]
        op = self.pos(out := self.output_key(node))
        if known and op is not None and abs(min(known) - op) > MAX_READ:
            self.set_pos(str(out), min(known) + (MAX_READ if op > min(known) else -MAX_READ), "adjust_dpu_shift_write")

    def shift_swish(self, node: Node) -> None:
        """0 <= ip0 + ip1 - op <= 15 for the product of a swish (3.5)."""
        if not any(self._is_gate(v) for v in node.inputs):
            return
        known, out = [self.pos(k) for k in self.input_keys(node)], self.output_key(node)
        op = self.pos(out)
        if len(known) == 2 and None not in known and op is not None:
            total = float(known[0] or 0) + float(known[1] or 0)
            self.set_pos(str(out), total - min(max(total - op, 0), MAX_READ), "adjust_dpu_shift_swish")

    def _is_gate(self, value: int) -> bool:
        node = self.producers.get(value)
        while node is not None and node.layer in self.rows:
            node = self.producers.get(node.inputs[0])
        return node is not None and self.graph.kind(node) == "VitisSigmoid"

    def align(self, node: Node) -> None:
        """Inputs and output at the smallest of their positions (3.5: concatenations, pools)."""
        keys = [k for k in (*self.input_keys(node), self.output_key(node)) if self.pos(k) is not None]
        lowest = min((p for k in keys if (p := self.pos(k)) is not None), default=None)
        for key in keys:
            self.set_pos(str(key), float(lowest or 0), "align")

    def _weight_key(self, node: Node) -> str:
        name = f"{node.layer}/{KERNEL}"
        return name if name in self.encodings else ""


def refine(
    graph: Graph, rows: Mapping[str, QuantizedRow], encodings: Encodings, config: Any, *, vitis_compat: bool = False
) -> tuple[Encodings, list[str]]:
    """Run the position adjustments that the strategy asks for.

    Args:
        graph: with fake-quantize layers inserted.
        rows: fake-quantize layer name -> plan row.
        encodings: decisions from calibration.
        config: the strategy's `refine_pipeline_config`, one attribute for each key.
        vitis_compat: as the reference does, early returns and saturating shifts included.

    Returns:
        New decisions, and a line for each change.
    """
    refiner = Refiner(graph, rows, _to_pof2s(encodings, config, vitis_compat), vitis_compat)
    for key, kinds, adjust in (
        ("adjust_dpu_sigmoid", ("VitisSigmoid",), refiner.sigmoid),
        ("adjust_dpu_shift_read", ("Add", "Multiply"), refiner.shift_read),
        ("adjust_dpu_shift_cut", WEIGHTED, refiner.shift_cut),
        ("adjust_dpu_shift_bias", WEIGHTED, refiner.shift_bias),
        ("adjust_dpu_shift_bias_leakyrelu", WEIGHTED, refiner.shift_bias_leakyrelu),
        ("adjust_dpu_shift_write", ("Add", "Multiply"), refiner.shift_write),
        ("adjust_dpu_shift_swish", ("Multiply",), refiner.shift_swish),
        ("align_concat", ("Concatenate",), refiner.align),
        ("align_pool", POOLS, refiner.align),
    ):
        if getattr(config, key, False):
            refiner.each(kinds, adjust)
    return _to_float_scale(refiner.encodings, config, vitis_compat), refiner.report


def _to_pof2s(encodings: Encodings, config: Any, compat: bool) -> Encodings:
    """Trained thresholds become plain positions; the reference takes every width for 8 bits."""
    if not getattr(config, "convert_to_pof2s_quantize_strategy", False):
        return encodings
    converted = {}
    for key, params in encodings.items():
        if params.spec.quantizer_type is QuantizerType.TQT and params.pos is not None:
            shift = 8 - params.spec.bit_width if compat else 0
            pos = params.pos + np.float32(shift)
            params = replace(params, spec=converted_spec(params.spec, config), pos=pos)
        converted[key] = params
    return converted


def _to_float_scale(encodings: Encodings, config: Any, compat: bool) -> Encodings:
    """Positions become float ranges; the reference takes every width for 8 bits."""
    if not getattr(config, "convert_to_fs_quantize_strategy", False):
        return encodings
    converted = {}
    for key, params in encodings.items():
        if params.spec.pow2 and params.pos is not None:
            low, high = (-128, 127) if compat else (params.spec.q_min, params.spec.q_max)
            step = np.exp2(-params.pos).astype(np.float32)
            spec = converted_spec(params.spec, config)
            params = replace(params, spec=spec, f_min=low * step, f_max=high * step, pos=None)
        converted[key] = params
    return converted


def converted_spec(spec: QuantizerSpec, config: Any) -> QuantizerSpec:
    """The quantizer that a requested one becomes in the refine pipeline.

    Args:
        spec: as planned.
        config: the strategy's `refine_pipeline_config`.

    Returns:
        The same, or its type converted where the strategy converts.
    """
    if spec.quantizer_type is QuantizerType.TQT and getattr(config, "convert_to_pof2s_quantize_strategy", False):
        spec = spec.with_(quantizer_type=QuantizerType.POF2S)
    if spec.pow2 and getattr(config, "convert_to_fs_quantize_strategy", False):
        spec = spec.with_(quantizer_type=QuantizerType.FS, use_framework_quant=False)
    return spec
