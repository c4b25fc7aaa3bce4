"""The view of sensitivities: what is ranked and drawn, and the recovery that it computes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support import zoo
from tests.support.hand import part
from vqkit import plots
from vqkit.errors import RecordError
from vqkit.plots import runs
from vqkit.quantization import Data
from vqkit.search import Engine, Sensitivity, accumulated, recovery
from vqkit.search.layer_sensitivity import sensitivity as ask
from vqkit.sweeps.variant import Settings
from vqkit.widgets.sensitivity import SensitivityView

EVIL = "<script>alert(1)</script>"


def found(evil: str = "dw") -> Sensitivity:
    rows = [
        {
            "layer": layer,
            "kind": kind,
            "bits": bits,
            "mode": mode,
            "accuracy": accuracy,
            "sqnr_db": db,
            "kl": kl,
        }
        for layer, accuracy, db, kl in (
            ("stem", 0.97, 30.0, 0.01),
            (evil, 0.80, 9.0, 0.5),
            ("head", 0.95, 20.0, 0.1),
        )
        for kind in ("weights", "both")
        for bits in (8, 4)
        for mode in ("only", "all_but")
    ]
    return Sensitivity(tuple(rows), 0.98, 500, "fs", "c")


def recovered() -> pd.DataFrame:
    return pd.DataFrame({"left_float": [0, 1, 3], "layer": ["", EVIL, "stem"], "accuracy": [0.5, 0.9, 0.98]})


def summed() -> pd.DataFrame:
    return pd.DataFrame({"layer": ["stem", "dw", "head"], "accuracy": [0.97, 0.75, 0.7], "sqnr_db": [30.0, 8, 7]})


def words(fig: Any) -> str:
    return " | ".join(t.get_text() for t in fig.findobj(lambda a: hasattr(a, "get_text")))


@pytest.mark.parametrize("theme", [plots.LIGHT, plots.DARK], ids=["light", "dark"])
@pytest.mark.parametrize(
    "draw",
    [
        lambda t: plots.sensitivity_ranked(found().table, 0.98, theme=t),
        lambda t: plots.recovery_curve(recovered(), 0.98, theme=t),
        lambda t: plots.sensitivity_accumulated(found().table, summed(), 0.98, theme=t),
    ],
    ids=["ranked", "recovery", "accumulated"],
)
def test_nothing_is_cut_off_at_the_edge_of_the_page(draw: Any, theme: Any) -> None:
    fig = draw(theme)
    fig.draw_without_rendering()
    drawn, width, height = fig.get_tightbbox(), *fig.get_size_inches()
    np.testing.assert_array_less([-0.01, -0.01], [drawn.x0, drawn.y0])
    np.testing.assert_array_less([drawn.x1, drawn.y1], [width + 0.01, height + 0.01])


@pytest.mark.parametrize(
    ("mode", "by", "order"),
    [
        ("only", "kl", ["dw", "head", "stem"]),
        ("only", "sqnr_db", ["dw", "head", "stem"]),
        ("all_but", "kl", ["stem", "head", "dw"]),
        ("all_but", "accuracy", ["stem", "head", "dw"]),
    ],
)
def test_the_most_sensitive_layer_is_at_the_top(mode: str, by: str, order: list[str]) -> None:
    fig = plots.sensitivity_ranked(found().table, 0.98, mode=mode, by=by)
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == order
    assert fig.axes[0].yaxis_inverted()
    assert "4 bits" in words(fig)


def test_unknown_questions_are_refused_and_none_is_said() -> None:
    with pytest.raises(RecordError, match=r"'snr' is not allowed.*sqnr_db"):
        plots.sensitivity_ranked(found().table, 0.98, by="snr")
    assert "nothing was asked" in words(plots.sensitivity_ranked(found().table.head(0), 0.98))
    assert "no recovery" in words(plots.recovery_curve(recovered().head(0), 0.98))


def test_the_recovery_names_what_was_left_float() -> None:
    fig = plots.recovery_curve(recovered(), 0.98)
    line = next(x for x in fig.axes[0].lines if x.get_label() == "quantized")
    np.testing.assert_allclose(line.get_ydata(), [50.0, 90.0, 98.0])
    assert "+ stem" in words(fig)


def test_the_page_ranks_escapes_and_follows_its_controls() -> None:
    view = SensitivityView(found(EVIL), recovered(), summed=summed())
    html = view.html()
    assert "<script" not in html
    assert "98.00 % on 500 samples" in html
    assert html.count("data:image/png;base64,") == 3
    layers = re.findall(r"data-key='(\w+) (?:weights|both)'", view.board())
    assert layers == ["head", "head", "stem", "stem"]  # behind the one with the strange name
    pytest.importorskip("anywidget")
    widget = view.widget
    assert "vq-sensitivity" in widget._dom_classes
    for words, value in (("Question", "all_but"), ("Rank by", "accuracy"), ("Bits", 8)):
        part(widget, words).value = value
    assert (view.mode, view.by, view.bits) == ("all_but", "accuracy", 8)
    assert "<td>all_but</td>" in part(widget, "Sensitivity of each layer").html


def test_isolated_and_accumulated_stand_side_by_side_in_graph_order() -> None:
    fig = plots.sensitivity_accumulated(found().table, summed(), 0.98)
    left, right = fig.axes[:2]
    assert [t.get_text() for t in left.get_yticklabels()] == ["stem", "dw", "head"]
    named = {str(line.get_label()): line for line in left.lines}
    np.testing.assert_allclose(runs.unsquash(named["only this layer"].get_xdata()), [-1, -18, -3])
    np.testing.assert_allclose(runs.unsquash(named["all layers up to this one"].get_xdata()), [-1, -23, -28])
    np.testing.assert_allclose(right.lines[-1].get_xdata(), [30, 8, 7])
    assert len({line.get_marker() for line in left.lines if line.get_label() in named} - {"None"}) == 3
    assert "nothing was accumulated" in words(plots.sensitivity_accumulated(found().table, summed().head(0), 0.98))


def test_recovery_goes_from_all_quantized_to_float(tiny: Any) -> None:
    model = tiny("residual")
    x = zoo.batch(model, 40)
    data = Data("random", zoo.batch(model, 16, seed=1), x, np.arange(40) % 3)
    engine = Engine(model, data, settings=Settings(batch_size=8))
    answers = ask(model, data, "pof2s", bits=(3,), engine=engine)
    curve = recovery(answers, engine, "pof2s")
    order = list(dict.fromkeys(answers.ranked("kl")["layer"]))
    counts = curve["left_float"].tolist()
    assert counts == sorted({0, len(order), *(n for n in (1, 2, 4, 8, 16) if n < len(order))})
    assert curve["layer"].tolist() == ["", *(order[n - 1] for n in counts[1:])]
    assert curve["kl"].iloc[-1] == pytest.approx(0, abs=1e-6)  # nothing is quantized any more
    assert curve["sqnr_db"].iloc[-1] > 100 > curve["sqnr_db"].iloc[0]
    # Layer after layer: from one that is quantized to all, which is where recovery starts.
    sums = accumulated(answers, engine, "pof2s", points=3)
    assert sums["quantized"].tolist()[-1] == len(order)
    assert sums["sqnr_db"].iloc[0] > sums["sqnr_db"].iloc[-1]
    alone = answers.table.set_index(["layer", "kind"])["sqnr_db"]
    one = accumulated(answers, engine, "pof2s", points=99).iloc[0]
    assert one["sqnr_db"] == pytest.approx(min(alone[one["layer"]]), abs=1e-3)
