"""Which files of a run are damaged: told beside the run's numbers, never in place of everybody's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

MOST_TOLD = 20
# First and last bytes of a whole file: enough to see what was cut short, and cheap for 10,000 runs.
_ENDS = {".json": ((b"{", b"["), (b"}", b"]")), ".ipynb": ((b"{",), (b"}",))}
_ZIP_BEGIN, _ZIP_END, _ZIP_TAIL = b"PK\x03\x04", b"PK\x05\x06", 22
_ALSO = ("result.json",)


def damaged_files(directory: str | Path | None, artifacts: Mapping[str, Any]) -> list[str]:
    """Files of a run that are missing, empty, cut short or something else, as far as their ends tell.

    Args:
        directory: the run's folder; None where it is not at hand.
        artifacts: name -> path relative to the folder, as the record lists what the run kept.

    Returns:
        One sentence for each, with the file's path.
    """
    if directory is None:
        return []
    listed = [str(name) for name in artifacts.values()]
    found = {name: _problem(Path(directory, name)) for name in listed}
    found |= {name: _problem(Path(directory, name)) for name in _ALSO if Path(directory, name).exists()}
    return [f"{Path(directory, name)}: {problem}" for name, problem in found.items() if problem]


def _problem(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            begin = file.read(16)
            file.seek(0, 2)
            size = file.tell()
            file.seek(max(0, size - _ZIP_TAIL))
            end = file.read()
    except FileNotFoundError:
        return "is missing"
    except OSError as e:
        return f"cannot be read: {e.strerror or e}"
    if not size:
        return "is empty"
    if path.suffix == ".npz":
        return "" if begin.startswith(_ZIP_BEGIN) and end.startswith(_ZIP_END) else "is no whole .npz file"
    if path.suffix in _ENDS:
        begins, ends = _ENDS[path.suffix]
        whole = begin.lstrip().startswith(begins) and end.rstrip().endswith(ends)
        return "" if whole else "is no whole JSON file"
    return ""


def damaged(frame: pd.DataFrame, *, broken: bool = False) -> list[tuple[str, str]]:
    """Runs with damaged files: name and key of each, and what is wrong with which file.

    Args:
        frame: a leaderboard, or runs as from `load_records`.
        broken: also those of which the record itself cannot be read.
    """
    rows = [{str(k): v for k, v in r.items()} for r in frame.to_dict("records")]
    told = [(r, r["error"] if broken and r["status"] == "BROKEN" else r.get("damaged")) for r in rows]
    return [(f"{run['name']} [{run['key']}]", str(problem)) for run, problem in told if problem]


def damage_lines(frame: pd.DataFrame) -> list[str]:
    """One line for each run of which a file is damaged; its numbers stand in its record and are shown.

    Args:
        frame: a leaderboard.
    """
    told = damaged(frame)
    lines = [f"  {run} {problem}" for run, problem in told[:MOST_TOLD]]
    lines += [f"  … and {len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else []
    return ["", "Damaged files:", *lines] if lines else []
