"""The comparison as one HTML file that needs no network: for a colleague who was not there."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from vqkit import _version, tables
from vqkit.comparison import leaderboard
from vqkit.errors import RecordError
from vqkit.files import read_json, write_bytes
from vqkit.runs.damage import damaged
from vqkit.runs.records import rows_of, sqnr_rows

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLUMNS = (
    {"title": "#"},
    {"title": "run", "left": True},
    {"title": "accuracy %"},
    {"title": "Δ float"},
    {"title": "size"},
    {"title": "min SQNR"},
    {"title": "out SQNR"},
    {"title": "time"},
    {"title": "", "left": True},
    {"title": "files", "left": True},
)
_CELLS = (
    ("accuracy_delta", tables.signed_points),
    ("size_bytes", tables.size),
    ("sqnr_min_db", tables.number),
    ("sqnr_output_db", tables.number),
    ("seconds_total", tables.duration),
)
_FILES = (("strategy", "strategy.json"), ("plan", "plan.json"))


def conclude(runs_dir: str | Path, sweep: str) -> str:
    """What a finished sweep tells: the leaderboard as text, and where its page with pictures lies.

    Args:
        runs_dir: the folder of runs.
        sweep: the sweep's name; its page is written to `sweeps/<name>/report.html`.

    Returns:
        Text for a terminal.
    """
    page = write(runs_dir, Path(runs_dir) / "sweeps" / sweep / "report.html", sweep)
    return f"{leaderboard.render(runs_dir, sweep)}\n\nThe same with pictures: {page}"


def write(
    runs_dir: str | Path,
    path: str | Path,
    sweep: str | None = None,
    *,
    where: Mapping[str, Any] | None = None,
    limit: int = 1000,
) -> Path:
    """Write the report of a folder of runs.

    Args:
        runs_dir: the folder of runs.
        path: the HTML file to write; links to notebooks and strategies are relative to it.
        sweep: only this sweep.
        where: as in `compare.load_records`.
        limit: most rows of each table.

    Returns:
        `path`.

    Raises:
        RecordError: no such folder, sweep or column.
    """
    frame = leaderboard.leaderboard(leaderboard.load_records(runs_dir, sweep, where))
    title = f"Sweep {sweep}" if sweep else f"Runs in {Path(runs_dir).name}"
    page = render(frame, title=title, beside=Path(path).resolve().parent, limit=limit, runs_dir=str(runs_dir))
    write_bytes(path, page.encode())
    return Path(path)


def render(frame: pd.DataFrame, *, title: str, beside: Path, limit: int = 1000, runs_dir: str = "runs") -> str:
    """The page for a leaderboard.

    Args:
        frame: result of `compare.leaderboard`.
        title: heading of the page.
        beside: the folder that links start from.
        limit: most rows of each table.
        runs_dir: shown as the source of the numbers.

    Returns:
        HTML; every value from outside is escaped.
    """
    import jinja2

    loader = jinja2.PackageLoader("vqkit.comparison", "templates")
    pages = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    advice = leaderboard.recommend(frame)
    chosen = None if advice.row is None else advice.row["key"]
    rest, pending = leaderboard.without_result(frame)
    return pages.get_template("report.html.j2").render(
        title=title,
        version=_version.__version__,
        counts=leaderboard.counts(frame),
        advice=advice,
        columns=[{"left": False, **column} for column in COLUMNS],
        groups=list(_groups(frame, beside, limit, chosen)),
        closer=_closer(advice.row),
        failures=[_failure(run, beside) for run in rows_of(rest.head(limit))],
        pending=pending,
        notes=leaderboard.notes(frame)[: leaderboard.MOST_NOTES],
        damaged=damaged(frame),
        legend=leaderboard.LEGEND,
        provenance=_provenance(frame),
        runs_dir=runs_dir,
    )


def _groups(frame: pd.DataFrame, beside: Path, limit: int, chosen: str | None) -> Iterator[dict[str, Any]]:
    for number, members in frame[frame["rank"].notna()].groupby("group", sort=True):
        shown = members.head(limit)
        low, high = shown["ci_low"].min(), shown["ci_high"].max()
        scale = f"{tables.percent(low)} % to {tables.percent(high)} %" if low < high else ""
        whole = frame[(frame["group"] == number) | frame["rank"].isna()]
        yield {
            "heading": leaderboard.heading(members),
            "runs": [_run(run, beside, (low, high), chosen) for run in rows_of(shown)],
            "hidden": len(members) - len(shown),
            "scale": scale,
            "figures": list(_figures(whole)),
        }


def _run(run: Mapping[str, Any], beside: Path, scale: tuple[float, float], chosen: str | None) -> dict[str, Any]:
    notebook = _links(run, beside, (("", "notebook.ipynb"),))
    return {
        "rank": f"{run['rank']:.0f}",
        "name": run["name"],
        "chosen": run["key"] == chosen,
        "accuracy": {"value": _value(run["accuracy"]), "text": tables.percent(run["accuracy"])},
        "interval": _interval(run, *scale),
        "cells": [{"value": _value(run[name]), "text": form(run[name])} for name, form in _CELLS],
        "marks": leaderboard.marks(run),
        "notebook": notebook[0]["href"] if notebook else "",
        "links": _links(run, beside, _FILES),
    }


def _value(number: float) -> str:
    """A number for the sorting script; infinity sorts, nothing stays empty."""
    if math.isinf(number):
        return "1e308" if number > 0 else "-1e308"
    return "" if math.isnan(number) else repr(float(number))


def _interval(run: Mapping[str, Any], low: float, high: float) -> dict[str, str] | None:
    if not low < high or math.isnan(run["ci_low"]):
        return None
    left, width = (run["ci_low"] - low) / (high - low), (run["ci_high"] - run["ci_low"]) / (high - low)
    text = f"{tables.percent(run['ci_low'])} to {tables.percent(run['ci_high'])}"
    return {"left": f"{100 * left:.1f}", "width": f"{100 * width:.1f}", "text": text}


def _links(run: Mapping[str, Any], beside: Path, files: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    folder = Path(str(run["directory"])).resolve()
    found = [(text, folder / name) for text, name in files if (folder / name).is_file()]
    return [{"text": text, "href": quote(os.path.relpath(path, beside))} for text, path in found]


def _failure(run: Mapping[str, Any], beside: Path) -> dict[str, Any]:
    reason = f"{run['error_type']}: {run['error']}" if isinstance(run["error"], str) else ""
    cell = run["error_cell"]
    if isinstance(cell, int | float) and not math.isnan(cell):
        reason += f"\nin notebook cell {cell:.0f}"
    files = (("notebook", "notebook.ipynb"), ("traceback", "traceback.txt"), *_FILES)
    return {
        "status": run["status"],
        "name": run["name"],
        "reason": reason,
        "links": _links(run, beside, files),
    }


def _provenance(frame: pd.DataFrame) -> str:
    codes = sorted({str(code) for code in frame["code"].dropna()})
    return f"Code: {', '.join(codes[:4])}{' …' if len(codes) > 4 else ''}." if codes else ""


def _figures(frame: pd.DataFrame) -> Iterator[dict[str, str]]:
    """Pareto, leaderboard and marginal effects, for light and for dark pages."""
    from vqkit import plots

    drawn = {
        "Accuracy against size of every run, with the Pareto front": plots.pareto,
        "Accuracy of every run against float": plots.leaderboard_bars,
        "Accuracy by each choice on its own": plots.marginal_effects,
    }
    for alt, draw in drawn.items():
        light, dark = (_data_uri(draw(frame, theme=theme)) for theme in (plots.LIGHT, plots.DARK))
        yield {"alt": alt, "light": light, "dark": dark}


def _closer(run: pd.Series | None) -> dict[str, str] | None:
    """Signal-to-noise ratio by layer of the recommended run: where the next improvement is to be found."""
    import pandas as pd

    from vqkit import plots

    path = None if run is None or run["directory"] is None else Path(run["directory"], "sqnr.json")
    if run is None or path is None or not path.is_file():
        return None
    try:
        sqnr = pd.DataFrame(sqnr_rows(read_json(path), path))
    except RecordError as e:
        return {"problem": str(e)}
    light, dark = (_data_uri(plots.sqnr_by_layer(sqnr, theme=theme)) for theme in (plots.LIGHT, plots.DARK))
    return {"alt": f"Signal-to-noise ratio of each tensor of {run['name']}", "light": light, "dark": dark}


def _data_uri(figure: Figure) -> str:
    """The figure as an image inside the page; in an image no script of a drawing can run."""
    import matplotlib

    drawing = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "vqkit"}):
        figure.savefig(drawing, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(drawing.getvalue()).decode()}"
