"""Comparing and watching in JupyterLab and under Voilà: a point is clicked, a sweep is cancelled."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.support import records as make
from tests.system.browser.lab import ROOT, Lab, code_notebook
from vqkit.execution.runner import run_sweep
from vqkit.runs.store import Store
from vqkit.sweeps.quickstart import quickstart_data
from vqkit.sweeps.spec import Sweep

pytestmark = pytest.mark.slow

TOKEN = "a-token-of-the-test"
EVIL = "<script>alert(1)</script>"
WATCH = """
import vqkit as vq
axes = {"weight_bit": [8, 7, 6, 5, 4, 3]}
sweep = {"name": "small", "model": "quickstart", "data": "digits", "strategy": "fs", "axes": axes}
running = vq.start_sweep(sweep, "../runs", track=False)
vq.watch(running, interval=0.5)
"""


def fill(runs: Path) -> None:
    """A sweep as the runner records it, with answers to the digits' evaluation images."""
    data = quickstart_data()
    said = {"ref": "digits", "digest": data.digest, "n_calib": data.n_calib, "n_eval": data.n_eval}
    made = [
        make.record(base, {"weight_bit": bits}, accuracy=accuracy, size=1000 * bits, data=said)
        for base, bits, accuracy in (("pof2s", 8, 0.97), ("fs", 6, 0.975), ("fs", 4, 0.93))
    ]
    for seed, m in enumerate(made):
        folder = make.add(runs, m)
        wrong = np.random.default_rng(seed).choice(data.n_eval, 12 + 10 * seed, replace=False)
        predicted = data.y_eval.copy()
        predicted[wrong] = (predicted[wrong] + 1) % 10
        np.savez(folder / "predictions.npz", predicted=predicted, labels=data.y_eval)
    failed = make.record("fsx", {"weight_bit": 99}, status="FAILED", name=EVIL, data=said)
    make.add(runs, failed)
    make.sweep(runs, "shown", [*made, failed])


def test_the_compare_notebook_filters_and_a_clicked_point_shows_its_run(lab: Lab) -> None:
    fill(lab.root / "runs")
    source = ROOT / "notebooks" / "40_compare_runs.ipynb"
    with lab.open(source, width=1300, height=1400, runs_dir="../runs", sweep="shown") as opened:
        opened.run_all()
        assert opened.tracebacks() == []
        page, box = opened.page, ".vq-compare"
        rows = f"{box} .vq-picker table tbody tr"
        count = f'document.querySelectorAll("{rows}").length'
        opened.wait(rows)
        assert page.locator(rows).count() == 4
        opened.screenshot("compare", box)
        # A point, with the mouse.
        point = opened.wait(f"{box} circle[aria-label^='fs weight_bit=4']")
        point.click()
        opened.wait(f"{box} h4:has-text('fs weight_bit=4')")
        opened.wait(f"{box} a:has-text('Open the executed notebook of fs weight_bit=4')")
        opened.wait(f"{box} tr[aria-selected='true'] td:has-text('fs weight_bit=4')")
        # The next one, with the keyboard; a failed run shows its traceback.
        page.keyboard.press("Home")
        failed = f"{box} circle[aria-label*='script']"
        opened.wait(failed).focus()
        page.keyboard.press("Enter")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowLeft")
        opened.wait(f"{box} pre:has-text('Traceback: StrategyError')")
        # Filter, with the keyboard.
        page.get_by_role("textbox", name="Filter").fill("pof2s")
        page.keyboard.press("Enter")
        opened.wait_until(f"() => {count} === 1")
        page.get_by_role("textbox", name="Filter").fill("")
        page.keyboard.press("Enter")
        opened.wait_until(f"() => {count} === 4")
        page.get_by_role("tab", name="Two runs").click()
        opened.wait(f"{box} img[alt^='Samples that two runs answer differently']")
        opened.wait(f"{box} label:has-text('Run A')")
        page.get_by_role("tab", name="Against cost").click()
        light = opened.wait(f"{box} svg image").get_attribute("href")
        opened.dark()
        differs = "(old) => document.querySelector('.vq-compare svg image')?.getAttribute('href') !== old"
        opened.wait_until(differs, light)
        opened.screenshot("compare_dark", box)
        opened.dark(False)
        assert opened.errors == []


def regression(folder: Path) -> None:
    """A sweep of a net that reads a level off pictures: real runs, in `folder/runs`."""
    random = np.random.default_rng(0)
    x = random.uniform(0, 0.2, (200, 12, 12, 1)).astype("float32")
    y = random.uniform(0, 1, (200, 1)).astype("float32")
    for picture, level in zip(x, y[:, 0], strict=True):
        picture[12 - round(12 * float(level)) :] += 0.8
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(1, name="level"),
        ]
    )
    features = keras.Model(model.inputs, model.layers[-2].output).predict(x, verbose=0)
    model.get_layer("level").kernel.assign(np.linalg.lstsq(features, y, rcond=None)[0])
    model.save(folder / "level.keras")
    np.savez(folder / "level.npz", x_calib=x[:50], x_eval=x[50:], y_eval=y[50:])
    sweep = {"name": "levels", "model": "level.keras", "data": {"npz": "level.npz"}, "axes": {"weight_bit": [8, 4, 3]}}
    outcome = run_sweep(Sweep.from_dict(sweep, base_dir=folder), Store.at(folder / "runs"))
    assert not outcome.failed


def test_a_regression_shows_its_metric_its_direction_and_its_worst_samples(lab: Lab) -> None:
    regression(lab.root)
    source = ROOT / "notebooks" / "40_compare_runs.ipynb"
    with lab.open(source, width=1280, height=1400, runs_dir="../runs", sweep="levels") as opened:
        opened.run_all()
        assert opened.tracebacks() == []
        page, box = opened.page, ".vq-compare"
        opened.wait(f"{box} .vq-picker table tbody tr")
        best = page.locator(f"{box} .vq-picker table tbody tr").first.inner_text()
        assert "weight_bit=8" in best
        assert "mae" in page.locator(f"{box} .vq-picker table thead").first.inner_text()
        assert "accuracy" not in page.locator(box).inner_text().lower()
        page.get_by_role("tab", name="Samples").click()
        opened.wait(f"{box} :text('By mae (lower is better) these 24 samples are worst.')")
        opened.wait(f"{box} img[alt='The samples on which the run does worst']")
        opened.wait(f"{box} img[alt='Output minus label against the label']")
        opened.screenshot("compare_regression_samples", box)
        page.get_by_role("tab", name="Two runs").click()
        opened.wait(f"{box} :text('By mae B is worse on')")
        opened.wait(f"{box} img[alt='The samples that got worst from run A to run B']")
        page.get_by_role("tab", name="Against cost").click()
        opened.wait(f"{box} circle[aria-label*='weight_bit=3']")
        opened.screenshot("compare_regression", box)
        assert opened.errors == []


def test_a_running_sweep_is_watched_and_cancelled(lab: Lab, tmp_path: Path) -> None:
    with lab.open(code_notebook(tmp_path / "watch.ipynb", WATCH), width=1100, height=800) as opened:
        opened.run_all()
        opened.wait(".vq-watch :text('At work: fs weight_bit=8')")
        opened.screenshot("watch", ".vq-watch")
        button = opened.page.get_by_role("button", name="Cancel the sweep")
        button.focus()
        opened.page.keyboard.press("Enter")
        opened.wait(".vq-watch .vq-message.done:has-text('cancelled')")
        opened.wait(".vq-watch button:disabled")
        opened.wait(".vq-watch :text('not running')")
        assert opened.errors == []


@contextlib.contextmanager
def served(runs: Path) -> Iterator[str]:
    """`vqkit dashboard` on a folder of runs."""
    from tests.system.browser.lab import _environment

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    home = runs.parent / ".voila"
    home.mkdir()
    options = ["--runs", str(runs), "--port", str(port), "--no-browser"]
    command = [sys.executable, "-m", "vqkit.cli", "dashboard", *options]
    with open(home / "log", "wb") as log:
        server = subprocess.Popen(
            command, env={**_environment(home), "JUPYTER_TOKEN": TOKEN}, stdout=log, stderr=log, cwd=home
        )
    try:
        end = time.monotonic() + 60
        while server.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)
        print((home / "log").read_text("utf-8", errors="replace")[-3000:])


def test_the_dashboard_opens_and_shows_the_runs(lab: Lab, tmp_path: Path) -> None:
    fill(tmp_path / "runs")
    with served(tmp_path / "runs") as address:
        page = lab.browser.new_context(viewport={"width": 1200, "height": 1000}).new_page()
        page.goto(f"{address}/?token={TOKEN}", timeout=90_000)
        page.locator(".vq-compare circle[aria-label^='fs weight_bit=4']").first.click(timeout=90_000)
        page.locator(".vq-compare h4:has-text('fs weight_bit=4')").wait_for(timeout=60_000)
        page.get_by_label("Sweep").select_option("shown")
        page.get_by_role("tab", name="Watch").click()
        page.locator(".vq-watch :text('4 of 4 variants have ended')").first.wait_for(timeout=60_000)
        from tests.system.browser.lab import artifacts

        page.screenshot(path=str(artifacts() / "dashboard.png"))
        # Only this machine is served, and only who knows the token.
        for query in ("", "/?token=wrong"):
            found = urllib.request.urlopen(address + query, timeout=30)
            assert "/login" in found.url
            assert b"vq-compare" not in found.read()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{address}/api/kernels/{'0' * 8}-0000-0000-0000-{'0' * 12}", timeout=30)
        own = socket.gethostbyname(socket.gethostname())
        if not own.startswith("127."):
            with pytest.raises(OSError):
                socket.create_connection((own, int(address.rpartition(":")[2])), timeout=2)
        page.context.close()


if os.name != "posix":
    pytest.skip("the dashboard's server is tested on posix", allow_module_level=True)
