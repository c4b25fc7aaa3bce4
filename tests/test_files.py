"""Files are written whole, and a damaged cache costs time and nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

import vqkit
from tests.support.damage import DAMAGES, cut, folder, foreign
from vqkit import files
from vqkit.errors import RecordError
from vqkit.files import DiskCache

ARRAYS = {"a": np.arange(600.0).reshape(20, 30), "": np.zeros((0, 3), np.uint8), "b:0": np.array("text")}
Damage = Callable[[Path], None]


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    alike = [a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a if k in b]
    return list(a) == list(b) and all(alike)


def test_a_cache_gives_back_what_it_was_given(tmp_path: Path) -> None:
    DiskCache(tmp_path).keep_arrays("x.npz", ARRAYS)
    DiskCache(tmp_path).keep_json("x/y.json", {"z": [1, None]})
    found = DiskCache(tmp_path).arrays("x.npz")
    assert found is not None
    assert same(found, ARRAYS)
    assert DiskCache(tmp_path).json("x/y.json") == {"z": [1, None]}
    assert DiskCache(tmp_path).arrays("other.npz") is DiskCache(tmp_path).json("other.json") is None


def test_without_a_folder_nothing_is_kept() -> None:
    none = DiskCache(None)
    none.keep_arrays("x.npz", ARRAYS)
    none.keep_json("x.json", 1)
    assert none.arrays("x.npz") is none.json("x.json") is none.path("x.npz") is None


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_a_damaged_file_is_a_miss_that_is_said_once(
    damage: Damage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = DiskCache(tmp_path)
    cache.keep_arrays("x.npz", ARRAYS)
    cache.keep_json("x.json", {"z": [1.5, "2"] * 40})
    for name in ("x.npz", "x.json"):
        damage(tmp_path / name)
    for _ in range(2):
        assert cache.arrays("x.npz") is None
        assert cache.json("x.json") is None
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 2
    for name, message in zip(("x.npz", "x.json"), said, strict=True):
        assert str(tmp_path / name) in message
        assert "computed again" in message
    cache.keep_arrays("x.npz", ARRAYS)
    again = cache.arrays("x.npz")
    assert (again is None) == (damage.__name__ == "folder")


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_byte_can_be_another_without_being_noticed(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is changed, the arrays are those that were written, or none."""
    arrays = {"x": data.draw(st_numpy.arrays(np.float32, (5, 7))), "y": np.arange(9)}
    at_home = tmp_path_factory.mktemp("cache")
    DiskCache(at_home).keep_arrays("x.npz", arrays)
    content = bytearray((at_home / "x.npz").read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
    (at_home / "x.npz").write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))] + b"\0"))
    found = DiskCache(at_home).arrays("x.npz")
    assert found is None or all(
        found[k].dtype == a.dtype and found[k].tobytes() == a.tobytes() for k, a in arrays.items()
    )


def test_what_cannot_be_written_is_said_and_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    DiskCache(tmp_path / "file" / "below").keep_json("x.json", 1)
    assert "not kept for later" in caplog.text


def test_a_file_of_others_that_claims_much_takes_no_memory(tmp_path: Path) -> None:
    files.write_npz(tmp_path / "x.npz", {"x": np.zeros(65 << 20, np.uint8)}, compressed=True)
    with pytest.raises(RecordError, match=r"x\.npz: its content, unpacked, claims 68\.2 MB"):
        files.read_npz(tmp_path / "x.npz")
    assert files.read_npz(tmp_path / "x.npz", trusted=True)["x"].nbytes == 65 << 20


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_every_file_has_the_mode_of_its_neighbours(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        DiskCache(tmp_path).keep_arrays("x.npz", ARRAYS)
        DiskCache(tmp_path).keep_json("x.json", 1)
        files.write_json(tmp_path / "record.json", 1)
        files.write_text(tmp_path / "x.txt", "x")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o644}


def test_a_writer_that_fails_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")

    def write() -> None:
        with files.whole(tmp_path / "x") as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"
    with files.whole(tmp_path / "x") as part:
        part.write_text("new")
    assert (tmp_path / "x").read_text() == "new"


# --- the caches that are made so ---


def small_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3, name="dense")], name="small")


def small_data() -> vqkit.Data:
    x = np.random.default_rng(0).random((8, 4)).astype(np.float32)
    return vqkit.Data("d", x, x, np.zeros(8, int))


def filled(cache: Path) -> list[str]:
    """Everything that a bench and an engine can tell, with whatever the cache holds."""
    from vqkit.search import Engine, sensitivity

    bench = vqkit.Bench(small_model(), small_data(), cache=cache)
    found = [bench.float_evaluation().predictions.tobytes().hex()]
    made = bench.quantize("fsx", calibration="float")
    found += [repr(sorted((k, str(q.to_json())) for k, q in made.encodings.items()))]
    engine = Engine(small_model(), small_data(), cache=cache)
    found += [repr(engine.measure(vqkit.Strategy.builtin("pof2s")).to_arrays())]
    table = sensitivity(small_model(), small_data(), bits=(4,), kinds=("weights",), engine=engine)
    return [*found, repr(table.to_json()["rows"])]


def test_every_cache_of_a_run_folder_may_be_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wanted = filled(tmp_path)
    kept = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {p.parent.relative_to(tmp_path).parts[0] for p in kept} == {
        "float",
        "observed",
        "measured",
        "sensitivity",
    }
    assert {stat.S_IMODE(p.stat().st_mode) for p in kept} == {0o644}
    for damage in (cut, foreign, folder):
        for path in (p for p in sorted(tmp_path.rglob("*")) if p.is_file()):
            damage(path)
        caplog.clear()
        assert filled(tmp_path) == wanted, damage
        said = {r.getMessage() for r in caplog.records if r.name == "vqkit.files"}
        assert all(any(str(p) in message for message in said) for p in kept)
        assert "computed again" in caplog.text


def test_a_damaged_quickstart_net_is_trained_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vqkit.sweeps import quickstart

    trained: list[int] = []
    monkeypatch.setattr(quickstart, "_trained", lambda: trained.append(1) or small_model())
    path = quickstart.quickstart_model(tmp_path)
    assert quickstart.quickstart_model(tmp_path) == path
    assert len(trained) == 1
    cut(path)
    assert quickstart.quickstart_model(tmp_path) == path
    assert len(trained) == 2
    assert f"{path}: cannot be read" in caplog.text
    keras.models.load_model(path)
