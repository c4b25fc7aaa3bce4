"""Mixed precision: bits for each layer, chosen by integer programming, then checked on the real model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqkit import statistics, tables
from vqkit.errors import DataError, ModelError, StrategyError, not_allowed
from vqkit.evaluation.cost import macs
from vqkit.evaluation.judgement import Evidence
from vqkit.files import write_bytes
from vqkit.quantization.layer_kinds import KEEPS_GRID
from vqkit.quantization.plan import Role
from vqkit.quantization.prepare import PreparedModel, as_strategy, prepare
from vqkit.search import allocation
from vqkit.search.allocation import FLOAT_BITS, Choice, ChoiceGroup, Option, Problem, Product
from vqkit.search.engine import Engine, Measured
from vqkit.search.layer_sensitivity import Answers, answered, default_by, harmful
from vqkit.search.questions import Question, Rules, Unit, units, with_rules

if TYPE_CHECKING:
    import pandas as pd

    from vqkit.strategy import Strategy


@dataclass(frozen=True, eq=False)
class Point:
    """One strategy of a front, with what it really does.

    Attributes:
        name: for people and file names.
        strategy: complete; its JSON reloads to the same result.
        predicted: additive cost by which it was chosen; NaN for a uniform strategy.
        measured: by a real evaluation.
        bits: layer -> text such as "w4 a8".
    """

    name: str
    strategy: Strategy
    predicted: float
    measured: Measured
    bits: dict[str, str]


@dataclass(frozen=True, eq=False)
class SizeFront:
    """Mixed strategies by size, smallest first, with uniform ones to compare with.

    Attributes:
        points: mixed ones.
        uniform: one width everywhere.
        reference: how the float model does.
    """

    points: tuple[Point, ...]
    uniform: tuple[Point, ...]
    reference: Evidence

    @property
    def table(self) -> pd.DataFrame:
        """Every point, mixed and uniform, by size."""
        import pandas as pd

        every = sorted((*self.points, *self.uniform), key=lambda p: p.measured.size_bytes)
        rows = [self._row(p, on) for p, on in zip(every, on_front(every), strict=True)]
        return pd.DataFrame(rows)

    def _row(self, point: Point, on_front: bool) -> dict[str, Any]:
        m = point.measured
        bits = " ".join(f"{k}:{v.replace(' ', '')}" for k, v in point.bits.items())
        return {
            "name": point.name,
            m.measure.column: m.value,
            "drop": m.drop,
            "size_bytes": m.size_bytes,
            "bit_operations": m.bit_operations,
            "kl": m.kl,
            "p_float": m.evidence.p_value(self.reference),
            "pareto": on_front,
            "bits": bits,
        }

    def pareto(self) -> tuple[Point, ...]:
        """The mixed points that no other mixed point beats."""
        return tuple(p for p, keep in zip(self.points, on_front(self.points), strict=True) if keep)

    def best(self, *, max_size: float | None = None, max_drop: float | None = None) -> Point | None:
        """The best point within the bounds; without `max_size`, the smallest within `max_drop`.

        Args:
            max_size: bytes.
            max_drop: what may be lost against float, in the metric's unit; of accuracy a fraction.
        """
        fits = [
            p
            for p in (*self.points, *self.uniform)
            if (max_size is None or p.measured.size_bytes <= max_size)
            and (max_drop is None or p.measured.drop <= max_drop)
        ]
        if max_size is None and max_drop is not None:
            return min(fits, key=lambda p: p.measured.size_bytes, default=None)
        return max(fits, key=lambda p: (p.measured.goodness, -p.measured.size_bytes), default=None)

    def save(self, folder: str | Path) -> list[Path]:
        """Write each mixed point's strategy as `<name>.json`, and `front.csv`.

        Returns:
            The strategy files.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        for p in self.points:
            p.strategy.dump(place / f"{p.name}.json")
        write_bytes(place / "front.csv", self.table.to_csv(index=False).encode())
        return [place / f"{p.name}.json" for p in self.points]

    def __str__(self) -> str:
        measure = self.reference.metric.measure
        cells = [
            [
                r["name"],
                measure.plain(r[measure.column]),
                measure.signed(r[measure.column] - self.reference.value),
                tables.size(r["size_bytes"]),
                tables.number(r["kl"], 4),
                f"{r['p_float']:.2g}",
                "pareto" if r["pareto"] else "",
            ]
            for r in self.table.to_dict("records")
        ]
        header = ("strategy", measure.label, "Δ float", "size", "KL nats", "p (float)", "")
        return tables.text_table(header, cells, left=(0, 6))


def mixed(
    engine: Engine,
    strategy: Strategy | str = "fsx",
    *,
    bits: Sequence[int] = (8, 6, 5, 4, 3, 2),
    kinds: Sequence[str] = ("weights",),
    by: str | None = None,
    points: int = 12,
    max_size: float | None = None,
    max_bit_operations: float | None = None,
    max_drop: float | None = None,
    per_channel: Sequence[bool] = (),
    leave_float: bool = False,
    sensitivity_engine: Engine | None = None,
    uniform: Sequence[int] = (),
    until: float = float("inf"),
    progress: bool = False,
) -> SizeFront:
    """A front of mixed strategies, each verified by a real evaluation.

    Args:
        engine: measures the points.
        strategy: gives quantizers and passes; the choice adds name rules to it. Sensitivities are asked
            without its bias correction and fine-tuning, the points are measured with them.
        bits: widths a layer may have.
        kinds: "weights", "activations": what may have widths of its own.
        by: additive cost: "kl", or "sqnr_db" (noise over signal of the output), or the metric (its loss); by default
            "kl", of a model that does not answer with classes "sqnr_db".
        points: sizes at which a strategy is sought.
        max_size: bytes that no point may exceed.
        max_bit_operations: for one sample, that no point may exceed.
        max_drop: what may be lost, in the metric's unit (of accuracy a fraction; see `Engine.bound`); between the
            last point that loses more and the first that loses less, further ones are sought until they are
            neighbours (`repair`).
        per_channel: also choose for each layer's weights among these.
        leave_float: also allow a layer to stay float.
        sensitivity_engine: asks the sensitivities, on fewer samples for instance.
        uniform: widths of uniform strategies to compare with.
        until: `time.monotonic()` from which no further point is measured.
        progress: show a progress bar.

    Returns:
        The front.

    Raises:
        StrategyError: no choice fits the bounds.
        DataError: `by` is no cost of this model.
    """
    from tqdm.auto import tqdm

    base = as_strategy(strategy)
    prepared = prepare(engine.model, base, vitis_compat=engine.settings.vitis_compat)
    asker = sensitivity_engine or engine
    options = LayerOptions(
        asker, _uncorrected(base), prepared, tuple(bits), by, tuple(per_channel), leave_float, progress
    )
    problem = options.problem(tuple(kinds), _size_of(engine, base))
    bounds = {"max_size": max_size, "max_bit_operations": max_bit_operations}
    choices = list(allocation.front(problem, points, **bounds))
    if not choices:
        low, high = problem.extremes()
        raise StrategyError(
            f"mixed precision: no choice fits max_size={max_size}, max_bit_operations="
            f"{max_bit_operations}; sizes go from {low:.0f} to {high:.0f} bytes"
        )
    found: list[Point] = []
    # The middle of the front first: where time ends, its ends are the least interesting.
    order = sorted(range(len(choices)), key=lambda i: abs(i - len(choices) / 2))
    for i in tqdm(order, desc="mixed", unit="strategy", disable=not progress):
        if not found or time.monotonic() < until:
            found.append(_point(engine, base, prepared, problem, choices[i]))
    if max_drop is not None and time.monotonic() < until:
        found += _repair(engine, base, prepared, problem, found, max_drop, bounds)
    compared = [_uniform(engine, base, prepared, width, tuple(kinds)) for width in uniform]
    ordered = sorted(found, key=lambda p: p.measured.size_bytes)
    return SizeFront(tuple(ordered), tuple(compared), engine.reference)


def on_front(points: Sequence[Point]) -> Any:
    """Which points none beats by size and metric, shape (n,)."""
    return statistics.pareto([p.measured.size_bytes for p in points], [p.measured.goodness for p in points])


def _uncorrected(base: Strategy) -> Strategy:
    """The base without what trains or corrects the model: sensitivities tell layers apart without it."""
    on = {"include_bias_corr": base.refine.include_bias_corr, "include_fast_ft": base.refine.include_fast_ft}
    off = {k: False for k, is_on in on.items() if is_on}
    return base.with_kwargs(**off) if off else base


def _size_of(engine: Engine, base: Strategy) -> float:
    return engine.measure(base).size_bytes


class LayerOptions:
    """Sensitivities as options of slots."""

    def __init__(
        self,
        asker: Engine,
        base: Strategy,
        prepared: PreparedModel,
        bits: tuple[int, ...],
        by: str | None,
        per_channel: tuple[bool, ...],
        leave_float: bool,
        progress: bool,
    ) -> None:
        self._prepared, self._bits, self._by = prepared, bits, by
        self._channels: tuple[bool | None, ...] = per_channel or (None,)
        self._float = leave_float
        self.units = units(prepared)
        self._asker = asker
        self._ask = lambda questions: answered(asker, base, prepared, questions, progress=progress)

    def problem(self, kinds: tuple[str, ...], base_bytes: float) -> Problem:
        """The whole problem; `base_bytes` is the size under the base strategy."""
        asked = [q for kind in kinds for u in self.units if kind in u.kinds for q in self._questions(u, kind)]
        answers = self._ask(asked)
        by = default_by(answers[q] for q in asked) if self._by is None else self._by
        costs = {name: [self._cost(answers[q], name) for q in asked] for name in harmful(self._asker.metric.measure)}
        known = [name for name, own in costs.items() if all(map(isfinite, own))]
        if by not in known:
            raise DataError(not_allowed("by", by, known, what="cost"))
        slots = tuple(self._slot(u, kind, answers, by) for kind in kinds for u in self.units if kind in u.kinds)
        now = sum(s.parameters * self._planned(s.layer) / 8 for s in slots)
        return Problem(slots, base_bytes - now, tuple(self._products(slots)))

    def _questions(self, unit: Unit, kind: str) -> list[Question]:
        channels = self._channels if kind == "weights" else (None,)
        return [Question(unit, kind, b, "only", c) for b in self._bits for c in channels]

    def _slot(self, unit: Unit, kind: str, answers: Answers, by: str) -> ChoiceGroup:
        asked = self._questions(unit, kind)
        options = [Option(q.bits, self._cost(answers[q], by), q.per_channel) for q in asked]
        if self._float:
            options.append(Option(FLOAT_BITS, 0.0))
        return ChoiceGroup(unit.layer, kind, tuple(options), unit.parameters if kind == "weights" else 0)

    def _cost(self, answer: dict[str, float], by: str) -> float:
        if by == "sqnr_db":
            return float(10 ** (-answer["sqnr_db"] / 10))
        if by == "kl":
            return max(answer["kl"], 0.0)  # in this order, so that no number stays none
        measure = self._asker.metric.measure
        return max(float(measure.drop(answer[measure.column], self._asker.reference.value)), 0.0)

    def _planned(self, layer: str) -> int:
        rows = [r for r in self._prepared.plan.quantized if r.layer == layer and r.role is Role.WEIGHT]
        return rows[0].spec.bit_width if rows else FLOAT_BITS

    def _products(self, slots: tuple[ChoiceGroup, ...]) -> list[Product]:
        graph = self._prepared.graph
        by_name = {(s.layer, s.kind): s for s in slots}
        try:
            counts = macs(graph)
        except ModelError:
            return []
        found = []
        for layer, count in counts.items():
            node = next(n for n in graph.nodes if n.layer == layer)
            weights = by_name.get((layer, "weights"), self._planned(layer))
            found.append(Product(count, weights, self._reads(node.inputs[0], by_name)))
        return found

    def _reads(self, value: int, by_name: dict[tuple[str, str], ChoiceGroup]) -> ChoiceGroup | int:
        """The slot, or the bits, of the quantizer behind which a layer reads."""
        graph, rows = self._prepared.graph, {r.value: r for r in self._prepared.plan.quantized}
        producers = graph.producers()
        while value not in rows and value in producers and graph.kind(producers[value]) in KEEPS_GRID:
            value = producers[value].inputs[0]
        row = rows.get(value)
        if row is None:
            return FLOAT_BITS
        named = {u.activation: u.layer for u in self.units if u.activation}
        unit = named.get(row.origin[0] if row.role is Role.INPUT else row.layer, "")
        return by_name.get((unit, "activations"), row.spec.bit_width)


def rules_of(choice: Choice, found: Sequence[Unit]) -> Rules:
    """The name rules that make a choice; see docs/strategy.md.

    Args:
        choice: slot -> option.
        found: the model's units.
    """
    by_layer = {u.layer: u for u in found}
    rules: Rules = {}
    left: dict[str, set[str]] = {}
    for slot, option in choice.items():
        unit = by_layer[slot.layer]
        name = unit.weights if slot.kind == "weights" else unit.activation
        rule = rules.setdefault(name, {})
        if option.bits == FLOAT_BITS:
            left.setdefault(name, set()).add(slot.kind)
            continue
        prefix = "weight" if slot.kind == "weights" else "input" if unit.is_input else "activation"
        rule[f"{prefix}_bit"] = option.bits
        if option.per_channel is not None:
            rule["weight_per_channel"] = option.per_channel
    for name, kinds in left.items():
        word = "nothing" if len(kinds) == 2 else "activations" if "weights" in kinds else "weights"
        rules[name]["quantize"] = word
    return rules


def _point(engine: Engine, base: Strategy, prepared: PreparedModel, problem: Problem, choice: Choice) -> Point:
    strategy = with_rules(base, rules_of(choice, units(prepared)))
    measured = engine.measure(strategy)
    bits: dict[str, str] = {}
    for slot, o in choice.items():
        text = f"{slot.kind[0]}{'f' if o.bits == FLOAT_BITS else o.bits}"
        text += {None: "", True: "c", False: "t"}[o.per_channel]
        bits[slot.layer] = f"{bits[slot.layer]} {text}" if slot.layer in bits else text
    name = f"mixed-{measured.size_bytes:.0f}-{strategy.digest[:6]}"
    return Point(name, strategy, problem.cost(choice), measured, bits)


def _uniform(engine: Engine, base: Strategy, prepared: PreparedModel, width: int, kinds: tuple[str, ...]) -> Point:
    choice: Choice = {}
    for u in units(prepared):
        for kind in kinds:
            if kind in u.kinds:
                slot = ChoiceGroup(u.layer, kind, ())
                choice[slot] = Option(width, 0.0)
    strategy = with_rules(base, rules_of(choice, units(prepared)))
    return Point(f"uniform-{width}", strategy, float("nan"), engine.measure(strategy), {"*": f"{width}"})


def _repair(
    engine: Engine,
    base: Strategy,
    prepared: PreparedModel,
    problem: Problem,
    found: Sequence[Point],
    max_drop: float,
    bounds: dict[str, float | None],
) -> list[Point]:
    """Further points between the largest that loses too much and the smallest that does not."""
    more: list[Point] = []
    for _ in range(6):
        every = sorted((*found, *more), key=lambda p: p.measured.size_bytes)
        good = next((p for p in every if p.measured.drop <= max_drop), None)
        bad = [
            p
            for p in every
            if p.measured.drop > max_drop and (good is None or p.measured.size_bytes < good.measured.size_bytes)
        ]
        if good is None or not bad:
            break
        between = (bad[-1].measured.size_bytes + good.measured.size_bytes) / 2
        choice = allocation.solve(problem, **{**bounds, "max_size": between})
        point = None if choice is None else _point(engine, base, prepared, problem, choice)
        if point is None or any(point.strategy == p.strategy for p in every):
            break
        more.append(point)
    return more
