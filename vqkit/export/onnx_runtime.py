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
        self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
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
        """
        names = self.outputs if outputs is None else list(outputs)
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
