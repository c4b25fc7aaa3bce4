"""It says how sure it is: how often 95 % intervals hold the truth, and how often paired tests see what is not there.

    python benchmarks/coverage.py [--json] [--draws N] [--only NAME ...] [--seed N]

Samples are drawn from laws whose metric is known. coverage is the share of draws whose interval holds it, which
must be 93 to 97 per cent; false alarms the share of draws in which the paired test finds two models different that
are equally good (p at most 0.05), which must be 7 per cent at most (McNemar's exact test stays below 5).

Prints a table; with --json, one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from vqkit.evaluation.judgement import compared, interval  # noqa: E402
from vqkit.evaluation.metrics import NAMED  # noqa: E402
from vqkit.tables import text_table  # noqa: E402

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""From a source of random numbers and a number of samples to outputs of two equally good models, and labels."""
COVERED, FALSE = (0.93, 0.97), 0.07


@dataclass(frozen=True)
class Law:
    """Samples whose metric is known.

    Attributes:
        metric: its name.
        truth: its value over all samples there could be.
        n: samples of a draw.
        draw: draws them.
    """

    metric: str
    truth: float
    n: int
    draw: Draw


def answers(share: float) -> Draw:
    """Classifiers of three classes that are right in a share of samples, often in the same ones."""

    def draw(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        y, hard = random.integers(0, 3, n), random.random(n) < 0.5
        both = [
            (y + np.where(np.where(hard, random.random(n) < 2 * share - 1, True), 0, random.integers(1, 3, n))) % 3
            for _ in range(2)
        ]
        return np.eye(3)[both[0]], np.eye(3)[both[1]], y

    return draw


def errors(make: Callable[[np.random.Generator, int], np.ndarray]) -> Draw:
    """Regressions whose errors have a part in common."""

    def draw(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        y, common = random.normal(size=(n, 1)), make(random, n)
        a, b = (y + np.where(random.random(n) < 0.5, common, make(random, n))[:, None] for _ in range(2))
        return a, b, y

    return draw


def scores(apart: float) -> Draw:
    """Detectors whose scores are normal, with a distance between the two labels."""

    def draw(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        y, common = random.integers(0, 2, n), random.normal(size=n)
        a, b = (apart * y + 0.8 * common + 0.6 * random.normal(size=n) for _ in range(2))
        return a[:, None], b[:, None], y

    return draw


CONFUSION = np.array([[0.45, 0.04, 0.01], [0.05, 0.25, 0.02], [0.02, 0.04, 0.12]])
"""Shares of places by class and answer."""
PLACES = 25


def maps(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Segmentations of maps of five by five places."""
    y = random.choice(3, (n, PLACES), p=CONFUSION.sum(1))
    given = CONFUSION / CONFUSION.sum(1, keepdims=True)
    drawn = [(random.random((n, PLACES, 1)) > given.cumsum(1)[y]).sum(-1) for _ in range(2)]
    return np.eye(3)[drawn[0]], np.eye(3)[drawn[1]], y


def union() -> float:
    """Mean intersection over union of the confusion."""
    both = np.diag(CONFUSION)
    return float(np.mean(both / (CONFUSION.sum(0) + CONFUSION.sum(1) - both)))


LAWS: Mapping[str, Law] = {
    "accuracy": Law("accuracy", 0.9, 400, answers(0.9)),
    "MAE, normal errors": Law("mae", float(np.sqrt(2 / np.pi)), 400, errors(lambda r, n: r.normal(size=n))),
    "MAE, exponential errors": Law("mae", 1.0, 400, errors(lambda r, n: r.exponential(size=n))),
    "RMSE, normal errors": Law("rmse", 1.0, 400, errors(lambda r, n: r.normal(size=n))),
    "AUC": Law("auc", NormalDist().cdf(1.5 / 2**0.5), 300, scores(1.5)),
    "mIoU": Law("miou", union(), 200, maps),
}


def measure(law: Law, draws: int, seed: int) -> dict[str, Any]:
    """How often the interval holds the truth, and the paired test is wrong."""
    metric, held, alarms, began = NAMED[law.metric], 0, 0, time.perf_counter()
    for i in range(draws):
        a, b, y = law.draw(np.random.default_rng((seed, i)), law.n)
        low, high = interval(metric, a, y)
        held += low <= law.truth <= high
        alarms += not compared(metric, a, b, y).level
    coverage, false = held / draws, alarms / draws
    return {
        "samples": law.n,
        "draws": draws,
        "coverage": coverage,
        "false_alarms": false,
        "holds": COVERED[0] <= coverage <= COVERED[1] and false <= FALSE,
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--only", nargs="+", choices=list(LAWS), default=list(LAWS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows = {name: measure(LAWS[name], args.draws, args.seed) for name in args.only}
    names = ("metric", "samples", "draws", "coverage %", "false alarms %", "seconds")
    cells = [
        [
            name,
            str(r["samples"]),
            str(r["draws"]),
            f"{r['coverage']:.1%}"[:-1],
            f"{r['false_alarms']:.1%}"[:-1],
            str(r["seconds"]),
        ]
        for name, r in rows.items()
    ]
    print(text_table(names, cells))
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
