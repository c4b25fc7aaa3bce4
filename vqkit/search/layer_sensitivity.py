"""How much each layer alone, all layers up to one, and each layer restored cost.

Two modes. "only": one unit's tensors are quantized and all else is float. "all_but": all is quantized to so
many bits, and one unit's tensors are left float. Each question is a real strategy (`questions.strategy_for`),
and its answer is what `quantize` and `evaluate` give for it. Source: the layer-wise analyses of M. Nagel et
al., A White Paper on Neural Network Quantization, 2021, section 5; label-free by KL divergence as in Y. Cai
et al., ZeroQ, 2020.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqkit import digest, tables
from vqkit.errors import DataError, RecordError, not_allowed
from vqkit.files import DiskCache
from vqkit.quantization.prepare import PreparedModel, as_strategy, prepare
from vqkit.search.engine import Engine
from vqkit.search.questions import (
    KINDS,
    MODES,
    Question,
    Rules,
    Unit,
    left_float,
    quantized_alone,
    questions,
    strategy_for,
    units,
    with_rules,
)
from vqkit.sweeps.variant import Settings
from vqkit.tables import Measure

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from vqkit.quantization.data import Data
    from vqkit.strategy import Strategy

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Answers to questions about layers.

    Attributes:
        rows: one mapping for each question, keys as in `columns`, in graph order.
        float_value: the metric of the float model on the same samples; of accuracy a fraction.
        n: evaluated samples.
        strategy: name of the base strategy.
        context: digest of model, data, base strategy, settings and code.
        measure: the metric.
    """

    rows: tuple[Mapping[str, Any], ...]
    float_value: float
    n: int
    strategy: str
    context: str
    measure: Measure = field(default_factory=Measure)

    @property
    def columns(self) -> tuple[str, ...]:
        """Keys of the rows: layer, kind, bits, mode (only/all_but), the metric, sqnr_db, kl."""
        return ("layer", "kind", "bits", "mode", *harmful(self.measure))

    @property
    def by(self) -> str:
        """What layers are told apart by where nobody says it."""
        return default_by(self.rows)

    @property
    def table(self) -> pd.DataFrame:
        """The answers, with `columns`."""
        import pandas as pd

        return pd.DataFrame(list(self.rows), columns=list(self.columns))

    def ranked(self, by: str | None = None, *, mode: str = "only", bits: int | None = None) -> pd.DataFrame:
        """The answers of one mode and width, most sensitive layer first.

        Args:
            by: the metric, "sqnr_db" or "kl", which need no labels; by default `self.by`.
            mode: "only" or "all_but"; there the layer that helps most when it is float comes first.
            bits: width; the smallest asked by default.

        Raises:
            RecordError: no such measure, mode or width.
        """
        harm = harmful(self.measure)
        by = self.by if by is None else by
        if by not in harm:
            raise RecordError(not_allowed("by", by, harm, what="measure"))
        table = self.table
        table = table[table["mode"] == mode]
        width = bits if bits is not None or table.empty else int(table["bits"].min())
        chosen = table[table["bits"] == width]
        if chosen.empty:
            asked = sorted({f"{r['mode']} {r['bits']}" for r in self.rows})
            raise RecordError(not_allowed("sensitivity", f"{mode} {width}", asked, what="mode and bits"))
        worse = harm[by] > 0
        return chosen.sort_values(by, ascending=not worse if mode == "only" else worse, kind="stable")

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not finite as text."""
        rows = [{k: _plain(v) for k, v in r.items()} for r in self.rows]
        rest = {k: getattr(self, k) for k in ("n", "strategy", "context")}
        judged = {} if self.measure == Measure() else {"metric": asdict(self.measure)}
        return {"schema": SCHEMA, f"float_{self.measure.column}": self.float_value, **rest, **judged, "rows": rows}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Sensitivity:
        """Read what `to_json` wrote.

        Raises:
            RecordError: another schema.
        """
        if value.get("schema") != SCHEMA:
            raise RecordError(not_allowed("sensitivity", value.get("schema"), [SCHEMA], what="schema"))
        measure = Measure.of(value.get("metric", {}))
        rows = tuple({**r, **{k: float(r[k]) for k in harmful(measure)}} for r in value["rows"])
        rest = {k: value[k] for k in ("n", "strategy", "context")}
        return cls(rows, value[f"float_{measure.column}"], measure=measure, **rest)

    def __str__(self) -> str:
        reference = f"float {self.measure.text(self.float_value)} on {self.n} samples"
        head = f"Sensitivity around {self.strategy}: {reference}"
        return f"{head}\n{tables.text_table(self._header(), self._cells(), left=(0, 1, 3))}"

    def _repr_html_(self) -> str:
        return tables.html_table(self._header(), self._cells(), left=(0, 1, 3))

    def _header(self) -> tuple[str, ...]:
        return ("layer", "kind", "bits", "mode", self.measure.label, "Δ float", "SQNR dB", "KL nats")

    def _cells(self) -> list[list[str]]:
        return [
            [
                r["layer"],
                r["kind"],
                str(r["bits"]),
                r["mode"],
                self.measure.plain(r[self.measure.column]),
                self.measure.signed(r[self.measure.column] - self.float_value),
                tables.number(r["sqnr_db"]),
                tables.number(r["kl"], 4),
            ]
            for r in self.rows
        ]


def harmful(measure: Measure) -> dict[str, float]:
    """What an answer tells of a layer -> 1 where more of it makes the layer the more sensitive, else -1.

    Args:
        measure: the metric.
    """
    return {measure.column: -measure.sign, "sqnr_db": -1.0, "kl": 1.0}


def default_by(answers: Iterable[Mapping[str, Any]]) -> str:
    """What layers are told apart by: "kl", or "sqnr_db" where the model does not answer with classes."""
    return "sqnr_db" if any(a["kl"] != a["kl"] for a in answers) else "kl"


def _plain(value: Any) -> Any:
    finite = not isinstance(value, float) or value - value == 0
    return value if finite else str(value)


def sensitivity(
    model: keras.Model,
    data: Data,
    strategy: Strategy | str = "pof2s",
    *,
    bits: Sequence[int] = (8, 6, 4),
    kinds: Sequence[str] = KINDS,
    modes: Sequence[str] = ("only",),
    images: int | None = 1000,
    settings: Settings | None = None,
    cache: str | Path | None = None,
    engine: Engine | None = None,
    metrics: Sequence[Any] | None = None,
    progress: bool = False,
) -> Sensitivity:
    """Ask of every layer what few bits do to the model, in a fraction of the time of asking one by one.

    Args:
        model: a built functional or Sequential Keras model; it is not changed.
        data: calibration samples and labelled ones; labels count only for the metric.
        strategy: the quantizers and passes around which is asked.
        bits: widths, 1 to 32.
        kinds: of "weights" (with biases, which keep their own bits), "activations", "both".
        modes: of "only", "all_but".
        images: evaluation samples, from the first; None means all.
        settings: as for a sweep.
        cache: folder where answers are kept by content; an answer that is there is not sought again.
        engine: measures instead of a new one; `images`, `settings`, `cache` and `metrics` are then its own.
        metrics: what `vqkit.evaluate` takes, the deciding one first; by default those of the task.
        progress: show a progress bar.

    Returns:
        A typed table.

    Raises:
        DataError: an unknown kind or mode, no bits, or metrics that cannot judge the model.
        StrategyError: the strategy does not fit the model.
    """
    _check(bits, kinds, modes)
    engine = engine or Engine(model, data, settings=settings, cache=cache, images=images, metrics=metrics)
    base = as_strategy(strategy)
    prepared = prepare(engine.model, base, vitis_compat=engine.settings.vitis_compat)
    asked = questions(units(prepared), bits, kinds, modes)
    kept = answered(engine, base, prepared, asked, progress=progress)
    reference, measure = engine.reference.value, engine.metric.measure
    return Sensitivity(kept.rows(asked), reference, engine.data.n_eval, base.name, kept.context, measure)


def answered(
    engine: Engine, base: Strategy, prepared: PreparedModel, asked: Sequence[Question], *, progress: bool = False
) -> Answers:
    """The answers to questions, sought where they are not known.

    Args:
        engine: measures, and keeps.
        base: the strategy around which is asked.
        prepared: the model prepared under it.
        asked: questions about its units.
        progress: show a progress bar.
    """
    kept = Answers(engine, base)
    missing = [q for q in asked if q not in kept]
    alone = [q for q in missing if q.mode == "only"]
    if alone:
        kept.add(_probed(engine, base, prepared, alone))
    _one_by_one(engine, base, [q for q in missing if q not in kept], kept, progress)
    return kept


def _check(bits: Sequence[int], kinds: Sequence[str], modes: Sequence[str]) -> None:
    for name, given, allowed in (("kinds", kinds, KINDS), ("modes", modes, MODES)):
        for value in given:
            if value not in allowed:
                raise DataError(not_allowed(name, value, allowed))
    if not bits or not kinds or not modes:
        raise DataError("sensitivity: bits, kinds and modes need at least one value each")
    for width in bits:
        if not 1 <= width <= 32:
            raise DataError(not_allowed("bits", width, ["1 to 32"]))


def _probed(engine: Engine, base: Strategy, prepared: PreparedModel, asked: Sequence[Question]) -> dict[Question, Any]:
    from vqkit.search.probe import KEPT, Probes, can_probe, plan_of, with_bits

    if not can_probe(base):
        return {}
    plans: dict[Question, Any] = {}
    known: dict[Question, Any] = {}
    # TensorFlow computes the float outputs while Python plans; nothing below asks for them or for the bench.
    with ThreadPoolExecutor(1) as aside:
        reference = aside.submit(engine.float_outputs)
        for q in asked:
            # One strategy is resolved for all widths: they differ in nothing but the number.
            same = replace(q, bits=asked[0].bits)
            if same not in known:
                known[same] = plan_of(prepared, strategy_for(base, same), engine.settings.vitis_compat)
            plans[q] = with_bits(known[same], q.bits)
        if engine.metric.parts is not None:
            probes = Probes(engine, base, plans, prepared.graph)
            reference.result()
            return probes.answers()
    # The metric needs the outputs of all samples at once: no more questions together than can be held.
    found: dict[Question, Any] = {}
    together = max(1, KEPT // engine.float_outputs().nbytes)
    for first in range(0, len(asked), together):
        some = {q: plans[q] for q in asked[first : first + together]}
        found |= Probes(engine, base, some, prepared.graph).answers()
    return found


def _one_by_one(engine: Engine, base: Any, asked: Sequence[Question], kept: Answers, progress: bool) -> None:
    from tqdm.auto import tqdm

    for question in tqdm(asked, desc="sensitivity", unit="question", disable=not (progress and asked)):
        found = engine.measure(strategy_for(base, question))
        kept.add({question: found.numbers})


class Answers:
    """Answers by question, on disk where the engine has a cache."""

    def __init__(self, engine: Engine, base: Any) -> None:
        self.context = digest.of_json({"engine": engine.context, "strategy": base.digest})
        self._cache = DiskCache(None if engine.answers is None else engine.answers / "sensitivity")
        kept = self._cache.json(f"{self.context}.json") or {}
        self._found = {k: {m: float(v) for m, v in numbers.items()} for k, numbers in kept.items()}

    def __contains__(self, question: Question) -> bool:
        return _key(question) in self._found

    def add(self, answers: Mapping[Question, Mapping[str, float]]) -> None:
        self._found |= {_key(q): dict(a) for q, a in answers.items()}
        if answers:
            plain = {k: {m: _plain(v) for m, v in a.items()} for k, a in self._found.items()}
            self._cache.keep_json(f"{self.context}.json", plain)

    def __getitem__(self, question: Question) -> dict[str, float]:
        return self._found[_key(question)]

    def rows(self, asked: Sequence[Question]) -> tuple[dict[str, Any], ...]:
        return tuple(
            {"layer": q.unit.layer, "kind": q.kind, "bits": q.bits, "mode": q.mode, **self._found[_key(q)]}
            for q in asked
        )


def _key(question: Question) -> str:
    q = asdict(question)
    channels = "" if q["per_channel"] is None else f" per_channel={q['per_channel']}"
    return f"{q['unit']['layer']} {q['kind']} {q['bits']} {q['mode']}{channels}"


def recovery(
    found: Sensitivity, engine: Engine, strategy: Strategy, *, by: str | None = None, bits: int | None = None
) -> pd.DataFrame:
    """Quantize everything to few bits, then leave the most sensitive layers float: 1, 2, 4, … of them.

    Args:
        found: the layers' sensitivities, which rank them.
        engine: measures.
        strategy: the base, as `found` was asked for.
        by: what ranks, as for `Sensitivity.ranked`.
        bits: width; the smallest that was asked.

    Returns:
        Columns left_float (count), layer (the last one left float, "" for none), the metric,
        sqnr_db, kl. A layer whose input is left float may get a quantizer for it, as its strategy says.

    Raises:
        RecordError: no such measure or width.
    """
    import pandas as pd

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
        rows.append({"left_float": n, "layer": last, **answer.numbers})
    return pd.DataFrame(rows)


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


POINTS = 12


def accumulated(
    found: Sensitivity, engine: Engine, strategy: Strategy, *, bits: int | None = None, points: int = POINTS
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
        Columns quantized (count of layers), layer (the last of them), the metric, sqnr_db, kl.

    Raises:
        RecordError: no such width.
    """
    import pandas as pd

    base = as_strategy(strategy)
    width = int(found.ranked(mode=str(found.rows[0]["mode"]), bits=bits)["bits"].iloc[0])
    prepared = prepare(engine.model, base, vitis_compat=engine.settings.vitis_compat)
    order = units(prepared)
    rows = []
    for n in spread(len(order), points):
        rules: Rules = {"*": {"quantize": "nothing"}}
        for unit in order[:n]:
            rules |= quantized_alone(unit, kind_of(unit), width)
        answer = engine.measure(with_rules(base, rules))
        rows.append({"quantized": n, "layer": order[n - 1].layer, **answer.numbers})
    return pd.DataFrame(rows)


def spread(layers: int, points: int) -> list[int]:
    """Counts from 1 to all layers, evenly spread."""
    most = max(1, min(points, layers))
    return sorted({round(layers * (i + 1) / most) for i in range(most)})
