"""`VitisQuantizer` with the original's methods and arguments, each a few calls of vqkit's own functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from vqkit.errors import DataError
from vqkit.evaluation import evaluate
from vqkit.export import golden
from vqkit.export.files import finalize
from vqkit.graph.ir import Graph
from vqkit.graph.keras_io import raise_model
from vqkit.graph.passes import layers as graph_layers
from vqkit.qat.layers import LearnedQuantize, QuantizedWeights
from vqkit.qat.model import QATModel
from vqkit.quantization import ptq
from vqkit.quantization.layers import FakeQuantize, QuantizedModel, RoundToType
from vqkit.quantization.prepare import as_strategy, prepare
from vqkit.strategy import Strategy, document
from vqkit.vitis import arguments
from vqkit.vitis.arguments import Labelled, read_labelled, search_loss

if TYPE_CHECKING:
    from vqkit.quantization.quantized import Quantized

__all__ = ["VitisQuantizer", "quantize_scope"]

_OWN = (
    FakeQuantize,
    RoundToType,
    QuantizedModel,
    graph_layers.VitisSigmoid,
    graph_layers.VitisAveragePooling2D,
    graph_layers.VitisGlobalAveragePooling2D,
    graph_layers.EqualizedReLU,
    QATModel,
    LearnedQuantize,
    QuantizedWeights,
)


def quantize_scope(*custom_objects: Mapping[str, Any]) -> Any:
    """A scope in which Keras loads quantized models; needed only for classes that are not registered.

    Args:
        *custom_objects: class name -> class, also of your own layers.

    Returns:
        A context manager.
    """
    own = {cls.__name__: cls for cls in _OWN}
    return keras.saving.custom_object_scope({k: v for some in (own, *custom_objects) for k, v in some.items()})


class VitisQuantizer:
    """Quantizes one float model.

    Args:
        float_model: a functional or Sequential Keras model, or the path of its file; it is not changed.
        quantize_strategy: "pof2s" (or "8bit"), "pof2s_tqt" ("8bit_tqt"), "fs" or "fsx"; a strategy file or a
            `Strategy` too.
        custom_quantize_strategy: a part of a strategy on top, as a dict or a JSON file.
        custom_objects: class name -> class of the model's own layers.
        vitis_compat: reproduce the original's mistakes as well.

    Attributes:
        quantized: after `quantize_model`, the plan, the decisions and their report.
        evaluation: after `quantize_model` with `metrics`, "float" and "quantized" -> metric -> value.
        shape_info: after `quantize_model` with `add_shape_info`, layer -> shapes of its outputs.
        strategy: what the next call does; every call's keyword arguments stay in it.

    Raises:
        StrategyError: unknown strategy, or a malformed part.
        ModelError: the file cannot be read.
    """

    def __init__(
        self,
        float_model: Any,
        quantize_strategy: str | Path | Strategy = "pof2s",
        custom_quantize_strategy: Mapping[str, Any] | str | Path | None = None,
        custom_objects: Mapping[str, Any] | None = None,
        *,
        vitis_compat: bool = False,
    ) -> None:
        from vqkit.models import load_model

        self._custom = dict(custom_objects or {})
        is_file = isinstance(float_model, str | Path)
        self._float_model = load_model(float_model, self._custom) if is_file else float_model
        self.strategy: Strategy = as_strategy(quantize_strategy)
        self.quantized: Any = None
        self.evaluation: dict[str, dict[str, float]] | None = None
        self.shape_info: dict[str, list[tuple[int | None, ...]]] | None = None
        self._compat = vitis_compat
        if custom_quantize_strategy is not None:
            self._update(custom_quantize_strategy, "custom_quantize_strategy")

    # --- strategy ---

    def set_quantize_strategy(
        self, new_quantize_strategy: Mapping[str, Any] | str | Path = "quantize_strategy.json"
    ) -> None:
        """Put a (partial) strategy on top of the quantizer's.

        Args:
            new_quantize_strategy: a dict, which is left as it is, or the path of a JSON file.

        Raises:
            StrategyError: no such file, unknown key, or a value that is not allowed.
        """
        self._update(new_quantize_strategy, "new_quantize_strategy")

    def dump_quantize_strategy(self, dump_file: str | Path | None = "quantize_strategy.json", verbose: int = 0) -> str:
        """Write the quantizer's strategy.

        Args:
            dump_file: path of the JSON file; None writes none.
            verbose: 0 the user's part, 1 also the pipelines, 2 and more everything.

        Returns:
            The text of the file.
        """
        return document.to_text(self.strategy.dump(dump_file, verbose=min(verbose, 2)))

    def _update(self, given: Any, what: str) -> None:
        self.strategy = self.strategy.update(arguments.strategy_values(given, what))

    def _configure(self, configs: Mapping[str, Any] | None, kwargs: Mapping[str, Any]) -> None:
        changes = arguments.settings(configs, kwargs)
        if changes:
            self.strategy = self.strategy.with_kwargs(**changes)

    # --- models ---

    def optimize_model(self, configs: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        """The float model after the optimize pipeline: batch norm folded, channels equalized.

        Args:
            configs: keyword arguments in a dict.
            **kwargs: keys of the strategy, such as include_cle=False.

        Returns:
            A new Keras model that computes the same.

        Raises:
            StrategyError: unknown key, value or layer name.
        """
        self._configure(configs, kwargs)
        with self._scope():
            return raise_model(prepare(self._float_model, self.strategy, vitis_compat=self._compat).optimized)

    def get_analysed_model(self, dataset: Any, batch_size: int | None = None, steps: int | None = None) -> Any:
        """What each quantizer would see on the float model, and what it would decide; nothing is refined.

        Args:
            dataset: as `calib_dataset` of `quantize_model`.
            batch_size: as `calib_batch_size`.
            steps: as `calib_steps`.

        Returns:
            (the optimized float model, layer -> quantizer -> {"type", "info"}); info holds min_var, max_var
            and, for power-of-two scales, quant_pos_var.
        """
        data = arguments.CalibrationBatches(dataset, batch_size, steps, self._float_model)
        with self._scope():
            seen = ptq.quantize(self._float_model, self.strategy, data, calibration="float", vitis_compat=self._compat)
            return seen.float_model, _info(seen)

    def quantize_model(
        self,
        calib_dataset: Any = None,
        calib_batch_size: int | None = None,
        calib_steps: int | None = None,
        verbose: int = 0,
        add_shape_info: bool = False,
        input_shape: Any = None,
        configs: Mapping[str, Any] | None = None,
        loss: Any = None,
        metrics: Sequence[Any] | None = None,
        eval_dataset: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Quantize after training.

        Args:
            calib_dataset: inputs to calibrate on: a tf.data.Dataset, a keras Sequence, a generator of
                batches, or arrays of shape (n, …); labels are ignored.
            calib_batch_size: samples in a batch, for arrays; 32 by default.
            calib_steps: number of batches; all by default. More than there are is a warning.
            verbose: 1 shows progress and the report, 2 also the plan.
            add_shape_info: note the shape of each layer's output in `shape_info`.
            input_shape: concrete input shapes for a model whose sizes are open.
            configs: keyword arguments in a dict.
            loss: move each range by this loss on `eval_dataset`: a cross entropy by its labels, "mse" or "kl"
                against the float model (the strategy's `include_threshold_search`).
            metrics: Keras metrics or their names: measured on `eval_dataset`, before and after, into
                `evaluation`.
            eval_dataset: batches (x, y), or a tuple of arrays (x, y); only with `loss` or `metrics`.
            **kwargs: keys of the strategy, such as weight_bit=4; 2.0's names too.

        Returns:
            The quantized Keras model: predict, evaluate, save. What explains it is in `quantized`; the file
            that `output_format` asks for is in `output_dir`.

        Raises:
            StrategyError: unknown key, value or layer name.
            DataError: the calibration data are missing or unusable.
            ModelError: the model cannot be read.
        """
        steps = arguments.take_steps(calib_steps, kwargs)
        judged = _judged(loss, metrics, eval_dataset, calib_batch_size or arguments.DEFAULT_BATCH)
        if loss is not None:
            kwargs = {**kwargs, "include_threshold_search": True, "threshold_search_loss": search_loss(loss)}
        self._configure(configs, kwargs)
        with self._scope():
            model = self._float_model
            if input_shape is not None:
                model = arguments.with_input_shape(model, input_shape)
            data = arguments.CalibrationBatches(calib_dataset, calib_batch_size, steps, model)
            search: dict[str, Any] = {}
            if judged is not None and loss is not None:
                inputs = arguments.CalibrationBatches(judged.x, calib_batch_size, None, model)
                search = {"search_data": inputs, "calib_labels": judged.classes}
            self.quantized = ptq.quantize(
                model, self.strategy, data, vitis_compat=self._compat, progress=verbose > 0, **search
            )
            self.evaluation = None
            if judged is not None and metrics is not None:
                self.evaluation = _measured(model, self.quantized.model, judged, metrics)
            self.shape_info = _shapes(self.quantized.graph) if add_shape_info else None
            _tell(self.quantized, verbose)
            finalize(self.quantized)
            return self.quantized.model

    def get_qat_model(
        self,
        init_quant: bool = False,
        calib_dataset: Any = None,
        calib_batch_size: int | None = None,
        calib_steps: int | None = None,
        configs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """A model that is trained with its quantization in place: compile and fit as usual.

        Args:
            init_quant: start from a calibration; with trained thresholds (`pof2s_tqt`) always advisable.
            calib_dataset: inputs to calibrate on; needed with `init_quant`.
            calib_batch_size: as of `quantize_model`.
            calib_steps: as of `quantize_model`.
            configs: keyword arguments in a dict.
            **kwargs: keys of the strategy.

        Returns:
            The Keras model to train; `get_deploy_model` makes the quantized one of it.

        Raises:
            StrategyError: unknown key or value.
            DataError: calibration data are needed and missing.
        """
        from vqkit.qat.model import qat_model

        steps = arguments.take_steps(calib_steps, kwargs)
        self._configure(configs, kwargs)
        with self._scope():
            data = None
            if init_quant:
                data = arguments.CalibrationBatches(calib_dataset, calib_batch_size, steps, self._float_model)
            return qat_model(self._float_model, self.strategy, data, init_quant=init_quant, vitis_compat=self._compat)

    @staticmethod
    def get_deploy_model(model: keras.Model) -> Any:
        """The quantized model of a trained one: weights on their grids, device adjustments made.

        Args:
            model: from `get_qat_model`, trained, also after it was saved and loaded; it is not changed.

        Returns:
            The quantized Keras model. `vqkit.deploy_model` gives the plan and the decisions as well. The file
            that `output_format` asks for is in `output_dir`.

        Raises:
            ModelError: it is no such model.
        """
        from vqkit.export.files import deploy_model

        return deploy_model(model).model

    @staticmethod
    def dump_model(
        model: keras.Model,
        dataset: Any = None,
        output_dir: str | Path = "./dump_results",
        dump_float: bool = False,
        weights_only: bool = False,
    ) -> Path:
        """Write the integers of a quantized model for comparison with the device; see `vqkit.export.golden`.

        Args:
            model: what `quantize_model` gave, or the same loaded from its file.
            dataset: inputs, batches of one sample for a DPU; each batch is a folder, an array is one batch.
            output_dir: folder to write to.
            dump_float: also write floats, of every layer.
            weights_only: leave the activations out.

        Returns:
            The folder.

        Raises:
            ModelError: the model is not quantized.
            DataError: inputs are needed and missing.
        """
        inputs = None if dataset is None else arguments.dump_batches(dataset, model)
        return golden.dump_model(model, inputs, output_dir, dump_float, weights_only)

    def _scope(self) -> Any:
        return quantize_scope(self._custom)


def _judged(loss: Any, metrics: Any, eval_dataset: Any, batch_size: int) -> Labelled | None:
    """The evaluation set, where it is used."""
    wanted = loss is not None or metrics is not None
    if wanted and eval_dataset is None:
        raise DataError("loss and metrics need eval_dataset: batches (x, y), or a tuple of arrays (x, y)")
    if eval_dataset is not None and not wanted:
        raise DataError("eval_dataset is used with loss or metrics only; give one of them, or leave it out")
    return read_labelled(eval_dataset, batch_size) if wanted else None


def _measured(model: keras.Model, quantized: Quantized, judged: Labelled, metrics: Sequence[Any]) -> Any:
    models = {"float": model, "quantized": quantized}
    return {name: dict(evaluate(net, judged.x, judged.y, metrics=metrics).metrics) for name, net in models.items()}


def _info(quantized: Quantized) -> dict[str, dict[str, dict[str, Any]]]:
    """Decisions before refinement, in the original's nesting."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in quantized.plan.quantized:
        grid = quantized.calibrated[row.name]
        info = {"min_var": grid.f_min, "max_var": grid.f_max}
        if grid.pos is not None:
            info["quant_pos_var"] = grid.pos
        kind = "weight" if row.is_weight else row.slot.value
        found.setdefault(row.layer, {})[row.tensor] = {"type": kind, "info": info}
    return found


def _shapes(graph: Graph) -> dict[str, list[tuple[int | None, ...]]]:
    return {node.name: [graph.values[v].shape for v in node.outputs] for node in graph.nodes}


def _tell(quantized: Quantized, verbose: int) -> None:
    if verbose > 0:
        print(quantized.plan.summary())
        print("\n".join(quantized.report))
    if verbose > 1:
        print(quantized.plan)
