"""The exact chain in ONNX Runtime is the simulation's quantizer, bit for bit, at ties and beyond the ends."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vqkit.export.onnx import OnnxSession
from vqkit.export.onnx.graph import Builder
from vqkit.export.onnx.quantizers import Quantizing
from vqkit.export.program import Constant, codes_of
from vqkit.primitives import affine, reference
from vqkit.primitives import spec as grid
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import QuantizerSpec, RoundMode

POF2S, FS = "Pof2SQuantizer", "FSQuantizer"


def params(spec: QuantizerSpec, seed: int = 0, channels: int = 3) -> QParams:
    """Decided numbers for random data of three channels."""
    x = np.random.default_rng(seed).normal(size=(64, channels)).astype(np.float32) * np.float32(1.7)
    x = np.abs(x) if spec.unsigned and spec.symmetry else x
    f_min, f_max = reference.value_range(x, spec)
    return QParams(spec, f_min, f_max, reference.position(x, f_min, f_max, spec) if spec.pow2 else None)


def hard_values(p: QParams) -> np.ndarray:
    """Codes, ties and their float neighbours over and beyond the grid, shape (n, 3)."""
    spec = p.spec
    low, high = max(spec.q_min, -300), min(spec.q_max, 300)
    codes = np.arange(low - 3, high + 4, 0.5, dtype=np.float64)
    scale = np.broadcast_to(p.scale, (1, 3)).astype(np.float64)
    zero = np.broadcast_to(p.zero_point, (1, 3)).astype(np.float64)
    x = ((codes[:, None] - zero) * scale).astype(np.float32)
    edges = np.asarray([[0, -0.0, 1e30], [-1e30, 1e-30, -1e-30]], np.float32)
    return np.concatenate([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, -np.float32(np.inf)), edges])


def expected(x: np.ndarray, p: QParams) -> np.ndarray:
    if grid.framework_kernel(p.spec):
        return affine.framework_kernel(x, p.f_min, p.f_max, p.spec)
    return affine.own_kernel(x, p.f_min, p.f_max, p.pos, p.spec)


def run(x: np.ndarray, p: QParams, *, opset: int, exact: bool = True) -> np.ndarray:
    builder = Builder(opset)
    name = Quantizing(builder, exact=exact).value(builder.fresh("x"), p, "y", lambda a: a)
    model = builder.model(
        graph_name="g",
        inputs={"x": ((None, 3), "float32")},
        outputs={name: ((None, 3), "float32")},
        metadata={},
    )
    return OnnxSession(model)({"x": x})[name]


def specs(kind: str, **more: object) -> list[QuantizerSpec]:
    flags = itertools.product((2, 4, 5, 8, 16), RoundMode, (True, False), (True, False), (True, False), (True, False))
    return [
        QuantizerSpec(kind, bit_width=b, round_mode=r, symmetry=s, unsigned=u, narrow_range=n, per_channel=c, **more)
        for b, r, s, u, n, c in flags
        if not (u and n)
    ]


@pytest.mark.parametrize("opset", [11, 21])
@pytest.mark.parametrize(
    "cases",
    [
        specs(POF2S),
        specs(FS),
        specs(FS, use_framework_quant=True),
        [
            QuantizerSpec(POF2S, bit_width=24),
            QuantizerSpec(FS, bit_width=24),
            QuantizerSpec(POF2S, bit_width=1),
        ],
    ],
    ids=["pow2", "own", "framework", "odd widths"],
)
def test_exact_chain_is_the_simulation(cases: list[QuantizerSpec], opset: int) -> None:
    for number, spec in enumerate(cases):
        if number % 2 != opset % 2 and len(cases) > 3:
            continue
        p = params(spec, seed=number)
        x = hard_values(p)
        np.testing.assert_array_equal(run(x, p, opset=opset), expected(x, p), err_msg=str(spec))


def test_qdq_departs_at_ties_only_and_by_one_code() -> None:
    p = params(QuantizerSpec(POF2S))
    x = hard_values(p)
    steps = (run(x, p, opset=21, exact=False) - expected(x, p)) / p.scale
    scaled = x / p.scale
    # A float32 step below a tie, x + 0.5 rounds up as well.
    ties = np.abs(scaled - np.floor(scaled) - 0.5) < 1e-6
    assert set(np.unique(steps)) == {-1.0, 0.0}
    assert np.all(steps[~ties] == 0)


def test_a_range_without_width_gives_zeros() -> None:
    spec = QuantizerSpec(FS, per_channel=True)
    p = QParams(spec, np.asarray([[-1, 0, -2]], np.float32), np.asarray([[1, 0, 2]], np.float32))
    x = np.asarray([[0.3, 5, -3], [-0.3, -5, 1]], np.float32)
    np.testing.assert_array_equal(run(x, p, opset=21), expected(x, p))
    assert not run(x, p, opset=21)[:, 1].any()


@pytest.mark.parametrize("opset", [11, 19, 21])
@pytest.mark.parametrize("kind", [POF2S, FS])
def test_weights_are_integers_and_come_back_exactly(kind: str, opset: int) -> None:
    rng = np.random.default_rng(3)
    w = rng.normal(size=(4, 3)).astype(np.float32)
    for bits, per_channel, symmetry, framework in itertools.product(
        (2, 4, 7, 8, 12, 16, 32), (True, False), (True, False), (True, False)
    ):
        if kind == POF2S and framework:
            continue
        spec = QuantizerSpec(
            kind, bit_width=bits, per_channel=per_channel, symmetry=symmetry, use_framework_quant=framework
        )
        if bits == 32 and (not symmetry or kind == FS):
            continue
        f_min, f_max = reference.value_range(w, spec)
        p = QParams(spec, f_min, f_max, reference.position(w, f_min, f_max, spec) if spec.pow2 else None)
        value = expected(w, p)
        builder = Builder(opset)
        x = builder.fresh("x")
        name = Quantizing(builder, exact=True).weight(Constant("w", value, p), lambda a: a, "w")
        y = builder.op("Add", [x, name], "y")
        shape = ((4, 3), "float32")
        model = builder.model(graph_name="g", inputs={"x": shape}, outputs={y: shape}, metadata={})
        got = OnnxSession(model)({"x": np.zeros((4, 3), np.float32)})[y]
        np.testing.assert_array_equal(got, value, err_msg=str(spec))
        stored = [i for i in model.graph.initializer if i.name == "w/q"]
        assert len(stored) == 1
        assert stored[0].data_type != 1, "the file holds floats"


def test_codes_are_inside_the_grid() -> None:
    p = params(QuantizerSpec(FS, symmetry=False, unsigned=True))
    x = hard_values(p)
    codes = codes_of(expected(x, p), p)
    assert codes.min() == p.spec.q_min
    assert codes.max() == p.spec.q_max
