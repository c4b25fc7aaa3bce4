"""From a model, data and bounds to one strategy: measure, allocate bits, verify, choose, hand over."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit import statistics, tables
from vqkit.errors import StrategyError, SweepError
from vqkit.evaluation.judgement import Evidence
from vqkit.files import write_bytes
from vqkit.quantization.data import map_inputs
from vqkit.quantization.prepare import make_plan
from vqkit.runs.store import Store
from vqkit.search.engine import Engine, Measured
from vqkit.search.mixed_precision import Point, SizeFront, mixed, on_front
from vqkit.strategy import Strategy
from vqkit.tables import Measure

if TYPE_CHECKING:
    import keras

    from vqkit.execution.runner import RunOptions
    from vqkit.sweeps.variant import Settings

ALPHA = 1 - statistics.CONFIDENCE
SENSITIVITY_IMAGES = 1000
# What brings a built-in strategy nearer to float in most models, at little cost (docs/benchmarks.md).
_BIASES = {"bias_bit": 16, "include_bias_corr": True}
_FLOAT_SCALE = {
    "activation_method": "NON_OVERFLOW",
    "input_method": "NON_OVERFLOW",
    "activation_symmetry": False,
    "weight_method": "MIN_MSE",
}
_PER_CHANNEL = {"weight_per_channel": True}
_EXTRA = {"extra_layers": True}
# Built-in -> whole-model strategies that are measured before bits are chosen layer by layer, simplest first.
BASES: dict[str, dict[str, dict[str, Any]]] = {
    "fsx": {"fsx": {}, "fsx corrected": {**_FLOAT_SCALE, **_BIASES}},
    "pof2s": {
        "pof2s": {},
        "pof2s per channel": _PER_CHANNEL,
        "pof2s corrected": {"cle_to_relu6": True, **_BIASES},
        "pof2s per channel corrected": {**_PER_CHANNEL, **_BIASES},
    },
}
BITS = (8, 7, 6, 5, 4, 3, 2)


@dataclass(frozen=True)
class Bounds:
    """What the user can afford.

    Attributes:
        max_size: bytes of the weights; None for no bound.
        max_drop: what may be lost against float, in the metric's unit (of accuracy a fraction; see `Engine.bound`);
            None for no bound.
        minutes: time to look for a strategy; exporting comes on top.
    """

    max_size: float | None = None
    max_drop: float | None = None
    minutes: float = 20.0

    def fit(self, measured: Measured) -> bool:
        """Whether a measured strategy is inside."""
        small = self.max_size is None or measured.size_bytes <= self.max_size
        return small and (self.max_drop is None or measured.drop <= self.max_drop)


@dataclass(frozen=True, eq=False)
class Advice:
    """One strategy, and why it.

    Attributes:
        chosen: None where nothing measured fits the bounds.
        sentence: the reason, for a person.
        points: everything measured, best first.
        level: names of the fitting points that chance cannot tell from the best fitting one.
        reference: how the float model does.
        spread: the metric of the chosen one over random calibration subsets.
        seconds: spent.
    """

    chosen: Point | None
    sentence: str
    points: tuple[Point, ...]
    level: tuple[str, ...]
    reference: Evidence
    spread: tuple[float, ...]
    seconds: float

    def rows(self) -> list[list[str]]:
        """A table of everything measured; `header` names its columns."""
        return [self._row(p) for p in self.points]

    def _row(self, p: Point) -> list[str]:
        m, measure = p.measured, p.measured.measure
        low, high = (measure.plain(v) for v in m.evidence.interval)
        marks = ["recommended"] if self.chosen is not None and p.name == self.chosen.name else []
        marks += ["level"] if p.name in self.level else []
        return [
            p.name,
            f"{measure.plain(m.value)} ({low}–{high})",
            measure.signed(m.value - m.float_value),
            f"{m.evidence.p_value(self.reference):.2g}",
            tables.size(m.size_bytes),
            " ".join(marks),
        ]

    def header(self) -> tuple[str, ...]:
        """Headings of the columns of `rows`."""
        return ("strategy", f"{self.reference.metric.measure.label} (95 %)", "Δ float", "p (float)", "size", "")

    def __str__(self) -> str:
        return f"{tables.text_table(self.header(), self.rows(), left=(0, 5))}\n\n{self.sentence}"


def candidates(
    strategies: Sequence[str | Path] = tuple(BASES), model: keras.Model | None = None
) -> dict[str, Strategy]:
    """Whole-model strategies to begin with, by name.

    Args:
        strategies: built-ins, or files; a built-in of `BASES` also stands for its corrected forms, any other
            strategy for itself with its biases corrected as well.
        model: what they are for: where only `extra_layers` quantizes some of its layers, those of `BASES` have it.

    Raises:
        StrategyError: no such strategy.
    """
    from vqkit.sweeps.variant import build_strategy

    found: dict[str, Strategy] = {}
    for given in map(str, strategies):
        forms = BASES.get(given)
        base = build_strategy(given, {})
        if forms is None:
            forms = {base.name: {}}
            if not base.refine.include_bias_corr:
                forms[f"{base.name} corrected"] = {"include_bias_corr": True}
        elif model is not None and _quantizes_more(base.with_kwargs(**_EXTRA), base, model):
            forms = {f"{name}, extra layers": changes | _EXTRA for name, changes in forms.items()}
        found |= {name: base.with_kwargs(**changes) if changes else base for name, changes in forms.items()}
    return found


def _quantizes_more(strategy: Strategy, other: Strategy, model: keras.Model) -> bool:
    counts = [len(make_plan(s, model).quantized) for s in (strategy, other)]
    return counts[0] > counts[1]


def advise(
    engine: Engine,
    asker: Engine,
    bounds: Bounds,
    *,
    bits: Sequence[int] = BITS,
    points: int = 14,
    strategies: Sequence[str | Path] = tuple(BASES),
    say: Callable[[str], None] | None = None,
) -> Advice:
    """Look for the best strategy within bounds.

    Args:
        engine: measures strategies.
        asker: asks sensitivities, on fewer samples for instance.
        bounds: what the user can afford.
        bits: widths that a layer's weights may have.
        points: sizes at which a mixed strategy is sought.
        strategies: built-ins or files among which to choose, as for `candidates`.
        say: takes one line for people at each step.

    Returns:
        The advice; `choose` says how it is chosen.

    Raises:
        StrategyError: no strategy fits the model at all.
    """
    began, tell = time.monotonic(), say or (lambda _: None)
    until = began + 60 * bounds.minutes
    found = _bases(engine, candidates(strategies, engine.model), tell, until)
    best = max(found, key=lambda p: p.measured.goodness)
    tell(f"bits layer by layer, around {best.name}")
    try:
        front: SizeFront = mixed(
            engine,
            best.strategy,
            bits=bits,
            points=points,
            max_size=bounds.max_size,
            max_drop=bounds.max_drop,
            sensitivity_engine=asker,
            until=until,
        )
        found += front.points
    except StrategyError as e:
        tell(str(e))
    chosen, sentence, level = choose(found, bounds, engine.reference)
    spread: tuple[float, ...] = ()
    if chosen is not None and time.monotonic() < until:
        tell("spread over calibration subsets")
        spread = spread_over_subsets(engine, chosen.strategy, until=until)
        sentence += _spread_words(spread, engine.metric.measure)
    order = sorted(found, key=lambda p: (-p.measured.goodness, p.measured.size_bytes))
    seconds = time.monotonic() - began
    return Advice(chosen, sentence, tuple(order), level, engine.reference, spread, seconds)


def _bases(engine: Engine, bases: Mapping[str, Strategy], tell: Callable[[str], None], until: float) -> list[Point]:
    found: list[Point] = []
    problems: list[str] = []
    for name, strategy in bases.items():
        if found and time.monotonic() > until:
            break
        tell(f"whole model: {name}")
        try:
            found.append(Point(name, strategy, float("nan"), engine.measure(strategy), {}))
        except StrategyError as e:
            problems.append(f"{name}: {e}")
    if not found:
        raise StrategyError("no strategy fits the model: " + "; ".join(problems))
    return found


def choose(found: Sequence[Point], bounds: Bounds, reference: Evidence) -> tuple[Point | None, str, tuple[str, ...]]:
    """The smallest of the fitting points that chance cannot tell from the best fitting one.

    Args:
        found: measured points on the same samples.
        bounds: what the user can afford.
        reference: how the float model does.

    Returns:
        The point or None, the reason in a sentence, and the names of the points that are level.
    """
    fits = [p for p in found if bounds.fit(p.measured)]
    if not fits:
        return None, _why_none(found, bounds), ()
    top = max(fits, key=lambda p: (p.measured.goodness, -p.measured.size_bytes))
    level = [p for p in fits if p is top or top.measured.evidence.p_value(p.measured.evidence) > ALPHA]
    chosen = min(level, key=lambda p: (p.measured.size_bytes, len(p.bits), -p.measured.goodness))
    return chosen, _why(chosen, top, level, reference), tuple(p.name for p in level)


def _why(chosen: Point, top: Point, level: Sequence[Point], reference: Evidence) -> str:
    m, measure = chosen.measured, chosen.measured.measure
    low, high = m.evidence.interval
    p, delta = m.evidence.p_value(reference), m.value - reference.value
    against = f"{measure.distance(delta)} {'below' if delta < 0 else 'above'} float" if delta else "as float"
    chance = "which could be chance" if p > ALPHA else "more than chance"
    interval = f"95 % interval {measure.plain(low)} to {measure.plain(high)}"
    value = f"{measure.name} {measure.text(m.value)} ({interval})"
    tested = f"{chance}, {m.evidence.test} p = {p:.2g}"
    text = f"Use {chosen.name}: {tables.size(m.size_bytes)}, {value}, {against} ({tested})."
    if len(level) == 1:
        return f"{text} Within the bounds nothing else is statistically level with it."
    if chosen is top:
        most = f"It is the {measure.best} within the bounds"
        return f"{text} {most} and the smallest of the {len(level)} that are level."
    return (
        f"{text} It is the smallest of the {len(level)} within the bounds that cannot be told from the "
        f"{measure.best}, {top.name} ({measure.text(top.measured.value)}, "
        f"{tables.size(top.measured.size_bytes)})."
    )


def _why_none(found: Sequence[Point], bounds: Bounds) -> str:
    small = [p for p in found if bounds.max_size is None or p.measured.size_bytes <= bounds.max_size]
    good = [p for p in found if bounds.max_drop is None or p.measured.drop <= bounds.max_drop]
    parts = []
    if small:
        best = max(small, key=lambda p: p.measured.goodness)
        parts.append(f"the best that is small enough, {best.name}, loses {_lost(best.measured)}")
    if good:
        least = min(good, key=lambda p: p.measured.size_bytes)
        size = tables.size(least.measured.size_bytes)
        parts.append(f"the smallest that is good enough, {least.name}, has {size}")
    return f"Nothing that was measured fits the bounds; {'; '.join(parts) or 'neither size nor drop'}."


def _lost(measured: Measured) -> str:
    """The drop with its unit."""
    measure = measured.measure
    if measure.unit == "percent":
        return f"{measure.factor * measured.drop:.2f} points"
    return f"{measured.drop:.4g} ({measure.name})"


def spread_over_subsets(
    engine: Engine, strategy: Strategy, *, subsets: int = 4, until: float = float("inf")
) -> tuple[float, ...]:
    """The metric of a strategy when other calibration samples had been given.

    Args:
        engine: model, data and settings.
        strategy: what is quantized with.
        subsets: how many; each is a random half of the calibration samples, drawn with the engine's seed.
        until: `time.monotonic()` at which no further one is begun.

    Returns:
        Values, one for each subset.
    """
    n, found = engine.data.n_calib, list[Measured]()
    for k in range(subsets):
        if time.monotonic() > until:
            break
        rng = np.random.default_rng([engine.settings.seed, k])
        rows = np.sort(rng.choice(n, max(1, n // 2), replace=False))
        half = map_inputs(lambda a, _, rows=rows: a[rows], engine.data.x_calib)
        known = engine.data.y_calib
        labels = None if known is None else known[rows]
        data = replace(engine.data, name=f"{engine.data.name} half {k}", x_calib=half, y_calib=labels, digest="")
        again = Engine(engine.model, data, settings=engine.settings, cache=engine.cache, metrics=engine.metrics)
        found.append(again.measure(strategy))
    return tuple(m.value for m in found)


def _spread_words(spread: Sequence[float], measure: Measure) -> str:
    if len(spread) < 2:
        return ""
    return (
        f" Calibrated on {len(spread)} random halves of the calibration samples instead, it scores "
        f"{measure.plain(min(spread))} to {measure.text(max(spread))}."
    )


@dataclass(frozen=True)
class Delivery:
    """Files that a recommendation ends with.

    Attributes:
        strategy, model, report: their paths.
        exports: the model in further formats.
    """

    strategy: Path
    model: Path
    report: Path
    exports: tuple[Path, ...] = ()


def deliver(
    advice: Advice, engine: Engine, folder: str | Path, *, title: str = "model", formats: Sequence[str] = ()
) -> Delivery:
    """Write the strategy, the quantized model and the report.

    Args:
        advice: with a chosen point.
        engine: that it was measured with.
        folder: where they go; made if missing.
        title: what the model is called.
        formats: of `vqkit.export`, in which the model is written as well.

    Raises:
        SweepError: nothing was chosen.
        ModelError: no such format, or it cannot hold the model.
    """
    from vqkit.export.files import FORMATS, export, format_of

    if advice.chosen is None:
        raise SweepError(advice.sentence)
    formats = [format_of(f, None) for f in formats]
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    strategy, model = place / "strategy.json", place / "model.keras"
    advice.chosen.strategy.dump(strategy)
    scratch = place / ".part.keras"
    quantized = engine.quantize(Strategy.load(strategy))
    quantized.model.save(scratch)
    scratch.replace(model)
    report = write(advice, place / "report.html", title)
    exports = tuple(
        export(quantized, place / f"model{FORMATS[f].suffix or '_' + f}", f) for f in formats if f != "keras"
    )
    return Delivery(strategy, model, report, exports)


def record(
    delivery: Delivery,
    model: str,
    data: str | Mapping[str, Any],
    runs: Store,
    settings: Settings,
    *,
    options: RunOptions | None = None,
    track: bool = False,
    tracking_uri: str | None = None,
    experiment: str | None = None,
) -> str:
    """Run the delivered strategy as a variant, so that it stands among the other runs.

    Args:
        delivery: its strategy file is the variant's base.
        model, data: as a sweep file names them.
        runs: where the record goes.
        settings: the engine's.
        options: how to run.
        track: log to mlflow.
        tracking_uri: mlflow store; None for the one in the folder of runs.
        experiment: of the store; `runs.mlflow.default_experiment()` where None.

    Returns:
        Key of the run.
    """
    from dataclasses import asdict

    from vqkit.execution.runner import run_tracked
    from vqkit.sweeps.resolve import resolve
    from vqkit.sweeps.spec import Sweep

    value = {
        "name": "recommended",
        "model": model,
        "data": data,
        "strategy": str(delivery.strategy.resolve()),
        "mode": "list",
        "variants": [{"name": "recommended"}],
        **asdict(settings),
    }
    resolved = resolve(Sweep.from_dict(value, source="recommend"), runs.cache)
    tracking: dict[str, Any] = {"track": track, "tracking_uri": tracking_uri, "experiment": experiment}
    run_tracked(resolved, runs, options, single=True, say=lambda _: None, **tracking)
    return resolved.planned[0].variant.key


def write(advice: Advice, path: str | Path, title: str) -> Path:
    """Write the report of an advice.

    Args:
        advice: with or without a chosen point.
        path: of the HTML file.
        title: what the model is called.

    Returns:
        The path.
    """
    from vqkit.comparison.page import document, figure_html, section

    chosen, measure = advice.chosen, advice.reference.metric.measure
    test = f"{'exact ' if advice.reference.is_share else ''}{advice.reference.test} test"
    bits = chosen.bits if chosen is not None else {}
    table = tables.html_table(("layer", "bits"), [[k, str(v)] for k, v in bits.items()]) if bits else ""
    page = document(
        title,
        f"<h1>Recommended strategy for {html.escape(title)}</h1><p class='advice'>{html.escape(advice.sentence)}</p>",
        figure_html(figure(advice), f"{measure.name} against size"),
        section("Everything measured", tables.html_table(advice.header(), advice.rows(), left=(0, 5)), level=2),
        f"<p>p (float): {test} against the float model on the same samples. Level: cannot be told "
        f"from the {html.escape(measure.best)} one within the bounds.</p>",
        section("Bits of the weights", table, level=2),
        f"<p>{len(advice.points)} strategies in {tables.duration(advice.seconds)}.</p>",
    )
    write_bytes(path, page.encode())
    return Path(path)


def figure(advice: Advice) -> Any:
    """The metric against size of everything measured, with intervals; the recommended one is marked."""
    from matplotlib.figure import Figure

    measure = advice.reference.metric.measure
    scale = measure.factor
    fig = Figure(figsize=(7, 4.2), dpi=130, layout="constrained")
    ax = fig.subplots()
    sizes = [p.measured.size_bytes / 1e3 for p in advice.points]
    values = [scale * p.measured.value for p in advice.points]
    spans = [p.measured.evidence.interval for p in advice.points]
    low = [v - scale * s[0] for v, s in zip(values, spans, strict=True)]
    high = [scale * s[1] - v for v, s in zip(values, spans, strict=True)]
    ax.errorbar(sizes, values, yerr=[low, high], fmt="o", color="#0072B2", ecolor="#9ecae1", label="measured")
    line = sorted((s, v) for s, v, k in zip(sizes, values, on_front(advice.points), strict=True) if k)
    ax.step(*zip(*line, strict=True), where="post", color="#0072B2", lw=1, alpha=0.6)
    if np.isfinite(advice.reference.value):
        ax.axhline(scale * advice.reference.value, color="black", ls=":", lw=1, label="float")
    if advice.chosen is not None:
        m = advice.chosen.measured
        ax.plot(m.size_bytes / 1e3, scale * m.value, "*", ms=16, color="#D55E00", label="recommended")
    ax.set(xlabel="size of the weights, kB", ylabel=measure.axis)
    ax.legend(frameon=False, loc="lower right" if measure.sign > 0 else "upper right")
    return fig
