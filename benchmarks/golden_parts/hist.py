"""Golden part: histograms batch by batch, percentile and KL thresholds, exact."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.golden_parts import PartResult
from vqkit.primitives.histogram import Histogram
from vqkit.primitives.kl import best_width

KL_KEY = re.compile(r"kl(?P<bits>\d+)(?P<passed>_if_bitwidth_were_passed)?")

Row = dict[str, Any]


def check(directory: Path) -> PartResult | None:
    """Replay every sequence of `hist.json` under `vitis_compat`.

    Args:
        directory: laid out like the golden data.

    Returns:
        The findings; None where the files are absent.
    """
    if not (directory / "hist.json").exists():
        return None
    rows: list[Row] = json.loads((directory / "hist.json").read_text())
    with np.load(directory / "hist.npz") as arrays:
        found = [item for name in dict.fromkeys(r["seq"] for r in rows) for item in _sequence(name, rows, arrays)]
    wrong = tuple(f"hist {what}: {got} instead of {want}" for what, got, want in found if not np.array_equal(got, want))
    return PartResult("hist", len(found), len(found) - len(wrong), (), wrong)


def _sequence(name: str, rows: list[Row], arrays: Any) -> Iterator[tuple[str, Any, Any]]:
    seen = Histogram(vitis_compat=True)
    for row in (r for r in rows if r["seq"] == name and "after_batch" in r):
        seen.add(arrays[f"{name}/b{row['after_batch']}"])
        yield from _growth(f"{name} after batch {row['after_batch']}", seen, row)
    yield f"{name} counts", seen.counts, arrays[f"{name}/hist"]
    yield f"{name} edges", seen.edges, arrays[f"{name}/edges"]
    for row in (r for r in rows if r["seq"] == name and "after_batch" not in r):
        yield from _thresholds(name, seen, row)


def _growth(what: str, seen: Histogram, row: Row) -> Iterator[tuple[str, Any, Any]]:
    yield f"{what}: bins", len(seen.counts), row["hist_len"]
    for key, index in (("edge0", 0), ("edge1", 1), ("edge_last", -1)):
        yield f"{what}: {key}", seen.edges[index], np.float32(row[key])


def _thresholds(name: str, seen: Histogram, row: Row) -> Iterator[tuple[str, Any, Any]]:
    for percent, want in row.get("percentile", {}).items():
        yield f"{name} percentile {percent}", seen.percentile(float(percent)), np.float32(want)
    for key, want in row.items():
        if match := KL_KEY.fullmatch(key):
            yield f"{name} {key}", _kl(seen, int(match["bits"]), bool(match["passed"])), np.float32(want)


def _kl(seen: Histogram, bits: int, passed: bool) -> np.float32:
    """The reference never passes the bit width on; if it did, the search would have fewer levels."""
    if not passed:
        return seen.kl(bits)
    return seen.edges[best_width(seen.counts, 2 ** (bits - 1), vitis_compat=True)]
