"""`vqkit plan --target dpu`: the inspection on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support import zoo
from vqkit import cli
from vqkit.errors import StrategyError


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "net.keras"
    zoo.build("fused_activations").save(path)
    return str(path)


def plan(monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    monkeypatch.setattr(sys, "argv", ["vqkit", "plan", *args])
    cli.app(standalone_mode=False)


def test_the_inspection_is_printed(model, monkeypatch, capsys):
    plan(monkeypatch, model, "--target", "dpu", "weight_bit=4")
    shown = capsys.readouterr().out
    assert "layers of 'fused_activations' on the DPU under 'pof2s'" in shown
    assert "its kernel has 4 bits, the device 8" in shown
    assert "-> set /quantize_registry_config/user_quantize_config/weight_bit to 8 (kwargs)" in shown


def test_json(model, monkeypatch, capsys):
    plan(monkeypatch, model, "--target", "dpu", "--json")
    data = json.loads(capsys.readouterr().out)
    assert data["target"] == "dpu"
    assert {row["layer"]: row["device"] for row in data["rows"]}["head_softmax"] == "CPU"


def test_without_target_it_is_the_plan(model, monkeypatch, capsys):
    plan(monkeypatch, model)
    assert capsys.readouterr().out.startswith("plan of 'fused_activations' under 'pof2s'")


def test_an_unknown_target_is_an_error(model, monkeypatch):
    with pytest.raises(StrategyError, match="target: value 'dpx' is not allowed"):
        plan(monkeypatch, model, "--target", "dpx")
