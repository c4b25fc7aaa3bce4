"""The page of the bench, without a browser: what it says, and its static twin."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

import pytest

from tests import zoo
from vqkit.errors import StrategyError
from vqkit.strategy import Strategy
from vqkit.widgets.explorer import Explorer, explore


@pytest.fixture
def bench() -> Explorer:
    model = zoo.build("residual")
    return explore(model, zoo.batch(model, 8))


def shown_json(html: str) -> Any:
    found = re.search(r"<pre class='vq-json'>(.*?)</pre>", html, re.S)
    assert found is not None
    return json.loads(unescape(found[1]))


def move(bench: Explorer, param: str, value: Any) -> None:
    bench._controls.by_param[param].value = value


def test_it_opens_at_the_noisiest_tensor_with_its_picture(bench: Explorer) -> None:
    assert bench.chosen is not None
    costs = bench.work.state.costs
    assert costs[bench.chosen.name].sqnr_db == min(c.sqnr_db for c in costs.values())
    assert f"alt='{bench.chosen.name}: histogram" in bench._picture.value
    assert shown_json(bench._json.value) == bench.strategy.dump()


def test_a_control_changes_table_picture_and_json(bench: Explorer) -> None:
    before = (bench._table.html, bench._picture.value, bench._json.value)
    assert bench.chosen is not None
    move(bench, "bit_width", 5)
    after = (bench._table.html, bench._picture.value, bench._json.value)
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert bench.chosen.spec is not None
    assert bench.chosen.spec.bit_width == 5
    assert shown_json(bench._json.value) == bench.strategy.dump()
    assert "1 change to pof2s" in bench._summary.value
    bench._undo.click()
    assert bench._table.html == before[0]
    assert bench._controls.by_param["bit_width"].value == 8
    assert bench._undo.disabled


def test_an_error_is_one_message_and_the_control_goes_back(bench: Explorer) -> None:
    row = next(r for r in bench.plan.rows if r.role.value == "input" and r.spec)
    bench.chosen = row.name
    bench._controls.scope.value = bench._controls.scope.options[1][1]
    move(bench, "left_float", True)
    assert "Not possible" in bench._message.value
    assert "Traceback" not in bench._message.value
    assert bench._controls.by_param["left_float"].value is False
    assert not bench.work.can_undo


def test_a_float_tensor_says_why(bench: Explorer) -> None:
    row = bench.plan.float_rows[0]
    bench.chosen = row.name
    assert row.reason in unescape(bench._picture.value)
    assert bench._controls.by_param["bit_width"].disabled
    assert not bench._controls.by_param["left_float"].disabled


def test_filter_and_sort(bench: Explorer) -> None:
    bench._filter.value = "kernel"
    keys = re.findall(r"<tr data-key='([^']+)'", bench._table.html)
    assert keys
    assert all(key.endswith("kernel") for key in keys)
    bench._sort("sqnr")
    ratios = [
        bench.work.state.costs[k].sqnr_db for k in re.findall(r"<tr data-key='([^']+)'", bench._table.html)
    ]
    assert ratios == sorted(ratios)


def test_the_strategy_can_be_set_from_code(bench: Explorer) -> None:
    bench.strategy = Strategy.builtin("fsx")
    assert shown_json(bench._json.value) == Strategy.builtin("fsx").dump()
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
