"""Arbitrary input for every entry point, drawn from a seeded source: what is tried, and what became of it.

An entry point accepts its input or refuses it with an error of vqkit's own; anything else passes through.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import string
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np

from tests.system.robustness import targets
from tests.system.robustness.binary import arrays, model_file, model_files, net, npz_file
from tests.system.robustness.draws import WORDS, damaged, value
from tests.system.robustness.targets import accepted

Target = Callable[[random.Random], bool]


def strategy_bytes(rng: random.Random) -> bool:
    """A strategy file of any bytes, or a valid one damaged."""
    base = json.dumps(rng.choice(targets.BASES)).encode()
    return targets.strategy_file(damaged(base, rng) if rng.random() < 0.8 else rng.randbytes(rng.randint(0, 200)))


def strategy_json(rng: random.Random) -> bool:
    """A strategy of any JSON value, or a valid one with values replaced, removed, renamed."""
    if rng.random() < 0.2:
        return targets.strategy_value(value(rng))
    return targets.strategy_value(targets.mutated(rng.choice(targets.BASES), rng, lambda: value(rng)))


def sweep_yaml(rng: random.Random) -> bool:
    """A sweep file of any bytes, a valid one damaged, or one with other values."""
    import yaml

    kind = rng.random()
    if kind < 0.2:
        return targets.sweep_file(rng.randbytes(rng.randint(0, 200)))
    if kind < 0.6:
        return targets.sweep_file(damaged(yaml.safe_dump(targets.SWEEP).encode(), rng))
    document = targets.mutated(targets.SWEEP, rng, lambda: value(rng))
    return targets.sweep_file(yaml.safe_dump(document).encode("utf-8", "surrogatepass"))


def tracking_uri(rng: random.Random) -> bool:
    """An address of a tracking store: any text, and known schemes with any rest."""
    from vqkit.runs.mlflow import Tracker

    scheme = rng.choice(
        (
            "",
            "sqlite:///",
            "sqlite://",
            "http://127.0.0.1:9/",
            "file:",
            "nonsense://",
            "s3://",
            "databricks",
            "postgresql://127.0.0.1:9/",
            "mysql://",
            "uc:",
        )
    )
    rest = "".join(rng.choices(string.ascii_letters + string.punctuation + " é\n\x00", k=rng.randint(0, 8)))
    quick = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
    with _in_folder(), patch.dict(os.environ, quick), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A new database takes seconds to prepare; one that cannot be made refuses at once.
        place = "nowhere/" if scheme == "sqlite:///" else ""
        return accepted(lambda: Tracker.open(scheme + place + rest, runs_dir="runs"))


def notebook_parameters(rng: random.Random) -> bool:
    """Parameters for the run notebook: its own names and others, any values; and notebooks of any bytes."""
    from vqkit.sweeps import notebook

    source = notebook.find(rng.choice(("20_run_variant.ipynb", "40_compare_runs.ipynb")))
    names = [*notebook.declared_parameters(source), *WORDS]
    given = {rng.choice(names): value(rng) for _ in range(rng.randint(1, 3))}
    if rng.random() < 0.5:
        return accepted(lambda: notebook.check_parameters(source, given))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "n.ipynb")
        path.write_bytes(damaged(source.read_bytes(), rng))
        return accepted(lambda: notebook.check_parameters(path, given))


LOADERS = (
    "return None",
    "raise KeyError('k')",
    "return {'x_calib': 1}",
    "return 7",
    "import nowhere",
    "return [",
    "1 / 0",
    "return {'x_calib': X, 'x_eval': X, 'y_eval': Y}",
    "return {'x_calib': X, 'x_eval': X, 'y_eval': X[:1]}",
)


def custom_entries(rng: random.Random) -> bool:
    """Loader files that do anything, data entries of any form, and `layer_config` entries of any values."""
    from vqkit.quantization import make_plan
    from vqkit.strategy import Strategy
    from vqkit.sweeps.source import load_data
    from vqkit.sweeps.variant import build_strategy

    if rng.random() < 0.5:
        entry = {
            "name": rng.choice(("conv", "h*", "nope", value(rng, 0))),
            rng.choice(("quantize", "weight_bit", "data_type", "bit_width", value(rng, 0))): value(rng),
        }
        key = rng.choice(("ignore_layers", "input_layers", "custom_quantize_strategy", "data_type", "weight_bit"))
        given = {key: rng.choice(([entry], entry, value(rng)))}
        named = {"quantize_registry_config": {"layer_config": rng.choice(({"conv": entry}, {"h*": value(rng)}, entry))}}
        whole = accepted(lambda: make_plan(build_strategy("pof2s", given), net()))
        return accepted(lambda: make_plan(Strategy.builtin("pof2s").update(named), net())) or whole
    if rng.random() < 0.4:
        return accepted(lambda: load_data(value(rng)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "own.py")
        body = rng.choice(LOADERS)
        path.write_text(f"import numpy as np\nX, Y = np.ones((3, 4)), np.ones(3)\ndef load(**k):\n    {body}\n")
        args = rng.choice(({}, {}, {"args": value(rng)}))
        return accepted(lambda: load_data({"loader": f"{path}:{rng.choice(('load', 'X', 'lod'))}", **args}))


COMMANDS = (
    "plan",
    "validate",
    "run",
    "sweep",
    "strategies show",
    "strategies dump",
    "strategies list",
    "compare",
    "track",
    "export",
    "reproduce",
    "sensitivity",
    "mixed",
    "search",
    "recommend",
    "nonsense",
    "",
)

SOUND = (
    "plan m.keras",
    "plan m.keras weight_bit=6 -s fs",
    "validate s.json",
    "strategies show fsx",
    "strategies list",
    "strategies dump s.json -v 0",
    "compare",
    "sweep sweep.yaml --dry-run",
    "export m.keras --data d.npz -o x.json",
)


def cli_arguments(rng: random.Random) -> bool:
    """A command with arguments and options of any text; its exit code says whose fault it is."""
    from vqkit.cli import Exit, main

    words = [
        *WORDS,
        "m.keras",
        "m.keras",
        "s.json",
        "s.json",
        "weight_bit=6",
        "pof2s",
        "broken.keras",
        "s.json",
        "d.npz",
        "sweep.yaml",
        "runs",
        "weight_bit=4",
        "weight_bit=x",
        "/a/b=1",
        "fs",
        "x=",
        "own.py:load",
        '{"npz": "d.npz"}',
        "r.html",
    ]
    options = [
        "--data",
        "--strategy",
        "--runs",
        "--tracking-uri",
        "--no-track",
        "--dry-run",
        "--json",
        "-o",
        "--format",
        "--where",
        "--sort",
        "--html",
        "--bits",
        "--calibration",
        "--batch-size",
        "--steps",
        "--seed",
        "--layer",
        "--verbose",
        "--max-size",
        "--target",
        "--opset",
        "--check",
        "--sweep",
        "--into",
        "--explain",
    ]
    # A tracking database is prepared in seconds, and a sound run trains and runs: neither is tried here.
    sound = rng.random() < 0.4
    command = rng.choice(SOUND if sound else COMMANDS).split()
    arguments = [rng.choice(words) for _ in range(0 if sound else rng.randint(0, 3))]
    for _ in range(rng.randint(0, 1 if sound else 2)):
        arguments += [rng.choice(options), *([rng.choice(words)] if rng.random() < 0.8 else [])]
    argv = ["vqkit", *command, *(a.replace("\x00", "") for a in arguments)]
    if command[:1] in (["run"], ["sweep"], ["track"], ["search"], ["recommend"], ["mixed"], ["sensitivity"]):
        argv += ["--runs", "s.json"]
    with _in_folder() as folder, patch("sys.argv", argv):
        _furnish(folder)
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            try:
                main()
                code = 0
            except SystemExit as e:
                code = int(e.code or 0)
    assert code in {int(c) for c in Exit} - {Exit.BUG}, (argv, told.getvalue()[-2000:])
    assert "Traceback" not in told.getvalue(), (argv, told.getvalue()[-2000:])
    return code == 0


def _furnish(folder: Path) -> None:
    (folder / "m.keras").write_bytes(model_files()["3.keras"])
    (folder / "broken.keras").write_bytes(model_files()["3.keras"][:100])
    (folder / "s.json").write_text(json.dumps(targets.BASES[0]))
    (folder / "sweep.yaml").write_text(json.dumps(targets.SWEEP))
    (folder / "own.py").write_text("def load():\n    return None\n")
    np.savez(folder / "d.npz", x_calib=np.ones((3, 4), "f4"), x_eval=np.ones((3, 4), "f4"), y_eval=np.zeros(3, int))


@contextlib.contextmanager
def _in_folder() -> Iterator[Path]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


TARGETS: dict[str, Target] = {
    t.__name__: t
    for t in (
        strategy_bytes,
        strategy_json,
        sweep_yaml,
        model_file,
        arrays,
        npz_file,
        tracking_uri,
        notebook_parameters,
        cli_arguments,
        custom_entries,
    )
}
