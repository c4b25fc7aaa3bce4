"""Bits by layer: exact for additive costs, real for the strategies that come out."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.search.test_sensitivity import SETTINGS, data_for
from vqkit.errors import StrategyError
from vqkit.evaluation.cost import bit_operations
from vqkit.quantization import quantize
from vqkit.search.allocation import ChoiceGroup, Option, Problem, Product, front, solve
from vqkit.search.engine import Engine
from vqkit.search.mixed_precision import mixed
from vqkit.strategy import Strategy

costs = st.lists(st.integers(0, 50), min_size=2, max_size=3)


@st.composite
def problems(draw):
    slots = []
    for i in range(draw(st.integers(1, 3))):
        options = tuple(Option(b, c) for b, c in zip((8, 4, 2), draw(costs), strict=False))
        slots.append(ChoiceGroup(f"l{i}", "weights", options, draw(st.integers(1, 40))))
    acts = tuple(
        Option(b, c) for b, c in zip((8, 4), draw(st.lists(st.integers(0, 50), min_size=2, max_size=2)), strict=True)
    )
    act = ChoiceGroup("l0", "activations", acts)
    products = tuple(Product(draw(st.integers(1, 9)), s, act if i else 8) for i, s in enumerate(slots))
    return Problem((*slots, act), 10.0, products)


def every(problem):
    for options in itertools.product(*(s.options for s in problem.slots)):
        yield dict(zip(problem.slots, options, strict=True))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems(), st.floats(0, 1), st.floats(0, 1))
def test_the_programme_is_exact(problem, share, share_operations):
    low, high = problem.extremes()
    size = low + share * (high - low)
    work = [problem.bit_operations(c) for c in every(problem)]
    most = min(work) + share_operations * (max(work) - min(work))
    fits = [c for c in every(problem) if problem.size(c) <= size + 1e-6 and problem.bit_operations(c) <= most + 1e-6]
    found = solve(problem, max_size=size + 1e-6, max_bit_operations=most + 1e-6)
    assert (found is None) == (not fits)
    if found is not None:
        assert problem.size(found) <= size + 1e-3
        assert problem.bit_operations(found) <= most + 1e-3
        assert problem.cost(found) == pytest.approx(min(problem.cost(c) for c in fits))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems(), st.integers(0, 150))
def test_smallest_within_a_cost(problem, bound):
    fits = [c for c in every(problem) if problem.cost(c) <= bound]
    found = solve(problem, max_cost=bound + 1e-6)
    assert (found is None) == (not fits)
    if found is not None:
        assert problem.size(found) == pytest.approx(min(problem.size(c) for c in fits))


def test_a_front_has_no_repetitions():
    slot = ChoiceGroup("a", "weights", (Option(8, 0.0), Option(4, 1.0)), 100)
    assert [c[slot].bits for c in front(Problem((slot,), 0.0), 9)] == [4, 8]


@pytest.fixture(scope="module")
def engine(tiny):
    model = tiny("residual")
    return Engine(model, data_for(model, 60), settings=SETTINGS)


def test_points_reload_to_the_same_result(engine, tmp_path):
    found = mixed(engine, "fsx", bits=(8, 4, 2), points=4, uniform=(8, 2))
    sizes = [p.measured.size_bytes for p in found.points]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) >= 3
    assert sizes[0] == found.uniform[1].measured.size_bytes
    files = found.save(tmp_path)
    for point, file in zip(found.points, files, strict=True):
        strategy = Strategy.load(file)
        assert strategy == point.strategy
        made = quantize(engine.model, strategy, engine.data.x_calib, **SETTINGS.for_quantize)
        assert made.size_bytes == point.measured.size_bytes
        fresh = Engine(engine.model, engine.data, settings=SETTINGS).measure(strategy)
        np.testing.assert_equal(fresh.to_arrays(), point.measured.to_arrays())
    assert (tmp_path / "front.csv").read_text().startswith("name,accuracy")
    assert found.best(max_size=sizes[1]).measured.size_bytes <= sizes[1]


def test_bounds_hold_and_bit_operations_are_those_of_the_model(engine):
    most = engine.measure(Strategy.builtin("fsx")).bit_operations * 0.6
    found = mixed(engine, "fsx", bits=(8, 4), kinds=("weights", "activations"), points=2, max_bit_operations=most)
    for point in found.points:
        made = engine.quantize(point.strategy)
        real = sum(bit_operations(made.graph, made.rows, made.plan).values())
        assert real == point.measured.bit_operations
        assert real <= most


def test_layers_may_stay_float_or_be_per_channel(engine):
    found = mixed(engine, "pof2s", bits=(4,), points=3, leave_float=True, per_channel=(True, False))
    largest = found.points[-1]
    assert largest.measured.size_bytes > 3.9 * found.points[0].measured.size_bytes * 0.9
    plan = engine.quantize(largest.strategy).plan
    assert [r for r in plan.rows if r.role == "weight" and r.tensor == "kernel" and r.spec is not None] == []


def test_bounds_that_nothing_fits(engine):
    with pytest.raises(StrategyError, match="no choice fits"):
        mixed(engine, "fsx", bits=(8, 4), points=2, max_size=1.0)


def test_measured_intervals_and_paired_tests(engine):
    measured = engine.measure(Strategy.builtin("fsx"))
    found = measured.evidence
    low, high = found.interval
    assert low <= measured.value <= high
    assert found.p_value(found) == 1.0
    other = replace(found, values=~found.values)
    assert found.p_value(other) == other.p_value(found)
    assert np.mean(found.values) == measured.value
