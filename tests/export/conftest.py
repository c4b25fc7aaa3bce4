"""A model file with data beside it, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support import zoo


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with net.keras and data.npz."""
    folder = tmp_path_factory.mktemp("saved")
    net = zoo.build("residual")
    net.save(folder / "net.keras")
    x = zoo.batch(net, 16)
    np.savez(folder / "data.npz", x_calib=x, x_eval=x, y_eval=np.zeros(16, int))
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """A copy of the model file, with the data beside it."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    return tmp_path / "net.keras"
