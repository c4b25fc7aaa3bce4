"""One or three spatial axes in TFLite, whose windows have two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from vqkit.export.program import Constant, Shape, Step
from vqkit.export.tflite.writer import Writer

_WITH_AXES = ("window", "strides", "dilations", "factors")


def planar(step: Step) -> Step:
    """A step with one spatial axis as one with two, the first of size 1; any other as it is."""
    if axes_of(step) != 1:
        return step
    attrs = {k: (1, *v) if k in _WITH_AXES else v for k, v in step.attrs.items()}
    if attrs.get("pads") is not None:
        attrs["pads"] = ((0, 0), *attrs["pads"])
    kernel = step.constants.get("kernel")
    tall = {} if kernel is None else {"kernel": Constant(kernel.name, kernel.value[None], kernel.params)}
    return replace(step, attrs=attrs, constants={**step.constants, **tall})


def axes_of(step: Step) -> int:
    """How many spatial axes a window or a list of factors has."""
    return len(next(step.attrs[k] for k in _WITH_AXES if k in step.attrs))


def last_axis(shape: Shape) -> int:
    """Size of the last axis, which is never free."""
    (*_, last) = shape
    assert last is not None
    return last


def tall(shape: Shape) -> Shape:
    """(n, length, channels) as (n, 1, length, channels); any other shape as it is."""
    return (shape[0], 1, *shape[1:]) if len(shape) == 3 else shape


def raised(w: Writer, x: int, like: Callable[[str, Shape], int]) -> int:
    """A tensor of three axes as one of four; any other as it is.

    Args:
        w: the writer.
        x: the tensor.
        like: from a name and a shape to a tensor of the same type and grid.
    """
    shape = w.b.shape(x)
    if len(shape) != 3:
        return x
    key = ("raised", x)
    if key not in w.memo:
        axis = w.b.constant("int_1", np.int32(1))
        w.memo[key] = w.b.op("EXPAND_DIMS", [x, axis], [like("tall", tall(shape))], "ExpandDimsOptions")
    return w.memo[key]


def lowered(w: Writer, y: int, target: int) -> int:
    """A tensor of four axes, the second of size 1, as one of three."""
    return w.b.op("SQUEEZE", [y], [target], "SqueezeOptions", squeezeDims=[1])


def depthwise_kernel(a: np.ndarray) -> np.ndarray:
    """(h, w, channels, multiplier) as (1, h, w, outputs)."""
    return a.reshape(1, *a.shape[:2], -1)


def output_first(a: np.ndarray) -> np.ndarray:
    """(h, w, inputs, outputs) as (outputs, h, w, inputs)."""
    return np.moveaxis(a, -1, 0)
