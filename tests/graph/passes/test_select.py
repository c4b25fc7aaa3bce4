"""Partial models: which layers are candidates."""

from __future__ import annotations

import pytest

from tests.support import zoo
from vqkit.errors import StrategyError
from vqkit.graph.keras_io import lower
from vqkit.graph.passes.select import select


def names(graph):
    return [n.name for n in graph.nodes]


def test_nothing_named_means_everything():
    assert select(lower(zoo.build("residual"))).candidates is None


def test_from_a_layer_to_a_layer_inclusive():
    graph = lower(zoo.build("sequential"))
    layers = names(graph)
    chosen = select(graph, input_layers=[layers[2]], output_layers=[layers[4]]).candidates
    assert [n for n in layers if n in chosen] == layers[2:5]


def test_ignored_layers_are_left_out():
    graph = lower(zoo.build("sequential"))
    layers = names(graph)
    chosen = select(graph, ignore_layers=[layers[1]]).candidates
    assert set(layers) - chosen == {layers[1]}


def test_a_branch_beside_the_start_layer_is_in_and_what_feeds_the_start_is_out():
    graph = lower(zoo.build("residual"))
    producers = graph.producers()
    join = next(n for n in graph.nodes if len(n.inputs) == 2)
    start = producers[join.inputs[1]]
    chosen = select(graph, input_layers=[start.name]).candidates
    assert start.name in chosen
    assert join.name in chosen
    assert producers[start.inputs[0]].name not in chosen


@pytest.mark.parametrize("key", ["input_layers", "output_layers", "ignore_layers"])
def test_unknown_names_are_errors_with_the_nearest_match(key):
    graph = lower(zoo.build("sequential"))
    typo = names(graph)[1] + "x"
    with pytest.raises(StrategyError, match=rf"/{key}: layer '{typo}'.*did you mean '{names(graph)[1]}'"):
        select(graph, **{key: [typo]})
    assert select(graph, **{key: [typo]}, vitis_compat=True).candidates is None
