"""What is planted: each fault changes a net, its samples or its strategy, and says what the cause then is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.diagnose_parts.nets import Case

Plant = Callable[[Case], Case]


@dataclass(frozen=True)
class Fault:
    """A planted fault.

    Attributes:
        name: what is planted.
        net: into which one.
        kinds: values of `Kind` that name it.
        layers: in whose tensors it shows: the layer itself and, where it shows there as well, what it gives; empty
            where it lies in the samples or everywhere.
        plant: makes the faulty case.
    """

    name: str
    net: str
    kinds: tuple[str, ...]
    layers: tuple[str, ...]
    plant: Plant

    def is_found(self, cause: Any) -> bool:
        """Whether this is the cause."""
        if cause is None or cause.kind.value not in self.kinds:
            return False
        return not self.layers or cause.tensor.rpartition("/")[0].removeprefix("quant_") in self.layers


def strategy(rules: dict[str, Any] | None = None, base: str = "int8", **keys: Any) -> Plant:
    """Other keys, and rules for layers by name."""
    from vqkit.strategy import Strategy

    def plant(case: Case) -> Case:
        chosen = Strategy.builtin(base).with_kwargs(**keys)
        return replace(case, strategy=chosen.with_name_rules(rules) if rules else chosen)

    return plant


def samples(change: Callable[[Any], dict[str, Any]]) -> Plant:
    """Other samples, from what there are."""
    return lambda case: replace(case, data=replace(case.data, digest="", **change(case.data)))


def both(*plants: Plant) -> Plant:
    """One after the other."""

    def plant(case: Case) -> Case:
        for each in plants:
            case = each(case)
        return case

    return plant


def scaled(layer: str, channel: int, factor: float, *readers: str) -> Plant:
    """One channel of a layer times a factor, divided away where it is read: the same function.

    Args:
        layer: a weighted layer, or the batch norm behind one.
        channel: of what it gives.
        factor: positive.
        readers: the weighted layers that read it, behind activations that keep a factor.
    """

    def plant(case: Case) -> Case:
        for weight in case.model.get_layer(layer).weights:
            if any(weight.path.endswith(name) for name in ("kernel", "bias", "gamma", "beta")):
                weight.assign(_times(weight.numpy(), -1, channel, factor))
        for reader in readers:
            kernel = case.model.get_layer(reader).weights[0]
            kernel.assign(_times(kernel.numpy(), -2, channel, 1 / factor))
        return case

    return plant


def _times(array: np.ndarray, axis: int, place: int, factor: float) -> np.ndarray:
    moved = np.moveaxis(array.copy(), axis, 0)
    moved[place] *= factor
    return np.moveaxis(moved, 0, axis)


def dead(layer: str, norm: str, channel: int, factor: float) -> Plant:
    """A channel whose weights are large and whose values a ReLU takes away all the same."""

    def plant(case: Case) -> Case:
        weights = case.model.get_layer(layer).weights[0]
        axis = -2 if "Depthwise" in type(case.model.get_layer(layer)).__name__ else -1
        weights.assign(_times(weights.numpy(), axis, channel, factor))
        own = {w.path.rpartition("/")[2]: w for w in case.model.get_layer(norm).weights}
        shift = np.zeros(own["beta"].shape, np.float32)
        spread = np.abs(weights.numpy()).max() * 100 / np.sqrt(own["moving_variance"].numpy()[channel] + 1e-3)
        shift[channel] = -spread * abs(own["gamma"].numpy()[channel])
        own["beta"].assign(own["beta"].numpy() + shift)
        return case

    return plant


def tails(layer: str, rows: Callable[[np.ndarray], np.ndarray], size: float) -> Plant:
    """Large weights on inputs that are always zero: nothing changes but the range.

    Args:
        layer: dense.
        rows: from calibration inputs to the numbers of the layer's inputs that are always zero.
        size: of these weights, times the largest of the others.
    """

    def plant(case: Case) -> Case:
        kernel = case.model.get_layer(layer).weights[0]
        new, some = kernel.numpy().copy(), rows(case.data.x_calib)
        signs = np.random.default_rng(1).choice([-1, 1], (len(some), new.shape[1]))
        new[some] = size * np.abs(new).max() * signs
        kernel.assign(new)
        return case

    return plant


def masked(layer: str, depth: float) -> Plant:
    """The first eighth of a layer's outputs shut off by its bias, as a mask does."""

    def plant(case: Case) -> Case:
        bias = case.model.get_layer(layer).weights[1]
        new = bias.numpy()
        new[: len(new) // 8] -= depth
        bias.assign(new)
        return case

    return plant


def unused(x: np.ndarray) -> np.ndarray:
    """Pixels that are as in an empty image in every sample."""
    return np.flatnonzero(np.ptp(x.reshape(len(x), -1), axis=0) == 0)[:4]


def with_unused_zero(case: Case) -> Case:
    """Pixels that never change become zero, whatever they were."""

    def zero(x: np.ndarray) -> np.ndarray:
        new = x.copy()
        new[:, unused(case.data.x_calib)] = 0
        return new

    return replace(
        case, data=replace(case.data, digest="", x_calib=zero(case.data.x_calib), x_eval=zero(case.data.x_eval))
    )


def noise(shape: tuple[int, ...], low: float, high: float, seed: int = 0) -> np.ndarray:
    """Pictures of nothing."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def faintest(x: np.ndarray, count: int) -> np.ndarray:
    """The samples with the smallest values."""
    return x[np.argsort(np.abs(x).reshape(len(x), -1).max(axis=1))[:count]]


def one_strange(x: np.ndarray, place: int, factor: float) -> np.ndarray:
    """One sample times a factor."""
    new = x.copy()
    new[place] *= factor
    return new


PER_TENSOR = {"weight_per_channel": False, "include_cle": False, "bias_bit": 32}
SPREAD, OUTLIER, CLIPPING, BITS = ("channel spread",), ("outlier",), ("clipping",), ("too few bits",)
WIDE = (*SPREAD, *OUTLIER)
CALIBRATION, EVALUATION, LABELS = ("calibration data",), ("evaluation data",), ("labels",)

FIRST = (
    Fault(
        "a channel times 200",
        "quickstart",
        WIDE,
        ("stem", "stem_relu", "block1_dw"),
        both(strategy(**PER_TENSOR), scaled("stem_bn", 3, 200, "block1_dw")),
    ),
    Fault(
        "a dead channel with weights times 3000",
        "quickstart",
        ("dead channel",),
        ("block1_dw",),
        both(strategy(**PER_TENSOR), dead("block1_dw", "block1_dw_bn", 5, 3000)),
    ),
    Fault(
        "depthwise layers per tensor",
        "quickstart",
        SPREAD,
        ("block1_dw", "block2_dw", "block3_dw"),
        strategy({"*_dw": {"weight_per_channel": False}}, include_cle=False, weight_bit=5),
    ),
    Fault("3-bit bias in one layer", "quickstart", BITS, ("block1_pw",), strategy({"block1_pw": {"bias_bit": 3}})),
    Fault("4-bit biases everywhere", "quickstart", BITS, (), strategy(bias_bit=4, include_bias_corr=False)),
    Fault("2-bit weights in one layer", "quickstart", BITS, ("block3_pw",), strategy({"block3_pw": {"weight_bit": 2}})),
    Fault(
        "2-bit activations of one layer",
        "quickstart",
        BITS,
        ("block2_relu",),
        strategy({"block2_relu": {"activation_bit": 2}}),
    ),
    Fault("1-bit input", "quickstart", BITS, ("image", "quant_image"), strategy(input_bit=1)),
    Fault("3-bit weights everywhere", "quickstart", BITS, (), strategy(weight_bit=3)),
    Fault(
        "a percentile that clips one activation",
        "quickstart",
        CLIPPING,
        ("block1_pw_relu",),
        strategy({"block1_pw_relu": {"activation_method": "PERCENTILE", "activation_method_percentile": 60}}),
    ),
    Fault("evaluation images in -1..1", "quickstart", EVALUATION, (), samples(lambda d: {"x_eval": 2 * d.x_eval - 1})),
    Fault("labels in another order", "quickstart", LABELS, (), samples(lambda d: {"y_eval": np.roll(d.y_eval, 7)})),
    Fault(
        "calibration images a twentieth as bright",
        "quickstart",
        CALIBRATION,
        (),
        samples(lambda d: {"x_calib": d.x_calib / 20}),
    ),
    Fault(
        "calibration images of faint noise",
        "plain",
        CALIBRATION,
        (),
        samples(lambda d: {"x_calib": noise(d.x_calib.shape, 0, 0.05)}),
    ),
    Fault(
        "black calibration images",
        "plain",
        ("constant calibration data",),
        (),
        samples(lambda d: {"x_calib": np.zeros_like(d.x_calib)}),
    ),
    Fault(
        "two calibration samples",
        "regression",
        ("few calibration samples",),
        (),
        samples(lambda d: {"x_calib": faintest(d.x_calib, 2)}),
    ),
    Fault(
        "one calibration image times 1000",
        "plain",
        CALIBRATION,
        (),
        samples(lambda d: {"x_calib": one_strange(d.x_calib, 17, 1000)}),
    ),
    Fault(
        "an activation channel times 300",
        "plain",
        WIDE,
        ("stem_relu", "stem", "left", "right"),
        both(strategy(), scaled("stem", 4, 300, "left", "right")),
    ),
    Fault(
        "a branch of a concat times 1000",
        "plain",
        WIDE,
        ("left", "left_relu", "both", "mix"),
        lambda case: _branch(case, "left", 1000.0),
    ),
    Fault(
        "a mask of -50000 in front of a softmax",
        "attention",
        ("saturated softmax",),
        ("score",),
        masked("score", 50000),
    ),
    Fault(
        "large weights on dead inputs",
        "regression",
        OUTLIER,
        ("fc1",),
        both(strategy(), with_unused_zero, tails("fc1", unused, 60)),
    ),
    Fault("inputs not standardized", "regression", EVALUATION, (), samples(lambda d: {"x_eval": 4 * d.x_eval + 3})),
    Fault(
        "a percentile that clips, in a regression",
        "regression",
        CLIPPING,
        ("fc2_relu",),
        strategy({"fc2_relu": {"activation_method": "PERCENTILE", "activation_method_percentile": 75}}),
    ),
    Fault(
        "2-bit weights of the head, without labels",
        "quickstart",
        BITS,
        ("head",),
        both(strategy({"head": {"weight_bit": 2}}), samples(lambda _: {"y_eval": None})),
    ),
)


def _branch(case: Case, layer: str, factor: float) -> Case:
    for channel in range(case.model.get_layer(layer).filters):
        case = scaled(layer, channel, factor, "mix")(case)
    return case


SECOND = (
    Fault(
        "a channel times 150",
        "residual",
        WIDE,
        ("res1a", "res1a_relu", "res1b"),
        both(strategy(**PER_TENSOR), scaled("res1a_bn", 6, 150, "res1b")),
    ),
    Fault(
        "a dead channel with weights times 2000",
        "residual",
        ("dead channel",),
        ("res2a",),
        both(strategy(**PER_TENSOR), dead("res2a", "res2a_bn", 9, 2000)),
    ),
    Fault(
        "2-bit activations of one layer",
        "residual",
        BITS,
        ("res2_relu",),
        strategy({"res2_relu": {"activation_bit": 2}}),
    ),
    Fault("evaluation images in 0..1", "residual", EVALUATION, (), samples(lambda d: {"x_eval": (d.x_eval + 1) / 2})),
    Fault(
        "calibration images of faint noise",
        "residual",
        CALIBRATION,
        (),
        samples(lambda d: {"x_calib": noise(d.x_calib.shape, -0.05, 0.05, 7)}),
    ),
    Fault(
        "2-bit bias in one layer, powers of two",
        "residual",
        BITS,
        ("res1b",),
        strategy({"res1b": {"bias_bit": 2}}, base="pof2s"),
    ),
    Fault("2-bit weights in one layer", "series", BITS, ("kinds",), strategy({"kinds": {"weight_bit": 2}})),
    Fault(
        "a percentile that clips one activation",
        "series",
        CLIPPING,
        ("wave1_relu",),
        strategy({"wave1_relu": {"activation_method": "PERCENTILE", "activation_method_percentile": 50}}),
    ),
    Fault("labels in another order", "series", LABELS, (), samples(lambda d: {"y_eval": np.roll(d.y_eval, 3)})),
    Fault(
        "copies of one faint calibration sample",
        "series",
        ("constant calibration data",),
        (),
        samples(lambda d: {"x_calib": np.repeat(faintest(d.x_calib, 1) / 8, 100, axis=0)}),
    ),
    Fault(
        "an activation channel times 500",
        "table",
        WIDE,
        ("first", "first_relu", "second"),
        both(strategy(), scaled("first", 11, 500, "second")),
    ),
    Fault(
        "1-bit weights of the last layer, without labels",
        "table",
        BITS,
        ("answer",),
        both(strategy({"answer": {"weight_bit": 1}}), samples(lambda _: {"y_eval": None})),
    ),
)
