"""The section `qat` of a sweep: a variant is trained with its quantization in place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vqkit.runs.mlflow_tags import THRESHOLDS

if TYPE_CHECKING:
    import keras

    from vqkit.bench import Bench
    from vqkit.quantization.data import Data
    from vqkit.quantization.quantized import Quantized
    from vqkit.strategy import Strategy
    from vqkit.sweeps.variant import Settings


class QatSpec(BaseModel):
    """How a variant is trained, on the calibration samples, against the float model's outputs.

    Attributes:
        epochs: so many passes over the calibration samples.
        learning_rate: of the weights; it falls to zero along a cosine.
        threshold_factor: what it is multiplied by for thresholds and range factors.
        batch_size: samples in a training batch.
        loss: "distillation", the divergence of class probabilities, or "mse" of the outputs.
        temperature: of the distillation.
        log_every: steps between two records of the thresholds.
        relative: `learning_rate` is a share of each variable's own size, see `QATAdam`.
        features: layers whose values the float model teaches as well, see `with_features`.
        shifts: pixels by which training images are moved at most.
        flips: mirror half of the training images.
        warmup: epochs over which the rate rises from zero first; fewer than `epochs`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    epochs: int = Field(default=10, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0, allow_inf_nan=False)
    threshold_factor: float = Field(default=100.0, ge=0, allow_inf_nan=False)
    batch_size: int = Field(default=32, ge=1)
    loss: Literal["distillation", "mse"] = "distillation"
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    log_every: int = Field(default=10, ge=1)
    relative: bool = False
    features: list[str] = Field(default_factory=list)
    shifts: int = Field(default=0, ge=0)
    flips: bool = False
    warmup: int = Field(default=0, ge=0)


def make_quantized(bench: Bench, strategy: Strategy, settings: Settings, run_dir: str | Path = ".") -> Quantized:
    """The quantized model of a variant: calibrated on the bench, and trained where its settings say so.

    Args:
        bench: from `workbench`.
        strategy: what to quantize with.
        settings: of the variant.
        run_dir: where the history of trained thresholds goes.

    Returns:
        A `Quantized`.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
        >>> bench = vqkit.Bench(model, vqkit.Data("normal", x, x, np.arange(16) % 3))
        >>> vqkit.make_quantized(bench, "pof2s", vqkit.Settings()).strategy.name
        'pof2s'
    """
    if settings.qat is None:
        return bench.quantize(strategy, **settings.for_quantize)
    return quantized_by(settings, bench.model, strategy, bench.data, Path(run_dir, THRESHOLDS))


def quantized_by(
    settings: Settings, model: keras.Model, strategy: Strategy, data: Data, log_file: Path | None = None
) -> Quantized:
    """The same without a bench.

    Args:
        settings: of the variant.
        model: the float Keras model.
        strategy: what to quantize with.
        data: gives the calibration samples, which are also what is trained on.
        log_file: where the history of trained thresholds goes.

    Returns:
        A `Quantized`.
    """
    from vqkit.quantization.ptq import quantize

    options = {**settings.for_quantize, "calib_labels": calib_labels(data, settings)}
    if settings.qat is None:
        return quantize(model, strategy, data.x_calib, **options)
    return _trained(settings, options, model, strategy, data.x_calib, log_file)


def calib_labels(data: Data, settings: Settings) -> Any:
    """Labels of the samples that a variant calibrates on; None where the data have none."""
    options = settings.for_quantize
    end = None if options.get("steps") is None else options["steps"] * options["batch_size"]
    return None if data.y_calib is None else data.y_calib[:end]


def _trained(
    settings: Settings,
    options: Mapping[str, Any],
    model: keras.Model,
    strategy: Strategy,
    x_calib: Any,
    log_file: Path | None,
) -> Quantized:

    from vqkit import qat

    spec = QatSpec(**(settings.qat or {}))
    trained = qat.qat_model(model, strategy, x_calib, **options)
    teacher, student = (qat.with_features(m, spec.features) if spec.features else m for m in (model, trained))
    augment = qat.flips_and_shifts(spec.shifts, flip=spec.flips) if spec.shifts or spec.flips else None
    data = qat.DistillationData(teacher, x_calib, batch_size=spec.batch_size, seed=settings.seed, augment=augment)
    schedule = qat.warm_cosine(spec.learning_rate, spec.epochs * len(data), spec.warmup * len(data))
    divergence = qat.Distillation(from_logits=not qat.ends_in_softmax(model), temperature=spec.temperature)
    loss = [
        divergence if spec.loss == "distillation" else "mse",
        *(qat.RelativeError() for _ in spec.features),
    ]
    optimizer = qat.QATAdam(schedule, spec.threshold_factor, relative=spec.relative)
    student.compile(optimizer, loss if spec.features else loss[0])
    log = qat.ThresholdLog(spec.log_every, trained)
    student.fit(data, epochs=spec.epochs, shuffle=False, verbose=0, callbacks=[log])
    if log_file is not None:
        log.to_csv(log_file)
    return qat.deploy_model(trained)
