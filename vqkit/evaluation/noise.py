"""Where the quantized model departs from the float one: signal-to-noise ratios and values, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vqkit.graph.copies import make_all_live
from vqkit.graph.execute import leading_to
from vqkit.graph.ir import Graph, Node
from vqkit.graph.keras_io import compiled, replay, tensors
from vqkit.primitives.ops import fake_quantize_numpy
from vqkit.quantization.data import batches, leaves
from vqkit.quantization.float_model import in_size, size_of
from vqkit.quantization.plan import Row
from vqkit.quantization.prepare import passing_through, rounding_rows
from vqkit.quantization.quantized import Quantized

Pair = tuple[Any, Any]
"""A value of the float model, and the same of the quantized one."""
Sides = tuple[Mapping[str, Any], Mapping[str, Any]]
"""Live layers by name: of the float model, whose quantizers pass values on, and of the quantized one."""


def sqnr(quantized: Quantized, x: Any, *, batch_size: int = 50) -> Any:
    """Signal-to-quantization-noise ratio of every quantized tensor, and of the model's outputs.

    Activations are compared where they stand in the running model, so errors of earlier layers are in.

    Args:
        quantized: a `Quantized`.
        x: inputs, shape (n, …).
        batch_size: samples at once. Samples that fill no batch of a fixed size are left out.

    Returns:
        A pandas table in graph order: layer, tensor, role, order, sqnr_db. Infinite where nothing changed.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
        >>> x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
        >>> bool((vqkit.sqnr(vqkit.quantize(model, "pof2s", x), x)["sqnr_db"] > 20).all())
        True
    """
    return noise_table(quantized, _powers(quantized, x, batch_size))


def noise_table(quantized: Quantized, power: Mapping[str, tuple[float, float]]) -> Any:
    """The table of `sqnr`.

    Args:
        quantized: a `Quantized`.
        power: plan row name of each activation, and "model output i" -> energy of the signal, of the noise.
    """
    import pandas as pd

    rows = []
    for order, row in enumerate(quantized.plan.quantized):
        signal, noise = power[row.name] if not row.is_weight else _weight_power(quantized, row)
        rows.append(_line(row.layer, row.tensor, row.role.value, order, signal, noise))
    for name, (signal, noise) in power.items():
        if name.startswith("model output"):
            rows.append(_line(name, "output", "output", len(rows), signal, noise))
    return pd.DataFrame(rows)


def _line(layer: str, tensor: str, role: str, order: int, signal: float, noise: float) -> dict[str, Any]:
    return {"layer": layer, "tensor": tensor, "role": role, "order": order, "sqnr_db": decibel(signal, noise)}


def decibel(signal: float, noise: float) -> float:
    """10 log10(signal / noise); infinite without noise, minus infinite without signal."""
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal > 0 else float("-inf")


def _weight_power(quantized: Quantized, row: Row) -> tuple[float, float]:
    w = quantized.graph.layers[row.layer].weights[row.tensor]
    error = quantized_weight(quantized, row).astype(np.float64) - w
    return float(np.sum(w.astype(np.float64) ** 2)), float(np.sum(error**2))


def quantized_weight(quantized: Quantized, row: Row) -> np.ndarray:
    """A weight as the quantized model has it."""
    corrected = quantized.corrected.layers[row.layer].weights[row.tensor]
    return fake_quantize_numpy(corrected, quantized.encodings[row.name])


def _powers(quantized: Quantized, x: Any, batch_size: int) -> dict[str, tuple[float, float]]:
    names = {fq: row.name for fq, row in quantized.rows.items()}
    sides = _own_sides(quantized)  # Variables must exist before tracing.

    def both(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return energies(compared(quantized.graph, names, sides, inputs))

    source = in_size(batches(x, batch_size=batch_size), quantized.graph)
    return summed(compiled(quantized.graph, both), source)


def summed(run: Callable[[Any], Mapping[str, Any]], source: Iterable[Any]) -> dict[str, tuple[float, float]]:
    """Energies of signal and noise over all batches.

    Args:
        run: gives the two energies of one batch by name.
        source: the batches.
    """
    total: dict[str, np.ndarray] = {}
    for batch in source:
        for name, value in run(batch).items():
            total[name] = total.get(name, np.zeros(2)) + np.asarray(value, np.float64)
    return {k: (float(v[0]), float(v[1])) for k, v in total.items()}


def energies(pairs: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Energy of float values, and of what quantized values add to them, as tensors of shape (2,)."""
    import tensorflow as tf

    return {k: tf.stack([_energy(f), _energy(q - f)]) for k, (f, q) in pairs.items()}


def _energy(x: Any) -> Any:
    import tensorflow as tf

    return tf.reduce_sum(tf.square(tf.cast(x, tf.float32)))


def compared(graph: Graph, names: Mapping[str, str], sides: Sides, inputs: Mapping[str, Any]) -> dict[str, Pair]:
    """Run the float and the quantized graph side by side.

    Args:
        graph: with fake-quantize layers inserted.
        names: layer name -> the name to give its value under.
        sides: live layers of the float side and of the quantized one.
        inputs: input name -> tensor.

    Returns:
        Name (and "model output i") -> (float value, quantized value).
    """
    floats, fakes = (observe(graph, names, live, inputs) for live in sides)
    return {k: (floats[k], fakes[k]) for k in floats}


def _own_sides(quantized: Quantized) -> Sides:
    return float_live(quantized), quantized.live


def float_live(quantized: Quantized) -> dict[str, Any]:
    """Live float layers, made once; fake-quantize layers pass values through."""
    if "float" not in quantized._cache:
        rounding = rounding_rows(quantized.graph, quantized.plan)
        live = make_all_live(quantized.graph)
        quantized._cache["float"] = passing_through(live, quantized.rows, rounding)
    return dict(quantized._cache["float"])


def _leaves(structure: Any) -> list[Any]:
    from keras import tree

    return list(tree.flatten(structure))


def observe(
    graph: Graph, names: Mapping[str, str], live: Mapping[str, Callable[..., Any]], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """What some layers give, and the model.

    Args:
        graph: to run.
        names: layer name -> the name to give its value under.
        live: layer name -> live object.
        inputs: input name -> tensor.

    Returns:
        Name -> value; outputs as "model output", or "model output i".
    """
    seen: dict[str, Any] = {}

    def hook(node: Node, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if node.layer in names:
            seen[names[node.layer]] = outputs[0]
        return outputs

    result = replay(graph, live, inputs, hook)
    flat = _leaves(result)
    for i, value in enumerate(flat):
        seen["model output" if len(flat) == 1 else f"model output {i}"] = value
    return seen


def tensor_values(
    quantized: Quantized, x: Any, names: Sequence[str], sides: Sides | None = None, graph: Graph | None = None
) -> dict[str, Pair]:
    """Float and quantized values of chosen tensors, for pictures.

    Args:
        quantized: a `Quantized`.
        x: one batch of inputs, shape (n, …).
        names: plan row names.
        sides: live layers of the float side and of the quantized one; the model's own by default.
        graph: what to run, if not all of the model; `x` is then what it reads.

    Returns:
        Name -> (float values, quantized values).

    Raises:
        KeyError: a name is no quantized tensor of the plan.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
        >>> x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
        >>> quantized = vqkit.quantize(model, "pof2s", x)
        >>> name = quantized.plan.quantized[0].name
        >>> list(vqkit.tensor_values(quantized, x, [name])) == [name]
        True
    """
    rows = {name: quantized.plan[name] for name in names}
    values: dict[str, Pair] = {}
    for name, row in rows.items():
        if row.is_weight:
            w = quantized.graph.layers[row.layer].weights[row.tensor]
            values[name] = (w, quantized_weight(quantized, row))
    seen = {fq: row.name for fq, row in quantized.rows.items() if row.name in rows}
    if seen:
        sides = _own_sides(quantized) if sides is None else sides
        part = leading_to(graph or quantized.graph, seen)
        parts = [compared(part, seen, sides, tensors(part, b)) for b in in_size([x], part, pad=True)]
        for n in seen.values():
            a, b = (np.concatenate([np.asarray(p[n][i]) for p in parts]) for i in (0, 1))
            end = None if size_of(part) is None else len(leaves(x)[0])
            values[n] = a[:end], b[:end]
    return {n: values[n] for n in names}
