"""Small trained models of many tasks with their data and sweeps, as files: to learn from, and to measure on."""

from __future__ import annotations

from vqkit.examples.tasks import TASKS, Example, example

__all__ = ["TASKS", "Example", "example"]
