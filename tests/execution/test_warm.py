"""A warm kernel gives the same record as a fresh one, whatever the variants before did."""

from __future__ import annotations

import gc
import itertools
import json
import shutil
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from tests.support.pretend import diary, resolved
from vqkit import process_cache
from vqkit.execution import attempt, papermill, workers
from vqkit.execution.runner import RunOptions, _job, run_sweep
from vqkit.execution.warm import Kernel, Limits
from vqkit.runs.store import RunRecord, Status, Store
from vqkit.sweeps.notebook import RUN_NOTEBOOK, declared_parameters, find, is_shipped
from vqkit.sweeps.resolve import resolve
from vqkit.sweeps.spec import Sweep

pytestmark = pytest.mark.slow
NOTEBOOKS = Path(__file__).parents[1] / "support" / "notebooks"


@pytest.fixture
def kernel(left_over):
    made = Kernel()
    yield made
    made.end("the test is over")
    assert not any("ipykernel" in " ".join(p.cmdline()) for p in left_over())


def spoil(kernel: Kernel, folder: Path, do: str) -> papermill.Failure | None:
    return papermill.execute(NOTEBOOKS / "spoils.ipynb", folder / f"{do}.ipynb", {"do": do}, kernel=kernel)


def numbers(record: RunRecord, root: Path) -> tuple:
    """Everything that a variant found, to the last bit, without times."""
    folder = root / "runs" / "variants" / record.key
    files = [json.loads((folder / f"{name}.json").read_text()) for name in ("plan", "encodings", "sqnr")]
    with np.load(folder / "predictions.npz") as found:
        predictions = {k: found[k].tolist() for k in found.files}
    metrics = {k: v for k, v in record.metrics.items() if not k.startswith("seconds")}
    assert metrics["accuracy"] > 0.5
    return metrics, files, predictions


def story(record: RunRecord, root: Path) -> list[tuple]:
    """The executed notebook, cell by cell: number and kinds of output."""
    nb = nbformat.read(root / "runs" / "variants" / record.key / "notebook.ipynb", as_version=4)
    cells = [c for c in nb.cells if c.cell_type == "code"]
    kinds = [[(o.output_type, sorted(o.get("data", {}))) for o in c.outputs] for c in cells]
    return [(c.execution_count, found) for c, found in zip(cells, kinds, strict=True)]


# Variants that differ in everything a notebook could leave behind: seeds, training, defects, batches, images.
VARIANTS: tuple[dict[str, Any], ...] = (
    {"strategy": "fsx"},
    {"strategy": "pof2s", "weight_bit": 4, "seed": 3, "qat": {"epochs": 1, "flips": True}},
    {"strategy": "pof2s_tqt", "vitis_compat": True, "calibration": "float", "batch_size": 50, "steps": 2},
    {"strategy": "fsx", "include_fast_ft": True, "eval_images": 300, "sqnr_images": 20},
)


def test_the_same_record_from_a_warm_and_from_a_fresh_kernel(tmp_path, quickstart_model_path, kernel):
    def run(variant: dict[str, Any], where: str, used: Kernel | None) -> RunRecord:
        value = {"name": "s", "model": str(quickstart_model_path), "data": "digits", "mode": "list"}
        runs = Store.at(tmp_path / where / "runs")
        sweep = resolve(Sweep.from_dict({**value, "variants": [variant]}), runs.cache)
        declared = declared_parameters(sweep.notebook)
        record = attempt.run(_job(sweep.planned[0], sweep, runs, None, declared, warm=used is not None), used)
        assert record.status is Status.FINISHED, record.error
        return record

    expected = []
    for i, variant in enumerate(VARIANTS):
        fresh = run(variant, f"fresh-{i}", None)
        assert fresh.environment["kernel"] == "fresh"
        told = story(fresh, tmp_path / f"fresh-{i}")
        assert [number for number, _ in told] == list(range(1, len(told) + 1))
        expected.append((numbers(fresh, tmp_path / f"fresh-{i}"), told))
    assert len({str(found) for found, _ in expected}) == len(VARIANTS)
    for served, i in enumerate((0, 1, 2, 3, 1, 0, 2)):
        where = f"warm-{served}"
        record = run(VARIANTS[i], where, kernel)
        assert record.environment["kernel"] == (f"warm, {served} before" if served else "fresh")
        assert (numbers(record, tmp_path / where), story(record, tmp_path / where)) == expected[i], VARIANTS[i]
    assert kernel.ended == []
    assert spoil(kernel, tmp_path, "data").message == "assignment destination is read-only"
    assert kernel.ended == ["the variant failed"]


def test_a_kernel_is_ended_when_it_grows_and_after_a_number_of_variants(tmp_path):
    kernel = Kernel(Limits(variants=3, growth=1.3))
    for do in ("nothing", "memory", "nothing", "nothing", "nothing", "nothing"):
        assert spoil(kernel, tmp_path, do) is None
    assert [why.partition(" from ")[0] for why in kernel.ended] == ["memory grew", "3 variants"]
    assert kernel.served == 1
    kernel.end("the test is over")


def test_only_the_shipped_notebook_is_kept_warm_unless_asked_for(tmp_path):
    def kernels(warm: bool | None, notebook: Path) -> list[str]:
        sweep = resolved({"name": "a"}, {"name": "b"}, name=f"{warm}-{notebook.stem}")
        runs = Store.at(tmp_path / f"{warm}-{notebook.stem}")
        outcome = run_sweep(replace(sweep, notebook=notebook), runs, RunOptions(warm=warm))
        return [str(r.environment["kernel"]) for r in outcome.ran]

    own = NOTEBOOKS / "pretends.ipynb"
    assert not is_shipped(own)
    assert is_shipped(shutil.copy(find(RUN_NOTEBOOK), tmp_path))
    assert kernels(None, own) == ["fresh", "fresh"]
    assert kernels(True, own) == ["fresh", "warm, 1 before"]


def test_a_death_and_a_timeout_cost_their_variant_only(tmp_path, left_over, monkeypatch):
    runs = Store.at(tmp_path / "runs")
    alarm = workers._alarm

    calls = itertools.count()

    def once_it_has_begun(seconds, action):
        # How long a kernel takes to start on a busy machine is not the test's subject.
        def begun():
            while "begin slow" not in diary(runs.root):
                time.sleep(0.05)
            action()

        return alarm(0.0, begun) if next(calls) == 2 else alarm(seconds, action)

    monkeypatch.setattr(workers, "_alarm", once_it_has_begun)
    dies, slow = {"name": "dies", "do": "die"}, {"name": "slow", "sleep": 600}
    outcome = run_sweep(resolved({"name": "a"}, dies, slow, {"name": "b"}), runs, RunOptions(timeout=60, warm=True))
    assert {r.name: (str(r.status), (r.error or {}).get("type")) for r in outcome.ran} == {
        "a": ("FINISHED", None),
        "dies": ("FAILED", "DeadKernelError"),
        "slow": ("FAILED", "Timeout"),
        "b": ("FINISHED", None),
    }
    assert left_over() == []
    log = (runs.sweep_dir("s") / "worker-0.log").read_text()
    assert "kernel ended after 2 variants: the variant failed" in log


def test_what_is_kept_no_longer_is_collected_although_it_was_frozen(monkeypatch):
    class Model:
        """Refers to itself, as Keras models do, so that only the collector can release it."""

        def __init__(self) -> None:
            self.own = self

    monkeypatch.setattr(process_cache, "_on", True)
    monkeypatch.setattr(process_cache, "_kept", {})
    first = weakref.ref(process_cache.once("model", 1, Model))
    gc.collect()
    gc.freeze()
    try:
        assert process_cache.once("model", 1, Model) is first()
        process_cache.once("model", 2, Model)
        gc.collect()
        assert first() is None
    finally:
        gc.unfreeze()
