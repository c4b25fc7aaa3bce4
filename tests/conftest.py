"""Shared test set-up: a quiet, two-thread TensorFlow, and real assets where `../shared` has them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if SHARED.is_dir():
        return
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(pytest.mark.skip(reason="no ../shared beside the checkout"))


@pytest.fixture(scope="session")
def root() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture
def left_over() -> Callable[[], list[Any]]:
    """`left_over()`: processes below this one that were not there when the test began."""
    import psutil

    before = set(psutil.Process().children(recursive=True))

    def find() -> list[Any]:
        now = psutil.Process().children(recursive=True)
        return [p for p in now if p not in before and p.is_running()]

    return find


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and data; skips the test where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Any]:
    """`tiny("residual")`: a model of the zoo, built once per session and name. Do not change it."""
    from tests.support import zoo

    built: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in built:
            built[name] = zoo.build(name)
        return built[name]

    return get


@pytest.fixture(scope="session")
def quickstart_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained quickstart net, cached across the session's workers."""
    from vqkit.sweeps.quickstart import quickstart_model

    return quickstart_model(tmp_path_factory.getbasetemp().parent / "quickstart-cache")
