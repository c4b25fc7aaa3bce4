"""Figures about many runs and about two: places, marks and words are read back from what was drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from vqkit import plots, statistics
from vqkit.errors import RecordError
from vqkit.plots import runs as pairs
from vqkit.plots.runs import places, squash

NAMES = ("small", "good", "beaten", "<script>")


def runs() -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "key": [*"abcd"],
            "name": NAMES,
            "status": [*3 * ["FINISHED"], "FAILED"],
            "strategy": ["pof2s", "fs", "fs", "fsx"],
            "accuracy": [0.90, 0.97, 0.80, np.nan],
            "float_accuracy": 0.98,
            "n_eval": 500.0,
            "size_bytes": [1000, 4000, 5000, np.nan],
            "float_size_bytes": 16000.0,
            "macs": 1e4,
            "bit_operations": [160e3, 640e3, 640e3, np.nan],
        }
    )
    frame["override.weight_bit"] = [4, 8, 8, 99]
    frame["override.same"] = 1
    return frame


def words(fig: Figure) -> str:
    return " | ".join(t.get_text() for t in fig.findobj(lambda a: hasattr(a, "get_text")))


def line_of(ax: Any, key: str) -> Any:
    return next(line for line in ax.lines if line.get_gid() == f"run/{key}")


def two() -> pd.DataFrame:
    rows = [
        ("stem", "k", "weight", 0, 30.0, 36.0),
        ("dw", "out", "activation", 1, 20.0, 12.0),
        ("head", "k", "weight", 2, np.nan, 25.0),
    ]
    frame = pd.DataFrame(rows, columns=["layer", "tensor", "role", "order", "a_db", "b_db"])
    return frame.assign(delta_db=frame["b_db"] - frame["a_db"])


def flips(n: int) -> pd.DataFrame:
    return pd.DataFrame({"sample": np.arange(n) * 3, "label": 1, "a": 1, "b": 7, "right": "A"})


def pictures(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 16, 16, 1))


def mistakes(classes: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, 400)
    return np.where(random.uniform(size=400) < 0.2, (labels + 1) % classes, labels), labels


DRAWN = {
    "pareto": lambda theme: plots.pareto(runs(), theme=theme, chosen="b"),
    "operations": lambda theme: plots.pareto(runs(), cost="bit_operations", theme=theme, chosen="d"),
    "parallel": lambda theme: plots.parallel_coordinates(runs(), theme=theme, chosen="a"),
    "sqnr": lambda theme: plots.sqnr_difference(two(), ("pof2s", "fs"), theme=theme),
    "flipped": lambda theme: plots.flipped_samples(flips(9), np.ones((9, 8, 8, 1)), theme=theme),
    "pictures": lambda theme: plots.samples(pictures(11), [f"#{i}\nmae 0.25" for i in range(11)], theme=theme),
    "series": lambda theme: plots.samples(pictures(5)[:, :, :2, 0], [f"#{i}\nmae 0.25" for i in range(5)], theme=theme),
    "confusion": lambda theme: plots.confusion(*mistakes(10), theme=theme),
    "many classes": lambda theme: plots.confusion(*mistakes(100), theme=theme),
    "residuals": lambda theme: plots.residuals(pictures(60)[:, 0, 0], np.arange(60.0)[:, None] / 60, theme=theme),
}


@pytest.mark.parametrize("theme", [plots.LIGHT, plots.DARK], ids=["light", "dark"])
@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_nothing_is_cut_off_at_the_edge_of_the_page(draw: Any, theme: Any) -> None:
    fig = draw(theme)
    fig.draw_without_rendering()
    drawn, width, height = fig.get_tightbbox(), *fig.get_size_inches()
    np.testing.assert_array_less([-0.01, -0.01], [drawn.x0, drawn.y0])
    np.testing.assert_array_less([drawn.x1, drawn.y1], [width + 0.01, height + 0.01])


@pytest.mark.parametrize(("cost", "at"), [("size_bytes", 16.0), ("bit_operations", 1024 * 1e4 / 1e6)])
def test_float_stands_at_its_true_cost(cost: str, at: float) -> None:
    ax = plots.pareto(runs(), cost=cost).axes[0]
    star = next(line for line in ax.lines if line.get_marker() == "*")
    np.testing.assert_allclose([star.get_xdata()[0], star.get_ydata()[0]], [at, 98.0])


def test_dominated_runs_stay_and_are_hollow_and_failed_ones_are_marked() -> None:
    fig = plots.pareto(runs())
    ax, strip = fig.axes
    faces = {key: line_of(ax, key).get_markerfacecolor() for key in "abc"}
    assert faces["c"] == plots.LIGHT.page
    assert plots.LIGHT.page not in (faces["a"], faces["b"])
    assert line_of(strip, "d").get_marker() == "x"
    assert "1 failed (no accuracy)" in words(fig)


def test_confidence_bars_are_wilson_intervals() -> None:
    ax = plots.pareto(runs()).axes[0]
    ends = np.sort([segment[:, 1] for c in ax.collections for segment in c.get_segments()], axis=0)
    low, high = statistics.wilson([0.8, 0.9, 0.97], 500)
    np.testing.assert_allclose(ends, 100 * np.stack([low, high], 1))


def test_a_cost_that_was_not_recorded_is_said_and_an_unknown_one_is_refused() -> None:
    assert "has recorded bit_operations" in words(
        plots.pareto(runs().drop(columns=["bit_operations"]), cost="bit_operations")
    )
    with pytest.raises(RecordError, match=r"'size' is not allowed.*size_bytes"):
        plots.pareto(runs(), cost="size")


def test_places_are_where_the_marks_are() -> None:
    fig = plots.pareto(runs())
    found = places(fig)
    assert set(found) == {*"abcd"}
    ax = fig.axes[0]
    x, y = ax.transData.transform((4.0, 97.0))
    np.testing.assert_allclose(found["b"], [x / fig.bbox.width, 1 - y / fig.bbox.height])
    assert found["d"][1] > max(found[k][1] for k in "abc")


def test_a_line_goes_through_its_choices_to_its_accuracy() -> None:
    fig = plots.parallel_coordinates(runs(), chosen="b")
    (ax,) = fig.axes
    heights = {key: line_of(ax, key).get_ydata() for key in "abcd"}
    assert {len(h) for h in heights.values()} == {3}  # strategy, weight_bit, accuracy; "same" does not vary
    assert heights["b"][1] == pytest.approx(0.5, abs=0.13)
    order = sorted("abc", key=lambda key: heights[key][-1])
    assert order == ["c", "a", "b"]
    span = heights["b"][-1] - heights["c"][-1]
    total = squash(-1.0) - squash(-18.0)
    np.testing.assert_allclose((heights["a"][-1] - heights["c"][-1]) / span, (squash(-8.0) - squash(-18.0)) / total)
    assert heights["d"][-1] < 0
    assert line_of(ax, "d").get_linestyle() == "--"
    assert line_of(ax, "b").get_linewidth() == 3
    assert "chosen: good" in words(fig)


def test_the_difference_in_noise_has_a_side_for_each_run() -> None:
    fig = plots.sqnr_difference(two(), ("pof2s", "fs"))
    widths = sorted(p.get_width() for p in fig.axes[0].patches if np.isfinite(p.get_width()))
    assert widths == [-8.0, 6.0]
    assert fig.axes[0].get_yticklabels()[0].get_text() == "stem/k (weight)"
    assert "A: pof2s has less noise" in words(fig)
    assert "quantized in one run only" in words(fig)


def test_of_many_tensors_the_largest_differences_are_drawn_in_graph_order() -> None:
    n = 200
    frame = pd.DataFrame({"layer": "l", "tensor": [f"t{i}" for i in range(n)], "role": "weight", "order": range(n)})
    frame["delta_db"] = np.arange(n, 0, -1.0)
    kept = pairs.largest_differences(frame)
    assert kept["tensor"].tolist() == [f"t{i}" for i in range(60)]


def test_flipped_samples_show_their_answers() -> None:
    fig = plots.flipped_samples(flips(3), np.zeros((3, 8, 8, 1)), classes=[f"class {i}" for i in range(10)])
    assert sum(ax.get_visible() for ax in fig.axes) == 3
    assert fig.axes[1].get_title() == "#3: class 1\nA class 1 ✓\nB class 7 ✗"


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: plots.parallel_coordinates(runs().head(1)), "differ in nothing"),
        (lambda: plots.sqnr_difference(two().head(0)), "no signal-to-noise ratios"),
        (lambda: plots.flipped_samples(flips(0), []), "alike on every sample"),
        (lambda: plots.samples([], []), "no sample"),
        (lambda: plots.confusion(np.arange(4), np.arange(4)), "0 mistakes of 4"),
    ],
)
def test_nothing_to_show_is_said(draw: Any, said: str) -> None:
    assert said in words(draw())
