"""Samples that flipped between two runs, and their pictures from the data the runs used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support import records as make
from vqkit.comparison.runset import flipped_samples, sample_images
from vqkit.errors import DataError, RecordError
from vqkit.sweeps.quickstart import quickstart_data


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


def test_what_is_no_picture_is_said(tmp_path: Path) -> None:
    file = tmp_path / "d.npz"
    np.savez(file, x_calib=np.ones((4, 6)), x_eval=np.ones((4, 6)), y_eval=np.zeros(4, int))
    from vqkit.sweeps.source import load_data

    ref = {"npz": str(file)}
    folder = run(tmp_path, 1, [0], [0], data={"ref": ref, "digest": load_data(ref).digest})
    with pytest.raises(DataError, match="no pictures"):
        sample_images(folder, [0])
