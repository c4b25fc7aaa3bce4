"""Values and bytes drawn from a seeded source."""

from __future__ import annotations

import random
import string
from typing import Any

WORDS = (
    "weight_bit",
    "input_layers",
    "strategy",
    "pof2s",
    "fsx",
    "digits",
    "npz",
    "loader",
    "conv",
    "class_name",
    "config",
    "null",
    "../../x",
    "a b",
    "é",
    "\x00",
    "",
    "1e999",
    "[1,",
    "{}",
    "-1",
    "-",
    "--",
    "=",
    "/",
)


def value(rng: random.Random, depth: int = 3) -> Any:
    """A plain value: what JSON can hold and some that it cannot."""
    kinds = ["none", "bool", "int", "big", "float", "odd", "word", "text"]
    kind = rng.choice(kinds + (["list", "dict"] * 2 if depth else []))
    if kind == "list":
        return [value(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    if kind == "dict":
        return {rng.choice(WORDS): value(rng, depth - 1) for _ in range(rng.randint(0, 3))}
    return {
        "none": None,
        "bool": rng.random() < 0.5,
        "int": rng.randint(-3, 40),
        "big": rng.getrandbits(80),
        "float": rng.uniform(-2, 9),
        "odd": rng.choice((float("nan"), float("inf"), -0.0, 1e30)),
        "word": rng.choice(WORDS),
        "text": "".join(rng.choices(string.printable, k=rng.randint(0, 9))),
    }[kind]


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes with some of them changed, cut out, doubled or made up."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 40))):
        at = rng.randrange(len(changed) + 1)
        action = rng.choice(("set", "set", "cut", "insert", "end", "repeat"))
        if action == "set" and at < len(changed):
            changed[at] = rng.getrandbits(8)
        elif action == "cut":
            del changed[at : at + rng.randint(1, 64)]
        elif action == "insert":
            changed[at:at] = rng.randbytes(rng.randint(1, 16))
        elif action == "repeat":
            changed[at:at] = changed[at : at + rng.randint(1, 64)]
        elif rng.random() < 0.2:
            del changed[at:]
    return bytes(changed)
