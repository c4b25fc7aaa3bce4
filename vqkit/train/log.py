"""What the thresholds did while a model was trained: a table of step, tensor, log2 threshold and position."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from vqkit.errors import ModelError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("step", "tensor", "log2_threshold", "position")


class ThresholdLog(keras.callbacks.Callback):
    """Records every quantizer's threshold before training, every few steps, and at the end.

    A step is one of the optimizer's, so a log of resumed training goes on where the first one stopped. Of a
    per-channel quantizer the mean over the channels is recorded.

    Args:
        every: steps between two records.
        model: from `qat_model`, where what is trained was made of it (`with_features`); else the trained one.
    """

    def __init__(self, every: int = 10, model: Any = None) -> None:
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
