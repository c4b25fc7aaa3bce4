"""How fast the bench answers, measured in a real browser: from a key press to the repainted page.

    python -m benchmarks.response [--models quickstart mobilenet_v2] [--changes 15] [--json]

For each model: seconds from a press of an arrow key on the *Bits* slider until the browser has the new
table, JSON and picture, and until it has all three (median and slowest over the changes, for one tensor and
for all). Every change goes to a bit width that the bench has not seen, so nothing is answered from memory.
Seconds to open the bench stand beside seconds of one calibration pass of the same model and data, and of the
whole `vq.quantize` of which that pass is a part (`timings["calibrate"]`: all batches run and observed, the
ranges decided). `mobilenet_v2` has 104 layers
after folding, random weights and random images; `resnet8` is read from ../shared where that lies beside the
checkout. Wall-clock numbers depend on what else the machine does; the load is given with them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.system.browser.lab import Lab, Notebook, code_notebook, serve

ROOT = Path(__file__).resolve().parents[1]
BENCH = ".vq-bench"
MODELS = {
    "quickstart": """
from vqkit.sweeps.quickstart import quickstart_model, quickstart_data
net, images = vq.load_model(quickstart_model("../runs/cache")), quickstart_data().x_calib""",
    "resnet8": f"""
import sys; sys.path.insert(0, {str(ROOT.parent / "shared")!r})
from assets import load
case = load("resnet8"); net, images = vq.load_model(case.model_path), case.x_calib""",
    "mobilenet_v2": """
import keras, numpy as np
keras.utils.set_random_seed(0)
net = keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None)
images = np.random.default_rng(0).normal(size=(200, 96, 96, 3)).astype("float32")""",
}
OPEN = """
import time
def seconds(work):
    began = time.perf_counter(); made = work(); return time.perf_counter() - began, made
opened, passed, quantized = [], [], []
for _ in range(3):  # in turn, so that all meet the same load
    took, bench = seconds(lambda: vq.explore(net, images)); opened.append(took)
    took, done = seconds(lambda: vq.quantize(net, "pof2s", images)); quantized.append(took)
    passed.append(done.timings["calibrate"])
print("SECONDS", *opened, *passed, *quantized)"""
COMPARE = """import vqkit as vq
vq.compare("../runs", "shown")"""
# Until what the second selector finds differs from what it found.
WATCH_TEXT = """selector => {
  const text = () => document.querySelector(selector)?.innerText;
  const was = text();
  window.vqTook = 0;
  const began = performance.now();
  const look = () => {
    if (text() !== was) window.vqTook = performance.now() - began;
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}"""
# The parts are watched in the page itself: the round trips of the driver are not part of the answer.
WATCH = """([box, key]) => {
  const image = () => document.querySelector(`${box} img.vq-figure`);
  const parts = {
    table: () => document.querySelector(`${box} tr[data-key='${key}'] td:nth-child(3)`)?.innerText,
    JSON: () => document.querySelector(`${box} .vq-json`)?.textContent,
    picture: () => image()?.src,
  };
  const was = Object.fromEntries(Object.entries(parts).map(([name, read]) => [name, read()]));
  window.vqTimes = {};
  const began = performance.now();
  const look = () => {
    for (const [name, read] of Object.entries(parts))
      if (!window.vqTimes[name] && read() !== was[name] && (name !== "picture" || image()?.complete))
        window.vqTimes[name] = performance.now() - began;
    if (Object.keys(window.vqTimes).length < 3) requestAnimationFrame(look);
    else window.vqTimes.all = Math.max(...Object.values(window.vqTimes));
  };
  requestAnimationFrame(look);
}"""
DOWN = 5  # from 8 bits to 3; the other changes go up from 8


def notebook(path: Path, model: str) -> Path:
    """A notebook that opens the bench on a model."""
    return code_notebook(path, f"import vqkit as vq{MODELS[model]}", OPEN, "bench")


def measure(lab: Lab, model: str, changes: int) -> dict[str, Any]:
    """All numbers of one model, seconds."""
    with lab.open(notebook(lab.root / f"{model}.ipynb", model)) as opened:
        opened.run_all(patience=600)
        opened.wait(f"{BENCH} tr[data-key]", patience=600)
        printed = opened.page.locator(".jp-OutputArea-output:has-text('SECONDS')").first.inner_text()
        seconds = [float(x) for x in printed.split("SECONDS")[1].split()[:9]]
        open_, calibrate, quantize = seconds[:3], seconds[3:6], seconds[6:]
        ratios = [[a / b for a, b in zip(open_, other, strict=True)] for other in (calibrate, quantize)]
        rows = opened.page.locator(f"{BENCH} tr[data-key]").count()
        key = opened.page.locator(f"{BENCH} tr[data-key$='/kernel']").nth(1).get_attribute("data-key")
        opened.page.locator(f"{BENCH} tr[data-key='{key}']").click()
        opened.wait(f"{BENCH} img[alt^='{key}']")
        found: dict[str, Any] = {
            "tensors": rows,
            "open: first": open_[0],
            "open": statistics.median(open_),
            "calibration pass: first": calibrate[0],
            "calibration pass": statistics.median(calibrate),
            "quantize": statistics.median(quantize),
            "open / calibration pass: first": ratios[0][0],
            "open / calibration pass": statistics.median(ratios[0]),
            "open / quantize": statistics.median(ratios[1]),
        }
        for scope, words in (("this tensor", key), ("everything", "of the whole model")):
            opened.page.get_by_role("radio", name=scope).click()
            opened.wait(f"{BENCH} .vq-reach:has-text('{words}')")
            _change(opened, key, "ArrowLeft")  # the first one compiles
            times = [_change(opened, key, "ArrowLeft") for _ in range(DOWN - 1)]
            _undo(opened, DOWN)
            times += [_change(opened, key, "ArrowRight") for _ in range(changes - len(times))]
            _undo(opened, changes - DOWN + 1)
            for part in ("table", "JSON", "picture", "all"):
                found[f"{scope}: {part}"] = statistics.median(t[part] for t in times) / 1000
            found[f"{scope}: all, slowest"] = max(t["all"] for t in times) / 1000
        return found


def _undo(opened: Notebook, steps: int) -> None:
    for _ in range(steps):
        opened.page.locator(f"{BENCH} button:has-text('Undo')").first.click()
    opened.idle()


def _change(opened: Notebook, key: str, press: str) -> dict[str, float]:
    slider = opened.page.locator(f"{BENCH} input[type=range]").first
    slider.focus()
    opened.page.evaluate(WATCH, [BENCH, key])
    slider.press(press)
    opened.wait_until("() => window.vqTimes.all")
    opened.idle()
    opened.page.wait_for_timeout(200)
    times: dict[str, float] = opened.page.evaluate("() => window.vqTimes")
    return times


def measure_compare(lab: Lab, changes: int) -> dict[str, float]:
    """Seconds from Enter in the filter, and from a click on a mark, to the changed page; medians."""
    from tests.system.browser.test_compare import fill

    fill(lab.root / "runs")
    box, found = ".vq-compare", {"filter": [], "click": []}  # type: ignore[var-annotated]
    with lab.open(code_notebook(lab.root / "compare.ipynb", COMPARE)) as opened:
        opened.run_all()
        opened.wait(f"{box} circle")
        marks = [m.get_attribute("data-key") for m in opened.page.locator(f"{box} circle").all()]
        for i in range(changes + 1):
            field = opened.page.get_by_role("textbox", name="Filter")
            field.fill("pof2s" if i % 2 == 0 else "")
            found["filter"].append(_took(opened, f"{box} tbody", lambda f=field: f.press("Enter")))
        if changes % 2 == 0:
            _took(opened, f"{box} tbody", lambda: (field.fill(""), field.press("Enter")))
        for i in range(changes + 1):
            mark = opened.page.locator(f"{box} circle[data-key='{marks[i % len(marks)]}']").first
            found["click"].append(_took(opened, f"{box} h4", lambda m=mark: m.click()))
    return {name: statistics.median(times[1:]) / 1000 for name, times in found.items()}


def _took(opened: Notebook, selector: str, act: Callable[[], Any]) -> float:
    opened.page.evaluate(WATCH_TEXT, selector)
    act()
    opened.wait_until("() => window.vqTook")
    opened.idle()
    return float(opened.page.evaluate("() => window.vqTook"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=sorted(MODELS), default=["quickstart", "mobilenet_v2"])
    parser.add_argument(
        "--compare", action=argparse.BooleanOptionalAction, default=True, help="measure the comparison too"
    )
    parser.add_argument("--changes", type=int, default=15, help="changes of each kind")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    given = parser.parse_args()
    results: dict[str, Any] = {"load_before": os.getloadavg()[0], "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as lab:
        for model in given.models:
            results[model] = measure(lab, model, given.changes)
            if not given.json:
                print(model, *(f"  {k:32} {v:9.3f}" for k, v in results[model].items()), sep="\n")
        if given.compare:
            results["compare"] = measure_compare(lab, given.changes)
            if not given.json:
                print("compare", *(f"  {k:32} {v:9.3f}" for k, v in results["compare"].items()), sep="\n")
    results["load_after"] = os.getloadavg()[0]
    if given.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
