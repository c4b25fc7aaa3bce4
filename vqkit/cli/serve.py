"""Commands that open pages in a browser, on this machine only: lab and dashboard."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from vqkit.cli import browser
from vqkit.cli.application import Runs, app
from vqkit.errors import VqkitError, missing_package

LOOPBACK = "127.0.0.1"
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Print the address, open no browser.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")]


@app.command()
def lab(
    folder: Annotated[Path, typer.Argument(help="Your copy of the notebooks; missing ones are copied.")] = Path(
        "notebooks"
    ),
    port: Port = 8888,
    no_browser: NoBrowser = False,
) -> None:
    """Open JupyterLab on the notebooks, on this machine only, with a token."""
    _needs("jupyterlab")
    for name in copy_notebooks(folder):
        typer.echo(f"copied {name}")
    root = folder.resolve().parent
    start = f"/lab/tree/{folder.resolve().name}/00_start_here.ipynb"
    options = [f"--ServerApp.root_dir={root}", f"--LabApp.default_url={start}", "--ServerApp.port_retries=0"]
    token = _token()
    typer.echo(f"http://{LOOPBACK}:{port}{start}?token={token}")
    _become(["jupyterlab", *_address(port, no_browser), *options, *_as_root()], {"JUPYTER_TOKEN": token})


@app.command()
def dashboard(runs: Runs = Path("runs"), port: Port = 8866, no_browser: NoBrowser = False) -> None:
    """Serve the comparison of runs and the view of running sweeps, on this machine only, with a token."""
    from vqkit.files import resource_dir

    _needs("voila")
    page = resource_dir("notebooks") / "dashboard.ipynb"
    token = _token()
    address = f"http://{LOOPBACK}:{port}/?token={token}"
    typer.echo(address)
    if not no_browser:
        browser.start(address, LOOPBACK, port)
    # Voila would open the page without the token.
    options = [
        f"--Voila.ip={LOOPBACK}",
        f"--port={port}",
        "--show_tracebacks=False",
        "--no-browser",
        "--token",
    ]
    _become(["voila", str(page), *options], {"VQKIT_RUNS": str(runs.resolve()), "JUPYTER_TOKEN": token})


def copy_notebooks(folder: Path) -> list[str]:
    """Copy the shipped notebooks that a folder lacks; what is there stays as it is.

    Args:
        folder: made when missing.

    Returns:
        Names of the files that were copied.
    """
    from vqkit.files import resource_dir

    folder.mkdir(parents=True, exist_ok=True)
    missing = [p for p in sorted(resource_dir("notebooks").glob("*.ipynb")) if not (folder / p.name).exists()]
    for path in missing:
        shutil.copyfile(path, folder / path.name)
    return [p.name for p in missing]


def _needs(package: str) -> None:
    if find_spec(package) is None:
        raise VqkitError(missing_package(package, "lab"))


def _token() -> str:
    """Handed on in the environment: other users of the machine can read a command line."""
    return os.environ.get("JUPYTER_TOKEN") or secrets.token_hex(24)


def _address(port: int, no_browser: bool) -> list[str]:
    return [f"--ServerApp.ip={LOOPBACK}", f"--port={port}", *(["--no-browser"] if no_browser else [])]


def _as_root() -> list[str]:
    return ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []


def _become(module: list[str], environment: dict[str, str]) -> None:
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", *module], {**os.environ, **environment})
