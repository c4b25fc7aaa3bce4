"""The table is the same text live and static; sorting and filtering lose no row by accident."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vqkit.comparison import page as style
from vqkit.comparison.page import bar, mark, table
from vqkit.tables import Column, arranged, html_table, next_order

COLUMNS = (
    Column("layer", "layer"),
    Column("bits", "bits", numeric=True),
    Column("sqnr", "SQNR", lambda v: bar(v, 60, unit="dB", low=20), numeric=True),
)


def row(layer: str, bits: int | None = 8, sqnr: float | None = 30.0) -> dict[str, object]:
    return {"key": layer, "layer": layer, "bits": bits, "sqnr": sqnr}


def test_everything_from_outside_is_escaped() -> None:
    html = table([row("<script>alert('x')</script>")], COLUMNS, label="a'b<c")
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "a&#x27;b&lt;c" in html


def test_a_table_of_text_is_escaped_and_aligned_without_a_style_sheet() -> None:
    html = html_table(("name", "n"), [["<b>", "1"]])
    assert html == (
        "<table><thead><tr><th style='text-align:left'>name</th><th style='text-align:right'>n</th></tr></thead>"
        "<tbody><tr><td style='text-align:left'>&lt;b&gt;</td><td style='text-align:right'>1</td></tr></tbody></table>"
    )


def test_a_page_that_sorts_by_itself_has_the_numbers_beside_the_cells() -> None:
    html = table([row("a", sqnr=math.inf), row("b", bits=None, sqnr=math.nan)], COLUMNS, values=True)
    assert "data-v='1e308'" in html
    assert html.count("data-v=''") == 2


def test_sorting_is_announced_and_cycles() -> None:
    orders = ["bits", "-bits", ""]
    for now, then in zip(orders, [*orders[1:], orders[0]], strict=True):
        assert next_order(now, "bits") == then
    assert next_order("-layer", "bits") == "bits"
    html = table([row("a")], COLUMNS, sorted_by="-bits")
    assert html.count("aria-sort='descending'") == 1
    assert html.count("aria-sort='none'") == 2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.one_of(st.none(), st.floats(allow_nan=True)), max_size=12),
    st.sampled_from(["sqnr", "-sqnr"]),
)
def test_sorting_keeps_all_rows_and_puts_missing_ones_last(values: list[float | None], order: str) -> None:
    rows = [row(f"r{i}", sqnr=v) for i, v in enumerate(values)]
    shown = arranged(rows, COLUMNS, sorted_by=order)
    assert sorted(str(r["key"]) for r in shown) == sorted(str(r["key"]) for r in rows)
    present = [r["sqnr"] for r in shown if r["sqnr"] is not None and not math.isnan(r["sqnr"])]
    assert present == sorted(present, reverse=order.startswith("-"))
    assert [r["sqnr"] for r in shown[: len(present)]] == present


def test_filtering_takes_rows_that_hold_every_word() -> None:
    rows = [row("conv_1", 8), row("conv_2", 4), row("head", 4)]
    assert [r["key"] for r in arranged(rows, COLUMNS, words="CONV 4")] == ["conv_2"]
    assert arranged(rows, COLUMNS, words="nothing") == []


@pytest.mark.parametrize(
    ("value", "words", "width"),
    [
        (30.0, "30.0 dB", "50%"),
        (math.inf, "no error", "100%"),
        (-5.0, "-5.0 dB", "0%"),
        (99.0, "99.0 dB", "100%"),
    ],
)
def test_a_bar_says_its_number(value: float, words: str, width: str) -> None:
    html = bar(value, 60, unit="dB", low=20)
    assert words in html
    assert f"width:{width}" in html
    assert ("class='low'" in html) == (value < 20)


def test_no_value_is_a_dash_not_an_empty_bar() -> None:
    assert bar(None, 60, unit="dB") == bar(math.nan, 60, unit="dB") == "–"


def test_colour_comes_with_words() -> None:
    assert "kwargs" in mark(1, "kwargs", "/a/b")
    assert "title='/a/b'" in mark(1, "kwargs", "/a/b")


def test_messages_say_what_they_are() -> None:
    assert style.message_html("") == ""
    assert "Not possible: a &lt; b" in style.message_html("a < b", "error")
    assert "role='alert'" in style.message_html("x", "error")


def test_a_static_page_needs_nothing_else() -> None:
    html = style.page(table([row("a")], COLUMNS))
    assert html.startswith("<style>")
    assert "http" not in html
