"""The picker in JupyterLab: mouse and keyboard choose, headings sort, a redraw keeps the focus."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.browser.lab import Lab, code_notebook

pytestmark = pytest.mark.slow

CODE = """
from vqkit.widgets.elements import queue
from vqkit.widgets.elements import picker
from vqkit.widgets.elements import SerialHandler
from vqkit.comparison.page import table
from vqkit.tables import Column, arranged, next_order
import ipywidgets
columns = (Column("name", "name"), Column("bits", "bits", numeric=True))
rows = [dict(key=n, name=n, bits=b) for n, b in (("conv", 8), ("head", 4), ("stem", 6))]
order = ""
shown = picker(queue(SerialHandler(print)), table(rows, columns, label="layers"), label="layers", chosen="conv")
said = ipywidgets.Label("nothing yet")
def sort(column):
    global order
    order = next_order(order, column)
    shown.html = table(arranged(rows, columns, sorted_by=order), columns, sorted_by=order, label="layers")
def tell(change=None):
    said.value = f"chosen {shown.chosen}"
shown.on_sort(sort)
shown.observe(tell, "chosen")
shown.on_activate(lambda key: setattr(said, "value", f"activated {key}"))
display(shown, said)
"""


def test_mouse_and_keyboard_choose_and_headings_sort(lab: Lab, tmp_path: Path) -> None:
    with lab.open(code_notebook(tmp_path / "picker.ipynb", CODE), width=900, height=700) as opened:
        opened.run_all()
        first = opened.wait(".vq-picker tr[data-key='conv']")
        names = ".vq-picker tbody tr td:first-child"
        assert opened.page.locator(names).all_inner_texts() == ["conv", "head", "stem"]
        opened.wait(".vq-picker tr[data-key='head']").click()
        opened.wait(".widget-label:has-text('activated head')")
        opened.page.keyboard.press("ArrowDown")
        opened.wait(".widget-label:has-text('chosen stem')")
        opened.page.keyboard.press("Home")
        opened.wait(".widget-label:has-text('chosen conv')")
        assert first.get_attribute("aria-selected") == "true"
        opened.page.keyboard.press("Enter")
        opened.wait(".widget-label:has-text('activated conv')")
        opened.wait(".vq-picker [data-sort='bits']").focus()
        opened.page.keyboard.press("Enter")
        opened.wait(".vq-picker th[aria-sort='ascending']")
        assert opened.page.locator(names).all_inner_texts() == ["head", "stem", "conv"]
        assert opened.page.evaluate("document.activeElement.dataset.sort") == "bits"
        assert opened.page.locator(".vq-picker [tabindex='0']").count() == 1
        assert opened.errors == []
        opened.screenshot("picker")
