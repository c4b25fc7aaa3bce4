"""How fast the bench answers, measured in a real browser: from a key press to the repainted page.

    python -m benchmarks.response [--models quickstart mobilenet_v2] [--changes 15] [--json]

For each model: seconds from a press of an arrow key on the *Bits* slider until the browser has the new
table, and until it has the new picture (median over the changes, for one tensor and for all); seconds to open
the bench beside seconds of one calibration pass of the same model and data. `mobilenet_v2` has 104 layers
after folding, random weights and random images; `resnet8` is read from ../shared where that lies beside the
checkout. Wall-clock numbers depend on what else the machine does; the load is given with them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.browser.lab import Lab, Notebook, code_notebook, serve

ROOT = Path(__file__).resolve().parents[1]
BENCH = ".vq-bench"
MODELS = {
    "quickstart": """
from vqkit.experiment.quickstart import quickstart_model, quickstart_data
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
began = time.perf_counter(); bench = vq.explore(net, images); opened = time.perf_counter() - began
began = time.perf_counter(); vq.quantize(net, "pof2s", images); calibrated = time.perf_counter() - began
print("SECONDS", opened, calibrated)"""
# Table and picture are watched in the page itself: the round trips of the driver are not part of the answer.
WATCH = """([box, key]) => {
  const cell = () => document.querySelector(`${box} tr[data-key='${key}'] td:nth-child(3)`)?.innerText;
  const picture = () => document.querySelector(`${box} img.vq-figure`)?.src;
  const was = [cell(), picture()];
  window.vqTimes = {};
  const began = performance.now();
  const look = () => {
    if (!window.vqTimes.table && cell() !== was[0]) window.vqTimes.table = performance.now() - began;
    if (!window.vqTimes.picture && picture() !== was[1]) {
      const image = document.querySelector(`${box} img.vq-figure`);
      if (image?.complete) window.vqTimes.picture = performance.now() - began;
    }
    if (!(window.vqTimes.table && window.vqTimes.picture)) requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}"""


def notebook(path: Path, model: str) -> Path:
    """A notebook that opens the bench on a model."""
    return code_notebook(path, f"import vqkit as vq{MODELS[model]}", OPEN, "bench")


def measure(lab: Lab, model: str, changes: int) -> dict[str, Any]:
    """All numbers of one model, seconds."""
    with lab.open(notebook(lab.root / f"{model}.ipynb", model)) as opened:
        opened.run_all(patience=600)
        opened.wait(f"{BENCH} tr[data-key]", patience=600)
        printed = opened.page.locator(".jp-OutputArea-output:has-text('SECONDS')").first.inner_text()
        seconds = [float(x) for x in printed.split("SECONDS")[1].split()[:2]]
        rows = opened.page.locator(f"{BENCH} tr[data-key]").count()
        key = opened.page.locator(f"{BENCH} tr[data-key$='/kernel']").nth(1).get_attribute("data-key")
        opened.page.locator(f"{BENCH} tr[data-key='{key}']").click()
        opened.wait(f"{BENCH} img[alt^='{key}']")
        found: dict[str, Any] = {"tensors": rows, "open": seconds[0], "calibrate": seconds[1],
                                 "open_over_calibrate": seconds[0] / seconds[1]}  # fmt: skip
        for scope, words in (("this tensor", key), ("everything", "of the whole model")):
            opened.page.get_by_role("radio", name=scope).click()
            opened.wait(f"{BENCH} .vq-reach:has-text('{words}')")
            times = [_change(opened, key, i) for i in range(changes + 1)][1:]  # the first one compiles
            for part in ("table", "picture"):
                found[f"{scope}: {part}"] = statistics.median(t[part] for t in times) / 1000
            opened.page.locator(f"{BENCH} button:has-text('Undo')").first.click()
            for _ in range(changes):
                opened.page.locator(f"{BENCH} button:has-text('Undo')").first.click()
            opened.idle()
        return found


def _change(opened: Notebook, key: str, i: int) -> dict[str, float]:
    slider = opened.page.locator(f"{BENCH} input[type=range]").first
    slider.focus()
    opened.page.evaluate(WATCH, [BENCH, key])
    slider.press("ArrowLeft" if i % 2 == 0 else "ArrowRight")
    opened.wait_until("() => window.vqTimes.table && window.vqTimes.picture")
    opened.idle()
    opened.page.wait_for_timeout(200)
    times: dict[str, float] = opened.page.evaluate("() => window.vqTimes")
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=["quickstart", "mobilenet_v2"])
    parser.add_argument("--changes", type=int, default=15, help="changes of each kind")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    given = parser.parse_args()
    results: dict[str, Any] = {"load_before": os.getloadavg()[0], "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as lab:
        for model in given.models:
            results[model] = measure(lab, model, given.changes)
            if not given.json:
                print(model, *(f"  {k:24} {v:9.3f}" for k, v in results[model].items()), sep="\n")
    results["load_after"] = os.getloadavg()[0]
    if given.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
