"""What is shown is escaped, what is served listens on this machine only, nothing is sent anywhere."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.support import records as make
from tests.support.server import Server
from vqkit import environment
from vqkit.cli import serve
from vqkit.comparison import leaderboard, report
from vqkit.comparison.difference import difference
from vqkit.runs import mlflow

EVIL = "<script>alert(1)</script>"
HARMLESS = "&lt;script&gt;alert(1)&lt;/script&gt;"


@pytest.fixture
def runs(tmp_path) -> Path:
    """Runs whose layer, sweep, strategy values and error hold a script."""
    sound = make.record("pof2s", {"ignore_layers": [EVIL]}, sweep="quick")
    other = make.record("fs", {"weight_bit": 4, "name": EVIL}, sweep="quick", accuracy=0.95)
    failed = make.record("fsx", {"weight_bit": 99}, status="FAILED", sweep="quick")
    failed["error"] = {"type": EVIL, "message": EVIL, "cell": 3}
    sound["name"] = other["name"] = EVIL
    sound["inputs"]["model"]["ref"] = EVIL
    with patch.object(make, "LAYERS", (EVIL, "logits")):
        for made in (sound, other, failed):
            make.add(tmp_path, made)
    make.sweep(tmp_path, "quick", [sound, other, failed])
    return tmp_path


def checked(page: str) -> None:
    assert EVIL not in page
    assert HARMLESS in page


def test_the_report_escapes_everything(runs):
    path = report.write(runs, runs / "report.html", "quick")
    checked(path.read_text("utf-8"))


def test_leaderboard_and_difference_escape_everything(runs):
    board = leaderboard.Leaderboard(leaderboard.leaderboard(leaderboard.load_records(runs, "quick")), title=EVIL)
    checked(board._repr_html_())
    first, second, _ = sorted(runs.glob("variants/*"), key=lambda p: "99" in p.read_text() if p.is_file() else 0)
    checked(difference(str(first), str(second), runs_dir=runs)._repr_html_())


def test_the_plan_of_a_model_escapes_layer_names():
    import keras

    from vqkit.quantization import make_plan
    from vqkit.strategy import Strategy

    layers = [keras.Input((4,)), keras.layers.Dense(2, name="<b>evil")]
    shown = make_plan(Strategy.builtin("pof2s"), keras.Sequential(layers))._repr_html_()
    assert "<b>" not in shown
    assert "evil" in shown


def test_the_bench_and_the_part_picker_escape_layer_names():
    import keras
    import numpy as np

    import vqkit as vq

    evil = EVIL.replace("/", "")
    layers = [keras.Input((4, 4, 2)), keras.layers.Conv2D(3, 3, name=evil), keras.layers.Dense(2, name="<b>")]
    model = keras.Sequential(layers)
    bench, picker = vq.explore(model, np.ones((4, 4, 4, 2), np.float32)), vq.pick_part(model)
    for page in (bench._repr_html_(), picker._repr_html_()):
        assert "<script" not in page
        assert "<b>" not in page
        assert "alert" in page


def test_a_noise_file_that_is_none_costs_its_picture_only(runs):
    for path in runs.glob("variants/*/sqnr.json"):
        path.write_text(json.dumps({"layer": EVIL}))
    page = report.write(runs, runs / "report.html", "quick").read_text("utf-8")
    assert "sqnr.json: expected a list of rows" in page
    assert EVIL not in page


def test_pages_listen_on_this_machine_only_with_a_token(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(serve, "_become", lambda command, env: started.append((command, env)))
    monkeypatch.delenv("JUPYTER_TOKEN", raising=False)
    serve.lab(tmp_path / "notebooks", 8888, True)
    serve.dashboard(tmp_path, 8866, True)
    (lab, token), (dashboard, guarded) = started
    assert "--ServerApp.ip=127.0.0.1" in lab
    assert len(token["JUPYTER_TOKEN"]) >= 32
    assert len(guarded["JUPYTER_TOKEN"]) >= 32
    assert "--Voila.ip=127.0.0.1" in dashboard
    assert "--token" in dashboard
    for command, kept in started:
        assert not [w for w in command if kept["JUPYTER_TOKEN"] in w], "others can read a command line"
    ui = mlflow.ui_command(tmp_path)
    assert ui[ui.index("--host") + 1] == "127.0.0.1"


@pytest.mark.slow
def test_mlflow_pages_answer_to_the_names_of_this_machine_and_keep_files_in_the_run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server = Server(tmp_path / "runs")
    server.start()

    def status(host: str, method: str = "GET", path: str = "/api/2.0/mlflow/experiments/search?max_results=1") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, b"given" if method == "PUT" else None, {"Host": host})
            return connection.getresponse().status

    own = f"127.0.0.1:{server.port}"
    try:
        assert [status(host) for host in (own, f"localhost:{server.port}")] == [200, 200]
        foreign = (
            "evil.example",
            "10.0.0.5",
            f"192.168.1.1:{server.port}",
            "169.254.1.1",
            "",
            "127.0.0.1.evil.example",
        )
        assert {host: status(host) for host in foreign} == dict.fromkeys(foreign, 403)
        assert status(own, "PUT", "/api/2.0/mlflow-artifacts/artifacts/given.txt") == 200
    finally:
        server.end()
    assert [p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("given.txt")] == ["runs"]


def test_nothing_is_sent_anywhere():
    wanted = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    assert mlflow.environment() == wanted
    assert wanted.items() <= environment.for_workers(1).items()
    with patch.dict(os.environ):
        from vqkit.runs.mlflow import client_class

        client_class()
        assert wanted.items() <= os.environ.items()
