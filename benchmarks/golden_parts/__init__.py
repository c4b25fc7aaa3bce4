"""The parts of the golden check; each module has `check(directory: Path) -> PartResult`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PartResult:
    """What one part found.

    Attributes:
        name: the part.
        checked: how many cases were compared.
        exact: how many were equal.
        exceptions: listed cases that are allowed to differ, each with its reason.
        mismatches: cases that differ and should not.
        lines: a line for each recorded run, where the part has runs.
    """

    name: str
    checked: int
    exact: int
    exceptions: tuple[str, ...] = ()
    mismatches: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
