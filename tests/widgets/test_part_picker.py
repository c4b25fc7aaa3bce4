"""The part picker: what is clicked is in the strategy, and the picture says what the plan does."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

from tests.support import zoo
from tests.support.hand import part, press, say, told
from vqkit.errors import StrategyError
from vqkit.graph.keras_io import lower
from vqkit.plots import DARK, LIGHT, model_graph
from vqkit.plots.model import COLOURS, boxes, ink_on, layout, paint
from vqkit.quantization import make_plan
from vqkit.strategy import Strategy
from vqkit.widgets.part_picker import PartPicker, graph_svg, pick_part

PICTURE = "layers of the model; press Enter to apply the choice above"


@pytest.fixture
def picker() -> PartPicker:
    return pick_part(zoo.build("residual"))


def layers(picker: PartPicker, part: str) -> set[str]:
    return {b.name for b in picker.boxes if b.part == part}


@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_node_has_a_cell_of_its_own_below_what_it_reads(name: str) -> None:
    graph = lower(zoo.build(name))
    places = {p.name: p for p in layout(graph, rows=1000)}
    assert set(places) == {*graph.inputs, *(n.name for n in graph.nodes)}
    assert len({(p.column, p.row) for p in places.values()}) == len(places)
    for place in places.values():
        assert all(places[r].row > place.row for r in place.readers)
    folded = layout(graph, rows=3)
    assert max(p.row for p in folded) <= 2
    assert len({(p.column, p.row) for p in folded}) == len(places)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_boxes_agree_with_the_plan(name: str) -> None:
    model = zoo.build(name)
    plan, graph = make_plan("pof2s", model), lower(model)
    shown = {b.name: b for b in boxes(graph, plan)}
    quantized = {name for row in plan.quantized for name in row.origin}
    for node in graph.nodes:
        assert (shown[node.name].part in ("quantized", "partly")) == (node.layer in quantized), node.name
        assert (shown[node.name].bits is None) == (node.layer not in quantized)


def test_clicking_puts_a_layer_into_the_list_and_out_again(picker: PartPicker) -> None:
    whole = picker.plan.to_json()
    names = [b.name for b in picker.boxes if b.place.kind == "Conv2D"]
    say(part(picker.box, PICTURE), kind="activate", key=names[1], mode=0)
    assert picker.strategy.input_layers == (names[1],)
    assert names[0] not in layers(picker, "quantized")
    assert "▶ start" in part(picker.box, PICTURE).html
    # The message names what a click meant when it was made, whatever the buttons say by now.
    say(part(picker.box, PICTURE), kind="activate", key=names[1], mode=2)
    assert picker.strategy.ignore_layers == (names[1],)
    say(part(picker.box, PICTURE), kind="activate", key=names[1], mode=2)
    assert picker.strategy.ignore_layers == ()
    picker.clear()
    assert picker.plan.to_json()["rows"] == whole["rows"]


def test_what_cannot_be_is_one_message(picker: PartPicker) -> None:
    before = picker.strategy
    with pytest.raises(StrategyError, match="nope"):
        picker.toggle("input_layers", "nope")
    say(part(picker.box, PICTURE), kind="activate", key="nope", mode=0)
    assert "Not possible" in told(picker.box)
    part(picker.box, "Colour").value = "sqnr"
    assert "calibration inputs" in told(picker.box)
    assert part(picker.box, "Colour").value == "partition"
    assert picker.strategy is before


def test_noise_colours_the_layers_when_there_are_data() -> None:
    model = zoo.build("residual")
    picker = pick_part(model, Strategy.builtin("pof2s").with_kwargs(weight_bit=5), zoo.batch(model, 8))
    part(picker.box, "Colour").value = "sqnr"
    known = [b for b in picker.boxes if b.sqnr_db is not None]
    assert known
    assert all(paint(b, "sqnr")[1].endswith(("dB", "no error")) for b in known)
    assert "vq-message" not in told(picker.box)


def test_every_box_says_what_its_colour_says(picker: PartPicker) -> None:
    for colour in COLOURS[:2]:
        svg = graph_svg(picker.boxes, colour=colour)
        labels = [unescape(x) for x in re.findall(r"aria-label='([^']*)'", svg)][1:]
        assert len(labels) == len(picker.boxes)
        for box, label in zip(picker.boxes, labels, strict=True):
            assert box.name in label
            assert paint(box, colour)[1] in label
    with pytest.raises(ValueError, match="bitz"):
        paint(picker.boxes[0], "bitz")


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_figure_holds_all_boxes_inside_the_page(picker: PartPicker, theme: object) -> None:
    fig = model_graph(picker.boxes, colour="bits", theme=theme)  # type: ignore[arg-type]
    fig.draw_without_rendering()
    drawn, (width, height) = fig.get_tightbbox(), fig.get_size_inches()
    assert drawn.x0 >= -0.01
    assert drawn.y0 >= -0.01
    assert drawn.x1 <= width + 0.01
    assert drawn.y1 <= height + 0.01
    words = {t.get_text() for t in fig.axes[0].texts}
    assert {b.name for b in picker.boxes if len(b.name) <= 24} <= words


def test_ink_is_readable_on_every_fill() -> None:
    assert ink_on("#ffffff") == "#000000"
    assert ink_on("#16181c") == "#ffffff"


def test_save_and_static_twin(picker: PartPicker, tmp_path: Path) -> None:
    picker.toggle("ignore_layers", picker.boxes[1].name)
    press(part(picker.box, "Save strategy"), "save-strategy", str(tmp_path / "part.json"))
    assert Strategy.load(tmp_path / "part.json") == picker.strategy
    html = picker._repr_mimebundle_()["text/html"]
    assert html.count("role='option'") == len(picker.boxes)
    assert "<script" not in html
