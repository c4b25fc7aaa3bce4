"""The zoo itself: its models build, are reproducible, and compute something."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support import zoo


@pytest.mark.parametrize("name", zoo.NAMES)
def test_each_model_is_reproducible_and_alive(name: str) -> None:
    first, second = zoo.build(name), zoo.build(name)
    x = zoo.batch(first)
    one, two = first(x), second(x)
    for a, b in zip(*(o if isinstance(o, list) else [o] for o in (one, two)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.std(a) > 0
