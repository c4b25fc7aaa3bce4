"""A real JupyterLab in a real Chromium: start it, open a notebook, run it, look at it.

`tests/system/browser/conftest.py` makes fixtures of it; the screenshot script and the response benchmark
use it too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "vqkit-test"
# Generous: the machine may be running other tests. A wait that is over takes no time.
PATIENCE = float(os.environ.get("VQKIT_PATIENCE", "180"))
ARTIFACTS = "VQKIT_ARTIFACTS"
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
_IDLE = """() => {
  const kernel = window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel;
  return kernel && kernel.connectionStatus === 'connected' && kernel.status === 'idle';
}"""
_RUN_ALL = """() => {
  window.vqRun = 'pending';
  window.jupyterapp.commands.execute('notebook:run-all-cells')
    .then(() => { window.vqRun = 'ok'; }, e => { window.vqRun = String(e); });
}"""


def chromium() -> str | None:
    """Path of the browser, None where none is installed."""
    return next((path for name in _CHROMIUM if (path := shutil.which(name))), None)


_RUN = """(code) => {
  window.vqRun = 'pending';
  const { commands, shell } = window.jupyterapp;
  const notebook = shell.currentWidget.content;
  notebook.activeCellIndex = notebook.widgets.length - 1;
  commands.execute('notebook:insert-cell-below')
    .then(() => notebook.activeCell.model.sharedModel.setSource(code))
    .then(() => commands.execute('notebook:run-cell'))
    .then(() => { window.vqRun = 'ok'; }, e => { window.vqRun = String(e); });
}"""


@dataclass
class Notebook:
    """A notebook that is open in the browser.

    Attributes:
        page: playwright's page.
        errors: what the page complained about.
    """

    page: Any
    errors: list[str] = field(default_factory=list)

    def run_all(self, patience: float = PATIENCE) -> None:
        """Run all cells and wait until the kernel has done them."""
        self.page.evaluate(_RUN_ALL)
        self.page.wait_for_function("() => window.vqRun !== 'pending'", timeout=1000 * patience)
        self.idle(patience)

    def run(self, code: str, patience: float = PATIENCE) -> str:
        """Run code in a new last cell, as a person would; returns what the cell shows, as text."""
        self.page.evaluate(_RUN, code)
        self.page.wait_for_function("() => window.vqRun !== 'pending'", timeout=1000 * patience)
        self.idle(patience)
        return str(self.page.locator(".jp-CodeCell").last.locator(".jp-OutputArea").inner_text())

    def idle(self, patience: float = PATIENCE) -> None:
        """Wait until the kernel is connected and has nothing to do."""
        self.page.wait_for_function(_IDLE, timeout=1000 * patience)

    def wait(self, selector: str, patience: float = PATIENCE) -> Any:
        """The first element that matches, once it is visible."""
        found = self.page.locator(selector).first
        found.wait_for(timeout=1000 * patience)
        return found

    def wait_until(self, expression: str, argument: Any = None, patience: float = PATIENCE) -> None:
        """Wait until a JavaScript function gives something true."""
        self.page.wait_for_function(expression, arg=argument, timeout=1000 * patience)

    def dark(self, yes: bool = True) -> None:
        """Switch JupyterLab to its dark theme, or back; it is kept for the next notebook."""
        self.page.evaluate(
            "theme => { window.jupyterapp.commands.execute('apputils:change-theme', { theme }); }",
            "JupyterLab Dark" if yes else "JupyterLab Light",
        )
        self.wait_until("want => document.body.dataset.jpThemeLight === want", str(not yes).lower())

    def tracebacks(self) -> list[str]:
        """Texts of the error outputs that the notebook shows."""
        outputs = self.page.locator(".jp-OutputArea-output[data-mime-type*='stderr'], .jp-RenderedText")
        texts = outputs.all_inner_texts()
        return [text for text in texts if "Traceback" in text or "Error" in text]

    def screenshot(self, name: str, selector: str | None = None) -> Path:
        """Keep a picture of the page, or of one element, as an artifact.

        Args:
            name: of the file, without suffix.
            selector: the element.
        """
        path = artifacts() / f"{name}.png"
        target = self.page if selector is None else self.page.locator(selector).first
        target.screenshot(path=str(path))
        return path


def artifacts() -> Path:
    """The folder for screenshots: the one that the environment names, else a temporary one."""
    folder = Path(os.environ.get(ARTIFACTS) or Path(tempfile.gettempdir(), "vqkit-artifacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass
class Lab:
    """A running JupyterLab with a browser.

    Attributes:
        root: the folder it serves; notebooks lie in `root/notebooks`.
        url: its address.
        browser: playwright's browser.
    """

    root: Path
    url: str
    browser: Any

    @contextlib.contextmanager
    def open(self, source: Path, *, width: int = 1500, height: int = 1100, **parameters: Any) -> Iterator[Notebook]:
        """Open a copy of a notebook and wait for its kernel.

        Args:
            source: the notebook; it is not changed.
            width, height: of the window, in pixels.
            parameters: values for its parameters cell.
        """
        path = self._copy(source, parameters)
        context = self.browser.new_context(viewport={"width": width, "height": height})
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        notebook = Notebook(page)
        page.on("pageerror", lambda e: notebook.errors.append(str(e)[:300]))
        try:
            address = f"{self.url}/doc/tree/{path.relative_to(self.root).as_posix()}?reset&token={TOKEN}"
            page.goto(address, wait_until="domcontentloaded", timeout=1000 * PATIENCE)
            notebook.wait(".jp-Notebook .jp-Cell")
            notebook.idle()
            yield notebook
        except BaseException:
            with contextlib.suppress(Exception):
                notebook.screenshot(f"failed-{source.stem}")
            raise
        finally:
            with contextlib.suppress(Exception):
                page.evaluate("() => { window.jupyterapp.commands.execute('kernelmenu:shutdown'); }")
                page.wait_for_timeout(300)
            context.close()

    def _copy(self, source: Path, parameters: dict[str, Any]) -> Path:
        content = json.loads(source.read_text("utf-8"))
        for cell in content["cells"]:
            if "parameters" in cell["metadata"].get("tags", []):
                given = [f"{name} = {value!r}" for name, value in parameters.items()]
                cell["source"] = [*cell["source"], *(f"\n{line}" for line in given)]
        target = self.root / "notebooks" / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(content), "utf-8")
        return target


def code_notebook(path: Path, *cells: str) -> Path:
    """Write a notebook of code cells.

    Args:
        path: of the file.
        cells: their sources.
    """
    import nbformat.v4 as nb

    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = nb.new_notebook(cells=[nb.new_code_cell(c.strip()) for c in cells], metadata={"kernelspec": kernel})
    path.write_text(json.dumps(made), "utf-8")
    return path


@contextlib.contextmanager
def serve(root: Path) -> Iterator[Lab]:
    """Start JupyterLab on a folder and a browser beside it; both end with the context.

    Args:
        root: served folder; settings and the server's log go to `root/.jupyter`.
    """
    from playwright.sync_api import sync_playwright

    home = root / ".jupyter"
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with _server(root, home, port) as server, sync_playwright() as play:
        _await_server(server, url, home / "server.log")
        browser = play.chromium.launch(executable_path=chromium(), headless=True, args=_FLAGS)
        try:
            yield Lab(root, url, browser)
        finally:
            browser.close()


@contextlib.contextmanager
def _server(root: Path, home: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    quiet = home / "us" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--allow-root",
        f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={root}",
        "--LabApp.extension_manager=readonly",
        "--LabApp.expose_app_in_browser=True",
        f"--LabApp.app_dir={_prefix('jupyterlab') / 'share/jupyter/lab'}",
    ]
    with open(home / "server.log", "wb") as log:
        server = subprocess.Popen(command, env=_environment(home), stdout=log, stderr=log, cwd=root)
        try:
            yield server
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait(20)


def _environment(home: Path) -> dict[str, str]:
    # Where a library lies beside its own prefix, its front end does so too.
    shares = [str(_prefix(name) / "share" / "jupyter") for name in ("jupyterlab", "jupyterlab_widgets")]
    paths = [*dict.fromkeys(shares), *filter(None, [os.environ.get("JUPYTER_PATH")])]
    python = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(home),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "us"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "ws"),
        "IPYTHONDIR": str(home / "ipy"),
        "JUPYTER_PATH": os.pathsep.join(paths),
        "PYTHONPATH": os.pathsep.join(python),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "JUPYTER_PLATFORM_DIRS": "1",
    }


def _prefix(name: str) -> Path:
    from importlib.util import find_spec

    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parents[4]


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _await_server(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/api?token={TOKEN}", timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text('utf-8', errors='replace')[-2000:]}")
