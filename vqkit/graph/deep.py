"""Room for Keras to walk deep models: it does so by recursion, one Python frame for each layer on the way."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

SPARE = 1000
"""Frames of everything else."""

DEEPEST = 5000
"""Layers on one way in a file: more would let its nesting, which somebody else wrote, exhaust the C stack."""


@contextlib.contextmanager
def room_for(layers: int) -> Iterator[None]:
    """Let Python recurse so deep that a chain of so many layers can be walked.

    Args:
        layers: in the model; on one way there are at most as many.
    """
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, layers + SPARE))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
