"""A row of buttons, with a field whose text goes with what is pressed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from vqkit.widgets.front import base, script

Pressed = Callable[[str], None]


@dataclass(frozen=True)
class Action:
    """One button.

    Attributes:
        words: on it.
        tip: what it does, shown on hover.
        pressed: called with the field's text, in its turn.
        icon: name of a Font Awesome icon; "" for none.
    """

    words: str
    tip: str
    pressed: Pressed
    icon: str = ""

    @property
    def key(self) -> str:
        """What the page calls it."""
        return self.words.lower().replace(" ", "-")


def actions(
    queue: Any, *buttons: Action, field: str = "", field_tip: str = "", value: str = "",
    disabled: Sequence[str] = (),
) -> Any:  # fmt: skip
    """A row of buttons.

    Args:
        queue: of the widget they are part of.
        buttons: from left to right.
        field: label of a text field before them; "" for none.
        field_tip: what its text is for.
        value: its text at first.
        disabled: keys of buttons that cannot be pressed.

    Returns:
        An ipywidget; set its `disabled` to a list of keys.
    """
    return _class()(queue, buttons, field=field, field_tip=field_tip, value=value, disabled=[*disabled])


@cache
def _class() -> type:
    import traitlets

    class Actions(base()):  # type: ignore[misc]
        """See `actions`."""

        _esm = script("actions.js")
        buttons = traitlets.List().tag(sync=True)
        disabled = traitlets.List().tag(sync=True)
        field = traitlets.Unicode().tag(sync=True)
        field_tip = traitlets.Unicode().tag(sync=True)
        value = traitlets.Unicode().tag(sync=True)

        def __init__(self, queue: Any, buttons: Sequence[Action], **kwargs: Any) -> None:
            self._pressed = {b.key: b.pressed for b in buttons}
            shown = [{"key": b.key, "words": b.words, "icon": b.icon, "tip": b.tip} for b in buttons]
            super().__init__(queue, buttons=shown, **kwargs)

        def heard(self, content: dict[str, Any]) -> None:
            self._pressed[str(content["key"])](str(content["value"]))

    return Actions
