"""A range that runs over batches: TensorFlow, compiled or not, goes on as numpy does."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from vqkit.primitives import ops, reference
from vqkit.primitives.spec import QuantizerSpec, QuantizerType


@pytest.mark.parametrize("kind", [QuantizerType.FS, QuantizerType.MAFS])
@pytest.mark.parametrize("shape", [(), (1, 1, 5)])
@pytest.mark.parametrize("compat", [False, True])
def test_ranges_of_batches(kind: QuantizerType, shape: tuple[int, ...], compat: bool) -> None:
    spec = QuantizerSpec(quantizer_type=kind)

    @tf.function(autograph=False)
    def compiled(before, found, started):
        return ops.running_range(before, found, spec, started, vitis_compat=compat)

    draw, before = np.random.default_rng(0), np.zeros((2, *shape), np.float32)
    for number in range(20):
        found = np.sort(draw.normal(1, 2, (2, *shape)).astype(np.float32), axis=0)
        expected = reference.running_range(before, found, spec, number > 0, vitis_compat=compat)
        for run in (
            compiled,
            lambda *given: ops.running_range(*given[:2], spec, given[2], vitis_compat=compat),
        ):
            for one, other in zip(run(before, found, tf.constant(number > 0)), expected, strict=True):
                np.testing.assert_array_equal(one, other)
        before = expected[1]


def test_an_average_starts_at_the_first_batch_and_the_widest_range_at_zero() -> None:
    """In the original the first batch is quantized with a thousandth of its range."""
    nothing, found, then = np.zeros(2, np.float32), np.float32([1, 3]), np.float32([2, 5])
    average = QuantizerSpec(quantizer_type=QuantizerType.MAFS)
    used, kept = reference.running_range(nothing, found, average, False)
    np.testing.assert_array_equal(used, found)
    np.testing.assert_array_equal(kept, found)
    for compat in (False, True):
        used, kept = reference.running_range(found, then, average, True, vitis_compat=compat)
        np.testing.assert_array_equal(used, kept)
        np.testing.assert_allclose(kept, found + (then - found) / 1000, rtol=1e-6)
    used, kept = reference.running_range(nothing, found, average, False, vitis_compat=True)
    np.testing.assert_array_equal(kept, found)
    np.testing.assert_allclose(used, found / 1000, rtol=1e-5)
    used, kept = reference.running_range(nothing, found, QuantizerSpec(quantizer_type=QuantizerType.FS), False)
    np.testing.assert_array_equal(used, [0, 3])
    np.testing.assert_array_equal(kept, [0, 3])
