"""Draw the pictures of docs/quantizers.md from the quantizers themselves: `make_quantizers.py`."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from vqkit.plots.style import LIGHT, dress, figure
from vqkit.primitives import reference
from vqkit.primitives.choose import choose
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import EMA_DECAY, Method, QuantizerSpec, QuantizerType

HERE = Path(__file__).resolve().parent
BITS = 4
# Most values small, a few large: what weights and activations look like.
VALUES = np.random.default_rng(0).laplace(0, 0.6, 20_000).astype(np.float32)
X = np.linspace(-6, 6, 2401, dtype=np.float32)


def spec(kind: QuantizerType, method: Method = Method.NON_OVERFLOW, **changes: object) -> QuantizerSpec:
    """A 4-bit quantizer."""
    return QuantizerSpec(kind, BITS, method=method).with_(**changes)


def staircase(ax: Axes, chosen: dict[str, QParams], title: str) -> None:
    """Value against quantized value, a line for each."""
    ax.plot(X, X, color=LIGHT.faint, lw=1, label="float")
    for (name, qp), colour, style in zip(chosen.items(), LIGHT.colours, ("-", "--", ":"), strict=False):
        ax.plot(X, reference.fake_quantize(X, qp), style, color=colour, lw=1.6, label=name)
    dress(ax, LIGHT, title=title, x="x", y="x'")
    ax.legend(frameon=False, fontsize=8, loc="upper left")


def positions() -> Figure:
    """Pof2S: the grid of two neighbouring positions, and the error by which one is chosen."""
    fig = figure(3.6, LIGHT)
    left, right = fig.subplots(1, 2)
    first = choose(VALUES, spec(QuantizerType.POF2S))
    best = choose(VALUES, spec(QuantizerType.POF2S, Method.MIN_MSE))
    staircase(
        left,
        {
            f"NON_OVERFLOW: pos {int(first.pos)}, step {float(first.scale):g}": first,
            f"MIN_MSE: pos {int(best.pos)}, step {float(best.scale):g}": best,
        },
        f"Pof2S, {BITS} bit: steps are powers of two",
    )
    offsets = np.arange(5)
    candidates = [QParams(first.spec, first.f_min, first.f_max, first.pos + i) for i in offsets]
    errors = [float(np.mean(np.square(reference.fake_quantize(VALUES, c) - VALUES))) for c in candidates]
    at = first.pos + offsets
    right.semilogy(at, errors, "o-", color=LIGHT.colours[0])
    for qp, word, marker in ((first, "NON_OVERFLOW", "s"), (best, "MIN_MSE", "D")):
        right.plot(qp.pos, errors[int(qp.pos - first.pos)], marker, ms=11, mfc="none", color=LIGHT.ink, label=word)
    dress(
        right,
        LIGHT,
        title="Error of the five candidates",
        x="position, bits behind the point",
        y="mean squared error",
    )
    right.set_xticks(at)
    right.legend(frameon=False, fontsize=8)
    return fig


def thresholds() -> Figure:
    """TQT: what the threshold's gradient says to values inside and outside."""
    import tensorflow as tf

    from vqkit.primitives import ops

    fig = figure(3.6, LIGHT)
    left, right = fig.subplots(1, 2)
    of = spec(QuantizerType.TQT)
    wide, narrow = (QParams(of, -t, t, reference.position(VALUES, -t, t, of)) for t in np.float32([6, 2]))
    staircase(
        left,
        {f"threshold 6: pos {int(wide.pos)}": wide, f"threshold 2: pos {int(narrow.pos)}": narrow},
        f"TQT, {BITS} bit: the threshold decides the step",
    )
    logs = np.linspace(-2, 4, 241, dtype=np.float32)
    slopes, errors = [], []
    for log in logs:
        variable = tf.Variable(log)
        with tf.GradientTape() as tape:
            out = ops.trained_threshold(
                tf.constant(VALUES), of, tf.constant(np.float32(-1)), tf.constant(np.float32(1)), variable
            )
            loss = tf.reduce_mean(tf.square(out - VALUES))
        slopes.append(float(tape.gradient(loss, variable)))
        errors.append(float(loss))
    right.plot(logs, errors, color=LIGHT.colours[0], label="mean squared error")
    right.plot(logs, slopes, "--", color=LIGHT.colours[1], label="its gradient as training sees it")
    right.axhline(0, color=LIGHT.faint, lw=1)
    dress(
        right,
        LIGHT,
        title="Training goes where the gradient changes its sign",
        x="log2 of the threshold",
        y="error, gradient",
    )
    right.legend(frameon=False, fontsize=8)
    return fig


def ranges() -> Figure:
    """FS: the range that each method chooses."""
    fig = figure(3.6, LIGHT)
    left, right = fig.subplots(1, 2)
    methods = (Method.NON_OVERFLOW, Method.MIN_MSE, Method.MIN_KL, Method.PERCENTILE)
    chosen = {m.name: choose(VALUES, spec(QuantizerType.FS, m, method_percentile=99.9)) for m in methods}
    left.hist(VALUES, 120, color=LIGHT.faint)
    for (name, qp), colour, style in zip(chosen.items(), LIGHT.colours, ("-", "--", "-.", ":"), strict=False):
        left.axvline(float(qp.f_max), color=colour, ls=style, lw=1.8, label=f"{name}: {float(qp.f_max):.2f}")
    left.set_yscale("log")
    dress(left, LIGHT, title=f"FS, {BITS} bit: upper end of the range", x="x", y="values")
    left.legend(frameon=False, fontsize=8, loc="upper left")
    left.set_xlim(-9, 9)
    staircase(
        right,
        {n: chosen[n] for n in ("NON_OVERFLOW", "MIN_MSE")},
        "A wide range is coarse, a narrow one clips",
    )
    return fig


def averages() -> Figure:
    """MAFS: a moving average follows the batches, extremes do not come back."""
    fig = figure(3.2, LIGHT)
    ax = fig.subplots()
    largest = np.abs(np.random.default_rng(1).laplace(0, 0.6, (3000, 256))).max(1)
    largest[200] = 9.0
    average = [largest[0]]
    for value in largest[1:]:
        average.append(EMA_DECAY * average[-1] + (1 - EMA_DECAY) * value)
    ax.plot(largest, ".", ms=2, color=LIGHT.faint, label="largest of the batch")
    ax.plot(np.maximum.accumulate(largest), color=LIGHT.colours[0], label="FS: running extreme")
    ax.plot(average, "--", color=LIGHT.colours[1], label=f"MAFS: moving average, decay {EMA_DECAY}")
    dress(ax, LIGHT, title="An outlier in one batch", x="batch", y="upper end of the range")
    ax.legend(framealpha=1, edgecolor="none", fontsize=8, loc="upper right", bbox_to_anchor=(1, 0.9))
    return fig


if __name__ == "__main__":
    for name, draw in {"pof2s": positions, "tqt": thresholds, "fs": ranges, "mafs": averages}.items():
        path = HERE / f"quantizer-{name}.png"
        draw().savefig(path, facecolor=LIGHT.page)
        Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)
