"""Draw the pictures of docs/compare.md from recorded runs: `make_compare.py RUNS SWEEP`."""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

import vqkit as vq
from vqkit import plots
from vqkit.comparison import difference
from vqkit.comparison.runset import RunSet
from vqkit.comparison.samples import flipped_samples, sample_images

HERE = Path(__file__).resolve().parent
PAIR = ("fsx 8 bit, per channel", "pof2s 4 bit, per tensor")


def main(runs_dir: str, sweep: str) -> None:
    """Write the pictures beside this file."""
    runs = RunSet(runs_dir, sweep)
    a, b = (runs.run(name) for name in PAIR)
    assert a.folder is not None
    assert b.folder is not None
    samples = flipped_samples(a.folder, b.folder).head(16)
    found = difference.difference(a.folder, b.folder)
    figures = {
        "pareto": plots.pareto(runs.frame, chosen=a.key),
        "parallel": plots.parallel_coordinates(runs.frame, chosen=a.key),
        "sqnr_difference": plots.sqnr_difference(found.sqnr, PAIR),
        "flipped": plots.flipped_samples(samples, sample_images(a.folder, samples["sample"])),
    }
    figures |= _sensitivity(runs_dir)
    for name, figure in figures.items():
        path = HERE / f"{name}.png"
        figure.savefig(path, facecolor=figure.get_facecolor())
        # 64 colours are enough, and a third of the bytes.
        Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


def _sensitivity(runs_dir: str) -> dict[str, Figure]:
    net = vq.load_model(vq.model_path("quickstart", ".", Path(runs_dir, "cache")))
    view = vq.sensitivity(net, vq.load_data("digits"), "pof2s", bits=(4,), modes=("only", "all_but"))
    assert view.recovered is not None
    assert view.summed is not None
    table, accuracy = view.found.table, view.found.float_value
    return {
        "sensitivity": plots.sensitivity_ranked(table, accuracy),
        "accumulated": plots.sensitivity_accumulated(table, view.summed, accuracy),
        "recovery": plots.recovery_curve(view.recovered, accuracy),
    }


if __name__ == "__main__":
    main(*sys.argv[1:3])
