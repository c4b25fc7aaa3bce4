"""Odd input that is accepted and what it means; `python -m tests.system.robustness.odd_input` writes docs/bad-input.md."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.system.robustness.bad_input import CASES, PIXELS, X, put, quantized, small_model

PAGE = Path(__file__).resolve().parents[3] / "docs" / "bad-input.md"


def _finite(data: np.ndarray, change: Any = None, strategy: str = "fsx") -> np.ndarray:
    made = quantized(data, small_model(change), strategy)
    with np.errstate(all="ignore"):
        outputs = np.asarray(made.model.predict(data, verbose=0))
    assert np.isfinite(outputs).all()
    return outputs


def _zero_channel() -> None:
    def zero(weights: list[np.ndarray]) -> None:
        weights[0][:, 0] = 0

    made = quantized(X, small_model(zero), "fsx")
    assert not np.asarray(made.model.get_layer("conv").get_weights()[0])[:, 0].any()
    _finite(X, zero)


def _in_memory(calib: np.ndarray, other: np.ndarray) -> Any:
    from vqkit.quantization.data import Data

    data = Data("d", calib, other, np.zeros(len(other)))
    np.testing.assert_array_equal(data.x_calib, calib)
    return data


def _pixels_and_floats() -> None:
    half = PIXELS.astype("float32")
    half.flat[0] = 0.5
    _in_memory(PIXELS, half)


ACCEPTED: tuple[tuple[str, str, Callable[[], Any]], ...] = (
    ("calibration images that are all zero", "ranges fall back to the smallest grid; outputs are finite",
     lambda: _finite(X * 0)),
    ("values of 1e30 in data", "finite, so they are calibrated: the range is theirs, and small values become 0",
     lambda: _finite(X * np.float32(1e30))),
    ("values of 1e30 in weights", "likewise, for their tensor or channel", lambda: _finite(X, put(0, 1e30))),
    ("an output channel whose weights are all zero", "its scale is that of the smallest grid, its weights stay exactly 0",
     _zero_channel),
    ("one image", "enough to calibrate", lambda: _finite(X[:1])),
    ("a last batch that is shorter", "as `keras.Model.predict` cuts it", lambda: quantized(X, batch_size=3)),
    ("integers or booleans as images", "cast to the model's input type", lambda: quantized((X > 0).astype("uint8"))),
    ("integers to calibrate, floats to evaluate, both 0..255", "one scale: taken as they are", _pixels_and_floats),
    ("calibration images much darker than the others", "a choice of samples, not an error: both are fractions",
     lambda: _in_memory(X / 100, X)),
)  # fmt: skip


@functools.cache
def page() -> str:
    """The tables as Markdown."""
    rows = [f"| {c.entry} | {c.given} | `{c.error.__name__}` | {c.says} |" for c in CASES]
    meant = [f"| {given} | {means} |" for given, means, _ in ACCEPTED]
    return "\n".join([
        "# Bad input", "",
        "Every error of vqkit is a `VqkitError`; on the command line it is one message and exit code 2 (3 for the",
        "tracking store). The tables below are executed by a test: each input is given, and the error must be of this",
        "type and hold these words. Where a name is nearly right, the message names the nearest. For arbitrary input",
        "see [faults.md](faults.md).", "",
        "No code inside a file is run: strategies, sweeps and `.npz` files are data; `.keras` files are loaded in Keras'",
        "safe mode, so that a Lambda layer is refused unless `load_model(path, safe_mode=False)` asks for it; pickles are",
        "refused; a class that is neither Keras' nor registered is not imported because a file names it. A data loader",
        "(`file.py:function`) and `custom_objects` are code that you name yourself.", "",
        "| entry point | given | error | the message says |", "|---|---|---|---|", *rows, "",
        "## Accepted, with a stated meaning", "",
        "| given | meaning |", "|---|---|", *meant, "",
    ])  # fmt: skip


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
