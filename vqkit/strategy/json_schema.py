"""The JSON Schema of a strategy file, generated from the typed form; editors complete and check with it.

`python -m vqkit.strategy.json_schema` writes it to the strategies folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vqkit.files import resource_dir, write_text
from vqkit.strategy import document
from vqkit.strategy.schema import FLOAT_TYPES, INTEGER_TYPES, StrategyDocument

NAME = "schema.json"


def generate() -> dict[str, Any]:
    """The schema as plain values."""
    schema = StrategyDocument.model_json_schema()
    _allow_words(schema["$defs"]["QuantizeRegistryConfig"]["properties"]["layer_config"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "vqkit quantize strategy",
    }


def _allow_words(layer_config: dict[str, Any]) -> None:
    words = {"enum": [*INTEGER_TYPES, *FLOAT_TYPES]}
    layer_config["additionalProperties"] = {"anyOf": [words, layer_config["additionalProperties"]]}


def main() -> None:
    """Write the shipped schema anew."""
    target = Path(resource_dir("strategies"), NAME)
    write_text(target, document.to_text(generate()))
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
