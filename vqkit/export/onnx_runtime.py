"""Runs ONNX models; the only module that imports `onnxruntime`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vqkit.errors import ModelError, missing_package


class OnnxSession:
    """An ONNX model ready to run on the CPU.

    Args:
        model: an `onnx.ModelProto`, or the path of a file.
        optimize: let the runtime rewrite the graph, as it does by default.
    """

    def __init__(self, model: Any, *, optimize: bool = True) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ModelError(missing_package("onnxruntime", "onnx")) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        source = str(model) if isinstance(model, (str, Path)) else model.SerializeToString()
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a class for each of its status codes, of no common base
            raise ModelError(f"ONNX Runtime cannot run the file: {error}") from error
        self.inputs = [i.name for i in self._session.get_inputs()]
        self.outputs = [o.name for o in self._session.get_outputs()]

    def __call__(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Values of the outputs.

        Args:
            inputs: input name -> array with the batch first.
            outputs: names; all by default.

        Returns:
            Output name -> array.

        Raises:
            ModelError: the runtime stops; its message is given.
        """
        names = self.outputs if outputs is None else list(outputs)
        if not names:
            return {}  # to the runtime no names are all names
        try:
            found = self._session.run(names, dict(inputs))
        except Exception as error:  # likewise
            raise ModelError(f"ONNX Runtime stops: {error}") from error
        return dict(zip(names, found, strict=True))
