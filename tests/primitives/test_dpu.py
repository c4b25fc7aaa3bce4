"""The DPU's pooling factor and sigmoid."""

from __future__ import annotations

import numpy as np
import pytest

from vqkit.primitives.kernels import average_pool_scale, dpu_sigmoid


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(1, 1, 1.0), (2, 2, 1.0), (3, 3, 63 / 64), (7, 7, 1029 / 1024), (2, 3, 6 * 85 / 512), (256, 2, 1.0)],
)
def test_known_windows(height: int, width: int, expected: float) -> None:
    assert average_pool_scale(height, width) == expected


def test_every_factor_is_near_one() -> None:
    """A searched k has seven significant bits; of the fixed factors 5 x 5 is the farthest, 2.4 % off."""
    factors = [average_pool_scale(height, width) for height in range(1, 20) for width in range(1, 256)]
    assert max(abs(f - 1) for f in factors) == 1 - average_pool_scale(5, 5) == 6 / 256


def test_windows_have_sides() -> None:
    with pytest.raises(ValueError, match="positive sides, got 0 x 3"):
        average_pool_scale(0, 3)


def test_sigmoid() -> None:
    np.testing.assert_array_equal(
        dpu_sigmoid([-4, -3, 0, 3, 9]), np.float32([0, 0, 3, 6, 6]) * np.float32(2731 / 16384)
    )
