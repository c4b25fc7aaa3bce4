"""Adam with a rate of its own for thresholds, which live in octaves while weights live in their own units."""

from __future__ import annotations

from typing import Any

import keras

from vqkit.train.learned import LEARNED


@keras.saving.register_keras_serializable(package="vqkit")
class QATAdam(keras.optimizers.Adam):
    """Adam whose steps on thresholds and range factors are `threshold_factor` times as long.

    Adam moves a variable by about its learning rate in each step, whatever its gradient. A log2 threshold has
    to travel by tenths to matter, a weight by thousandths; so they need different rates. Schedules and
    callbacks that change the learning rate change both.

    Args:
        learning_rate: of the weights: a number or a schedule.
        threshold_factor: what it is multiplied by for log2 thresholds and range factors. 0 holds them.
        kwargs: as of `keras.optimizers.Adam`.

    Source: the two rates follow Jain et al. 2020 (arXiv:1903.08066) §5.2.
    """

    def __init__(self, learning_rate: Any = 1e-4, threshold_factor: float = 100.0, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.threshold_factor = float(threshold_factor)
        self._learned: set[int] = set()

    def build(self, variables: Any) -> None:
        """Note which variables are thresholds.

        Args:
            variables: that are trained.
        """
        super().build(variables)
        self._learned = {i for i, v in enumerate(variables) if v.name in LEARNED}

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step on one variable, at its rate."""
        learned = self._get_variable_index(variable) in self._learned
        super().update_step(
            gradient, variable, learning_rate * self.threshold_factor if learned else learning_rate
        )

    def get_config(self) -> dict[str, Any]:
        """With the factor."""
        return {**super().get_config(), "threshold_factor": self.threshold_factor}
