"""vqkit: the lab bench for quantization strategies on Keras 3 models.

    strategy.json ──Strategy.load──► Strategy ──┐
    model.keras  ──load_model──────► Model ─────┼─make_plan─► Plan   (every tensor, and the rule that decided)
    images       ──load_data───────► Data ──────┴─quantize──► Quantized ─evaluate, sqnr─► numbers
    sweep.yaml   ──Sweep.load──► variants ──run_sweep──► one executed notebook and one record each ──► compare

Floors; a module imports only from its own floor and those before it:

    0  errors, digest   the exceptions and the hashes
    1  primitives       arrays in, arrays out: quantize a tensor, choose its range or position
    2  strategy         what the user wants: the 2.5 JSON, loaded, validated, changed, dumped
    3  graph, keras2    Keras model in, Keras model out, same function; models that Keras 2 saved
    4  flow             plan, calibrate, quantize, audit, evaluate
    4½ train            a model that learns with its quantization in place
    5  experiment       variants, sweeps, notebooks, records, tracking, comparison
    5  export           files for other runtimes, and the proof that they compute the same
    6  plots, widgets, cli, vitis (the API of the original quantizer)

Nothing heavy is imported until it is used: `import vqkit` loads neither TensorFlow nor mlflow. Keras loads
models with vqkit's layers all the same, before or after.
"""

from __future__ import annotations

from vqkit._lazy import names_of
from vqkit._registered import register
from vqkit._version import __version__

_WHERE = {
    "errors": ("VqkitError",),
    "strategy": ("Strategy",),
    "flow": (
        "Bench", "Data", "batches", "evaluate", "inspect", "make_plan", "sqnr", "tensor_values",
    ),
    "export.crosscheck": ("cross_check",),
    "export.finalize": ("deploy_model", "quantize"),
    "experiment.source": ("load_data", "load_model", "model_path"),
    "experiment.store": ("Store",),
    "experiment.sweep": ("Sweep",),
    "experiment.variant": ("Settings", "build_strategy"),
    "experiment.measure": (
        "changes", "first_samples", "keep_figure", "record", "run_inputs", "score", "title", "workbench",
        "worst_tensors",
    ),
    "experiment.runner": ("run_sweep",),
    "experiment.training": ("make_quantized",),
    "train": ("qat_model",),
    "widgets.explorer": ("explore",),
    "widgets.part": ("pick_part",),
    "experiment.background": ("start_sweep",),
    "experiment.calibration": ("calibration_study",),
    "widgets.compare": ("compare",),
    "widgets.sensitivity": ("sensitivity",),
    "widgets.watch": ("watch",),
}  # fmt: skip
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
    "changes",
    "compare",
    "cross_check",
    "deploy_model",
    "evaluate",
    "explore",
    "export",
    "first_samples",
    "inspect",
    "keep_figure",
    "load_data",
    "load_model",
    "make_plan",
    "make_quantized",
    "model_path",
    "pick_part",
    "qat_model",
    "quantize",
    "record",
    "run_inputs",
    "run_sweep",
    "score",
    "sensitivity",
    "sqnr",
    "start_sweep",
    "tensor_values",
    "title",
    "watch",
    "workbench",
    "worst_tensors",
]
__getattr__, __dir__ = names_of(__name__, _HOME)
register()
