"""Every widget without a mouse and without sight: Tab reaches each control, each has a name, keys move it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.browser.keyboard import act, walk
from tests.system.browser.lab import Lab, Notebook, code_notebook
from tests.system.browser.test_compare import fill

pytestmark = pytest.mark.slow

SETUP = """
import keras

import vqkit as vq

images = vq.load_data("digits")
layers = [keras.layers.Conv2D(4, 3, activation="relu", name="conv"), keras.layers.Flatten(),
          keras.layers.Dense(10, activation="softmax", name="head")]
net = keras.Sequential([keras.Input(images.x_calib.shape[1:]), *layers])
"""
WIDGETS = {
    ".vq-bench": "vq.explore(net, images)",
    ".vq-part": 'vq.pick_part(net, "pof2s", images)',
    ".vq-compare": 'vq.compare("../runs", "shown")',
    ".vq-watch": 'vq.watch("shown", "../runs")',
    ".vq-sensitivity": 'vq.sensitivity(net, images, bits=(4,), modes=("only", "all_but"), images=50)',
}


def check(opened: Notebook, box: str) -> None:
    opened.wait(box)
    reached, missed = walk(opened.page, box)
    assert missed == [], f"{box}: Tab does not reach these"
    assert [stop.html for stop in reached if not stop.name] == [], f"{box}: these have no name"
    assert opened.page.locator(f"{box} img:not([alt])").count() == 0
    assert act(opened.page, box) == [], f"{box}: a key does not move these"


def test_all_widgets(lab: Lab, tmp_path: Path) -> None:
    fill(lab.root / "runs")
    with lab.open(code_notebook(tmp_path / "all_widgets.ipynb", SETUP, *WIDGETS.values()), height=1400) as opened:
        opened.run_all()
        assert opened.tracebacks() == []
        for box in WIDGETS:
            opened.page.locator(box).first.scroll_into_view_if_needed()
            check(opened, box)
        sensitivity(opened)
        assert opened.errors == []


def sensitivity(opened: Notebook) -> None:
    """Both questions, isolated and accumulated, ranked as asked, the recovery."""
    page, box = opened.page, ".vq-sensitivity"
    opened.screenshot("sensitivity", box)
    for words in (
        "Accuracy and noise by layer",
        "Accuracy and SQNR of each layer alone",
        "Accuracy by the number of most sensitive",
    ):
        opened.wait(f"{box} img[alt^='{words}']")
    rows = f"{box} tbody tr td:nth-child(1)"
    page.get_by_label("Question").select_option("only this layer quantized")
    opened.wait(f"{box} tbody td:text-is('only')")
    assert "head" in page.locator(rows).all_inner_texts()
    before = page.locator(f"{box} img").first.get_attribute("src")
    page.get_by_label("Question").select_option("all quantized but this layer")
    opened.wait(f"{box} tbody td:text-is('all_but')")
    page.get_by_label("Rank by").select_option("accuracy")
    opened.wait_until("([box, was]) => document.querySelector(`${box} img`).src !== was", [box, before])
    page.locator(f"{box} [data-sort='accuracy']").focus()
    page.keyboard.press("Enter")
    opened.wait(f"{box} th[aria-sort='ascending']")
    shown = [float(x) for x in page.locator(f"{box} tbody tr td:nth-child(5)").all_inner_texts()]
    assert shown == sorted(shown)
