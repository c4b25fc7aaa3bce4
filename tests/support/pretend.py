"""Sweeps whose notebook only pretends: real workers, kernels and records without TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vqkit.sweeps.resolve import Planned, ResolvedSweep
from vqkit.sweeps.spec import Sweep, title
from vqkit.sweeps.variant import Settings, Source, Variant

NOTEBOOK = Path(__file__).parent / "notebooks" / "pretends.ipynb"


def resolved(*variants: dict[str, Any], name: str = "s") -> ResolvedSweep:
    """A resolved sweep of `pretends.ipynb`; each variant is its overrides, with a name."""
    marked = [{**v, "mark": v["name"]} for v in variants]
    value = {"name": name, "model": "m.keras", "data": "digits", "mode": "list", "variants": marked}
    sweep = Sweep.from_dict(value)
    planned = tuple(_planned(dict(v)) for v in marked)
    return ResolvedSweep(sweep, planned, Path("m.keras"), NOTEBOOK)


def _planned(overrides: dict[str, Any]) -> Planned:
    label = title(overrides, "pof2s")
    overrides.pop("name", None)
    model, data = Source("m.keras", "m" * 16), Source("digits", "d" * 16, (("n_calib", 2), ("n_eval", 3)))
    variant = Variant(label, "pof2s", overrides, label, model, data, Settings(), "0+c")
    return Planned(variant, {"pretend": True}, label)


def diary(root: Path) -> list[str]:
    """What the notebooks wrote down, in order of time."""
    path = root / "diary.txt"
    return path.read_text().splitlines() if path.exists() else []
