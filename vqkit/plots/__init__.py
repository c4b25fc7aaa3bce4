"""Pictures of tensors and sweeps: plain functions that take tables or arrays and return a matplotlib Figure.

No global state is touched, so a figure is the same in a notebook, a script and a test. `theme=DARK` for dark
pages; both themes use colours that people with colour-vision deficiencies can tell apart, and marker shapes
repeat what colours say.
"""

from vqkit.plots.calibration import calibration_curve
from vqkit.plots.choices import channel_ranges, error_by_scale, tensor_panels
from vqkit.plots.graphs import model_graph
from vqkit.plots.pairs import flipped_samples, sqnr_difference
from vqkit.plots.parallel import parallel_coordinates
from vqkit.plots.pareto import pareto
from vqkit.plots.sensitivity import recovery_curve, sensitivity_accumulated, sensitivity_ranked
from vqkit.plots.style import DARK, LIGHT, Theme
from vqkit.plots.sweeps import leaderboard_bars, marginal_effects
from vqkit.plots.tensors import sqnr_by_layer, tensor_histogram
from vqkit.plots.training import thresholds

__all__ = [
    "DARK",
    "LIGHT",
    "Theme",
    "calibration_curve",
    "channel_ranges",
    "error_by_scale",
    "flipped_samples",
    "leaderboard_bars",
    "marginal_effects",
    "model_graph",
    "parallel_coordinates",
    "pareto",
    "recovery_curve",
    "sensitivity_accumulated",
    "sensitivity_ranked",
    "sqnr_by_layer",
    "sqnr_difference",
    "tensor_histogram",
    "tensor_panels",
    "thresholds",
]
