"""What a text file says at most is read or refused in seconds, however it is made."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vqkit.errors import SweepError, VqkitError
from vqkit.strategy import Strategy
from vqkit.strategy.document import MAX_BYTES, MAX_NODES
from vqkit.sweeps.document import read_mapping

SECONDS = 5
MANY = 3 * MAX_NODES
TEXTS: dict[str, Callable[[], str]] = {
    "list.yaml": lambda: "a: [" + "1," * (MAX_BYTES // 2 - 9),
    "deep.yaml": lambda: "[" * MAX_BYTES,
    "blocks.yaml": lambda: "- " * (MAX_BYTES // 2),
    "questions.yaml": lambda: "? " * (MAX_BYTES // 2),
    "mapping.yaml": lambda: "\n".join(f"k{i}: 1" for i in range(MANY)),
    "anchors.yaml": lambda: "\n".join(f"k{i}: &x{i} 1" for i in range(MAX_NODES)),
    "laughs.yaml": lambda: (
        "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    ),
    "merges.yaml": lambda: (
        "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 12))
    ),
    "digits.yaml": lambda: "a: " + "9" * (MAX_BYTES // 2),
    "sixties.yaml": lambda: "a: 1" + ":59" * (MAX_BYTES // 4),
    "binary.yaml": lambda: "a: !!binary " + "A" * (MAX_BYTES - 100),
    "tag.yaml": lambda: "a: !!" + "x" * (MAX_BYTES // 2),
    "lines.yaml": lambda: "a: >\n" + "  x\n" * (MAX_BYTES // 5),
    "twice.json": lambda: "{" + ",".join(f'"k{i}":1' for i in range(MANY)) + f',"k{MANY - 1}":1}}',
    "deep.json": lambda: "[" * MAX_BYTES,
    "deep_objects.json": lambda: '{"a":' * (MAX_BYTES // 5),
    "digits.json": lambda: '{"a":' + "9" * (MAX_BYTES // 2) + "}",
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_largest_file_takes_seconds(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(TEXTS[name]())
    assert path.stat().st_size <= MAX_BYTES, name
    for read in (read_mapping, Strategy.load) if path.suffix == ".json" else (read_mapping,):
        # What others do on the machine is not counted.
        began = time.process_time()
        message = "read"
        try:
            read(path)
        except VqkitError as e:
            message = str(e)
        assert time.process_time() - began < SECONDS
        assert len(message) < 1000


@pytest.mark.parametrize("name", ["s.yaml", "s.json"])
def test_a_mark_of_utf_8_is_no_part_of_the_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('\ufeff{"name": "x"}', encoding="utf-8")
    assert read_mapping(path) == {"name": "x"}


def test_a_strategy_with_a_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    plain = Strategy.builtin("fs")
    plain.dump(path)
    path.write_text(f"\ufeff{path.read_text()}", encoding="utf-8")
    assert Strategy.load(path).digest == plain.digest


def test_a_name_longer_than_any_file_s_is_told(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"no such file|cannot be read"):
        read_mapping(tmp_path / f"{'x' * 280}.yaml")
    with pytest.raises(VqkitError, match="is not allowed"):
        Strategy.builtin("x" * 280)
