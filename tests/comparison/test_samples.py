"""Single samples of runs: the worst, those on which two runs differ, and their pictures from the data of the run."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import records as make
from vqkit import plots
from vqkit.comparison.samples import (
    class_table,
    differing_html,
    flipped_samples,
    moved_samples,
    sample_images,
    sample_inputs,
    worst_html,
    worst_samples,
)
from vqkit.errors import DataError, RecordError
from vqkit.sweeps.quickstart import quickstart_data
from vqkit.sweeps.source import load_data


def run(root: Path, seed: int, predicted: list[int], labels: list[int], **changes: object) -> Path:
    folder = make.add(root, make.record(seed=seed, **changes))
    np.savez(folder / "predictions.npz", predicted=predicted, labels=labels)
    return folder


def test_flips_are_sorted_by_who_was_right(tmp_path: Path) -> None:
    a = run(tmp_path, 1, [0, 1, 2, 5, 4], [0, 1, 2, 3, 4])
    b = run(tmp_path, 2, [9, 1, 8, 3, 4], [0, 1, 2, 3, 4])
    found = flipped_samples(a, b)
    assert found.to_dict("list") == {
        "sample": [0, 2, 3],
        "label": [0, 2, 3],
        "a": [0, 2, 5],
        "b": [9, 8, 3],
        "right": ["A", "A", "B"],
    }


def test_different_samples_are_not_compared(tmp_path: Path) -> None:
    a, b = run(tmp_path, 1, [0], [0]), run(tmp_path, 2, [0], [1])
    with pytest.raises(RecordError, match="different samples"):
        flipped_samples(a, b)
    (b / "predictions.npz").unlink()
    with pytest.raises(RecordError, match="no predictions with labels"):
        flipped_samples(a, b)


def test_pictures_are_those_of_the_run(tmp_path: Path) -> None:
    data = quickstart_data()
    said = {"ref": "digits", "digest": data.digest, "n_calib": data.n_calib, "n_eval": data.n_eval}
    folder = run(tmp_path, 1, [0], [0], data=said)
    np.testing.assert_array_equal(sample_images(folder, [3, 5]), data.x_eval[[3, 5]])
    other = run(tmp_path, 2, [0], [0], data={**said, "digest": "of others"})
    with pytest.raises(DataError, match="the run used of others"):
        sample_images(other, [3])


def test_a_record_of_others_starts_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    loader, sign = tmp_path / "loader.py", tmp_path / "it_ran"
    loader.write_text(
        "from pathlib import Path\n\nimport numpy as np\n\n\ndef make(sign):\n    Path(sign).touch()\n"
        "    x = np.zeros((4, 5, 5, 1), 'f4')\n"
        "    return {'x_calib': x, 'x_eval': x, 'y_eval': np.arange(4)}\n"
    )
    ref = {"loader": f"{loader}:make", "args": {"sign": str(sign)}}
    data = {"ref": ref, "digest": "0" * 16, "n_calib": 4, "n_eval": 4}
    folder = run(tmp_path, 1, [0, 1, 2, 0], [0, 1, 2, 3], data=data)
    page = worst_html(folder, plots.LIGHT)
    assert "is code that you have not run on this machine as it is now" in page
    assert not sign.exists()
    # Who ran it, as every run of one's own does, sees the pictures.
    right = {**data, "digest": load_data(ref).digest}
    assert sign.exists()
    own = run(tmp_path, 2, [0, 1, 2, 0], [0, 1, 2, 3], data=right)
    assert len(sample_inputs(own, [3])) == 1
    # Other arguments, and other content, are other code.
    other = {**right, "ref": {**ref, "args": {"sign": str(tmp_path / "elsewhere")}}}
    with pytest.raises(DataError, match="have not run"):
        sample_inputs(run(tmp_path, 3, [0], [0], data=other), [0])
    loader.write_text(loader.read_text() + "\n")
    with pytest.raises(DataError, match="have not run"):
        sample_inputs(own, [3])


def test_what_is_no_picture_is_said(tmp_path: Path) -> None:
    file = tmp_path / "d.npz"
    np.savez(file, x_calib=np.ones((4, 6)), x_eval=np.ones((4, 6)), y_eval=np.zeros(4, int))
    from vqkit.sweeps.source import load_data

    ref = {"npz": str(file)}
    folder = run(tmp_path, 1, [0], [0], data={"ref": ref, "digest": load_data(ref).digest})
    with pytest.raises(DataError, match="no pictures"):
        sample_images(folder, [0])


MAE = {"name": "mae", "better": "lower", "unit": "plain"}


def judged(root: Path, seed: int, errors: list[float], **arrays: Any) -> Path:
    """A run that kept of each sample what it adds to its mean absolute error."""
    folder = make.add(root, make.record(seed=seed, judged=[MAE], **arrays.pop("said", {})))
    np.savez(folder / "samples.npz", samples=np.array(errors)[:, None], **arrays)
    return folder


def test_the_worst_samples_by_a_metric_that_should_be_low(tmp_path: Path) -> None:
    outputs, labels = np.array([[1.0], [5.0], [2.0]]), np.array([[0.5], [1.0], [2.0]])
    folder = judged(tmp_path, 1, [0.5, 4.0, 0.0], outputs=outputs, labels=labels)
    found = worst_samples(folder, 2)
    assert found.to_dict("list") == {"sample": [1, 0], "value": [4.0, 0.5], "label": ["1", "0.5"], "output": ["5", "1"]}
    html = worst_html(folder, plots.LIGHT)
    assert "By mae (lower is better) these 3 samples are worst" in html
    assert "Output minus label against the label" in html


def test_the_worst_of_a_classifier_are_its_wrong_answers(tmp_path: Path) -> None:
    folder = run(tmp_path, 1, [0, 2, 2, 1, 2], [0, 1, 2, 1, 0])
    assert worst_samples(folder)["sample"].tolist() == [1, 4]
    table = class_table(folder)
    assert table["label"].tolist() == [0, 1, 2]
    assert table["right"].tolist() == [0.5, 0.5, 1.0]
    assert table["taken_for"].tolist()[:2] == [2, 2]
    html = worst_html(folder, plots.LIGHT)
    assert "2 of 5 samples are answered wrongly" in html
    assert "most often taken for" in html
    assert "Which class is taken for which" in html


def test_what_got_worst_between_two_runs_comes_first(tmp_path: Path) -> None:
    a, b = judged(tmp_path, 1, [0.5, 1.0, 0.0]), judged(tmp_path, 2, [0.25, 3.0, 0.5])
    found = moved_samples(a, b)
    assert found["sample"].tolist() == [1, 2, 0]
    assert found["gain"].tolist() == [-2.0, -0.5, 0.25]
    assert "B is worse on 2 of 3 samples and better on 1" in differing_html(a, b, plots.LIGHT)
    with pytest.raises(RecordError, match="different samples"):
        moved_samples(a, judged(tmp_path, 3, [0.0]))
    with pytest.raises(RecordError, match="judged by mae, the other by accuracy"):
        moved_samples(a, run(tmp_path, 4, [0], [0]))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_the_table_of_classes_counts_every_sample_once(pairs: list[tuple[int, int]]) -> None:
    with TemporaryDirectory() as folder:
        found = run(Path(folder), 1, [p for p, _ in pairs], [y for _, y in pairs])
        table = class_table(found)
    assert table["samples"].sum() == len(pairs)
    assert np.isclose((table["samples"] * table["right"]).sum(), sum(p == y for p, y in pairs))


def test_positions_are_those_among_the_samples_that_counted(tmp_path: Path) -> None:
    """A run on some of the evaluation samples numbers these, not all of them."""
    data = quickstart_data()
    said = {"ref": "digits", "digest": data.digest, "n_calib": data.n_calib, "n_eval": data.n_eval}
    folder = run(tmp_path, 1, [0], [0], data=said, eval_images=50)
    chosen = np.sort(np.random.default_rng(50).permutation(data.n_eval)[:50])
    np.testing.assert_array_equal(sample_inputs(folder, [0, 49]), data.x_eval[chosen[[0, 49]]])


def test_samples_that_are_no_pictures_are_listed(tmp_path: Path) -> None:
    file = tmp_path / "d.npz"
    np.savez(file, x_calib=np.ones((4, 6, 6, 6, 2)), x_eval=np.ones((3, 6, 6, 6, 2)), y_eval=np.zeros((3, 1)))
    from vqkit.sweeps.source import load_data

    ref = {"npz": str(file)}
    said = {"data": {"ref": ref, "digest": load_data(ref).digest}}
    html = worst_html(judged(tmp_path, 1, [0.5, 4.0, 0.0], said=said), plots.LIGHT)
    assert "neither pictures nor series" in html
    assert "<td style='text-align:left'>4</td>" in html
