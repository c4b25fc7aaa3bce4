"""Names that documents and notebooks once imported from other places still work, and say where they are
now."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from vqkit._moved import MOVED

# Lines as README, docs and notebooks of earlier versions have them.
LINES = (
    "from vqkit.flow import quantize, make_plan, evaluate, sqnr, Bench, inspect, load_model",
    "from vqkit.train import Distillation, DistillationData, QATAdam",
    "from vqkit.train import balance_channels, crops_and_flips, RelativeError, warm_cosine, with_features",
    "from vqkit import plots, train; train.balance_channels",
    "from vqkit.experiment import compare; compare.leaderboard; compare.difference; compare.recommend",
    "from vqkit.experiment import difference; difference.flips",
    "from vqkit.experiment.flipped import flipped_samples, sample_images",
    "from vqkit.experiment.runset import RunSet",
    "from vqkit.primitives.grid import EMA_DECAY",
    "from vqkit.widgets.dashboard import dashboard",
    "import vqkit.flow.layers; vqkit.flow.layers.FakeQuantize",
    "import vqkit as vq; vq.workbench, vq.record",
    "from vqkit import title, changes, score, keep_figure, first_samples, worst_tensors, run_inputs",
)
UNCHANGED = (
    "from vqkit.vitis import vitis_quantize, vitis_inspect",
    "from vqkit.plots import sqnr_by_layer",
    "from vqkit.strategy import Strategy",
    "from vqkit.primitives.spec import Method, QuantizerSpec, QuantizerType",
    "from vqkit.primitives.qparams import QParams",
    "from vqkit.primitives.choose import choose",
    "from vqkit.primitives import ops, reference",
    "from vqkit.primitives.native import in_process",
)


@pytest.mark.parametrize("line", LINES)
def test_an_old_line_runs_and_warns(line: str) -> None:
    with pytest.warns(DeprecationWarning, match=r"the old name goes with vqkit 0\.\d"):
        exec(line, {})


def test_lines_of_today_run_without_a_warning(root: Path) -> None:
    code = "\n".join(UNCHANGED)
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", code]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("old", MOVED)
def test_each_old_place_leads_somewhere(old: str) -> None:
    importlib.import_module(f"vqkit.{old}")
    for home in MOVED[old]:
        importlib.import_module(f"vqkit.{home}")


def test_a_name_that_never_was_is_an_attribute_error_that_names_the_new_place() -> None:
    module = importlib.import_module("vqkit.train")
    with pytest.raises(AttributeError, match=r"vqkit\.qat"):
        _ = module.no_such_name
