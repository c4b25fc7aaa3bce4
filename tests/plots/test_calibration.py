"""The figure of calibrations and the study behind it: read back from what was drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import vqkit as vq
from vqkit import plots
from vqkit.errors import DataError


def calibrations() -> pd.DataFrame:
    rows = [
        {
            "n_images": n,
            "subset": k,
            "accuracy": 0.9 + 0.01 * k - 1 / n,
            "float_accuracy": 0.98,
            "tensor": t,
            "low": 0.0,
            "high": 4.0 - (k + 1) / n * (t == "a"),
        }
        for n in (10, 20, 100)
        for k in range(1 if n == 100 else 2)
        for t in ("a", "b")
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("theme", [plots.LIGHT, plots.DARK], ids=["light", "dark"])
def test_nothing_is_cut_off_at_the_edge_of_the_page(theme: Any) -> None:
    fig = plots.calibration_curve(calibrations(), theme=theme)
    fig.draw_without_rendering()
    drawn, width, height = fig.get_tightbbox(), *fig.get_size_inches()
    np.testing.assert_array_less([-0.01, -0.01], [drawn.x0, drawn.y0])
    np.testing.assert_array_less([drawn.x1, drawn.y1], [width + 0.01, height + 0.01])


def test_the_band_goes_over_the_subsets() -> None:
    top, below = plots.calibration_curve(calibrations()).axes
    line = next(x for x in top.lines if x.get_label() == "quantized")
    np.testing.assert_allclose(line.get_ydata(), [100 * (0.905 - 0.1), 100 * (0.905 - 0.05), 100 * 0.89])
    ends = top.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([ends.min(), ends.max()], [80.0, 89.0])
    varying = next(x for x in below.lines if x.get_label() == "a")
    np.testing.assert_allclose(varying.get_ydata()[-1], 100.0)
    assert [t.get_text() for t in below.get_xticklabels()] == ["10", "20", "100"]


def test_nothing_to_show_is_said() -> None:
    fig = plots.calibration_curve(calibrations().head(0))
    said = " ".join(t.get_text() for t in fig.findobj(lambda a: hasattr(a, "get_text")))
    assert "nothing was calibrated" in said


@pytest.mark.slow
def test_a_study_quantizes_with_each_number_and_subset(quickstart_model_path: Any) -> None:
    net, data = vq.load_model(quickstart_model_path), vq.load_data("digits")
    study = vq.calibration_study(net, data, "fs", counts=[200, 8], subsets=2)
    assert study[["n_images", "subset"]].drop_duplicates().to_numpy().tolist() == [[8, 0], [8, 1], [200, 0]]
    whole = vq.quantize(net, "fs", data.x_calib)
    last = study[study["n_images"] == 200].set_index("tensor")
    accuracy = vq.evaluate(whole.model, data.x_eval, data.y_eval).metrics["accuracy"]
    assert set(last["accuracy"]) == {accuracy}
    for row in whole.plan.quantized:
        if not row.is_weight:
            # The end of the grid is computed from scale and zero point, in float32.
            wanted = whole.encodings[row.name].f_max.max()
            np.testing.assert_allclose(last.loc[row.name, "high"], wanted, rtol=1e-6)
    few = study[study["n_images"] == 8].pivot(index="tensor", columns="subset", values="high")
    assert (few[0] != few[1]).any()  # other images, other ranges
    assert plots.calibration_curve(study).axes


def test_impossible_numbers_of_images_are_refused() -> None:
    with pytest.raises(DataError, match=r"counts: \[0, 900\]; allowed: 1 to 200"):
        vq.calibration_study(None, vq.load_data("digits"), "fs", counts=[0, 8, 900])
