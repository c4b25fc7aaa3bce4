"""The documents keep up with the code: names are mentioned, links lead somewhere, Python blocks run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.documents import PAGES, ROOT, command_lines, complete, fences
from vqkit.primitives.spec import Method, QuantizerType, RoundMode
from vqkit.strategy import schema, vocabulary
from vqkit.sweeps.settings import Settings

PRESETS = (*vocabulary.ORIGINALS, *vocabulary.PRESETS, "8bit", "8bit_tqt")


def text(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def named(page: str) -> set[str]:
    """Words in code spans."""
    return {word for span in re.findall(r"`([^`\n]+)`", text(page)) for word in re.findall(r"[\w.-]+", span)}


FORMS = [
    *vocabulary.PIPELINES.values(),
    schema.QuantizeRegistryConfig,
    schema.UserQuantizeConfig,
    schema.InputQuantizeConfig,
    schema.LayerEntry,
    schema.NameRule,
    schema.Quantizer,
    schema.QuantizerParams,
]


@pytest.mark.parametrize("part", FORMS, ids=lambda p: p.__name__)
def test_every_strategy_key_is_documented(part: type[schema.SchemaModel]) -> None:
    assert set(part.model_fields) - named("docs/strategy.md") == set()


def test_every_section_old_name_and_preset_is_documented() -> None:
    wanted = {*vocabulary.PIPELINES, vocabulary.REGISTRY, *vocabulary.OLD_NAMES, *PRESETS}
    assert wanted - named("docs/strategy.md") == set()
    assert set(PRESETS) == {*vocabulary.NAMES, *vocabulary.ALIASES}


@pytest.mark.parametrize("kind", [QuantizerType, Method, RoundMode], ids=lambda k: k.__name__)
def test_every_word_of_the_format_is_explained(kind: type) -> None:
    words = {str(m) for m in kind} if kind is QuantizerType else set(kind.__members__)
    assert [w for w in words if w not in text("docs/quantizers.md")] == []


def test_every_sweep_key_is_documented() -> None:
    from vqkit.sweeps.spec import SweepSpec

    assert set(SweepSpec.model_fields) - named("docs/sweep.md") - {"axes", "variants"} == set()
    rows = [f"| `{f.name}` | {f.metadata['told']} |" for f in fields(Settings)]
    assert [row for row in rows if row not in text("docs/sweep.md")] == []


def leaves(command: Any, name: str) -> list[tuple[str, Any]]:
    """Full name and command of everything that can be run."""
    inner = getattr(command, "commands", {})
    return [leaf for n, c in inner.items() for leaf in leaves(c, f"{name} {n}")] or [(name, command)]


def test_every_command_is_documented() -> None:
    if find_spec("vqkit.cli") is None:
        pytest.skip("there is no command line yet")
    import typer

    from vqkit import cli

    page = text("docs/cli.md")
    for name, command in leaves(typer.main.get_command(cli.app), "vqkit"):
        assert f"## {name}" in page, name
        section = page.partition(f"## {name}")[2].partition("\n## ")[0]
        # `vqkit run` has an option for each setting; docs/sweep.md has a row for each.
        settings = set(Settings.__dataclass_fields__) if name == "vqkit run" else set()
        own = [p for p in command.params if p.name not in settings]
        options = {o for p in own for o in p.opts if o.startswith("--")} - {"--help"}
        assert {o for o in options if f"`{o}" not in section} == set(), name
    for name in ("sweep", "run", "plan", "validate", "strategies", "compare", "ui"):
        assert f"vqkit {name}" in text("README.md"), name


def test_every_exit_code_is_documented() -> None:
    from vqkit.cli import Exit

    codes = {int(n) for n in re.findall(r"^\| (\d+) \|", text("docs/cli.md"), flags=re.M)}
    assert codes == {int(code) for code in Exit}


def test_the_metrics_of_a_record_are_documented() -> None:
    from vqkit.runs.records import METRICS

    assert set(METRICS) - named("docs/tracking.md") == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_inside_the_project_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    local = [t for t in targets if "://" not in t]
    assert [t for t in local if not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_named_in_documents_exist(page: Path) -> None:
    """A path in a code span is meant from the root, the package, or as something a run writes."""
    paths = re.findall(r"`((?:[\w.-]+/)+[\w-]+\.(?:py|ipynb|md))`", page.read_text("utf-8"))
    assert [p for p in paths if not (ROOT / p).exists() and not (ROOT / "vqkit" / p).exists()] == []


def test_the_first_two_blocks_of_the_readme_are_one_line_each() -> None:
    (first_kind, first), (second_kind, second) = fences(ROOT / "README.md")[:2]
    assert (first_kind, second_kind) == ("bash", "bash")
    for block in (first, second):
        assert block.count("\n") == 1
        assert "constraints.txt" in block
    assert first.rstrip().endswith("vqkit sweep quickstart")
    assert "pytest" in second


def test_ci_runs_the_second_block() -> None:
    extract = "/^```/ { fence++; next } fence == 3"
    assert extract in text(".ci/run")
    done = subprocess.run(["awk", extract, "README.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == fences(ROOT / "README.md")[1][1]


def test_tests_named_beside_defects_exist() -> None:
    sources = "\n".join(p.read_text("utf-8") for p in (ROOT / "tests").rglob("test_*.py"))
    wanted = set(re.findall(r"`(test_\w+)`", text("docs/defects.md")))
    assert {w for w in wanted if f"def {w}(" not in sources} == set()


@pytest.mark.parametrize("page", [p for p in PAGES if command_lines(p)], ids=lambda p: p.name)
def test_every_command_line_is_one_that_is_taken(page: Path) -> None:
    for program, *words in command_lines(page):
        if program == "python":
            source = text(words[0])
            assert [w for w in words[1:] if w.startswith("--") and f'"{w}"' not in source] == [], words
            continue
        # Raises where there is no such command or option; it need not be complete.
        complete([program, *words])


def python_pages() -> list[Path]:
    """Pages whose blocks need no runs; `tests/system/test_docs_run.py` has the others."""
    mixed = ("compare.md", "tracking.md", "distributed.md")
    return [p for p in PAGES if p.name not in mixed and any(kind == "python" for kind, _ in fences(p))]


@pytest.mark.slow
@pytest.mark.parametrize("page", python_pages(), ids=lambda p: p.name)
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    code = "\n".join(body for kind, body in fences(page) if kind == "python")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
