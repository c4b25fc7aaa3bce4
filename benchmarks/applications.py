"""Every architecture of `keras.applications` through plan and quantize under the built-in strategies.

    python benchmarks/applications.py [--only NAME ...] [--strategies pof2s fsx] [--fresh] [--json] [--write]

Weights are random and images are as small as the architecture takes them, so this shows what is quantized and
what is not and why, and that nothing fails; it says nothing about accuracy. Results are kept in
`runs/applications.json`, so that the work can be done in slices; --fresh measures again. --write writes
`docs/applications.md` from all results; with --json the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

STRATEGIES = ("pof2s", "pof2s_tqt", "fs", "fsx")
# Largest minimum among the architectures: Inception's 75; each takes the first that it accepts.
SIZES = (32, 71, 75, 96, 139, 224)
IMAGES = 2
RESULTS = ROOT / "runs" / "applications.json"
PAGE = ROOT / "docs" / "applications.md"


@dataclass(frozen=True)
class Line:
    """One architecture under one strategy.

    Attributes:
        name: of the architecture.
        strategy: name of the strategy.
        size: height and width of its images.
        layers: number of operations after optimization.
        quantized: tensors with a quantizer.
        carried: values that need none: quantized behind the activation that follows, or only moved.
        float: why tensors stay float -> how many.
        seconds: wall clock of `quantize`.
        error: what went wrong; "" when nothing did.
    """

    name: str
    strategy: str
    size: int
    layers: int = 0
    quantized: int = 0
    carried: int = 0
    float: dict[str, int] | None = None
    seconds: float = 0.0
    error: str = ""


def architectures() -> dict[str, Callable[..., Any]]:
    """Name -> function, for all that `keras.applications` offers."""
    import keras

    offered = vars(keras.applications)
    return {n: offered[n] for n in sorted(offered) if n[0].isupper() and callable(offered[n])}


def build(name: str, **options: Any) -> tuple[Any, int]:
    """The architecture with random weights for the smallest image it accepts, and that image's size.

    Args:
        name: of the architecture.
        options: further arguments of its function.

    Raises:
        ValueError: it accepts no size of `SIZES`.
    """
    function, refusal = architectures()[name], None
    for size in SIZES:
        try:
            return function(weights=None, input_shape=(size, size, 3), classes=10, **options), size
        except ValueError as error:
            refusal = error
    raise ValueError(f"{name} takes none of the sizes {SIZES}: {refusal}")


def measure(name: str, strategies: Iterable[str]) -> Iterator[Line]:
    """A line for each strategy; failures are lines too."""
    import keras

    keras.utils.set_random_seed(0)
    model, size = build(name)
    x = np.random.default_rng(0).uniform(0, 255, (IMAGES, size, size, 3)).astype(np.float32)
    for strategy in strategies:
        try:
            yield _quantized(name, strategy, model, x)
        except Exception as error:
            yield Line(name, strategy, size, error=f"{type(error).__name__}: {error}".splitlines()[0])
    del model
    keras.backend.clear_session()


def _quantized(name: str, strategy: str, model: Any, x: np.ndarray) -> Line:
    from vqkit.quantization import quantize

    start = time.perf_counter()
    quantized = quantize(model, strategy, x)
    seconds = time.perf_counter() - start
    if not np.isfinite(np.asarray(quantized.model(x, training=False))).all():
        raise ArithmeticError("the quantized model's outputs are not finite")
    rows = quantized.plan.rows
    reasons = Counter(reason(r) for r in rows if r.spec is None)
    carried = sum(reasons.pop(k, 0) for k in CARRIED)
    layers = len(quantized.graph.nodes) - len(quantized.rows)
    done = sum(r.spec is not None for r in rows)
    return Line(name, strategy, x.shape[1], layers, done, carried, dict(reasons.most_common()), seconds)


CARRIED = ("quantized behind the next activation", "moves values only")


def reason(row: Any) -> str:
    """Why a row has no quantizer, without the names of single layers."""
    if row.reason.startswith("quantized after"):
        return CARRIED[0]
    if row.reason.startswith("its input is quantized already"):
        return "computed in float on a quantized input"
    return str(row.reason).removeprefix("the strategy has ")


# --- results on disk ---


def load() -> dict[str, Line]:
    """`<name> <strategy>` -> line, from earlier slices."""
    if not RESULTS.is_file():
        return {}
    return {key(line): line for line in (Line(**d) for d in json.loads(RESULTS.read_text("utf-8"))["lines"])}


def save(lines: dict[str, Line]) -> None:
    """Keep all lines for later slices."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(to_json(lines), indent=1), "utf-8")


def to_json(lines: dict[str, Line]) -> dict[str, Any]:
    """All lines as one JSON object."""
    done = [asdict(lines[k]) for k in sorted(lines)]
    return {"lines": done, "failed": sum(bool(d["error"]) for d in done)}


def key(line: Line) -> str:
    """Where a line is kept."""
    return f"{line.name} {line.strategy}"


# --- table ---

HEAD = (
    "architecture",
    "image",
    "strategy",
    "quantized",
    "carried",
    "float",
    "seconds",
    "what stays float, and why",
)


def cells(line: Line) -> tuple[str, ...]:
    """One row of the table."""
    why = line.float or {}
    words = "; ".join(f"{n} × {r}" for r, n in why.items()) or "nothing"
    return (
        line.name,
        str(line.size),
        line.strategy,
        str(line.quantized),
        str(line.carried),
        str(sum(why.values())),
        f"{line.seconds:.1f}",
        f"**{line.error}**" if line.error else words,
    )


def markdown(lines: Iterable[Line]) -> str:
    """All rows as a Markdown table."""
    rows = [HEAD, ("---",) * len(HEAD), *map(cells, lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def page(lines: dict[str, Line], command: str) -> str:
    """`docs/applications.md`: plan and outcome for every architecture."""
    import keras

    from vqkit import __version__

    order = {s: i for i, s in enumerate(STRATEGIES)}
    rows = sorted(lines.values(), key=lambda line: (line.name, order[line.strategy]))
    names, failed = {r.name for r in rows}, [r for r in rows if r.error]
    today = datetime.now(UTC).date().isoformat()
    return f"""# All architectures of keras.applications

{len(names)} architectures, {len(rows)} runs, {len(failed)} failures. Made on {today} by `{command}`
(vqkit {__version__}, Keras {keras.__version__}); random weights, {IMAGES} calibration images of the
smallest size that the architecture accepts. *Quantized* counts weights, biases, inputs and values that have
a quantizer of their own.
*Carried* are values that need none: they are quantized behind the activation that follows, or a layer only
moves values that are quantized. *Float* are weights and values computed in float, with the reason.
Seconds are wall clock on a shared 2-core machine and only tell small from large.

{markdown(rows)}
"""


def main() -> int:
    """Measure what is missing, print, keep, and write the page if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these architectures (default: all)")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured before")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--write", action="store_true", help="write docs/applications.md from all results")
    args = parser.parse_args()
    names = args.only or list(architectures())
    unknown = sorted(set(names) - set(architectures()))
    if unknown:
        parser.error(f"--only: {unknown[0]!r} is not in keras.applications. Allowed: {', '.join(architectures())}")
    lines = load()
    for name in names:
        todo = [s for s in args.strategies if args.fresh or f"{name} {s}" not in lines]
        for line in measure(name, todo) if todo else ():
            lines[key(line)] = line
            save(lines)
            print(" | ".join(cells(line)), flush=True)
    if args.write:
        PAGE.write_text(page(lines, "python benchmarks/applications.py --write"), "utf-8")
    shown = {k: v for k, v in lines.items() if v.name in names and v.strategy in args.strategies}
    print(markdown(shown.values()))
    if args.json:
        print(json.dumps(to_json(shown)))
    return int(any(v.error for v in shown.values()))


if __name__ == "__main__":
    sys.exit(main())
