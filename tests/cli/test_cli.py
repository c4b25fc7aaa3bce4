"""The command line starts at once, says what is wrong in one message, and keeps to its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from tests.support import records
from tests.support.pretend import resolved
from vqkit import __version__, cli
from vqkit.cli import application
from vqkit.cli import application as options
from vqkit.cli.runs import run_told
from vqkit.errors import SweepError, TrackingError
from vqkit.execution.runner import RunOptions
from vqkit.runs.store import Store

ROOT = Path(__file__).resolve().parents[2]


def vqkit(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vqkit.cli", *args], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_help_is_there_at_once_and_imports_nothing_heavy():
    began = time.perf_counter()
    done = vqkit("--help")
    seconds = time.perf_counter() - began
    assert done.returncode == 0
    for name in ("sweep", "run", "plan", "validate", "strategies", "compare", "track", "ui", "Exit codes"):
        assert name in done.stdout
    # 0.3 s on a quiet core; the margin is for a machine under test.
    assert seconds < 2.5
    heavy = "tensorflow,keras,mlflow,papermill,pandas,matplotlib,numpy,pydantic"
    code = (
        "import sys\nfrom vqkit import cli\nsys.argv = ['vqkit', '--help']\n"
        f"try:\n cli.main()\nexcept SystemExit:\n print(sorted(set('{heavy}'.split(',')) & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


def test_version_and_strategies():
    assert vqkit("--version").stdout.strip() == __version__
    assert "pof2s (also 8bit)" in vqkit("strategies", "list").stdout.splitlines()
    dumped = json.loads(vqkit("strategies", "dump", "fs", "weight_bit=4", "-v", "0").stdout)
    assert dumped["quantize_registry_config"]["user_quantize_config"]["weight_bit"] == 4
    assert "bit_width" in vqkit("strategies", "show", "pof2s", "weight_bit=4").stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["sweeep"], "No such command 'sweeep'"),
        (["sweep", "none.yaml"], "SweepError: none.yaml: no such file"),
        (["strategies", "dump", "pof2"], "StrategyError: strategy: name 'pof2' is not allowed"),
        (["strategies", "dump", "fs", "weigth_bit=4"], "did you mean 'weight_bit'"),
        (["strategies", "dump", "fs", "weight_bit"], "SweepError: 'weight_bit': expected KEY=VALUE"),
        (["strategies", "dump", "fs", "a=1", "a=2"], "'a' is given twice"),
        (["compare", "--runs", "no/such"], "RecordError: no/such"),
        (["sweep", "pyproject.tml"], "pyproject.tml: no such file (did you mean 'pyproject.toml'?)"),
        (["compare", "one"], "two runs are compared, 1 given"),
        (["run", "none.keras", "--data", "digits"], "ModelError: model: "),
        (["run", "none.keras"], "DataError: --data: none given, and only 'quickstart' brings its own"),
        (["run", "quickstart", "--data", "{"], "DataError: data: '{' is not JSON"),
        (["validate", "pyproject.toml"], "SweepError: pyproject.toml: "),
    ],
)
def test_invalid_input_is_one_message_and_exit_code_2(args, message):
    done = vqkit(*args)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_where_an_error_comes_from():
    done = vqkit("sweep", "none.yaml", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def code_of(error: BaseException | None) -> int:
    def command() -> None:
        if error is not None:
            raise error

    return application._guarded(command, False)


def test_exit_codes(capsys):
    assert code_of(None) == 0
    assert code_of(SweepError("x")) == 2
    assert code_of(TrackingError("x")) == 3
    assert code_of(KeyboardInterrupt()) == 130
    assert code_of(ZeroDivisionError("x")) == 4
    assert "This is a bug in vqkit" in capsys.readouterr().err


def test_values_are_json_where_they_can_be():
    given = ["a=4", "b=true", "c=True", "d=text", 'e=["x"]', "/f/g=null", "h=a=b"]
    assert options.pairs(given) == {
        "a": 4,
        "b": True,
        "c": True,
        "d": "text",
        "e": ["x"],
        "/f/g": None,
        "h": "a=b",
    }


def test_every_command_and_option_has_help():
    group = typer.main.get_command(cli.app)
    commands = {**group.commands, **group.commands["strategies"].commands}
    for name, command in commands.items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", "x") or parameter.name in ("help", "seed", "port"), parameter.name


def test_compare_and_track_read_what_a_sweep_wrote(tmp_path):
    """With a failed variant the exit code is 1; compare shows it; tracking is rebuilt from the records."""
    runs = Store.at(tmp_path)
    sweep = resolved({"name": "good"}, {"name": "bad", "do": "fail"})
    assert run_told(sweep, runs, RunOptions(), track=False) == cli.Exit.SOME_FAILED
    shown = vqkit("compare", "--runs", str(tmp_path), "--html", str(tmp_path / "report.html"))
    assert shown.returncode == 0, shown.stderr
    assert "good" in shown.stdout
    assert "bad must fail" in shown.stdout
    assert (tmp_path / "report.html").stat().st_size > 1000
    tracked = vqkit("track", "--runs", str(tmp_path))
    assert tracked.returncode == 0, tracked.stderr
    assert tracked.stdout.strip().endswith("2 runs")


def test_control_characters_of_others_do_nothing_to_a_terminal(tmp_path):
    evil = "\x1b]0;title\x07\x1b[2J\x9b31m\u202eevil"
    made = records.record()
    records.add(tmp_path, {**made, "name": evil})
    failed = records.record("fs", status="FAILED", error={"type": evil, "message": evil, "cell": 1})
    records.add(tmp_path, failed)
    folder = tmp_path / "variants" / evil
    folder.mkdir()
    (folder / "record.json").write_text("{}")
    for words in (
        ["compare"],
        ["compare", evil, "x"],
        ["compare", "--where", f"{evil}=1"],
        ["compare", "--sort", evil],
    ):
        done = vqkit(*words, "--runs", str(tmp_path))
        told = done.stdout + done.stderr
        assert "evil" in told
        assert not [c for c in told if (ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0 or c == "\u202e"]


LONG = "x" * 280


@pytest.mark.parametrize(
    "words",
    [
        f"compare {LONG} y",
        f"compare --sweep {LONG}",
        f"reproduce {LONG}",
        f"sweep {LONG}",
        f"strategies dump {LONG}",
        f"validate {LONG}.json",
        f"plan {LONG}.keras",
        f"run {LONG}.keras --data {LONG}.npz",
        f"search {LONG}.yaml",
    ],
    ids=lambda words: words.replace(LONG, "NAME"),
)
def test_a_name_that_no_file_can_have_is_told(tmp_path, words):
    records.example(tmp_path)
    done = vqkit(*words.split(), *([] if "strategies" in words else ["--runs", str(tmp_path)]))
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
