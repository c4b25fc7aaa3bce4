"""Every command and block of the README and the documents is run, or stands below with the reason why not."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.documents import PAGES, ROOT, complete, lines, parts
from vqkit.examples import TASKS

WALKED = [p for p in PAGES if p.name != "CHANGELOG.md"]
# These Python blocks read runs, so they are run where the commands have made some.
BESIDE_RUNS = ("compare.md", "tracking.md", "distributed.md")
SERVES = "a server: tests/cli/test_serve.py and tests/system/robustness/test_served.py look at what it starts"
CLUSTER = "a Dask cluster: the fault dask_worker_killed runs sweeps on one"
NOT_RUN = {
    "vqkit sweep quickstart": "32 variants take minutes; tests/system/test_quickstart.py has its parts",
    "vqkit ui": SERVES,
    "vqkit lab": SERVES,
    "vqkit dashboard": SERVES,
    "vqkit sweep resnet8.yaml --dask scheduler.json": CLUSTER,
    "python benchmarks/": "minutes to hours; tests/system/test_docs.py looks for the options",
}
BLOCKS_NOT_RUN = {
    "bash": "installs from the network; .ci/run runs the README's, CI the linters",
    "text": "a picture, a formula, what a block prints, or cells of a notebook (tests/execution/test_own_notebooks.py)",
}
# What the pages call by a word. The example that is trained fastest stands for the others: tests/examples has them.
MEANT = {
    "RUN": "pof2s weight_bit=4",
    "A": "pof2s weight_bit=8",
    "B": "pof2s weight_bit=4",
    **dict.fromkeys(TASKS, "binary"),
}
SWEEP = "model: net.keras\ndata: {npz: data.npz}\naxes: {weight_bit: [8, 4]}\n"
# What the page on metrics judges: a regression, and a function of one's own.
REGRESSION = "model: regressor.keras\ndata: {npz: measured.npz}\naxes: {weight_bit: [7, 5]}\n"
WORST = "def worst(predictions, labels):\n    return float(abs(predictions - labels).max())\n"
# A part of a strategy is put on a base, and must fit the net.
PART = """
import vqkit
part = vqkit.Strategy.builtin("pof2s").update("{file}")
vqkit.make_plan(part, vqkit.load_model("net.keras"))
"""


def furnish(folder: Path) -> None:
    """The files that the pages speak of: a net that tells four kinds of images apart, its data, sweeps."""
    import keras

    rng = np.random.default_rng(0)
    y = np.arange(160) % 4
    x = rng.normal(0, 0.1, (160, 8, 8, 1)).astype("float32")
    for image, corner in zip(x, y, strict=True):
        row, column = divmod(int(corner), 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    values = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    values = keras.layers.DepthwiseConv2D(3, name="block1_dw")(values)
    values = keras.layers.Conv2D(8, 3, activation="relu", name="conv2")(values)
    features = keras.Model(inputs, keras.layers.Flatten()(values))
    net = keras.Model(inputs, keras.layers.Dense(4, name="head")(features.output))
    seen = np.c_[features.predict(x, verbose=0), np.ones(len(x))]
    solved = np.linalg.lstsq(seen, np.eye(4)[y], rcond=None)[0]
    net.get_layer("head").set_weights([solved[:-1], solved[-1]])
    (folder / "models").mkdir()
    for name in ("net.keras", "model.keras", "models/resnet8.keras"):
        net.save(folder / name)
    np.savez(folder / "data.npz", x_calib=x[:60], x_eval=x[60:], y_eval=y[60:])
    np.savez(folder / "cifar10.npz", x_train=x[:60], x_test=x[60:], y_test=y[60:])
    (folder / "my_sweep.yaml").write_text(SWEEP)
    (folder / "quickstart.yaml").write_text(SWEEP)
    level = x.mean(axis=(1, 2, 3))[:, None] + x[:, :1, 0, 0]
    regressor = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    regressor.layers[-1].set_weights(
        [np.linalg.lstsq(x.reshape(len(x), -1), level, rcond=None)[0], np.zeros(1, "float32")]
    )
    regressor.save(folder / "regressor.keras")
    np.savez(folder / "measured.npz", x_calib=x[:60], x_eval=x[60:], y_eval=level[60:])
    (folder / "regressor.yaml").write_text(REGRESSION)
    (folder / "mine.py").write_text(WORST)
    notebook(folder)


def notebook(folder: Path) -> None:
    """A notebook of one's own, as the page on sweeps speaks of."""
    import nbformat

    declared = nbformat.v4.new_code_cell(
        'strategy = "fsx"\nweight_bit = 8\ntolerance = 0.1', metadata={"tags": ["parameters"]}
    )
    nbformat.write(nbformat.v4.new_notebook(cells=[declared]), folder / "mine.ipynb")


def not_run(words: list[str]) -> bool:
    return any(shlex.join(words).startswith(known) for known in NOT_RUN)


def steps(page: Path, folder: Path) -> list[tuple[str, Any]]:
    """What is run of a page."""
    found: list[tuple[str, Any]] = []
    for i, (kind, text) in enumerate(parts(page)):
        for words in lines(kind, text):
            if words[0] == "vqkit" and not not_run(words) and complete(words):
                found.append(("vqkit", [MEANT.get(w, w) for w in words]))
        if kind == "python" and page.name in BESIDE_RUNS:
            found.append(("python", text))
        if kind == "diff":
            found.append(("python", "\n".join(x[2:] for x in text.splitlines() if x.startswith("+ "))))
        if kind == "json":
            (folder / f"{page.stem}{i}.json").write_text(text)
            found.append(("python", PART.format(file=f"{page.stem}{i}.json")))
        if kind == "yaml":
            found.append(_file(text, folder))
    return found


def _file(text: str, folder: Path) -> tuple[str, Any]:
    """A sweep file is validated against model and data; a search file searches, in the small net."""
    name = text.split()[1]
    search = "objectives:" in text
    here = text.replace("quickstart", "net.keras").replace("data: digits", "data: {npz: data.npz}")
    (folder / f"{name}.yaml").write_text(here if search else text)
    return "vqkit", f"vqkit {'search' if search else 'validate'} {name}.yaml".split() + (
        ["--trials", "2"] if search else []
    )


def test_every_block_has_a_kind_that_is_run_or_a_reason() -> None:
    known = {"python", "json", "yaml", "diff", "span", "", *BLOCKS_NOT_RUN}
    for page in WALKED:
        for kind, text in parts(page):
            assert kind in known, (page.name, text[:60])
            if kind == "":
                # Without a word behind the fence every line is a command, ours or named above.
                told = [x for x in text.splitlines() if not x.startswith(("vqkit ", "dask "))]
                assert told == [], page.name


def test_every_reason_not_to_run_something_is_about_something() -> None:
    said = [shlex.join(words) for page in WALKED for kind, text in parts(page) for words in lines(kind, text)]
    assert [known for known in NOT_RUN if not any(line.startswith(known) for line in said)] == []
    assert {kind for page in WALKED for kind, _ in parts(page)} >= set(BLOCKS_NOT_RUN)


@pytest.mark.slow
def test_the_commands_and_blocks_of_all_pages_run(tmp_path: Path) -> None:
    furnish(tmp_path)
    todo: list[tuple[str, str, Any]] = []
    for page in WALKED:
        todo += [(page.name, *step) for step in steps(page, tmp_path)]
        if page.name == "README.md":
            # What the pages on comparison call "quickstart": the same runs under that name.
            todo.append(("set-up", "vqkit", ["vqkit", "sweep", "quickstart.yaml"]))
    assert len(todo) > 20
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.walk"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        input=json.dumps([step[1:] for step in todo]),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout.splitlines()[-1])
    failed = [(*step, told[-1500:]) for step, (code, told) in zip(todo, results, strict=True) if code != 0]
    assert failed == []
    for made in ("report.html", "pof2s weight_bit=4.onnx", "runs/recommended/net/strategy.json"):
        assert (tmp_path / made).exists(), made


def test_the_inspection_prints_what_the_page_shows(tmp_path: Path) -> None:
    page = next(p for p in PAGES if p.name == "inspect.md")
    (code,) = [text for kind, text in parts(page) if kind == "python"]
    (shown,) = [text for kind, text in parts(page) if kind == "text"]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert [x.rstrip() for x in done.stdout.splitlines()] == [x.rstrip() for x in shown.splitlines()]
