"""`VitisInspector` with the original's method and arguments, over `vqkit.inspect`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqkit.errors import RecordError, StrategyError, not_allowed
from vqkit.files import read_json, write_text
from vqkit.quantization.prepare import as_strategy, prepare
from vqkit.targets import Inspection, inspect
from vqkit.vitis.arguments import settings, with_input_shape

if TYPE_CHECKING:
    import keras

    from vqkit.strategy import Strategy

__all__ = ["VitisInspector"]

TARGETS = (
    "DPUCADF8H_ISA0",
    "DPUCAHX8H_ISA2",
    "DPUCAHX8H_ISA2_DWC",
    "DPUCAHX8H_ISA2_ELP2",
    "DPUCAHX8L_ISA0",
    "DPUCAHX8L_ISA0_SP",
    "DPUCVDX8G_ISA3_C32B3",
    "DPUCVDX8H_ISA1_F2W4_4PE",
    "DPUCZDX8G_ISA1_B4096",
)
"""Names in the guide; others of the same form are taken too."""
_NAME = re.compile(r"DPUC\w+")
_FINGERPRINT = re.compile(r"0[xX][0-9a-fA-F]+")
NOTE = (
    "Checked is what all DPUs have in common; limits of one DPU (kernel sizes, products of channels, memory) "
    "are not: its compiler has the last word."
)


class VitisInspector:
    """Says for each layer whether a DPU will run it.

    Args:
        target: the DPU by name ("DPUCZDX8G_ISA1_B4096"), fingerprint ("0x…") or arch.json file; None for any.
            The rules are those that all DPUs share.
        quantize_strategy: the strategy that the model will be quantized with.

    Raises:
        StrategyError: no such target or strategy.
    """

    def __init__(self, target: str | Path | None = None, quantize_strategy: Any = "pof2s") -> None:
        self.target = None if target is None else _target(str(target))
        self._strategy = as_strategy(quantize_strategy)

    def inspect_model(
        self,
        model: keras.Model,
        input_shape: Any = None,
        dump_model: bool = False,
        dump_model_file: str | Path = "inspect_model.h5",
        plot: bool = False,
        plot_file: str | Path = "model.svg",
        dump_results: bool = False,
        dump_results_file: str | Path = "inspect_results.txt",
        verbose: int = 0,
        configs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Inspection:
        """Inspect a float model.

        Args:
            model: a functional or Sequential Keras model; it is not changed.
            input_shape: concrete input shapes for a model whose sizes are open; the batch may be left out.
            dump_model: save the model as it was inspected, optimized and in the device's form.
            dump_model_file: `.h5` or `.keras` file for it.
            plot: draw the layers with what runs where.
            plot_file: `.svg`, `.png` or `.pdf` file for it.
            dump_results: write the results as text.
            dump_results_file: file for them.
            verbose: 1 and more also prints the table of all layers.
            configs: keyword arguments in a dict.
            **kwargs: keys of the strategy.

        Returns:
            The inspection, a table that shows itself.

        Raises:
            StrategyError: unknown key, value or layer name.
            ModelError: the model cannot be read.
        """
        plot = bool(kwargs.pop("plot_model", plot))
        changes = settings(configs, kwargs)
        strategy = self._strategy.with_kwargs(**changes) if changes else self._strategy
        if input_shape is not None:
            model = with_input_shape(model, input_shape)
        found = inspect(model, strategy)
        heading = f"target {self.target}. {NOTE}" if self.target else NOTE
        print(f"{found.summary()}\n{heading}")
        if verbose > 0:
            print(found)
        if dump_results:
            write_text(dump_results_file, f"{found}\n\n{heading}\n")
        if plot or dump_model:
            _files(model, strategy, found, plot_file if plot else None, dump_model_file if dump_model else None)
        return found


def _files(model: keras.Model, strategy: Strategy, found: Inspection, plot_file: Any, model_file: Any) -> None:
    from vqkit.graph.keras_io import raise_model
    from vqkit.plots.model import partition_graph

    graph = prepare(model, strategy).graph
    if plot_file is not None:
        made = graph.producers()
        reads = {n.name: [made[v].name for v in n.inputs if v in made] for n in graph.nodes}
        partition_graph(found.rows, reads, title=found.summary()).savefig(plot_file)
    if model_file is not None:
        raise_model(graph).save(model_file)


def _target(given: str) -> str:
    """A target's name, read from its arch.json where a file is given.

    Raises:
        StrategyError: it is none of the three.
    """
    if given.endswith(".json"):
        try:
            value = read_json(given)
        except RecordError as error:
            raise StrategyError(f"target: {error}") from None
        named = value.get("target") if isinstance(value, dict) else None
        if not isinstance(named, str):
            raise StrategyError(f'target: {given}: has no "target"; an arch.json of a DPU is expected')
        return _target(named)
    if not _NAME.fullmatch(given) and not _FINGERPRINT.fullmatch(given):
        raise StrategyError(not_allowed("target", given, [*TARGETS, "0x… (a fingerprint)", "…/arch.json"]))
    return given
