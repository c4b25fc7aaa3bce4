"""The picker's Python side: state is JSON, and what the page reports reaches who listens, in its order."""

from __future__ import annotations

import json

from tests.support.hand import hear, say
from vqkit.widgets.elements import SerialHandler, picker, queue


def test_state_is_json_and_events_reach_the_listeners() -> None:
    said: list[str] = []
    shown = picker(queue(SerialHandler(said.append)), "<p data-key='a'>a</p>", label="letters", chosen="a")
    state = {k: v for k, v in shown.get_state().items() if not k.startswith("_")}
    assert json.loads(json.dumps(state["html"])) == "<p data-key='a'>a</p>"
    assert (state["chosen"], state["label"], state["dark"]) == ("a", "letters", False)
    heard: list[tuple[str, str]] = []
    shown.on_activate(lambda key: heard.append(("activate", key)))
    shown.on_sort(lambda key: heard.append(("sort", key)))
    for kind in ("activate", "sort", "unheard of"):
        say(shown, kind=kind, key=kind[:1])
    assert heard == [("activate", "a"), ("sort", "s")]
    say(shown, kind="choose", key="b")
    assert shown.chosen == "b"
    say(shown, kind="activate", key="b", mode=2)
    assert shown.mode == 2
    assert said == []
    shown.close()


def test_a_message_that_overtook_another_waits_for_it() -> None:
    line = queue(SerialHandler(lambda _: None))
    one, two = (picker(line, label=name) for name in ("one", "two"))
    heard: list[str] = []
    one.on_sort(heard.append)
    two.on_sort(heard.append)
    for seq, part, key, view in (
        (2, two, "b", "x"),
        (3, one, "c", "x"),
        (1, one, "other page", "y"),
        (1, one, "a", "x"),
    ):
        content = {"to": part.name, "kind": "sort", "key": key, "seq": seq, "view": view}
        hear(line, content)
    assert heard == ["other page", "a", "b", "c"]
