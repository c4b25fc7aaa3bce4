"""What one compiled function observes of a batch is what each tensor shows when it is observed alone."""

from __future__ import annotations

import numpy as np
import pytest

from tests import zoo
from vqkit.flow.calibrate import Step
from vqkit.flow.instrument import instrument
from vqkit.flow.prepared import prepare
from vqkit.graph.keras_io import make_all_live
from vqkit.strategy import Strategy

STRATEGIES = {
    "positions by error": ("pof2s", {}),
    "positions without overflow": ("pof2s", {"activation_method": 0, "input_method": 0}),
    "widest range": ("fsx", {"activation_method": 0, "input_method": 0}),
    "histograms": ("fsx", {}),
}


def facts(step: Step, batches):
    for batch in batches:
        step(batch)
    return {
        name: [np.stack(found) for found in (seen.f_min, seen.f_max, seen.pos) if found]
        + ([] if seen.histogram is None else [seen.histogram.counts, seen.histogram.edges])
        for name, seen in step.observed.items()
    }


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("compat", [True, False])
@pytest.mark.parametrize("case", sorted(STRATEGIES))
def test_together_as_alone(case: str, compat: bool, quantized: bool) -> None:
    name, changes = STRATEGIES[case]
    model = zoo.build("residual")
    x = zoo.batch(model, 10)
    prepared = prepare(model, Strategy.builtin(name).with_kwargs(**changes), vitis_compat=compat)
    graph, rows = instrument(prepared.graph, prepared.plan)
    live = make_all_live(graph)
    batches = [x[:4], x[4:8] * 3, x[8:]]
    together = facts(Step(graph, rows, live, quantized, compat), batches)
    alone = facts(Step(graph, rows, live, quantized, compat, aside=rows), batches)
    assert list(together) == [row.name for row in rows.values()]
    for tensor, found in together.items():
        assert len(found) >= 2
        for one, other in zip(found, alone[tensor], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_second_round_starts_anew() -> None:
    model = zoo.build("residual")
    prepared = prepare(model, Strategy.builtin("fsx").with_kwargs(activation_method=0, input_method=0))
    graph, rows = instrument(prepared.graph, prepared.plan)
    step, x = Step(graph, rows, make_all_live(graph), True, False), zoo.batch(model, 8)
    wide = facts(step, [x * 5])
    step.restart()
    narrow = facts(step, [x])
    assert all(w[1][-1] > n[1][-1] for w, n in zip(wide.values(), narrow.values(), strict=True))
