"""Integers and grids as files, for device checks.

Golden values for checking a device: every quantized tensor as the integers that the device holds.

The layout is the original quantizer's `dump_model`, which wrote it for power-of-two scales per tensor only:

    <output_dir>/dump_results_weights/quant_<layer>_<weight>.bin, .txt
    <output_dir>/dump_results_<batch>/quant_<layer>.bin, .txt
    <output_dir>/dump.json                       shape, type, scale and zero point of each file

The decided grids as JSON, for tools that read encodings beside a float model.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import DataError, ModelError
from vqkit.export.program import codes_of
from vqkit.files import write_json, write_text
from vqkit.graph.copies import make_all_live
from vqkit.graph.keras_io import lower, replay
from vqkit.graph.keras_layers import named_inputs
from vqkit.primitives.qparams import QParams
from vqkit.quantization.layers import FakeQuantize

if TYPE_CHECKING:
    import keras

    from vqkit.quantization.plan import QuantizedRow
    from vqkit.quantization.quantized import Quantized

WEIGHTS = "dump_results_weights"


@dataclass(frozen=True, eq=False)
class DumpedTensor:
    """One tensor to be written.

    Attributes:
        name: of its files, without suffix.
        value: as the simulation holds it.
        grid: what it is quantized with; None where it is a float.
    """

    name: str
    value: np.ndarray
    grid: QParams | None = None

    def codes(self) -> np.ndarray:
        """The integers, in the smallest type of 8, 16 or 32 bits that holds them.

        Raises:
            ModelError: the values are not on the grid, so somebody changed them after quantization.
        """
        assert self.grid is not None
        codes = codes_of(self.value, self.grid)
        back = (codes - self.grid.zero_point.astype(np.float64)) * self.grid.scale
        if not np.allclose(back, self.value, rtol=1e-6, atol=0):
            raise ModelError(f"{self.name}: its values are not on its grid: they were changed after quantizing")
        return codes.astype(integer_type(self.grid))


def integer_type(grid: QParams) -> np.dtype[Any]:
    """The integers' type in a dump: 4-bit codes take a byte each, as on the device's bus."""
    width = next(w for w in (8, 16, 32) if grid.spec.bit_width <= w)
    return np.dtype(f"{'u' if grid.spec.unsigned else ''}int{width}")


def dump_model(
    model: keras.Model,
    dataset: Any = None,
    output_dir: str | Path = "./dump_results",
    dump_float: bool = False,
    weights_only: bool = False,
) -> Path:
    """Write the integers of a quantized model: its weights, and what each quantizer gives for some inputs.

    Args:
        model: a model that vqkit quantized, or that was loaded from its file.
        dataset: batches of inputs: an iterable of arrays, lists or dicts of arrays, shape (batch, …); not
            needed with `weights_only`. For a device use batches of one sample.
        output_dir: folder to write to; an older dump there is replaced.
        dump_float: also write floats: weights as the simulation uses them, and what every layer gives.
        weights_only: leave the activations out.

    Returns:
        The folder.

    Raises:
        ModelError: the model is not quantized, or does not carry its weights' grids.
        DataError: inputs are needed and missing.
    """
    if dataset is None and not weights_only:
        raise DataError("dump_model: dataset is needed for the activations; or set weights_only=True")
    folder = Path(output_dir)
    entries = {WEIGHTS: _write(folder / WEIGHTS, weights(model), dump_float)}
    for number, tensors in enumerate([] if weights_only else activations(model, dataset)):
        name = f"dump_results_{number}"
        entries[name] = _write(folder / name, tensors, dump_float)
    write_text(folder / "dump.json", json.dumps({"version": 1, "folders": entries}, indent=2) + "\n")
    return folder


def weights(model: keras.Model) -> list[DumpedTensor]:
    """The quantized weights and biases of a model, then its float ones.

    Raises:
        ModelError: the model is not quantized, or does not carry its weights' grids.
    """
    from vqkit.graph.keras_layers import weights_of

    quantizers = [layer for layer in model.layers if isinstance(layer, FakeQuantize)]
    grids: Mapping[tuple[str, str], QParams] = getattr(model, "weight_grids", {})
    if not grids and not quantizers:
        raise ModelError(f"model {model.name!r} is not quantized: it has no grids to write integers of")
    if not grids and any(layer.weights for layer in model.layers if layer not in quantizers):
        raise ModelError(
            f"model {model.name!r} does not carry the grids of its weights (a clone loses them): dump the "
            "model that quantize gave, or one loaded from its file"
        )
    return [
        DumpedTensor(f"quant_{layer.name}_{key}", value, grids.get((layer.name, key)))
        for layer in model.layers
        if layer not in quantizers
        for key, value in weights_of(layer).items()
    ]


def activations(model: keras.Model, batches: Iterable[Any]) -> Iterator[list[DumpedTensor]]:
    """For each batch what every layer gives; what quantizers give has a grid."""
    graph = lower(model)
    live = make_all_live(graph)
    for batch in batches:
        seen: list[DumpedTensor] = []

        def note(node: Any, outputs: tuple[Any, ...], seen: list[DumpedTensor] = seen) -> tuple[Any, ...]:
            operation = live[node.layer]
            grid = operation.params if isinstance(operation, FakeQuantize) else None
            for k, value in enumerate(outputs):
                name = node.name if len(outputs) == 1 else f"{node.name}_{k}"
                seen.append(DumpedTensor(name, np.asarray(value), grid))
            return outputs

        replay(graph, live, named_inputs(graph, batch), note)
        yield seen


def _write(folder: Path, tensors: Iterable[DumpedTensor], dump_float: bool) -> dict[str, Any]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    entries: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as part:
        for tensor in tensors:
            name = tensor.name.replace("/", "_").replace("@", "_")
            if tensor.grid is not None:
                entries[name] = _write_array(Path(part) / name, tensor.codes(), "%d") | _grid(tensor.grid)
            if dump_float:
                entries[f"{name}_float"] = _write_array(Path(part) / f"{name}_float", tensor.value, "%s")
        if folder.is_dir():
            shutil.rmtree(folder)
        # A temporary folder is the owner's only; a dump is like any other folder.
        shutil.copytree(part, folder)
    return entries


def _write_array(path: Path, array: np.ndarray, form: str) -> dict[str, Any]:
    flat = np.ascontiguousarray(array).reshape(-1)
    flat.tofile(f"{path}.bin")
    np.savetxt(f"{path}.txt", flat, fmt=form)
    return {"shape": list(array.shape), "dtype": flat.dtype.name}


def _grid(grid: QParams) -> dict[str, Any]:
    pos = {} if grid.pos is None else {"quantize_pos": grid.pos.astype(int).reshape(-1).tolist()}
    axis = {"channel_axis": grid.spec.channel_axis} if grid.spec.per_channel else {}
    return {
        "bit_width": grid.spec.bit_width,
        "scale": np.asarray(grid.scale).reshape(-1).tolist(),
        "zero_point": np.asarray(grid.zero_point).astype(int).reshape(-1).tolist(),
        **pos,
        **axis,
    }


VERSION = 1


def encodings_of(quantized: Quantized) -> dict[str, Any]:
    """Every quantized tensor with its grid, x ≈ (q - zero_point) * scale.

    Args:
        quantized: a `Quantized`.

    Returns:
        JSON values: version, model, strategy, and for each tensor its name, role, type, bit_width, codes,
        scale, zero_point, quantize_pos (pow-2 scales), rounding, and the channel axis where there is one.
    """
    return {
        "version": VERSION,
        "convention": "x = (q - zero_point) * scale",
        "model": quantized.plan.model,
        "strategy": quantized.plan.strategy,
        "strategy_digest": quantized.plan.strategy_digest,
        "tensors": {r.name: _entry(r, quantized.encodings[r.name]) for r in quantized.plan.quantized},
        "float_tensors": {r.name: r.data_type or "float32" for r in quantized.plan.float_rows},
    }


def _entry(row: QuantizedRow, params: QParams) -> dict[str, Any]:
    spec = params.spec
    entry = {
        "layer": row.layer,
        "tensor": row.tensor,
        "role": row.role.value,
        "quantizer": spec.quantizer_type.value,
        "bit_width": spec.bit_width,
        "signed": not spec.unsigned,
        "q_min": spec.q_min,
        "q_max": spec.q_max,
        "scale": _numbers(params.scale),
        "zero_point": _numbers(params.zero_point.astype(np.int64)),
        "round_mode": spec.round_mode.name,
    }
    if params.pos is not None:
        entry["quantize_pos"] = _numbers(params.pos.astype(np.int64))
    if spec.per_channel:
        entry["channel_axis"] = spec.channel_axis
    return entry


def _numbers(array: np.ndarray) -> Any:
    return array.reshape(-1).tolist() if array.ndim else array.item()


def write_encodings(quantized: Quantized, path: Path) -> None:
    """Write the JSON file."""
    write_json(path, encodings_of(quantized))
