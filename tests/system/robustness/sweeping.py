"""A sweep as the command line runs it, in a process that may be hurt: `python -m … FOLDER JSON`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from tests.support.pretend import resolved
from vqkit.cli.application import _guarded, interruptible
from vqkit.cli.runs import run_told
from vqkit.execution.runner import RunOptions
from vqkit.runs import tracking as session
from vqkit.runs.store import Store


def main(folder: Path, told: dict) -> int:
    """Run the sweep that `scene.Scene` describes; the exit code of `vqkit sweep`."""
    session.PAUSE = 0.5
    interruptible()
    sweep = resolved(*told["variants"], name=told["name"])
    if told["cluster"]:
        (folder / "m.keras").write_bytes(b"a model")
        sweep = replace(sweep, model_file=folder / "m.keras")
    options = RunOptions(jobs=told["jobs"], retry_failed=told["retry_failed"], warm=False, cluster=told["cluster"])
    tracking = {"track": told["track"], "tracking_uri": told["uri"]}
    codes: list[int] = []
    runs = Store.at(folder / "runs")
    refused = _guarded(lambda: codes.append(run_told(sweep, runs, options, **tracking)), False)
    return refused or codes[0]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
