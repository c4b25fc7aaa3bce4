"""Figures: what they show is read back from the axes; a smoke picture alone would prove nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from vqkit import plots
from vqkit.plots import runs, tensors
from vqkit.plots.runs import clusters
from vqkit.primitives.spec import QuantizerSpec, QuantizerType


def sqnr_frame() -> pd.DataFrame:
    rows = [("stem", "weight", 0, 30.0), ("stem", "activation", 1, 25.0), ("dw", "weight", 2, 12.5)]
    rows += [("dw", "activation", 3, 18.0), ("pool", "activation", 4, np.inf)]
    frame = pd.DataFrame(rows, columns=["layer", "role", "order", "sqnr_db"])
    return frame.assign(tensor=frame["layer"])


def runs_frame() -> pd.DataFrame:
    rows = [
        {"name": f"{s} weight_bit={b}", "strategy": s, "override.weight_bit": b, "size_bytes": 1000.0 * b}
        for s in ("pof2s", "fsx")
        for b in (4, 8)
    ]
    frame = pd.DataFrame(rows).assign(status="FINISHED", float_accuracy=0.98, float_size_bytes=32000.0)
    frame["accuracy"] = [0.60, 0.97, 0.90, 0.981]
    failed = {"name": "fs broken", "strategy": "fs", "status": "FAILED"}
    return pd.concat([frame, pd.DataFrame([failed])], ignore_index=True)


def qparams(bits: int, scale: Any, zero_point: Any = 0.0) -> Any:
    spec = QuantizerSpec(QuantizerType.FS, bit_width=bits)
    return SimpleNamespace(spec=spec, scale=np.float32(scale), zero_point=np.float32(zero_point))


def drawn_text(fig: Figure) -> str:
    return " | ".join(t.get_text() for t in fig.findobj(lambda a: hasattr(a, "get_text")))


@pytest.mark.parametrize("theme", [plots.LIGHT, plots.DARK], ids=["light", "dark"])
@pytest.mark.parametrize(
    "draw",
    [
        lambda theme: plots.sqnr_by_layer(sqnr_frame(), theme=theme),
        lambda theme: plots.leaderboard_bars(runs_frame(), theme=theme),
        lambda theme: plots.pareto(runs_frame(), theme=theme),
        lambda theme: plots.marginal_effects(runs_frame(), theme=theme),
        lambda theme: plots.tensor_histogram(np.arange(9.0), np.arange(9.0), qparams(4, 1.0), theme=theme),
    ],
    ids=["sqnr", "leaderboard", "pareto", "effects", "histogram"],
)
def test_nothing_is_cut_off_at_the_edge_of_the_page(draw: Any, theme: Any) -> None:
    fig = draw(theme)
    fig.draw_without_rendering()
    drawn, width, height = fig.get_tightbbox(), *fig.get_size_inches()
    np.testing.assert_array_less([-0.01, -0.01], [drawn.x0, drawn.y0])
    np.testing.assert_array_less([drawn.x1, drawn.y1], [width + 0.01, height + 0.01])


def test_sqnr_has_layers_from_top_to_bottom_and_marks_the_worst() -> None:
    fig = plots.sqnr_by_layer(sqnr_frame())
    (ax,) = fig.axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["stem", "dw", "pool"]
    assert ax.yaxis_inverted()
    weights = next(line for line in ax.lines if line.get_label() == "weight")
    np.testing.assert_array_equal(weights.get_xdata(), [30.0, 12.5])
    assert "worst weight: 12.5 dB" in drawn_text(fig)
    assert "no error at all" in drawn_text(fig)


def test_ratios_without_end_stay_on_the_page() -> None:
    frame = sqnr_frame()
    frame.loc[0, "sqnr_db"] = -np.inf
    frame.loc[1, "sqnr_db"] = None
    fig = plots.sqnr_by_layer(frame)
    weights, activations = (
        next(line for line in fig.axes[0].lines if line.get_label() == role) for role in ("weight", "activation")
    )
    np.testing.assert_array_equal(weights.get_xdata(), [6.5, 12.5])
    np.testing.assert_array_equal(activations.get_xdata(), [24.0, 18.0, 24.0])
    assert "worst weight: -inf dB" in drawn_text(fig)


def test_a_deep_model_names_some_layers_and_stays_a_page() -> None:
    deep = pd.DataFrame(
        {"layer": [f"l{i}" for i in range(400)], "role": "activation", "order": range(400), "sqnr_db": 20.0}
    )
    fig = plots.sqnr_by_layer(deep)
    assert fig.get_figheight() < 16
    assert 50 <= len(fig.axes[0].get_yticks()) <= 60


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: plots.sqnr_by_layer(sqnr_frame().head(0)), "no tensor was quantized"),
        (lambda: plots.leaderboard_bars(runs_frame().head(0)), "no variant has finished"),
        (lambda: plots.pareto(runs_frame().tail(1)), "no variant has finished"),
        (lambda: plots.marginal_effects(runs_frame().head(1)), "differ in nothing"),
        (lambda: plots.tensor_histogram(np.array([]), np.array([]), qparams(8, 1.0)), "no values"),
        (
            lambda: plots.tensor_histogram(np.array([np.nan]), np.array([0.0]), qparams(8, 1.0)),
            "NaN or Inf",
        ),
    ],
)
def test_nothing_to_show_is_said(draw: Any, words: str) -> None:
    assert words in drawn_text(draw())


def test_histogram_states_step_and_clipped_share() -> None:
    x = np.array([-3.0, -0.5, 0.0, 0.5, 40.0])
    fig = plots.tensor_histogram(x, np.clip(x, -8, 7), qparams(4, 1.0), "conv/kernel")
    assert "conv/kernel" in drawn_text(fig)
    assert "4 bit, step 1, 20 % clipped" in drawn_text(fig)
    limits = [line.get_xdata()[0] for line in fig.axes[0].lines if line.get_linestyle() == "--"]
    np.testing.assert_array_equal(limits, [-8.0, 7.0])


def test_histogram_cells_are_centred_on_the_codes() -> None:
    _, cells = tensors.histogram_edges(np.array([-2.0, 1.5]), np.array([0.5]))
    np.testing.assert_allclose((cells[:-1] + cells[1:]) / 2, np.arange(-4, 4) * 0.5, atol=1e-12)


def test_histogram_density_of_both_curves_is_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=2000)
    bins, cells = tensors.histogram_edges(x, np.array([0.25]))
    for edges in (bins, cells):
        assert np.histogram(x, edges)[0].sum() == x.size


def test_histogram_of_a_per_channel_tensor_says_so() -> None:
    x = np.random.default_rng(0).normal(size=(50, 4))
    fig = plots.tensor_histogram(x, x, qparams(8, [[0.01, 0.02, 0.04, 0.08]], [[0, 0, 0, 0]]))
    assert "4 channels, step 0.01 to 0.08" in drawn_text(fig)


def test_a_constant_tensor_is_drawn() -> None:
    assert "0 % clipped" in drawn_text(plots.tensor_histogram(np.zeros(9), np.zeros(9), qparams(8, 0.1)))


def test_leaderboard_is_sorted_and_names_the_failed() -> None:
    fig = plots.leaderboard_bars(runs_frame())
    names = [t.get_text() for t in fig.axes[0].get_yticklabels()]
    assert names == [
        "fsx weight_bit=8",
        "pof2s weight_bit=8",
        "fsx weight_bit=4",
        "pof2s weight_bit=4",
        "fs broken",
    ]
    assert "98.10 %" in drawn_text(fig)
    assert "failed" in drawn_text(fig)


def test_pareto_numbers_the_front_and_keeps_float_at_its_place() -> None:
    fig = plots.pareto(runs_frame())
    ax = fig.axes[0]
    star = next(line for line in ax.lines if line.get_marker() == "*")
    np.testing.assert_allclose([star.get_xdata()[0], star.get_ydata()[0]], [32.0, 98.0])
    text = drawn_text(fig)
    for words in ("1  fsx weight_bit=4", "2  fsx weight_bit=8", "1 failed"):
        assert words in text
    assert "pof2s weight_bit=4" not in text


def test_close_front_points_share_one_label() -> None:
    assert clusters(np.array([0, 0.01, 5.0]), np.array([0, 0.01, 3.0])) == [(0, 1), (2, 2)]


def test_effects_have_a_panel_for_each_factor_that_varies() -> None:
    fig = plots.marginal_effects(runs_frame())
    assert [ax.get_title(loc="left") for ax in fig.axes if ax.get_visible()] == ["strategy", "weight_bit"]
    bits = fig.axes[1]
    assert [t.get_text() for t in bits.get_xticklabels()] == ["4", "8"]
    medians = [runs.unsquash(line.get_ydata()[0]) for line in bits.lines if line.get_linewidth() == 2.5]
    np.testing.assert_allclose(medians, [-23.0, -0.45], atol=1e-9)


def test_a_line_joins_variants_that_differ_in_one_factor_only() -> None:
    bits = plots.marginal_effects(runs_frame()).axes[1]
    joined = [np.rint(line.get_xdata()).tolist() for line in bits.lines if line.get_marker() == "o"]
    assert joined == [[0.0, 1.0], [0.0, 1.0]]
    drops = [np.diff(runs.unsquash(line.get_ydata()))[0] for line in bits.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(drops, [37.0, 8.1])


@pytest.mark.parametrize("loss", [-88.0, -1.0, 0.0, 0.3])
def test_the_squashed_axis_can_be_read_back(loss: float) -> None:
    np.testing.assert_allclose(runs.unsquash(runs.squash(loss)), loss, atol=1e-12)


def test_pyplot_is_not_touched() -> None:
    import subprocess
    import sys

    code = "import sys, vqkit.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
