"""`lab`: one JupyterLab and one Chromium for all browser tests of a worker."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.browser.lab import Lab, chromium, serve


# Not for the session: tests elsewhere look for processes that were left over.
@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory, quickstart_model_path: Path) -> Iterator[Lab]:
    """A running JupyterLab; the quickstart's trained net lies in the cache that the notebooks use."""
    if chromium() is None:
        pytest.skip("no chromium is installed (Debian: apt-get install chromium fonts-dejavu-core)")
    root = tmp_path_factory.mktemp("lab")
    cache = root / "runs" / "cache"
    cache.mkdir(parents=True)
    shutil.copy(quickstart_model_path, cache)
    with serve(root) as running:
        yield running
