"""LiteRT: the schema of its files and its interpreter; the only module that imports `ai_edge_litert`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vqkit.errors import ModelError, missing_package

_MISSING = missing_package("ai-edge-litert", "tflite")


def schema() -> Any:
    """The module of generated classes of a TFLite flatbuffer.

    Raises:
        ModelError: the package is missing.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise ModelError(_MISSING) from error
    return schema_py_generated


class LiteRtSession:
    """A TFLite model ready to run on the CPU.

    Args:
        model: the file's bytes, or its path.
        kernels: "default" (with XNNPACK), "builtin" (without), or "reference".
    """

    def __init__(self, model: bytes | str | Path, *, kernels: str = "default") -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ImportError as error:
            raise ModelError(_MISSING) from error
        resolver = {
            "default": OpResolverType.AUTO,
            "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            "reference": OpResolverType.BUILTIN_REF,
        }[kernels]
        source = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
        try:
            self._interpreter = Interpreter(**source, experimental_op_resolver_type=resolver, num_threads=1)
            signature = self._interpreter.get_signature_list()["serving_default"]
            self._runner = self._interpreter.get_signature_runner("serving_default")
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"LiteRT cannot run the file: {error}") from error
        self.inputs, self.outputs = list(signature["inputs"]), list(signature["outputs"])

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Values of the outputs.

        Args:
            inputs: input name -> array with the batch first.

        Returns:
            Output name -> array.

        Raises:
            ModelError: the runtime stops; its message is given.
        """
        try:
            return {k: np.array(v) for k, v in self._runner(**inputs).items()}
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"LiteRT stops: {error}") from error
