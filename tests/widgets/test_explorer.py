"""The page of the bench, without a browser: what it says, and its static twin."""

from __future__ import annotations

import json
import re
import threading
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.support import zoo
from tests.support.hand import having, hear, part, press, say, told
from vqkit.errors import StrategyError
from vqkit.strategy import Strategy
from vqkit.widgets.explorer import Explorer, explore
from vqkit.widgets.explorer_state import Exploration

PLAN = "plan of the model, one tensor a row"


@pytest.fixture
def bench() -> Explorer:
    model = zoo.build("residual")
    return explore(model, zoo.batch(model, 8))


def shown_json(html: str) -> Any:
    found = re.search(r"<pre class='vq-json'>(.*?)</pre>", html, re.S)
    assert found is not None
    return json.loads(unescape(found[1]))


def move(bench: Explorer, param: str, value: Any, *, row: str = "", scope: int = 0) -> None:
    """What the page sends when a person moves a control."""
    assert bench.chosen is not None
    named = row or bench.chosen.name
    say(having(bench.box, "rows"), kind="set", row=named, scope=scope, param=param, value=value)


def shown_control(bench: Explorer, row: str = "") -> dict[str, Any]:
    """What the page shows of a quantizer."""
    assert bench.chosen is not None
    found: dict[str, Any] = having(bench.box, "rows").rows[row or bench.chosen.name]
    return found


def test_it_opens_at_the_noisiest_tensor_with_its_picture(bench: Explorer) -> None:
    assert bench.chosen is not None
    costs = bench.work.state.costs
    assert costs[bench.chosen.name].sqnr_db == min(c.sqnr_db for c in costs.values())
    assert f"alt='{bench.chosen.name}: histogram" in told(part(bench.box, "Pictures"))
    assert shown_json(told(part(bench.box, "Strategy JSON"))) == bench.strategy.dump()


def test_a_control_changes_table_picture_and_json(bench: Explorer) -> None:
    before = (part(bench.box, PLAN).html, told(part(bench.box, "Pictures")), told(part(bench.box, "Strategy JSON")))
    assert bench.chosen is not None
    move(bench, "bit_width", 5)
    after = (part(bench.box, PLAN).html, told(part(bench.box, "Pictures")), told(part(bench.box, "Strategy JSON")))
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert bench.chosen.spec is not None
    assert bench.chosen.spec.bit_width == 5
    assert shown_json(told(part(bench.box, "Strategy JSON"))) == bench.strategy.dump()
    assert "1 change to pof2s" in told(bench.box)
    press(part(bench.box, "Undo"), "undo")
    assert part(bench.box, PLAN).html == before[0]
    assert shown_control(bench)["spec"]["bit_width"] == 8
    assert part(bench.box, "Undo").disabled == ["undo", "replace-narrower-rules"]


def test_an_error_is_one_message_and_the_control_goes_back(bench: Explorer) -> None:
    row = next(r for r in bench.plan.rows if r.role.value == "input" and r.spec)
    bench.chosen = row.name
    move(bench, "left_float", True, scope=1)
    assert "Not possible" in told(bench.box)
    assert "Traceback" not in told(bench.box)
    assert shown_control(bench)["spec"] is not None
    assert not bench.work.can_undo


def test_narrower_rules_are_named_and_can_be_replaced(bench: Explorer) -> None:
    """A wide change that a narrower rule keeps away names the rule, and one press takes that rule out."""
    kernel = next(r.name for r in bench.plan.quantized if r.role.value == "weight")
    bench.chosen = kernel
    move(bench, "bit_width", 4, scope=0)
    assert "replace-narrower-rules" in part(bench.box, "Undo").disabled
    move(bench, "bit_width", 6, scope=2)
    assert f"/layer_config/{kernel.split('/')[0]}/weight_bit for {kernel}" in told(bench.box)
    assert bench.plan[kernel].spec.bit_width == 4
    assert "replace-narrower-rules" not in part(bench.box, "Undo").disabled
    press(part(bench.box, "Undo"), "replace-narrower-rules")
    assert {r.spec.bit_width for r in bench.plan.quantized if r.role.value == "weight"} == {6}
    assert bench.strategy.overrides() == {"weight_bit": 6}
    assert "replace-narrower-rules" in part(bench.box, "Undo").disabled
    press(part(bench.box, "Undo"), "undo")
    assert bench.plan[kernel].spec.bit_width == 4


def test_a_rule_for_every_layer_and_a_rule_for_everything(bench: Explorer) -> None:
    move_all = [r.name for r in bench.plan.quantized if r.role.value == "weight"]
    move(bench, "bit_width", 6, row=move_all[0], scope=2)
    for name in move_all:
        move(bench, "bit_width", 4, row=name, scope=0)
        assert "Not possible" not in told(bench.box)
    assert "weight_bit taken out" in told(bench.box)
    assert "weight_bit" not in bench.strategy.overrides()
    move(bench, "bit_width", 7, row=move_all[0], scope=2)
    assert "a narrower rule decides in every place" in told(bench.box)
    press(part(bench.box, "Undo"), "replace-narrower-rules")
    assert bench.strategy.overrides() == {"weight_bit": 7}


def test_a_message_acts_on_the_row_that_it_names(bench: Explorer) -> None:
    """However late it comes: the person looked at that row when moving the control."""
    first, second = [r.name for r in bench.plan.quantized if r.role.value == "weight"][:2]
    bench.chosen = first
    move(bench, "bit_width", 5, row=second)
    assert bench.plan[second].spec.bit_width == 5
    assert bench.plan[first].spec.bit_width == 8
    assert bench.chosen is not None
    assert bench.chosen.name == first
    move(bench, "bit_width", 4, row="gone/kernel")
    assert "gone/kernel is no tensor" in told(bench.box)


def test_messages_on_many_threads_are_acted_on_in_the_order_of_the_page(bench: Explorer, tmp_path: Path) -> None:
    """ipykernel hands messages of one page to several threads, while cells run in another."""
    file, line = tmp_path / "saved.json", having(bench.box, "rows").line
    rows = [r.name for r in bench.plan.quantized if r.role.value == "weight"]
    wanted = dict(zip(rows, range(3, 3 + len(rows)), strict=True))
    to = {
        "set": having(bench.box, "rows").name,
        "choose": part(bench.box, PLAN).name,
        "press": part(bench.box, "Save strategy").name,
    }
    acts: list[dict[str, Any]] = []
    for row, bits in wanted.items():
        acts.append({"kind": "choose", "key": row})
        for some in (12, bits):  # the last word counts
            acts.append({"kind": "set", "row": row, "scope": 0, "param": "bit_width", "value": some})
    acts.append({"kind": "press", "key": "save-strategy", "value": str(file)})
    numbered = [{**a, "to": to[a["kind"]], "seq": i, "view": "page"} for i, a in enumerate(acts, start=1)]
    answers: list[int] = []
    line.send = lambda content: answers.append(content["answer"])
    start = threading.Barrier(4)
    caught: list[BaseException] = []

    def run(work: Any) -> None:
        try:
            start.wait()
            work()
        except BaseException as e:
            caught.append(e)

    def shell(mine: list[dict[str, Any]]) -> None:
        for content in mine:
            hear(line, content)

    def cell() -> None:
        for row in rows:
            bench.chosen = row

    works = [lambda part=part: shell(numbered[::-1][part::3]) for part in range(3)]
    threads = [threading.Thread(target=run, args=[work]) for work in [*works, cell]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert caught == []
    assert answers == [*range(1, len(acts) + 1)]
    assert "Not possible" not in told(bench.box)
    assert {row: bench.plan[row].spec.bit_width for row in rows} == wanted
    assert Strategy.load(file) == bench.strategy
    assert shown_json(told(part(bench.box, "Strategy JSON"))) == bench.strategy.dump()
    assert bench.chosen is not None
    assert f"alt='{bench.chosen.name}: histogram" in told(part(bench.box, "Pictures"))
    assert shown_control(bench, rows[0])["spec"]["bit_width"] == wanted[rows[0]]


def test_a_handler_that_breaks_is_said_and_the_next_message_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Exploration) -> None:
        raise ZeroDivisionError("of course")

    monkeypatch.setattr(Exploration, "undo", broken)
    model = zoo.build("residual")
    bench = explore(model, zoo.batch(model, 8))
    assert bench.chosen is not None
    move(bench, "bit_width", 5)
    press(part(bench.box, "Undo"), "undo")
    assert "ZeroDivisionError: of course" in told(bench.box)
    move(bench, "bit_width", 4)
    assert bench.plan[bench.chosen.name].spec.bit_width == 4


def test_a_float_tensor_says_why(bench: Explorer) -> None:
    row = bench.plan.float_rows[0]
    bench.chosen = row.name
    assert row.reason in unescape(told(part(bench.box, "Pictures")))
    assert shown_control(bench)["spec"] is None


def test_filter_and_sort(bench: Explorer) -> None:
    part(bench.box, "Filter").value = "kernel"
    keys = re.findall(r"<tr data-key='([^']+)'", part(bench.box, PLAN).html)
    assert keys
    assert all(key.endswith("kernel") for key in keys)
    say(part(bench.box, PLAN), kind="sort", key="sqnr")
    ratios = [
        bench.work.state.costs[k].sqnr_db for k in re.findall(r"<tr data-key='([^']+)'", part(bench.box, PLAN).html)
    ]
    assert ratios == sorted(ratios)


def test_the_strategy_can_be_set_from_code(bench: Explorer) -> None:
    bench.strategy = Strategy.builtin("fsx")
    assert shown_json(told(part(bench.box, "Strategy JSON"))) == Strategy.builtin("fsx").dump()
    with pytest.raises(StrategyError, match="fsx"):
        bench.strategy = "fsxx"
    with pytest.raises(StrategyError, match="nothing/at/all"):
        bench.look("nothing/at/all")


def test_the_static_twin_shows_the_same(bench: Explorer) -> None:
    bundle = bench._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == bench.box.model_id
    html = bundle["text/html"]
    assert html.count("<tr data-key=") == len(bench.plan.rows)
    assert "data:image/png;base64," in html
    assert shown_json(html) == bench.strategy.dump()
    assert "<script" not in html
