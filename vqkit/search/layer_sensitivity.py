"""How much each layer alone, all layers up to one, and each layer restored cost.

Two modes. "only": one unit's tensors are quantized and all else is float. "all_but": all is quantized to so
many bits, and one unit's tensors are left float. Each question is a real strategy (`questions.strategy_for`),
and its answer is what `quantize` and `evaluate` give for it. Source: the layer-wise analyses of M. Nagel et
al., A White Paper on Neural Network Quantization, 2021, section 5; label-free by KL divergence as in Y. Cai
et al., ZeroQ, 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqkit import tables
from vqkit.errors import DataError, RecordError, not_allowed
from vqkit.files import DiskCache
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

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from vqkit.quantization.data import Data
    from vqkit.quantization.prepare import PreparedModel
    from vqkit.strategy import Strategy

# Measure -> what makes a layer the more sensitive.
MEASURES = {"accuracy": -1.0, "sqnr_db": -1.0, "kl": 1.0}
COLUMNS = ("layer", "kind", "bits", "mode", "accuracy", "sqnr_db", "kl")
SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Answers to questions about layers.

    Attributes:
        rows: one mapping for each question, keys as in `COLUMNS`, in graph order.
        float_accuracy: of the float model on the same samples, fraction.
        n: evaluated samples.
        strategy: name of the base strategy.
        context: digest of model, data, base strategy, settings and code.
    """

    rows: tuple[Mapping[str, Any], ...]
    float_accuracy: float
    n: int
    strategy: str
    context: str

    @property
    def table(self) -> pd.DataFrame:
        """The answers, columns layer, kind, bits, mode (only/all_but), accuracy, sqnr_db, kl."""
        import pandas as pd

        return pd.DataFrame(list(self.rows), columns=list(COLUMNS))

    def ranked(self, by: str = "kl", *, mode: str = "only", bits: int | None = None) -> pd.DataFrame:
        """The answers of one mode and width, most sensitive layer first.

        Args:
            by: "accuracy", "sqnr_db" or "kl"; the last two need no labels.
            mode: "only" or "all_but"; there the layer that helps most when it is float comes first.
            bits: width; the smallest asked by default.

        Raises:
            RecordError: no such measure, mode or width.
        """
        if by not in MEASURES:
            raise RecordError(not_allowed("by", by, MEASURES, what="measure"))
        table = self.table
        table = table[table["mode"] == mode]
        width = bits if bits is not None or table.empty else int(table["bits"].min())
        chosen = table[table["bits"] == width]
        if chosen.empty:
            asked = sorted({f"{r['mode']} {r['bits']}" for r in self.rows})
            raise RecordError(not_allowed("sensitivity", f"{mode} {width}", asked, what="mode and bits"))
        worse = MEASURES[by] > 0
        return chosen.sort_values(by, ascending=not worse if mode == "only" else worse, kind="stable")

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not finite as text."""
        rows = [{k: _plain(v) for k, v in r.items()} for r in self.rows]
        rest = {k: v for k, v in self.__dict__.items() if k != "rows"}
        return {"schema": SCHEMA, **rest, "rows": rows}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Sensitivity:
        """Read what `to_json` wrote.

        Raises:
            RecordError: another schema.
        """
        if value.get("schema") != SCHEMA:
            raise RecordError(not_allowed("sensitivity", value.get("schema"), [SCHEMA], what="schema"))
        rows = tuple({**r, **{k: float(r[k]) for k in MEASURES}} for r in value["rows"])
        return cls(rows, **{k: value[k] for k in ("float_accuracy", "n", "strategy", "context")})

    def __str__(self) -> str:
        head = f"Sensitivity around {self.strategy}: float {tables.percent(self.float_accuracy)} % on {self.n} samples"
        return f"{head}\n{tables.text_table(_HEADER, self._cells(), left=(0, 1, 3))}"

    def _repr_html_(self) -> str:
        return tables.html_table(_HEADER, self._cells(), left=(0, 1, 3))

    def _cells(self) -> list[list[str]]:
        return [
            [
                r["layer"],
                r["kind"],
                str(r["bits"]),
                r["mode"],
                tables.percent(r["accuracy"]),
                tables.signed_points(r["accuracy"] - self.float_accuracy),
                tables.number(r["sqnr_db"]),
                tables.number(r["kl"], 4),
            ]
            for r in self.rows
        ]


_HEADER = ("layer", "kind", "bits", "mode", "accuracy %", "Δ float", "SQNR dB", "KL nats")


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
    progress: bool = False,
) -> Sensitivity:
    """Ask of every layer what few bits do to the model, in a fraction of the time of asking one by one.

    Args:
        model: a built functional or Sequential Keras model; it is not changed.
        data: calibration samples and labelled ones; labels count only for the accuracy.
        strategy: the quantizers and passes around which is asked.
        bits: widths, 1 to 32.
        kinds: of "weights" (with biases, which keep their own bits), "activations", "both".
        modes: of "only", "all_but".
        images: evaluation samples, from the first; None means all.
        settings: as for a sweep.
        cache: folder where answers are kept by content; an answer that is there is not sought again.
        engine: measures instead of a new one; `images`, `settings` and `cache` are then its own.
        progress: show a progress bar.

    Returns:
        A typed table.

    Raises:
        DataError: an unknown kind or mode, or no bits.
        StrategyError: the strategy does not fit the model.
    """
    from vqkit.quantization.prepare import as_strategy, prepare

    _check(bits, kinds, modes)
    engine = engine or Engine(model, data, settings=settings, cache=cache, images=images)
    base = as_strategy(strategy)
    prepared = prepare(engine.model, base, vitis_compat=engine.settings.vitis_compat)
    asked = questions(units(prepared), bits, kinds, modes)
    kept = answered(engine, base, prepared, asked, progress=progress)
    accuracy = float(engine.float_right().mean())
    return Sensitivity(kept.rows(asked), accuracy, engine.data.n_eval, base.name, kept.context)


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
    from vqkit.search.probe import Probes, can_probe, plan_of, with_bits

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
        probes = Probes(engine, base, plans, prepared.graph)
        reference.result()
    return probes.answers()


def _one_by_one(engine: Engine, base: Any, asked: Sequence[Question], kept: Answers, progress: bool) -> None:
    from tqdm.auto import tqdm

    for question in tqdm(asked, desc="sensitivity", unit="question", disable=not (progress and asked)):
        found = engine.measure(strategy_for(base, question))
        kept.add({question: {name: getattr(found, name) for name in MEASURES}})


class Answers:
    """Answers by question, on disk where the engine has a cache."""

    def __init__(self, engine: Engine, base: Any) -> None:
        from vqkit import digest

        self.context = digest.of_json({"engine": engine.context, "strategy": base.digest})
        self._cache = DiskCache(None if engine.cache is None else engine.cache / "sensitivity")
        kept = self._cache.json(f"{self.context}.json") or {}
        self._found = {k: {m: float(v[m]) for m in MEASURES} for k, v in kept.items()}

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
    found: Sensitivity, engine: Engine, strategy: Strategy, *, by: str = "kl", bits: int | None = None
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

    from vqkit.quantization.prepare import as_strategy, prepare

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
        Columns quantized (count of layers), layer (the last of them), accuracy (fraction), sqnr_db, kl.

    Raises:
        RecordError: no such width.
    """
    import pandas as pd

    from vqkit.quantization.prepare import as_strategy, prepare

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
