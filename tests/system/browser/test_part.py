"""The part picker in JupyterLab: clicks and keys choose layers, the plan and the JSON follow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.system.browser.lab import Lab

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
PART = ".vq-part"


def test_choose_start_and_ignored(lab: Lab) -> None:
    with lab.open(ROOT / "notebooks" / "50_partial_model.ipynb") as opened:
        page = opened.page
        opened.run_all()
        assert opened.tracebacks() == []
        opened.wait(f"{PART} [data-key='block2_dw'] text:has-text('start')")
        page.locator(f"{PART} button:has-text('leave float')").first.click()
        opened.wait(f"{PART} [data-key='head']").click()
        opened.wait(f"{PART} [data-key='head'] text:has-text('ignored')")
        # The keyboard: one up, Enter.
        page.keyboard.press("ArrowUp")
        page.keyboard.press("Enter")
        opened.wait(f"{PART} [data-key='pool'] text:has-text('ignored')")
        opened.wait_until(
            "box => JSON.parse(document.querySelector(`${box} .vq-json`).textContent)"
            ".quantize_registry_config.user_quantize_config.ignore_layers.length === 2",
            PART,
        )
        text = page.locator(f"{PART} .vq-json").first.text_content()
        user = json.loads(text)["quantize_registry_config"]["user_quantize_config"]
        assert user["input_layers"] == ["block2_dw"]
        assert user["ignore_layers"] == ["head", "pool"]
        assert page.locator(f"{PART} tbody tr[data-key='head/kernel']").count() == 0
        assert page.locator(f"{PART} tbody tr[data-key='block3_pw/kernel']").count() == 1
        page.locator(f"{PART} button:has-text('sqnr')").first.click()
        opened.wait(f"{PART} [data-key='block3_pw'] text:has-text('dB')")
        opened.screenshot("part")
        page.locator(f"{PART} button:has-text('Whole model')").first.click()
        opened.wait(f"{PART} tbody tr[data-key='head/kernel']")
        # A mistake in a cell is one readable message; the traceback is there for who asks.
        told = opened.run('vq.make_plan(vq.Strategy.builtin("pof2s").with_kwargs(ignore_layers=["blok1_dw"]), net)')
        assert "StrategyError: " in told
        assert "blok1_dw" in told
        assert "did you mean 'block1_dw'?" in told
        assert "Line 1 of the cell" in told
        assert "Traceback" not in told
        assert len(told.splitlines()) <= 8
        opened.screenshot("cell-error")
        whole = opened.run("%tb")
        assert "Traceback" in whole
        assert "make_plan" in whole
        assert len(whole.splitlines()) > len(told.splitlines())
        assert opened.errors == []
