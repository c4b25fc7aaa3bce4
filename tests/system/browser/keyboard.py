"""A page as someone without a mouse and without sight has it: what Tab reaches, and what it is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_STOPS = """box => {
  const selector = 'a[href], button, input, select, textarea, summary, [tabindex]';
  const shown = e => e.checkVisibility({ visibilityProperty: true }) && !e.disabled;
  const stops = [...document.querySelector(box).querySelectorAll(selector)]
    .filter(e => e.tabIndex >= 0 && shown(e));
  const seen = new Set();
  window.vqStops = stops.filter(e => {
    if (e.type !== 'radio') return true;
    const first = !seen.has(e.name);  // a group of radio buttons is one stop
    seen.add(e.name);
    return first;
  });
  window.vqWhere = () => {
    const here = document.activeElement;
    const same = e => e === here || (e.type === 'radio' && here.type === 'radio' && e.name === here.name);
    return window.vqStops.findIndex(same);
  };
  return window.vqStops.map(e => e.outerHTML.slice(0, 160));
}"""


@dataclass(frozen=True)
class Stop:
    """What takes the focus.

    Attributes:
        html: its beginning.
        role, name: what a screen reader says.
    """

    html: str
    role: str
    name: str


def stops(page: Any, box: str) -> list[str]:
    """Beginnings of the HTML of all that can take the focus in a widget."""
    found: list[str] = page.evaluate(_STOPS, box)
    return found


def walk(page: Any, box: str) -> tuple[list[Stop], list[str]]:
    """Go through a widget with the tab key, from its first stop until it is left.

    Returns:
        The stops that were reached, and the HTML of those that were not.
    """
    wanted = stops(page, box)
    browser = page.context.new_cdp_session(page)
    page.evaluate("() => window.vqStops[0].focus()")
    reached: dict[int, Stop] = {}
    for _ in range(len(wanted) + 3):
        at = int(page.evaluate("() => window.vqWhere()"))
        if at >= 0 and at not in reached:
            reached[at] = Stop(wanted[at], *_said(browser))
        page.keyboard.press("Tab")
    browser.detach()
    return [*reached.values()], [html for i, html in enumerate(wanted) if i not in reached]


def _said(browser: Any) -> tuple[str, str]:
    """Role and name in the browser's own accessibility tree."""
    here = browser.send("Runtime.evaluate", {"expression": "document.activeElement"})["result"]["objectId"]
    query = {"objectId": here, "fetchRelatives": False}
    node = browser.send("Accessibility.getPartialAXTree", query)["nodes"][0]
    return tuple(str(node.get(part, {}).get("value", "")).strip() for part in ("role", "name"))  # type: ignore[return-value]


_VALUE = "i => { const e = window.vqStops[i]; return e.type === 'checkbox' ? String(e.checked) : e.value; }"
_ACT = {"checkbox": " ", "range": "ArrowRight", "select-one": "ArrowDown"}


def act(page: Any, box: str) -> list[str]:
    """Move each checkbox, slider and choice with a key, and back.

    Returns:
        The HTML of those that a key did not move.
    """
    idle = []
    for i, html in enumerate(stops(page, box)):
        kind = page.evaluate("i => { const e = window.vqStops[i]; e.focus(); return e.type ?? ''; }", i)
        if kind in _ACT and page.evaluate("i => (window.vqStops[i].options?.length ?? 2) > 1", i):
            before = page.evaluate(_VALUE, i)
            page.keyboard.press(_ACT[kind])
            if page.evaluate(_VALUE, i) == before:
                page.keyboard.press({"select-one": "ArrowUp"}.get(kind, "ArrowLeft"))
            if page.evaluate(_VALUE, i) == before:
                idle.append(html)
            page.wait_for_timeout(50)
    return idle
