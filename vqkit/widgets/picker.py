"""HTML whose marked parts can be chosen by mouse and keyboard.

ipywidgets has no table with a cursor and no picture with clickable parts. Here any HTML or SVG becomes one:
an element with `data-key` can be chosen by click or arrow keys and activated by click, Enter or space; an
element with `data-sort` asks for another order. State is JSON; what is shown is made in Python, so that the
static twin is the same text.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from vqkit.widgets.front import base, script

Heard = Callable[[str], None]


def picker(queue: Any, html: str = "", *, label: str, chosen: str = "") -> Any:
    """Show HTML and let its parts be chosen.

    Args:
        queue: of the widget it is part of.
        html: with `data-key` on what can be chosen and `data-sort` on what sorts; already escaped.
        label: what it is, for screen readers.
        chosen: key of the part that is chosen at first.

    Returns:
        An ipywidget with the traits `html`, `chosen` and `label` to read and set, `dark` (whether the page
        is dark) and `mode` (what the page said an activation means, see `part`) to read, and the methods
        `on_activate` and `on_sort`.
    """
    return _picker_class()(queue, html=html, label=label, chosen=chosen)


@cache
def _picker_class() -> type:
    import traitlets

    class Picker(base()):  # type: ignore[misc]
        """See `picker`."""

        _esm = script("picker.js")
        html = traitlets.Unicode().tag(sync=True)
        chosen = traitlets.Unicode().tag(sync=True)
        label = traitlets.Unicode().tag(sync=True)
        dark = traitlets.Bool(False).tag(sync=True)
        mode = traitlets.Int(0).tag(sync=True)

        def __init__(self, queue: Any, **kwargs: Any) -> None:
            self._heard: dict[str, list[Heard]] = {"activate": [], "sort": []}
            super().__init__(queue, **kwargs)

        def on_activate(self, heard: Heard) -> None:
            """Call `heard(key)` when a part is clicked, or Enter or space is pressed on it."""
            self._heard["activate"].append(heard)

        def on_sort(self, heard: Heard) -> None:
            """Call `heard(column)` when an element with `data-sort` is pressed."""
            self._heard["sort"].append(heard)

        def heard(self, content: dict[str, Any]) -> None:
            # Set without an echo: the page may be further.
            if content.get("kind") == "choose":
                self.set_state({"chosen": str(content["key"])})
            if "mode" in content:
                self.set_state({"mode": int(content["mode"])})
            for heard in self._heard.get(content.get("kind", ""), []):
                heard(str(content["key"]))

    return Picker
