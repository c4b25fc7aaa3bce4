"""vqkit: the lab bench for quantization strategies on Keras 3 models.

    strategy.json ──Strategy.load──► Strategy ──┐
    model.keras  ──load_model──────► Model ─────┼─make_plan─► Plan   (every tensor, and the rule that decided)
    images       ──load_data───────► Data ──────┴─quantize──► Quantized ─evaluate, sqnr─► numbers
    sweep.yaml   ──Sweep.load──► variants ──run_sweep──► one executed notebook and one record each ──► compare

A package imports only packages that stand before it:

    root          errors, hashes, files, tables, versions: what every package may use
    primitives    arrays in, arrays out: one tensor's grid, how to choose it, how to apply it
    runs          records of runs: the folder on disk, and mlflow as its index
    strategy      the strategy file: read, checked, changed, resolved for a layer, dumped; no TensorFlow
    graph         a Keras model in, a Keras model out, same function; knows no strategy
    models        model files of any age as Keras 3 models
    quantization  plan, calibrate, solve, refine, audit: strategy and graph meet here
    evaluation    accuracy, SQNR, cost, and the preview of one quantizer
    bench         many strategies on one model: what they share is computed once
    targets       the DPU as tables, and which layers it runs
    qat           quantization-aware training, and back to a quantized model
    export        files for other runtimes, and the proof that they compute the same
    plots         figures from tables and arrays
    sweeps        a sweep file becomes variants, each planned before the first one runs
    execution     variants run: as notebooks, in workers, on Dask, in the background
    comparison    runs side by side: leaderboard, difference, report, reproduction
    search        the search for a strategy: sensitivity, mixed precision, budget
    vitis         the API of the original quantizer
    widgets       what a person touches in a notebook
    examples      small trained models of many tasks, with their data and sweeps
    cli           the command line

Nothing heavy is imported until it is used: `import vqkit` loads neither TensorFlow nor mlflow. Keras loads
models with vqkit's layers all the same, before or after.
"""

from __future__ import annotations

from vqkit import _moved, _registered
from vqkit._lazy import names_of
from vqkit._version import __version__

_WHERE = {
    "errors": ("VqkitError",),
    "strategy": ("Strategy",),
    "bench": ("Bench",),
    "quantization.data": (
        "Data",
        "batches",
    ),
    "evaluation": ("evaluate",),
    "evaluation.noise": (
        "sqnr",
        "tensor_values",
    ),
    "targets": ("inspect",),
    "quantization.prepare": ("make_plan",),
    "export.crosscheck": ("cross_check",),
    "export.files": (
        "deploy_model",
        "quantize",
    ),
    "sweeps.source": (
        "load_data",
        "load_model",
        "model_path",
    ),
    "runs.store": ("Store",),
    "sweeps.spec": ("Sweep",),
    "sweeps.settings": ("Settings",),
    "sweeps.variant": ("build_strategy",),
    "execution": ("run_api",),
    "execution.registration": ("register",),
    "execution.runner": ("run_sweep",),
    "sweeps.qat": ("make_quantized",),
    "qat.model": ("qat_model",),
    "widgets.explorer": ("explore",),
    "widgets.part_picker": ("pick_part",),
    "execution.background": ("start_sweep",),
    "comparison.calibration_study": ("calibration_study",),
    "search.diagnosis.investigation": ("diagnose",),
    "widgets.compare": ("compare",),
    "widgets.sensitivity": ("sensitivity",),
    "widgets.watch": ("watch",),
    "examples.tasks": ("example",),
}
# The package `export` is the function of its name as well.
_HOME = {"export": "", **{name: module for module, names in _WHERE.items() for name in names}}

__all__ = [
    "Bench",
    "Data",
    "Settings",
    "Store",
    "Strategy",
    "Sweep",
    "VqkitError",
    "__version__",
    "batches",
    "build_strategy",
    "calibration_study",
    "compare",
    "cross_check",
    "deploy_model",
    "diagnose",
    "evaluate",
    "example",
    "explore",
    "export",
    "inspect",
    "load_data",
    "load_model",
    "make_plan",
    "make_quantized",
    "model_path",
    "pick_part",
    "qat_model",
    "quantize",
    "register",
    "run_api",
    "run_sweep",
    "sensitivity",
    "sqnr",
    "start_sweep",
    "tensor_values",
    "watch",
]
__getattr__, __dir__ = names_of(__name__, _HOME, _moved.NAMES)
_moved.install()
_registered.register()
