"""The bench in JupyterLab: a person reads, moves, evaluates and saves; what is shown is what is used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.system.browser.lab import Lab, Notebook
from vqkit.cli import app

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
BENCH = ".vq-bench"


def bits(opened: Notebook, tensor: str) -> str:
    return str(opened.page.locator(f"{BENCH} tr[data-key='{tensor}'] td:nth-child(3)").inner_text())


def shown_json(opened: Notebook) -> dict[str, object]:
    text = opened.page.locator(f"{BENCH} .vq-json").first.text_content()
    value: dict[str, object] = json.loads(text)
    return value


def picture(opened: Notebook) -> str:
    return str(opened.page.locator(f"{BENCH} img.vq-figure").first.get_attribute("src"))


def await_bits(opened: Notebook, tensor: str, value: str) -> None:
    opened.wait_until(
        "([box, key, want]) => document.querySelector(`${box} tr[data-key='${key}'] td:nth-child(3)`)"
        "?.innerText === want",
        [BENCH, tensor, value],
    )


def await_new_picture(opened: Notebook, before: str) -> None:
    opened.wait_until(
        "([box, was]) => (document.querySelector(`${box} img.vq-figure`)?.src ?? was) !== was",
        [BENCH, before],
    )


def test_move_evaluate_save(lab: Lab) -> None:
    with lab.open(ROOT / "notebooks" / "10_explore_a_model.ipynb") as opened:
        page = opened.page
        opened.run_all()
        assert opened.tracebacks() == []
        opened.wait(f"{BENCH} tr[data-key='stem/kernel']").click()
        opened.wait_until("box => document.querySelector(`${box} img.vq-figure`)?.alt.startsWith('stem/kernel')", BENCH)
        assert bits(opened, "stem/kernel") == "6"  # the last cells set weight_bit=6 from code

        # The keyboard moves the slider: table, picture and JSON follow.
        before = picture(opened)
        slider = page.locator(f"{BENCH} input[type=range]").first
        slider.focus()
        slider.press("ArrowLeft")
        await_bits(opened, "stem/kernel", "5")
        await_new_picture(opened, before)
        named = shown_json(opened)["quantize_registry_config"]["layer_config"]  # type: ignore[index]
        assert named == {"stem": {"weight_bit": 5}}
        decided = page.locator(f"{BENCH} tr[data-key='stem/kernel'] td:nth-child(8)").inner_text()
        assert decided == "this layer: bit_width"

        # The mouse ticks a box, for everything.
        page.get_by_role("radio", name="everything").click()
        opened.wait(f"{BENCH} .vq-reach:has-text('of the whole model')")
        before = picture(opened)
        page.locator(f"{BENCH} label:has-text('Per channel') input").first.click()
        await_new_picture(opened, before)
        user = shown_json(opened)["quantize_registry_config"]["user_quantize_config"]  # type: ignore[index]
        assert user["weight_per_channel"] is True
        opened.wait(f"{BENCH} tr[data-key='head/kernel'] td:has-text('per channel')")

        # Undo and redo.
        page.locator(f"{BENCH} button:has-text('Undo')").first.click()
        opened.wait(f"{BENCH} tr[data-key='head/kernel'] td:has-text('per tensor')")
        page.locator(f"{BENCH} button:has-text('Redo')").first.click()
        opened.wait(f"{BENCH} tr[data-key='head/kernel'] td:has-text('per channel')")

        # What the strategy cannot say is one readable message; the bench stays as it was.
        page.get_by_role("radio", name="its layer type").click()
        opened.wait(f"{BENCH} .vq-reach:has-text('of all Conv2D layers')")
        opened.wait(f"{BENCH} tr[data-key='quant_image/input']").click()
        opened.wait(f"{BENCH} label:has-text('Left float') input").click()
        told = opened.wait(f"{BENCH} .vq-message.error").inner_text()
        assert "no layer type" in told
        assert opened.tracebacks() == []

        page.locator(f"{BENCH} button:has-text('Evaluate')").first.click()
        result = opened.wait(f"{BENCH} .vq-message.done").inner_text()
        assert "accuracy" in result
        opened.wait(f"{BENCH} th:has-text('measured SQNR')")

        page.locator(f"{BENCH} button:has-text('Save strategy')").first.click()
        opened.wait(f"{BENCH} .vq-message.done:has-text('explored.json')")
        saved = lab.root / "notebooks" / "explored.json"
        assert json.loads(saved.read_text("utf-8")) == shown_json(opened)
        checked = CliRunner().invoke(app, ["validate", str(saved)])
        assert checked.exit_code == 0, checked.output

        # Filter, then sort with the keyboard.
        page.locator(f"{BENCH} input[placeholder='words in any column']").first.fill("kernel")
        opened.wait_until(
            "box => [...document.querySelectorAll(`${box} tbody tr[data-key]`)]"
            ".every(r => r.dataset.key.endsWith('kernel'))",
            BENCH,
        )
        page.locator(f"{BENCH} [data-sort='sqnr']").first.focus()
        page.keyboard.press("Enter")
        opened.wait(f"{BENCH} th[aria-sort='ascending']")
        opened.screenshot("explore")
        light = picture(opened)
        opened.dark()
        await_new_picture(opened, light)
        opened.screenshot("explore-dark")
        opened.dark(False)
        assert opened.errors == []


AT_ONCE = """([box, rows]) => {
  const one = (words) => document.querySelector(`${box} ${words}`);
  const press = (bits) => {
    const slider = one('input[type=range]');
    slider.value = bits;
    slider.dispatchEvent(new Event('input', { bubbles: true }));
  };
  for (const [key, bits] of rows) {
    one(`tr[data-key='${key}']`).click();
    for (const some of [2, 12, bits]) press(some);
  }
  document.body.dispatchEvent(new PointerEvent('pointerdown', { bubbles: true }));
  [...document.querySelectorAll(`${box} button`)].find(b => b.innerText.includes('Save strategy')).click();
}"""


def test_what_is_done_faster_than_the_kernel_answers_lands_where_it_was_meant(lab: Lab) -> None:
    """Rows are chosen and bits changed within one task of the page, then saved, while cells still run."""
    source = ROOT / "notebooks" / "10_explore_a_model.ipynb"
    with lab.open(source) as opened:
        opened.run_all()
        rows = opened.page.locator(f"{BENCH} tr[data-key$='/kernel']")
        opened.wait(f"{BENCH} tr[data-key$='/kernel']")
        keys = [row.get_attribute("data-key") for row in rows.all()]
        # Not all of them: the notebook's weight_bit=6 would reach nothing, and be refused.
        wanted = {key: 3 + i for i, key in enumerate(keys[:-1])}
        opened.page.evaluate(AT_ONCE, [BENCH, [*wanted.items()]])
        opened.wait(f"{BENCH} .vq-message.done:has-text('explored.json')")
        saved = json.loads((lab.root / "notebooks" / "explored.json").read_text("utf-8"))
        named = saved["quantize_registry_config"]["layer_config"]
        assert named == {key.removesuffix("/kernel"): {"weight_bit": bits} for key, bits in wanted.items()}
        assert saved == shown_json(opened)
        for key, value in wanted.items():
            await_bits(opened, key, str(value))
        # The controls show the row that was chosen last, with the bits it was given.
        assert opened.page.locator(f"{BENCH} .vq-controls legend").inner_text() == f"Quantizer of {[*wanted][-1]}"
        assert opened.page.locator(f"{BENCH} input[type=range]").input_value() == str([*wanted.values()][-1])
        assert opened.errors == []
