"""Sweeps end as they should whatever happens to a notebook, a worker or the sweep's own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.support.pretend import diary, resolved
from vqkit import files
from vqkit.environment import cores
from vqkit.errors import SweepError
from vqkit.execution import runner
from vqkit.execution.runner import steps
from vqkit.runs.store import Status, Store

ROOT = Path(__file__).resolve().parents[2]
# What pretends needs no TensorFlow, which every warm kernel loads; test_warm.py has those.
RunOptions = partial(runner.RunOptions, warm=False)


def run_sweep(sweep, runs, options=None, **more):
    return runner.run_sweep(sweep, runs, options or RunOptions(), **more)


def statuses(outcome) -> dict[str, str]:
    return {r.name: str(r.status) for r in outcome.ran}


@pytest.fixture
def runs(tmp_path):
    return Store.at(tmp_path / "runs")


def test_a_failure_is_kept_and_the_sweep_goes_on(runs):
    sweep = resolved({"name": "a"}, {"name": "b", "do": "fail"}, {"name": "c"})
    seen = []
    outcome = run_sweep(sweep, runs, notify=seen.append)
    assert statuses(outcome) == {"a": "FINISHED", "b": "FAILED", "c": "FINISHED"}
    assert seen == outcome.ran
    assert [r.name for r in outcome.failed] == ["b"]
    bad = runs.record(sweep.planned[1].variant.key)
    assert bad.error["type"] == "ValueError"
    assert bad.error["message"] == "b must fail"
    folder = runs.variant_dir(bad.key)
    assert "b must fail" in (folder / bad.artifacts["traceback"]).read_text()
    cells = json.loads((folder / bad.artifacts["notebook"]).read_text())["cells"]
    assert "must fail" in "".join(cells[bad.error["cell"]]["source"])
    good = runs.record(sweep.planned[0].variant.key)
    assert good.metrics["accuracy"] == 0.5
    assert good.metrics["seconds_total"] > 0
    assert good.inputs["overrides"] == {"mark": "a"}
    assert files.read_json(runs.variant_dir(good.key) / "strategy.json") == {"pretend": True}
    assert [v["name"] for v in runs.sweep("s")["variants"]] == ["a", "b", "c"]

    again = run_sweep(sweep, runs)
    assert again.ran == []
    assert [r.status for r in again.skipped] == [Status.FINISHED, Status.FAILED, Status.FINISHED]
    assert diary(runs.root).count("begin a") == 1
    retried = run_sweep(sweep, runs, RunOptions(retry_failed=True))
    assert statuses(retried) == {"b": "FAILED"}
    assert retried.ran[0].attempt != bad.attempt


def test_only_a_result_of_this_attempt_proves_success(runs):
    sweep = resolved(
        {"name": "forgets", "do": "forget"}, {"name": "other", "do": "other"}, {"name": "dies", "do": "die"}
    )
    outcome = run_sweep(sweep, runs)
    assert statuses(outcome) == {"forgets": "FAILED", "other": "FAILED", "dies": "FAILED"}
    messages = {r.name: r.error["message"] for r in outcome.ran}
    assert "without recording a result" in messages["forgets"]
    assert "belongs to key 0000000000000000" in messages["other"]
    assert messages["dies"] == "Kernel died"


def test_fail_fast_starts_nothing_more(runs):
    sweep = resolved({"name": "a", "do": "fail"}, {"name": "b"}, {"name": "c"})
    outcome = run_sweep(sweep, runs, RunOptions(fail_fast=True))
    assert statuses(outcome) == {"a": "FAILED"}
    assert diary(runs.root) == ["begin a"]


def test_two_workers_run_at_once_and_each_variant_once(runs):
    sweep = resolved(*({"name": f"v{i}", "sleep": 1.5} for i in range(4)))
    outcome = run_sweep(sweep, runs, RunOptions(jobs=2))
    assert set(statuses(outcome).values()) == {"FINISHED"}
    lines = diary(runs.root)
    assert sorted(lines) == sorted(f"{w} v{i}" for i in range(4) for w in ("begin", "end"))
    assert lines[0].startswith("begin")
    assert lines[1].startswith("begin")
    assert len({r.pid for r in outcome.ran}) == 2
    assert {r.environment["threads"] for r in outcome.ran} == {max(1, cores() // 2)}
    assert {r.environment["kernel"] for r in outcome.ran} == {"fresh"}


def test_a_variant_that_takes_too_long_is_stopped(runs, left_over):
    sweep = resolved({"name": "slow", "sleep": 600}, {"name": "b"})
    outcome = run_sweep(sweep, runs, RunOptions(timeout=12))
    assert statuses(outcome) == {"slow": "FAILED", "b": "FINISHED"}
    assert outcome.ran[0].error["message"] == "no result after 12 s"
    assert left_over() == []


def test_a_sweep_cannot_run_twice_at_once(runs):
    with (
        files.lock(runs.sweep_dir("s")),
        pytest.raises(SweepError, match="another process is running this sweep"),
    ):
        run_sweep(resolved({"name": "a"}), runs)


def test_repeats_are_not_run(runs):
    from dataclasses import replace

    sweep = resolved({"name": "a"}, {"name": "b"})
    sweep = replace(sweep, planned=(sweep.planned[0], replace(sweep.planned[1], same_as="a")))
    assert [s.reason for s in steps(sweep, runs)] == ["new", "does the same as 'a'"]
    assert statuses(run_sweep(sweep, runs)) == {"a": "FINISHED"}
    listed = runs.sweep("s")
    assert [v["name"] for v in listed["variants"]] == ["a"]
    assert listed["duplicates"][0]["same_as"] == "a"


def test_a_broken_record_is_made_anew(runs):
    sweep = resolved({"name": "a"})
    run_sweep(sweep, runs)
    path = runs.variant_dir(sweep.planned[0].variant.key) / "record.json"
    path.write_text("{")
    assert steps(sweep, runs)[0].reason == "its record is broken"
    assert statuses(run_sweep(sweep, runs)) == {"a": "FINISHED"}


def start(runs: Store, *variants: dict, jobs: int = 1) -> subprocess.Popen:
    # Where pytest runs in the background of a shell its children inherit that SIGINT is ignored.
    code = f"""
        import signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from tests.support.pretend import resolved
        from vqkit.execution.runner import RunOptions, run_sweep
        from vqkit.runs.store import Store
        options = RunOptions(jobs={jobs}, warm=False)
        outcome = run_sweep(resolved(*{variants!r}), Store.at({str(runs.root)!r}), options)
        sys.exit(130 if outcome.interrupted else 0)
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, start_new_session=True)


def wait_for(condition, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_no_open_record(runs):
    process = start(runs, {"name": "a", "sleep": 600}, {"name": "b"})
    wait_for(lambda: "begin a" in diary(runs.root))
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    wait_for(lambda: not any(p.is_running() and p.status() != "zombie" for p in children), 10)
    (record,) = runs.records()
    assert (record.status, record.error["type"]) == (Status.KILLED, "Interrupted")
