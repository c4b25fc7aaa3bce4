"""The documentation site: `python -m sphinx -W -c docs . site` from the root of the checkout.

The pages are the Markdown files that the forge shows; the reference of the Python names and of the strategy
format is written anew by each build, from the docstrings and from the schema.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import vqkit  # noqa: E402

project = "vqkit"
author = "The vqkit maintainers"
copyright = "The vqkit maintainers, Apache-2.0"
version = release = vqkit.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "strategies/README.md",
    "runs/README.md",
]
html_theme = "furo"
html_title = f"vqkit {version}"
myst_heading_anchors = 3
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_use_ivar = True
# Files of the checkout that pages link to and that are no pages: notebooks, scripts, the licence.
suppress_warnings = ["myst.xref_missing", "myst.header"]
GENERATED = ROOT / "docs" / "_generated"


def api() -> str:
    """A page of every public name, with its docstring."""
    named = {n: getattr(vqkit, n) for n in vqkit.__all__ if n != "__version__"}
    parts = [
        "# Python reference\n\nEverything that `import vqkit as vq` offers. A name that is to go stays "
        "for two minor versions,\nwith a `DeprecationWarning` that names what replaces it.\n"
    ]
    for name, value in sorted(named.items(), key=lambda item: item[0].lower()):
        if inspect.ismodule(value) and not callable(value):
            parts.append(f"```{{eval-rst}}\n.. automodule:: {value.__name__}\n   :members:\n```\n")
            continue
        kind = "autoclass" if inspect.isclass(value) else "autofunction"
        options = "\n   :members:" if kind == "autoclass" and not issubclass(value, Exception) else ""
        parts.append(f"```{{eval-rst}}\n.. {kind}:: vqkit.{name}{options}\n```\n")
    return "\n".join(parts)


def schema() -> str:
    """A page of every key of the strategy format, from its JSON Schema."""
    document = json.loads((ROOT / "strategies" / "schema.json").read_text("utf-8"))
    parts = [
        "# The strategy format, key by key\n\nFrom `strategies/schema.json`, which editors can use; "
        "[the strategy page](../strategy.md) explains the keys.\n"
    ]
    for name, form in document.get("$defs", {}).items():
        rows = [_row(key, value) for key, value in form.get("properties", {}).items()]
        if rows:
            about = " ".join(str(form.get("description", "")).split())
            parts.append(f"## {name}\n\n{about}\n\n| key | type | default |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _row(key: str, value: dict[str, Any]) -> str:
    default = f"`{json.dumps(value['default'])}`" if "default" in value else ""
    return f"| `{key}` | {_kind(value)} | {default} |"


def _kind(value: dict[str, Any]) -> str:
    options = value.get("anyOf") or value.get("oneOf")
    if options:
        return " or ".join(dict.fromkeys(map(_kind, options)))
    if "$ref" in value:
        return value["$ref"].rpartition("/")[2]
    if "enum" in value:
        return ", ".join(f"`{json.dumps(v)}`" for v in value["enum"])
    if value.get("type") == "array":
        return f"list of {_kind(value.get('items', {}))}"
    bounds = [f"{sign} {value[k]}" for k, sign in (("minimum", "≥"), ("maximum", "≤")) if k in value]
    return " ".join([str(value.get("type", "anything")), *bounds])


def write_generated(_: Any) -> None:
    """Write the reference pages, only where they changed, so that builds stay incremental."""
    GENERATED.mkdir(exist_ok=True)
    for name, text in (("api.md", api()), ("schema.md", schema())):
        path = GENERATED / name
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def add_contents(_: Any, name: str, source: list[str]) -> None:
    """Give the index page a table of contents: the pages of its own table, then the reference."""
    if name == root_doc:
        pages = re.findall(r"\]\(([\w/-]+)\.md\)", source[0])
        outside = ["/strategies/README", "/runs/README", "/README", "/CHANGELOG", "/CONTRIBUTING"]
        listed = "\n".join([*dict.fromkeys(pages), "_generated/api", "_generated/schema", *outside])
        source[0] += f"\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"


def setup(app: Any) -> None:
    """Hook the generated parts in."""
    app.connect("builder-inited", write_generated)
    app.connect("source-read", add_contents)
