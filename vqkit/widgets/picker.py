"""HTML whose marked parts can be chosen: the one widget with a script of its own, and anywidget's importer.

ipywidgets has no table with a cursor and no picture with clickable parts. Here any HTML or SVG becomes one:
an element with `data-key` can be chosen by click or arrow keys and activated by click, Enter or space; an
element with `data-sort` asks for another order. State is JSON; what is shown is made in Python, so that the
static twin is the same text.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from vqkit.widgets.style import css

Heard = Callable[[str], None]


def picker(html: str = "", *, label: str, chosen: str = "") -> Any:
    """Show HTML and let its parts be chosen.

    Args:
        html: with `data-key` on what can be chosen and `data-sort` on what sorts; already escaped.
        label: what it is, for screen readers.
        chosen: key of the part that is chosen at first.

    Returns:
        An ipywidget with the traits `html`, `chosen` and `label` to read and set, `dark` (whether the page
        is dark) to read, and the methods `on_activate` and `on_sort`.
    """
    return _picker_class()(html=html, label=label, chosen=chosen)


@cache
def _picker_class() -> type:
    """Made on first use: `import vqkit.widgets` stays light, and static pages need no anywidget."""
    import anywidget
    import traitlets

    class Picker(anywidget.AnyWidget):  # type: ignore[misc,unused-ignore]
        """See `picker`."""

        _esm = (Path(__file__).parent / "picker.js").read_text("utf-8")
        _css = css()
        html = traitlets.Unicode().tag(sync=True)
        chosen = traitlets.Unicode().tag(sync=True)
        label = traitlets.Unicode().tag(sync=True)
        dark = traitlets.Bool(False).tag(sync=True)

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self._heard: dict[str, list[Heard]] = {"activate": [], "sort": []}
            self.on_msg(self._tell)

        def on_activate(self, heard: Heard) -> None:
            """Call `heard(key)` when a part is clicked, or Enter or space is pressed on it."""
            self._heard["activate"].append(heard)

        def on_sort(self, heard: Heard) -> None:
            """Call `heard(column)` when an element with `data-sort` is pressed."""
            self._heard["sort"].append(heard)

        def _tell(self, _: Any, content: dict[str, Any], __: Any) -> None:
            if content.get("kind") == "choose":
                self.set_state({"chosen": str(content["key"])})  # without an echo: the page may be further
            for heard in self._heard.get(content.get("kind", ""), []):
                heard(str(content["key"]))

    return Picker
