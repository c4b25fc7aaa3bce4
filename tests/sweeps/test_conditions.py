"""Conditions between axes: what they mean, and that nothing else is taken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqkit.errors import SweepError
from vqkit.sweeps.conditions import Condition
from vqkit.sweeps.spec import Sweep

AXES = {"weight_bit": [8, 4], "activation_bit": [8, 4], "strategy": ["pof2s", "pof2s_tqt"], "tqt_steps": [None, 10, 20]}


def points(**more: Any) -> list[dict[str, Any]]:
    value = {"name": "s", "model": "quickstart", "data": "digits", "axes": AXES, **more}
    return Sweep.from_dict(value).points()


@given(st.integers(-9, 9), st.integers(-9, 9), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]))
def test_comparisons_of_two_axes_are_those_of_numbers(a: int, b: int, op: str) -> None:
    wanted = {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b, "!=": a != b}[op]
    assert Condition.parse(f"a {op} b").holds({"a": a, "b": b}) is wanted
    assert Condition.parse(f"not a {op} {b}").holds({"a": a}) is not wanted


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("weight_bit in [4, 3]", True),
        ("weight_bit not in [4, 3]", False),
        ('strategy == "fsx" and weight_bit < 8', True),
        ('strategy == "fs" or weight_bit == 4', True),
        ("3 < weight_bit < 5", True),
        ("missing == null", True),
        ("missing < 3", False),
        ("missing >= 3", False),
        ("per_channel == true", True),
        ("per_channel == 1", False),
        ("`/a/b c/0` == -1", True),
        ('"fs" in strategy', True),
    ],
)
def test_what_a_condition_means(text: str, holds: bool) -> None:
    point = {"weight_bit": 4, "strategy": "fsx", "per_channel": True, "/a/b c/0": -1}
    assert Condition.parse(text).holds(point) is holds


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("weight_bit >", "cannot be read"),
        ("weight_bit > `a", "not closed"),
        ("print(weight_bit)", r"print\(weight_bit\) is not allowed"),
        ("weight_bit.real > 3", "not allowed"),
        ("weight_bit + 1 > 3", "not allowed"),
        ("[b for b in weight_bit]", "not allowed"),
        ("weight_bit is 4", "equal is =="),
        ("1 < 2", "names no axis"),
        ("(" * 500 + "a" + ")" * 500, "cannot be read"),
        ("a == 1 or " * 1000 + "a == 1", "at most"),
    ],
)
def test_anything_else_is_told(text: str, told: str) -> None:
    with pytest.raises(SweepError, match=told):
        Condition.parse(text)


def test_values_without_an_order_are_told() -> None:
    with pytest.raises(SweepError, match=r"'fsx' and 3 have no order"):
        Condition.parse("strategy > 3").holds({"strategy": "fsx"})


def test_exclude_takes_conditions_beside_mappings() -> None:
    left = points(exclude=["weight_bit > activation_bit", {"strategy": "pof2s_tqt"}])
    assert {(p["weight_bit"], p["activation_bit"]) for p in left} == {(8, 8), (4, 8), (4, 4)}
    assert {p["strategy"] for p in left} == {"pof2s"}


def test_an_axis_with_a_condition_is_there_only_where_it_holds() -> None:
    found = points(when={"tqt_steps": 'strategy == "pof2s_tqt"'})
    # Four pairs of widths: once with pof2s, three times with pof2s_tqt.
    assert len(found) == 4 * (1 + 3)
    assert all("tqt_steps" not in p for p in found if p["strategy"] == "pof2s")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"exclude": ["weight_bit > 8"]}, r"/exclude/0: 'weight_bit > 8' matches no combination"),
        ({"exclude": ["weight_bits > 4"]}, r"/exclude/0.*weight_bits.*did you mean 'weight_bit'"),
        ({"when": {"tqt_steps": 'strategy == "tqt"'}}, "/when/tqt_steps: .* matches no combination"),
        ({"when": {"tqt_step": 'strategy == "pof2s_tqt"'}}, "did you mean 'tqt_steps'"),
        ({"exclude": ["weight_bit >"]}, "/exclude/0: condition 'weight_bit >' cannot be read"),
    ],
)
def test_a_condition_that_does_nothing_is_an_error(more: dict[str, Any], told: str) -> None:
    with pytest.raises(SweepError, match=told):
        points(**more)
