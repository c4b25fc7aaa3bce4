"""What a version of Keras 2 takes as an argument and does not write: the file cannot say it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class _Unsaid:
    """An argument of a class that some versions leave out.

    Attributes:
        kind: class name.
        argument: its name, and that of the attribute of the layer.
        default: what is taken.
        other: what it may have been.
        first, last: versions of Keras, from the first that takes it to the last that does not write it.
    """

    kind: str
    argument: str
    default: Any
    other: Any
    first: tuple[int, ...]
    last: tuple[int, ...]


# Found by changing each argument of each class and comparing what get_config writes, in Keras 2.0.9, 2.1.6, 2.2.4,
# 2.2.5 and 2.3.1 and TensorFlow 1.13, 1.15, 2.4 and 2.12 to 2.15; arguments of training, and those that compute
# nothing (Conv3DTranspose's dilation_rate, the data_format of a SpatialDropout), are left out there as well.
_ARGUMENTS = (
    # TensorFlow 1.13 and 1.14 are both Keras 2.2.4-tf; from 1.15 on, and in Keras itself, it is written.
    _Unsaid("UpSampling2D", "interpolation", "nearest", "bilinear", (2, 2, 4), (2, 2, 4)),
    _Unsaid("Normalization", "invert", False, True, (2, 10), (2, 12)),
)


def tell_what_is_unsaid(architecture: Mapping[str, Any], version: str, path: Path) -> None:
    """Warn where the version of a file leaves out an argument that a layer of it takes.

    Args:
        architecture: `class_name` and `config` of the model.
        version: of Keras, as the file has it.
        path: of the file, for the message.
    """
    written = tuple(int(part) for part in version.partition("-")[0].split(".") if part.isdecimal())
    for one in _ARGUMENTS:
        if one.first <= written[: len(one.first)] <= one.last:
            entries = [e for e in _entries(architecture) if e["class_name"] == one.kind]
            names = dict.fromkeys(e["config"].get("name") for e in entries if one.argument not in e["config"])
            if names:
                warnings.warn(
                    f"{path}: Keras {version} does not write {one.argument} of {one.kind}: taken as {one.default!r} "
                    f"for {', '.join(map(repr, names))}. If it was {one.other!r}, load the model with "
                    f"vqkit.load_model, set layer.{one.argument} = {one.other!r} on the layer, and save it as .keras",
                    UserWarning,
                    stacklevel=3,
                )


def _entries(value: Any) -> Iterator[Mapping[str, Any]]:
    """Everything in a configuration that has a class and a configuration of its own."""
    if isinstance(value, Mapping):
        if isinstance(value.get("class_name"), str) and isinstance(value.get("config"), Mapping):
            yield value
        for inner in value.values():
            yield from _entries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner)
