"""Pictures of tensors and sweeps: plain functions that take tables or arrays and return a matplotlib Figure.

No global state is touched, so a figure is the same in a notebook, a script and a test. `theme=DARK` for dark
pages; both themes use colours that people with colour-vision deficiencies can tell apart, and marker shapes
repeat what colours say.
"""

from vqkit.plots.model import model_graph
from vqkit.plots.runs import pareto, sqnr_difference
from vqkit.plots.samples import confusion, flipped_samples, residuals, samples
from vqkit.plots.sensitivity import recovery_curve, sensitivity_accumulated, sensitivity_ranked
from vqkit.plots.style import DARK, LIGHT, Theme
from vqkit.plots.sweeps import leaderboard_bars, marginal_effects, parallel_coordinates
from vqkit.plots.tensors import channel_ranges, error_by_scale, sqnr_by_layer, tensor_histogram, tensor_panels
from vqkit.plots.training import calibration_curve, thresholds

__all__ = [
    "DARK",
    "LIGHT",
    "Theme",
    "calibration_curve",
    "channel_ranges",
    "confusion",
    "error_by_scale",
    "flipped_samples",
    "leaderboard_bars",
    "marginal_effects",
    "model_graph",
    "parallel_coordinates",
    "pareto",
    "recovery_curve",
    "residuals",
    "samples",
    "sensitivity_accumulated",
    "sensitivity_ranked",
    "sqnr_by_layer",
    "sqnr_difference",
    "tensor_histogram",
    "tensor_panels",
    "thresholds",
]
