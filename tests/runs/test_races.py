"""A write that another process was quicker with is made again; any other failure is not."""

from __future__ import annotations

import pytest

from vqkit.runs.mlflow import retry_on_conflict


def failing(times: int, text: str):
    calls = []

    def write():
        calls.append(1)
        if len(calls) <= times:
            raise RuntimeError(text)

    return write, calls


def test_who_is_beaten_asks_again():
    write, calls = failing(2, "(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.name")
    retry_on_conflict(write)
    assert len(calls) == 3


@pytest.mark.parametrize(("times", "text", "made"), [(9, "IntegrityError", 3), (1, "no such table", 1)])
def test_what_does_not_pass_is_raised(times, text, made):
    write, calls = failing(times, text)
    with pytest.raises(RuntimeError, match=text):
        retry_on_conflict(write, tries=3)
    assert len(calls) == made
