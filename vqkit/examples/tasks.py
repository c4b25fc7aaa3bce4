"""The examples by name: data, net, how it is trained, and the sweep that goes with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import DataError, not_allowed
from vqkit.examples import data, nets
from vqkit.examples.data import Samples
from vqkit.files import whole, write_bytes, write_npz, writing

if TYPE_CHECKING:
    import keras

BATCH, N_CALIB = 50, 200
MODEL, DATA, SWEEP = "model.keras", "data.npz", "sweep.yaml"


@dataclass(frozen=True)
class Example:
    """A task with a model that is trained in seconds to a minute.

    Attributes:
        title: what the model is for, in a line.
        samples: number and seed -> samples; even seeds to learn from, odd ones to be judged by.
        net: makes the model.
        loss: as `compile` takes it.
        n: how many samples to learn from and to be judged by.
        epochs: passes over the first.
        metrics: of the sweep; None for the task's own.
        files: further files of this package that are copied beside the sweep.
        extra_layers: whether it has layers that version 2.5 does not know.
    """

    title: str
    samples: Callable[[int, int], Samples]
    net: Callable[[], keras.Model]
    loss: Any
    n: tuple[int, int] = (1500, 600)
    epochs: int = 20
    metrics: tuple[Any, ...] | None = None
    files: tuple[str, ...] = ()
    extra_layers: bool = False

    def trained(self) -> keras.Model:
        """The model after training; the caller's random state is untouched."""
        import keras

        known, net = self.samples(self.n[0], 0), self.net()
        # Trained through a second model on the same layers: the one that is saved carries no optimizer.
        trainer = keras.Model(net.inputs, net.output)
        steps = self.epochs * -(-len(known.x) // BATCH)
        trainer.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)), self.loss)
        random = np.random.default_rng(0)
        for _ in range(self.epochs):
            order = random.permutation(len(known.x))
            x, y = keras.tree.map_structure(lambda a, order=order: a[order], (known.x, known.y))
            trainer.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
        return net

    def sweep(self, name: str) -> str:
        """The sweep file that goes with it, as text.

        Args:
            name: of the sweep.
        """
        metrics = "" if self.metrics is None else f"metrics: {json.dumps(list(self.metrics))}\n"
        return (
            f"# {self.title[0].upper()}{self.title[1:]}.\n"
            f"name: {name}\nmodel: {MODEL}\ndata: {{npz: {DATA}}}\n{metrics}"
            "axes:\n  strategy: [fsx, pof2s]\n  weight_bit: [8, 4]\n  weight_per_channel: [true]\n"
            + "  extra_layers: [true]\n"
            * self.extra_layers
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Calibration samples of those that were learnt from, and samples to be judged by, as a sweep reads them."""
        judged = self.samples(self.n[1], 1)
        labels = judged.labels if isinstance(judged.labels, dict) else {"": judged.labels}
        named = {f"y_eval.{name}".rstrip("."): values for name, values in labels.items()}
        return {"x_calib": self.samples(self.n[0], 0).x[:N_CALIB], "x_eval": judged.x, **named}


MAP = {"name": "map", "function": "detection.py:mean_average_precision", "better": "higher", "unit": "percent"}
TASKS: Mapping[str, Example] = {
    "segmentation": Example(
        "which shape each pixel belongs to (U-Net)", data.segmentation, nets.segmentation, nets.from_logits
    ),
    "detection": Example(
        "where shapes are, and which (single shot, mean average precision)",
        data.detection,
        nets.detection,
        nets.detection_loss,
        (3000, 400),
        20,
        (MAP,),
        ("detection.py",),
    ),
    "regression": Example("a number from ten others", data.regression, nets.regression, "mse", (4000, 1000), 60),
    "anomaly": Example(
        "spectra of a machine that are not as usual (autoencoder)",
        data.anomaly,
        nets.anomaly,
        "mse",
        (4000, 1000),
        60,
        ("anomaly_auc", "anomaly_pauc"),
    ),
    "forecast": Example(
        "the next eight steps of a load (convolutions over time)",
        data.forecast,
        nets.forecast,
        "mse",
        (3000, 600),
        40,
        extra_layers=True,
    ),
    "sequences": Example(
        "digits read row by row (transformer)",
        data.sequences,
        nets.sequences,
        nets.from_logits,
        (1200, 597),
        60,
        extra_layers=True,
    ),
    "binary": Example(
        "benign or malignant (one sigmoid)", data.binary, nets.binary, "binary_crossentropy", (380, 189), 40
    ),
    "multi_label": Example(
        "which shapes are in a picture (any number of labels)",
        data.multi_label,
        nets.multi_label,
        "binary_crossentropy",
    ),
    "two_answers": Example(
        "which digit, and how much ink (two outputs)",
        data.two_answers,
        nets.two_answers,
        {"digit": "sparse_categorical_crossentropy", "ink": "mse"},
        (1200, 597),
        30,
    ),
}


def example(name: str, folder: str | Path | None = None) -> Path:
    """Write an example as a user would have it: a model, its data, a sweep, and further files.

    Training takes seconds to a minute, and is not done again where the model is there.

    Args:
        name: of `TASKS`.
        folder: where to; its name by default. Files that are there are left as they are.

    Returns:
        Path of the sweep file.

    Raises:
        DataError: no such example.

    Example:
        >>> import vqkit
        >>> sweep = vqkit.example("regression")
        >>> sorted(p.name for p in sweep.parent.iterdir())
        ['data.npz', 'model.keras', 'sweep.yaml']
    """
    if name not in TASKS:
        raise DataError(not_allowed("example", name, list(TASKS)))
    task, target = TASKS[name], Path(folder or name)
    target.mkdir(parents=True, exist_ok=True)
    if not (target / MODEL).exists():
        model = task.trained()
        with writing(target / MODEL), whole(target / MODEL) as part:
            model.save(part)
    if not (target / DATA).exists():
        write_npz(target / DATA, task.arrays(), compressed=True)
    for file in task.files:
        if not (target / file).exists():
            write_bytes(target / file, (Path(__file__).parent / file).read_bytes())
    if not (target / SWEEP).exists():
        write_bytes(target / SWEEP, task.sweep(name).encode())
    return target / SWEEP
