"""Sweep files: expansion is deterministic, and every mistake is named with its place."""

from __future__ import annotations

import json

import pytest

from vqkit.errors import SweepError
from vqkit.sweeps.spec import SETTINGS, Sweep, SweepSpec, matches, title

BASE = {"name": "s", "model": "m.keras", "data": "digits"}


def points(**more):
    return Sweep.from_dict({**BASE, **more}).points()


def test_a_grid_varies_the_last_axis_fastest_and_drops_nulls():
    got = points(axes={"strategy": ["pof2s", "fs"], "weight_bit": [8, None]})
    assert got == [
        {"strategy": "pof2s", "weight_bit": 8},
        {"strategy": "pof2s"},
        {"strategy": "fs", "weight_bit": 8},
        {"strategy": "fs"},
    ]
    assert points() == [{}]


def test_exclude_matches_values_lists_and_not():
    axes = {"strategy": ["pof2s", "fs"], "weight_bit": [8, 4], "input_layers": [None, ["c2"], ["c3", "c4"]]}
    left = points(
        axes=axes,
        exclude=[
            {"strategy": "fs", "input_layers": {"not": None}},
            {"strategy": "pof2s", "weight_bit": [4, 3]},
            {"input_layers": ["c3", "c4"]},
        ],
    )
    assert left == [
        {"strategy": "pof2s", "weight_bit": 8},
        {"strategy": "pof2s", "weight_bit": 8, "input_layers": ["c2"]},
        {"strategy": "fs", "weight_bit": 8},
        {"strategy": "fs", "weight_bit": 4},
    ]
    assert not matches({"vitis_compat": True}, {"vitis_compat": 1})
    assert matches({"a": 3}, {"a": {"not": [1, 2]}})


def test_random_draws_distinct_points_and_repeats_with_its_seed():
    axes = {"weight_bit": list(range(2, 9)), "activation_bit": list(range(2, 9))}
    first = points(mode="random", n=10, seed=3, axes=axes)
    assert first == points(mode="random", n=10, seed=3, axes=axes)
    assert first != points(mode="random", n=10, seed=4, axes=axes)
    assert len({json.dumps(p) for p in first}) == 10
    grid = points(axes=axes)
    assert [grid.index(p) for p in first] == sorted(grid.index(p) for p in first)
    assert points(mode="random", n=49, axes=axes) == grid


def test_a_list_names_its_variants():
    got = points(mode="list", variants=[{"name": "mine", "weight_bit": 4}, {"strategy": "fs"}])
    assert [title(p, "pof2s") for p in got] == ["mine", "fs"]


def test_titles_tell_what_is_overridden():
    assert title({"weight_bit": 4, "weight_per_channel": True}, "pof2s") == (
        "pof2s weight_bit=4 weight_per_channel=true"
    )
    assert title({"strategy": "dir/my.json", "input_layers": ["a", "b"]}, "fs") == "my input_layers=a+b"
    assert title({"/a/b/bit_width": 6}, "fs") == "fs bit_width=6"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"axis": {}}, r"sweep: key 'axis' is not allowed \(did you mean 'axes'\?\)"),
        ({"mode": "gird"}, r"sweep /mode: value 'gird' is not allowed \(did you mean 'grid'\?\)"),
        ({"batch_size": "32"}, "sweep /batch_size: Input should be a valid integer, given '32'"),
        ({"batch_size": 0}, "sweep /batch_size: Input should be greater than or equal to 1, given 0"),
        ({"axes": {"a/b": 3}}, "sweep /axes/a~1b: Input should be a valid list, given 3"),
        ({"axes": {"a": []}}, "axes: 'a' holds no value"),
        ({"axes": {"name": ["x"]}}, "axes: 'name' is not an axis"),
        ({"name": "../x"}, "sweep /name: String should match pattern"),
        ({"variants": [{}]}, "'variants' and mode 'list' belong together"),
        ({"mode": "list"}, "'variants' and mode 'list' belong together"),
        ({"mode": "list", "variants": [{}], "axes": {"a": [1]}}, "'axes' need mode 'grid' or 'random'"),
        ({"n": 3}, "'n' and mode 'random' belong together"),
        ({"mode": "random", "n": 3, "axes": {"a": [1, 2]}}, "/n: 3 variants wanted, the axes give 2"),
        ({"axes": {"a": [1, 1]}}, "variants 0 and 1 are the same: pof2s a=1"),
        ({"axes": {"a": [1]}, "exclude": [{"a": 1}]}, "no variant is left"),
        ({"axes": {"a": [1]}, "exclude": [{"b": 1}]}, "'b' is not among the axes"),
        ({"calibration": "both"}, "Allowed: quantized, float"),
    ],
)
def test_mistakes_are_named(more, message):
    with pytest.raises(SweepError, match=message):
        points(**more)


def test_missing_keys_and_many_problems_at_once():
    with pytest.raises(SweepError) as e:
        Sweep.from_dict({"name": "s", "a": 1, "b": 2})
    keys = list(SweepSpec.model_fields)
    assert keys[: len(SETTINGS) + 1] == [*SETTINGS, "name"]
    assert str(e.value) == (
        "sweep: 'model' is missing\nsweep: 'data' is missing\n"
        f"sweep: key 'a' is not allowed. Allowed: {', '.join(keys[:12])}, … ({len(keys)} in all)\n… and 1 more"
    )


def test_files_in_json_and_yaml_are_the_same_sweep(tmp_path):
    value = {"model": "m.keras", "data": {"npz": "d.npz"}, "axes": {"weight_bit": [8, None]}}
    (tmp_path / "mine.json").write_text(json.dumps(value))
    (tmp_path / "mine.yaml").write_text("model: m.keras\ndata: {npz: d.npz}\naxes:\n  weight_bit: [8, null]\n")
    a, b = Sweep.load(tmp_path / "mine.json"), Sweep.load(tmp_path / "mine.yaml")
    assert a.spec == b.spec
    assert (a.name, a.digest, a.base_dir) == ("mine", b.digest, tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"model": 1, "model": 2}', "a.json: key 'model' stands twice"),
        ("a.yaml", "axes:\n  b: [1]\n  b: [2]\n", "a.yaml: key 'b' stands twice"),
        ("a.yaml", "a: [1", "a.yaml: while parsing"),
        ("a.json", "{", "a.json: Expecting"),
        ("a.yaml", "- 1", "expected a mapping of keys to values, found list"),
    ],
)
def test_broken_files_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(SweepError, match=message):
        Sweep.load(tmp_path / name)
    with pytest.raises(SweepError, match=r"none\.yaml: no such file"):
        Sweep.load(tmp_path / "none.yaml")
