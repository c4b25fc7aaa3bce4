"""The values at places of a graph, for all batches, kept as long as they fit."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

Key = tuple[Any, ...]
Batches = list[dict[str, Any]]


class Places:
    """Remembers for a place the values that cross it, batch by batch; the longest unused go first.

    Args:
        limit: bytes that all of them may take.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._kept: OrderedDict[Key, tuple[int, Batches]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def kept(self) -> list[Key]:
        """The places whose values are kept."""
        return list(self._kept)

    def get(self, key: Key) -> Batches | None:
        """The values of each batch by digest; None where they are not known (any more)."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][1]

    def put(self, key: Key, batches: Batches) -> None:
        """Keep the values of a place, if they fit at all.

        Args:
            key: of the place.
            batches: for each batch digest -> tensor.
        """
        size = sum(nbytes(x) for values in batches for x in values.values())
        if size > self.limit or key in self._kept:
            return
        while self.bytes + size > self.limit:
            _, (freed, _) = self._kept.popitem(last=False)
            self.bytes -= freed
        self._kept[key] = (size, batches)
        self.bytes += size


def nbytes(x: Any) -> int:
    """Bytes of a tensor."""
    return int(x.dtype.size * x.shape.num_elements())
