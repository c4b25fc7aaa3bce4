"""The table of docs/bad-input.md, executed: each input gets the error it names."""

from __future__ import annotations

import warnings

import pytest

from tests.system.robustness.bad_input import CASES
from tests.system.robustness.odd_input import ACCEPTED, PAGE, page


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.entry}: {c.given}".replace(" ", "_"))
def test_bad_input_gets_the_error_of_the_table(case, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(case.error) as caught:
            case.do(tmp_path)
    assert case.says in str(caught.value)


@pytest.mark.parametrize(("given", "means", "do"), ACCEPTED, ids=lambda v: v if isinstance(v, str) else "")
def test_what_is_accepted_has_its_stated_meaning(given, means, do):
    assert given
    assert means
    do()


def test_the_page_is_the_table():
    """`python -m tests.system.robustness.odd_input` writes it."""
    assert PAGE.read_text("utf-8") == page()
