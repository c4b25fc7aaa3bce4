"""The picker's Python side: state is JSON, and what the page reports reaches who listens."""

from __future__ import annotations

import json

from vqkit.widgets.picker import picker


def test_state_is_json_and_events_reach_the_listeners() -> None:
    shown = picker("<p data-key='a'>a</p>", label="letters", chosen="a")
    state = {k: v for k, v in shown.get_state().items() if not k.startswith("_")}
    assert json.loads(json.dumps(state["html"])) == "<p data-key='a'>a</p>"
    assert (state["chosen"], state["label"], state["dark"]) == ("a", "letters", False)
    heard: list[tuple[str, str]] = []
    shown.on_activate(lambda key: heard.append(("activate", key)))
    shown.on_sort(lambda key: heard.append(("sort", key)))
    for kind in ("activate", "sort", "unheard of"):
        shown._handle_custom_msg({"kind": kind, "key": kind[:1]}, [])
    assert heard == [("activate", "a"), ("sort", "s")]
    shown._handle_custom_msg({"kind": "choose", "key": "b"}, [])
    assert shown.chosen == "b"
    shown.close()
