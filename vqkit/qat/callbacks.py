"""The optimizer of thresholds, and their log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from vqkit.errors import DataError, ModelError
from vqkit.qat.layers import LEARNED

if TYPE_CHECKING:
    import pandas as pd

_SMALLEST = 1e-3


def warm_cosine(rate: float, steps: int, warm: int = 0) -> Any:
    """A learning rate that rises in a line and falls to zero along a cosine.

    Adam's first steps are as long as its later ones and know little; a few of them at full length can undo
    what calibration achieved.

    Args:
        rate: the highest one.
        steps: of the whole training.
        warm: the first ones, over which it rises.

    Returns:
        A Keras schedule.

    Raises:
        DataError: the rise is not shorter than the training.
    """
    if not 0 <= warm < steps:
        raise DataError(f"warm_cosine: warm must be from 0 to below steps ({steps}), got {warm}")
    if not warm:
        return keras.optimizers.schedules.CosineDecay(rate, steps)
    return keras.optimizers.schedules.CosineDecay(0.0, steps - warm, warmup_target=rate, warmup_steps=warm)


@keras.saving.register_keras_serializable(package="vqkit")
class QATAdam(keras.optimizers.Adam):
    """Adam whose steps on thresholds and range factors are `threshold_factor` times as long.

    Adam moves a variable by about its learning rate in each step, whatever its gradient. A log2 threshold has
    to travel by tenths to matter, a weight by thousandths; so they need different rates. Schedules and
    callbacks that change the learning rate change both.

    Equalized channels leave layers with weights of very different size, to which one step length is too long
    here and too short there. `relative` measures each variable's steps by its own size.

    Args:
        learning_rate: of the weights: a number or a schedule.
        threshold_factor: what it is multiplied by for log2 thresholds and range factors. 0 holds them.
        relative: multiply the rate of each weight and bias by the root mean square of its values (at least
            1e-3), so that it says by what share of itself a variable may change in a step; 1e-3 is a good
            beginning. Thresholds and range factors are relative already.
        kwargs: as of `keras.optimizers.Adam`.

    Source: the two rates follow Jain et al. 2020 (arXiv:1903.08066) §5.2; the relative step is that of
    Shazeer and Stern 2018 (arXiv:1804.04235) §8.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-4,
        threshold_factor: float = 100.0,
        *,
        relative: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.threshold_factor, self.relative = float(threshold_factor), relative
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
        if self._get_variable_index(variable) in self._learned:
            learning_rate = learning_rate * self.threshold_factor
        elif self.relative:
            size = keras.ops.sqrt(keras.ops.mean(keras.ops.square(variable)))
            learning_rate = learning_rate * keras.ops.maximum(size, _SMALLEST)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        """With the factor and what the rate is relative to."""
        return {**super().get_config(), "threshold_factor": self.threshold_factor, "relative": self.relative}


COLUMNS = ("step", "tensor", "log2_threshold", "position")


class ThresholdLog(keras.callbacks.Callback):
    """Records every quantizer's threshold before training, every few steps, and at the end.

    A step is one of the optimizer's, so a log of resumed training goes on where the first one stopped. Of a
    per-channel quantizer the mean over the channels is recorded.

    Args:
        every: steps between two records.
        model: from `qat_model`, where what is trained was made of it (`with_features`); else the trained one.
    """

    def __init__(self, every: int = 10, model: keras.Model = None) -> None:
        super().__init__()
        self._given = model
        if every < 1:
            raise ModelError(f"ThresholdLog: every must be at least 1, got {every}")
        self.every = every
        self._rows: list[tuple[int, str, float, float]] = []
        self._last = -1

    def on_train_begin(self, logs: Any = None) -> None:
        """Record where training starts."""
        del logs
        if not hasattr(self._source, "quantizers"):
            raise ModelError(f"ThresholdLog: {self._source.name!r} is no model from qat_model")
        self._record()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Record every so many steps."""
        del batch, logs
        if self._step() % self.every == 0:
            self._record()

    def on_train_end(self, logs: Any = None) -> None:
        """Record where training ends."""
        del logs
        self._record()

    @property
    def _source(self) -> Any:
        return self.model if self._given is None else self._given

    def _step(self) -> int:
        return int(self.model.optimizer.iterations.numpy())

    def _record(self) -> None:
        step = self._step()
        if step == self._last:
            return
        self._last = step
        for tensor, quantizer in self._source.quantizers.items():
            if not quantizer.is_known:
                continue
            position = quantizer.position
            mean = float("nan") if position is None else float(np.mean(position))
            self._rows.append((step, tensor, float(np.mean(quantizer.log2_threshold)), mean))

    def to_frame(self) -> pd.DataFrame:
        """The table: step, tensor, log2_threshold, position (NaN for float scales)."""
        import pandas as pd

        return pd.DataFrame(self._rows, columns=list(COLUMNS))

    def to_csv(self, path: str | Path) -> None:
        """Write the table.

        Args:
            path: of the file; replaced in one step.
        """
        target = Path(path)
        scratch = target.with_name(f".{target.name}.part")
        self.to_frame().to_csv(scratch, index=False)
        scratch.replace(target)
